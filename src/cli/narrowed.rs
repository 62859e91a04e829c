//! `lease narrowed`: what lives and would not be granted any more, and its end.

use super::OperatorArgs;
use super::operator_side::{client, list};
use super::output::{Failure, Output, columns};
use super::simulate::built;
use crate::agents::Registry;
use crate::authority::Authority;
use crate::clock::{Clock, SystemClock};
use crate::ids::LeaseId;
use crate::policy::Policy;
use crate::wire::{LeaseView, RevocationReceipt, RevocationRequest, Selector};
use clap::Args;
use reqwest::Method;
use serde::Serialize;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct NarrowedArgs {
    /// The configuration folder that says what is still allowed.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: PathBuf,
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
    /// Ends them, for this reason.
    pub revoke: Option<&'a str>,
    pub operator: &'a OperatorArgs,
}

#[derive(Debug, Serialize)]
pub struct Report {
    /// Leases that were looked at.
    alive: usize,
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
        revoke: args.reason.as_deref().filter(|_| args.revoke),
        operator: &args.operator,
    };
    let report = look(narrowing).await?;
    output.show(&report, table)?;
    Ok(0)
}

/// Compares what lives with the folder, and ends what it would not grant, where that is wanted.
pub async fn look(narrowing: Narrowing<'_>) -> Result<Report, Failure> {
    let (policy, agents) = built(narrowing.config)?;
    let alive = [("alive", Some("true".to_owned()))];
    let leases = list(narrowing.operator, &alive, usize::MAX).await?.items;
    let now = SystemClock::new().now();
    let mut report = Report {
        alive: leases.len(),
        narrowed: leases
            .iter()
            .filter_map(|lease| judged(lease, &policy, &agents, now))
            .collect(),
    };
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

fn judged(
    lease: &LeaseView,
    policy: &Policy,
    agents: &Registry,
    now: OffsetDateTime,
) -> Option<Narrowed> {
    let authority = Authority::from_details(&lease.authorization_details);
    let (reason, why) = match agents.get(&lease.agent) {
        None => (
            "unknown_agent",
            format!("there is no agent {} any more", lease.agent),
        ),
        Some(agent) if agent.ends < now.date() => (
            "agent_not_in_standing",
            format!("its last day was {}", agent.ends),
        ),
        Some(agent) => {
            let by = (&lease.mission, &lease.target);
            let may = (&authority, lease.on_behalf_of.as_slice());
            let denied = policy.still_grants(&agent, by, may, now).err()?;
            (denied.reason.code(), denied.detail)
        }
    };
    Some(Narrowed {
        lease: lease.id,
        agent: lease.agent.to_string(),
        mission: lease.mission.to_string(),
        target: lease.target.to_string(),
        reason,
        why,
        config_hash: lease.config_hash.clone(),
        revoked: false,
    })
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
    format!(
        "{}\n{narrowed} of {alive} live leases",
        columns(&head, &rows)
    )
}
