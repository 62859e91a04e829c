//! How far the audit is sealed, as the store knows it, and who may seal now.

use super::chain::{Chain, FENCES, WrittenHead};
use super::{AuditError, FENCE_LOG, LOG, hex};
use crate::ids::{self, ShardId};
use crate::secret::Sealer;
use crate::store::{
    CommitId, Guard, Key, Log, Position, Store, StoreError, Tail, Transaction, Write,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;

const MAC_PURPOSE: &str = "audit state";
/// What the clocks of two replicas may differ by.
pub(super) const CLOCKS: Duration = Duration::from_secs(30);

/// The record that is claim and state in one.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub holder: String,
    pub until: OffsetDateTime,
    pub chain: Chain,
    pub backlog: u64,
    /// The checkpoint at which somebody accepted that the store lacks what was sealed: the next one names it.
    pub accepted: Option<u64>,
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
    accepted: Option<u64>,
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
            accepted: None,
        }
    }

    /// Whether somebody seals.
    ///
    /// SECURITY: nobody claims it for longer than this: a holder whose clock was ahead would keep everybody from sealing
    /// until that time has come.
    pub(super) fn is_claimed(&self, now: OffsetDateTime) -> bool {
        now < self.until && self.until <= now + Self::LEASE + CLOCKS
    }

    /// When its holder wrote it, while it held the claim.
    pub(super) fn written(&self) -> OffsetDateTime {
        self.until - Self::LEASE
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.accepted == Some(self.chain.checkpoint)
    }

    /// SECURITY: only as a broker wrote it, or whoever can write to the store could say that a loss was accepted.
    pub(super) async fn read(
        store: &dyn Store,
        sealer: &Sealer,
    ) -> Result<Option<(Self, CommitId)>, AuditError> {
        let Some(record) = store.get(&[key()]).await?.pop().flatten() else {
            return Ok(None);
        };
        let (value, _) = sealer
            .without_mac(MAC_PURPOSE, &record.value)
            .ok_or(AuditError::State)?;
        let written: Written = serde_json::from_slice(value).map_err(|_| AuditError::State)?;
        let chain = Chain::read(written.checkpoint, &written.checkpoint_hash, &written.heads)
            .ok_or(AuditError::State)?;
        let state = Self {
            holder: written.holder,
            until: written.until,
            chain,
            backlog: written.backlog,
            accepted: written.accepted,
        };
        Ok(Some((state, record.version)))
    }

    /// What it is written over, whether it can be read or not.
    pub(super) async fn version(store: &dyn Store) -> Result<Option<CommitId>, StoreError> {
        let record = store.get(&[key()]).await?.pop().flatten();
        Ok(record.map(|record| record.version))
    }

    /// The commit that writes it over the version that was seen, or where nothing was.
    pub(super) fn write(
        &self,
        sealer: &Sealer,
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
            accepted: self.accepted,
        })?;
        let value = sealer
            .with_mac(MAC_PURPOSE, &value)
            .map_err(|_| AuditError::State)?;
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

/// What a log still has of what was sealed.
pub(super) enum Kept {
    All,
    /// Not the sealed head: it ends here.
    UpTo(Position),
}

/// INVARIANT: that a log has as many entries says nothing. Only where the last one that was sealed is on it are
/// those before it the same.
pub(super) async fn kept(store: &dyn Store, chain: &Chain, shard: u8) -> Result<Kept, StoreError> {
    let sealed = chain.head(shard).position;
    let found = store
        .tail(&log_of(shard), sealed, 1, Duration::ZERO)
        .await?;
    Ok(match found {
        Tail::Entries { .. } | Tail::Trimmed { .. } => Kept::All,
        Tail::Forked { head } => Kept::UpTo(head),
    })
}

/// The first log that lacks what was sealed, by its name.
pub(super) async fn lacking(
    store: &dyn Store,
    chain: &Chain,
) -> Result<Option<String>, StoreError> {
    for shard in chain.heads.keys() {
        if let Kept::UpTo(_) = kept(store, chain, *shard).await? {
            return Ok(Some(match *shard {
                FENCES => FENCE_LOG.to_owned(),
                shard => format!("shard {shard}"),
            }));
        }
    }
    Ok(None)
}

pub(super) fn log_of(shard: u8) -> Log {
    if shard == FENCES {
        return Log {
            shard: ShardId::INSTALLATION,
            name: FENCE_LOG,
        };
    }
    let mut all = ShardId::all();
    Log {
        shard: all
            .find(|known| known.number() == shard)
            .unwrap_or(ShardId::INSTALLATION),
        name: LOG,
    }
}
