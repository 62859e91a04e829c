//! One issuer's keys, wherever they come from: fixed by the configuration, or fetched from an
//! address that the configuration names. Nothing in a token chooses that address.

use super::Identity;
use super::settings::KeySource;
use crate::jose::{KeyClient, KeySet, RemoteKeys, RemoteKeysError, RemoteKeysSettings};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

#[derive(Debug)]
pub enum IssuerKeys {
    Fixed(Arc<KeySet>),
    Remote(RemoteKeys),
}

impl IssuerKeys {
    /// Fetches nothing yet; refuses an address that would never be fetched.
    pub fn new(
        source: KeySource,
        issuer_url: &str,
        fetcher: &KeyClient,
    ) -> Result<Self, RemoteKeysError> {
        let remote = match source {
            KeySource::Fixed(keys) => return Ok(Self::Fixed(Arc::new(keys))),
            KeySource::Discovery => RemoteKeys::discovery(fetcher.clone(), issuer_url),
            KeySource::JwksUrl(url) => RemoteKeys::jwks(fetcher.clone(), url),
        };
        remote.check_address()?;
        Ok(Self::Remote(remote))
    }

    /// The last good set serves an outage for so long.
    #[must_use]
    pub fn kept_for(self, max_age: Duration) -> Self {
        let settings = RemoteKeysSettings {
            max_age,
            ..RemoteKeysSettings::default()
        };
        match self {
            Self::Remote(remote) => Self::Remote(remote.with_settings(settings)),
            fixed @ Self::Fixed(_) => fixed,
        }
    }

    /// The current set; fetched again, within limits, where it does not know the `kid`.
    pub async fn current(
        &self,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Arc<KeySet>, RemoteKeysError> {
        match self {
            Self::Fixed(keys) => Ok(Arc::clone(keys)),
            Self::Remote(remote) => remote.keys(kid, now).await,
        }
    }
}

impl Identity {
    /// Fetches the keys of each issuer and trust domain once: its name, and why not.
    pub async fn reach(&self, now: OffsetDateTime) -> Vec<(String, Option<RemoteKeysError>)> {
        let mut reached = Vec::new();
        for issuer in self.issuers.values() {
            let (name, keys) = issuer.reach(now).await;
            reached.push((name, keys.err()));
        }
        for domain in self.trust_domains.values() {
            let (name, keys) = domain.reach(now).await;
            reached.push((name, keys.err()));
        }
        reached.sort_by(|one, other| one.0.cmp(&other.0));
        reached
    }
}
