//! An agent that nobody proved to be, for `explain`, `simulate` and the policy tests of `check`.

use super::{AdmittedAgent, Agent, AgentError, Registry};
use crate::fences::View;
use crate::identity::{Caller, Facts};
use crate::ids::{AgentId, IssuerId};
use std::sync::Arc;
use time::OffsetDateTime;

impl Registry {
    /// The agent as policy would see it, if its platform proved these facts: in standing or not,
    /// without a proof and without using up what it may ask.
    // SECURITY: nothing was verified; see `Caller::stated`. The corridor never calls it.
    pub(crate) fn stated(
        &self,
        id: &AgentId,
        facts: Facts,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<AdmittedAgent, AgentError> {
        let agent = self.get(id).ok_or(AgentError::Unknown)?;
        let caller = caller(&agent, facts, now);
        self.stated_caller(id, caller, view, now)
    }

    /// The same for a caller that is stated in full.
    pub(crate) fn stated_caller(
        &self,
        id: &AgentId,
        caller: Caller,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<AdmittedAgent, AgentError> {
        let agent = self.in_standing(id, view, now)?;
        let caller = Arc::new(caller);
        Ok(AdmittedAgent { agent, caller })
    }
}

/// The least that the agent's first identity asks for.
fn caller(agent: &Agent, facts: Facts, now: OffsetDateTime) -> Caller {
    let (issuer, subject, claims) = match agent.identities.first() {
        Some(identity) => (
            identity.issuer.clone(),
            identity.subject.clone(),
            identity.claims.clone().into_iter().collect(),
        ),
        None => (IssuerId::client(), None, serde_json::Map::new()),
    };
    let subject = subject.unwrap_or_else(|| agent.id.to_string());
    let issuer_url = issuer.to_string();
    Caller::stated(issuer, issuer_url, subject, claims, facts, now)
}
