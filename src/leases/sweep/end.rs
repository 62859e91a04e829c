//! Ends one credential downstream: tried with growing pauses, and never for the last time while it
//! may be alive.

use super::{Sweeper, Swept};
use crate::connectors::{Connector, ConnectorError, Ended};
use crate::ids::{self, TargetId};
use crate::leases::state::{Event, State, Why};
use crate::leases::{Lease, LeaseError, TOLERANCE};
use crate::steps::{self, Step};
use std::sync::PoisonError;
use std::time::Duration;
use time::OffsetDateTime;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long a target that did not answer is left alone, so that others have their turn.
const SILENCE: Duration = Duration::from_secs(5);

const LATE: &str = "no answer in time";

/// What was heard of a target, by the time since boot.
#[derive(Debug, Default)]
pub(super) struct Heard {
    answered: Option<Duration>,
    silent_until: Duration,
}

impl Heard {
    fn answered(&mut self, at: Duration) {
        *self = Self {
            answered: Some(at),
            silent_until: Duration::ZERO,
        };
    }

    /// Not if it has answered somebody else meanwhile: then it is one lease that takes long.
    fn was_silent(&mut self, asked: Duration, at: Duration) {
        if self.answered.is_none_or(|answered| answered < asked) {
            self.silent_until = at + SILENCE;
        }
    }

    fn silent_for(&self, at: Duration) -> Option<Duration> {
        self.silent_until
            .checked_sub(at)
            .filter(|left| !left.is_zero())
    }
}

/// How an attempt went.
enum Attempt {
    Dead,
    DeadUncollected,
    /// Nothing can be done about it, or nothing certain can be said before this moment.
    Wait(OffsetDateTime),
    /// The claim has set when the next attempt is due.
    Failed(String),
}

impl Sweeper {
    pub(super) async fn end(
        &self,
        lease: &Lease,
        now: OffsetDateTime,
    ) -> Result<Swept, LeaseError> {
        if let Some(left) = self.silent_for(&lease.target) {
            let mut swept = self.postpone(lease, now + left).await?;
            swept.left_alone = 1;
            return Ok(swept);
        }
        // INVARIANT: the index may have been read before another sweeper's claim and the lease after
        // it: a claim on top of a claim would succeed.
        if lease.claimed_until.is_some_and(|until| now < until) {
            return Ok(Swept::default());
        }
        // The claim: whoever writes the next attempt's time may make this one.
        let retry_at = now + pause(lease.attempts);
        steps::at(Step::EndClaiming);
        let claimed = self
            .leases
            .step(lease, retry_at, |record| {
                record.attempts = record.attempts.saturating_add(1);
                record.claimed_until = Some(retry_at);
                true
            })
            .await?;
        steps::at(Step::EndClaimed);
        let Some(lease) = claimed else {
            return Ok(Swept::default());
        };
        let attempt = if lease.ends_here() {
            Attempt::Dead
        } else {
            match (self.connectors)(&lease.target) {
                Some(connector) => self.attempt(connector.as_ref(), &lease, now).await,
                None => Attempt::Failed("no target of this name is configured".to_owned()),
            }
        };
        steps::at(Step::EndRecording);
        let swept = self.record(&lease, attempt, retry_at, now).await?;
        steps::at(Step::EndRecorded);
        Ok(swept)
    }

    /// Nothing but the time of the next attempt.
    pub(super) async fn postpone(
        &self,
        lease: &Lease,
        until: OffsetDateTime,
    ) -> Result<Swept, LeaseError> {
        self.leases.step(lease, until, |_| true).await?;
        Ok(Swept {
            alive: 1,
            ..Swept::default()
        })
    }

    async fn attempt(
        &self,
        connector: &dyn Connector,
        lease: &Lease,
        now: OffsetDateTime,
    ) -> Attempt {
        // SECURITY: a target of this name that makes something else knows nothing of what was made before it.
        if connector.promises().class != lease.class {
            let what = "the target of this name is of another kind now: give that one another name";
            return Attempt::Failed(what.to_owned());
        }
        let handle = match self.leases.handle(lease) {
            Ok(handle) => handle,
            Err(error) => return Attempt::Failed(error.to_string()),
        };
        steps::at(Step::Ending);
        let asked = self.leases.clock.since_boot();
        let ending = connector.end(&lease.record().id, handle.as_ref());
        let ended = tokio::time::timeout(self.patience, ending).await;
        let ended = ended.unwrap_or_else(|_| Err(ConnectorError::Unknown(LATE.to_owned())));
        self.note(&lease.target, asked, ended.is_ok());
        steps::at(Step::Ended);
        // INVARIANT: without the mint's answer, "there is nothing of that name" says something only once no
        // mint can still be on its way.
        let settled = lease.mint_by + TOLERANCE;
        let unanswered = handle.is_none() || !lease.was_answered();
        let too_early = unanswered && now < settled;
        match ended {
            Ok(Ended::Dead | Ended::DeadUncollected) if too_early => Attempt::Wait(settled),
            Ok(Ended::Dead) => Attempt::Dead,
            Ok(Ended::DeadUncollected) => Attempt::DeadUncollected,
            Ok(Ended::LivesUntilExpiry) => Attempt::Wait(lease.lives_until + TOLERANCE),
            Err(error) => Attempt::Failed(error.to_string()),
        }
    }

    /// Who was asked at this moment has answered, or has not.
    fn note(&self, target: &TargetId, asked: Duration, answered: bool) {
        let at = self.leases.clock.since_boot();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.entry(target.clone()).or_default();
        if answered {
            heard.answered(at);
        } else if at.saturating_sub(asked) >= self.patience / 2 {
            // A connector may have given up sooner than we do, by its own bound.
            heard.was_silent(asked, at);
        }
    }

    fn silent_for(&self, target: &TargetId) -> Option<Duration> {
        let at = self.leases.clock.since_boot();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(target)?.silent_for(at)
    }

    async fn record(
        &self,
        lease: &Lease,
        attempt: Attempt,
        retry_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<Swept, LeaseError> {
        let mut swept = Swept::default();
        let why = lease
            .closing
            .as_ref()
            .map_or(Why::Revoked, |closing| closing.why);
        let outlived = lease.expires_by_itself && now >= lease.lives_until + TOLERANCE;
        match attempt {
            Attempt::Dead => {
                let closed = self
                    .leases
                    .step(lease, now, |record| {
                        record.uncollected = false;
                        record.state != State::Revoking
                            || record.advance(Event::Confirmed(why), None, now)
                    })
                    .await?;
                swept.closed += u64::from(closed.is_some());
            }
            Attempt::DeadUncollected => {
                let closed = self
                    .leases
                    .step(lease, retry_at, |record| {
                        record.uncollected = true;
                        record.state != State::Revoking
                            || record.advance(Event::Confirmed(why), None, now)
                    })
                    .await?;
                swept.closed += u64::from(closed.is_some());
            }
            Attempt::Wait(_) | Attempt::Failed(_) if outlived && lease.state.is_open() => {
                swept.lapsed += u64::from(self.lapse(lease, now).await?);
            }
            Attempt::Wait(until) => swept.add(self.postpone(lease, until).await?),
            Attempt::Failed(error) => {
                tracing::warn!(lease = %lease.id, target = %lease.target, attempts = lease.attempts, %error, "a credential could not be ended; it is tried again");
                swept.alive += 1;
            }
        }
        Ok(swept)
    }
}

/// Doubles, up to a bound, and spreads by a quarter so that a target that comes back is not hit by
/// everything at once.
fn pause(attempts: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(attempts.min(16)).unwrap_or(1));
    let base = doubled.min(LONGEST_PAUSE);
    ids::between(base * 3 / 4, base * 5 / 4)
}

#[cfg(test)]
mod tests {
    use super::{Heard, SILENCE};
    use std::time::Duration;

    #[test]
    fn a_target_that_answers_somebody_is_not_left_alone_for_one_that_takes_long() {
        let at = Duration::from_secs;
        let mut heard = Heard::default();
        heard.was_silent(at(10), at(20));
        assert_eq!(heard.silent_for(at(21)), Some(SILENCE - at(1)));
        assert_eq!(heard.silent_for(at(25)), None);
        heard.was_silent(at(30), at(40));
        heard.answered(at(41));
        assert_eq!(heard.silent_for(at(42)), None);
        // Asked before, and given up after it.
        heard.was_silent(at(35), at(45));
        assert_eq!(heard.silent_for(at(46)), None);
        heard.was_silent(at(42), at(52));
        assert!(heard.silent_for(at(53)).is_some());
    }
}
