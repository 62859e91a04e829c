//! How far? In: an admitted agent and its intent. Out: a [`Grant`], or the one condition that
//! failed.
//!
//! Granted authority is covered by the request, the intent, the mission, the agent's ceiling, the
//! target's ceiling and every link of the chain on whose behalf the agent acts; then the mission's required facts hold, and Cedar agrees; last,
//! people have said yes to it where the mission asks them. `decide` and `explain` are one walk, so they never disagree. Nothing is remembered and nothing is spent here.
//! See `docs/policy.md`.

mod access;
mod approval;
mod barred;
mod behalf;
mod compile;
mod denial;
mod grant;
mod mission;
mod nearest;
mod observe;
mod operators;
mod question;
mod recorded;
mod request;
mod requirement;
mod rules;
mod schema;
mod settings;
mod stated;
mod still;
mod tether;
mod trace;
mod walk;

pub use access::{Access, Through, beyond};
pub use approval::{
    APPROVAL, ApprovalTerms, OURSELVES, ToApprove, Unapproved, dimension as approval_dimension,
};
pub use behalf::People;
pub use compile::spoken_of;
pub use denial::{Denial, Denied};
pub use grant::Grant;
#[cfg(test)]
pub use grant::GrantBuilder;
pub use mission::{Binding, Drift, LONGEST_OBSERVATION, Mission, Mode, Target};
pub use nearest::Nearest;
pub use operators::{Administration, OPERATORS_SCHEMA};
pub use recorded::{Beside, Recorded, RecordedBehalf, RecordedParent, observed};
pub use request::words;
pub use requirement::{is_label, labels_meet};
pub use schema::SCHEMA;
pub use stated::StatedRequest;
pub use tether::{contexts, tethers_by};
pub use trace::Check;

use crate::agents::AdmittedAgent;
use crate::authority::Authority;
use crate::fences::View;
use crate::ids::{AgentId, IssuerId, MissionId, TargetId};
use crate::intent::{Intent, Parent};
use question::Question;
use rules::Rules;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use time::OffsetDateTime;
use trace::Trace;
use walk::Decision;

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
    /// The missions that list an agent.
    own: BTreeMap<AgentId, Vec<MissionId>>,
    targets: BTreeMap<TargetId, Target>,
    /// Resource URL to target.
    resources: BTreeMap<String, TargetId>,
    /// The claims that groups of people name.
    asked_of_people: BTreeMap<IssuerId, BTreeSet<String>>,
    rules: Rules,
    config_hash: String,
}

/// Every check of one decision, in order. The last one is the one that failed, if any did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub checks: Vec<Check>,
    /// What `decide` answers to the same question.
    pub denied: Option<Denied>,
    /// Where it was not denied.
    pub granted: Option<Granted>,
    /// One sentence for a person.
    pub summary: String,
    /// Where it was denied and another mission comes nearer.
    pub nearest: Option<Nearest>,
}

/// What a grant would be, without being one: nothing can be minted with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub mission: MissionId,
    pub target: TargetId,
    pub authority: Authority,
    pub ttl: Duration,
}

impl Policy {
    /// `forbids`: name of the file and its text, for each of `policies/*.cedar`. Policies may name
    /// the facts of the built-in issuer presets and those that missions require.
    pub fn new(
        missions: Vec<Mission>,
        targets: Vec<Target>,
        forbids: &[(String, String)],
        config_hash: String,
    ) -> Result<Self, Vec<PolicyError>> {
        Self::with_facts(missions, targets, forbids, config_hash, &[])
    }

    /// The same where the configuration has facts of its own: `facts` holds their names.
    pub fn with_facts(
        missions: Vec<Mission>,
        targets: Vec<Target>,
        forbids: &[(String, String)],
        config_hash: String,
        facts: &[String],
    ) -> Result<Self, Vec<PolicyError>> {
        let mut problems = Vec::new();
        let missions = settings::named("mission", missions, |m| &m.id, &mut problems);
        let targets = settings::named("target", targets, |t| &t.id, &mut problems);
        problems.extend(settings::of_all(&missions, &targets));
        let rules = match Rules::new(&missions, forbids, facts) {
            Ok(rules) if problems.is_empty() => rules,
            Ok(_) => return Err(problems),
            Err(more) => {
                problems.extend(more);
                return Err(problems);
            }
        };
        let resources = targets
            .values()
            .flat_map(|target| {
                let id = &target.id;
                target.resources.iter().map(|url| (url.clone(), id.clone()))
            })
            .collect();
        let mut own: BTreeMap<AgentId, Vec<MissionId>> = BTreeMap::new();
        for mission in missions.values() {
            for agent in &mission.agents {
                let listed = own.entry(agent.clone()).or_default();
                if listed.last() != Some(&mission.id) {
                    listed.push(mission.id.clone());
                }
            }
        }
        Ok(Self {
            asked_of_people: behalf::asked(&missions),
            missions,
            own,
            targets,
            resources,
            rules,
            config_hash,
        })
    }

    /// The whole decision.
    pub fn decide(
        &self,
        agent: &AdmittedAgent,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<Grant, Denied> {
        let question = Question::of(agent, intent);
        let decision = self.walk(&question, view, now, &mut Trace::Silent)?;
        Ok(self.grant(decision, agent, intent, view, now))
    }

    /// The same walk as [`Policy::decide`], told step by step.
    pub fn explain(
        &self,
        agent: &AdmittedAgent,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Explanation {
        self.explain_question(&Question::of(agent, intent), view, now)
    }

    fn explain_question(
        &self,
        question: &Question<'_>,
        view: &View,
        now: OffsetDateTime,
    ) -> Explanation {
        let mut trace = Trace::Told(Vec::new());
        let decided = self.walk(question, view, now, &mut trace);
        let nearest = decided.as_ref().err();
        let nearest = nearest.and_then(|denied| self.nearest(question, denied, (view, now)));
        let agent = &question.agent.id;
        let (summary, granted, denied) = match decided {
            Ok(decision) => {
                let granted = Granted {
                    mission: decision.mission.id.clone(),
                    target: decision.target.id.clone(),
                    authority: decision.authority,
                    ttl: decision.ttl,
                };
                let (mission, target) = (&granted.mission, &granted.target);
                let (ttl, may) = (granted.ttl.as_secs(), words(&granted.authority));
                let text = format!("{mission} grants {agent} on {target}, for {ttl} s: {may}");
                (text, Some(granted), None)
            }
            Err(denied) => (denied.detail.clone(), None, Some(denied)),
        };
        Explanation {
            checks: trace.into_checks(),
            denied,
            granted,
            summary,
            nearest,
        }
    }

    pub fn missions(&self) -> impl Iterator<Item = &Mission> {
        self.missions.values()
    }

    pub fn mission(&self, id: &MissionId) -> Option<&Mission> {
        self.missions.get(id)
    }

    /// Whether the organisation's policies let an operator do this.
    pub fn administer(&self, asked: &Administration<'_>) -> Result<(), String> {
        self.rules.administer(asked)
    }

    /// The missions that list the agent.
    pub fn of_agent(&self, agent: &AgentId) -> impl Iterator<Item = &Mission> {
        let own = self.own.get(agent).into_iter().flatten();
        own.filter_map(|name| self.missions.get(name))
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

    /// The schema that this configuration's policies were validated against.
    pub fn schema(&self) -> String {
        self.rules.schema()
    }

    fn by_name(&self, name: &str) -> Option<&Target> {
        self.targets.get(&name.parse::<TargetId>().ok()?)
    }

    fn by_resource(&self, url: &str) -> Option<&Target> {
        self.targets.get(self.resources.get(url)?)
    }

    fn grant(
        &self,
        decision: Decision<'_>,
        agent: &AdmittedAgent,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Grant {
        let Decision {
            mission, target, ..
        } = decision;
        let (agent, caller) = (agent.agent(), agent.caller());
        // The narrower thing's label wins where two have one of the same name.
        let mut labels = target.labels.clone();
        labels.extend(mission.labels.clone());
        labels.extend(agent.labels.clone());
        Grant {
            agent: agent.id.clone(),
            instance: intent.instance().map(str::to_owned),
            owner: agent.owner.clone(),
            mission: mission.id.clone(),
            target: target.id.clone(),
            vocabulary: target.vocabulary,
            detail_type: target.detail_type,
            authority: decision.authority,
            audience: decision.audience,
            ttl: decision.ttl,
            issuer_url: caller.issuer_url().to_owned(),
            subject: caller.subject().to_owned(),
            task: intent.task().map(str::to_owned),
            goal: intent.goal().to_owned(),
            signer: intent.signer(),
            bound_key: caller
                .proved_key()
                .filter(|_| target.binding == Binding::Bound)
                .cloned(),
            chain: decision.chain,
            parent: intent.behalf().parent().map(Parent::lease),
            dimensions: decision.dimensions,
            position: view.position(),
            replay: caller
                .replay()
                .iter()
                .chain(intent.replay())
                .cloned()
                .collect(),
            max_active: decision.max_active,
            max_of_instance: decision.max_of_instance,
            intent_sha256: *intent.sha256(),
            declared: intent.declared().clone(),
            evidence: intent.evidence().to_vec(),
            config_hash: self.config_hash.clone(),
            decided_by: decision.decided_by,
            labels,
            decided_at: now,
            observed: decision.observed,
            recorded: Recorded::of(self, caller, intent),
        }
    }
}

#[cfg(test)]
mod tests;
