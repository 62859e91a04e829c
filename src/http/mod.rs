//! The public doors: what a request must look like, and what an answer looks like.
//!
//! A door parses and bounds, calls the broker once, and answers; what it means is decided in the
//! corridor. [`serve`] listens. RFC 6749, 7009, 7662, 8414, 8693, 9701.

mod client_auth;
pub mod error;
mod form;
pub mod listen;
mod peer;
mod tls;

pub use error::{Challenge, Refused};
pub use listen::{Bound, ListenError, ListenSettings, serve};
pub use peer::{ConnectedFrom, Network, NetworkError, Peer, Rate};
pub use tls::{TlsError, TlsFiles, TlsReload};

use std::num::NonZeroU32;
use std::time::Duration;

/// `[broker]`: how much of whom the doors take.
#[derive(Debug, Clone)]
pub struct DoorSettings {
    /// Proxies whose `X-Forwarded-For` is believed. None by default.
    pub trusted_proxies: Vec<Network>,
    /// Of one peer, at every door but introspection.
    pub rate: Rate,
    /// Of one peer, at introspection: a gateway asks for each of its own requests.
    pub introspection_rate: Rate,
    /// Exchanges under way at once; everything else has as much room of its own, so that a flood
    /// of exchanges never keeps a revocation out.
    pub concurrency: usize,
    pub request_timeout: Duration,
}

impl Default for DoorSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
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
