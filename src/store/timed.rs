//! The store's time, seen from a replica whose clock is another one.
//!
//! Deadlines are judged by the store ([`Transaction::deadline`]) and set by a replica's clock. A clock
//! that is behind would make every commit too late, revocation's too; so what leaves here is set
//! forward or back by what the two clocks were seen to differ by.

use super::{
    Finding, Generation, Index, Key, Log, Outcome, Position, Ranked, Record, Store, StoreError,
    Tail, Transaction,
};
use crate::clock::Clock;
use crate::ids::ShardId;
use async_trait::async_trait;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;

/// A store that takes deadlines by this replica's clock.
#[derive(Debug)]
pub struct InStoreTime {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// The store's clock minus ours, in milliseconds.
    ahead: AtomicI64,
}

impl InStoreTime {
    /// Looks at the store's clock once before anything is committed, and with every tail from then on.
    pub async fn over(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let timed = Self {
            store,
            clock,
            ahead: AtomicI64::new(0),
        };
        // Nobody writes to this one: all that is wanted is what time it is there.
        let log = Log {
            shard: ShardId::INSTALLATION,
            name: "time",
        };
        timed
            .tail(&log, Position::ORIGIN, 1, Duration::ZERO)
            .await?;
        Ok(timed)
    }

    fn ahead(&self) -> time::Duration {
        time::Duration::milliseconds(self.ahead.load(Ordering::Relaxed))
    }

    /// The store's clock: for what all replicas must agree on.
    pub fn there(self: Arc<Self>) -> Arc<dyn Clock> {
        Arc::new(There(self))
    }

    /// This replica's clock, and never later than the store's: for whatever says that something is over.
    pub fn no_later(self: Arc<Self>) -> Arc<dyn Clock> {
        Arc::new(NoLater(self))
    }

    /// What this replica calls `now`, as the store says it.
    fn store_now(&self, now: OffsetDateTime) -> OffsetDateTime {
        now.checked_add(self.ahead()).unwrap_or(now)
    }
}

#[async_trait]
impl Store for InStoreTime {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.store.get(keys).await
    }

    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.store.notes(keys).await
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.deadline = self.store_now(transaction.deadline);
        self.store.commit(transaction).await
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        self.store.range(index, ranks, limit).await
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
            let ahead = (*store_now - self.clock.now()).whole_milliseconds();
            self.ahead
                .store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
        }
        Ok(tail)
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        self.store.generation(shard).await
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        self.store.check().await
    }
}

#[derive(Debug)]
struct There(Arc<InStoreTime>);

impl Clock for There {
    fn now(&self) -> OffsetDateTime {
        self.0.store_now(self.0.clock.now())
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
        self.0.store_now(now).min(now)
    }

    fn since_boot(&self) -> Duration {
        self.0.clock.since_boot()
    }
}
