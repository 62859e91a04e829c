//! Our signing keys: one algorithm each, separate ones for every purpose, kept in the store.
//!
//! In: the store and the sealing keys. Out: signed tokens and the JWK sets that verify them. Every
//! change is one commit guarded by the manifest's version, so of two replicas that rotate at once
//! one wins. What cannot be opened is an error: a key is never silently made anew.

mod change;
mod manifest;

pub use manifest::KeyState;

use super::{Algorithm, KeySet, SigningError, SigningKey, VerifyingKey};
use crate::secret::{SealError, Sealer, Secret};
use crate::store::{CommitId, Store, StoreError};
use arc_swap::ArcSwap;
use manifest::{Entry, Manifest, manifest_key, owner, private_key};
use serde::Serialize;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// What a key may sign. A key never serves two purposes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    AccessToken,
    /// Tokens that one cloud target exchanges, under an issuer of their own.
    Federation(String),
    Checkpoint,
    Introspection,
    StatusList,
}

impl Purpose {
    /// Made at birth; federation keys are made when [`Keyring::ensure`] first asks for them.
    const AT_BIRTH: [Self; 4] = [
        Self::AccessToken,
        Self::Checkpoint,
        Self::Introspection,
        Self::StatusList,
    ];
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccessToken => f.write_str("access_token"),
            Self::Federation(target) => write!(f, "federation/{target}"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Introspection => f.write_str("introspection"),
            Self::StatusList => f.write_str("status_list"),
        }
    }
}

#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error(
    "a purpose is `access_token`, `checkpoint`, `introspection`, `status_list` or `federation/TARGET`"
)]
pub struct UnknownPurpose;

impl FromStr for Purpose {
    type Err = UnknownPurpose;
    fn from_str(text: &str) -> Result<Self, UnknownPurpose> {
        match text {
            "access_token" => Ok(Self::AccessToken),
            "checkpoint" => Ok(Self::Checkpoint),
            "introspection" => Ok(Self::Introspection),
            "status_list" => Ok(Self::StatusList),
            _ => match text.strip_prefix("federation/") {
                Some(target) if !target.is_empty() => Ok(Self::Federation(target.to_owned())),
                _ => Err(UnknownPurpose),
            },
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a signing key does not open; put back the sealing key it was sealed with: {0}")]
    Unopenable(#[from] SealError),
    #[error(
        "the list of signing keys was not written with any of the sealing keys, or was changed"
    )]
    Forged,
    #[error("the list of signing keys has format {0}, which this version does not know")]
    Format(u8),
    #[error("the list of signing keys went back to an older state; the store was rolled back")]
    RolledBack,
    #[error("the list of signing keys is gone from the store")]
    Vanished,
    #[error("the private half of key `{0}` is not in the store")]
    Missing(String),
    #[error("there is no signing key for `{0}` yet")]
    NoKey(Purpose),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("other replicas keep changing the signing keys; try again")]
    Contended,
    #[error("the new key is not on enough replicas of the store; nothing is signed with it yet")]
    Unreplicated,
}

#[derive(Debug, Clone)]
pub struct KeyringSettings {
    /// ES256 or Ed25519, for access tokens; it takes effect with the next rotation.
    pub access_tokens: Algorithm,
    /// How long verifiers may keep our JWK set: a new key is published this long before it signs.
    pub cache_time: Duration,
    /// The longest life of anything we sign: a key stays published this long after its last use.
    pub longest_token: Duration,
    /// How old a key may get before [`Keyring::due`] names it.
    pub rotate_after: Duration,
}

impl Default for KeyringSettings {
    fn default() -> Self {
        Self {
            access_tokens: Algorithm::Es256,
            cache_time: Duration::from_secs(5 * 60),
            longest_token: Duration::from_secs(24 * 3600),
            rotate_after: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationReport {
    pub new_key: String,
    pub signs_from: OffsetDateTime,
    /// Gone at once (`compromised`): raise a fence on each.
    pub removed: Vec<String>,
}

/// One key as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    pub kid: String,
    pub purpose: String,
    pub algorithm: Algorithm,
    pub state: KeyState,
    pub created_at: OffsetDateTime,
    pub signs_from: OffsetDateTime,
}

#[derive(Debug)]
pub struct Keyring {
    store: Arc<dyn Store>,
    sealer: Sealer,
    settings: KeyringSettings,
    current: ArcSwap<Snapshot>,
    /// One change at a time in this process; between processes the guard decides.
    changing: Mutex<()>,
}

/// Everything that signing and publishing need, as of one moment.
#[derive(Debug)]
struct Snapshot {
    manifest: Manifest,
    version: Option<CommitId>,
    /// Private halves that may still sign.
    private: BTreeMap<String, SigningKey>,
    signing: BTreeMap<Purpose, SigningKey>,
    published: BTreeMap<Purpose, KeySet>,
}

impl Keyring {
    /// Opens the keyring, or makes it where the store has none.
    pub async fn open(
        store: Arc<dyn Store>,
        sealer: Sealer,
        now: OffsetDateTime,
    ) -> Result<Self, KeyringError> {
        Self::open_with(store, sealer, KeyringSettings::default(), now).await
    }

    pub async fn open_with(
        store: Arc<dyn Store>,
        sealer: Sealer,
        settings: KeyringSettings,
        now: OffsetDateTime,
    ) -> Result<Self, KeyringError> {
        let empty = Snapshot {
            manifest: Manifest::first(),
            version: None,
            private: BTreeMap::new(),
            signing: BTreeMap::new(),
            published: BTreeMap::new(),
        };
        let keyring = Self {
            store,
            sealer,
            settings,
            current: ArcSwap::from_pointee(empty),
            changing: Mutex::new(()),
        };
        match keyring.refresh(now).await {
            Err(KeyringError::Vanished) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        for purpose in &Purpose::AT_BIRTH {
            keyring.ensure(purpose, now).await?;
        }
        Ok(keyring)
    }

    /// A compact JWS and the `kid` of the key that signed it. The key is the one that was active at
    /// the last [`Self::refresh`].
    pub fn sign(
        &self,
        purpose: impl Borrow<Purpose>,
        typ: &str,
        claims: &impl Serialize,
    ) -> Result<(Secret<String>, String), KeyringError> {
        let current = self.current.load();
        let key = current
            .signing
            .get(purpose.borrow())
            .ok_or_else(|| KeyringError::NoKey(purpose.borrow().clone()))?;
        let kid = key.thumbprint().to_owned();
        let token = key.sign(typ, Some(&kid), claims, false)?;
        Ok((Secret::new(token), kid))
    }

    /// The JWK set to publish: upcoming, active and retiring keys.
    pub fn jwks(&self, purpose: impl Borrow<Purpose>) -> serde_json::Value {
        self.verifying(purpose).to_jwks()
    }

    /// The same set for our own use. Empty when the purpose has no key yet.
    pub fn verifying(&self, purpose: impl Borrow<Purpose>) -> KeySet {
        self.current
            .load()
            .published
            .get(purpose.borrow())
            .cloned()
            .unwrap_or_default()
    }

    /// The algorithm that this purpose signs with now.
    pub fn algorithm(&self, purpose: impl Borrow<Purpose>) -> Option<Algorithm> {
        let current = self.current.load();
        Some(current.signing.get(purpose.borrow())?.algorithm())
    }

    /// Grows with every change of any key.
    pub fn counter(&self) -> u64 {
        self.current.load().manifest.counter
    }

    /// Every key that is not gone, oldest first.
    pub fn status(&self, now: OffsetDateTime) -> Result<Vec<KeyStatus>, KeyringError> {
        let moment = |at| OffsetDateTime::from_unix_timestamp(at).map_err(|_| KeyringError::Forged);
        let current = self.current.load();
        let entries = current.manifest.keys.iter();
        entries
            .filter(|entry| entry.state(now) != KeyState::Gone)
            .map(|entry| {
                Ok(KeyStatus {
                    kid: entry.kid.clone(),
                    purpose: entry.purpose.clone(),
                    algorithm: entry.algorithm()?,
                    state: entry.state(now),
                    created_at: moment(entry.created_at)?,
                    signs_from: moment(entry.signs_from)?,
                })
            })
            .collect()
    }

    /// Purposes whose active key is older than `rotate_after` and has no successor yet.
    pub fn due(&self, now: OffsetDateTime) -> Vec<Purpose> {
        let oldest = (now - self.settings.rotate_after).unix_timestamp();
        let current = self.current.load();
        let keys = current.manifest.keys.iter();
        keys.filter(|entry| entry.state(now) == KeyState::Active)
            .filter(|entry| entry.signs_until.is_none() && entry.signs_from <= oldest)
            .filter_map(|entry| entry.purpose.parse().ok())
            .collect()
    }

    /// Takes up what other replicas changed and moves every key to its state at `now`. Call it at
    /// least every [`change::SPREAD`] (60 s): rotation counts on that.
    pub async fn refresh(&self, now: OffsetDateTime) -> Result<(), KeyringError> {
        let _one = self.changing.lock().await;
        self.reload(now).await?;
        if self.has_rubbish(now)
            && let Err(error) = self.tidy(now).await
        {
            // Another replica or a later call will; what signs and what is published is right.
            tracing::warn!(%error, "old signing keys stay in the store for now");
        }
        Ok(())
    }

    /// The caller holds `changing`.
    async fn reload(&self, now: OffsetDateTime) -> Result<(), KeyringError> {
        let held = self.current.load_full();
        let found = self.store.get(&[manifest_key()]).await?;
        let Some(record) = found.into_iter().next().flatten() else {
            return Err(KeyringError::Vanished);
        };
        let manifest = if held.version == Some(record.version) {
            held.manifest.clone()
        } else {
            let read = Manifest::read(&record.value, &self.sealer)?;
            // SECURITY: an old manifest has a good MAC too; only the counter tells.
            if held.version.is_some() && read.counter <= held.manifest.counter {
                return Err(KeyringError::RolledBack);
            }
            read
        };
        let private = self.private_halves(&manifest, &held.private, now).await?;
        self.install(manifest, record.version, private, now)
    }

    /// Opens what may still sign and is not held yet.
    async fn private_halves(
        &self,
        manifest: &Manifest,
        held: &BTreeMap<String, SigningKey>,
        now: OffsetDateTime,
    ) -> Result<BTreeMap<String, SigningKey>, KeyringError> {
        let may_sign =
            |entry: &&Entry| matches!(entry.state(now), KeyState::Upcoming | KeyState::Active);
        let (mut private, mut missing) = (BTreeMap::new(), Vec::new());
        for entry in manifest.keys.iter().filter(may_sign) {
            match held.get(&entry.kid) {
                Some(key) => drop(private.insert(entry.kid.clone(), key.clone())),
                None => missing.push(entry),
            }
        }
        if missing.is_empty() {
            return Ok(private);
        }
        let places: Vec<_> = missing.iter().map(|e| private_key(&e.kid)).collect();
        let records = self.store.get(&places).await?;
        for (entry, record) in missing.into_iter().zip(records) {
            let record = record.ok_or_else(|| KeyringError::Missing(entry.kid.clone()))?;
            let key = self.unseal(&entry.kid, &record.value)?;
            if key.verifying() != &entry.public()? {
                return Err(KeyringError::Forged);
            }
            private.insert(entry.kid.clone(), key);
        }
        Ok(private)
    }

    fn unseal(&self, kid: &str, blob: &[u8]) -> Result<SigningKey, KeyringError> {
        let opened = self.sealer.open(&owner(kid), blob)?;
        let text = std::str::from_utf8(opened.expose()).map_err(|_| KeyringError::Forged)?;
        let key = SigningKey::from_private_jwk(&Secret::new(text.to_owned()))?;
        Ok(key.named_by_thumbprint())
    }

    fn install(
        &self,
        manifest: Manifest,
        version: CommitId,
        private: BTreeMap<String, SigningKey>,
        now: OffsetDateTime,
    ) -> Result<(), KeyringError> {
        let mut newest: BTreeMap<Purpose, (i64, SigningKey)> = BTreeMap::new();
        let mut published: BTreeMap<Purpose, Vec<VerifyingKey>> = BTreeMap::new();
        for entry in &manifest.keys {
            let state = entry.state(now);
            let purpose: Purpose = entry.purpose.parse().map_err(|_| KeyringError::Forged)?;
            if state == KeyState::Gone {
                continue;
            }
            let list = published.entry(purpose.clone()).or_default();
            list.push(entry.public()?);
            if state != KeyState::Active {
                continue;
            }
            let key = private
                .get(&entry.kid)
                .ok_or_else(|| KeyringError::Missing(entry.kid.clone()))?;
            let best = newest
                .entry(purpose)
                .or_insert((entry.signs_from, key.clone()));
            if entry.signs_from > best.0 {
                *best = (entry.signs_from, key.clone());
            }
        }
        let published = published
            .into_iter()
            .map(|(purpose, keys)| {
                // The newest are the ones in use, should checkpoints have piled up over the years.
                let from = keys.len().saturating_sub(super::MAX_KEYS);
                let recent = keys.into_iter().skip(from).collect();
                let set = KeySet::new(recent).map_err(|_| KeyringError::Forged)?;
                Ok((purpose, set))
            })
            .collect::<Result<_, KeyringError>>()?;
        self.current.store(Arc::new(Snapshot {
            manifest,
            version: Some(version),
            private,
            signing: newest.into_iter().map(|(p, (_, key))| (p, key)).collect(),
            published,
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
