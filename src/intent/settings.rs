//! What the configuration says of those who sign for agents: [`IntentIssuer`] and [`Witness`], and
//! what it may not say.

use super::SignerClass;
use crate::identity::KeySource;
use crate::ids::{AgentId, IssuerId, MissionId};
use crate::jose::Algorithm;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Someone other than agents who may sign intents: `[intent_issuer.NAME]`.
#[derive(Debug, Clone)]
pub struct IntentIssuer {
    /// Compared byte for byte with the intent's `iss`.
    pub issuer: String,
    /// [`SignerClass::Orchestrator`] or [`SignerClass::Approver`]: one class, so that no intent is
    /// ambiguous.
    pub class: SignerClass,
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// The agents it may sign for. Absent: those that its missions admit.
    pub agents: Option<Vec<AgentId>>,
    /// The missions it may name. Absent: those of its agents.
    pub missions: Option<Vec<MissionId>>,
}

/// An authority that proves facts by signed evidence: `[facts.NAME]`.
#[derive(Debug, Clone)]
pub struct Witness {
    pub name: IssuerId,
    /// Compared byte for byte with the evidence's `iss`.
    pub issuer: String,
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// The facts it may prove, by their whole names: `change.state`.
    pub proves: BTreeSet<String>,
    /// The agents it may vouch for. Absent: every agent.
    pub agents: Option<Vec<AgentId>>,
    /// It signs no evidence: it is asked, or tells by webhook. Then `issuer` is where, or its name.
    pub poll: Option<Poll>,
}

/// Facts that are asked for, or told by webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// Where it is asked. `None`: it tells.
    pub url: Option<String>,
    /// Fact -> JSON pointer (RFC 6901).
    pub pointers: BTreeMap<String, String>,
    /// An answer with all of these proves nothing, and what hung on the one before ends.
    pub ended_when: BTreeMap<String, Value>,
    pub every: Duration,
    /// An older answer proves nothing.
    pub max_age: Duration,
    /// It may be on a private network.
    pub private: bool,
    /// Of who tells: reference to the secret that its messages are signed with.
    pub hmac: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IntentsError {
    #[error("intent issuer `{0}` is configured twice")]
    SameIssuer(String),
    #[error("intent issuer `{0}` must be a URL: a bare name is an agent's")]
    NotUrl(String),
    #[error("intent issuer `{0}` must be of class `orchestrator` or `approver`")]
    Class(String),
    #[error("`{0}` has no key")]
    NoKey(String),
    #[error("`{0}` has no algorithm")]
    NoAlgorithm(String),
    #[error(
        "intent issuer `{0}` is bound to nothing: name the `agents` it signs for, or its `missions`"
    )]
    Unbound(String),
    #[error("`facts.{0}` proves nothing: name the facts in `proves`")]
    ProvesNothing(IssuerId),
    #[error("`facts.{first}` and `facts.{second}` have the same issuer")]
    SameWitness { first: IssuerId, second: IssuerId },
    #[error("`facts.{first}` and `facts.{second}` both prove facts about `{group}`")]
    SameGroup {
        first: IssuerId,
        second: IssuerId,
        group: String,
    },
    #[error("the keys of `{issuer}`: {why}")]
    Keys { issuer: String, why: String },
}

/// What a fact is about: `change` of `change.state`. One thing is proved by one authority, so that
/// a tether on it is never made of two.
pub fn group(fact: &str) -> &str {
    fact.split_once('.').map_or(fact, |(group, _)| group)
}

/// Everything that can be said without fetching a key.
pub fn check(issuers: &[IntentIssuer], witnesses: &[Witness]) -> Result<(), IntentsError> {
    let mut known = BTreeSet::new();
    for issuer in issuers {
        check_issuer(issuer)?;
        if !known.insert(&issuer.issuer) {
            return Err(IntentsError::SameIssuer(issuer.issuer.clone()));
        }
    }
    let mut urls: BTreeMap<&str, &IssuerId> = BTreeMap::new();
    let mut groups: BTreeMap<&str, &IssuerId> = BTreeMap::new();
    for witness in witnesses {
        let name = &witness.name;
        if witness.poll.is_none() {
            check_keys(name.as_str(), &witness.keys, &witness.algorithms)?;
        }
        if witness.proves.is_empty() {
            return Err(IntentsError::ProvesNothing(name.clone()));
        }
        if let Some(first) = urls.insert(&witness.issuer, name) {
            return Err(IntentsError::SameWitness {
                first: first.clone(),
                second: name.clone(),
            });
        }
        for fact in &witness.proves {
            match groups.insert(group(fact), name) {
                Some(first) if first != name => {
                    return Err(IntentsError::SameGroup {
                        first: first.clone(),
                        second: name.clone(),
                        group: group(fact).to_owned(),
                    });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_issuer(issuer: &IntentIssuer) -> Result<(), IntentsError> {
    let name = &issuer.issuer;
    if url::Url::parse(name).is_err() {
        return Err(IntentsError::NotUrl(name.clone()));
    }
    if !matches!(
        issuer.class,
        SignerClass::Orchestrator | SignerClass::Approver
    ) {
        return Err(IntentsError::Class(name.clone()));
    }
    // SECURITY: without a bound, the orchestrator of one team could sign for another team's agents.
    if issuer.agents.as_ref().is_none_or(Vec::is_empty)
        && issuer.missions.as_ref().is_none_or(Vec::is_empty)
    {
        return Err(IntentsError::Unbound(name.clone()));
    }
    check_keys(name, &issuer.keys, &issuer.algorithms)
}

fn check_keys(name: &str, keys: &KeySource, algorithms: &[Algorithm]) -> Result<(), IntentsError> {
    if matches!(keys, KeySource::Fixed(set) if set.keys().is_empty()) {
        return Err(IntentsError::NoKey(name.to_owned()));
    }
    if algorithms.is_empty() {
        return Err(IntentsError::NoAlgorithm(name.to_owned()));
    }
    Ok(())
}
