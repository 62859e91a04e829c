//! Whether what is written of leases outlives a failover.

use super::look::Found;
use super::record::Lease;
use super::{LeaseError, Leases};
use crate::ids::{LeaseId, ShardId};
use crate::store::{Position, Tail, time_log};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Remembered by this process, at most; then it asks again.
const MOST: usize = 4096;

/// Leases whose record is known to be on `min_replicas`, and to say that there may be children.
#[derive(Debug, Clone, Default)]
pub(super) struct HandedOn(Arc<Mutex<HashSet<LeaseId>>>);

impl HandedOn {
    pub(super) fn has(&self, id: &LeaseId) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(id)
    }

    pub(super) fn add(&self, id: LeaseId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(id);
    }
}

impl Leases {
    /// Of each of these leases of one shard, as it was read or written just now, whether `min_replicas` have
    /// it. `false`: it was changed since, or it is not there any more.
    ///
    /// INVARIANT: the heartbeat comes behind the first reading and before the second. Without the second, the
    /// heartbeat might be that of a server that has taken over and never had them.
    pub(super) async fn are_replicated(
        &self,
        shard: ShardId,
        leases: &[Lease],
    ) -> Result<Vec<bool>, LeaseError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let log = time_log(shard);
        let beat = self.store.tail(&log, Position::ORIGIN, 1, Duration::ZERO);
        match beat.await {
            Ok(Tail::Entries { .. }) => {}
            Ok(Tail::Forked { .. } | Tail::Trimmed { .. }) => return Err(LeaseError::Unreplicated),
            Err(error) => {
                tracing::debug!(%error, "whether leases are replicated is not known");
                return Err(LeaseError::Unreplicated);
            }
        }
        let ids: Vec<_> = leases.iter().map(|lease| lease.id).collect();
        let again = self.read(&ids).await?;
        let same = leases.iter().zip(again).map(|(lease, found)| {
            matches!(found, Found::Lease(found) if found.version() == lease.version())
        });
        Ok(same.collect())
    }
}
