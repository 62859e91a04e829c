//! How far the audit is sealed, as the store knows it, and who may seal now.

use super::chain::{Chain, WrittenHead};
use super::{AuditError, hex};
use crate::ids::{self, ShardId};
use crate::store::{CommitId, Guard, Key, Store, Transaction, Write};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;

/// The record that is claim and state in one.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub holder: String,
    pub until: OffsetDateTime,
    pub chain: Chain,
    pub backlog: u64,
}

#[derive(Serialize, Deserialize)]
struct Written {
    holder: String,
    #[serde(with = "time::serde::timestamp")]
    until: OffsetDateTime,
    checkpoint: u64,
    checkpoint_hash: String,
    heads: Vec<WrittenHead>,
    backlog: u64,
}

/// A name for this process among those that may hold the claim.
pub(super) fn holder() -> String {
    hex(&ids::random::<16>())
}

fn key() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"audit/sealed".to_vec(),
    }
}

impl State {
    /// How long a holder may be silent before another replica goes on.
    pub(super) const LEASE: Duration = Duration::from_secs(10);

    pub(super) fn new(holder: &str, chain: &Chain, backlog: u64, now: OffsetDateTime) -> Self {
        Self {
            holder: holder.to_owned(),
            until: now + Self::LEASE,
            chain: chain.clone(),
            backlog,
        }
    }

    pub(super) async fn read(store: &dyn Store) -> Result<Option<(Self, CommitId)>, AuditError> {
        let Some(record) = store.get(&[key()]).await?.pop().flatten() else {
            return Ok(None);
        };
        let written: Written =
            serde_json::from_slice(&record.value).map_err(|_| AuditError::State)?;
        let chain = Chain::read(written.checkpoint, &written.checkpoint_hash, &written.heads)
            .ok_or(AuditError::State)?;
        let state = Self {
            holder: written.holder,
            until: written.until,
            chain,
            backlog: written.backlog,
        };
        Ok(Some((state, record.version)))
    }

    /// The commit that writes it over the version that was seen, or where nothing was.
    pub(super) fn write(
        &self,
        seen: Option<CommitId>,
        now: OffsetDateTime,
    ) -> Result<Transaction, AuditError> {
        let value = serde_json::to_vec(&Written {
            holder: self.holder.clone(),
            until: self.until,
            checkpoint: self.chain.checkpoint,
            checkpoint_hash: hex(&self.chain.checkpoint_hash),
            heads: self.chain.written(),
            backlog: self.backlog,
        })?;
        let guard = match seen {
            Some(version) => Guard::Unchanged(key(), version),
            None => Guard::Absent(key()),
        };
        Ok(
            Transaction::new(ShardId::INSTALLATION, now + Duration::from_secs(10))
                .revoking()
                .guard(guard)
                .write(Write::Put {
                    key: key(),
                    value,
                    expires_at: None,
                }),
        )
    }
}

/// Where sealing goes on, given what the store and the file each say.
pub(super) fn reconcile(
    state: Option<Chain>,
    exported: Option<Chain>,
) -> Result<Chain, AuditError> {
    let state = state.unwrap_or_default();
    match exported {
        // A crash between the file and the state leaves the file exactly one ahead.
        Some(exported) if exported.checkpoint == state.checkpoint + 1 => Ok(exported),
        // SECURITY: a store further behind was put back to an older day; what it would mint now
        // it may have minted, and ended, before.
        Some(exported) if exported.checkpoint > state.checkpoint => Err(AuditError::StoreBehind {
            store: state.checkpoint,
            export: exported.checkpoint,
        }),
        _ => Ok(state),
    }
}
