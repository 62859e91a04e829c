//! `access`: who can reach what, from either side, by the configuration alone.

use super::output::{Failure, Output, columns};
use super::register::exported;
use super::selector::label;
use super::simulate::built;
use crate::authority::Authority;
use crate::clock::{Clock, SystemClock};
use crate::ids::{AgentId, TargetId};
use crate::policy::{Access, Mode, words};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct AccessArgs {
    /// The configuration folder.
    #[arg(long, env = "DAYFLY_CONFIG", default_value = ".")]
    config: PathBuf,
    /// Who reaches this target?
    #[arg(long)]
    target: Option<TargetId>,
    /// What does this agent reach?
    #[arg(long)]
    agent: Option<AgentId>,
    /// Only where the agent, the mission or the target has this label.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Also who is registered: what `dayfly agent export` wrote.
    #[arg(long, value_name = "FILE")]
    registered: Option<PathBuf>,
    /// Also what nothing comes of, with why: the last day is over, a label is not as required, a policy
    /// forbids it whatever is asked, no group of people reaches it.
    #[arg(long)]
    all: bool,
}

/// What one mission lets one agent do on one target.
#[derive(Debug, Serialize)]
struct Row {
    agent: String,
    agent_owner: String,
    mission: String,
    mission_owner: String,
    target: String,
    /// How its credentials can be ended.
    revocation: &'static str,
    may: Authority,
    /// The agent's own ceiling, where it leaves only a part of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<Authority>,
    require: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    /// Groups of people: it needs one of them behind it, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    on_behalf_of: Vec<Group>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    in_person: bool,
    signer: &'static str,
    tether: Vec<String>,
    /// How many people approve it each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    approvals: Option<u32>,
    ttl_seconds: u64,
    /// The last day: the agent's, or the mission's if that is earlier.
    ends: String,
    /// Until when `require` and `when` are only observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    observe_until: Option<String>,
    /// Why nothing comes of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    never: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    issuer: String,
    /// The group's ceiling, where it leaves only a part.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<Authority>,
}

pub fn access(args: &AccessArgs, output: &Output) -> Result<u8, Failure> {
    let registered = args.registered.as_deref().map(exported).transpose()?;
    let (policy, agents) = built(&args.config, &registered.unwrap_or_default())?;
    if let Some(target) = args
        .target
        .as_ref()
        .filter(|name| policy.target(name).is_none())
    {
        return Err(Failure::not_found(format!("there is no target {target}")));
    }
    if let Some(agent) = args
        .agent
        .as_ref()
        .filter(|name| agents.get(name).is_none())
    {
        return Err(Failure::not_found(format!("there is no agent {agent}")));
    }
    let now = SystemClock::new().now();
    let rows: Vec<_> = policy
        .access(agents.iter().map(AsRef::as_ref))
        .iter()
        .filter(|access| is_asked(args, access))
        .map(|access| Row {
            never: policy.barred(access, now),
            ..row(access)
        })
        .filter(|row| args.all || row.never.is_empty())
        .collect();
    output.show(&rows, |rows| table(rows))?;
    Ok(0)
}

fn is_asked(args: &AccessArgs, access: &Access<'_>) -> bool {
    let labels = [
        &access.agent.labels,
        &access.mission.labels,
        &access.target.labels,
    ];
    let has = |(name, value): &(String, String)| {
        labels.iter().any(|labels| labels.get(name) == Some(value))
    };
    args.target
        .as_ref()
        .is_none_or(|name| *name == access.target.id)
        && args
            .agent
            .as_ref()
            .is_none_or(|name| *name == access.agent.id)
        && args.label.iter().all(has)
}

fn row(access: &Access<'_>) -> Row {
    let Access {
        agent,
        mission,
        target,
        may,
        within,
        people,
    } = access;
    let ends = mission.ends.map_or(agent.ends, |ends| ends.min(agent.ends));
    let observe_until = match mission.mode {
        Mode::Enforce => None,
        Mode::Observe { until } => Some(until.to_string()),
    };
    Row {
        agent: agent.id.to_string(),
        agent_owner: agent.owner.clone(),
        mission: mission.id.to_string(),
        mission_owner: mission.owner.clone(),
        target: target.id.to_string(),
        revocation: target.class,
        may: may.clone(),
        within: within.clone(),
        require: mission.require.clone(),
        when: mission.when.clone(),
        on_behalf_of: people
            .iter()
            .map(|through| Group {
                group: through.group.name.clone(),
                issuer: through.group.issuer.to_string(),
                within: through.within.clone(),
            })
            .collect(),
        in_person: mission.in_person,
        signer: mission.signer.as_str(),
        tether: mission.tether.clone(),
        approvals: mission.approval.as_ref().map(|terms| terms.count),
        ttl_seconds: mission.ttl.min(target.max_ttl).as_secs(),
        ends: ends.to_string(),
        observe_until,
        never: Vec::new(),
    }
}

fn table(rows: &[Row]) -> String {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let within = row.within.as_ref();
            let within =
                within.map_or_else(String::new, |own| format!(" (within: {})", words(own)));
            vec![
                row.agent.clone(),
                row.mission.clone(),
                row.target.clone(),
                row.revocation.to_owned(),
                row.ends.clone(),
                conditions(row),
                format!("{}{within}", words(&row.may)),
            ]
        })
        .collect();
    let head = [
        "AGENT", "MISSION", "TARGET", "ENDED BY", "UNTIL", "ONLY IF", "MAY",
    ];
    format!("{}\n{} in all", columns(&head, &cells), rows.len())
}

fn conditions(row: &Row) -> String {
    let mut all: Vec<String> = row
        .require
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    all.extend(row.when.iter().cloned());
    if !row.on_behalf_of.is_empty() {
        let groups = row.on_behalf_of.iter().map(|group| match &group.within {
            Some(own) => format!("{} (within: {})", group.group, words(own)),
            None => group.group.clone(),
        });
        let how = if row.in_person { " or in person" } else { "" };
        let groups = groups.collect::<Vec<_>>().join(", ");
        all.push(format!("for people of {groups}{how}"));
    }
    match row.approvals {
        None => {}
        Some(1) => all.push("once somebody approves it".to_owned()),
        Some(count) => all.push(format!("once {count} people approve it")),
    }
    if !row.tether.is_empty() {
        all.push(format!("while {} lasts", row.tether.join(" and ")));
    }
    if row.signer != "agent" {
        all.push(format!("signed by {}", row.signer));
    }
    if let Some(until) = &row.observe_until {
        all.push(format!("only observed until {until}"));
    }
    if !row.never.is_empty() {
        return format!("never: {}", row.never.join("; "));
    }
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join(" and ")
    }
}
