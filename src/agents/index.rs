//! From a caller to the agents it could be, without walking through all of them.
//!
//! Identities that name the same claims of the same issuer have one *shape*. The caller's values
//! for a shape are one look-up, so the cost grows with the shapes in use, not with the agents.

use super::{Agent, IdentityMatch};
use crate::identity::{Caller, claims};
use crate::ids::{AgentId, IssuerId};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    #[error("agent `{0}` is registered twice")]
    SameName(AgentId),
    #[error(
        "an identity of agent `{0}` names neither a subject nor a claim: it would match everyone on the issuer"
    )]
    MatchesAll(AgentId),
    #[error(
        "claim `{claim}` in an identity of agent `{agent}` must be a string, a whole number or a boolean"
    )]
    NotScalar { agent: AgentId, claim: String },
    #[error("agent `{0}` has an identity on issuer `client`: register a key for it instead")]
    ClientIssuer(AgentId),
    #[error("agent `{0}` may ask zero times a minute: hold it instead")]
    NoRequests(AgentId),
}

/// An agent with the count of its requests.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) agent: Arc<Agent>,
    pub(super) requests: Arc<DefaultDirectRateLimiter>,
    /// Of each person who runs it.
    pub(super) in_person: Arc<DefaultKeyedRateLimiter<(IssuerId, String)>>,
    /// Of each of its instances, where those have a limit of their own.
    instances: Option<Arc<DefaultKeyedRateLimiter<String>>>,
}

/// Names of instances are the requests' own: so many are remembered, then those that rest are forgotten.
const MOST_INSTANCES: usize = 4096;

impl Entry {
    pub(super) fn new(agent: Arc<Agent>) -> Result<Self, RegistryError> {
        let per_minute = NonZeroU32::new(agent.limits.per_minute)
            .ok_or_else(|| RegistryError::NoRequests(agent.id.clone()))?;
        let own = agent.limits.instance.per_minute;
        let own = own.map(|most| {
            let most = NonZeroU32::new(most);
            most.ok_or_else(|| RegistryError::NoRequests(agent.id.clone()))
        });
        let instances = own.transpose()?;
        Ok(Self {
            instances: instances.map(|most| Arc::new(RateLimiter::keyed(Quota::per_minute(most)))),
            agent,
            requests: Arc::new(RateLimiter::direct(Quota::per_minute(per_minute))),
            in_person: Arc::new(RateLimiter::keyed(Quota::per_minute(per_minute))),
        })
    }

    /// The same counts for an agent with the same limits.
    pub(super) fn of(&self, agent: Arc<Agent>) -> Self {
        Self {
            agent,
            requests: Arc::clone(&self.requests),
            in_person: Arc::clone(&self.in_person),
            instances: self.instances.clone(),
        }
    }

    /// `Err`: how long to wait.
    pub(super) fn count_instance(&self, name: Option<&str>) -> Result<(), Duration> {
        let Some(instances) = &self.instances else {
            return Ok(());
        };
        if instances.len() > MOST_INSTANCES {
            instances.retain_recent();
        }
        let counted = instances.check_key(&name.unwrap_or_default().to_owned());
        counted.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    issuers: HashMap<IssuerId, BTreeMap<Shape, Holders>>,
}

/// Which claims are named.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    subject: bool,
    claims: Vec<String>,
}

/// Who has which values of a shape's claims.
type Holders = HashMap<Vec<String>, Vec<Arc<Agent>>>;

impl Index {
    pub(super) fn add(&mut self, agent: &Arc<Agent>) -> Result<(), RegistryError> {
        for identity in &agent.identities {
            if identity.issuer == IssuerId::client() {
                return Err(RegistryError::ClientIssuer(agent.id.clone()));
            }
            if identity.subject.is_none() && identity.claims.is_empty() {
                return Err(RegistryError::MatchesAll(agent.id.clone()));
            }
            let shape = Shape {
                subject: identity.subject.is_some(),
                claims: identity.claims.keys().cloned().collect(),
            };
            self.issuers
                .entry(identity.issuer.clone())
                .or_default()
                .entry(shape)
                .or_default()
                .entry(values_of(agent, identity)?)
                .or_default()
                .push(Arc::clone(agent));
        }
        Ok(())
    }

    /// Every agent one of whose identities the caller has. Each at most once.
    pub(super) fn find(&self, caller: &Caller) -> Vec<Arc<Agent>> {
        let mut found: BTreeMap<AgentId, Arc<Agent>> = BTreeMap::new();
        for (shape, holders) in self.issuers.get(caller.issuer()).into_iter().flatten() {
            // SECURITY: a value that the issuer's settings refuse counts only where it is named.
            if !caller
                .barred()
                .keys()
                .all(|claim| shape.claims.contains(claim))
            {
                continue;
            }
            let agents = shape
                .values_of(caller)
                .and_then(|values| holders.get(&values));
            for agent in agents.into_iter().flatten() {
                found.insert(agent.id.clone(), Arc::clone(agent));
            }
        }
        found.into_values().collect()
    }
}

impl Shape {
    fn values_of(&self, caller: &Caller) -> Option<Vec<String>> {
        let subject = self.subject.then(|| Some(caller.subject().to_owned()));
        let claims = self
            .claims
            .iter()
            .map(|claim| caller.claim(claim).and_then(claims::text));
        subject.into_iter().chain(claims).collect()
    }
}

fn values_of(agent: &Agent, identity: &IdentityMatch) -> Result<Vec<String>, RegistryError> {
    let text = |(claim, value): (&String, &Value)| {
        claims::text(value).ok_or_else(|| RegistryError::NotScalar {
            agent: agent.id.clone(),
            claim: claim.clone(),
        })
    };
    identity
        .subject
        .iter()
        .map(|subject| Ok(subject.clone()))
        .chain(identity.claims.iter().map(text))
        .collect()
}
