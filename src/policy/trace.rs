//! What was checked, in order. `decide` and `explain` walk the same path; only the second one
//! keeps notes.

use super::Denied;

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `mission`, `target`, `request`, ...: see `docs/policy.md`.
    pub name: &'static str,
    pub passed: bool,
    pub detail: String,
}

#[derive(Debug)]
pub(super) enum Trace {
    Silent,
    Told(Vec<Check>),
}

impl Trace {
    /// Passes the outcome of a step on, and notes it.
    pub fn step<T>(
        &mut self,
        name: &'static str,
        outcome: Result<T, Denied>,
        told: impl FnOnce(&T) -> String,
    ) -> Result<T, Denied> {
        if let Self::Told(checks) = self {
            let (passed, detail) = match &outcome {
                Ok(value) => (true, told(value)),
                Err(denied) => (false, denied.detail.clone()),
            };
            checks.push(Check {
                name,
                passed,
                detail,
            });
        }
        outcome
    }

    pub fn into_checks(self) -> Vec<Check> {
        match self {
            Self::Silent => Vec::new(),
            Self::Told(checks) => checks,
        }
    }
}
