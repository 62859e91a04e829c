//! The public doors: what a request must look like, and what an answer looks like.
//!
//! [`routes::TABLE`] lists every door and who may enter; [`router`] and [`health_router`] are
//! built from it. A door parses and bounds, calls the broker once, and answers; what it means is
//! decided in the corridor. [`serve`] listens. RFC 6749, 7009, 7662, 8414, 8693, 9701.

mod admin;
mod approvals;
mod certificate;
mod configuration;
mod client_auth;
mod discovery;
mod dpop;
mod enrol;
pub mod error;
mod events;
pub(crate) mod form;
mod gate;
mod health;
mod introspect;
pub mod listen;
mod observe;
pub mod openapi;
mod peer;
mod registrations;
mod restrictions;
mod revoke;
pub mod routes;
mod scim;
mod status;
mod tls;
pub(crate) mod token;
mod webhook;

pub use certificate::FromHandshake;
pub use error::{Challenge, Refused};
pub use listen::{Bound, ListenError, ListenSettings, serve};
pub use peer::{ConnectedFrom, Network, NetworkError, Peer, Rate};
pub use tls::{TlsError, TlsFiles, TlsReload};

use crate::broker::Broker;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::telemetry;
use crate::telemetry::Metrics;
use axum::Router;
use axum::body::Bytes;
use axum::middleware;
use routes::{Listener, Route, Who};
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;

/// `[broker]`: how much of whom the doors take.
#[derive(Debug, Clone)]
pub struct DoorSettings {
    /// Proxies whose `X-Forwarded-For` is believed. None by default.
    pub trusted_proxies: Vec<Network>,
    /// Whether they say which certificate a client showed them (RFC 9440).
    pub client_cert_header: bool,
    /// Of one peer, at every door but introspection.
    pub rate: Rate,
    /// Of one peer, at introspection: a gateway asks for each of its own requests.
    pub introspection_rate: Rate,
    /// Exchanges under way at once; operators have as much room of their own, and so has everything
    /// else, so that no flood keeps a revocation out.
    pub concurrency: usize,
    pub request_timeout: Duration,
}

impl Default for DoorSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            client_cert_header: false,
            rate: Rate {
                per_second: at_least_one(200),
                burst: at_least_one(400),
            },
            introspection_rate: Rate {
                per_second: at_least_one(5_000),
                burst: at_least_one(10_000),
            },
            concurrency: 512,
            request_timeout: Duration::from_secs(30),
        }
    }
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// What every door has at hand.
#[derive(Debug, Clone)]
pub(in crate::http) struct Doors {
    broker: Arc<Broker>,
    limits: Arc<Limits>,
    metrics: Option<Metrics>,
    /// Made when it is first asked for.
    openapi: Arc<OnceLock<Bytes>>,
}

#[derive(Debug)]
struct Limits {
    trusted_proxies: Vec<Network>,
    client_cert_header: bool,
    general: peer::Bucket,
    introspection: peer::Bucket,
    exchanges: Semaphore,
    operators: Semaphore,
    others: Semaphore,
    request_timeout: Duration,
}

impl Limits {
    fn new(settings: &DoorSettings) -> Self {
        Self {
            trusted_proxies: settings.trusted_proxies.clone(),
            client_cert_header: settings.client_cert_header,
            general: peer::Bucket::new(settings.rate),
            introspection: peer::Bucket::new(settings.introspection_rate),
            exchanges: Semaphore::new(settings.concurrency),
            operators: Semaphore::new(settings.concurrency),
            others: Semaphore::new(settings.concurrency),
            request_timeout: settings.request_timeout,
        }
    }

    fn bucket(&self, who: Who) -> &peer::Bucket {
        match who {
            Who::ResourceServer => &self.introspection,
            Who::Anyone | Who::Client | Who::Operator(_) | Who::Watcher | Who::Platform => {
                &self.general
            }
        }
    }

    fn room(&self, route: &Route) -> &Semaphore {
        match route.who {
            // SECURITY: whoever takes room there has shown a role before the body is read, so no
            // stranger with slow bodies keeps a revocation out.
            Who::Operator(_) => &self.operators,
            _ if route.path == "/token" => &self.exchanges,
            Who::Anyone | Who::Client | Who::ResourceServer | Who::Watcher | Who::Platform => {
                &self.others
            }
        }
    }
}

/// Work that changes something goes on to its end when the client hangs up or time runs out: half
/// a mint is for a crash to leave behind, not for an impatient client.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done,
        // SECURITY: what a panic says may quote the request.
        Err(_) => {
            telemetry::panicked();
            Err(Refusal::new(Reason::Internal, "the work panicked"))
        }
    }
}

/// The public doors. Where the issuer's URL has a path, they stand under that path, and at the
/// root for a proxy that strips it.
pub fn router(broker: Arc<Broker>, settings: &DoorSettings) -> Router {
    let prefix = discovery::issuer_path(broker.url());
    let doors = Doors {
        broker,
        limits: Arc::new(Limits::new(settings)),
        metrics: None,
        openapi: Arc::default(),
    };
    let table = routes::mount(&doors, Listener::Public);
    let mounted = match prefix {
        None => table,
        Some(path) => table
            .clone()
            .merge(discovery::inserted(&doors, &path))
            .nest(&path, table),
    };
    finish(mounted, doors)
}

/// `/livez`, `/readyz` and `/metrics`, for a listener of their own.
pub fn health_router(broker: Arc<Broker>, metrics: Metrics, settings: &DoorSettings) -> Router {
    let doors = Doors {
        broker,
        limits: Arc::new(Limits::new(settings)),
        metrics: Some(metrics),
        openapi: Arc::default(),
    };
    finish(routes::mount(&doors, Listener::Health), doors)
}

/// What is the same for every answer, those to unknown paths included.
fn finish(router: Router<Doors>, doors: Doors) -> Router {
    router
        .fallback(observe::no_such_path)
        .method_not_allowed_fallback(observe::no_such_method)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn(observe::observe))
        .with_state(doors)
}

#[cfg(test)]
mod tests;
