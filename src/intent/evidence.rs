//! Facts that somebody else proves: `tctx.evidence[]`, compact JWS of `typ: evidence+jwt`.
//!
//! In: the texts of a verified intent. Out: facts, each with who proved it. Evidence is made for
//! one broker and one agent, holds for an hour at most, and proves only what its authority is
//! configured to prove. It is not spent: the same change is approved for every step of a run.

use super::settings::{Witness, group};
use super::{IntentError, IntentsError};
use crate::fences::{Dimension, DimensionKind};
use crate::identity::{Caller, Facts, IssuerKeys, KeySource, claims, sole_audience};
use crate::ids::{AgentId, IssuerId, MissionId};
use crate::jose::claims::times;
use crate::jose::{Compact, JoseError, KeyClient, TypRule, Verified};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use time::OffsetDateTime;

pub const TYP: &str = "evidence+jwt";
/// Longest accepted exp - iat.
pub const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// Four of them still fit into an intent.
const MAX_BYTES: usize = 4 * 1024;
const MAX_FACTS: usize = 32;
const MAX_VALUE: usize = 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EvidenceFault {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("its `iss` is not a configured authority")]
    UnknownAuthority,
    #[error("no current key of its authority has its `kid` and `alg`")]
    UnknownKey,
    #[error("a claim that evidence does not have, or one of the wrong kind: {0}")]
    Shape(String),
    #[error("`aud` must be this broker's issuer URL and nothing else")]
    Audience,
    #[error("`iat` is missing")]
    IssuedAt,
    #[error("`jti` must be 1 to 256 characters without control characters")]
    TokenId,
    #[error("it was made for another agent")]
    OtherAgent,
    #[error("it was made for another task")]
    OtherTask,
    #[error("it was made for another mission")]
    OtherMission,
    #[error("its authority does not vouch for this agent")]
    NotForAgent,
    #[error("it proves nothing, or more than {MAX_FACTS} facts")]
    Count,
    #[error("its authority may not prove `{0}`")]
    NotItsFact(String),
    #[error("the value of `{0}` is no text, number, truth or list of them, or too long")]
    Value(String),
}

/// Evidence that was accepted, as the audit names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub authority: IssuerId,
    pub jti: String,
    /// Of the compact JWS, hexadecimal.
    pub sha256: String,
}

/// What everybody but the caller's platform has proved of a request.
#[derive(Debug, Clone, Default)]
pub struct Proved {
    pub facts: Facts,
    /// What each is about -> the authority's name and URL: a tether on it is keyed by them.
    pub provers: BTreeMap<String, (IssuerId, String)>,
    pub seen: Vec<Seen>,
    /// The authorities and the keys they signed with: what ends them ends the lease.
    pub dimensions: Vec<Dimension>,
}

/// The request that evidence must be about.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub agent: &'a str,
    pub task: Option<&'a str>,
    pub mission: Option<&'a MissionId>,
}

/// The whole claim set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(rename = "iss")]
    _iss: String,
    client_id: AgentId,
    #[serde(rename = "aud")]
    _aud: Value,
    #[serde(rename = "iat")]
    _iat: Value,
    #[serde(rename = "nbf", default)]
    _nbf: Option<Value>,
    #[serde(rename = "exp")]
    _exp: Value,
    jti: String,
    txn: Option<String>,
    mission: Option<MissionId>,
    facts: Map<String, Value>,
}

/// The configured authorities, by their `iss`.
#[derive(Debug)]
pub(super) struct Witnesses(HashMap<String, Known>);

#[derive(Debug)]
struct Known {
    witness: Witness,
    keys: IssuerKeys,
}

impl Witnesses {
    pub fn new(witnesses: Vec<Witness>, fetcher: &KeyClient) -> Result<Self, IntentsError> {
        let mut known = HashMap::new();
        for mut witness in witnesses {
            // SECURITY: who is asked signs nothing.
            if witness.poll.is_some() {
                continue;
            }
            let url = witness.issuer.clone();
            let source = std::mem::replace(&mut witness.keys, KeySource::Discovery);
            let keys = IssuerKeys::new(source, &url, fetcher).map_err(|error| {
                let (issuer, why) = (url.clone(), error.to_string());
                IntentsError::Keys { issuer, why }
            })?;
            known.insert(url, Known { witness, keys });
        }
        Ok(Self(known))
    }

    /// Every piece must be good: one that proves nothing is not passed over for those that do.
    pub async fn verify(
        &self,
        texts: &[String],
        about: About<'_>,
        (broker_url, now): (&str, OffsetDateTime),
    ) -> Result<Proved, IntentError> {
        let mut proved = Proved::default();
        for (place, text) in texts.iter().enumerate() {
            let bad = |fault: EvidenceFault| IntentError::Evidence { place, fault };
            let compact = Compact::parse(text, MAX_BYTES, &TypRule::Exactly(TYP))
                .map_err(|error| bad(error.into()))?;
            let known = compact
                .unverified_claims()
                .get("iss")
                .and_then(Value::as_str)
                .and_then(|issuer| self.0.get(issuer))
                .ok_or_else(|| bad(EvidenceFault::UnknownAuthority))?;
            let keys = known.keys.current(compact.kid(), now).await;
            let keys = keys.map_err(|source| IntentError::Unavailable {
                issuer: known.witness.issuer.clone(),
                source,
            })?;
            let candidates = keys.candidates(compact.kid(), compact.alg());
            if candidates.is_empty() {
                return Err(bad(EvidenceFault::UnknownKey));
            }
            let verified = compact
                .verify(&candidates, &known.witness.algorithms)
                .map_err(|error| bad(error.into()))?;
            let members = read(&verified, &known.witness, about, (broker_url, now)).map_err(bad)?;
            proved.add(&known.witness, members, &verified, text)?;
        }
        Ok(proved)
    }
}

fn read(
    verified: &Verified,
    witness: &Witness,
    about: About<'_>,
    (broker_url, now): (&str, OffsetDateTime),
) -> Result<Members, EvidenceFault> {
    let claims = verified.claims();
    if sole_audience(claims) != Some(broker_url) {
        return Err(EvidenceFault::Audience);
    }
    if !claims.contains_key("iat") {
        return Err(EvidenceFault::IssuedAt);
    }
    times(claims, now, MAX_LIFETIME)?;
    let members = Members::deserialize(Value::Object(claims.clone()))
        .map_err(|error| EvidenceFault::Shape(error.to_string()))?;
    let jti = &members.jti;
    if jti.is_empty() || jti.chars().count() > 256 || jti.chars().any(char::is_control) {
        return Err(EvidenceFault::TokenId);
    }
    // SECURITY: or what was proved for one agent, task or mission would serve another.
    if members.client_id.as_str() != about.agent {
        return Err(EvidenceFault::OtherAgent);
    }
    if members.txn.is_some() && members.txn.as_deref() != about.task {
        return Err(EvidenceFault::OtherTask);
    }
    if members.mission.is_some() && members.mission.as_ref() != about.mission {
        return Err(EvidenceFault::OtherMission);
    }
    if let Some(agents) = &witness.agents
        && !agents.contains(&members.client_id)
    {
        return Err(EvidenceFault::NotForAgent);
    }
    if members.facts.is_empty() || members.facts.len() > MAX_FACTS {
        return Err(EvidenceFault::Count);
    }
    for (fact, value) in &members.facts {
        if !witness.proves.contains(fact) {
            return Err(EvidenceFault::NotItsFact(fact.clone()));
        }
        if !claims::is_fact(value) || value.to_string().len() > MAX_VALUE {
            return Err(EvidenceFault::Value(fact.clone()));
        }
    }
    Ok(members)
}

impl Proved {
    fn add(
        &mut self,
        witness: &Witness,
        members: Members,
        verified: &Verified,
        text: &str,
    ) -> Result<(), IntentError> {
        for (fact, value) in members.facts {
            let prover = (witness.name.clone(), witness.issuer.clone());
            self.provers.insert(group(&fact).to_owned(), prover);
            match self.facts.get(&fact) {
                Some(known) if !claims::agree(known, &value) => {
                    return Err(IntentError::Contradiction(fact));
                }
                _ => drop(self.facts.insert(fact, value)),
            }
        }
        let hash = digest(&SHA256, text.as_bytes());
        self.seen.push(Seen {
            authority: witness.name.clone(),
            jti: members.jti,
            sha256: hash.as_ref().iter().map(|b| format!("{b:02x}")).collect(),
        });
        let key = verified.key().thumbprint();
        self.dimensions.extend([
            Dimension::new(DimensionKind::Issuer, witness.name.as_str()),
            Dimension::new(DimensionKind::Issuer, witness.issuer.as_str()),
            Dimension::new(DimensionKind::IssuerKey, key),
        ]);
        Ok(())
    }

    /// Joined with what the caller's own proof says: a fact has one value, or the request none.
    pub(super) fn with_caller(mut self, caller: &Caller) -> Result<Self, IntentError> {
        for (fact, value) in caller.facts() {
            // SECURITY: a tether on one thing is never made of the words of two: what it is about
            // is proved by the platform or by an authority.
            if self.provers.contains_key(group(fact)) {
                return Err(IntentError::Contradiction(fact.clone()));
            }
            self.facts.insert(fact.clone(), value.clone());
        }
        Ok(self)
    }

    /// A declared fact that is proved to be otherwise is a lie or a mistake, and either way the
    /// intent is not about what happens.
    pub(super) fn check_declared(&self, declared: &Map<String, Value>) -> Result<(), IntentError> {
        let mut path = String::new();
        match contradicted(&self.facts, declared, &mut path) {
            Some(fact) => Err(IntentError::Contradiction(fact)),
            None => Ok(()),
        }
    }
}

/// The first declared member, by its dotted path, whose proved value is another one.
fn contradicted(facts: &Facts, declared: &Map<String, Value>, path: &mut String) -> Option<String> {
    for (name, value) in declared {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        let found = match (facts.get(path.as_str()), value) {
            (Some(proved), declared) if !claims::agree(proved, declared) => Some(path.clone()),
            (Some(_), _) => None,
            (None, Value::Object(deeper)) => contradicted(facts, deeper, path),
            (None, _) => None,
        };
        if found.is_some() {
            return found;
        }
        path.truncate(length);
    }
    None
}
