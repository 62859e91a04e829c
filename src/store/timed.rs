//! The store's time, seen from a replica whose clock is another one.
//!
//! Deadlines are judged by the store ([`Transaction::deadline`]) and set by a replica's clock. A clock
//! that is behind would make every commit too late, revocation's too; so what leaves here is set
//! forward or back by what the two clocks were seen to differ by. A cluster has a clock on each of its
//! nodes: what is seen of one shard says nothing about another.

use super::{Log, Outcome, Position, Store, StoreError, Tail, Transaction, Write};
use crate::clock::Clock;
use crate::ids::ShardId;
use async_trait::async_trait;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;

/// Shards whose clock is asked for at once.
const ABREAST: usize = 8;
/// What two readings of one clock may differ by for other reasons than that it was set.
const SAME: time::Duration = time::Duration::SECOND;

/// Nobody writes to this log: for whoever wants of a shard only what every tail tells, what time it is there
/// and that its replicas have what was written before.
pub fn time_log(shard: ShardId) -> Log {
    Log {
        shard,
        name: "time",
    }
}

/// A store that takes deadlines by this replica's clock.
#[derive(Debug)]
pub struct InStoreTime {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// The clock of the installation's own shard minus ours, in milliseconds: seen with every look at the fences.
    ahead: AtomicI64,
    /// Each other shard's minus that one, which changes seldom.
    apart: HashMap<ShardId, AtomicI64>,
}

impl InStoreTime {
    /// Looks at the store's clocks once before anything is committed, and with every tail from then on.
    pub async fn over(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let timed = Self {
            store,
            clock,
            ahead: AtomicI64::new(0),
            apart: ShardId::all()
                .map(|shard| (shard, AtomicI64::new(0)))
                .collect(),
        };
        timed.look(ShardId::INSTALLATION).await?;
        // One that does not answer now is looked at when it finds a commit too late.
        let looks: Vec<_> = futures_util::stream::iter(ShardId::all())
            .map(|shard| timed.look(shard))
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        for error in looks.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "what time it is there is not known yet");
        }
        Ok(timed)
    }

    async fn look(&self, shard: ShardId) -> Result<(), StoreError> {
        let log = time_log(shard);
        let tail = self.tail(&log, Position::ORIGIN, 1, Duration::ZERO).await;
        tail.map(drop)
    }

    fn note(&self, shard: ShardId, store_now: OffsetDateTime) {
        let ahead = (store_now - self.clock.now()).whole_milliseconds();
        let ahead = i64::try_from(ahead).unwrap_or(0);
        match self.apart.get(&shard) {
            None => self.ahead.store(ahead, Ordering::Relaxed),
            Some(apart) => {
                let apart_now = ahead.saturating_sub(self.ahead.load(Ordering::Relaxed));
                apart.store(apart_now, Ordering::Relaxed);
            }
        }
    }

    fn ahead(&self, shard: ShardId) -> time::Duration {
        let apart = self.apart.get(&shard);
        let apart = apart.map_or(0, |apart| apart.load(Ordering::Relaxed));
        let ahead = self.ahead.load(Ordering::Relaxed);
        time::Duration::milliseconds(ahead.saturating_add(apart))
    }

    /// The store's clock: for what all replicas must agree on.
    pub fn there(self: Arc<Self>) -> Arc<dyn Clock> {
        Arc::new(There(self))
    }

    /// This replica's clock, and never later than what most of the store says: for whatever says that something is
    /// over. One node whose clock is wrong neither ends anything early nor keeps anything alive.
    pub fn no_later(self: Arc<Self>) -> Arc<dyn Clock> {
        Arc::new(NoLater(self))
    }

    /// What this replica calls `now`, as the store says it.
    fn store_now(&self, shard: ShardId, now: OffsetDateTime) -> OffsetDateTime {
        now.checked_add(self.ahead(shard)).unwrap_or(now)
    }

    fn in_store_time(&self, mut transaction: Transaction) -> Transaction {
        let shard = transaction.shard;
        transaction.deadline = self.store_now(shard, transaction.deadline);
        for write in &mut transaction.writes {
            // By a clock that is behind it would be gone before what names it.
            if let Write::Unshare { until, .. } = write {
                *until = self.store_now(shard, *until).max(*until);
            }
        }
        transaction
    }
}

#[async_trait]
impl crate::store::Over for InStoreTime {
    fn below(&self) -> &dyn Store {
        self.store.as_ref()
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let shard = transaction.shard;
        let before = self.ahead(shard);
        let sent = self.in_store_time(transaction.clone());
        let outcome = self.store.commit(sent).await?;
        // After a failover another clock may be there, which was never looked at. Nothing was written.
        if outcome == Outcome::TooLate
            && self.look(shard).await.is_ok()
            && self.ahead(shard) > before + SAME
        {
            return self.store.commit(self.in_store_time(transaction)).await;
        }
        Ok(outcome)
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let tail = self.store.tail(log, after, limit, wait).await?;
        if let Tail::Entries { store_now, .. } = &tail {
            self.note(log.shard, *store_now);
        }
        Ok(tail)
    }
}

#[derive(Debug)]
struct There(Arc<InStoreTime>);

impl Clock for There {
    fn now(&self) -> OffsetDateTime {
        self.0.store_now(ShardId::INSTALLATION, self.0.clock.now())
    }

    fn since_boot(&self) -> Duration {
        self.0.clock.since_boot()
    }
}

#[derive(Debug)]
struct NoLater(Arc<InStoreTime>);

impl Clock for NoLater {
    fn now(&self) -> OffsetDateTime {
        let now = self.0.clock.now();
        let shards = ShardId::all().chain([ShardId::INSTALLATION]);
        let mut there: Vec<_> = shards.map(|shard| self.0.store_now(shard, now)).collect();
        there.sort_unstable();
        let middle = there.get(there.len() / 2).copied();
        middle.map_or(now, |middle| middle.min(now))
    }

    fn since_boot(&self) -> Duration {
        self.0.clock.since_boot()
    }
}

#[cfg(test)]
mod tests;
