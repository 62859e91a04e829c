//! From configuration to Cedar: what is refused before it can decide anything.

use super::mission::Mission;
use super::operators::is_about_operators;
use super::requirement::is_label;
use super::{PolicyError, schema};
use crate::ids::{AgentId, MissionId, TargetId};
use cedar_policy::{
    Effect, Expression, Policy as Rule, PolicyId, PolicySet, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

/// The mission's name is the policy's id, so every decision names what made it.
pub(super) fn permit(mission: &Mission) -> Result<Rule, PolicyError> {
    let mut text = opening(mission);
    let place = format!("mission.{}.when", mission.id);
    if let Some(when) = &mission.when {
        // SECURITY: one whole expression by itself, so that it cannot close the braces around it.
        Expression::from_str(when).map_err(|error| problem(&place, located(&error, when, 0)))?;
        text.push_str(when);
        text.push_str("\n}");
    }
    text.push(';');
    let id = PolicyId::new(mission.id.as_str());
    Rule::parse(Some(id), text).map_err(|error| problem(&place, error))
}

/// All of the permit that stands before the text of `when`.
pub(super) fn opening(mission: &Mission) -> String {
    let list = |kind: &str, names: Vec<&str>| {
        let uids: Vec<_> = names
            .iter()
            .map(|name| format!("Dayfly::{kind}::\"{name}\""))
            .collect();
        uids.join(", ")
    };
    let mut agents: Vec<_> = mission.agents.iter().map(AgentId::as_str).collect();
    if agents.is_empty() {
        // A set has to have something in it, and nobody has this name.
        agents.push("");
    }
    let targets = mission.allow.keys().map(TargetId::as_str).collect();
    let (agents, targets) = (list("Agent", agents), list("Target", targets));
    let (name, when) = (
        &mission.id,
        mission.when.as_ref().map_or("", |_| "when {\n"),
    );
    format!(
        "permit (principal, action == Dayfly::Action::\"issue\", resource)\n\
         when {{ context.mission == Dayfly::Mission::\"{name}\" }}\n\
         when {{ [{agents}].contains(principal) }}\n\
         when {{ [{targets}].contains(resource) }}\n\
         {when}"
    )
}

/// Every policy of the files, with the file's name and `@id` or its number as its id. A mission's
/// name cannot hold `#`, so the ids never meet.
pub(super) fn parse_forbids(files: &[(String, String)]) -> (Vec<Rule>, Vec<PolicyError>) {
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    let mut ids = BTreeSet::new();
    for (file, text) in files {
        let set = match PolicySet::from_str(text) {
            Ok(set) => set,
            Err(error) => {
                problems.push(problem(file, located(&error, text, 0)));
                continue;
            }
        };
        if set.templates().next().is_some() {
            problems.push(problem(file, "holds a template: write the policy out"));
        }
        for rule in set.policies() {
            // Cedar itself numbers them `policy0`, `policy1`, ... in the order of the file.
            let number = rule.id().to_string();
            let id = match rule.annotation("id") {
                Some(id) => format!("{file}#{id}"),
                None => format!("{file}#{number}"),
            };
            if rule.effect() != Effect::Forbid {
                let why = format!("{id} is a permit: only missions permit");
                problems.push(problem(file, why));
            }
            if !ids.insert(id.clone()) {
                problems.push(problem(file, format!("{id} is there twice")));
            }
            rules.push(rule.new_id(PolicyId::new(id)));
        }
    }
    (rules, problems)
}

/// Agents that policies speak of: whatever stands in one about issuing as an agent, or as a text, which may be
/// an agent's name.
pub fn spoken_of(
    missions: &[Mission],
    forbids: &[(String, String)],
) -> Result<BTreeSet<String>, PolicyError> {
    let (forbids, _) = parse_forbids(forbids);
    let permits: Result<Vec<_>, _> = missions.iter().map(permit).collect();
    let of_agents = forbids.into_iter().filter(|rule| !is_about_operators(rule));
    let mut found = BTreeSet::new();
    for rule in permits?.into_iter().chain(of_agents) {
        let place = place_of(rule.id());
        let read = rule.to_json().map_err(|error| problem(&place, error))?;
        literals(&read, &mut found);
    }
    Ok(found)
}

/// In Cedar's JSON: `{"Value": "text"}`, and `{"type": "Dayfly::Agent", "id": "name"}`.
fn literals(node: &Value, found: &mut BTreeSet<String>) {
    let text = |map: &serde_json::Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).map(str::to_owned)
    };
    match node {
        Value::Object(map) => {
            found.extend(text(map, "Value"));
            if text(map, "type").as_deref() == Some("Dayfly::Agent") {
                found.extend(text(map, "id"));
            }
            map.values().for_each(|inner| literals(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| literals(inner, found)),
        _ => {}
    }
}

/// `text_of`: where a policy was written, and how much stands before it in what Cedar has read.
pub(super) fn validate<'a>(
    schema: Schema,
    rules: impl Iterator<Item = &'a Rule>,
    text_of: impl Fn(&str) -> Option<(&'a str, usize)>,
) -> Vec<PolicyError> {
    let mut set = PolicySet::new();
    let mut problems = Vec::new();
    for rule in rules {
        if let Err(error) = set.add(rule.clone()) {
            problems.push(problem(&place_of(rule.id()), error));
        }
    }
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let mut found = |id: &PolicyId, error: &dyn Diagnostic| {
        let place = place_of(id);
        let told = match text_of(&place) {
            Some((text, before)) => located(error, text, before),
            None => error.to_string(),
        };
        problems.push(problem(&place, told));
    };
    result
        .validation_errors()
        .for_each(|error| found(error.policy_id(), error));
    // A policy that can never match is a mistake in the making, a forbid above all.
    result
        .validation_warnings()
        .for_each(|warning| found(warning.policy_id(), warning));
    problems
}

/// The message with its place in the text, lines and columns counted from 1.
fn located(error: &dyn Diagnostic, text: &str, before: usize) -> String {
    let first = error.labels().and_then(|mut labels| labels.next());
    let place = first
        .and_then(|label| label.offset().checked_sub(before))
        .and_then(|offset| text.get(..offset));
    match place {
        Some(read) => {
            let line = read.matches('\n').count() + 1;
            let column = read.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
            format!("line {line}, column {column}: {error}")
        }
        None => error.to_string(),
    }
}

pub(super) fn place_of(id: &PolicyId) -> String {
    let id = id.to_string();
    match id.split_once('#') {
        Some((file, _)) => file.to_owned(),
        None => format!("mission.{id}.when"),
    }
}

/// The last `when` of the permit, cut at its top-level `&&`.
pub(super) fn conjuncts(permit: &Rule) -> Result<Vec<(String, PolicySet)>, String> {
    let permit = permit.to_json().map_err(|error| error.to_string())?;
    let body = permit
        .get("conditions")
        .and_then(Value::as_array)
        .and_then(|conditions| conditions.last()?.get("body"))
        .ok_or("its condition cannot be read back")?;
    let mut parts = Vec::new();
    split(body, &mut parts);
    parts.into_iter().map(conjunct).collect()
}

/// Whether it looks at agents, missions and targets alone: then the configuration decides it, and no
/// request. What cannot be read back counts as looking at more.
pub(super) fn is_settled(rule: &Rule) -> bool {
    fn looks(at: &Value) -> bool {
        let context = json!({ "Var": "context" });
        let mission = |access: &Value| {
            access.get("left") == Some(&context) && access.get("attr") == Some(&json!("mission"))
        };
        match at {
            Value::Object(members) => {
                *at == context
                    || members.iter().any(|(name, value)| {
                        let is_mission = [".", "has"].contains(&name.as_str()) && mission(value);
                        !is_mission && looks(value)
                    })
            }
            Value::Array(all) => all.iter().any(looks),
            _ => false,
        }
    }
    rule.to_json()
        .is_ok_and(|rule| !rule.get("conditions").is_some_and(looks))
}

fn split<'a>(body: &'a Value, parts: &mut Vec<&'a Value>) {
    let and = body.get("&&");
    let sides = and.and_then(|and| Some((and.get("left")?, and.get("right")?)));
    match sides {
        Some((left, right)) => {
            split(left, parts);
            split(right, parts);
        }
        None => parts.push(body),
    }
}

fn conjunct(body: &Value) -> Result<(String, PolicySet), String> {
    let any = json!({ "op": "All" });
    let rule = json!({
        "effect": "permit", "principal": any, "action": any, "resource": any,
        "conditions": [{ "kind": "when", "body": body }],
    });
    let rule = Rule::from_json(None, rule).map_err(|error| error.to_string())?;
    let text = rule.to_cedar().unwrap_or_default();
    let text = text
        .split_once("when {")
        .and_then(|(_, rest)| rest.rsplit_once('}'))
        .map_or("its condition", |(body, _)| body);
    // On one line, and without the brackets around all of it.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let rule = PolicySet::from_policies([rule]).map_err(|error| error.to_string())?;
    Ok((text, rule))
}

pub(super) fn problem(place: &str, problem: impl Display) -> PolicyError {
    PolicyError {
        place: place.to_owned(),
        problem: problem.to_string(),
    }
}

/// Facts that a policy may name: the presets', the configuration's, and what missions require.
pub(super) fn fact_names(
    missions: &BTreeMap<MissionId, Mission>,
    own: &[String],
) -> BTreeSet<String> {
    let mut names = schema::standard();
    names.extend(own.iter().cloned());
    let required = missions.values().flat_map(|m| m.require.keys());
    names.extend(required.filter(|name| !is_label(name)).cloned());
    names
}
