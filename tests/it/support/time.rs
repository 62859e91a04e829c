//! A clock that a test sets forward, and a store that goes with it: in that world time goes by for
//! both. Freshness stays the machine's own.

use async_trait::async_trait;
use dayfly::clock::{Clock, SystemClock};
use dayfly::store::{Log, Outcome, Position, Store, StoreError, Tail, Transaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;

#[derive(Debug)]
pub struct Manual {
    start: OffsetDateTime,
    ahead_ms: AtomicU64,
    machine: SystemClock,
}

impl Manual {
    /// Stands at the present second until it is told.
    pub fn start() -> Arc<Self> {
        let machine = SystemClock::new();
        Arc::new(Self {
            start: machine.now().replace_nanosecond(0).unwrap(),
            ahead_ms: AtomicU64::new(0),
            machine,
        })
    }

    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.ahead_ms.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for Manual {
    fn now(&self) -> OffsetDateTime {
        self.start + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }

    fn since_boot(&self) -> Duration {
        self.machine.since_boot()
    }
}

/// The machine's clock, wrong by as many seconds as a test says.
#[derive(Debug, Default)]
pub struct Wrong {
    machine: SystemClock,
    by: AtomicI64,
}

impl Wrong {
    pub fn by(&self, seconds: i64) {
        self.by.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Wrong {
    fn now(&self) -> OffsetDateTime {
        self.machine.now() + time::Duration::seconds(self.by.load(Ordering::SeqCst))
    }

    fn since_boot(&self) -> Duration {
        self.machine.since_boot()
    }
}

/// A store whose time is that of a clock.
#[derive(Debug)]
pub struct InItsTime {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    machine: SystemClock,
}

impl InItsTime {
    pub fn of(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let machine = SystemClock::new();
        Self {
            store,
            clock,
            machine,
        }
    }
}

#[async_trait]
impl dayfly::store::Over for InItsTime {
    fn below(&self) -> &dyn Store {
        self.store.as_ref()
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.deadline += self.machine.now() - self.clock.now();
        self.store.commit(transaction).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let mut tail = self.store.tail(log, after, limit, wait).await?;
        if let Tail::Entries { store_now, .. } = &mut tail {
            *store_now = self.clock.now();
        }
        Ok(tail)
    }
}
