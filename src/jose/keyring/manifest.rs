//! The list of our keys: which exist, for what, and from when to when.
//!
//! One record with a counter and a MAC, so that whoever can write to the store can neither add a
//! key nor bring a retired one back. A key's state is not stored: it follows from its times.

use super::{KeyringError, Purpose};
use crate::ids::ShardId;
use crate::jose::{Algorithm, VerifyingKey};
use crate::secret::Sealer;
use crate::store::Key;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

const MAC_PURPOSE: &str = "keyring manifest";
const MAC_LENGTH: usize = 32;
const FORMAT: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u8,
    /// Grows with every change.
    pub(super) counter: u64,
    pub(super) keys: Vec<Entry>,
}

/// Seconds since 1970 throughout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) kid: String,
    pub(super) purpose: String,
    /// As JSON.
    public: String,
    pub(super) created_at: i64,
    pub(super) signs_from: i64,
    /// Set when a successor is named.
    pub(super) signs_until: Option<i64>,
    /// After this nothing it signed is alive. Absent for checkpoints, which are verified for ever.
    pub(super) gone_at: Option<i64>,
    /// Whether the store still holds the private half.
    pub(super) sealed: bool,
}

/// Where a key stands at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published, so that everyone's cache knows it before the first token comes.
    Upcoming,
    Active,
    /// Signs no more; what it signed may still be alive.
    Retiring,
    Gone,
}

impl Entry {
    pub(super) fn new(key: &VerifyingKey, purpose: &Purpose, now: i64, signs_from: i64) -> Self {
        Self {
            kid: key.thumbprint().to_owned(),
            purpose: purpose.to_string(),
            public: key.to_jwk().to_string(),
            created_at: now,
            signs_from,
            signs_until: None,
            gone_at: None,
            sealed: true,
        }
    }

    pub(super) fn state(&self, now: OffsetDateTime) -> KeyState {
        let now = now.unix_timestamp();
        let past = |moment: Option<i64>| moment.is_some_and(|moment| moment <= now);
        if past(self.gone_at) {
            KeyState::Gone
        } else if past(self.signs_until) {
            KeyState::Retiring
        } else if self.signs_from <= now {
            KeyState::Active
        } else {
            KeyState::Upcoming
        }
    }

    pub(super) fn public(&self) -> Result<VerifyingKey, KeyringError> {
        let jwk = serde_json::from_str(&self.public).map_err(|_| KeyringError::Forged)?;
        VerifyingKey::from_jwk(&jwk)
            .ok()
            .filter(|key| key.thumbprint() == self.kid)
            .ok_or(KeyringError::Forged)
    }

    pub(super) fn algorithm(&self) -> Result<Algorithm, KeyringError> {
        Ok(self.public()?.algorithm())
    }
}

impl Manifest {
    pub(super) fn first() -> Self {
        Self {
            format: FORMAT,
            counter: 0,
            keys: Vec::new(),
        }
    }

    /// The manifest as it is stored: MAC, then MessagePack.
    pub(super) fn write(&self, sealer: &Sealer) -> Result<Vec<u8>, KeyringError> {
        let body = rmp_serde::to_vec_named(self).map_err(|_| KeyringError::Forged)?;
        let mut record = sealer.mac(MAC_PURPOSE, &body)?.to_vec();
        record.extend(body);
        Ok(record)
    }

    pub(super) fn read(record: &[u8], sealer: &Sealer) -> Result<Self, KeyringError> {
        let (mac, body) = record
            .split_at_checked(MAC_LENGTH)
            .ok_or(KeyringError::Forged)?;
        // SECURITY: nothing in the record is looked at before its MAC holds.
        if !sealer.mac_holds(MAC_PURPOSE, body, mac) {
            return Err(KeyringError::Forged);
        }
        let manifest: Self = rmp_serde::from_slice(body).map_err(|_| KeyringError::Forged)?;
        if manifest.format != FORMAT {
            return Err(KeyringError::Format(manifest.format));
        }
        Ok(manifest)
    }
}

pub(super) fn manifest_key() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"keyring manifest".to_vec(),
    }
}

pub(super) fn private_key(kid: &str) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: owner(kid),
    }
}

/// What a private half is sealed to, so that two of them cannot be swapped.
pub(super) fn owner(kid: &str) -> Vec<u8> {
    [b"keyring/".as_slice(), kid.as_bytes()].concat()
}
