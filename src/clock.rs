//! Time, read once per request. Below the corridor `now` is a parameter.

use std::fmt::Debug;
use std::time::Duration;
use time::OffsetDateTime;

/// Wall time for meaning, boot time for freshness.
pub trait Clock: Debug + Send + Sync {
    /// Wall time, UTC, whole microseconds.
    fn now(&self) -> OffsetDateTime;
    /// Time since boot, counting sleep: the only clock that freshness may be judged by, because
    /// it neither jumps nor stops.
    fn since_boot(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock {
    _private: (),
}

impl SystemClock {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn since_boot(&self) -> Duration {
        let spec = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(spec.tv_sec).unwrap_or(0),
            u32::try_from(spec.tv_nsec).unwrap_or(0),
        )
    }
}
