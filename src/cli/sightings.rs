//! `agent sightings`, `agent adopt`: who knocks and is nobody, and the agent that it would be.

use super::OperatorArgs;
use super::operator_side::get;
use super::output::{Failure, Output, columns, moment};
use crate::clock::{Clock, SystemClock};
use crate::identity::{claims, presets};
use crate::ids::AgentId;
use crate::wire::{Page, SightedAsk, SightingView};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use time::Duration;

#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The sighting's id.
    sighting: String,
    /// What the agent will be called.
    #[arg(long)]
    name: AgentId,
    /// Who answers for it: a person or a team.
    #[arg(long, default_value = "nobody-yet@example.com")]
    owner: String,
    /// What it is for, in one sentence.
    #[arg(long, default_value = "not said yet")]
    purpose: String,
    /// Last day, `YYYY-MM-DD`; in 90 days where it is absent.
    #[arg(long)]
    ends: Option<String>,
    /// Where to write; nothing that exists is overwritten. Standard output where it is absent.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    operator: OperatorArgs,
}

pub async fn list(operator: &OperatorArgs, output: &Output) -> Result<u8, Failure> {
    let page: Page<SightingView> = get(operator, "/sightings").await?;
    output.show(&page, |page| {
        let now = SystemClock::new().now();
        let row = |seen: &SightingView| {
            vec![
                seen.id.clone(),
                seen.issuer.to_string(),
                seen.subject.clone(),
                seen.count.to_string(),
                moment(seen.last_seen, now),
                seen.asked.iter().map(told).collect::<Vec<_>>().join("; "),
            ]
        };
        let rows: Vec<_> = page.items.iter().map(row).collect();
        columns(
            &[
                "SIGHTING",
                "ISSUER",
                "SUBJECT",
                "TIMES",
                "LAST",
                "ASKED FOR",
            ],
            &rows,
        )
    })?;
    Ok(0)
}

pub async fn adopt(args: AdoptArgs, output: &Output) -> Result<u8, Failure> {
    let id = &args.sighting;
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::usage(format!("{id} is no sighting's id")));
    }
    let seen: SightingView = get(&args.operator, &format!("/sightings/{id}")).await?;
    let text = agent(&args, &seen);
    match &args.out {
        None => output.line(text.trim_end())?,
        Some(path) => {
            let failed =
                |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
            let file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(path);
            file.map_err(failed)?
                .write_all(text.as_bytes())
                .map_err(failed)?;
            output.line(&format!("wrote {}", path.display()))?;
        }
    }
    Ok(0)
}

fn agent(args: &AdoptArgs, seen: &SightingView) -> String {
    let today = SystemClock::new().now().date();
    let ends = args
        .ends
        .clone()
        .unwrap_or_else(|| (today + Duration::days(90)).to_string());
    let (first, last) = (seen.first_seen.date(), seen.last_seen.date());
    let mut text = format!(
        "# Seen from {first} to {last}: {}\n",
        comment(&seen.subject)
    );
    for ask in &seen.asked {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# Asked, and nobody vouched for it: {}",
            comment(&told(ask))
        );
    }
    let (owner, purpose) = (quoted(&args.owner), quoted(&args.purpose));
    let _ = write!(
        text,
        "[agent.{}]\nowner    = {owner}\npurpose  = {purpose}\nends     = {ends}\nidentity = {}\n",
        args.name,
        identity(seen)
    );
    text
}

/// What passes with each run or each machine is no identity.
const PASSING: [&str; 11] = [
    "event",
    "runner",
    "visibility",
    "ref_protected",
    "ref_type",
    "environment_protected",
    "node",
    "session",
    "step",
    "instance",
    "instance_id",
];

fn identity(seen: &SightingView) -> String {
    let preset = presets::by_name(seen.issuer.as_str());
    let mut fields = Vec::new();
    let mut taken = BTreeSet::new();
    for (short, claim) in preset.iter().flat_map(|preset| preset.identity) {
        let value = match *claim {
            "sub" => Some(Value::from(seen.subject.as_str())),
            path => claims::find(&seen.claims, path).cloned(),
        };
        if let Some(value) = value
            && !PASSING.contains(short)
            && taken.insert(*claim)
        {
            fields.push(format!("{short} = {}", scalar(&value)));
        }
    }
    // Some platforms' names are a field of their own, and say who vouches for it.
    let own = format!("{} = ", seen.issuer);
    if !fields.iter().any(|field| field.starts_with(&own)) {
        fields.insert(0, format!("issuer = {}", quoted(seen.issuer.as_str())));
    }
    if fields.len() == 1 && taken.is_empty() {
        fields.push(format!("subject = {}", quoted(&seen.subject)));
    }
    format!("{{ {} }}", fields.join(", "))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A TOML basic string is written as a JSON string is.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// SECURITY: what a stranger chose ends no comment.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn told(ask: &SightedAsk) -> String {
    let mission = ask
        .mission
        .as_ref()
        .map(|mission| format!("mission {mission}"));
    let parts = [
        mission.unwrap_or_default(),
        ask.targets.join(", "),
        ask.actions.join(", "),
        ask.locations.join(", "),
        ask.scope.join(" "),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}
