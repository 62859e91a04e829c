//! On whose behalf: what each link of the chain before the agent has to say, and what it leaves.
//!
//! A mission is either for agents alone or, with `on_behalf_of`, for agents that serve people of
//! named groups; the group says how far its people reach at most. A lease is handed on to whom its
//! own mission names, and what comes of it lies within it.

use super::question::Question;
use super::{Denial, Denied, Mission, Policy};
use crate::agents::Agent;
use crate::authority::Authority;
use crate::fences::{Dimension, DimensionKind};
use crate::identity::{Confirmation, Person, claims};
use crate::ids::{AgentId, IssuerId, MissionId, TargetId};
use crate::intent::behalf::MAX_ACTORS;
use crate::intent::{Behalf, Parent, Principal, SignerClass};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// `[people.NAME]`: a group of people, by what their issuer says of them.
#[derive(Debug, Clone, PartialEq)]
pub struct People {
    pub name: String,
    pub issuer: IssuerId,
    /// Verified claims that must be there, alone or as a member of a list.
    pub claims: BTreeMap<String, Value>,
    /// The most that an agent may do for them. What is not listed is out of reach.
    pub ceiling: BTreeMap<TargetId, Authority>,
}

/// What the links before the agent allow.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub chain: Vec<Principal>,
    /// Of the groups that the person belongs to, where the mission is for people.
    people: Option<BTreeMap<TargetId, Authority>>,
}

/// By issuer, the claims that the missions' groups name.
pub(super) fn asked(
    missions: &BTreeMap<MissionId, Mission>,
) -> BTreeMap<IssuerId, BTreeSet<String>> {
    let mut all: BTreeMap<IssuerId, BTreeSet<String>> = BTreeMap::new();
    for group in missions.values().flat_map(|m| &m.on_behalf_of) {
        let names = all.entry(group.issuer.clone()).or_default();
        names.extend(group.claims.keys().cloned());
    }
    all
}

impl Served {
    /// What the person's groups reach on the target; `None` where no person is asked for.
    pub fn reach(&self, target: &TargetId) -> Option<Authority> {
        let people = self.people.as_ref()?;
        Some(people.get(target).cloned().unwrap_or_default())
    }

    pub fn told(&self) -> String {
        match self.chain.as_slice() {
            [] => "for itself".to_owned(),
            chain => {
                let names: Vec<_> = chain.iter().map(Principal::name).collect();
                format!("for {}", names.join(", then "))
            }
        }
    }
}

/// Whether the mission may be meant by a request that names none.
pub(super) fn could_be(mission: &Mission, behalf: &Behalf) -> bool {
    match behalf {
        Behalf::Nobody => mission.on_behalf_of.is_empty(),
        Behalf::Person(_) => !mission.on_behalf_of.is_empty(),
        Behalf::InPerson(_) => !mission.on_behalf_of.is_empty() && mission.in_person,
        Behalf::Parent(_) => true,
    }
}

pub(super) fn served(
    question: &Question<'_>,
    mission: &Mission,
    missions: &BTreeMap<MissionId, Mission>,
) -> Result<Served, Denied> {
    match question.behalf {
        Behalf::Nobody if mission.on_behalf_of.is_empty() => Ok(Served::default()),
        Behalf::Nobody => {
            let why = format!("{} is given on behalf of people only", mission.id);
            Err(Denied::new(Denial::SubjectNotAccepted, why))
        }
        Behalf::Person(person) => of_person(question, person, false, mission),
        Behalf::InPerson(person) if mission.in_person => of_person(question, person, true, mission),
        Behalf::InPerson(_) => {
            let why = format!("nobody runs the agents of {} in person", mission.id);
            Err(Denied::new(Denial::SubjectNotAccepted, why))
        }
        Behalf::Parent(parent) => of_parent(question, parent, mission, missions),
    }
}

impl Policy {
    /// Whether any mission of the agent lets this person run it. Which one is asked for, and how far
    /// it reaches, a decision says.
    pub fn runs_in_person(&self, agent: &AgentId, person: &Person) -> bool {
        let own = self.own.get(agent).into_iter().flatten();
        own.filter_map(|id| self.missions.get(id))
            .any(|mission| mission.in_person && groups_of(person, mission).next().is_some())
    }
}

/// The mission's groups that the person belongs to.
fn groups_of<'a>(person: &Person, mission: &'a Mission) -> impl Iterator<Item = &'a People> {
    let is_in = |group: &&People| group.issuer == *person.issuer() && person.has(&group.claims);
    mission.on_behalf_of.iter().filter(is_in)
}

fn of_person(
    question: &Question<'_>,
    person: &Person,
    in_person: bool,
    mission: &Mission,
) -> Result<Served, Denied> {
    let groups: Vec<&People> = groups_of(person, mission).collect();
    if groups.is_empty() {
        let (name, mission) = (person.subject(), &mission.id);
        let why = format!("{mission} is not given on behalf of {name}");
        return Err(Denied::new(Denial::SubjectNotAccepted, why));
    }
    let actor = Actor {
        name: question.agent.id.as_str(),
        proof: (!in_person).then_some((question.issuer_url, question.subject)),
        claims: question.claims.filter(|_| !in_person),
    };
    if let Some(allowed) = person.may_act()
        && !may_act(allowed, person.agents_issuer(), &actor)
    {
        let why = "the person's token names another in `may_act`".to_owned();
        return Err(Denied::new(Denial::ActorNotAccepted, why));
    }
    let link = Principal::Person {
        issuer: person.issuer().clone(),
        issuer_url: person.issuer_url().to_owned(),
        subject: person.subject().to_owned(),
        people: groups.iter().map(|group| group.name.clone()).collect(),
        session: person.session().map(str::to_owned),
        in_person,
    };
    Ok(Served {
        chain: vec![link],
        people: Some(reach(&groups)),
    })
}

/// The agent, as a person's token may name it.
pub(super) struct Actor<'a> {
    pub name: &'a str,
    /// SECURITY: `None` in person: what was proved then is the person, and that is not the actor.
    pub proof: Option<(&'a str, &'a str)>,
    pub claims: Option<&'a Map<String, Value>>,
}

/// RFC 8693 section 4.4. Each member says something of the actor, and every one must hold.
///
/// SECURITY: a member that is not understood is compared, never skipped.
pub(super) fn may_act(allowed: &Value, agents_issuer: &str, actor: &Actor<'_>) -> bool {
    let Value::Object(members) = allowed else {
        return false;
    };
    let text = |name: &str| members.get(name).map(|value| value.as_str());
    let named = match (text("iss"), text("sub")) {
        // By the name that it has here.
        (None, Some(Some(name))) => name == actor.name,
        (Some(Some(issuer)), Some(Some(name))) if issuer == agents_issuer => name == actor.name,
        // By the name that its platform knows it under.
        (Some(Some(issuer)), Some(Some(name))) => actor.proof == Some((issuer, name)),
        _ => false,
    };
    let rest = members
        .iter()
        .filter(|(name, _)| *name != "iss" && *name != "sub");
    named
        && rest.into_iter().all(|(name, wanted)| {
            let found = actor.claims.and_then(|claims| claims.get(name));
            found.is_some_and(|found| claims::same(found, wanted))
        })
}

fn of_parent(
    question: &Question<'_>,
    parent: &Parent,
    mission: &Mission,
    missions: &BTreeMap<MissionId, Mission>,
) -> Result<Served, Denied> {
    if let Some(why) = parent.ended() {
        let why = format!("lease {} is over: {why}", parent.lease());
        return Err(Denied::new(Denial::ParentNotAlive, why));
    }
    let signed_with = (question.signer, question.signing_key);
    if !key_proved(parent, signed_with, question.proved_key) {
        let why = format!(
            "lease {} is bound to a key that this request does not prove",
            parent.lease()
        );
        return Err(Denied::new(Denial::ParentKeyNotProved, why));
    }
    let agent: &AgentId = &question.agent.id;
    let handed_on = missions
        .get(parent.mission())
        .is_some_and(|own| own.delegates_to.contains(agent));
    if !handed_on {
        let why = format!("{} does not hand on to {agent}", parent.mission());
        return Err(Denied::new(Denial::ActorNotAccepted, why));
    }
    let chain = parent.extended();
    if chain.len() > MAX_ACTORS {
        let why = format!("more than {MAX_ACTORS} would act one for another");
        return Err(Denied::new(Denial::ChainTooDeep, why));
    }
    Ok(Served {
        people: people_of(&chain, mission)?,
        chain,
    })
}

/// A mission for people, through others: the person that the chain began with must still be of a
/// group that it names, as that group is now.
fn people_of(
    chain: &[Principal],
    mission: &Mission,
) -> Result<Option<BTreeMap<TargetId, Authority>>, Denied> {
    if mission.on_behalf_of.is_empty() {
        return Ok(None);
    }
    let of_chain = match chain.first() {
        Some(Principal::Person { people, .. }) => people.as_slice(),
        _ => &[],
    };
    let groups: Vec<&People> = mission
        .on_behalf_of
        .iter()
        .filter(|group| of_chain.contains(&group.name))
        .collect();
    if groups.is_empty() {
        let why = format!(
            "{} is not given on behalf of whom it began with",
            mission.id
        );
        return Err(Denied::new(Denial::SubjectNotAccepted, why));
    }
    Ok(Some(reach(&groups)))
}

/// Whether a chain that was accepted before still would be, as far as a lease tells of it.
pub(super) fn still(
    agent: &Agent,
    chain: &[Principal],
    mission: &Mission,
    missions: &BTreeMap<MissionId, Mission>,
) -> Result<Served, Denied> {
    let id = &mission.id;
    match chain.last() {
        Some(Principal::Person { subject, .. }) if mission.on_behalf_of.is_empty() => {
            let why = format!("{id} is not given on behalf of {subject} any more");
            return Err(Denied::new(Denial::SubjectNotAccepted, why));
        }
        Some(Principal::Agent { mission: own, .. }) => {
            let own = missions.get(own);
            if !own.is_some_and(|own| own.delegates_to.contains(&agent.id)) {
                let why = format!("nothing is handed on to {} there any more", agent.id);
                return Err(Denied::new(Denial::ActorNotAccepted, why));
            }
        }
        Some(Principal::Person { .. }) | None => {}
    }
    Ok(Served {
        people: people_of(chain, mission)?,
        chain: chain.to_vec(),
    })
}

/// Each permission of each group, side by side: a pair must lie within one of them.
fn reach(groups: &[&People]) -> BTreeMap<TargetId, Authority> {
    let mut all: BTreeMap<TargetId, Authority> = BTreeMap::new();
    for (target, authority) in groups.iter().flat_map(|group| &group.ceiling) {
        let permissions = authority.0.iter().cloned();
        all.entry(target.clone()).or_default().0.extend(permissions);
    }
    all
}

/// SECURITY: whoever has taken a bound credential has no more of it than its text. Its key signs
/// the intent, which names the credential by its hash, or proves itself beside it.
pub(super) fn key_proved(
    parent: &Parent,
    (signer, signing_key): (SignerClass, Option<&str>),
    proved_key: Option<&Confirmation>,
) -> bool {
    let Some(bound) = parent.bound_key() else {
        return true;
    };
    let signed = match (signer, signing_key, bound) {
        (SignerClass::Agent, Some(key), Confirmation::Jkt(bound)) => key == bound,
        _ => false,
    };
    signed || proved_key == Some(bound)
}

/// The kind of context that is a person's sign-in.
pub(super) const SESSION: &str = "session";

/// Whether the end of a sign-in ends the lease: the issuer of the person names it.
pub(super) fn has_session(behalf: &Behalf) -> bool {
    let of_root = |parent: &Parent| {
        matches!(
            parent.root(),
            Some(Principal::Person {
                session: Some(_),
                ..
            })
        )
    };
    behalf
        .person()
        .is_some_and(|person| person.session().is_some())
        || behalf.parent().is_some_and(of_root)
}

/// Everything that ends a link of the chain ends the lease.
pub(super) fn dimensions(behalf: &Behalf) -> Vec<Dimension> {
    if let Some(parent) = behalf.parent() {
        return parent.dimensions().to_vec();
    }
    let Some(person) = behalf.person() else {
        return Vec::new();
    };
    let mut all = vec![Dimension::new(
        DimensionKind::IssuerKey,
        person.issuer_key(),
    )];
    for issuer in [person.issuer_url(), person.issuer().as_str()] {
        all.push(Dimension::new(DimensionKind::Issuer, issuer));
        all.push(Dimension::subject(issuer, person.subject()));
        if let Some(session) = person.session() {
            all.push(Dimension::context(issuer, SESSION, session));
        }
    }
    all
}
