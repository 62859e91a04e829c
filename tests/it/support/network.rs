//! A network on loopback that can be slow, half open, or lead elsewhere.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared by several test crates, none of which uses all of it; what cannot be had fails the test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A network between us and a server.
#[derive(Debug)]
pub struct Network {
    pub url: String,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    /// The server that it leads to; 0: it hangs up.
    port: AtomicU16,
    /// Connections with a lower number carry nothing any more and stay open.
    dead_below: AtomicUsize,
    accepted: AtomicUsize,
    /// Milliseconds that each piece of an answer takes.
    delay: AtomicU64,
    /// What is asked arrives, and no answer does.
    swallows: AtomicBool,
    /// Connections with a lower number are closed.
    gone_below: watch::Sender<usize>,
}

impl Network {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            port: AtomicU16::new(port),
            dead_below: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            delay: AtomicU64::new(0),
            swallows: AtomicBool::new(false),
            gone_below: watch::Sender::new(0),
        });
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let port = shared.port.load(Ordering::SeqCst);
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(carry(near_in, far_out, shared.clone(), number, false));
                tokio::spawn(carry(far_in, near_out, shared.clone(), number, true));
            }
        });
        Self {
            url,
            state,
            accepting,
        }
    }

    pub fn lead_to(&self, port: u16) {
        self.state.port.store(port, Ordering::SeqCst);
    }

    /// Every connection of now is half open: nobody is told, nothing arrives.
    pub fn cut(&self) {
        let so_far = self.state.accepted.load(Ordering::SeqCst);
        self.state.dead_below.store(so_far, Ordering::SeqCst);
    }

    /// New ones as well, for as long as this is not mended.
    pub fn cut_for_good(&self) {
        self.state.dead_below.store(usize::MAX, Ordering::SeqCst);
    }

    /// New connections live; those of before stay dead.
    pub fn mend(&self) {
        self.cut();
    }

    /// Every connection of now is closed, on both sides.
    pub fn hang_up(&self) {
        self.state.gone_below.send_replace(self.accepted());
    }

    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Of these connections and of new ones, for as long as it is on.
    pub fn swallow_answers(&self, on: bool) {
        self.state.swallows.store(on, Ordering::SeqCst);
    }

    /// So many milliseconds for each piece of an answer.
    pub fn delay(&self, milliseconds: u64) {
        self.state.delay.store(milliseconds, Ordering::SeqCst);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: Arc<State>,
    number: usize,
    answers: bool,
) {
    let is_cut = || number < state.dead_below.load(Ordering::SeqCst);
    let is_swallowed = || answers && state.swallows.load(Ordering::SeqCst);
    let mut bytes = vec![0; 65536];
    let mut gone_below = state.gone_below.subscribe();
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            _ = gone_below.wait_for(|below| number < *below) => return,
        };
        let Ok(length @ 1..) = read else { break };
        if answers {
            let delay = state.delay.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if is_cut() || is_swallowed() {
            continue;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
    // Half open: the end of the one side is not told to the other.
    while is_cut() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
