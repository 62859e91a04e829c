//! A real `redis-server` on a free loopback port, with a folder of its own, gone with the value.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl RedisServer {
    /// `None`: there is no `redis-server` here, which was said, and the test is to return. With
    /// `redis` in `DAYFLY_TEST_REQUIRE` that is an error instead.
    pub fn start(arguments: &[&str]) -> io::Result<Option<Self>> {
        let mut server = Self {
            child: None,
            port: free_port()?,
            folder: tempfile::tempdir()?,
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
        };
        match server.run() {
            Ok(()) => Ok(Some(server)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required() => {
                writeln!(io::stderr(), "skipped: no redis-server")?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again in the same folder and on the same port.
    pub fn run(&mut self) -> io::Result<()> {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--enable-debug-command", "yes"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
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

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends one line, as a person with a terminal would, and answers the first of the reply.
    pub fn command(&self, line: &str) -> io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = vec![0; 16384];
        let length = stream.read(&mut answer)?;
        answer.truncate(length);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn required() -> bool {
    std::env::var_os("DAYFLY_TEST_REQUIRE")
        .as_deref()
        .and_then(OsStr::to_str)
        .is_some_and(|list| list.split([',', ' ']).any(|word| word == "redis"))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
