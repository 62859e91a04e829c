//! `simulate`: what a changed configuration would have decided about everything that was asked.

use super::output::{Failure, Output};
use super::recorded::{Decision, Outcome, decisions};
use super::register::exported;
use crate::agents::Registry;
use crate::agents::registered::Definition;
use crate::authority::Authority;
use crate::config;
use crate::fences::View;
use crate::ids::AgentId;
use crate::policy::{Explanation, Policy};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// An exported audit, or a folder of them.
    #[arg(long)]
    audit: PathBuf,
    /// The configuration folder to try.
    #[arg(long)]
    config: PathBuf,
    /// Exit with 3 if something that was granted would be refused, or would get less.
    #[arg(long)]
    fail_on_refused: bool,
    /// Also who is registered: what `dayfly agent export` wrote.
    #[arg(long, value_name = "FILE")]
    registered: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Decisions that were made again.
    replayed: u64,
    /// Decisions that depended on what is in no configuration: holds, limits, standing.
    skipped: u64,
    changes: Vec<Change>,
}

/// Decisions that would come out otherwise in the same way.
#[derive(Debug, Serialize)]
struct Change {
    kind: Kind,
    agent: String,
    before: String,
    after: String,
    /// Of the first one: what the configuration says of it.
    why: String,
    times: u64,
    #[serde(with = "time::serde::rfc3339")]
    first: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Granted then, refused now.
    Refused,
    /// Granted both times, and less of it now.
    Less,
    /// Refused then, granted now.
    Allowed,
    /// Granted both times, and more of it now.
    More,
    /// Refused both times, or granted by another mission.
    Otherwise,
}

pub fn simulate(args: &SimulateArgs, output: &Output) -> Result<u8, Failure> {
    let registered = args.registered.as_deref().map(exported).transpose()?;
    let (policy, agents) = built(&args.config, &registered.unwrap_or_default())?;
    let decisions = decisions(&args.audit)?;
    let mut changes: BTreeMap<(Kind, String, String, String), Change> = BTreeMap::new();
    for decision in &decisions.all {
        let Some(change) = replay(decision, &policy, &agents) else {
            continue;
        };
        let (agent, before, after) = (
            change.agent.clone(),
            change.before.clone(),
            change.after.clone(),
        );
        let known = changes.entry((change.kind, agent, before, after));
        let known = known.or_insert(change);
        known.times += 1;
        known.last = decision.at;
    }
    let report = Report {
        replayed: decisions.all.len() as u64,
        skipped: decisions.skipped,
        changes: changes.into_values().collect(),
    };
    output.show(&report, table)?;
    let is_refused = |change: &Change| matches!(change.kind, Kind::Refused | Kind::Less);
    let fails = args.fail_on_refused && report.changes.iter().any(is_refused);
    Ok(if fails { 3 } else { 0 })
}

/// The policy and the agents of a folder.
/// With these registered agents, who get nothing where the files do not let them be.
pub fn built(
    dir: &Path,
    registered: &[(AgentId, Definition)],
) -> Result<(Policy, Registry), Failure> {
    let mut settings = config::load(dir)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(problems.to_string()))?;
    if !registered.is_empty() && settings.document.is_some() {
        let joined = settings.joined(registered).map_err(Failure::failed)?;
        settings = joined.settings;
    }
    let policy = settings.policy().map_err(|wrong| {
        let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        Failure::failed(lines.join("\n"))
    })?;
    let agents =
        Registry::new(settings.agents).map_err(|error| Failure::failed(error.to_string()))?;
    Ok((policy, agents))
}

/// `None`: as it was.
fn replay(decision: &Decision, policy: &Policy, agents: &Registry) -> Option<Change> {
    // As it was then: neither holds nor a last day of today's.
    let (view, now) = (View::origin(), decision.at);
    let again = policy.again(agents, &decision.agent, &decision.recorded, &view, now);
    let (refused, why) = match &again {
        Err(error) => (Some("agent_not_in_standing"), error.to_string()),
        Ok(told) => (
            told.denied.as_ref().map(|denied| denied.reason.code()),
            told.summary.clone(),
        ),
    };
    let told = again.ok();
    let (kind, before) = match (&decision.outcome, refused) {
        (Outcome::Granted { mission, .. }, Some(_)) => {
            (Kind::Refused, granted_by(mission.as_deref()))
        }
        (Outcome::Granted { mission, authority }, None) => {
            let kind = compared(
                mission.as_deref(),
                authority.as_ref(),
                told.as_ref()?,
                policy,
            )?;
            (kind, granted_by(mission.as_deref()))
        }
        (Outcome::Refused { reason, .. }, None) => {
            (Kind::Allowed, format!("refused: {}", reason.code()))
        }
        (Outcome::Refused { reason, .. }, Some(code)) if reason.code() != code => {
            (Kind::Otherwise, format!("refused: {}", reason.code()))
        }
        (Outcome::Refused { .. }, Some(_)) => return None,
    };
    let after = match (refused, told.and_then(|told| told.granted)) {
        (Some(code), _) => format!("refused: {code}"),
        (None, granted) => granted_by(
            granted
                .map(|granted| granted.mission.to_string())
                .as_deref(),
        ),
    };
    Some(Change {
        kind,
        agent: decision.agent.to_string(),
        before,
        after,
        why,
        times: 0,
        first: decision.at,
        last: decision.at,
    })
}

fn granted_by(mission: Option<&str>) -> String {
    mission.map_or_else(
        || "granted".to_owned(),
        |mission| format!("granted by {mission}"),
    )
}

/// What was asked is the same; what is granted differs where a mission's whole was asked for.
fn compared(
    mission: Option<&str>,
    before: Option<&Authority>,
    told: &Explanation,
    policy: &Policy,
) -> Option<Kind> {
    let granted = told.granted.as_ref()?;
    if let (Some(before), Some(target)) = (before, policy.target(&granted.target)) {
        let covers = |wide: &Authority, narrow: &Authority| {
            target.vocabulary.covers(wide, narrow) == Ok(true)
        };
        if !covers(before, &granted.authority) {
            return Some(Kind::More);
        }
        if !covers(&granted.authority, before) {
            return Some(Kind::Less);
        }
    }
    (mission.is_some_and(|mission| mission != granted.mission.as_str())).then_some(Kind::Otherwise)
}

/// In the form of a diff: a pull request shows `-` and `+` in their colours.
fn table(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .changes
        .iter()
        .flat_map(|change| {
            let sign = match change.kind {
                Kind::Refused | Kind::Less => '-',
                Kind::Allowed | Kind::More => '+',
                Kind::Otherwise => '!',
            };
            let less = match change.kind {
                Kind::Less => ", and gets less",
                Kind::More => ", and gets more",
                _ => "",
            };
            let times = if change.times == 1 {
                "once".to_owned()
            } else {
                format!("{} times", change.times)
            };
            [
                format!(
                    "{sign} {}: {} -> {}{less}, {times}",
                    change.agent, change.before, change.after
                ),
                format!("{sign}   {}", change.why),
            ]
        })
        .collect();
    lines.push(format!(
        "{} decisions, {} come out otherwise; {} depended on more than a configuration",
        report.replayed,
        report
            .changes
            .iter()
            .map(|change| change.times)
            .sum::<u64>(),
        report.skipped
    ));
    lines.join("\n")
}
