//! `mission suggest`: the mission that would have allowed exactly what was asked and refused.

use super::OperatorArgs;
use super::operator_side::get;
use super::output::{Failure, Output, columns};
use super::recorded::{Decision, Outcome, decisions};
use super::selector::{has, label};
use crate::authority::{Authority, Permission, Vocabulary};
use crate::clock::{Clock, SystemClock};
use crate::ids::AgentId;
use crate::intent::SignerClass;
use crate::policy::{Denial, Recorded};
use crate::wire::{MissionView, Page, ReviewView};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use time::{Date, Duration};

#[derive(Debug, Subcommand)]
pub enum MissionCommand {
    /// Write the mission that would have allowed exactly what was asked and refused.
    ///
    /// From an exported audit: what was refused for want of a mission, a grant or a condition, and what
    /// a mission that only observes let pass. A draft for its owner to review, not a decision.
    #[command(
        after_help = "Example:\n  dayfly mission suggest --audit audit.jsonl --agent checkout-deployer > suggested.toml"
    )]
    Suggest(SuggestArgs),
    /// All missions: state, owner, last day, who may have them.
    #[command(after_help = "Example:\n  dayfly mission list --label env=prod")]
    List {
        /// Only those with this label; several: with all of them.
        #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

#[derive(Debug, Args)]
pub struct SuggestArgs {
    /// An exported audit, or a folder of them.
    #[arg(long)]
    audit: PathBuf,
    /// Of this agent only.
    #[arg(long)]
    agent: Option<AgentId>,
    /// Also for missions that refused nothing: what they are used for.
    #[arg(long)]
    all: bool,
    /// Who will answer for the mission.
    #[arg(long, default_value = "nobody-yet@example.com")]
    owner: String,
}

#[derive(Debug, Serialize)]
struct Report {
    missions: Vec<Suggestion>,
    /// Decisions that no mission could allow, by reason.
    beyond: BTreeMap<String, u64>,
    toml: String,
}

#[derive(Debug, Serialize)]
struct Suggestion {
    name: String,
    agents: BTreeSet<AgentId>,
    owner: String,
    purpose: String,
    ends: String,
    allow: BTreeMap<String, Authority>,
    require: BTreeMap<String, Value>,
    tether: Vec<String>,
    signer: &'static str,
    /// How many decisions it stands for.
    decisions: usize,
}

pub async fn mission(command: MissionCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        MissionCommand::Suggest(args) => suggest(&args, output),
        MissionCommand::List { label, operator } => list(&operator, &label, output).await,
    }
}

async fn list(
    operator: &OperatorArgs,
    labels: &[(String, String)],
    output: &Output,
) -> Result<u8, Failure> {
    let page: Page<ReviewView> = get(operator, "/reviews?all=true").await?;
    let missions = page.items.into_iter().filter_map(|item| item.mission);
    let mut items: Vec<_> = missions.filter(|one| has(&one.labels, labels)).collect();
    items.sort_by(|a, b| a.id.cmp(&b.id));
    output.show(&Page { items, next: None }, |page| {
        let row = |mission: &MissionView| {
            let agents: Vec<_> = mission.agents.iter().map(ToString::to_string).collect();
            vec![
                mission.id.to_string(),
                mission.state.clone(),
                mission.owner.clone(),
                mission.ends.clone().unwrap_or_else(|| "never".to_owned()),
                agents.join(", "),
            ]
        };
        let rows: Vec<_> = page.items.iter().map(row).collect();
        columns(&["MISSION", "STATE", "OWNER", "ENDS", "AGENTS"], &rows)
    })?;
    Ok(0)
}

fn suggest(args: &SuggestArgs, output: &Output) -> Result<u8, Failure> {
    let found = decisions(&args.audit)?;
    let today = SystemClock::new().now().date();
    let mut groups: BTreeMap<Group, (bool, Vec<&Decision>)> = BTreeMap::new();
    let mut beyond: BTreeMap<String, u64> = BTreeMap::new();
    for decision in &found.all {
        if args
            .agent
            .as_ref()
            .is_some_and(|only| *only != decision.agent)
        {
            continue;
        }
        let (is_wanted, group) = match wanted(decision) {
            Wanted::Yes => (true, Group::of(decision)),
            Wanted::Granted => (args.all, Group::of(decision)),
            Wanted::No => continue,
            Wanted::Beyond(reason) => {
                *beyond.entry(reason.to_owned()).or_default() += 1;
                continue;
            }
        };
        let (suggests, members) = groups.entry(group).or_default();
        *suggests |= is_wanted;
        members.push(decision);
    }
    let wanted = groups.iter().filter(|(_, (suggests, _))| *suggests);
    let missions: Vec<_> = wanted
        .map(|(group, (_, members))| suggestion(group, members, (&args.owner, today)))
        .collect();
    let toml = toml(&missions, &beyond);
    let report = Report {
        missions,
        beyond,
        toml,
    };
    output.show(&report, |report| report.toml.clone())?;
    Ok(u8::from(report.missions.is_empty()))
}

/// What one mission can stand for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// The mission that was named, or that granted: the suggestion takes its place, so it also allows
    /// what was granted.
    Named(String, SignerClass),
    Unnamed(AgentId, SignerClass),
}

impl Group {
    fn of(decision: &Decision) -> Self {
        let recorded = &decision.recorded;
        let named = recorded
            .mission
            .as_ref()
            .or(recorded.beside.mission.as_ref());
        let granted = match &decision.outcome {
            Outcome::Granted { mission, .. } => mission.clone(),
            Outcome::Refused { .. } => None,
        };
        match named.map(ToString::to_string).or(granted) {
            Some(mission) => Self::Named(mission, recorded.signer),
            None => Self::Unnamed(decision.agent.clone(), recorded.signer),
        }
    }

    fn signer(&self) -> SignerClass {
        let (Self::Named(_, signer) | Self::Unnamed(_, signer)) = self;
        *signer
    }

    fn name(&self) -> String {
        match self {
            Self::Named(mission, _) => mission.clone(),
            // A name has 63 characters at most.
            Self::Unnamed(agent, _) => {
                let agent: String = agent.as_str().chars().take(50).collect();
                format!("{agent}-suggested")
            }
        }
    }
}

enum Wanted {
    Yes,
    Granted,
    No,
    /// No mission can allow it.
    Beyond(&'static str),
}

fn wanted(decision: &Decision) -> Wanted {
    let reason = match &decision.outcome {
        Outcome::Granted { .. } if decision.observed => return specific(decision),
        Outcome::Granted { .. } if asked(&decision.recorded).is_some() => return Wanted::Granted,
        Outcome::Granted { .. } => return Wanted::No,
        Outcome::Refused { reason, .. } => *reason,
    };
    match reason {
        Denial::UnknownMission
        | Denial::MissionEnded
        | Denial::SignerNotAccepted
        | Denial::UnknownTarget
        | Denial::ExceedsMission
        | Denial::RequirementUnmet
        | Denial::ConditionUnmet
        | Denial::TetherMissing => specific(decision),
        // Several fit already.
        Denial::AmbiguousMission => Wanted::No,
        // It was allowed, and people had not said yes.
        Denial::ApprovalRequired if asked(&decision.recorded).is_some() => Wanted::Granted,
        Denial::ApprovalRequired => Wanted::No,
        Denial::InvalidAuthorizationDetails
        | Denial::ExceedsIntent
        | Denial::ExceedsAgentCeiling
        | Denial::ExceedsTargetCeiling
        | Denial::ExceedsPeopleCeiling
        | Denial::ExceedsParent
        | Denial::SubjectNotAccepted
        | Denial::ActorNotAccepted
        | Denial::ParentNotAlive
        | Denial::ParentKeyNotProved
        | Denial::ChainTooDeep
        | Denial::Restricted
        | Denial::Undecidable
        | Denial::LifetimeOutOfRange
        | Denial::ForbiddenByPolicy
        | Denial::CredentialNotBindable
        | Denial::Held => Wanted::Beyond(reason.code()),
    }
}

/// Who asked for a whole mission asked for nothing that could be written down.
fn specific(decision: &Decision) -> Wanted {
    match asked(&decision.recorded) {
        Some(_) => Wanted::Yes,
        None => Wanted::Beyond("asked_for_a_whole_mission"),
    }
}

/// What it came down to: the narrower details, and of those what the scope names.
fn asked(recorded: &Recorded) -> Option<(String, Authority)> {
    let beside = &recorded.beside.authorization_details;
    let details = if beside.is_empty() {
        &recorded.asked
    } else {
        beside
    };
    let first = details.first()?;
    let mut authority = Authority::from_details(details);
    let scope = &recorded.beside.scope;
    if !scope.is_empty() {
        let vocabulary = Vocabulary::of_detail_type(&first.kind)?;
        authority = vocabulary.narrow(&authority, scope).ok()?.ok()?;
    }
    Some((first.identifier.clone(), authority))
}

fn suggestion(known_as: &Group, group: &[&Decision], (owner, today): (&str, Date)) -> Suggestion {
    let mut pairs: BTreeMap<String, BTreeMap<Option<String>, BTreeSet<String>>> = BTreeMap::new();
    for (target, authority) in group.iter().filter_map(|d| asked(&d.recorded)) {
        let own = pairs.entry(target).or_default();
        for permission in &authority.0 {
            let places: Vec<_> = match permission.locations.as_slice() {
                [] => vec![None],
                some => some.iter().cloned().map(Some).collect(),
            };
            for place in places {
                let actions = own.entry(place).or_default();
                actions.extend(permission.actions.iter().cloned());
            }
        }
    }
    let allow = pairs
        .into_iter()
        .map(|(target, own)| (target, together(own)));
    let goal = group.iter().rev().find_map(|d| d.goal.as_deref());
    let ends = today + Duration::days(90);
    Suggestion {
        name: known_as.name(),
        agents: group.iter().map(|d| d.agent.clone()).collect(),
        owner: owner.to_owned(),
        purpose: goal.unwrap_or("Say what it achieves").to_owned(),
        ends: ends.to_string(),
        allow: allow.collect(),
        require: in_common(group),
        tether: tether(group),
        signer: known_as.signer().as_str(),
        decisions: group.len(),
    }
}

/// Locations with the same actions are one permission: the same pairs, and no other.
fn together(own: BTreeMap<Option<String>, BTreeSet<String>>) -> Authority {
    let mut by_actions: BTreeMap<(bool, BTreeSet<String>), Vec<String>> = BTreeMap::new();
    for (place, actions) in own {
        let locations = by_actions.entry((place.is_some(), actions)).or_default();
        locations.extend(place);
    }
    let permissions = by_actions
        .into_iter()
        .map(|((_, actions), locations)| Permission {
            actions: actions.into_iter().collect(),
            locations,
        });
    Authority(permissions.collect())
}

/// Facts that differ from run to run say nothing of the mission.
const PER_RUN: &[&str] = &[
    "run_id",
    "run_attempt",
    "run_number",
    "job_id",
    "id",
    "uid",
    "sha",
    "tag",
    "actor",
    "actor_id",
    "runner_id",
    "pod",
    "pod_uid",
    "node",
    "node_uid",
    "instance",
    "instance_id",
    "step",
    "approved_by",
];

/// The facts that every one of them proved with the same value.
fn in_common(group: &[&Decision]) -> BTreeMap<String, Value> {
    let Some((first, rest)) = group.split_first() else {
        return BTreeMap::new();
    };
    let is_lasting = |name: &str| !PER_RUN.contains(&name.rsplit('.').next().unwrap_or(name));
    let is_plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    let in_all = |name: &String, value: &Value| {
        rest.iter()
            .all(|other| other.recorded.facts.get(name) == Some(value))
    };
    let facts = first.recorded.facts.iter();
    facts
        .filter(|(name, value)| is_lasting(name) && is_plain(value) && in_all(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn tether(group: &[&Decision]) -> Vec<String> {
    let proves = |d: &&Decision| d.recorded.facts.contains_key("pipeline.run_id");
    match group.iter().all(proves) {
        true => vec!["pipeline".to_owned()],
        false => Vec::new(),
    }
}

fn toml(missions: &[Suggestion], beyond: &BTreeMap<String, u64>) -> String {
    // Writing to a String cannot fail. A JSON string is a TOML one.
    let quoted = |text: &str| Value::from(text).to_string().replace('\u{7f}', "\\u007f");
    let list = |texts: &[String]| {
        let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    };
    let mut text = String::new();
    for mission in missions {
        let many = mission.decisions;
        let _ = writeln!(
            text,
            "# Allows what was asked in {many} recorded decisions, and nothing else. Review every line."
        );
        let _ = writeln!(text, "[mission.{}]", mission.name);
        let agents: Vec<_> = mission.agents.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "agents  = {}", list(&agents));
        let _ = writeln!(text, "owner   = {}", quoted(&mission.owner));
        let _ = writeln!(text, "purpose = {}", quoted(&mission.purpose));
        let _ = writeln!(text, "ends    = {}", mission.ends);
        if mission.signer != "agent" {
            let _ = writeln!(text, "signer  = {}", quoted(mission.signer));
        }
        if mission.signer == "platform" {
            let _ = writeln!(text, "max_active = 3");
        }
        if !mission.require.is_empty() {
            let facts = mission.require.iter();
            let facts: Vec<_> = facts
                .map(|(name, value)| format!("{} = {value}", quoted(name)))
                .collect();
            let _ = writeln!(text, "require = {{ {} }}", facts.join(", "));
        }
        if !mission.tether.is_empty() {
            let _ = writeln!(text, "tether  = {}", list(&mission.tether));
        }
        let _ = writeln!(text, "allow   = [");
        for (target, authority) in &mission.allow {
            for permission in &authority.0 {
                let locations = match permission.locations.as_slice() {
                    [] => String::new(),
                    some => format!(", locations = {}", list(some)),
                };
                let actions = list(&permission.actions);
                let target = quoted(target);
                let _ = writeln!(
                    text,
                    "  {{ target = {target}, actions = {actions}{locations} }},"
                );
            }
        }
        let _ = writeln!(text, "]\n");
    }
    for (reason, times) in beyond {
        let _ = writeln!(
            text,
            "# Not in it: {reason}, {times} times. No mission can allow that."
        );
    }
    if missions.is_empty() {
        text.push_str("# Nothing was refused that a mission could allow.\n");
    }
    text
}
