//! On whose behalf? The chain of a delegation (RFC 8693 section 4.1), and what the link before
//! allows. What a token *is* has put a request on this way, never how the request is written.

use crate::authority::Authority;
use crate::fences::Dimension;
use crate::identity::{Confirmation, Person};
use crate::ids::{AgentId, IssuerId, LeaseId, MissionId, TargetId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// `act` is nested this deep at most: so many agents may stand between whom it began with and the
/// credential, the one who holds it included.
pub const MAX_ACTORS: usize = 3;

/// One principal before the agent itself, from the one it began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    Person {
        issuer: IssuerId,
        issuer_url: String,
        subject: String,
        /// The groups of people that the mission accepted the person as: `[people.NAME]`.
        people: Vec<String>,
        /// The sign-in, where the issuer names it.
        session: Option<String>,
        /// The person ran the agent, which showed no proof of its own.
        in_person: bool,
    },
    Agent {
        agent: AgentId,
        mission: MissionId,
        lease: LeaseId,
    },
}

impl Principal {
    /// The name within our own namespace. An agent's name has no `:`, an issuer's neither: a person
    /// never passes for an agent, nor one issuer's person for another's.
    pub fn name(&self) -> String {
        match self {
            Self::Person {
                issuer, subject, ..
            } => format!("{issuer}:{subject}"),
            Self::Agent { agent, .. } => agent.to_string(),
        }
    }

    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Person { .. } => None,
            Self::Agent { lease, .. } => Some(*lease),
        }
    }
}

/// Whom a credential is for: the `sub` of a token.
pub fn subject(chain: &[Principal], agent: &AgentId) -> String {
    chain
        .first()
        .map_or_else(|| agent.to_string(), Principal::name)
}

/// Who acts: the `act` of a token, the agent outermost. `None` where it acts for itself.
pub fn act(chain: &[Principal], agent: &AgentId, broker_url: &str) -> Option<Value> {
    let (_, before) = chain.split_first()?;
    let actors = before
        .iter()
        .map(Principal::name)
        .chain([agent.to_string()]);
    actors.fold(None, |inner, name| {
        let mut actor = json!({ "sub": name, "iss": broker_url });
        if let (Some(inner), Value::Object(members)) = (inner, &mut actor) {
            members.insert("act".to_owned(), inner);
        }
        Some(actor)
    })
}

/// The lease that is handed on, as it was found on the view that decides. `leases` makes one.
#[derive(Debug, Clone)]
pub struct Parent {
    pub(crate) lease: LeaseId,
    pub(crate) agent: AgentId,
    pub(crate) mission: MissionId,
    pub(crate) target: TargetId,
    pub(crate) authority: Authority,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) bound_key: Option<Confirmation>,
    /// Everything that ends it: ends whatever comes of it, too.
    pub(crate) dimensions: Vec<Dimension>,
    pub(crate) chain: Vec<Principal>,
    /// Of the credential that was presented.
    pub(crate) token_sha256: [u8; 32],
    /// Why it is dead, if it is.
    pub(crate) ended: Option<String>,
}

impl Parent {
    pub fn lease(&self) -> LeaseId {
        self.lease
    }
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }
    pub fn mission(&self) -> &MissionId {
        &self.mission
    }
    pub fn target(&self) -> &TargetId {
        &self.target
    }
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }
    pub fn bound_key(&self) -> Option<&Confirmation> {
        self.bound_key.as_ref()
    }
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Who stood before its agent.
    pub fn chain(&self) -> &[Principal] {
        &self.chain
    }

    /// Whom it began with.
    pub fn root(&self) -> Option<&Principal> {
        self.chain.first()
    }

    /// The chain of what comes of it: its own, and its agent.
    pub fn extended(&self) -> Vec<Principal> {
        let own = Principal::Agent {
            agent: self.agent.clone(),
            mission: self.mission.clone(),
            lease: self.lease,
        };
        self.chain.iter().cloned().chain([own]).collect()
    }
}

/// Whom the agent of a request acts for. Every variant was verified before it was made.
#[derive(Debug, Clone, Default)]
pub enum Behalf {
    /// For itself.
    #[default]
    Nobody,
    /// For a person, and the agent proved who it is.
    Person(Box<Person>),
    /// For a person, who runs the agent.
    InPerson(Box<Person>),
    /// For whoever holds the lease whose credential was presented.
    Parent(Box<Parent>),
}

impl Behalf {
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    pub fn person(&self) -> Option<&Person> {
        match self {
            Self::Person(person) | Self::InPerson(person) => Some(person),
            Self::Nobody | Self::Parent(_) => None,
        }
    }

    pub fn parent(&self) -> Option<&Parent> {
        match self {
            Self::Parent(parent) => Some(parent),
            _ => None,
        }
    }

    /// What the subject token is bound to, where it is not the agent's own proof.
    pub fn bound_key(&self) -> Option<&Confirmation> {
        match self {
            Self::Nobody | Self::InPerson(_) => None,
            Self::Person(person) => person.bound_key(),
            Self::Parent(parent) => parent.bound_key(),
        }
    }

    /// The `sub` that an intent may name beside the agent's own name.
    pub(super) fn served(&self) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Person(person) | Self::InPerson(person) => Some(person.subject().to_owned()),
            Self::Parent(parent) => Some(subject(&parent.chain, &parent.agent)),
        }
    }

    /// SHA-256 of the subject token, where it is not the agent's own proof.
    pub(super) fn token_sha256(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Nobody | Self::InPerson(_) => None,
            Self::Person(person) => Some(person.token_sha256()),
            Self::Parent(parent) => Some(&parent.token_sha256),
        }
    }
}

#[cfg(test)]
mod tests;
