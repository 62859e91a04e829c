//! `dayfly restrict`: shrink instead of kill.

use super::OperatorArgs;
use super::operator_side::{client, get, pairs};
use super::output::{Failure, Output, columns, moment};
use crate::clock::{Clock, SystemClock};
use crate::config::duration;
use crate::ids::TargetId;
use crate::wire::{
    Page, RestrictionLift, RestrictionReceipt, RestrictionRequest, RestrictionState,
    RestrictionView,
};
use clap::Args;
use reqwest::Method;

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["target", "lift", "list"])]
pub struct RestrictArgs {
    /// On which target.
    #[arg(long, requires = "deny")]
    target: Option<TargetId>,
    /// Actions to take away, in the target's own words; `*` stands for any run of characters.
    #[arg(long, value_name = "PATTERN")]
    deny: Vec<String>,
    /// Only there; default: everywhere.
    #[arg(long = "location", value_name = "PATTERN")]
    locations: Vec<String>,
    /// When it lifts by itself: `30m`, `2h`, `1d`, at most 30 days. Without it: when it is lifted.
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<String>,
    /// Also end the leases that could do any of it; otherwise they are only listed.
    #[arg(long)]
    end_leases: bool,
    /// Only say which leases it would cover.
    #[arg(long)]
    dry_run: bool,
    /// End the restriction with this id before its time.
    #[arg(long, value_name = "ID", conflicts_with_all = ["deny", "locations", "lasts", "end_leases", "dry_run"])]
    lift: Option<uuid::Uuid>,
    /// The restrictions that stand.
    #[arg(long)]
    list: bool,
    /// Why: it is in the audit and in every refusal's explanation.
    #[arg(long, default_value = "restricted by an operator")]
    reason: String,
    #[command(flatten)]
    operator: OperatorArgs,
}

pub async fn restrict(args: RestrictArgs, output: &Output) -> Result<u8, Failure> {
    if args.list {
        let page: Page<RestrictionView> = get(&args.operator, "/restrictions").await?;
        output.show(&page, |page| listed(&page.items))?;
        return Ok(0);
    }
    let client = client(&args.operator)?;
    let receipt: RestrictionReceipt = match (args.lift, args.target) {
        (Some(id), _) => {
            let request = RestrictionLift {
                reason: args.reason,
            };
            let path = format!("/restrictions/{id}/lift");
            client.admin(Method::POST, &path, Some(&request)).await?
        }
        (None, Some(target)) => {
            let request = RestrictionRequest {
                target,
                actions: args.deny,
                locations: args.locations,
                for_seconds: args.lasts.as_deref().map(seconds).transpose()?,
                reason: args.reason,
                end_leases: args.end_leases,
            };
            let path = if args.dry_run {
                "/restrictions?dry_run=true"
            } else {
                "/restrictions"
            };
            client.admin(Method::POST, path, Some(&request)).await?
        }
        (None, None) => {
            return Err(Failure::usage(
                "name a target: see `dayfly restrict --help`",
            ));
        }
    };
    output.show(&receipt, told)?;
    if !receipt.all_listed {
        output.notice("there are more leases than are listed");
    }
    Ok(0)
}

fn seconds(text: &str) -> Result<u32, Failure> {
    let lasts = duration(text).filter(|lasts| lasts.as_secs() > 0 && lasts.subsec_nanos() == 0);
    lasts
        .and_then(|lasts| u32::try_from(lasts.as_secs()).ok())
        .ok_or_else(|| Failure::usage("--for takes a whole number and a unit: `30m`, `2h`, `1d`"))
}

fn told(receipt: &RestrictionReceipt) -> String {
    let now = SystemClock::new().now();
    let it = &receipt.restriction;
    let state = match receipt.state {
        RestrictionState::DryRun => "nothing was done; this is what it would cover",
        RestrictionState::NotYetReplicated => "in force here, not yet replicated",
        RestrictionState::InForce => "in force at every broker",
        RestrictionState::Lifted => "lifted; what it ended stays dead",
    };
    let leases = match (receipt.leases.len(), receipt.state) {
        (_, RestrictionState::Lifted) => String::new(),
        (0, _) => "none".to_owned(),
        (count, _) if it.ends_leases => format!("{count}, ended"),
        (count, _) => format!("{count}, which go on (`--end-leases` ends them)"),
    };
    let lifts = it.until.map_or_else(
        || "when somebody lifts it".to_owned(),
        |until| moment(until, now),
    );
    let mut text = pairs(&[
        ("state", state.to_owned()),
        (
            if it.agent.is_some() {
                "agent"
            } else {
                "target"
            },
            on(it),
        ),
        ("denied", denied(it)),
        ("lifts", lifts),
        ("leases", leases),
        (
            "restriction",
            it.id.map_or_else(String::new, |id| id.to_string()),
        ),
    ]);
    for lease in &receipt.leases {
        text.push_str(&format!(
            "\n  {}  {}  {}",
            lease.id, lease.agent, lease.mission
        ));
    }
    text
}

/// A target, or an agent that is kept short.
fn on(restriction: &RestrictionView) -> String {
    let agent = restriction.agent.as_ref().map(ToString::to_string);
    let target = restriction.target.as_ref().map(ToString::to_string);
    agent.or(target).unwrap_or_default()
}

fn denied(restriction: &RestrictionView) -> String {
    if let Some(longest) = restriction.max_ttl {
        return format!("lifetimes above {longest} s");
    }
    if restriction.approval {
        return "what nobody has approved".to_owned();
    }
    let (actions, locations) = (&restriction.actions, &restriction.locations);
    format!("{} on {}", actions.join(", "), locations.join(", "))
}

fn listed(all: &[RestrictionView]) -> String {
    let now = SystemClock::new().now();
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            vec![
                one.id.map_or_else(String::new, |id| id.to_string()),
                on(one),
                denied(one),
                one.until
                    .map_or_else(String::new, |until| moment(until, now)),
                one.by.clone(),
                one.reason.clone(),
            ]
        })
        .collect();
    columns(
        &["RESTRICTION", "ON", "DENIED", "LIFTS", "BY", "REASON"],
        &rows,
    )
}
