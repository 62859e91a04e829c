//! Making, rotating and dropping keys: each one guarded commit.

use super::manifest::{Entry, Manifest, manifest_key, owner, private_key};
use super::{KeyState, Keyring, KeyringError, Purpose, RotationReport};
use crate::ids::ShardId;
use crate::jose::{Algorithm, LEEWAY, SigningError, SigningKey};
use crate::store::{Guard, Outcome, StoreError, Transaction, Write};
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;

/// How late another replica may read the manifest: added wherever a rotation waits for caches.
pub const SPREAD: Duration = Duration::from_secs(60);
/// A commit that has not been applied by then is refused.
const PATIENCE: Duration = Duration::from_secs(10);
const ATTEMPTS: usize = 5;

/// What an edit leaves behind. `None` from an edit: nothing to do.
struct Edited {
    manifest: Manifest,
    writes: Vec<Write>,
    dropped: Vec<String>,
}

impl Keyring {
    /// Makes the first key of a purpose unless there is one. RSA takes a moment, once.
    pub async fn ensure(&self, purpose: &Purpose, now: OffsetDateTime) -> Result<(), KeyringError> {
        if self.current.load().signing.contains_key(purpose) {
            return Ok(());
        }
        let fresh = generate(self.algorithm_for(purpose)).await?;
        let _one = self.changing.lock().await;
        self.change(now, Some(&fresh), |manifest| {
            if manifest.keys.iter().any(|entry| belongs(entry, purpose)) {
                return Ok(None);
            }
            // Nobody can have cached a set without it: it may sign at once.
            let mut manifest = manifest.clone();
            let seconds = now.unix_timestamp();
            let entry = Entry::new(fresh.verifying(), purpose, seconds, at_once(seconds));
            manifest.keys.push(entry);
            self.edited(manifest, Some(&fresh), Vec::new()).map(Some)
        })
        .await?;
        if self.current.load().signing.contains_key(purpose) {
            Ok(())
        } else {
            Err(KeyringError::NoKey(purpose.clone()))
        }
    }

    /// Names a successor, which signs once every cache knows it; with one already named, answers
    /// that. `compromised` drops every key of the purpose at once and signs with a new one.
    pub async fn rotate(
        &self,
        purpose: impl std::borrow::Borrow<Purpose>,
        now: OffsetDateTime,
        compromised: bool,
    ) -> Result<RotationReport, KeyringError> {
        let purpose = purpose.borrow();
        if !self.current.load().published.contains_key(purpose) {
            return Err(KeyringError::NoKey(purpose.clone()));
        }
        let fresh = generate(self.algorithm_for(purpose)).await?;
        let _one = self.changing.lock().await;
        let removed = self
            .change(now, Some(&fresh), |manifest| {
                if compromised {
                    self.replace(manifest, purpose, &fresh, now).map(Some)
                } else {
                    self.succeed(manifest, purpose, &fresh, now)
                }
            })
            .await?;
        let current = self.current.load();
        let newest = current
            .manifest
            .keys
            .iter()
            .filter(|entry| belongs(entry, purpose))
            .max_by_key(|entry| entry.signs_from)
            .ok_or_else(|| KeyringError::NoKey(purpose.clone()))?;
        Ok(RotationReport {
            new_key: newest.kid.clone(),
            signs_from: OffsetDateTime::from_unix_timestamp(newest.signs_from)
                .map_err(|_| KeyringError::Forged)?,
            removed,
        })
    }

    /// Seals every private half again, under the first sealing key. After it an older sealing key
    /// is no longer needed for signing keys.
    pub async fn reseal(&self, now: OffsetDateTime) -> Result<(), KeyringError> {
        let _one = self.changing.lock().await;
        self.reload(now).await?;
        self.change(now, None, |manifest| {
            let current = self.current.load();
            let writes = current
                .private
                .values()
                .map(|key| self.put(key))
                .collect::<Result<_, _>>()?;
            self.edited(manifest.clone(), None, writes).map(Some)
        })
        .await
        .map(drop)
    }

    /// Whether the store holds private halves that will never sign again.
    pub(super) fn has_rubbish(&self, now: OffsetDateTime) -> bool {
        let current = self.current.load();
        let mut keys = current.manifest.keys.iter();
        keys.any(|entry| is_rubbish(entry, now))
    }

    /// Drops keys that are gone, and the private halves of those that have signed their last.
    pub(super) async fn tidy(&self, now: OffsetDateTime) -> Result<(), KeyringError> {
        self.change(now, None, |manifest| {
            let mut manifest = manifest.clone();
            let mut writes = Vec::new();
            for entry in &mut manifest.keys {
                if !entry.sealed || !is_rubbish(entry, now) {
                    continue;
                }
                writes.push(Write::Delete(private_key(&entry.kid)));
                entry.sealed = false;
            }
            manifest
                .keys
                .retain(|entry| entry.state(now) != KeyState::Gone);
            self.edited(manifest, None, writes).map(Some)
        })
        .await
        .map(drop)
    }

    fn succeed(
        &self,
        manifest: &Manifest,
        purpose: &Purpose,
        fresh: &SigningKey,
        now: OffsetDateTime,
    ) -> Result<Option<Edited>, KeyringError> {
        let mut manifest = manifest.clone();
        let mut own = manifest.keys.iter_mut().filter(|e| belongs(e, purpose));
        let seconds = now.unix_timestamp();
        let mut signs_from = seconds;
        if own.any(|entry| entry.state(now) == KeyState::Upcoming) {
            return Ok(None);
        }
        let settings = &self.settings;
        let alive = whole(settings.longest_token + LEEWAY + settings.cache_time + SPREAD);
        for entry in manifest.keys.iter_mut().filter(|e| belongs(e, purpose)) {
            if entry.state(now) != KeyState::Active {
                continue;
            }
            // INVARIANT: published for the whole cache time, and known to every replica, before it
            // signs.
            signs_from = seconds + whole(settings.cache_time + SPREAD);
            entry.signs_until = Some(signs_from);
            // Checkpoints are verified for as long as there is an audit trail.
            if *purpose != Purpose::Checkpoint {
                entry.gone_at = Some(signs_from + alive);
            }
        }
        let entry = Entry::new(fresh.verifying(), purpose, seconds, signs_from);
        manifest.keys.push(entry);
        self.edited(manifest, Some(fresh), Vec::new()).map(Some)
    }

    fn replace(
        &self,
        manifest: &Manifest,
        purpose: &Purpose,
        fresh: &SigningKey,
        now: OffsetDateTime,
    ) -> Result<Edited, KeyringError> {
        let mut manifest = manifest.clone();
        // SECURITY: whoever got one key of this purpose may have got its siblings.
        let (dropped, kept): (Vec<_>, Vec<_>) = manifest
            .keys
            .drain(..)
            .partition(|entry| belongs(entry, purpose));
        manifest.keys = kept;
        let seconds = now.unix_timestamp();
        let entry = Entry::new(fresh.verifying(), purpose, seconds, at_once(seconds));
        manifest.keys.push(entry);
        let deletes = dropped
            .iter()
            .map(|entry| Write::Delete(private_key(&entry.kid)))
            .collect();
        let mut edited = self.edited(manifest, Some(fresh), deletes)?;
        edited.dropped = dropped.into_iter().map(|entry| entry.kid).collect();
        Ok(edited)
    }

    fn edited(
        &self,
        mut manifest: Manifest,
        fresh: Option<&SigningKey>,
        mut writes: Vec<Write>,
    ) -> Result<Edited, KeyringError> {
        manifest.counter += 1;
        if let Some(fresh) = fresh {
            writes.push(self.put(fresh)?);
        }
        writes.push(Write::Put {
            key: manifest_key(),
            value: manifest.write(&self.sealer)?,
            expires_at: None,
        });
        Ok(Edited {
            manifest,
            writes,
            dropped: Vec::new(),
        })
    }

    fn put(&self, key: &SigningKey) -> Result<Write, KeyringError> {
        let kid = key.thumbprint();
        let jwk = key.to_private_jwk();
        Ok(Write::Put {
            key: private_key(kid),
            value: self.sealer.seal(&owner(kid), jwk.expose().as_bytes())?,
            expires_at: None,
        })
    }

    /// Applies `edit` to the manifest as it is in the store. The caller holds `changing`. Answers
    /// which keys were dropped.
    async fn change(
        &self,
        now: OffsetDateTime,
        fresh: Option<&SigningKey>,
        edit: impl Fn(&Manifest) -> Result<Option<Edited>, KeyringError>,
    ) -> Result<Vec<String>, KeyringError> {
        for _ in 0..ATTEMPTS {
            match self.reload(now).await {
                Ok(()) => {}
                // Birth. A keyring that has seen its manifest never makes another.
                Err(KeyringError::Vanished) if self.current.load().version.is_none() => {}
                Err(error) => return Err(error),
            }
            let current = self.current.load_full();
            let Some(edited) = edit(&current.manifest)? else {
                return Ok(Vec::new());
            };
            let guard = match current.version {
                Some(version) => Guard::Unchanged(manifest_key(), version),
                None => Guard::Absent(manifest_key()),
            };
            let mut transaction =
                Transaction::new(ShardId::INSTALLATION, now + PATIENCE).guard(guard);
            transaction.writes = edited.writes;
            let version = transaction.id;
            if !self.commit(transaction).await? {
                continue;
            }
            let mut private: BTreeMap<_, _> = current.private.clone();
            private.extend(fresh.map(|key| (key.thumbprint().to_owned(), key.clone())));
            private.retain(|kid, _| edited.manifest.keys.iter().any(|e| e.kid == *kid));
            self.install(edited.manifest, version, private, now)?;
            return Ok(edited.dropped);
        }
        Err(KeyringError::Contended)
    }

    /// Whether it was applied. The same transaction may be sent again: its id tells.
    async fn commit(&self, transaction: Transaction) -> Result<bool, KeyringError> {
        let mut last = KeyringError::Contended;
        for _ in 0..ATTEMPTS {
            match self.store.commit(transaction.clone()).await {
                Ok(Outcome::Applied { .. }) => return Ok(true),
                Ok(Outcome::Conflict { .. }) => return Ok(false),
                Ok(Outcome::TooLate) => return Err(KeyringError::Contended),
                Ok(Outcome::Unreplicated { .. }) => last = KeyringError::Unreplicated,
                Err(StoreError::Unknown) => last = StoreError::Unknown.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }

    fn algorithm_for(&self, purpose: &Purpose) -> Algorithm {
        match purpose {
            Purpose::AccessToken => self.settings.access_tokens,
            // What every cloud's federation accepts.
            Purpose::Federation(_) => Algorithm::Rs256,
            Purpose::Checkpoint | Purpose::Introspection | Purpose::StatusList => Algorithm::Es256,
        }
    }
}

fn belongs(entry: &Entry, purpose: &Purpose) -> bool {
    entry.purpose == purpose.to_string()
}

/// A private half goes a little after its last use: another replica's clock may be behind.
fn is_rubbish(entry: &Entry, now: OffsetDateTime) -> bool {
    entry.state(now) == KeyState::Gone
        || entry.sealed && entry.state(now - SPREAD) == KeyState::Retiring
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

/// Beside the runtime's workers: RSA takes a moment.
async fn generate(algorithm: Algorithm) -> Result<SigningKey, KeyringError> {
    let key = tokio::task::spawn_blocking(move || SigningKey::generate(algorithm))
        .await
        .map_err(|_| SigningError::Generate)??;
    Ok(key.named_by_thumbprint())
}

/// Nobody waits for such a key to be announced, so replicas whose clocks differ a little sign with it, too.
fn at_once(seconds: i64) -> i64 {
    seconds - whole(LEEWAY)
}
