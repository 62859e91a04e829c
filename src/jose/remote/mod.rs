//! Other people's keys: an issuer's JWK set or a trust domain's bundle, bounded in every direction.
//!
//! In: a discovery address, the address of a set, or a file that the operator configured. Out: the
//! current [`KeySet`] or [`TrustBundle`], or why it cannot be had. Refetched every few minutes, and for
//! an unknown `kid` now and then, by one task at a time; the last good one is kept through an outage, but not
//! for ever.

mod client;

pub use client::{KeyClient, Reach, Refused};

use super::{KeySet, KeySetError, TrustBundle, TrustBundleError, parse_object};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Mutex;

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RemoteKeysError {
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
    #[error("`{address}` is refused: {why}")]
    Address { address: String, why: &'static str },
    #[error("no connection, or it broke: {0}")]
    Unreachable(String),
    #[error("no whole answer within 5 s")]
    Slow,
    #[error("the answer has status {0}; redirects are not followed")]
    Status(u16),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the discovery document is not a JSON object with text `issuer` and `jwks_uri`")]
    Discovery,
    #[error(
        "the discovery document names another issuer; `url` must be its `issuer`, byte for byte"
    )]
    OtherIssuer,
    #[error("the answer is not usable as a JWK set: {0}")]
    KeySet(#[from] KeySetError),
    #[error("the answer is not usable as a trust bundle: {0}")]
    Bundle(#[from] TrustBundleError),
    #[error("its `spiffe_sequence` is lower than that of the bundle in use")]
    Superseded,
    #[error("the file cannot be read: {0}")]
    File(String),
    #[error("the task that fetches keys was ended")]
    Ended,
}

#[derive(Debug, Clone)]
pub struct RemoteKeysSettings {
    /// A set older than this is fetched again before it is used.
    pub refresh_after: Duration,
    /// The last good set is not used beyond this age, whatever the outage.
    pub max_age: Duration,
    /// After a failure there is at most one fetch in this time. Fetches for an unknown `kid` are at
    /// most one in this time, too, but for [`EXTRA`] that may be made ahead.
    pub retry_after: Duration,
    /// An unknown `kid` leads to no fetch within this time of another.
    pub unknown_after: Duration,
}

impl Default for RemoteKeysSettings {
    fn default() -> Self {
        Self {
            refresh_after: Duration::from_secs(5 * 60),
            max_age: Duration::from_secs(3600),
            retry_after: Duration::from_secs(30),
            unknown_after: Duration::from_secs(5),
        }
    }
}

/// Fetches for an unknown `kid` in a row. A key that was published just after a fetch is known within
/// seconds; whoever invents names makes us ask as often as `retry_after` allows and no more.
const EXTRA: u32 = 3;

/// However often a publisher wants to be asked.
const SHORTEST_REFRESH: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
enum Source {
    /// The issuer; `/.well-known/openid-configuration` below it names the set.
    Discovery(String),
    Jwks(String),
    /// Read again every few seconds: whoever keeps it replaces it without telling us.
    File(PathBuf),
}

/// What is fetched and kept for a while.
pub trait Fetched: std::fmt::Debug + PartialEq + Send + Sync + Sized + 'static {
    fn parse(bytes: &[u8]) -> Result<Self, RemoteKeysError>;

    /// Whether some key of it would be tried for this `kid`.
    fn knows(&self, kid: &str) -> bool;

    /// After which time its publisher wants it to be fetched again.
    fn refresh_hint(&self) -> Option<Duration> {
        None
    }

    /// Whether it was published before `held`, as far as both say.
    fn is_older_than(&self, _held: &Self) -> bool {
        false
    }
}

impl Fetched for KeySet {
    fn parse(bytes: &[u8]) -> Result<Self, RemoteKeysError> {
        Ok(Self::parse(bytes)?)
    }

    fn knows(&self, kid: &str) -> bool {
        self.knows(kid)
    }
}

impl Fetched for TrustBundle {
    fn parse(bytes: &[u8]) -> Result<Self, RemoteKeysError> {
        Ok(Self::parse(bytes)?)
    }

    fn knows(&self, kid: &str) -> bool {
        self.jwt().knows(kid)
    }

    fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint()
    }

    fn is_older_than(&self, held: &Self) -> bool {
        matches!((self.sequence(), held.sequence()), (Some(new), Some(held)) if new < held)
    }
}

/// One issuer's keys.
pub type RemoteKeys = Remote<KeySet>;

/// One trust domain's keys and roots.
pub type RemoteBundle = Remote<TrustBundle>;

#[derive(Debug)]
pub struct Remote<T>(Arc<Inner<T>>);

impl<T> Clone for Remote<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<T> {
    client: KeyClient,
    source: Source,
    settings: RemoteKeysSettings,
    state: ArcSwap<State<T>>,
    /// Single flight: whoever waits here finds the answer of whoever went first.
    fetching: Mutex<()>,
}

#[derive(Debug)]
struct State<T> {
    good: Option<Good<T>>,
    last: Option<Attempt>,
    /// Grows when the set changed, above all when a key was removed.
    generation: u64,
    /// When every fetch for an unknown `kid` is paid off.
    paid_at: Option<OffsetDateTime>,
}

/// Why a set is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Due,
    UnknownKid,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            good: None,
            last: None,
            generation: 0,
            paid_at: None,
        }
    }
}

#[derive(Debug)]
struct Good<T> {
    set: Arc<T>,
    fetched_at: OffsetDateTime,
}

impl<T> Clone for Good<T> {
    fn clone(&self) -> Self {
        Self {
            set: Arc::clone(&self.set),
            fetched_at: self.fetched_at,
        }
    }
}

#[derive(Debug, Clone)]
struct Attempt {
    at: OffsetDateTime,
    error: Option<RemoteKeysError>,
}

impl RemoteKeys {
    /// By OpenID Connect discovery: the document's `issuer` must be `issuer` byte for byte.
    pub fn discovery(client: KeyClient, issuer: impl Into<String>) -> Self {
        Self::new(client, Source::Discovery(issuer.into()))
    }

    /// From a fixed address.
    pub fn jwks(client: KeyClient, address: impl Into<String>) -> Self {
        Self::new(client, Source::Jwks(address.into()))
    }

    /// The current set. With a `kid` that is not in it the set is fetched once more, within limits;
    /// the set may then still not have it.
    pub async fn keys(
        &self,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Arc<KeySet>, RemoteKeysError> {
        self.current(kid, now).await
    }
}

impl RemoteBundle {
    /// From a bundle endpoint, whose certificate `client` checks (`https_web`).
    pub fn endpoint(client: KeyClient, address: impl Into<String>) -> Self {
        Self::new(client, Source::Jwks(address.into()))
    }

    /// From a file that somebody else keeps up to date.
    pub fn file(client: KeyClient, path: PathBuf) -> Self {
        let often = RemoteKeysSettings {
            refresh_after: Duration::from_secs(2),
            retry_after: Duration::from_secs(1),
            ..RemoteKeysSettings::default()
        };
        Self::new(client, Source::File(path)).with_settings(often)
    }
}

impl<T: Fetched> Remote<T> {
    fn new(client: KeyClient, source: Source) -> Self {
        Self(Arc::new(Inner {
            client,
            source,
            settings: RemoteKeysSettings::default(),
            state: ArcSwap::default(),
            fetching: Mutex::default(),
        }))
    }

    /// Before the first use.
    #[must_use]
    pub fn with_settings(self, settings: RemoteKeysSettings) -> Self {
        Self(Arc::new(Inner {
            client: self.0.client.clone(),
            source: self.0.source.clone(),
            settings,
            state: ArcSwap::default(),
            fetching: Mutex::default(),
        }))
    }

    /// Whether the address itself is one that will be fetched, for `dayfly check`.
    pub fn check_address(&self) -> Result<(), RemoteKeysError> {
        let address = match &self.0.source {
            Source::Discovery(issuer) => issuer,
            Source::Jwks(address) => address,
            Source::File(_) => return Ok(()),
        };
        self.0.client.check(address).map(drop)
    }

    /// What holds now. With a `kid` that is not in it, it is fetched once more, within limits.
    pub async fn current(
        &self,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Arc<T>, RemoteKeysError> {
        let inner = &self.0;
        if inner.wants_fetch(&inner.state.load(), kid, now).is_none() {
            return inner.usable(now);
        }
        // A task of its own: a client that hangs up must not stop the fetch that others wait for.
        let (inner, kid) = (Arc::clone(inner), kid.map(str::to_owned));
        tokio::spawn(async move {
            let _one = inner.fetching.lock().await;
            let wanted = inner.wants_fetch(&inner.state.load(), kid.as_deref(), now);
            if let Some(why) = wanted {
                inner.fetch(why, now).await;
            }
            inner.usable(now)
        })
        .await
        .map_err(|_| RemoteKeysError::Ended)?
    }

    /// Changes whenever the set does: what was verified under another generation is verified again.
    pub fn generation(&self) -> u64 {
        self.0.state.load().generation
    }

    /// When the set in use was fetched, and what the last attempt ran into.
    pub fn health(&self) -> (Option<OffsetDateTime>, Option<RemoteKeysError>) {
        let state = self.0.state.load();
        (
            state.good.as_ref().map(|good| good.fetched_at),
            state.last.as_ref().and_then(|last| last.error.clone()),
        )
    }
}

impl<T: Fetched> Inner<T> {
    fn wants_fetch(&self, state: &State<T>, kid: Option<&str>, now: OffsetDateTime) -> Option<Why> {
        let settings = &self.settings;
        let recently = |moment, span| is_within(moment, span, now);
        let tried = |span| {
            state
                .last
                .as_ref()
                .is_some_and(|last| recently(last.at, span))
        };
        let Some(good) = &state.good else {
            // Nobody can get in: try harder.
            return (!tried(settings.retry_after / 6)).then_some(Why::Due);
        };
        let failed = state.last.as_ref().is_some_and(|last| last.error.is_some());
        let pause = if !recently(good.fetched_at, settings.max_age) {
            settings.retry_after / 6
        } else if failed {
            settings.retry_after
        } else {
            settings.unknown_after.min(settings.retry_after)
        };
        if tried(pause) {
            return None;
        }
        if !recently(good.fetched_at, self.refresh_after(&good.set)) {
            return Some(Why::Due);
        }
        let unknown = kid.is_some_and(|kid| !good.set.knows(kid));
        (unknown && self.can_pay(state, now)).then_some(Why::UnknownKid)
    }

    /// SECURITY: a `kid` is anybody's word, signed by nobody: what it costs the publisher is bounded.
    fn can_pay(&self, state: &State<T>, now: OffsetDateTime) -> bool {
        let most = self.settings.retry_after * EXTRA;
        state.paid_at.is_none_or(|paid| {
            // Further ahead than it can be: the clock was set back.
            paid + self.settings.retry_after <= now + most || paid > now + most
        })
    }

    /// A publisher may ask for shorter intervals, down to ten seconds; longer ones would only make
    /// a withdrawn key last.
    fn refresh_after(&self, set: &T) -> Duration {
        let longest = self.settings.refresh_after;
        set.refresh_hint()
            .map_or(longest, |hint| hint.max(SHORTEST_REFRESH).min(longest))
    }

    /// The last good set while it is not too old, else the reason why there is none.
    fn usable(&self, now: OffsetDateTime) -> Result<Arc<T>, RemoteKeysError> {
        let state = self.state.load();
        match &state.good {
            Some(good) if is_within(good.fetched_at, self.settings.max_age, now) => {
                Ok(Arc::clone(&good.set))
            }
            _ => Err(state
                .last
                .as_ref()
                .and_then(|last| last.error.clone())
                .unwrap_or(RemoteKeysError::Ended)),
        }
    }

    /// The caller holds `fetching`.
    async fn fetch(&self, why: Why, now: OffsetDateTime) {
        let answer = tokio::time::timeout(client::TOTAL, self.ask())
            .await
            .unwrap_or(Err(RemoteKeysError::Slow));
        let before = self.state.load();
        let (mut good, mut generation) = (before.good.clone(), before.generation);
        let held = good
            .as_ref()
            .filter(|held| is_within(held.fetched_at, self.settings.max_age, now));
        let answer = answer.and_then(|set| match held {
            Some(held) if set.is_older_than(&held.set) => Err(RemoteKeysError::Superseded),
            _ => Ok(set),
        });
        let error = match answer {
            Ok(set) => {
                if good.as_ref().is_none_or(|good| *good.set != set) {
                    generation += 1;
                }
                good = Some(Good {
                    set: Arc::new(set),
                    fetched_at: now,
                });
                None
            }
            Err(error) => {
                tracing::warn!(source = ?self.source, %error, "an issuer's keys were not fetched");
                Some(error)
            }
        };
        let most = now + self.settings.retry_after * EXTRA;
        let paid_at = match why {
            Why::Due => before.paid_at,
            Why::UnknownKid => {
                let before = before.paid_at.filter(|paid| *paid > now && *paid <= most);
                Some(before.unwrap_or(now) + self.settings.retry_after)
            }
        };
        self.state.store(Arc::new(State {
            good,
            last: Some(Attempt { at: now, error }),
            generation,
            paid_at,
        }));
    }

    async fn ask(&self) -> Result<T, RemoteKeysError> {
        let body = match &self.source {
            Source::Jwks(address) => self.client.get(address).await?,
            Source::File(path) => read(path).await?,
            Source::Discovery(issuer) => {
                let place = format!(
                    "{}/.well-known/openid-configuration",
                    issuer.strip_suffix('/').unwrap_or(issuer)
                );
                let document = parse_object(&self.client.get(&place).await?)
                    .map_err(|_| RemoteKeysError::Discovery)?;
                let text = |name: &str| {
                    document
                        .get(name)
                        .and_then(serde_json::Value::as_str)
                        .ok_or(RemoteKeysError::Discovery)
                };
                // SECURITY: or a shared host could hand out another tenant's keys (RFC 8414 3.3).
                if text("issuer")? != issuer {
                    return Err(RemoteKeysError::OtherIssuer);
                }
                self.client.get(text("jwks_uri")?).await?
            }
        };
        T::parse(&body)
    }
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>, RemoteKeysError> {
    use tokio::io::AsyncReadExt as _;
    let failed = |error: std::io::Error| RemoteKeysError::File(error.to_string());
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    let most = client::MAX_BODY as u64 + 1;
    file.take(most)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    if bytes.len() > client::MAX_BODY {
        return Err(RemoteKeysError::TooLong(client::MAX_BODY));
    }
    Ok(bytes)
}

/// A moment in the future counts as long ago: the clock was set back, so nothing is known.
fn is_within(moment: OffsetDateTime, span: Duration, now: OffsetDateTime) -> bool {
    moment <= now + super::LEEWAY && now - moment < span
}

#[cfg(test)]
mod tests;
