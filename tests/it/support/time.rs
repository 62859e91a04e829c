//! A clock that a test sets forward. Freshness stays the machine's own.

use dayfly::clock::{Clock, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
