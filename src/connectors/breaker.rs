//! Stops asking a target that does not answer, and lets one request at a time find out whether it
//! is back. Judged by the boot clock, which neither jumps nor stops.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failures in a row that open it.
const THRESHOLD: u32 = 5;
/// How long it stays open before one request may try.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    closed_again_at: Duration,
    probing: bool,
}

/// Permission for one request. Dropped without a word (the caller went away), it only makes room
/// for the next probe.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    /// A pass, or how long to stay away.
    pub fn pass(&self, since_boot: Duration) -> Result<Pass<'_>, Duration> {
        let mut state = self.lock();
        if state.failures < THRESHOLD {
            return Ok(Pass {
                breaker: self,
                probe: false,
            });
        }
        let left = state.closed_again_at.saturating_sub(since_boot);
        if !left.is_zero() {
            return Err(left);
        }
        if state.probing {
            return Err(Duration::from_secs(1));
        }
        state.probing = true;
        Ok(Pass {
            breaker: self,
            probe: true,
        })
    }

    /// Whether it is left alone, but for a probe.
    pub fn is_open(&self) -> bool {
        self.lock().failures >= THRESHOLD
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The target answered, whatever it said.
    pub fn answered(self) {
        self.breaker.lock().failures = 0;
    }

    pub fn failed(self, since_boot: Duration) {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        state.closed_again_at = since_boot.saturating_add(PAUSE);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..THRESHOLD {
            breaker.pass(START).unwrap().failed(START);
        }
        breaker
    }

    #[test]
    fn a_target_that_never_answers_is_left_alone_for_a_while() {
        let breaker = opened();
        assert_eq!(breaker.pass(START).unwrap_err(), PAUSE);
        assert!(breaker.pass(START + PAUSE / 2).is_err());
        assert!(breaker.pass(START + PAUSE).is_ok());
    }

    #[test]
    fn one_failure_fewer_does_not_open_it() {
        let breaker = Breaker::default();
        for _ in 1..THRESHOLD {
            breaker.pass(START).unwrap().failed(START);
        }
        breaker.pass(START).unwrap().answered();
        breaker.pass(START).unwrap().failed(START);
        assert!(breaker.pass(START).is_ok());
    }

    #[test]
    fn one_request_at_a_time_tries_whether_it_is_back() {
        let breaker = opened();
        let later = START + PAUSE;
        let probe = breaker.pass(later).unwrap();
        assert!(breaker.pass(later).is_err());
        probe.answered();
        assert!(breaker.pass(later).is_ok());
    }

    #[test]
    fn a_failed_probe_opens_it_again_at_once() {
        let breaker = opened();
        let later = START + PAUSE;
        breaker.pass(later).unwrap().failed(later);
        assert_eq!(breaker.pass(later).unwrap_err(), PAUSE);
    }

    #[test]
    fn a_probe_that_was_given_up_does_not_block_the_next() {
        let breaker = opened();
        let later = START + PAUSE;
        drop(breaker.pass(later).unwrap());
        assert!(breaker.pass(later).is_ok());
    }
}
