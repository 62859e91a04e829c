//! Who is at the other end of the wire, and how often it may knock.
//!
//! In: the connection's address, `X-Forwarded-For` from proxies that were named. Out: a [`Peer`],
//! and a token bucket for each before the first signature is checked. Bounded memory: buckets that
//! are full again are forgotten.

use axum::http::HeaderMap;
use governor::clock::Clock as _;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;

/// The address that a request is counted under; `None` only where there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub Option<IpAddr>);

/// The address at the other end of the TCP connection. Set by the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectedFrom(pub SocketAddr);

/// A range of addresses, `10.0.0.0/8` or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a network: write an address, or an address and a prefix as in `10.0.0.0/8`")]
pub struct NetworkError(String);

impl Network {
    /// Whether it has more addresses than a network of such a prefix, one for each family.
    pub fn is_wider_than(&self, v4: u8, v6: u8) -> bool {
        self.prefix
            < if self.first.to_canonical().is_ipv4() {
                v4
            } else {
                v6
            }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, address) = (self.first.to_canonical(), address.to_canonical());
        match (first, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same_prefix(
                u128::from(a.to_bits()),
                u128::from(b.to_bits()),
                32,
                self.prefix,
            ),
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                same_prefix(a.to_bits(), b.to_bits(), 128, self.prefix)
            }
            _ => false,
        }
    }
}

fn same_prefix(a: u128, b: u128, width: u32, prefix: u8) -> bool {
    let host_bits = width.saturating_sub(u32::from(prefix));
    a.checked_shr(host_bits) == b.checked_shr(host_bits)
}

/// One address alone.
impl From<IpAddr> for Network {
    fn from(first: IpAddr) -> Self {
        let prefix = if first.is_ipv4() { 32 } else { 128 };
        Self { first, prefix }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| error())?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) => digits.parse().map_err(|_| error())?,
            None => width,
        };
        if prefix > width {
            return Err(error());
        }
        Ok(Self { first, prefix })
    }
}

impl Peer {
    /// SECURITY: the header is believed only from a named proxy, and only up to the first address
    /// from the right that is not one; what stands left of it is the client's own writing.
    pub fn of(connected: Option<IpAddr>, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
        let Some(mut peer) = connected else {
            return Self(None);
        };
        let forwarded: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for hop in forwarded.into_iter().rev() {
            if !is_trusted(peer) {
                break;
            }
            let Some(address) = address(hop.trim()) else {
                break;
            };
            peer = address;
        }
        Self(Some(peer.to_canonical()))
    }
}

/// Proxies write `203.0.113.7`, `203.0.113.7:4711`, `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// How often one peer may knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// Above this many remembered peers, those with full buckets are forgotten.
const REMEMBERED: usize = 20_000;

/// One token bucket per peer. An IPv6 peer is its /64: that is what one host is given.
pub struct Bucket {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl Bucket {
    pub fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self {
            limiter: RateLimiter::keyed(quota),
        }
    }

    /// `Err`: too often; the seconds after which it may try again.
    pub fn take(&self, peer: Peer) -> Result<(), u32> {
        let Some(address) = peer.0 else {
            return Ok(());
        };
        let taken = self.limiter.check_key(&counted_as(address));
        if self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        taken.map(|_| ()).map_err(|early| {
            let wait = early.wait_time_from(governor::clock::DefaultClock::default().now());
            u32::try_from(wait.as_secs())
                .unwrap_or(u32::MAX)
                .saturating_add(1)
        })
    }
}

fn counted_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let network = six.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

#[cfg(test)]
mod tests;
