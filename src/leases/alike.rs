//! What leases have in common, once for all of them in a shard: named by its hash, and there for as
//! long as a lease names it.

use super::record::Shared;
use super::{LeaseError, keys};
use crate::ids::ShardId;
use crate::store::Store;
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Kept in memory, at most; then all are forgotten and read again.
const MOST: usize = 4096;

/// Read from the store, or remembered from there: its name is its hash, so it cannot have changed.
#[derive(Debug)]
pub(super) struct Common {
    pub sha256: [u8; 32],
    pub shared: Shared,
}

impl Common {
    /// Its name in the store.
    pub(super) fn half(&self) -> Half {
        half(&self.sha256)
    }
}

/// On its way to the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub sha256: [u8; 32],
    pub bytes: Vec<u8>,
}

pub(super) type Half = [u8; 16];

/// Those that were read lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Commons(Arc<Mutex<HashMap<Half, Arc<Common>>>>);

impl Written {
    pub(super) fn of(shared: &Shared) -> Result<Self, rmp_serde::encode::Error> {
        let bytes = rmp_serde::to_vec(shared)?;
        let sha256 = sha256(&bytes);
        Ok(Self { sha256, bytes })
    }

    /// Its name in the store.
    pub(super) fn half(&self) -> Half {
        half(&self.sha256)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    let digest = digest(&SHA256, bytes);
    hash.iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    hash
}

fn half(sha256: &[u8; 32]) -> Half {
    let mut half = [0; 16];
    half.iter_mut()
        .zip(sha256)
        .for_each(|(to, from)| *to = *from);
    half
}

impl Commons {
    /// Those of these names that there are.
    pub(super) async fn get(
        &self,
        store: &dyn Store,
        named: impl Iterator<Item = (ShardId, Half)>,
    ) -> Result<HashMap<Half, Arc<Common>>, LeaseError> {
        let mut found = HashMap::new();
        let mut missing = BTreeMap::new();
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (shard, half) in named {
                match known.get(&half) {
                    Some(common) => {
                        found.insert(half, Arc::clone(common));
                    }
                    None => {
                        missing.insert(half, shard);
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let places: Vec<_> = missing
            .iter()
            .map(|(half, shard)| keys::common(*shard, half))
            .collect();
        let records = super::look::each(store, &places).await?;
        for (name, record) in missing.into_keys().zip(records) {
            // A damaged one is as good as none: what names it cannot be read.
            let Ok(Some(record)) = record else { continue };
            let sha256 = sha256(&record.value);
            // SECURITY: only what bears its own name is remembered under it, whoever wrote it; that a
            // lease means this one and no other is what the lease's MAC says.
            if half(&sha256) != name {
                continue;
            }
            let Ok(shared) = rmp_serde::from_slice(&record.value) else {
                continue;
            };
            let common = Arc::new(Common { sha256, shared });
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(name, Arc::clone(&common));
            found.insert(name, common);
        }
        Ok(found)
    }
}
