//! Whom a recorded request was for, as far as policy looks at it.

use crate::authority::Authority;
use crate::identity::{Caller, Confirmation, Person, claims};
use crate::ids::{AgentId, IssuerId, LeaseId, MissionId, TargetId};
use crate::intent::{Behalf, Intent, Parent, Principal};
use crate::policy::Policy;
use crate::policy::behalf::{Actor, key_proved, may_act};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// A person, or the lease that was to be handed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedBehalf {
    Person {
        /// By its name in the configuration.
        issuer: IssuerId,
        issuer_url: String,
        subject: String,
        in_person: bool,
        /// Those that groups of people ask for, by the path they ask for, and the session.
        claims: Map<String, Value>,
        /// Whether the person's token let this agent act, where it says whom it lets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        may_act: Option<bool>,
    },
    Parent(Box<RecordedParent>),
}

/// A lease as it was on the view that decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedParent {
    pub lease: LeaseId,
    pub agent: AgentId,
    pub mission: MissionId,
    pub target: TargetId,
    pub authority: Authority,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Principal>,
    /// Why it was dead, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// What it is bound to, where the request did not prove that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproved_key: Option<Confirmation>,
}

impl RecordedBehalf {
    /// `None`: the agent asked for itself.
    pub fn of(policy: &Policy, caller: &Caller, intent: &Intent) -> Option<Self> {
        let in_person = matches!(intent.behalf(), Behalf::InPerson(_));
        match intent.behalf() {
            Behalf::Nobody => None,
            Behalf::Person(person) | Behalf::InPerson(person) => {
                let actor = Actor {
                    name: intent.client_id().unwrap_or_default(),
                    proof: (!in_person).then(|| (caller.issuer_url(), caller.subject())),
                    claims: (!in_person).then(|| caller.claims()),
                };
                let allowed = person.may_act();
                Some(Self::Person {
                    issuer: person.issuer().clone(),
                    issuer_url: person.issuer_url().to_owned(),
                    subject: person.subject().to_owned(),
                    in_person,
                    claims: told(policy, person),
                    may_act: allowed
                        .map(|allowed| may_act(allowed, person.agents_issuer(), &actor)),
                })
            }
            Behalf::Parent(parent) => {
                let bound = parent.bound_key();
                let signed = (intent.signer(), intent.signing_key());
                let unproved = bound.filter(|_| !key_proved(parent, signed, caller.proved_key()));
                Some(Self::Parent(Box::new(RecordedParent {
                    lease: parent.lease(),
                    agent: parent.agent().clone(),
                    mission: parent.mission().clone(),
                    target: parent.target().clone(),
                    authority: parent.authority().clone(),
                    expires_at: parent.expires_at(),
                    chain: parent.chain().to_vec(),
                    ended: parent.ended().map(str::to_owned),
                    unproved_key: unproved.cloned(),
                })))
            }
        }
    }

    // SECURITY: nothing was verified here; see `Intent::restated`.
    pub fn behalf(&self, now: OffsetDateTime) -> Behalf {
        match self {
            Self::Person {
                issuer,
                subject,
                in_person,
                claims,
                may_act,
                ..
            } => {
                let mut claims = claims.clone();
                claims.insert("sub".to_owned(), json!(subject));
                if *may_act == Some(false) {
                    // It names nobody.
                    claims.insert("may_act".to_owned(), json!({}));
                }
                let person = Box::new(Person::stated(issuer.clone(), claims, now));
                if *in_person {
                    Behalf::InPerson(person)
                } else {
                    Behalf::Person(person)
                }
            }
            Self::Parent(parent) => Behalf::Parent(Box::new(Parent {
                lease: parent.lease,
                agent: parent.agent.clone(),
                mission: parent.mission.clone(),
                target: parent.target.clone(),
                authority: parent.authority.clone(),
                expires_at: parent.expires_at,
                bound_key: parent.unproved_key.clone(),
                // Holds of that time are not looked at either.
                dimensions: Vec::new(),
                chain: parent.chain.clone(),
                token_sha256: [0; 32],
                ended: parent.ended.clone(),
            })),
        }
    }
}

/// What groups ask of a person, and nothing else that the person's token says.
fn told(policy: &Policy, person: &Person) -> Map<String, Value> {
    let asked = policy.asked_of_people.get(person.issuer());
    let beside = ["sid", "email_verified"];
    let paths = asked
        .into_iter()
        .flatten()
        .map(String::as_str)
        .chain(beside);
    let found = paths.filter_map(|path| {
        let value = claims::find(person.claims(), path)?;
        Some((path.to_owned(), value.clone()))
    });
    found.collect()
}
