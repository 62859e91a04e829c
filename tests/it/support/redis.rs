//! A real `redis-server` on a free loopback port, with a folder of its own, gone with the value.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "shared by several test crates, none of which uses all of it"
)]

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[path = "watched.rs"]
mod watched;
pub use watched::*;

#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    program: PathBuf,
    arguments: Vec<String>,
}

impl RedisServer {
    /// `None`: there is no `redis-server` here, which was said, and the test is to return. With
    /// `redis` in `DAYFLY_TEST_REQUIRE` that is an error instead.
    pub fn start(arguments: &[&str]) -> io::Result<Option<Self>> {
        Self::start_as(Path::new("redis-server"), arguments)
    }

    /// Another program that speaks the same.
    pub fn start_as(program: &Path, arguments: &[&str]) -> io::Result<Option<Self>> {
        let mut server = Self::new(program, arguments)?;
        match server.run() {
            Ok(()) => Ok(Some(server)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_required("redis") => {
                writeln!(io::stderr(), "skipped: no redis-server")?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn new(program: &Path, arguments: &[&str]) -> io::Result<Self> {
        Ok(Self {
            child: None,
            port: free_port()?,
            folder: tempfile::tempdir()?,
            program: program.to_owned(),
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
        })
    }

    /// A sentinel that watches the primary at this port as `main`; two of them decide.
    pub fn sentinel(primary: u16) -> io::Result<Self> {
        Self::sentinel_with(primary, "")
    }

    /// With more lines in its file.
    pub fn sentinel_with(primary: u16, more: &str) -> io::Result<Self> {
        Self::sentinel_as(Path::new("redis-server"), primary, more)
    }

    fn sentinel_as(program: &Path, primary: u16, more: &str) -> io::Result<Self> {
        let mut server = Self::new(program, &[])?;
        let conf = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n{more}",
            server.port,
            server.folder.path().display(),
        );
        std::fs::write(server.folder.path().join("sentinel.conf"), conf)?;
        server.run()?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As a user of its own.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again in the same folder and on the same port.
    pub fn run(&mut self) -> io::Result<()> {
        let port = self.port.to_string();
        let mut command = Command::new(&self.program);
        let conf = self.folder.path().join("sentinel.conf");
        if conf.exists() {
            command.arg(conf).arg("--sentinel");
        } else {
            command
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
                .args(["--enable-debug-command", "yes"])
                .arg("--dir")
                .arg(self.folder.path())
                .args(&self.arguments);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        for _ in 0..200 {
            if self.command("PING").is_ok_and(|a| a.starts_with("+PONG")) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Err(io::Error::other("redis-server does not answer"))
    }

    pub fn is_primary(&self) -> bool {
        let told = self.command("ROLE").unwrap_or_default();
        told.contains("master")
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it in the middle of whatever it does; its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// A copy of what it has on its disk, taken while it runs.
    pub fn backup(&self) -> io::Result<tempfile::TempDir> {
        let backup = tempfile::tempdir()?;
        copy_folder(self.folder.path(), backup.path())?;
        Ok(backup)
    }

    /// Stops it, and starts it on what was copied and on nothing else.
    pub fn put_back(&mut self, backup: &Path) -> io::Result<()> {
        self.kill();
        self.folder = tempfile::tempdir()?;
        copy_folder(backup, self.folder.path())?;
        self.run()
    }

    /// The same with one file of the copy, as snapshots are kept: without the append-only file, which is
    /// switched on again behind it.
    pub fn put_snapshot_back(&mut self, backup: &Path) -> io::Result<()> {
        let alone = tempfile::tempdir()?;
        std::fs::copy(backup.join("dump.rdb"), alone.path().join("dump.rdb"))?;
        let arguments = self.arguments.clone();
        self.arguments
            .extend(["--appendonly", "no"].map(str::to_owned));
        let run = self.put_back(alone.path());
        self.arguments = arguments;
        run?;
        self.command("CONFIG SET appendonly yes").map(drop)
    }

    /// Waits until so many replicas have everything.
    pub fn until_followed_by(&self, replicas: usize) -> io::Result<()> {
        for _ in 0..400 {
            let told = self.command("INFO replication")?;
            if told.matches("state=online").count() == replicas {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(25));
        }
        Err(io::Error::other("nobody follows"))
    }

    /// Sends one line, as a person with a terminal would, and answers the first of the reply.
    pub fn command(&self, line: &str) -> io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = vec![0; 16384];
        // A read with a timeout is not begun again by itself where a child has ended meanwhile.
        let length = loop {
            match stream.read(&mut answer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        answer.truncate(length);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&to)?;
            copy_folder(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_required(what: &str) -> bool {
    std::env::var_os("DAYFLY_TEST_REQUIRE")
        .as_deref()
        .and_then(OsStr::to_str)
        .is_some_and(|list| list.split([',', ' ']).any(|word| word == what))
}

pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Three primaries with a third of the slots each; more servers know them and have none.
#[derive(Debug)]
pub struct Cluster {
    pub servers: Vec<RedisServer>,
    ports: Vec<u16>,
}

const THIRDS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl Cluster {
    pub async fn start(size: usize) -> Option<Self> {
        Self::start_with(size, |_| Vec::new()).await
    }

    /// Each node with this file.
    pub async fn start_shipped(conf: &Path) -> Option<Self> {
        let conf = conf.to_str().unwrap().to_owned();
        Self::start_with(3, |_| vec!["--include".to_owned(), conf.clone()]).await
    }

    /// With more arguments, made from the port that clients and nodes use in the place of the plain one if there is TLS.
    pub async fn start_with(size: usize, more: impl Fn(u16) -> Vec<String>) -> Option<Self> {
        let mut servers = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..size {
            let (bus, other) = (free_port().unwrap(), free_port().unwrap());
            let more = more(other);
            let bus_port = bus.to_string();
            let arguments = [
                "--appendonly",
                "yes",
                // It is killed and started again: what was acknowledged is there, however busy the disk is.
                "--appendfsync",
                "always",
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus_port,
                "--cluster-node-timeout",
                "1000",
                // Whoever was started anew may be promoted as well.
                "--cluster-replica-validity-factor",
                "0",
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ];
            let arguments: Vec<&str> = arguments
                .into_iter()
                .chain(more.iter().map(String::as_str))
                .collect();
            let server = RedisServer::start(&arguments).unwrap()?;
            let over_tls = more.iter().any(|word| word == "--tls-port");
            let port = if over_tls { other } else { server.port() };
            servers.push(server);
            ports.push((port, bus));
        }
        for (server, (from, to)) in servers.iter().zip(THIRDS) {
            let add = format!("CLUSTER ADDSLOTSRANGE {from} {to}");
            assert_eq!(server.command(&add).unwrap(), "+OK\r\n");
        }
        for (port, bus) in ports.iter().skip(1) {
            let meet = format!("CLUSTER MEET 127.0.0.1 {port} {bus}");
            assert_eq!(servers[0].command(&meet).unwrap(), "+OK\r\n");
        }
        let ports = ports.into_iter().map(|(port, _)| port).collect();
        let cluster = Self { servers, ports };
        cluster
            .until(|told| {
                told.contains("cluster_state:ok")
                    && told.contains("cluster_slots_assigned:16384")
                    && told.contains(&format!("cluster_known_nodes:{size}"))
            })
            .await;
        Some(cluster)
    }

    /// Each of the three is followed by so many.
    pub async fn with_replicas(each: usize) -> Option<Self> {
        let cluster = Self::start(THIRDS.len() * (1 + each)).await?;
        let primaries: Vec<_> = (0..THIRDS.len()).map(|place| cluster.id(place)).collect();
        for (place, server) in cluster.servers.iter().enumerate().skip(THIRDS.len()) {
            let follow = format!("CLUSTER REPLICATE {}", primaries[place % THIRDS.len()]);
            assert_eq!(server.command(&follow).unwrap(), "+OK\r\n");
        }
        for primary in cluster.servers.iter().take(THIRDS.len()) {
            primary.until_followed_by(each).unwrap();
        }
        Some(cluster)
    }

    /// Those that followed this one at first.
    pub fn replicas_of(&self, primary: usize) -> impl Iterator<Item = &RedisServer> {
        let others = self.servers.iter().skip(THIRDS.len() + primary);
        others.step_by(THIRDS.len())
    }

    async fn until(&self, holds: impl Fn(&str) -> bool) {
        let begun = tokio::time::Instant::now();
        for server in &self.servers {
            while !holds(&server.command("CLUSTER INFO").unwrap()) {
                assert!(begun.elapsed() < Duration::from_secs(60), "no cluster");
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    }

    pub fn url(&self) -> String {
        format!("redis+cluster://{}", self.seeds())
    }

    /// Where clients begin to look.
    pub fn seeds(&self) -> String {
        let ports = self.ports.iter().take(3);
        let seeds: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        seeds.join(",")
    }

    /// Which primary a slot belongs to at first.
    pub fn owner(slot: u16) -> usize {
        let found = THIRDS
            .iter()
            .position(|(from, to)| (*from..=*to).contains(&slot));
        found.unwrap()
    }

    /// With a rest half way.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from_id, to_id) = (self.id(from), self.id(to));
        let ok = |server: usize, line: String| {
            assert_eq!(
                self.servers[server].command(&line).unwrap(),
                "+OK\r\n",
                "{line}"
            );
        };
        ok(to, format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
        ok(from, format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
        let client = ::redis::Client::open(self.servers[from].url()).unwrap();
        let mut admin = client.get_multiplexed_async_connection().await.unwrap();
        let mut moved_some = false;
        loop {
            let few = if moved_some { 1000 } else { 3 };
            let list = ::redis::cmd("CLUSTER")
                .arg("GETKEYSINSLOT")
                .arg(slot)
                .arg(few)
                .to_owned();
            let keys: Vec<Vec<u8>> = list.query_async(&mut admin).await.unwrap();
            if keys.is_empty() {
                break;
            }
            let () = ::redis::cmd("MIGRATE")
                .arg("127.0.0.1")
                .arg(self.servers[to].port())
                .arg("")
                .arg(0)
                .arg(5000)
                .arg("KEYS")
                .arg(keys)
                .query_async(&mut admin)
                .await
                .unwrap();
            if !moved_some {
                // Half here, half there, for longer than a commit is tried.
                tokio::time::sleep(Duration::from_millis(900)).await;
                moved_some = true;
            }
        }
        for server in [to, from] {
            ok(server, format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
        }
    }

    pub fn id(&self, server: usize) -> String {
        let told = self.servers[server].command("CLUSTER MYID").unwrap();
        told.lines().nth(1).unwrap().to_owned()
    }
}
