//! `mode = "observe"`: what `require` and `when` would refuse is written down instead, for a while.
//!
//! It relaxes these two and nothing else: no grant, no ceiling, no tether, no forbid.

use super::trace::Trace;
use super::{Denied, Mission};
use crate::agents::Agent;
use crate::ids::TargetId;
use time::OffsetDateTime;

/// What one decision let pass because its mission only observes.
#[derive(Debug)]
pub(super) struct Observer {
    observes: bool,
    passed: Vec<Denied>,
}

impl Observer {
    /// INVARIANT: without a ceiling of the agent's own on the target there is nothing but the
    /// mission that bounds it, and then the mission enforces.
    pub fn of(mission: &Mission, agent: &Agent, target: &TargetId, now: OffsetDateTime) -> Self {
        let ceiling = agent.ceiling.as_ref();
        let is_bounded = ceiling.is_some_and(|ceiling| ceiling.contains_key(target));
        Self {
            observes: is_bounded && mission.observes(now),
            passed: Vec::new(),
        }
    }

    /// The step as it is, or, where the mission observes, passed and remembered.
    pub fn step<T>(
        &mut self,
        (trace, name): (&mut Trace, &'static str),
        outcome: Result<T, Denied>,
        relaxed: impl FnOnce(&Denied) -> Option<T>,
        told: impl FnOnce(&T) -> String,
    ) -> Result<T, Denied> {
        let stands_in = match &outcome {
            Err(denied) if self.observes => relaxed(denied),
            _ => None,
        };
        match (outcome, stands_in) {
            (Err(denied), Some(value)) => {
                let value = trace.step(name, Ok(value), |_| {
                    format!("only observed, enforced it refuses: {}", denied.detail)
                });
                self.passed.push(denied);
                value
            }
            (outcome, _) => trace.step(name, outcome, told),
        }
    }

    pub fn observes(&self) -> bool {
        self.observes
    }

    pub fn into_passed(self) -> Vec<Denied> {
        self.passed
    }
}
