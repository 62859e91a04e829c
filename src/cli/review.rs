//! `dayfly review`: a campaign in the terminal, or by flags.

pub(super) mod cards;

use super::OperatorArgs;
use super::agent::described;
use super::operator_side::{client, get};
use super::output::{Failure, Output, moment};
use super::selector::{has, label};
use crate::agents::governance::Decision;
use crate::clock::{Clock, SystemClock};
use crate::wire::{Attention, Page, ReviewRequest, ReviewView, Subject};
use clap::Args;
use reqwest::Method;
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};

#[derive(Debug, Args)]
pub struct ReviewArgs {
    /// Decide about this one and ask nothing: `agent/NAME=keep`, `mission/NAME=narrow`, `agent/NAME=retire`.
    #[arg(long = "decide", value_name = "WHAT=DECISION", value_parser = decision)]
    decisions: Vec<(Subject, Decision)>,
    /// Why: it is in the audit, beside each decision.
    #[arg(long)]
    note: Option<String>,
    /// Everything that is registered, whether it is due or not.
    #[arg(long)]
    all: bool,
    /// Only what has this label itself; several: all of them.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label, conflicts_with = "decisions")]
    label: Vec<(String, String)>,
    /// Only show what is due.
    #[arg(long, conflicts_with = "decisions")]
    list: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

fn decision(text: &str) -> Result<(Subject, Decision), String> {
    let wrong = || "write agent/NAME=keep, mission/NAME=narrow or agent/NAME=retire".to_owned();
    let (what, decision) = text.split_once('=').ok_or_else(wrong)?;
    let decision = match decision {
        "keep" => Decision::Keep,
        "narrow" => Decision::Narrow,
        "retire" => Decision::Retire,
        _ => return Err(wrong()),
    };
    let (kind, name) = what.split_once('/').ok_or_else(wrong)?;
    let subject = match kind {
        "agent" => Subject::Agent(name.parse().map_err(|_| wrong())?),
        "mission" => Subject::Mission(name.parse().map_err(|_| wrong())?),
        _ => return Err(wrong()),
    };
    Ok((subject, decision))
}

pub async fn review(args: ReviewArgs, output: &Output) -> Result<u8, Failure> {
    if !args.decisions.is_empty() {
        let mut items = Vec::new();
        for (subject, decision) in &args.decisions {
            items.push(decide(&args, subject.clone(), *decision, args.note.clone()).await?);
        }
        output.show(&Page { items, next: None }, |page| decided(&page.items))?;
        return Ok(0);
    }
    let path = if args.all {
        "/reviews?all=true"
    } else {
        "/reviews"
    };
    let mut page: Page<ReviewView> = get(&args.operator, path).await?;
    page.items.retain(|item| has(labels(item), &args.label));
    if args.list || output.is_json() {
        output.show(&page, |page| {
            let cards: Vec<_> = page.items.iter().map(card).collect();
            format!("{}\n{} to review", cards.join("\n\n"), page.items.len())
        })?;
        return Ok(0);
    }
    campaign(&args, page.items, output).await
}

/// One after the other. The end of the input leaves the rest as it is.
async fn campaign(args: &ReviewArgs, due: Vec<ReviewView>, output: &Output) -> Result<u8, Failure> {
    let mut done = Vec::new();
    let count = due.len();
    for item in due {
        let Some(subject) = subject(&item) else {
            continue;
        };
        output.line(&card(&item))?;
        let Some(decision) = ask(&subject)? else {
            break;
        };
        if let Some(decision) = decision {
            done.push(decide(args, subject, decision, args.note.clone()).await?);
        }
    }
    output.line(&decided(&done))?;
    output.line(&format!("{} of {count} reviewed", done.len()))?;
    Ok(0)
}

/// `None`: no more answers. `Some(None)`: not now.
fn ask(subject: &Subject) -> Result<Option<Option<Decision>>, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("standard input: {error}"));
    loop {
        let mut prompt = std::io::stderr();
        write!(prompt, "{subject}: [k]eep, [n]arrow, [r]etire, [s]kip? ").map_err(failed)?;
        let mut line = String::new();
        if std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(failed)?
            == 0
        {
            return Ok(None);
        }
        match line.trim() {
            "k" | "keep" => return Ok(Some(Some(Decision::Keep))),
            "n" | "narrow" => return Ok(Some(Some(Decision::Narrow))),
            "r" | "retire" => return Ok(Some(Some(Decision::Retire))),
            "s" | "skip" => return Ok(Some(None)),
            _ => {}
        }
    }
}

async fn decide(
    args: &ReviewArgs,
    subject: Subject,
    decision: Decision,
    note: Option<String>,
) -> Result<ReviewView, Failure> {
    let request = ReviewRequest {
        subject,
        decision,
        note,
    };
    let client = client(&args.operator)?;
    Ok(client
        .admin(Method::POST, "/reviews", Some(&request))
        .await?)
}

fn labels(item: &ReviewView) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let of_agent = item.agent.as_ref().map(|agent| &agent.labels);
    let of_mission = item.mission.as_ref().map(|mission| &mission.labels);
    of_agent.or(of_mission).unwrap_or(&NONE)
}

fn subject(item: &ReviewView) -> Option<Subject> {
    let agent = item.agent.as_ref();
    let agent = agent.map(|agent| Subject::Agent(agent.id.clone()));
    let mission = item.mission.as_ref();
    agent.or_else(|| mission.map(|mission| Subject::Mission(mission.id.clone())))
}

fn card(item: &ReviewView) -> String {
    let agent = item.agent.as_ref().map(described);
    let mission = item.mission.as_ref().map(cards::mission);
    let text = agent.or(mission).unwrap_or_default();
    format!("review: {}\n{text}", item.when)
}

fn decided(items: &[ReviewView]) -> String {
    let now = SystemClock::new().now();
    let line = |item: &ReviewView| {
        let of_agent = item
            .agent
            .as_ref()
            .map(|card| (&card.state, &card.attention));
        let of_mission = item.mission.as_ref();
        let of_mission = of_mission.map(|card| (&card.state, &card.attention));
        let (state, attention) = of_agent.or(of_mission)?;
        let last = attention.last_review.as_ref()?;
        let next = moment(attention.next_review, now);
        let what = subject(item)?;
        Some(format!(
            "{what}: {}; {state}; next review {next}",
            last.decision.as_str()
        ))
    };
    let lines: Vec<_> = items.iter().filter_map(line).collect();
    lines.join("\n")
}

/// When somebody looked, and must look again.
pub(super) fn seen(attention: &Attention) -> Vec<(&'static str, String)> {
    let now = SystemClock::new().now();
    let at = |when: Option<time::OffsetDateTime>| when.map(|when| moment(when, now));
    let last = attention.last_review.as_ref().map(|last| {
        let note = last.note.as_ref().map(|note| format!(": {note}"));
        let (by, decision) = (&last.by, last.decision.as_str());
        format!(
            "{decision} by {by}, {}{}",
            moment(last.at, now),
            note.unwrap_or_default()
        )
    });
    vec![
        (
            "last used",
            at(attention.last_used).unwrap_or_else(|| "never".to_owned()),
        ),
        ("dormant", at(attention.dormant_at).unwrap_or_default()),
        ("last review", last.unwrap_or_else(|| "never".to_owned())),
        ("next review", moment(attention.next_review, now)),
        ("refused from", moment(attention.refused_from, now)),
    ]
}
