//! In standing? In: a caller and its intent. Out: an [`AdmittedAgent`], or one answer for all.
//!
//! The registry is what the configuration says; whether an agent is suspended or retired is a
//! hold in the fence log and has no second copy here. Outside this process every
//! [`AgentError`] but [`AgentError::TooMany`] looks the same.

pub mod governance;
mod index;
pub mod lifecycle;
pub mod registered;
mod stated;

pub use governance::Terms;
pub use index::RegistryError;
pub use lifecycle::{Stage, Turn};

use crate::authority::Authority;
use crate::fences::{Dimension, DimensionKind, HeldBy, View};
use crate::identity::{Caller, Proof};
use crate::ids::{AgentId, IssuerId, TargetId};
use crate::intent::{Intent, Vouched};
use governor::clock::{Clock as _, DefaultClock};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::{Date, OffsetDateTime};

/// `[agent.NAME]`.
#[derive(Debug, Clone)]
pub struct Agent {
    pub id: AgentId,
    pub owner: String,
    pub backup_owner: Option<String>,
    pub purpose: String,
    /// Last day it gets anything, UTC.
    pub ends: Date,
    pub identities: Vec<IdentityMatch>,
    /// RFC 7638 thumbprints of keys registered for signing intents.
    pub intent_keys: Vec<String>,
    /// Absent: the grants of its missions.
    pub ceiling: Option<BTreeMap<TargetId, Authority>>,
    pub limits: Limits,
    pub terms: Terms,
    pub labels: BTreeMap<String, String>,
    /// Whatever it authenticates with, its credentials are bound to the certificate that it shows, and
    /// without one it gets none (`tls_client_certificate_bound_access_tokens`, RFC 8705 section 3.4).
    pub certificate_bound: bool,
    /// It came through the interface, and no file has it.
    pub registered: bool,
}

/// Matches callers to an agent: every condition must hold. An agent with a key of its own needs
/// none: its client id is its name.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityMatch {
    pub issuer: IssuerId,
    pub subject: Option<String>,
    /// Verified claims, by their dotted path, that must be present with exactly this value. There
    /// are no patterns: a pattern that is slightly too wide admits a stranger.
    pub claims: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Live leases at once.
    pub active: u64,
    /// Exchanges per minute.
    pub per_minute: u32,
    /// Of each of its processes, by what the requests call it; those that name none are one.
    pub instance: InstanceLimits,
}

/// Fair shares within the agent's own. An instance is what a request says, so this keeps nobody from
/// what another process of the same agent may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InstanceLimits {
    pub active: Option<u64>,
    pub per_minute: Option<u32>,
}

/// An agent in standing, with the caller that proved to be it. Only this room makes one.
#[derive(Debug, Clone)]
pub struct AdmittedAgent {
    pub(in crate::agents) agent: Arc<Agent>,
    pub(in crate::agents) caller: Arc<Caller>,
}

impl AdmittedAgent {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AgentError {
    #[error("no registered agent, or more than one, has this identity")]
    Unknown,
    /// Of a request that is only stated: its proof would be nobody's.
    #[error("`{issuer}` proves no agent `{agent}`")]
    NotKnownAt { agent: AgentId, issuer: IssuerId },
    #[error("the request authenticates or names client `{named}`, its proof is agent `{agent}`'s")]
    OtherClient { agent: AgentId, named: String },
    #[error("the intent was signed for `{named}`, the caller is agent `{agent}`")]
    OtherIntent { agent: AgentId, named: String },
    #[error("agent `{agent}` is held: {}", by.reason)]
    Held { agent: AgentId, by: Box<HeldBy> },
    #[error("agent `{agent}` ended with {on}")]
    Ended { agent: AgentId, on: Date },
    /// 429. The caller is known, so it may be told.
    #[error("agent `{agent}` asks more often than it may")]
    TooMany {
        agent: AgentId,
        retry_after: Duration,
    },
}

impl AgentError {
    /// The agent that it is about, where one was found: for the audit and for its owner.
    pub fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Unknown => None,
            Self::NotKnownAt { agent, .. }
            | Self::OtherClient { agent, .. }
            | Self::OtherIntent { agent, .. }
            | Self::Held { agent, .. }
            | Self::Ended { agent, .. }
            | Self::TooMany { agent, .. } => Some(agent),
        }
    }
}

/// Every registered agent. Immutable but for the counting of requests: a reload builds another
/// one, whose counts start anew.
#[derive(Debug)]
pub struct Registry {
    entries: BTreeMap<AgentId, Arc<index::Entry>>,
    index: index::Index,
}

impl Registry {
    pub fn new(agents: Vec<Agent>) -> Result<Self, RegistryError> {
        let mut entries = BTreeMap::new();
        let mut index = index::Index::default();
        for agent in agents {
            let agent = Arc::new(agent);
            index.add(&agent)?;
            let entry = Arc::new(index::Entry::new(Arc::clone(&agent))?);
            if entries.insert(agent.id.clone(), entry).is_some() {
                return Err(RegistryError::SameName(agent.id.clone()));
            }
        }
        Ok(Self { entries, index })
    }

    /// These and some more, each with the count that it has here or had before.
    pub fn with(&self, more: Vec<Agent>, before: &Self) -> Result<Self, RegistryError> {
        let mut entries = self.entries.clone();
        let mut index = index::Index::default();
        for entry in self.entries.values() {
            index.add(&entry.agent)?;
        }
        for agent in more {
            let agent = Arc::new(agent);
            index.add(&agent)?;
            let before = before.entries.get(&agent.id);
            let entry = match before.filter(|before| before.agent.limits == agent.limits) {
                Some(before) => before.of(Arc::clone(&agent)),
                None => index::Entry::new(Arc::clone(&agent))?,
            };
            if entries.insert(agent.id.clone(), Arc::new(entry)).is_some() {
                return Err(RegistryError::SameName(agent.id.clone()));
            }
        }
        Ok(Self { entries, index })
    }

    pub fn get(&self, id: &AgentId) -> Option<Arc<Agent>> {
        self.entries.get(id).map(|entry| Arc::clone(&entry.agent))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.entries.values().map(|entry| &entry.agent)
    }

    /// The agent of this name, where it is in standing.
    pub fn in_standing(
        &self,
        id: &AgentId,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<Arc<Agent>, AgentError> {
        let agent = self.get(id).ok_or(AgentError::Unknown)?;
        check_standing(&agent, view, now)?;
        Ok(agent)
    }

    /// The one agent that the caller is. `None` where there is none or where several claim it: who
    /// is meant cannot be guessed, so nobody is. Whoever is registered is no other one of the files' agents.
    pub fn find(&self, caller: &Caller) -> Option<Arc<Agent>> {
        match caller.proof() {
            Proof::ClientAssertion | Proof::ClientCertificate => {
                return caller.client().and_then(|client| self.get(client));
            }
            // SECURITY: a person is no agent, and says which one to run. Whether that may be run by
            // this person, policy says before anything else is done about it.
            Proof::Person => {
                let named = caller.named_client()?.parse::<AgentId>().ok()?;
                return self.get(&named);
            }
            Proof::WorkloadToken | Proof::SignedRequest | Proof::Svid => {}
        }
        let mut found = self.index.find(caller);
        if found.len() > 1 {
            tracing::warn!(
                issuer = %caller.issuer(),
                agents = ?found.iter().map(|agent| agent.id.as_str()).collect::<Vec<_>>(),
                "several agents claim the same identity: it is the only one of the files, or nobody's"
            );
            // SECURITY: no definition that is registered locks an agent of the files out.
            found.retain(|agent| !agent.registered);
        }
        let one = found.pop();
        one.filter(|_| found.is_empty())
    }

    /// Who vouches for a key (by its RFC 7638 thumbprint) that signs this caller's intents.
    pub fn vouches(&self, caller: &Caller, thumbprint: &str) -> Vouched {
        match self.find(caller) {
            // SECURITY: an agent with keys of its own signs with those and with no other.
            Some(agent) if agent.intent_keys.is_empty() => Vouched::OnFirstUse,
            Some(agent) if agent.intent_keys.iter().any(|key| key == thumbprint) => {
                match agent.identities.as_slice() {
                    [] => Vouched::Registered,
                    [only] if only.subject.is_some() => Vouched::Registered,
                    _ => Vouched::RegisteredForSeveral,
                }
            }
            _ => Vouched::Not,
        }
    }

    /// Whether whatever this caller gets is bound to its certificate.
    pub fn binds_certificates(&self, caller: &Caller) -> bool {
        self.find(caller)
            .is_some_and(|agent| agent.certificate_bound)
    }

    /// Every proof of the request must be the same agent's, and that agent in standing.
    pub fn admit(
        &self,
        caller: impl Into<Arc<Caller>>,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<AdmittedAgent, AgentError> {
        let caller = caller.into();
        let agent = self.find(&caller).ok_or(AgentError::Unknown)?;
        check_client(&agent, &caller)?;
        if let Some(beside) = caller.beside() {
            self.check_beside(&agent, beside)?;
        }
        if let Some(named) = intent.client_id()
            && named != agent.id.as_str()
        {
            return Err(AgentError::OtherIntent {
                agent: agent.id.clone(),
                named: named.to_owned(),
            });
        }
        check_standing(&agent, view, now)?;
        self.count(&agent, &caller, intent.instance())?;
        Ok(AdmittedAgent { agent, caller })
    }

    /// INVARIANT: an SVID beside a subject token never lends one agent's standing to another's token.
    fn check_beside(&self, agent: &Agent, beside: &Caller) -> Result<(), AgentError> {
        match self.find(beside) {
            Some(client) if client.id == agent.id => Ok(()),
            _ => Err(AgentError::OtherClient {
                agent: agent.id.clone(),
                named: beside.subject().to_owned(),
            }),
        }
    }

    /// Last, so that only an agent in standing uses up its own allowance. A person who runs it uses up
    /// neither the agent's nor another person's.
    fn count(
        &self,
        agent: &Agent,
        caller: &Caller,
        instance: Option<&str>,
    ) -> Result<(), AgentError> {
        let Some(entry) = self.entries.get(&agent.id) else {
            return Err(AgentError::Unknown);
        };
        let too_many = |wait| AgentError::TooMany {
            agent: agent.id.clone(),
            retry_after: wait,
        };
        // First: one that asks all the time does not use up what the others may ask.
        if caller.proof() != Proof::Person {
            entry.count_instance(instance).map_err(too_many)?;
        }
        let counted = match caller.proof() {
            Proof::Person => {
                let person = (caller.issuer().clone(), caller.subject().to_owned());
                entry.in_person.check_key(&person)
            }
            _ => entry.requests.check(),
        };
        counted
            .map_err(|not_until| too_many(not_until.wait_time_from(DefaultClock::default().now())))
    }
}

fn check_client(agent: &Agent, caller: &Caller) -> Result<(), AgentError> {
    // INVARIANT: a client assertion beside a subject token never lends one agent's standing to
    // another's token.
    let named = caller
        .client()
        .map(AgentId::as_str)
        .or_else(|| caller.named_client());
    match named {
        Some(named) if named != agent.id.as_str() => Err(AgentError::OtherClient {
            agent: agent.id.clone(),
            named: named.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check_standing(agent: &Agent, view: &View, now: OffsetDateTime) -> Result<(), AgentError> {
    let dimensions = [
        Dimension::new(DimensionKind::Agent, agent.id.as_str()).hash(),
        Dimension::new(DimensionKind::Owner, agent.owner.as_str()).hash(),
    ];
    if let Some(by) = view.held(&dimensions) {
        return Err(AgentError::Held {
            agent: agent.id.clone(),
            by: Box::new(by),
        });
    }
    if now.to_offset(time::UtcOffset::UTC).date() > agent.ends {
        return Err(AgentError::Ended {
            agent: agent.id.clone(),
            on: agent.ends,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
