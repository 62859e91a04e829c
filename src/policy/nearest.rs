//! The mission that comes nearest to a request that was denied: what its author should look at.

use super::question::Question;
use super::trace::Trace;
use super::{Check, Denied, Mission, Policy, request};
use crate::fences::View;
use crate::ids::MissionId;
use crate::intent::Asked;
use time::OffsetDateTime;

/// Told to operators and mission owners, never to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    pub mission: MissionId,
    /// `false`: it allows what was asked, to other agents.
    pub lists_agent: bool,
    /// What it lacks. `None`: it would grant it, if it were named.
    pub missing: Option<Check>,
}

impl Policy {
    /// Of the agent's own missions the one that fails last; where none of them allows what was
    /// asked, a mission of others that does.
    pub(super) fn nearest(
        &self,
        question: &Question<'_>,
        denied: &Denied,
        (view, now): (&View, OffsetDateTime),
    ) -> Option<Nearest> {
        let asked = Asked {
            mission: None,
            ..question.asked.clone()
        };
        let own = self
            .of_agent(&question.agent.id)
            .map(|mission| self.with(mission, question, &asked, (view, now)))
            .max_by_key(|(passed, _)| *passed);
        let allows = |nearest: &Nearest| match &nearest.missing {
            None => true,
            Some(missing) => !BEFORE_ALLOWED.contains(&missing.name),
        };
        match own {
            Some((_, nearest)) if allows(&nearest) => Some(nearest),
            own => self
                .of_others(question, &asked)
                .or(own.map(|(_, nearest)| nearest)),
        }
        // The one that was refused is told anyway.
        .filter(|nearest| denied.mission.as_ref() != Some(&nearest.mission))
    }

    fn with(
        &self,
        mission: &Mission,
        question: &Question<'_>,
        asked: &Asked,
        (view, now): (&View, OffsetDateTime),
    ) -> (usize, Nearest) {
        let named = Question {
            mission: Some(&mission.id),
            asked,
            ..*question
        };
        let mut trace = Trace::Told(Vec::new());
        // Its outcome is the last of the checks.
        let granted = self.walk(&named, view, now, &mut trace).is_ok();
        let mut checks = trace.into_checks();
        let passed = checks.len() + usize::from(granted);
        let nearest = Nearest {
            mission: mission.id.clone(),
            lists_agent: true,
            missing: if granted { None } else { checks.pop() },
        };
        (passed, nearest)
    }

    fn of_others(&self, question: &Question<'_>, asked: &Asked) -> Option<Nearest> {
        let target = self.named_target(question, |_| true).ok().flatten()?;
        let agent = &question.agent.id;
        let allows = |mission: &&Mission| {
            let named = Question {
                mission: Some(&mission.id),
                asked,
                ..*question
            };
            let allow = mission.allow.get(&target.id);
            let request = request::of(&named, mission, target);
            allow.zip(request.ok()).is_some_and(|(allow, request)| {
                target.vocabulary.covers(allow, &request.authority) == Ok(true)
            })
        };
        let mission = self
            .missions()
            .filter(|mission| !mission.agents.contains(agent))
            .find(allows)?;
        Some(Nearest {
            mission: mission.id.clone(),
            lists_agent: false,
            missing: None,
        })
    }
}

/// Checks that come before the mission was found to allow what was asked.
const BEFORE_ALLOWED: [&str; 11] = [
    "mission",
    "mission_ends",
    "signer",
    "on_behalf_of",
    "target",
    "platform_signer",
    "binding",
    "tether",
    "holds",
    "request",
    "within_mission",
];
