//! How far a revocation is, as it is told.

use super::recorded::Recorded;
use crate::broker::Broker;
use crate::broker::revoke::{Coverage, ToCome};
use crate::fences::FenceKind;
use crate::leases::SweptTo;
use crate::wire::{Covered, RevocationReceipt, RevocationState, Selector};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Moments that are told apart; what comes closer together counts from the next one on.
const MOST_MOMENTS: usize = 1024;

/// How far this replica had read the fence log, and since when at the latest. No clocks are compared: what was
/// read here was on the log by then, and each other replica has read it a view's greatest age later, or refuses.
#[derive(Debug, Default)]
pub(in crate::broker) struct ReadTo(Mutex<VecDeque<(Duration, u64)>>);

impl ReadTo {
    /// Notes how far it is, and answers how far it was this long ago.
    fn long_ago(&self, (now, sequence): (Duration, u64), age: Duration) -> Option<u64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.back() {
            // INVARIANT: of a log that is shorter now nothing was read yet: it is another one.
            Some((_, last)) if *last > sequence => {
                known.clear();
                known.push_back((now, sequence));
            }
            Some((_, last)) if *last == sequence || known.len() >= MOST_MOMENTS => {}
            _ => known.push_back((now, sequence)),
        }
        let is_old = |at: &(Duration, u64)| now.saturating_sub(at.0) >= age;
        while known.get(1).is_some_and(is_old) {
            known.pop_front();
        }
        known.front().filter(|at| is_old(at)).map(|(_, read)| *read)
    }
}

/// What keeps a revocation from being called confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InTheWay {
    Nothing,
    /// Records that cannot be read, and nothing else.
    Unreadable,
    More,
}

impl Broker {
    /// Whether it is found now that every replica has read this fence, or refuses whatever it is asked.
    ///
    /// SECURITY: nothing is called dead before. Where the fence is not read yet its credentials are vouched for.
    pub(super) fn notes_read(&self, recorded: &mut Recorded) -> bool {
        let read = self.read_to();
        let is_new = recorded.replicated
            && recorded.ends()
            && !recorded.read
            && read.is_some_and(|read| recorded.position <= read);
        recorded.read |= is_new;
        is_new
    }

    /// How far every replica has read the log, as far as it is known here.
    pub(super) fn read_to(&self) -> Option<u64> {
        // INVARIANT: what nobody acknowledged may be lost, and read by nobody else.
        let now = (self.clock.since_boot(), self.fences.replicated_to());
        self.read_to.long_ago(now, self.fences.max_age())
    }

    /// INVARIANT: `swept` was read before `counted`. A lease that was decided before the fence is there when it is
    /// counted, or its shard was not swept yet.
    fn in_the_way(
        &self,
        recorded: &Recorded,
        counted: Option<&Coverage>,
        swept: Option<SweptTo>,
    ) -> InTheWay {
        let log = self.fences.replicated_to();
        // What this replica has not read yet it cannot count for ended.
        let is_read = log >= recorded.position;
        let Some(counted) = counted.filter(|_| is_read) else {
            return InTheWay::More;
        };
        let is_past = swept.is_some_and(|swept| swept.is_past(recorded.position, log));
        let comes = match counted.to_come {
            ToCome::Anything => !is_past,
            ToCome::Handing => true,
            ToCome::Nothing => false,
        };
        if counted.outstanding > 0 {
            return InTheWay::More;
        }
        if !recorded.ends() {
            return InTheWay::Nothing;
        }
        if comes || !recorded.read {
            return InTheWay::More;
        }
        match counted.unreadable.is_empty() {
            true => InTheWay::Nothing,
            false => InTheWay::Unreadable,
        }
    }

    pub(super) fn state(
        &self,
        recorded: &Recorded,
        counted: Option<&Coverage>,
        swept: Option<SweptTo>,
    ) -> RevocationState {
        if !recorded.replicated {
            return RevocationState::NotYetReplicated;
        }
        if recorded.fence.kind == FenceKind::Lift {
            return RevocationState::Lifted;
        }
        if self.in_the_way(recorded, counted, swept) != InTheWay::Nothing {
            return RevocationState::Revoking;
        }
        if counted.is_some_and(|counted| counted.until_expiry > 0) {
            RevocationState::ConfirmedExceptExpiry
        } else {
            RevocationState::Confirmed
        }
    }

    /// Somebody has to look at what cannot be read, and may take days.
    pub(super) fn waits_for_somebody(
        &self,
        recorded: &Recorded,
        counted: &Coverage,
        swept: Option<SweptTo>,
    ) -> bool {
        recorded.replicated
            && self.in_the_way(recorded, Some(counted), swept) == InTheWay::Unreadable
    }

    pub(super) fn finished(
        &self,
        id: Option<Uuid>,
        recorded: Recorded,
        counted: Option<Coverage>,
        swept: Option<SweptTo>,
    ) -> RevocationReceipt {
        let state = self.state(&recorded, counted.as_ref(), swept);
        let holds = match recorded.fence.kind {
            FenceKind::Hold => true,
            // Somebody else's hold may stand on it still.
            FenceKind::Lift => self.view().map_or(true, |view| {
                !view.holds_on(&recorded.fence.dimension).is_empty()
            }),
            _ => false,
        };
        let position = Some(recorded.position);
        receipt((id, position), recorded.selector, state, (holds, counted))
    }
}

pub(in crate::broker) fn receipt(
    (id, position): (Option<Uuid>, Option<u64>),
    selector: Selector,
    state: RevocationState,
    (holds, counted): (bool, Option<Coverage>),
) -> RevocationReceipt {
    RevocationReceipt {
        id,
        selector,
        position,
        state,
        holds,
        covered: counted.map(|coverage| Covered {
            leases: coverage.by_class,
            outstanding: coverage.outstanding,
            unreadable: coverage.unreadable.len() as u64,
            given_up: coverage.given_up.len() as u64,
            agents: coverage.agents.into_iter().collect(),
            targets: coverage.targets.into_iter().collect(),
        }),
    }
}

pub(super) fn is_done(state: RevocationState) -> bool {
    use RevocationState::{Confirmed, ConfirmedExceptExpiry};
    matches!(state, Confirmed | ConfirmedExceptExpiry)
}

#[cfg(test)]
mod tests {
    use super::ReadTo;
    use std::time::Duration;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_was_read_is_read_everywhere_only_a_views_greatest_age_later() {
        let read = ReadTo::default();
        let age = at(1000);
        let told = |now, log| read.long_ago((at(now), log), age);
        assert_eq!(told(5000, 7), None);
        assert_eq!(told(5400, 8), None);
        assert_eq!(told(5999, 8), None);
        assert_eq!(told(6000, 8), Some(7));
        assert_eq!(told(6399, 9), Some(7));
        assert_eq!(told(6400, 9), Some(8));
        assert_eq!(told(9000, 9), Some(9));
    }

    #[test]
    fn nothing_was_read_of_a_log_that_is_shorter_now() {
        let read = ReadTo::default();
        let told = |now, log| read.long_ago((at(now), log), at(1000));
        assert_eq!(told(5000, 9), None);
        assert_eq!(told(6000, 9), Some(9));
        assert_eq!(told(6100, 8), None);
        assert_eq!(told(7100, 9), Some(8));
    }
}
