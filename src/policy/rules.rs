//! Cedar: one permit for each mission, and the organisation's forbids.
//!
//! In: a request that everything else allowed. Out: which policies decided, or which one refused.
//! Cedar skips a policy that it cannot evaluate, a `forbid` included; here that is a denial.

use super::compile::{
    conjuncts, fact_names, is_settled, opening, parse_forbids, permit, place_of, problem, validate,
};
use super::mission::{Mission, Target};
use super::operators::{Administration, Forbids, Operators, is_about_operators};
use super::schema::Known;
use super::{Denial, PolicyError};
use crate::agents::Agent;
use crate::identity::Facts;
use crate::ids::{MissionId, TargetId};
use crate::intent::{Principal, SignerClass};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Policy as Rule, PolicySet, PrincipalConstraint, Request, ResourceConstraint,
    RestrictedExpression, Schema,
};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;
use time::OffsetDateTime;

#[derive(Debug)]
pub(super) struct Rules {
    names: Names,
    known: Known,
    schema: Schema,
    missions: BTreeMap<MissionId, Compiled>,
    /// `@reason` of each forbid that has one.
    reasons: BTreeMap<String, String>,
    /// Forbids that look at nothing of a request.
    settled: BTreeSet<String>,
    operators: Operators,
}

/// Parsed once.
#[derive(Debug)]
struct Names {
    agent: EntityTypeName,
    mission: EntityTypeName,
    target: EntityTypeName,
    issue: EntityUid,
}

#[derive(Debug)]
struct Compiled {
    /// For each target: the permit, and every forbid whose scope can match. What a decision costs
    /// does not grow with the number of missions.
    slices: BTreeMap<TargetId, PolicySet>,
    /// The parts of `when` between top-level `&&`, to say which one failed.
    conjuncts: Vec<(String, PolicySet)>,
}

/// Everything a policy can look at.
pub(super) struct Ask<'a> {
    pub agent: &'a Agent,
    pub mission: &'a Mission,
    pub target: &'a Target,
    pub facts: &'a Facts,
    pub issuer: &'a str,
    pub signer: SignerClass,
    pub bound: bool,
    pub task: Option<&'a str>,
    /// Who stands before the agent.
    pub chain: &'a [Principal],
    /// So many people approve it before it is issued.
    pub approvals: u32,
    pub ttl: Duration,
    pub now: OffsetDateTime,
}

pub(super) struct Refused {
    pub denial: Denial,
    pub detail: String,
    /// Every forbid was evaluated and none matched; a part of the mission's `when` did not hold, and
    /// nothing else was in the way.
    pub only_when: bool,
}

impl Rules {
    pub fn new(
        missions: &BTreeMap<MissionId, Mission>,
        forbids: &[(String, String)],
        facts: &[String],
    ) -> Result<Self, Vec<PolicyError>> {
        let mut problems = Vec::new();
        let names = Names::new().map_err(|error| vec![error])?;
        let (known, bad) = Known::new(&fact_names(missions, facts));
        problems.extend(bad.into_iter().map(|bad| PolicyError {
            place: format!("fact `{}`", bad.name),
            problem: bad.why.to_owned(),
        }));
        let (schema, _) = Schema::from_cedarschema_str(&known.schema())
            .map_err(|error| vec![problem("the policy schema", error)])?;

        let files = forbids;
        let (forbids, unfit) = parse_forbids(files);
        problems.extend(unfit);
        let (of_operators, forbids): (Vec<_>, Vec<_>) =
            forbids.into_iter().partition(is_about_operators);
        let file_of = |place: &str| {
            let file = files.iter().find(|(name, _)| name == place);
            file.map(|(_, text)| (text.as_str(), 0))
        };
        let operators = Operators::new(&of_operators, file_of);
        let mut permits = Vec::new();
        for mission in missions.values() {
            match permit(mission) {
                Ok(rule) => permits.push((mission, rule)),
                Err(error) => problems.push(error),
            }
        }
        let all = permits.iter().map(|(_, rule)| rule).chain(&forbids);
        let text_of = |place: &str| {
            file_of(place).or_else(|| {
                let own = |m: &&Mission| format!("mission.{}.when", m.id) == place;
                let mission = missions.values().find(own)?;
                Some((mission.when.as_deref()?, opening(mission).len()))
            })
        };
        problems.extend(validate(schema.clone(), all, text_of));
        let operators = match operators {
            Ok(operators) if problems.is_empty() => operators,
            Ok(_) => return Err(problems),
            Err(more) => {
                problems.extend(more);
                return Err(problems);
            }
        };
        let mut compiled = BTreeMap::new();
        for (mission, rule) in permits {
            let parts = Compiled::new(mission, &rule, &forbids, &names)
                .map_err(|error| vec![problem(&place_of(rule.id()), error)])?;
            compiled.insert(mission.id.clone(), parts);
        }
        let reasons = forbids
            .iter()
            .chain(&of_operators)
            .filter_map(|rule| Some((rule.id().to_string(), rule.annotation("reason")?.to_owned())))
            .collect();
        Ok(Self {
            names,
            known,
            schema,
            missions: compiled,
            reasons,
            settled: forbids
                .iter()
                .filter(|rule| is_settled(rule))
                .map(|rule| rule.id().to_string())
                .collect(),
            operators,
        })
    }

    /// Those that forbid this agent, mission and target whatever is asked.
    pub fn always_forbids(&self, ask: &Ask<'_>) -> Vec<String> {
        let compiled = self.missions.get(&ask.mission.id);
        let Some(slice) = compiled.and_then(|compiled| compiled.slices.get(&ask.target.id)) else {
            return Vec::new();
        };
        let settled = slice
            .policies()
            .filter(|rule| self.settled.contains(&rule.id().to_string()));
        let (Ok(rules), Ok((request, entities))) = (
            PolicySet::from_policies(settled.cloned()),
            self.question(ask),
        ) else {
            return Vec::new();
        };
        let response = Authorizer::new().is_authorized(&request, &rules, &entities);
        let failed = response.diagnostics().errors().map(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(inner) = error;
            inner.policy_id().to_string()
        });
        let matched = response.diagnostics().reason().map(ToString::to_string);
        let all: BTreeSet<String> = matched.chain(failed).collect();
        let told = all.iter().map(|id| self.with_reason(id));
        told.map(|id| format!("forbidden by {id}")).collect()
    }

    /// What forbids it, with its reason.
    pub fn administer(&self, asked: &Administration<'_>) -> Result<(), String> {
        self.operators
            .allow(asked)
            .map_err(|forbids| match forbids {
                Forbids::By(ids) => {
                    let told: Vec<String> = ids.iter().map(|id| self.with_reason(id)).collect();
                    format!("forbidden by {}", told.join(", "))
                }
                Forbids::Untold(why) => why,
            })
    }

    pub fn schema(&self) -> String {
        self.known.schema()
    }

    /// The ids of the policies that decided.
    pub fn evaluate(&self, ask: &Ask<'_>) -> Result<Vec<String>, Refused> {
        let refused = |denial, detail| Refused {
            denial,
            detail,
            only_when: false,
        };
        // SECURITY: what cannot be put to Cedar, or finds no policy there, is denied.
        let unmet = |detail: String| refused(Denial::ConditionUnmet, detail);
        let (request, entities) = self.question(ask).map_err(unmet)?;
        let compiled = self.missions.get(&ask.mission.id);
        let slice = compiled
            .and_then(|compiled| compiled.slices.get(&ask.target.id))
            .ok_or_else(|| unmet("the mission has no policy on the target".to_owned()))?;
        let response = Authorizer::new().is_authorized(&request, slice, &entities);
        let mission = ask.mission.id.as_str();
        let mut of_mission = None;
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(inner) = error;
            let told = format!("could not be evaluated: {error}");
            if inner.policy_id().to_string() != mission {
                return Err(refused(Denial::ForbiddenByPolicy, told));
            }
            of_mission = Some(told);
        }
        let mut decided: Vec<String> = response
            .diagnostics()
            .reason()
            .map(ToString::to_string)
            .collect();
        decided.sort();
        if response.decision() == Decision::Allow {
            return Ok(decided);
        }
        if decided.is_empty() {
            let failed = compiled.and_then(|c| c.first_failing(&request, &entities));
            let part = failed.unwrap_or("its condition");
            let detail = of_mission.unwrap_or_else(|| format!("{mission}: `{part}` does not hold"));
            return Err(Refused {
                only_when: failed.is_some(),
                ..unmet(detail)
            });
        }
        let told: Vec<String> = decided.iter().map(|id| self.with_reason(id)).collect();
        let detail = format!("forbidden by {}", told.join(", "));
        Err(refused(Denial::ForbiddenByPolicy, detail))
    }

    #[cfg(test)]
    pub fn slice_size(&self, mission: &str, target: &str) -> usize {
        let compiled = &self.missions[&mission.parse().unwrap()];
        compiled.slices[&target.parse().unwrap()].policies().count()
    }

    fn with_reason(&self, id: &str) -> String {
        match self.reasons.get(id) {
            Some(reason) => format!("{id} ({reason})"),
            None => id.to_owned(),
        }
    }

    fn question(&self, ask: &Ask<'_>) -> Result<(Request, Entities), String> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let tags = |labels: &BTreeMap<String, String>| -> Vec<(String, RestrictedExpression)> {
            labels.iter().map(|(k, v)| (k.clone(), text(v))).collect()
        };
        let entity = |uid: &EntityUid, attributes: Vec<(&str, &str)>, labels| {
            let attributes = attributes.into_iter().map(|(k, v)| (k.to_owned(), text(v)));
            Entity::new_with_tags(uid.clone(), attributes, [], tags(labels))
                .map_err(|error| error.to_string())
        };
        let Ask {
            agent,
            mission,
            target,
            ..
        } = ask;
        let principal = uid(&self.names.agent, agent.id.as_str());
        let resource = uid(&self.names.target, target.id.as_str());
        let purpose = uid(&self.names.mission, mission.id.as_str());
        let name = |name| ("name", name);
        // SECURITY: whoever registers would choose both, and a policy may make an exception by them.
        let (own, owner) = match agent.registered {
            true => ("", ""),
            false => (agent.id.as_str(), agent.owner.as_str()),
        };
        let entities = [
            entity(&principal, vec![name(own), ("owner", owner)], &agent.labels)?,
            entity(
                &purpose,
                vec![name(mission.id.as_str()), ("owner", &mission.owner)],
                &mission.labels,
            )?,
            entity(
                &resource,
                vec![name(target.id.as_str()), ("revocation", target.class)],
                &target.labels,
            )?,
        ];
        let entities =
            Entities::from_entities(entities, None).map_err(|error| error.to_string())?;
        let context = self.context(ask, purpose)?;
        let issue = self.names.issue.clone();
        let request = Request::new(principal, issue, resource, context, Some(&self.schema))
            .map_err(|error| error.to_string())?;
        Ok((request, entities))
    }

    fn context(&self, ask: &Ask<'_>, mission: EntityUid) -> Result<Context, String> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let (at, weekday) = moment(ask.now);
        let ttl = i64::try_from(ask.ttl.as_secs()).map_err(|error| error.to_string())?;
        let delivery = if ask.bound { "bound" } else { "bearer" };
        let mut pairs = vec![
            ("mission", RestrictedExpression::new_entity_uid(mission)),
            ("verified", self.known.context(ask.facts)?),
            ("issuer", text(ask.issuer)),
            ("signer", text(ask.signer.as_str())),
            ("delivery", text(delivery)),
            ("ttl", RestrictedExpression::new_long(ttl)),
            (
                "approvals",
                RestrictedExpression::new_long(ask.approvals.into()),
            ),
            ("now", RestrictedExpression::new_datetime(at)),
            ("weekday", text(&weekday)),
        ];
        pairs.extend(ask.task.map(|task| ("task", text(task))));
        pairs.push(("chain", chain(ask.chain)?));
        if let Some(person) = person(ask.chain)? {
            pairs.push(("person", person));
        }
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Context::from_pairs(pairs).map_err(|error| error.to_string())
    }
}

/// `context.chain`: with a person at its beginning each link is an agent that acts, without one the
/// first agent acts for itself.
fn chain(links: &[Principal]) -> Result<RestrictedExpression, String> {
    let depth = i64::try_from(links.len()).map_err(|error| error.to_string())?;
    let agents = links.iter().filter_map(|link| match link {
        Principal::Agent { agent, .. } => Some(agent.to_string()),
        Principal::Person { .. } => None,
    });
    let members = [
        ("depth", RestrictedExpression::new_long(depth)),
        ("agents", texts(agents)),
    ];
    record(members)
}

/// `context.person`.
fn person(links: &[Principal]) -> Result<Option<RestrictedExpression>, String> {
    let Some(Principal::Person {
        issuer,
        subject,
        people,
        in_person,
        ..
    }) = links.first()
    else {
        return Ok(None);
    };
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    record([
        ("issuer", text(issuer.as_str())),
        ("subject", text(subject)),
        ("groups", texts(people.iter().cloned())),
        ("in_person", RestrictedExpression::new_bool(*in_person)),
    ])
    .map(Some)
}

fn texts(all: impl Iterator<Item = String>) -> RestrictedExpression {
    RestrictedExpression::new_set(all.map(RestrictedExpression::new_string))
}

fn record<const N: usize>(
    members: [(&str, RestrictedExpression); N],
) -> Result<RestrictedExpression, String> {
    let members = members.map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(members).map_err(|error| error.to_string())
}

impl Names {
    fn new() -> Result<Self, PolicyError> {
        let kind = |name: &str| {
            EntityTypeName::from_str(name).map_err(|error| problem("the policy schema", error))
        };
        Ok(Self {
            agent: kind("Dayfly::Agent")?,
            mission: kind("Dayfly::Mission")?,
            target: kind("Dayfly::Target")?,
            issue: uid(&kind("Dayfly::Action")?, "issue"),
        })
    }
}

impl Compiled {
    fn new(
        mission: &Mission,
        permit: &Rule,
        forbids: &[Rule],
        names: &Names,
    ) -> Result<Self, String> {
        let mut slices = BTreeMap::new();
        for target in mission.allow.keys() {
            let matching = forbids
                .iter()
                .filter(|rule| can_match(rule, mission, target, names))
                .cloned();
            let slice = PolicySet::from_policies(matching.chain([permit.clone()]))
                .map_err(|error| error.to_string())?;
            slices.insert(target.clone(), slice);
        }
        let conjuncts = match mission.when {
            Some(_) => conjuncts(permit)?,
            None => Vec::new(),
        };
        Ok(Self { slices, conjuncts })
    }

    fn first_failing(&self, request: &Request, entities: &Entities) -> Option<&str> {
        let holds = |rule: &PolicySet| {
            let response = Authorizer::new().is_authorized(request, rule, entities);
            response.decision() == Decision::Allow
        };
        let failing = self.conjuncts.iter().find(|(_, rule)| !holds(rule));
        failing.map(|(text, _)| text.as_str())
    }
}

/// `now` and `weekday`, as policies see them.
pub(super) fn moment(now: OffsetDateTime) -> (String, String) {
    let now = now.to_offset(time::UtcOffset::UTC);
    let at = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    (at, now.weekday().to_string().to_ascii_lowercase())
}

/// Scopes only: a policy whose scope is false can neither match nor fail.
fn can_match(rule: &Rule, mission: &Mission, target: &TargetId, names: &Names) -> bool {
    let principal = match rule.principal_constraint() {
        PrincipalConstraint::Eq(asked) => mission
            .agents
            .iter()
            .any(|agent| asked == uid(&names.agent, agent.as_str())),
        _ => true,
    };
    let resource = match rule.resource_constraint() {
        ResourceConstraint::Eq(asked) => asked == uid(&names.target, target.as_str()),
        _ => true,
    };
    principal && resource
}

fn uid(kind: &EntityTypeName, name: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name))
}
