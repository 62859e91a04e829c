//! A proxy on loopback that stops at a point of an HTTP exchange: before the request has reached
//! the server, after the server has answered, or instead of answering. It keeps what passed.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Everything passes.
    Nowhere,
    /// The server never sees the request.
    BeforeTheServer,
    /// The server has answered and the client does not hear it.
    AfterTheServer,
    /// The same, and the connection is closed.
    Cut,
}

#[derive(Debug)]
pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    point: watch::Sender<Point>,
    /// Exchanges that stopped there.
    stopped: watch::Sender<usize>,
    passed: Mutex<Vec<Passed>>,
}

/// One exchange that the server has answered.
#[derive(Debug, Clone)]
pub struct Passed {
    pub request: String,
    pub response: String,
}

impl Proxy {
    /// `upstream`: an `http://` URL without a path.
    pub async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            point: watch::Sender::new(Point::Nowhere),
            stopped: watch::Sender::new(0),
            passed: Mutex::default(),
        });
        let accepting = shared.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(accepting.clone(), stream));
            }
        });
        Self {
            url,
            shared,
            server,
        }
    }

    /// Exchanges that stopped somewhere go on as soon as that is not the point any more.
    pub fn stop_at(&self, point: Point) {
        self.shared.point.send_replace(point);
    }

    /// Waits until this many exchanges have stopped, ever.
    pub async fn until_stopped(&self, count: usize) {
        let mut stopped = self.shared.stopped.subscribe();
        let waited = stopped.wait_for(|now| *now >= count);
        tokio::time::timeout(Duration::from_secs(60), waited)
            .await
            .expect("nothing has come to the point where the proxy stops")
            .unwrap();
    }

    /// What the server has answered, whether it was heard or not.
    pub fn passed(&self) -> Vec<Passed> {
        self.shared.passed.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    /// Waits here for as long as this is the point.
    async fn stop(&self, here: Point) {
        let mut point = self.point.subscribe();
        if *point.borrow() != here {
            return;
        }
        self.stopped.send_modify(|count| *count += 1);
        point.wait_for(|now| *now != here).await.unwrap();
    }
}

async fn serve(shared: Arc<Shared>, mut client: TcpStream) {
    while let Some(request) = message(&mut client).await {
        shared.stop(Point::BeforeTheServer).await;
        let Ok(mut server) = TcpStream::connect(&shared.upstream).await else {
            return;
        };
        if server.write_all(&request).await.is_err() {
            return;
        }
        let Some(response) = message(&mut server).await else {
            return;
        };
        shared.passed.lock().unwrap().push(Passed {
            request: String::from_utf8_lossy(&request).into_owned(),
            response: String::from_utf8_lossy(&response).into_owned(),
        });
        shared.stop(Point::AfterTheServer).await;
        if *shared.point.borrow() == Point::Cut {
            shared.stopped.send_modify(|count| *count += 1);
            return;
        }
        if client.write_all(&response).await.is_err() {
            return;
        }
    }
}

/// One whole message: its head, and as much body as the head says.
async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |length| length.trim().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(bytes);
            }
        }
        let mut more = [0; 16 * 1024];
        match stream.read(&mut more).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&more[..read]),
            _ => return None,
        }
    }
}
