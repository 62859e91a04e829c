//! The HTTP client that fetches other people's keys, and where it will not go.
//!
//! An issuer's discovery document names the next address to fetch, so each address is a hostile
//! input: no redirects, no proxy, https, and after resolving only addresses that the settings
//! reach; the connection goes to the very address that was checked (RFC 8725 3.10).

use super::RemoteKeysError;
use crate::secret::Renewed;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

const CONNECT: Duration = Duration::from_secs(2);
/// For everything that one set takes: discovery and keys, names and bodies.
pub(super) const TOTAL: Duration = Duration::from_secs(5);
pub(super) const MAX_BODY: usize = 256 * 1024;

/// How far beyond the public internet keys may be fetched from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// For development: loopback, also over plain http.
    pub loopback: bool,
    /// For issuers inside an organisation: private networks, still over https. Link-local addresses
    /// (a cloud's metadata service) are never reached.
    pub private: bool,
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        match (kind(address), address) {
            (Kind::Public, _) => true,
            (Kind::Private, _) => self.private,
            (Kind::Loopback, _) => self.loopback,
            (Kind::Never, _) => false,
        }
    }
}

/// An answer that is no 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    /// `Retry-After` in seconds (RFC 9110 section 10.2.3; a date is not read).
    pub after: Option<u64>,
    /// Seconds since 1970, where nothing is left until then (`X-RateLimit-Remaining`, `X-RateLimit-Reset`).
    pub at: Option<i64>,
}

impl Refused {
    fn of(response: &reqwest::Response) -> Self {
        let number = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            value.trim().parse::<i64>().ok()
        };
        let nothing_left = number("x-ratelimit-remaining") == Some(0);
        Self {
            status: response.status().as_u16(),
            after: number("retry-after").and_then(|after| u64::try_from(after).ok()),
            at: number("x-ratelimit-reset").filter(|_| nothing_left),
        }
    }
}

/// Cheap to clone. The only client that [`super::RemoteKeys`] takes.
#[derive(Debug, Clone)]
pub struct KeyClient {
    http: reqwest::Client,
    reach: Reach,
    /// Who asks, where a service wants to know.
    bearer: Option<Renewed>,
}

impl KeyClient {
    /// `roots`: PEM certificates trusted beside the system's, for issuers with a CA of their own.
    /// A rustls provider must have been installed.
    pub fn new(reach: Reach, roots: &[Vec<u8>]) -> Result<Self, RemoteKeysError> {
        let certificates = certificates(roots)?;
        Self::build(reach, |builder| builder.tls_certs_merge(certificates))
    }

    /// The same reach, trusting these PEM certificates and none of the system's.
    pub fn trusting_only(&self, roots: &[u8]) -> Result<Self, RemoteKeysError> {
        let certificates = certificates(&[roots])?;
        if certificates.is_empty() {
            return Err(RemoteKeysError::Client("no PEM certificate".to_owned()));
        }
        Self::build(self.reach, |builder| builder.tls_certs_only(certificates))
    }

    /// For one service that the operator named by its address: also on a private network. Where
    /// `ca` is given, nobody else vouches for it.
    pub fn to_service(&self, ca: Option<&[u8]>) -> Result<Self, RemoteKeysError> {
        self.reaching(true, ca)
    }

    /// For one issuer, as far and with whose word as its configuration says.
    pub fn reaching(&self, private: bool, ca: Option<&[u8]>) -> Result<Self, RemoteKeysError> {
        let reach = Reach {
            private: private || self.reach.private,
            ..self.reach
        };
        let further = Self::build(reach, |builder| builder)?;
        match ca {
            Some(pem) => further.trusting_only(pem),
            None => Ok(further),
        }
    }

    /// The same client, which shows this token to whom it asks for keys.
    #[must_use]
    pub fn as_bearer(self, token: Renewed) -> Self {
        Self {
            bearer: Some(token),
            ..self
        }
    }

    fn build(
        reach: Reach,
        trust: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<Self, RemoteKeysError> {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .dns_resolver(Arc::new(Guarded { reach }))
            .user_agent("dayfly");
        let http = trust(builder).build().map_err(client_error)?;
        Ok(Self {
            http,
            reach,
            bearer: None,
        })
    }

    /// Status and body of the answer, whatever it is; the body never longer than 256 KiB.
    pub async fn post(
        &self,
        address: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<(u16, Vec<u8>), RemoteKeysError> {
        let mut request = self.http.post(self.check(address)?).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.map_err(unreachable)?;
        Ok((response.status().as_u16(), bounded(response).await?))
    }

    /// Whether an address is one that this client goes to.
    pub fn check_address(&self, address: &str) -> Result<(), RemoteKeysError> {
        self.check(address).map(drop)
    }

    /// The body of a 200 answer, never longer than 256 KiB.
    pub async fn get(&self, address: &str) -> Result<Vec<u8>, RemoteKeysError> {
        self.ask(address)
            .await?
            .map_err(|refused| RemoteKeysError::Status(refused.status))
    }

    /// The same, with what whoever refuses says of when to ask again.
    pub async fn ask(&self, address: &str) -> Result<Result<Vec<u8>, Refused>, RemoteKeysError> {
        let url = self.check(address)?;
        let mut request = self.http.get(url).header("accept", "application/json");
        if let Some(bearer) = &self.bearer {
            let token = bearer.read().await.map_err(RemoteKeysError::Client)?;
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(unreachable)?;
        if response.status() != reqwest::StatusCode::OK {
            return Ok(Err(Refused::of(&response)));
        }
        bounded(response).await.map(Ok)
    }

    /// What can be said about an address before its name is resolved.
    pub(super) fn check(&self, address: &str) -> Result<Url, RemoteKeysError> {
        let refuse = |why| RemoteKeysError::Address {
            address: address
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect(),
            why,
        };
        let url = Url::parse(address).map_err(|_| refuse("it is no URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it holds a user name or password"));
        }
        // A literal address is not resolved, so the resolver below never sees it.
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(_)) => None,
            None => return Err(refuse("it names no host")),
        };
        if literal.is_some_and(|ip| !self.reach.allows(ip)) {
            return Err(refuse("it is not a public address"));
        }
        let local = literal.is_some_and(|ip| kind(ip) == Kind::Loopback)
            || matches!(url.host(), Some(Host::Domain("localhost")));
        match url.scheme() {
            "https" => Ok(url),
            // `localhost` may only resolve to what the resolver lets through.
            "http" if self.reach.loopback && local => Ok(url),
            _ => Err(refuse("it must be https")),
        }
    }
}

fn client_error(error: reqwest::Error) -> RemoteKeysError {
    RemoteKeysError::Client(error.to_string())
}

fn certificates(pems: &[impl AsRef<[u8]>]) -> Result<Vec<reqwest::Certificate>, RemoteKeysError> {
    let mut certificates = Vec::new();
    for pem in pems {
        let read = reqwest::Certificate::from_pem_bundle(pem.as_ref());
        certificates.extend(read.map_err(client_error)?);
    }
    Ok(certificates)
}

async fn bounded(mut response: reqwest::Response) -> Result<Vec<u8>, RemoteKeysError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(RemoteKeysError::TooLong(MAX_BODY));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable(error: reqwest::Error) -> RemoteKeysError {
    use std::error::Error as _;
    if error.is_timeout() {
        return RemoteKeysError::Slow;
    }
    // The chain holds the reason (refused, certificate, our own resolver); the URL is left out.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    RemoteKeysError::Unreachable(text)
}

#[derive(Debug)]
struct Guarded {
    reach: Reach,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            // SECURITY: what is returned here is what is connected to; there is no second lookup
            // that could answer something else.
            let allowed = reached(found, reach);
            if allowed.is_empty() {
                return Err("the name has no public address".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

pub(super) fn reached(found: impl Iterator<Item = SocketAddr>, reach: Reach) -> Vec<SocketAddr> {
    found.filter(|address| reach.allows(address.ip())).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Public,
    Private,
    Loopback,
    /// Link-local, multicast, reserved, documentation, translation prefixes.
    Never,
}

pub(super) fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(ip) => kind_v4(ip),
        IpAddr::V6(ip) => kind_v6(ip),
    }
}

fn kind_v4(ip: Ipv4Addr) -> Kind {
    match ip.octets() {
        [127, ..] => Kind::Loopback,
        // SECURITY: metadata services that stand among private and public addresses (Alibaba, Azure).
        [100, 100, 100, 200] | [168, 63, 129, 16] => Kind::Never,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Kind::Private,
        [0, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Kind::Never,
        _ => Kind::Public,
    }
}

fn kind_v6(ip: Ipv6Addr) -> Kind {
    if let Some(inner) = ip.to_ipv4_mapped() {
        return kind_v4(inner);
    }
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        // SECURITY: the metadata services of AWS and Google Cloud.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254] => {
            Kind::Never
        }
        [0xfc00..=0xfdff, ..] => Kind::Private,
        // Teredo and other protocol assignments, documentation, 6to4: IPv4 in disguise or nobody.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x2002, ..] | [0x3fff, ..] => {
            Kind::Never
        }
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Never,
    }
}
