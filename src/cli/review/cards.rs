//! An agent or a mission as a reviewer reads it.

use super::seen;
use crate::authority::AuthorizationDetail;
use crate::cli::operator_side::pairs;
use crate::wire::{MissionView, ReachView};
use std::collections::BTreeMap;

pub fn mission(mission: &MissionView) -> String {
    let why = why(mission.why.as_deref(), mission.by.as_deref());
    let agents: Vec<_> = mission.agents.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        ("mission", mission.id.to_string()),
        ("state", format!("{}{why}", mission.state)),
        ("owner", mission.owner.clone()),
        ("purpose", mission.purpose.clone()),
        (
            "ends",
            mission.ends.clone().unwrap_or_else(|| "never".to_owned()),
        ),
        ("agents", agents.join(", ")),
        ("labels", labels(&mission.labels)),
    ];
    lines.extend(seen(&mission.attention));
    let mut text = pairs(&lines);
    text.push_str(&reach(&mission.reach));
    text
}

pub fn why(why: Option<&str>, by: Option<&str>) -> String {
    match (why, by) {
        (Some(why), Some(by)) => format!(" ({why}, says {by})"),
        (Some(why), None) => format!(" ({why})"),
        (None, _) => String::new(),
    }
}

pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let all = labels.iter().map(|(name, value)| format!("{name}={value}"));
    all.collect::<Vec<_>>().join(", ")
}

/// Beginning with a line end, or empty.
pub fn reach(all: &[ReachView]) -> String {
    let mut text = String::new();
    for one in all {
        let mut lines = vec![
            ("  by", format!("{} as {}", one.mission, one.agent)),
            ("  may", may(&one.may)),
            ("  within", may(&one.within)),
            ("  labels", labels(&one.labels)),
            ("  never", one.never.join("; ")),
            ("  only if", conditions(one)),
            ("  for", people(one)),
            ("  until the end of", one.tether.join(", ")),
            ("  ended by", one.revocation.clone()),
        ];
        let asked = if one.asked.is_empty() {
            "nothing yet".to_owned()
        } else {
            one.asked.join(", ")
        };
        lines.push(("  asked for", asked));
        lines.push(("  never asked for", one.never_asked.join(", ")));
        text.push_str(&format!("\non {}\n{}", one.target, pairs(&lines)));
    }
    text
}

fn people(one: &ReachView) -> String {
    let groups = one.on_behalf_of.iter().map(|through| {
        let within = may(&through.within);
        if within.is_empty() {
            through.group.clone()
        } else {
            format!("{} (within: {within})", through.group)
        }
    });
    let mut text = groups.collect::<Vec<_>>().join(", ");
    if one.in_person && !text.is_empty() {
        text.push_str("; also in person");
    }
    text
}

fn may(details: &[AuthorizationDetail]) -> String {
    let one = |detail: &AuthorizationDetail| match detail.locations.as_slice() {
        [] => detail.actions.join(", "),
        some => format!("{} on {}", detail.actions.join(", "), some.join(", ")),
    };
    details.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn conditions(one: &ReachView) -> String {
    let facts = one.require.iter();
    let facts = facts.map(|(name, value)| format!("{name} = {value}"));
    let all: Vec<_> = facts.chain(one.when.clone()).collect();
    all.join(" and ")
}
