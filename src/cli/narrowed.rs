//! `lease narrowed`: what lives and would not be granted any more, and its end.

use super::OperatorArgs;
use super::operator_side::{client, get, list};
use super::output::{Failure, Output, columns};
use super::recorded::{Decision, decided, decisions};
use super::register::registered;
use super::simulate::built;
use crate::agents::Registry;
use crate::authority::Authority;
use crate::clock::{Clock, SystemClock};
use crate::fences::View;
use crate::ids::LeaseId;
use crate::policy::Policy;
use crate::wire::{LeaseView, Page, RevocationReceipt, RevocationRequest, Selector};
use clap::Args;
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct NarrowedArgs {
    /// The configuration folder that says what is still allowed.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: PathBuf,
    /// An exported audit, or a folder of them: what each lease was asked with. Without it: the broker's newest
    /// thousand entries.
    #[arg(long)]
    audit: Option<PathBuf>,
    /// End them. Without it they are only listed.
    #[arg(long, requires = "reason")]
    revoke: bool,
    /// Why: it is in the audit.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// What is looked for, and whether it is ended.
pub struct Narrowing<'a> {
    pub config: &'a Path,
    pub audit: Option<&'a Path>,
    /// Ends them, for this reason.
    pub revoke: Option<&'a str>,
    pub operator: &'a OperatorArgs,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Leases that were looked at.
    alive: usize,
    /// Of those, the ones that no ceiling crosses and whose question was not found: facts, `when` and forbids
    /// were not put to them again.
    unjudged: usize,
    narrowed: Vec<Narrowed>,
}

#[derive(Debug, Serialize)]
struct Narrowed {
    lease: LeaseId,
    agent: String,
    mission: String,
    target: String,
    reason: &'static str,
    why: String,
    /// The configuration that it was granted by.
    config_hash: String,
    revoked: bool,
}

pub async fn narrowed(args: NarrowedArgs, output: &Output) -> Result<u8, Failure> {
    let narrowing = Narrowing {
        config: &args.config,
        audit: args.audit.as_deref(),
        revoke: args.reason.as_deref().filter(|_| args.revoke),
        operator: &args.operator,
    };
    let report = look(narrowing).await?;
    output.show(&report, table)?;
    Ok(0)
}

/// Compares what lives with the folder, and ends what it would not grant, where that is wanted.
pub async fn look(narrowing: Narrowing<'_>) -> Result<Report, Failure> {
    // SECURITY: or all that they hold would be taken for what nobody may have.
    let registered = registered(narrowing.operator).await?;
    let (policy, agents) = built(narrowing.config, &registered)?;
    let alive = [("alive", Some("true".to_owned()))];
    let leases = list(narrowing.operator, &alive, usize::MAX).await?.items;
    let questions = questions(&narrowing).await?;
    let now = SystemClock::new().now();
    let mut report = Report {
        alive: leases.len(),
        ..Report::default()
    };
    for lease in &leases {
        let crossed = crosses(lease, &policy, &agents, now);
        let question = questions.get(&lease.id);
        let denied = match (crossed, question) {
            (Some(crossed), _) => Some(crossed),
            (None, Some(question)) => refused(lease, question, &policy, &agents),
            (None, None) => {
                report.unjudged += 1;
                None
            }
        };
        report
            .narrowed
            .extend(denied.map(|why| Narrowed::new(lease, why)));
    }
    if let Some(reason) = narrowing.revoke {
        let client = client(narrowing.operator)?;
        for found in &mut report.narrowed {
            let request = RevocationRequest {
                selector: Selector::Lease(found.lease),
                reason: reason.to_owned(),
                kill_only: false,
                retire: false,
            };
            let _: RevocationReceipt = client
                .admin(Method::POST, "/revocations", Some(&request))
                .await?;
            found.revoked = true;
        }
    }
    Ok(report)
}

/// What live leases were asked with, as the audit tells.
async fn questions(narrowing: &Narrowing<'_>) -> Result<BTreeMap<LeaseId, Decision>, Failure> {
    let decisions = match narrowing.audit {
        Some(path) => decisions(path)?,
        None => {
            let page: Page<Value> = get(narrowing.operator, "/audit?limit=1000").await?;
            decided(page.items)
        }
    };
    let issued = decisions.all.into_iter();
    Ok(issued
        .filter_map(|decision| Some((decision.lease?, decision)))
        .collect())
}

/// A code, and words.
type Why = (&'static str, String);

/// What a lease alone tells: its agent, mission, ceilings and last days.
fn crosses(
    lease: &LeaseView,
    policy: &Policy,
    agents: &Registry,
    now: OffsetDateTime,
) -> Option<Why> {
    let authority = Authority::from_details(&lease.authorization_details);
    match agents.get(&lease.agent) {
        None => Some((
            "unknown_agent",
            format!("there is no agent {} any more", lease.agent),
        )),
        Some(agent) if agent.ends < now.date() => Some((
            "agent_not_in_standing",
            format!("its last day was {}", agent.ends),
        )),
        Some(agent) => {
            let by = (&lease.mission, &lease.target);
            let may = (&authority, lease.on_behalf_of.as_slice());
            let denied = policy.still_grants(&agent, by, may, now).err()?;
            Some((denied.reason.code(), denied.detail))
        }
    }
}

/// The question that made it, put to its mission again: with the facts that were proved, and at the hour of then, for
/// what has changed is the configuration and not the day.
fn refused(lease: &LeaseView, asked: &Decision, policy: &Policy, agents: &Registry) -> Option<Why> {
    let mut question = asked.recorded.clone();
    // Another mission that has come to allow the same makes nothing narrower.
    question.mission = Some(lease.mission.clone());
    let again = policy.again(agents, &lease.agent, &question, &View::origin(), asked.at);
    match again {
        Ok(told) => match (told.denied, told.granted) {
            (Some(denied), _) => Some((denied.reason.code(), denied.detail)),
            (None, granted) => outlives(lease, granted?.ttl),
        },
        Err(error) => Some(("agent_not_in_standing", error.to_string())),
    }
}

/// A second is for what was rounded.
fn outlives(lease: &LeaseView, ttl: Duration) -> Option<Why> {
    let lives = Duration::try_from(lease.expires_at - lease.created_at).unwrap_or_default();
    let why = format!(
        "it would get {} s, and got {}",
        ttl.as_secs(),
        lives.as_secs()
    );
    (lives > ttl.saturating_add(Duration::from_secs(1))).then_some(("outlives_its_mission", why))
}

impl Narrowed {
    fn new(lease: &LeaseView, (reason, why): Why) -> Self {
        Self {
            lease: lease.id,
            agent: lease.agent.to_string(),
            mission: lease.mission.to_string(),
            target: lease.target.to_string(),
            reason,
            why,
            config_hash: lease.config_hash.clone(),
            revoked: false,
        }
    }
}

pub fn table(report: &Report) -> String {
    let rows: Vec<_> = report
        .narrowed
        .iter()
        .map(|found| {
            let state = if found.revoked { "revoked" } else { "alive" };
            vec![
                found.lease.to_string(),
                state.to_owned(),
                found.agent.clone(),
                found.mission.clone(),
                found.target.clone(),
                found.why.clone(),
            ]
        })
        .collect();
    let head = [
        "LEASE",
        "STATE",
        "AGENT",
        "MISSION",
        "TARGET",
        "NOT ANY MORE BECAUSE",
    ];
    let (narrowed, alive) = (report.narrowed.len(), report.alive);
    let unjudged = match report.unjudged {
        0 => String::new(),
        some => format!(
            "; of {some} the question was not found, and only their ceilings were compared: give --audit"
        ),
    };
    format!(
        "{}\n{narrowed} of {alive} live leases{unjudged}",
        columns(&head, &rows)
    )
}
