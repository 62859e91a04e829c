//! Reads from the store what is asked about, where this replica is the one that asks.
//!
//! One replica asks, by a claim that it renews; when it is gone another one takes the claim and reads all live
//! leases that their platform can be asked about, then those that are new.

use super::Watched;
use crate::broker::{Broker, Bundle};
use crate::ids::{self, LeaseId, ShardId};
use crate::leases::{LeaseError, ReadTo};
use crate::store::{
    CommitId, Guard, Key, Outcome, StoreError, Transaction, Write, milliseconds, settle,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

const ROUND: Duration = Duration::from_secs(2);
/// How long a replica may be silent before another one asks.
const CLAIM: Duration = Duration::from_secs(10);
const RENEWED: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(10);
/// Longer than two clocks may differ and a commit may be late: what was issued then is looked for again.
const AGAIN: Duration = Duration::from_secs(90);

/// Which replica asks. Two that both ask do no harm: it is for economy, and no answer ends anything twice.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Claim {
    holder: ByteArray<16>,
    /// Milliseconds.
    until: i64,
}

struct Reading {
    me: [u8; 16],
    alone: bool,
    /// Boot time.
    claimed: Option<Duration>,
    /// The claim of another one, and since when it is that one. Boot time.
    other: Option<(CommitId, Duration)>,
    /// What was read for.
    bundle: Option<Arc<Bundle>>,
    /// Up to when all was read.
    to: Option<OffsetDateTime>,
    /// What was read of what is looked for again.
    known: HashSet<LeaseId>,
}

/// Reads in the background for as long as the broker is held.
pub(super) fn start(broker: &Arc<Broker>, alone: bool) {
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        let mut reading = Reading {
            me: ids::random(),
            alone,
            claimed: None,
            other: None,
            bundle: None,
            to: None,
            known: HashSet::new(),
        };
        while let Some(broker) = broker.upgrade() {
            if let Err(error) = reading.round(&broker).await {
                tracing::warn!(%error, "what its platform is asked about was not read; tried again");
            }
            drop(broker);
            tokio::time::sleep(ROUND).await;
        }
    });
}

fn key() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"watch/claim".to_vec(),
    }
}

impl Reading {
    async fn round(&mut self, broker: &Broker) -> Result<(), LeaseError> {
        let bundle = broker.bundle.load_full();
        let asks = bundle.sources.iter().any(|source| source.asking.is_some());
        if !(asks && self.is_ours(broker).await?) {
            return self.leave(&broker.watched);
        }
        // Another configuration may ask about more.
        let is_same = self.bundle.as_ref();
        let is_same = is_same.is_some_and(|read| Arc::ptr_eq(read, &bundle));
        if !is_same || broker.watched.has_room_again() {
            (self.to, self.known) = (None, HashSet::new());
        }
        let began = broker.clock.now();
        let known = self.read(broker, (&bundle, began)).await?;
        if self.claimed.is_none() {
            return self.leave(&broker.watched);
        }
        self.known = known;
        self.to = Some(began);
        self.bundle = Some(bundle);
        Ok(())
    }

    fn leave(&mut self, watched: &Watched) -> Result<(), LeaseError> {
        watched.leave();
        (self.bundle, self.to, self.known) = (None, None, HashSet::new());
        Ok(())
    }

    /// All, or what is new. What of it will be looked for again.
    async fn read(
        &mut self,
        broker: &Broker,
        (bundle, began): (&Bundle, OffsetDateTime),
    ) -> Result<HashSet<LeaseId>, LeaseError> {
        let mut known = HashSet::new();
        for shard in ShardId::all() {
            let mut after = self.to.map(|to| ReadTo::at(to - AGAIN)).unwrap_or_default();
            loop {
                let skip = |id: &LeaseId| self.known.contains(id);
                let page = broker.leases.watched(shard, &after, skip).await?;
                if self.to.is_some() {
                    known.extend(page.found);
                }
                for lease in &page.leases {
                    let soon = lease.created > began - AGAIN;
                    known.extend(soon.then_some(lease.id));
                    let told = (&*lease.dimensions, lease.expires_at, self.to.is_some());
                    broker.watched.found(&bundle.sources, &lease.asked_by, told);
                }
                let Some(next) = page.next else { break };
                after = next;
                // There may be many.
                if !self.is_ours(broker).await? {
                    return Ok(known);
                }
            }
        }
        Ok(known)
    }

    /// Whether it is this replica that asks, by a claim that is taken or renewed.
    async fn is_ours(&mut self, broker: &Broker) -> Result<bool, StoreError> {
        let (boot, now) = (broker.clock.since_boot(), broker.clock.now());
        if self.alone {
            self.claimed = Some(boot);
            broker.watched.ours(Duration::MAX);
            return Ok(true);
        }
        if self.claimed.is_some_and(|at| boot < at + RENEWED) {
            return Ok(true);
        }
        let found = broker.store.get(&[key()]).await?.pop().flatten();
        let version = found.as_ref().map(|found| found.version);
        let claim: Claim = found
            .and_then(|found| rmp_serde::from_slice(&found.value).ok())
            .unwrap_or_default();
        if self.other.map(|(seen, _)| seen) != version {
            self.other = version.map(|version| (version, boot));
        }
        // A clock that is ahead, or a hand in the store, must not keep everybody from asking.
        let unmoved = self.other.is_some_and(|(_, since)| boot >= since + CLAIM);
        let is_free = claim.until <= milliseconds(now) || unmoved;
        if claim.holder.into_array() != self.me && !is_free {
            self.claimed = None;
            return Ok(false);
        }
        let taken = self.take(broker, version, now).await?;
        self.claimed = taken.then_some(boot);
        if taken {
            broker.watched.ours(boot + CLAIM);
        }
        Ok(taken)
    }

    async fn take(
        &self,
        broker: &Broker,
        version: Option<CommitId>,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let claim = Claim {
            holder: ByteArray::new(self.me),
            until: milliseconds(now + CLAIM),
        };
        let value = rmp_serde::to_vec(&claim);
        let value = value.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let guard = match version {
            Some(version) => Guard::Unchanged(key(), version),
            None => Guard::Absent(key()),
        };
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .local()
            .revoking()
            .guard(guard)
            .write(Write::Put {
                key: key(),
                value,
                expires_at: None,
            });
        let outcome = settle(broker.store.as_ref(), transaction).await?;
        Ok(matches!(
            outcome,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        ))
    }
}
