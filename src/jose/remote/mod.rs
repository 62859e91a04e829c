//! Other people's keys: an issuer's JWK set over HTTP, bounded in every direction.
//!
//! In: a discovery address or a JWK set address that the operator configured. Out: the current
//! [`KeySet`], or why it cannot be had. Refetched every few minutes, once for an unknown `kid`, by
//! one task at a time; the last good set is kept through an outage, but not for ever.

mod client;

pub use client::{KeyClient, Reach};

use super::{KeySet, KeySetError, parse_object};
use arc_swap::ArcSwap;
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
    #[error("the task that fetches keys was ended")]
    Ended,
}

#[derive(Debug, Clone)]
pub struct RemoteKeysSettings {
    /// A set older than this is fetched again before it is used.
    pub refresh_after: Duration,
    /// The last good set is not used beyond this age, whatever the outage.
    pub max_age: Duration,
    /// An unknown `kid`, or a failure, leads to at most one fetch in this time.
    pub retry_after: Duration,
}

impl Default for RemoteKeysSettings {
    fn default() -> Self {
        Self {
            refresh_after: Duration::from_secs(5 * 60),
            max_age: Duration::from_secs(3600),
            retry_after: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone)]
enum Source {
    /// The issuer; `/.well-known/openid-configuration` below it names the set.
    Discovery(String),
    Jwks(String),
}

/// One issuer's keys.
#[derive(Debug, Clone)]
pub struct RemoteKeys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: KeyClient,
    source: Source,
    settings: RemoteKeysSettings,
    state: ArcSwap<State>,
    /// Single flight: whoever waits here finds the answer of whoever went first.
    fetching: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct State {
    good: Option<Good>,
    last: Option<Attempt>,
    /// Grows when the set changed, above all when a key was removed.
    generation: u64,
}

#[derive(Debug, Clone)]
struct Good {
    set: Arc<KeySet>,
    fetched_at: OffsetDateTime,
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
        };
        self.0.client.check(address).map(drop)
    }

    /// The current set. With a `kid` that is not in it the set is fetched once more, within limits;
    /// the set may then still not have it.
    pub async fn keys(
        &self,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Arc<KeySet>, RemoteKeysError> {
        let inner = &self.0;
        if !inner.wants_fetch(&inner.state.load(), kid, now) {
            return inner.usable(now);
        }
        // A task of its own: a client that hangs up must not stop the fetch that others wait for.
        let (inner, kid) = (Arc::clone(inner), kid.map(str::to_owned));
        tokio::spawn(async move {
            let _one = inner.fetching.lock().await;
            if inner.wants_fetch(&inner.state.load(), kid.as_deref(), now) {
                inner.fetch(now).await;
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

impl Inner {
    fn wants_fetch(&self, state: &State, kid: Option<&str>, now: OffsetDateTime) -> bool {
        let settings = &self.settings;
        let recently = |moment, span| is_within(moment, span, now);
        let usable = |good: &Good| recently(good.fetched_at, settings.max_age);
        let pause = if state.good.as_ref().is_some_and(usable) {
            settings.retry_after
        } else {
            // Nobody can get in: try harder.
            settings.retry_after / 6
        };
        if state
            .last
            .as_ref()
            .is_some_and(|last| recently(last.at, pause))
        {
            return false;
        }
        match &state.good {
            None => true,
            Some(good) => {
                !recently(good.fetched_at, settings.refresh_after)
                    || kid.is_some_and(|kid| !good.set.knows(kid))
            }
        }
    }

    /// The last good set while it is not too old, else the reason why there is none.
    fn usable(&self, now: OffsetDateTime) -> Result<Arc<KeySet>, RemoteKeysError> {
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
    async fn fetch(&self, now: OffsetDateTime) {
        let answer = tokio::time::timeout(client::TOTAL, self.ask())
            .await
            .unwrap_or(Err(RemoteKeysError::Slow));
        let mut state = State::clone(&self.state.load());
        let error = match answer {
            Ok(set) => {
                if state.good.as_ref().is_none_or(|good| *good.set != set) {
                    state.generation += 1;
                }
                state.good = Some(Good {
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
        state.last = Some(Attempt { at: now, error });
        self.state.store(Arc::new(state));
    }

    async fn ask(&self) -> Result<KeySet, RemoteKeysError> {
        let body = match &self.source {
            Source::Jwks(address) => self.client.get(address).await?,
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
        Ok(KeySet::parse(&body)?)
    }
}

/// A moment in the future counts as long ago: the clock was set back, so nothing is known.
fn is_within(moment: OffsetDateTime, span: Duration, now: OffsetDateTime) -> bool {
    moment <= now + super::LEEWAY && now - moment < span
}

#[cfg(test)]
mod tests;
