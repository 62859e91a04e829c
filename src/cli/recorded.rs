//! Decisions as an exported audit remembers them: what `explain`, `simulate` and `mission suggest`
//! begin with.

use super::output::Failure;
use crate::audit::{Entry, Event};
use crate::authority::Authority;
use crate::ids::{AgentId, LeaseId};
use crate::policy::{Denial, Recorded};
use serde_json::Value;
use std::path::Path;
use time::OffsetDateTime;

/// A decision that can be made again.
#[derive(Debug)]
pub struct Decision {
    pub agent: AgentId,
    /// What it made.
    pub lease: Option<LeaseId>,
    pub at: OffsetDateTime,
    pub recorded: Recorded,
    pub outcome: Outcome,
    /// Prose.
    pub goal: Option<String>,
    /// Something was let pass because the mission only observed.
    pub observed: bool,
}

/// What policy decided then.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Granted {
        mission: Option<String>,
        authority: Option<Authority>,
    },
    Refused {
        reason: Denial,
        why: String,
    },
}

/// Everything in an export, and how many decisions in it cannot be made again.
#[derive(Debug, Default)]
pub struct Decisions {
    pub all: Vec<Decision>,
    pub skipped: u64,
}

/// The entries of an export, oldest first within each file: what is none, or no JSON, is for
/// `audit verify` to tell.
pub fn entries(path: &Path) -> Result<Vec<Value>, Failure> {
    let problem = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut files = if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(problem)?;
        let files = entries.map(|entry| entry.map(|entry| entry.path()));
        files.collect::<Result<Vec<_>, _>>().map_err(problem)?
    } else {
        vec![path.to_owned()]
    };
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(problem)?;
        lines.extend(
            text.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter_map(|mut line| line.get_mut("entry").map(Value::take)),
        );
    }
    Ok(lines)
}

pub fn decisions(path: &Path) -> Result<Decisions, Failure> {
    entries(path).map(decided)
}

/// The decisions among entries, oldest first.
pub fn decided(entries: Vec<Value>) -> Decisions {
    let mut found = Decisions::default();
    for entry in entries {
        let Ok(entry) = serde_json::from_value::<Entry>(entry) else {
            continue;
        };
        if !matches!(entry.event, Event::Issued | Event::Refused) {
            continue;
        }
        match decision(entry) {
            Some(decision) => found.all.push(decision),
            None => found.skipped += 1,
        }
    }
    found.all.sort_by_key(|decision| decision.at);
    found
}

/// `None`: it depended on what is in no configuration (a hold, a limit), or was recorded without its
/// question.
fn decision(entry: Entry) -> Option<Decision> {
    let agent = entry.agent.as_ref()?.parse().ok()?;
    let outcome = outcome(&entry)?;
    let lease = entry.lease.as_ref().and_then(|id| id.parse().ok());
    let observed = entry.detail.contains_key("observed");
    let goal = entry.detail.get("goal").and_then(Value::as_str);
    let goal = goal.map(str::to_owned);
    let recorded = Recorded::from_entry(&entry)?;
    Some(Decision {
        agent,
        lease,
        at: entry.at,
        recorded,
        outcome,
        goal,
        observed,
    })
}

fn outcome(entry: &Entry) -> Option<Outcome> {
    let granted = |mission, authority| Some(Outcome::Granted { mission, authority });
    if entry.event == Event::Issued {
        let authority = entry.detail.get("authority").cloned();
        let authority = authority.and_then(|text| serde_json::from_value(text).ok());
        return granted(entry.mission.clone(), authority);
    }
    let code = entry.reason.as_deref()?;
    match Denial::ALL.iter().find(|denial| denial.code() == code) {
        Some(Denial::Held) => None,
        // A response had people asked: no configuration says so.
        Some(Denial::ApprovalRequired) if entry.detail.contains_key("by_response") => None,
        Some(reason) => Some(Outcome::Refused {
            reason: *reason,
            why: entry.detail.get("why")?.as_str()?.to_owned(),
        }),
        // Out of standing, or too often: decided before policy, by what is in no configuration.
        None if [
            "agent_not_in_standing",
            "unknown_agent",
            "too_many_requests",
            // People said no.
            "approval_denied",
        ]
        .contains(&code) =>
        {
            None
        }
        // Policy had granted it; something behind it refused.
        None => granted(None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::macros::datetime;

    fn refused(reason: &str, more: &[(&str, Value)]) -> Option<Outcome> {
        let mut entry = Entry::new(Event::Refused, datetime!(2026-11-21 12:00 UTC))
            .agent("deployer")
            .reason(reason)
            .with("why", "nobody has approved it")
            .with("asked", json!([]));
        for (name, value) in more {
            entry.detail.insert((*name).to_owned(), value.clone());
        }
        outcome(&entry)
    }

    #[test]
    fn what_people_decided_is_in_no_configuration_and_is_not_decided_again() {
        assert_eq!(refused("approval_denied", &[]), None);
        let by_response = [("by_response", json!("response wanders"))];
        assert_eq!(refused("approval_required", &by_response), None);
        let by_mission = refused("approval_required", &[]);
        assert!(matches!(
            by_mission,
            Some(Outcome::Refused {
                reason: Denial::ApprovalRequired,
                ..
            })
        ));
    }
}
