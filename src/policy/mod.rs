//! How far? In: an admitted agent and its intent. Out: a [`Grant`], or the one condition that failed.

mod denial;
mod grant;
mod mission;

pub use denial::{Denial, Denied};
pub use grant::Grant;
#[cfg(test)]
pub use grant::GrantBuilder;
pub use mission::{Mission, Target};

use crate::agents::AdmittedAgent;
use crate::fences::View;
use crate::ids::{MissionId, TargetId};
use crate::intent::Intent;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// One problem of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PolicyError {
    /// `mission.deploy-checkout.when`, `target.aws-prod.ceiling[0]`, `policies/org.cedar`.
    pub place: String,
    pub problem: String,
}

/// Missions, targets and policies, compiled.
#[derive(Debug)]
pub struct Policy {
    missions: BTreeMap<MissionId, Mission>,
    targets: BTreeMap<TargetId, Target>,
    config_hash: String,
}

/// Every check of one decision, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub checks: Vec<Check>,
    /// What `decide` answers to the same question.
    pub denied: Option<Denied>,
    /// One sentence for a person.
    pub summary: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub passed: bool,
    pub detail: String,
}

impl Policy {
    /// `forbids`: name of the file and its text, for each of `policies/*.cedar`.
    pub fn new(
        missions: Vec<Mission>,
        targets: Vec<Target>,
        forbids: &[(String, String)],
        config_hash: String,
    ) -> Result<Self, Vec<PolicyError>> {
        let _ = forbids;
        Ok(Self {
            missions: missions.into_iter().map(|m| (m.id.clone(), m)).collect(),
            targets: targets.into_iter().map(|t| (t.id.clone(), t)).collect(),
            config_hash,
        })
    }

    pub fn missions(&self) -> impl Iterator<Item = &Mission> {
        self.missions.values()
    }

    pub fn mission(&self, id: &MissionId) -> Option<&Mission> {
        self.missions.get(id)
    }

    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.values()
    }

    pub fn target(&self, id: &TargetId) -> Option<&Target> {
        self.targets.get(id)
    }

    pub fn config_hash(&self) -> &str {
        &self.config_hash
    }

    /// The whole decision. Nothing is remembered and nothing is spent.
    pub fn decide(
        &self,
        agent: &AdmittedAgent,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<Grant, Denied> {
        let _ = (agent, intent, view, now);
        Err(Denied {
            reason: Denial::UnknownMission,
            mission: None,
            at: None,
            detail: "nothing is decided yet".to_owned(),
        })
    }

    /// The same walk as [`Policy::decide`], told step by step.
    pub fn explain(
        &self,
        agent: &AdmittedAgent,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Explanation {
        let denied = self.decide(agent, intent, view, now).err();
        Explanation {
            checks: Vec::new(),
            summary: String::new(),
            denied,
        }
    }
}
