//! Listening: TCP or TLS, HTTP/1.1 and HTTP/2, and an end that lets requests finish.
//!
//! In: where, a router, when to stop. Bounded on every side: connections, header bytes and count,
//! streams, the time for a handshake, for a first request and between requests. The time of a
//! request itself is the gate's.

use super::certificate::FromHandshake;
use super::peer::ConnectedFrom;
use super::tls::{TlsError, TlsFiles, TlsReload};
use crate::identity::ClientCertificate;
use crate::telemetry;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

const MAX_HEADERS: usize = 64;
/// A bearer token with many groups fits.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
const MAX_STREAMS: u32 = 128;

#[derive(Debug, Clone)]
pub struct ListenSettings {
    pub address: SocketAddr,
    pub tls: Option<TlsFiles>,
    pub max_connections: usize,
    /// For the TLS handshake, and for the head of each request.
    pub header_timeout: Duration,
    /// Without a request under way.
    pub idle_timeout: Duration,
    /// How long requests under way may still take once it stops.
    pub drain: Duration,
}

impl ListenSettings {
    pub fn on(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            max_connections: 4096,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain: Duration::from_secs(20),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}: {cause}")]
    Bind {
        address: SocketAddr,
        cause: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A listener that has its address and its certificate, and does not answer yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsReload>,
    settings: ListenSettings,
}

/// Listens until `shutdown` completes, then drains.
pub async fn serve(
    settings: ListenSettings,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ListenError> {
    Bound::bind(settings).await?.serve(router, shutdown).await;
    Ok(())
}

impl Bound {
    pub async fn bind(settings: ListenSettings) -> Result<Self, ListenError> {
        let address = settings.address;
        let tls = match &settings.tls {
            Some(files) => Some(TlsReload::open(files.clone()).await?),
            None => None,
        };
        let bind_error = |cause| ListenError::Bind { address, cause };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self {
            listener,
            address,
            tls,
            settings,
        })
    }

    /// With the port that was given for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// To swap the certificate while it serves.
    pub fn tls_reload(&self) -> Option<TlsReload> {
        self.tls.clone()
    }

    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = watch::channel(false);
        let room = Arc::new(Semaphore::new(self.settings.max_connections));
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &room) => accepted,
            };
            let Some((stream, from, permit)) = accepted else {
                continue;
            };
            let connection = Connection {
                from,
                tls: self.tls.clone(),
                router: router.clone(),
                stopping: stopping.clone(),
                header_timeout: self.settings.header_timeout,
                idle_timeout: self.settings.idle_timeout,
            };
            connections.spawn(async move {
                telemetry::connections(1.0);
                connection.run(stream).await;
                telemetry::connections(-1.0);
                drop(permit);
            });
        }
        drop(self.listener);
        let _ = stop.send(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.settings.drain, drained)
            .await
            .is_err()
        {
            tracing::warn!(
                left = connections.len(),
                "requests cut off at the end of the drain"
            );
            connections.shutdown().await;
        }
    }
}

/// Waits for room before it accepts: beyond it, the kernel's queue pushes back.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, from, permit))
        }
        Err(error) => {
            // Out of file descriptors, most likely: trying at once would only spin.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

struct Connection {
    from: SocketAddr,
    tls: Option<TlsReload>,
    router: Router,
    stopping: watch::Receiver<bool>,
    header_timeout: Duration,
    idle_timeout: Duration,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let Some(tls) = self.tls.as_ref().map(TlsReload::current) else {
            return self.answer(stream, FromHandshake::default()).await;
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        match tokio::time::timeout(self.header_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let shown = FromHandshake(certificate(stream.get_ref().1));
                self.answer(stream, shown).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn answer(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        shown: FromHandshake,
    ) {
        let activity = Arc::new(Activity::new());
        let service = {
            let (router, activity, from) = (self.router, activity.clone(), self.from);
            let line = Line {
                activity: activity.clone(),
                stopping: self.stopping.clone(),
            };
            service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectedFrom(from));
                request.extensions_mut().insert(line.clone());
                request.extensions_mut().insert(shown.clone());
                let under_way = activity.begin();
                let answer = router.clone().oneshot(request.map(Body::new));
                async move {
                    let answer = answer.await;
                    drop(under_way);
                    answer
                }
            })
        };
        let builder = builder(self.header_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut stopping = false;
        loop {
            let check = activity.next_check(self.header_timeout, self.idle_timeout);
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    return;
                }
                _ = self.stopping.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(check) => {
                    if activity.is_over(self.header_timeout, self.idle_timeout) {
                        tracing::debug!("an idle connection is closed");
                        return;
                    }
                }
            }
        }
    }
}

/// What the client showed and holds the key of.
fn certificate(connection: &rustls::ServerConnection) -> Option<ClientCertificate> {
    let chain = connection.peer_certificates()?;
    ClientCertificate::new(chain.iter().map(|der| der.to_vec()).collect())
}

fn builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// When a connection was last of use. A peer that connects and sends nothing, or half a preface,
/// is closed like one whose header never ends.
#[derive(Debug)]
struct Activity {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    under_way: usize,
    any_request: bool,
    last: Instant,
}

#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

/// The connection that a request came on, for an answer that goes on after its head.
#[derive(Debug, Clone)]
pub(super) struct Line {
    activity: Arc<Activity>,
    stopping: watch::Receiver<bool>,
}

impl Line {
    /// The connection is of use for as long as this is held.
    pub fn busy(&self) -> UnderWay {
        self.activity.begin()
    }

    /// Completes when this listener stops.
    pub async fn stopped(mut self) {
        // The sender is dropped when nobody listens any more: that is a stop, too.
        drop(self.stopping.wait_for(|stop| *stop).await);
    }
}

impl Activity {
    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                under_way: 0,
                any_request: false,
                last: Instant::now(),
            }),
        }
    }

    fn begin(self: &Arc<Self>) -> UnderWay {
        self.change(|state| {
            state.under_way += 1;
            state.any_request = true;
        });
        UnderWay(self.clone())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.last = Instant::now();
    }

    fn read(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patience(state: State, first: Duration, idle: Duration) -> Duration {
        if state.any_request { idle } else { first }
    }

    fn next_check(&self, first: Duration, idle: Duration) -> Instant {
        let state = self.read();
        let due = state.last + Self::patience(state, first, idle);
        if state.under_way > 0 {
            // Nothing to decide before the request ends.
            Instant::now() + idle
        } else {
            due
        }
    }

    fn is_over(&self, first: Duration, idle: Duration) -> bool {
        let state = self.read();
        state.under_way == 0 && state.last.elapsed() >= Self::patience(state, first, idle)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.change(|state| state.under_way -= 1);
    }
}

#[cfg(test)]
mod tests;
