//! An agent that nobody proved to be, for `explain`, `simulate` and the policy tests of `check`.

use super::{AdmittedAgent, Agent, AgentError, Registry};
use crate::fences::View;
use crate::identity::{Caller, Confirmation, Facts};
use crate::ids::{AgentId, IssuerId};
use std::sync::Arc;
use time::OffsetDateTime;

impl Registry {
    /// The agent as policy would see it, if this issuer of it (its first) proved these facts and the
    /// request this key: in standing or not, without a proof and without using up what it may ask.
    // SECURITY: nothing was verified; see `Caller::stated`. The corridor never calls it.
    pub(crate) fn stated(
        &self,
        id: &AgentId,
        (issuer, proved): (Option<&IssuerId>, Option<Confirmation>),
        facts: Facts,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<AdmittedAgent, AgentError> {
        let agent = self.get(id).ok_or(AgentError::Unknown)?;
        let caller = caller(&agent, issuer, facts, now)?.stated_as_proving(proved);
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

/// The least that the identity asks for.
fn caller(
    agent: &Agent,
    issuer: Option<&IssuerId>,
    facts: Facts,
    now: OffsetDateTime,
) -> Result<Caller, AgentError> {
    let mut identities = agent.identities.iter();
    let identity = match issuer {
        None => identities.next(),
        Some(issuer) if *issuer == IssuerId::client() => None,
        Some(issuer) => {
            let elsewhere = || AgentError::NotKnownAt {
                agent: agent.id.clone(),
                issuer: issuer.clone(),
            };
            let found = identities.find(|identity| identity.issuer == *issuer);
            Some(found.ok_or_else(elsewhere)?)
        }
    };
    let (issuer, subject, claims) = match identity {
        Some(identity) => (
            identity.issuer.clone(),
            identity.subject.clone(),
            identity.claims.clone().into_iter().collect(),
        ),
        None => (IssuerId::client(), None, serde_json::Map::new()),
    };
    let subject = subject.unwrap_or_else(|| agent.id.to_string());
    let issuer_url = issuer.to_string();
    Ok(Caller::stated(
        issuer, issuer_url, subject, claims, facts, now,
    ))
}
