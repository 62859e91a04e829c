//! Who can reach what: every agent's missions, cut down by its own ceiling. For people who review
//! it; a decision looks at the request first.

use super::{Mission, People, Policy, Target};
use crate::agents::Agent;
use crate::authority::{Authority, Permission, Vocabulary};

/// What one mission lets one agent do on one target, if its conditions are met.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    pub agent: &'a Agent,
    pub mission: &'a Mission,
    pub target: &'a Target,
    /// The mission's grants of which the agent's ceiling leaves something.
    pub may: Authority,
    /// The agent's ceiling, where it leaves only a part of them.
    pub within: Option<Authority>,
    /// The groups of people that it is for and that reach any of it; empty also where it is for none.
    pub people: Vec<Through<'a>>,
}

/// A group of people that an agent serves.
#[derive(Debug, Clone)]
pub struct Through<'a> {
    pub group: &'a People,
    /// The group's ceiling, where it leaves only a part of what the agent may.
    pub within: Option<Authority>,
}

impl Policy {
    /// In the order of agents, missions, targets. What a ceiling leaves nothing of is not listed.
    pub fn access<'a>(&'a self, agents: impl Iterator<Item = &'a Agent>) -> Vec<Access<'a>> {
        let mut found = Vec::new();
        for agent in agents {
            for mission in self.of_agent(&agent.id) {
                let targets = mission.allow.iter();
                found.extend(targets.filter_map(|(name, allow)| {
                    let target = self.targets.get(name)?;
                    reach(agent, mission, target, allow)
                }));
            }
        }
        found
    }
}

fn reach<'a>(
    agent: &'a Agent,
    mission: &'a Mission,
    target: &'a Target,
    allow: &Authority,
) -> Option<Access<'a>> {
    let nothing = Authority::default();
    let ceiling = agent.ceiling.as_ref();
    let ceiling = ceiling.map(|ceilings| ceilings.get(&target.id).unwrap_or(&nothing));
    let (may, within) = match ceiling {
        None => (allow.clone(), None),
        Some(ceiling) => left_by(ceiling, allow, target.vocabulary),
    };
    let people = mission.on_behalf_of.iter().filter_map(|group| {
        let ceiling = group.ceiling.get(&target.id).unwrap_or(&nothing);
        let (left, _) = left_by(ceiling, &may, target.vocabulary);
        let is_whole = covers(target.vocabulary, ceiling, &may);
        let within = (!is_whole).then(|| ceiling.clone());
        (!left.is_empty()).then_some(Through { group, within })
    });
    let people = people.collect();
    (!may.is_empty()).then_some(Access {
        agent,
        mission,
        target,
        may,
        within,
        people,
    })
}

/// What a ceiling leaves anything of; and the ceiling, where that is only a part.
fn left_by(
    ceiling: &Authority,
    of: &Authority,
    vocabulary: Vocabulary,
) -> (Authority, Option<Authority>) {
    let kept = pairs(of).filter(|pair| meets(vocabulary, ceiling, pair));
    let left = Authority(kept.collect());
    let is_whole = covers(vocabulary, ceiling, &left);
    (left, (!is_whole).then(|| ceiling.clone()))
}

impl Access<'_> {
    /// What of this the other one does not give, pair by pair. Whatever cannot be told apart counts.
    pub fn beyond(&self, other: Option<&Access<'_>>) -> Authority {
        let Some(other) = other else {
            return together(pairs(&self.may).collect());
        };
        let vocabulary = self.target.vocabulary;
        let given = |pair: &Permission| {
            let one = Authority(vec![pair.clone()]);
            if !covers(vocabulary, &other.may, &one) {
                return false;
            }
            let Some(before) = &other.within else {
                return true;
            };
            if covers(vocabulary, before, &one) {
                return true;
            }
            // Only a part of it: then each part that is left now must have been left before.
            self.within.as_ref().is_some_and(|now| {
                pairs(now)
                    .filter(|part| meets(vocabulary, &one, part))
                    .all(|part| covers(vocabulary, before, &Authority(vec![part])))
            })
        };
        together(pairs(&self.may).filter(|pair| !given(pair)).collect())
    }
}

/// What of `one` lies outside of `other`, pair by pair.
pub fn beyond(vocabulary: Vocabulary, one: &Authority, other: &Authority) -> Authority {
    let outside = |pair: &Permission| !covers(vocabulary, other, &Authority(vec![pair.clone()]));
    together(pairs(one).filter(outside).collect())
}

fn covers(vocabulary: Vocabulary, ceiling: &Authority, asked: &Authority) -> bool {
    vocabulary.covers(ceiling, asked) == Ok(true)
}

/// Undecidable counts as meeting: it is for a person to look at.
fn meets(vocabulary: Vocabulary, ceiling: &Authority, pair: &Permission) -> bool {
    vocabulary.overlap(ceiling, &Authority(vec![pair.clone()])) != Ok(false)
}

/// One action on at most one location each.
fn pairs(authority: &Authority) -> impl Iterator<Item = Permission> {
    authority.0.iter().flat_map(|permission| {
        let places: Vec<Vec<String>> = match permission.locations.as_slice() {
            [] => vec![Vec::new()],
            some => some.iter().map(|one| vec![one.clone()]).collect(),
        };
        permission.actions.iter().flat_map(move |action| {
            let pair = |locations: &Vec<String>| Permission {
                actions: vec![action.clone()],
                locations: locations.clone(),
            };
            places.iter().map(pair).collect::<Vec<_>>()
        })
    })
}

/// The same pairs in fewer permissions: actions with the same locations stand together.
fn together(pairs: Vec<Permission>) -> Authority {
    let mut by_action: Vec<(String, Vec<String>)> = Vec::new();
    for pair in pairs {
        let Some(action) = pair.actions.into_iter().next() else {
            continue;
        };
        match by_action.iter_mut().find(|(known, _)| *known == action) {
            // A pair without a location never joins one with.
            Some((_, places)) if !places.is_empty() && !pair.locations.is_empty() => {
                let fresh = pair
                    .locations
                    .into_iter()
                    .filter(|one| !places.contains(one));
                let fresh: Vec<_> = fresh.collect();
                places.extend(fresh);
            }
            Some((_, places)) if places.is_empty() && pair.locations.is_empty() => {}
            _ => by_action.push((action, pair.locations)),
        }
    }
    let mut permissions: Vec<Permission> = Vec::new();
    for (action, locations) in by_action {
        match permissions
            .iter_mut()
            .find(|known| known.locations == locations)
        {
            Some(known) => known.actions.push(action),
            None => permissions.push(Permission {
                actions: vec![action],
                locations,
            }),
        }
    }
    Authority(permissions)
}
