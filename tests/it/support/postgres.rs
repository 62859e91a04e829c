//! A real PostgreSQL server as a child process, on loopback, with TLS: a database `orders` whose
//! tables belong to `shop`, and a role `dayfly` that may make logins and grant what `shop` let it.
//!
//! Not on this machine: tests that need it say so and pass, unless `DAYFLY_TEST_REQUIRE` names it.

use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

pub(super) type Failure = Box<dyn Error + Send + Sync>;

pub const PASSWORD: &str = "a password of the tests";

const SET_UP: [&str; 2] = [
    "CREATE ROLE shop LOGIN PASSWORD 'a password of the tests'; \
     CREATE ROLE dayfly LOGIN CREATEROLE PASSWORD 'a password of the tests'; \
     GRANT pg_signal_backend TO dayfly",
    "CREATE DATABASE orders OWNER shop",
];

const TABLES: &str = "CREATE SCHEMA billing; \
     CREATE TABLE orders (id serial PRIMARY KEY, item text); \
     CREATE TABLE order_lines (id int); \
     CREATE TABLE billing.invoices (id int); \
     CREATE TABLE billing.secrets (id int); \
     INSERT INTO orders (item) VALUES ('a dayfly'); \
     GRANT ALL ON orders, order_lines, billing.invoices TO dayfly WITH GRANT OPTION; \
     GRANT ALL ON SEQUENCE orders_id_seq TO dayfly WITH GRANT OPTION; \
     GRANT USAGE ON SCHEMA billing TO dayfly WITH GRANT OPTION";

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    pub port: u16,
    /// What its certificate is checked against.
    pub ca: PathBuf,
    /// An address on loopback.
    host: String,
    pub(super) child: Child,
    /// Removed after the server has ended.
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// `None`: PostgreSQL is not installed here, and nothing says it must be.
    pub async fn start() -> Option<Self> {
        let required = std::env::var_os("DAYFLY_TEST_REQUIRE")
            .is_some_and(|list| list.to_string_lossy().contains("postgres"));
        let mut failure: Failure = "no initdb was found".into();
        if let Some(programs) = programs() {
            // The port is free when it is chosen; another process may take it before the server.
            for _ in 0..3 {
                match Self::try_start(&programs).await {
                    Ok(server) => return Some(server),
                    Err(error) => failure = error,
                }
            }
        }
        assert!(
            !required,
            "PostgreSQL is required and does not start: {failure}"
        );
        let _ = writeln!(std::io::stderr(), "skipped: no PostgreSQL: {failure}");
        None
    }

    async fn try_start(programs: &Path) -> Result<Self, Failure> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let secret = folder.path().join("password");
        std::fs::write(&secret, PASSWORD)?;
        own(folder.path())?;
        run(as_nobody(&programs.join("initdb"))
            .args([
                "--auth=scram-sha-256",
                "--username=postgres",
                "--no-sync",
                "--pwfile",
            ])
            .arg(&secret)
            .arg("--pgdata")
            .arg(&data))?;
        let ca = certify(&data)?;
        own(folder.path())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Self::over(programs, folder, ("127.0.0.1", port), ca)?;
        let postgres = server.ready().await?;
        for statement in SET_UP {
            postgres.batch_execute(statement).await?;
        }
        server
            .login("shop", PASSWORD)
            .await?
            .batch_execute(TABLES)
            .await?;
        Ok(server)
    }

    /// On the data that lies in the folder.
    pub(super) fn over(
        programs: &Path,
        folder: tempfile::TempDir,
        (host, port): (&str, u16),
        ca: PathBuf,
    ) -> Result<Self, Failure> {
        let child = as_nobody(&programs.join("postgres"))
            .arg("-D")
            .arg(folder.path().join("data"))
            .args(["-p", &port.to_string(), "-c"])
            .arg(format!("listen_addresses={host}"))
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
                "-c",
                "ssl=on",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            port,
            ca,
            host: host.to_owned(),
            child,
            _folder: folder,
        })
    }

    pub(super) async fn ready(&self) -> Result<Client, Failure> {
        let mut failure: Failure = "it was not asked".into();
        for _ in 0..200 {
            match self.connect("postgres", PASSWORD, "postgres").await {
                Ok(client) => return Ok(client),
                Err(error) => failure = error.into(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(failure)
    }

    /// A session in `orders`, until the client is dropped.
    pub async fn login(&self, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
        self.connect(user, password, "orders").await
    }

    pub async fn connect(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host(&self.host)
            .port(self.port)
            .user(user)
            .password(password)
            .dbname(database)
            .connect_timeout(Duration::from_secs(10))
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// One value, asked as the superuser.
    pub async fn ask(&self, query: &str) -> i64 {
        let client = self.login("postgres", PASSWORD).await.unwrap();
        client.query_one(query, &[]).await.unwrap().get(0)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // At once, without waiting for sessions: it ends its own processes. One that hangs hears it once it goes on.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = kill_process(Pid::from_child(&self.child), Signal::CONT);
        let _ = self.child.wait();
    }
}

/// Where `initdb` and `postgres` lie: Debian keeps them off the path.
pub(super) fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    folders.sort();
    folders
        .into_iter()
        .rev()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// PostgreSQL refuses to run as root.
pub(super) fn as_nobody(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(program)
        .current_dir("/");
    command
}

pub(super) fn own(folder: &Path) -> Result<(), Failure> {
    if is_root() {
        run(Command::new("chown")
            .args(["-R", "nobody:nogroup"])
            .arg(folder))?;
    }
    Ok(())
}

pub(super) fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

/// A certificate for `127.0.0.1`, and the path of its authority's.
fn certify(data: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let hosts = ["127.0.0.1", "127.0.0.2"].map(str::to_owned);
    let certificate = rcgen::CertificateParams::new(hosts.to_vec())?.signed_by(&key, &issuer)?;
    std::fs::write(data.join("server.crt"), certificate.pem())?;
    std::fs::write(data.join("server.key"), key.serialize_pem())?;
    std::fs::set_permissions(
        data.join("server.key"),
        std::fs::Permissions::from_mode(0o600),
    )?;
    let ca = data.join("ca.crt");
    std::fs::write(&ca, signed.pem())?;
    Ok(ca)
}
