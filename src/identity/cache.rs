//! Verified workload tokens, remembered so that a repeated exchange does not pay the issuer's
//! signature again. Bounded; an entry lives until the token's `exp`, five minutes at most.

use super::{Caller, TokenType};
use crate::jose::Algorithm;
use std::sync::Arc;
use std::time::Duration;

const CAPACITY: u64 = 10_000;
/// A verified token is looked at anew after this, at the latest.
pub const VERIFIED_KEPT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Verified {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
}

/// The type is part of it: what may pass as an access token may not pass as an ID token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) sha256: [u8; 32],
    pub(super) token_type: TokenType,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) caller: Caller,
    /// With these two the verifying key is looked up again at every use.
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
}

impl Verified {
    pub(super) fn new() -> Self {
        Self {
            entries: moka::sync::Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(VERIFIED_KEPT)
                .build(),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    pub(super) fn put(&self, key: Key, entry: Entry) {
        self.entries.insert(key, Arc::new(entry));
    }
}
