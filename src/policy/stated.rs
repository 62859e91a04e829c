//! A request that nobody made and nobody signed, for `explain` and the policy tests of `check`.

use crate::agents::{AdmittedAgent, AgentError, Registry};
use crate::authority::AuthorizationDetail;
use crate::fences::View;
use crate::identity::{Confirmation, Facts, Person};
use crate::ids::{AgentId, IssuerId, MissionId};
use crate::intent::{Asked, Behalf, Intent, SignerClass, Stated};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// What it would say, taken at its word.
#[derive(Debug, Clone)]
pub struct StatedRequest {
    pub agent: AgentId,
    pub mission: Option<MissionId>,
    pub asked: Vec<AuthorizationDetail>,
    /// Beside the intent, narrowing it.
    pub scope: Vec<String>,
    pub facts: Facts,
    pub signer: SignerClass,
    /// Who proves the agent. Absent: the first that it names.
    pub issuer: Option<IssuerId>,
    /// The request proves a key of its own.
    pub bound: bool,
    pub task: Option<String>,
    pub instance: Option<String>,
    /// Whom it serves: issuer, claims, and whether the person runs the agent.
    pub person: Option<(IssuerId, Map<String, Value>, bool)>,
}

impl StatedRequest {
    /// What a decision needs of it. `Err`: the agent is unknown, or not in standing.
    // SECURITY: nothing was verified; see `Caller::stated`. The corridor never calls it.
    pub fn admitted(
        self,
        agents: &Registry,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<(AdmittedAgent, Intent), AgentError> {
        let proved = self.bound.then(|| Confirmation::Jkt("stated".to_owned()));
        let shown = (self.issuer.as_ref(), proved);
        let agent = agents.stated(&self.agent, shown, self.facts.clone(), view, now)?;
        let mut asked = Asked {
            scope: self.scope,
            ..Asked::default()
        };
        let mut signed = self.asked;
        if self.signer == SignerClass::Platform {
            // A platform signs no details: they are only asked.
            asked.authorization_details = std::mem::take(&mut signed);
            asked.mission = self.mission.clone();
        }
        let behalf = match self.person {
            None => Behalf::Nobody,
            Some((issuer, claims, in_person)) => {
                let person = Box::new(Person::stated(issuer, claims, now));
                if in_person {
                    Behalf::InPerson(person)
                } else {
                    Behalf::Person(person)
                }
            }
        };
        let stated = Stated {
            signer: self.signer,
            mission: self.mission,
            authorization_details: signed,
            asked,
            task: self.task,
            instance: self.instance,
            goal_ends: None,
            facts: self.facts,
            behalf,
            approval: None,
        };
        Ok((agent, Intent::restated(stated, now)))
    }
}
