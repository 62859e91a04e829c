//! What is wrong with missions, targets and agents as they are configured. Found when the
//! configuration is read, so that a decision never meets it.

use super::{Mission, PolicyError, Target, request, requirement};
use crate::authority::{Authority, Undecidable};
use crate::ids::{MissionId, TargetId};
use crate::intent::SignerClass;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

/// By name; a name that comes twice is a problem.
pub(super) fn named<K: Ord + Clone + Display, T>(
    kind: &str,
    things: Vec<T>,
    id: impl Fn(&T) -> &K,
    problems: &mut Vec<PolicyError>,
) -> BTreeMap<K, T> {
    let mut all = BTreeMap::new();
    for thing in things {
        let name = id(&thing).clone();
        if all.contains_key(&name) {
            problems.push(PolicyError::new(format!("{kind}.{name}"), "is there twice"));
        }
        all.insert(name, thing);
    }
    all
}

pub(super) fn of_targets(targets: &BTreeMap<TargetId, Target>) -> Vec<PolicyError> {
    let mut problems = Vec::new();
    let mut resources: BTreeMap<&str, &TargetId> = BTreeMap::new();
    for target in targets.values() {
        let at = |part: &str| format!("target.{}.{part}", target.id);
        if !target
            .vocabulary
            .detail_types()
            .contains(&target.detail_type)
        {
            let why = format!("`{}` does not go with its vocabulary", target.detail_type);
            problems.push(PolicyError::new(at("kind"), why));
        }
        problems.extend(check_authority(target, &at("ceiling"), &target.ceiling));
        if target.max_ttl < target.min_ttl || target.max_ttl < Duration::from_secs(1) {
            let why = "the longest lifetime must be at least a second, and the shortest one";
            problems.push(PolicyError::new(at("max_ttl"), why));
        }
        for resource in &target.resources {
            let other = resources.insert(resource, &target.id);
            let other = other.or_else(|| targets.keys().find(|name| name.as_str() == resource));
            if let Some(other) = other.filter(|other| **other != target.id) {
                let why = format!("`{resource}` means {other} already");
                problems.push(PolicyError::new(at("resources"), why));
            }
        }
    }
    problems
}

pub(super) fn of_mission(
    mission: &Mission,
    targets: &BTreeMap<TargetId, Target>,
) -> Vec<PolicyError> {
    let at = |part: &str| format!("mission.{}.{part}", mission.id);
    let mut problems = Vec::new();
    let mut problem = |part: &str, why: String| problems.push(PolicyError::new(at(part), why));
    if mission.agents.is_empty() && !mission.allow_registered {
        problem("agents", "name the agents that may have it".to_owned());
    }
    if mission.allow.is_empty() {
        problem(
            "allow",
            "allow something, on at least one target".to_owned(),
        );
    }
    if mission.signer == SignerClass::Platform && mission.max_active.is_none_or(|most| most == 0) {
        let why =
            "a mission with signer = \"platform\" sets the most leases an agent may hold at once";
        problem("max_active", why.to_owned());
    }
    for (fact, value) in &mission.require {
        if let Some(why) = requirement::problem(value) {
            problem(&format!("require.{fact}"), why.to_owned());
        }
    }
    for tether in &mission.tether {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if tether.is_empty() || !tether.chars().all(fits) {
            problem(
                "tether",
                format!("`{tether}` is neither a kind of context nor a fact"),
            );
        }
    }
    for (name, allow) in &mission.allow {
        match targets.get(name) {
            None => {
                let why = format!("there is no target {name}");
                problems.push(PolicyError::new(at("allow"), why));
            }
            Some(target) => problems.extend(of_allow(mission, target, allow)),
        }
    }
    problems
}

fn of_allow(mission: &Mission, target: &Target, allow: &Authority) -> Vec<PolicyError> {
    let at = format!("mission.{}.allow.{}", mission.id, target.id);
    let mut problems = check_authority(target, &at, allow);
    if mission.ttl < target.min_ttl {
        let least = target.min_ttl.as_secs();
        let why = format!(
            "{} gives at least {least} s: ask for a longer ttl",
            target.id
        );
        problems.push(PolicyError::new(format!("mission.{}.ttl", mission.id), why));
    }
    let platform = mission.signer == SignerClass::Platform;
    if platform && target.is_production() && !target.allow_platform_signer {
        let why = format!(
            "{} is labelled production: it must set allow_platform_signer, or the mission another signer",
            target.id
        );
        problems.push(PolicyError::new(
            format!("mission.{}.signer", mission.id),
            why,
        ));
    }
    if let Ok(Some(outside)) = target.vocabulary.outside(&target.ceiling, allow) {
        let location = outside
            .location
            .map(|on| format!(" on {on}"))
            .unwrap_or_default();
        let why = format!(
            "{}{location} lies outside the ceiling of {}, which allows: {}",
            outside.action,
            target.id,
            request::words(&target.ceiling)
        );
        problems.push(PolicyError::new(format!("{at}{}", outside.place), why));
    }
    problems
}

fn check_authority(target: &Target, at: &str, authority: &Authority) -> Vec<PolicyError> {
    if authority.is_empty() {
        return vec![PolicyError::new(at, "is empty: name actions")];
    }
    match target.vocabulary.check(authority) {
        Ok(()) => Vec::new(),
        Err(Undecidable::Pattern {
            place,
            pattern,
            why,
        }) => {
            let place = place.strip_prefix("ceiling").unwrap_or(&place).to_owned();
            vec![PolicyError::new(
                format!("{at}{place}"),
                format!("`{pattern}`: {why}"),
            )]
        }
    }
}

impl PolicyError {
    pub(super) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

/// INVARIANT: only missions without a problem are compiled, so a rule's target is always there.
pub(super) fn of_all(
    missions: &BTreeMap<MissionId, Mission>,
    targets: &BTreeMap<TargetId, Target>,
) -> Vec<PolicyError> {
    let mut problems = of_targets(targets);
    problems.extend(
        missions
            .values()
            .flat_map(|mission| of_mission(mission, targets)),
    );
    problems
}
