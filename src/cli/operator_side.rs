//! What operators call: find, lease, lift, audit tail, key rotate.

use super::OperatorArgs;
use super::audit;
use super::narrowed::{NarrowedArgs, narrowed};
use super::output::{Failure, Output, columns, moment};
use super::selector::SelectorArgs;
use crate::client::Client;
use crate::clock::{Clock, SystemClock};
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::intent::Principal;
use crate::secret::Secret;
use crate::wire::{
    Covered, GiveUpRequest, LeaseGivenUp, LeaseView, LiftRequest, Page, RevocationReceipt,
    RevocationState, RotateAnswer, RotateRequest,
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;
use std::path::PathBuf;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct FindArgs {
    /// A credential, a handle, a lease id, an AWS access key id or a session name. `-` reads it from
    /// standard input, so that a secret stays out of the process list.
    what: String,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Leases, newest of each shard last.
    #[command(after_help = "Example:\n  dayfly lease list --agent checkout-deployer --alive")]
    List {
        /// Only this agent's.
        #[arg(long)]
        agent: Option<AgentId>,
        /// Only this mission's.
        #[arg(long)]
        mission: Option<MissionId>,
        /// Only those on this target.
        #[arg(long)]
        target: Option<TargetId>,
        /// Only those of this run of work.
        #[arg(long)]
        task: Option<String>,
        /// Only those of this one of several of an agent's processes.
        #[arg(long)]
        instance: Option<String>,
        /// Only those the broker would vouch for now.
        #[arg(long)]
        alive: bool,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Everything about one lease.
    #[command(after_help = "Example:\n  dayfly lease show dflbd5z2gkzcy54xpowzhlhdfybaj")]
    Show {
        /// The lease id.
        id: LeaseId,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Stop waiting for one whose record cannot be read.
    ///
    /// For when you looked for its credential downstream, by the lease's id, and it is dead. Alarms about it end, and
    /// revocations that only waited for it are confirmed; the audit has your name and your reason. The record
    /// stays, and nothing of it is accepted. A lease that can be read is refused: revoke it.
    #[command(
        after_help = "Example:\n  dayfly lease give-up dflbd5z2gkzcy54xpowzhlhdfybaj --reason 'INC-4711: no such login at orders-db'"
    )]
    GiveUp {
        /// The lease id, from the alarm.
        id: LeaseId,
        /// Where you looked, and what you found.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Those that a configuration would not grant any more, and their end.
    ///
    /// A reload revokes nothing: it decides about requests. This compares every live lease with the
    /// folder: its agent, its mission, the ceilings, and whether they have ended. What the request
    /// proved is not known any more, so `require`, `when` and forbids are not compared. Lists them;
    /// with --revoke it ends them.
    #[command(
        after_help = "Example:\n  dayfly lease narrowed --config .\n  dayfly lease narrowed --config . --revoke --reason 'CHG-17: no more deletes'"
    )]
    Narrowed(NarrowedArgs),
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new signing key; the old one stays valid for what it signed.
    ///
    /// The new key signs once every verifier has had time to fetch it. Keys rotate by themselves when
    /// they are due; this is for when one may be known to somebody.
    #[command(after_help = "Example:\n  dayfly key rotate --purpose access_token --compromised")]
    Rotate {
        /// `access_token`, `introspection`, `checkpoint`, `status_list` or `federation/TARGET`.
        #[arg(long, default_value = "access_token")]
        purpose: String,
        /// Remove the old key at once and end every lease it signed.
        #[arg(long)]
        compromised: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

#[derive(Debug, Args)]
pub struct LiftArgs {
    #[command(flatten)]
    selector: SelectorArgs,
    /// Why: it is in the audit.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    operator: OperatorArgs,
}

pub async fn find(args: FindArgs, output: &Output) -> Result<u8, Failure> {
    let what = if args.what == "-" {
        read_standard_input()?
    } else {
        Secret::new(args.what)
    };
    let body = serde_json::json!({ "query": what.expose() });
    let lease: LeaseView = client(&args.operator)?
        .admin(Method::POST, "/find", Some(&body))
        .await?;
    output.show(&lease, describe)?;
    Ok(0)
}

pub async fn lease(command: LeaseCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        LeaseCommand::Narrowed(args) => return narrowed(args, output).await,
        LeaseCommand::GiveUp {
            id,
            reason,
            operator,
        } => {
            let request = GiveUpRequest { reason };
            let path = format!("/leases/{id}/give-up");
            let given_up: LeaseGivenUp = client(&operator)?
                .admin(Method::POST, &path, Some(&request))
                .await?;
            output.show(&given_up, |given_up| {
                let (lease, by, reason) = (given_up.lease, &given_up.by, &given_up.reason);
                let yet = if given_up.replicated {
                    ""
                } else {
                    "; not yet replicated"
                };
                format!("nobody waits for {lease} any more: {reason} ({by}{yet})")
            })?;
            if !given_up.replicated {
                let why = "a failover of the store would lose it: say it again";
                return Err(Failure {
                    code: 6,
                    ..Failure::failed(why)
                });
            }
        }
        LeaseCommand::Show { id, operator } => {
            let lease: LeaseView = get(&operator, &format!("/leases/{id}")).await?;
            output.show(&lease, describe)?;
        }
        LeaseCommand::List {
            agent,
            mission,
            target,
            task,
            instance,
            alive,
            limit,
            operator,
        } => {
            let filters = [
                ("agent", agent.map(String::from)),
                ("mission", mission.map(String::from)),
                ("target", target.map(String::from)),
                ("task", task),
                ("instance", instance),
                ("alive", alive.then(|| "true".to_owned())),
            ];
            let page = list(&operator, &filters, limit).await?;
            let now = SystemClock::new().now();
            output.show(&page, |page| {
                let rows: Vec<_> = page
                    .items
                    .iter()
                    .map(|lease| lease_row(lease, now))
                    .collect();
                columns(
                    &["LEASE", "ALIVE", "AGENT", "MISSION", "TARGET", "EXPIRES"],
                    &rows,
                )
            })?;
            if page.next.is_some() {
                output.notice("there are more: narrow the list, or raise --limit");
            }
        }
    }
    Ok(0)
}

/// A page of the broker's holds fewer than it was asked for where a filter left some out.
pub async fn list(
    operator: &OperatorArgs,
    filters: &[(&str, Option<String>)],
    limit: usize,
) -> Result<Page<LeaseView>, Failure> {
    let mut found = Page {
        items: Vec::new(),
        next: None,
    };
    loop {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        // A page holds a thousand at most.
        let room = limit.saturating_sub(found.items.len()).clamp(1, 1000);
        query.append_pair("limit", &room.to_string());
        for (name, value) in filters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if let Some(after) = &found.next {
            query.append_pair("after", after);
        }
        let page: Page<LeaseView> = get(operator, &format!("/leases?{}", query.finish())).await?;
        found.items.extend(page.items);
        found.next = page.next;
        if found.next.is_none() || found.items.len() >= limit {
            return Ok(found);
        }
    }
}

pub async fn lift(args: LiftArgs, output: &Output) -> Result<u8, Failure> {
    let selector = args.selector.selector()?;
    let request = LiftRequest {
        selector,
        reason: args.reason,
    };
    post_revocation(&args.operator, "/lifts", &request, output).await
}

pub async fn key(command: KeyCommand, output: &Output) -> Result<u8, Failure> {
    let KeyCommand::Rotate {
        purpose,
        compromised,
        operator,
    } = command;
    let request = RotateRequest {
        purpose,
        compromised,
    };
    let answer: RotateAnswer = client(&operator)?
        .admin(Method::POST, "/keys/rotate", Some(&request))
        .await?;
    output.show(&answer, |answer| {
        pairs(&[
            ("new key", answer.new_key.clone()),
            (
                "signs from",
                moment(answer.signs_from, SystemClock::new().now()),
            ),
            ("removed", answer.removed.join(", ")),
        ])
    })?;
    Ok(0)
}

pub async fn audit_tail(
    operator: &OperatorArgs,
    limit: usize,
    output: &Output,
) -> Result<u8, Failure> {
    let page: Page<Value> = get(operator, &format!("/audit?limit={limit}")).await?;
    output.show(&page, |page| audit::entries(&page.items))?;
    Ok(0)
}

pub async fn get<T: serde::de::DeserializeOwned>(
    operator: &OperatorArgs,
    path: &str,
) -> Result<T, Failure> {
    Ok(client(operator)?
        .admin(Method::GET, path, None::<&()>)
        .await?)
}

pub async fn post_revocation(
    operator: &OperatorArgs,
    path: &str,
    request: &impl serde::Serialize,
    output: &Output,
) -> Result<u8, Failure> {
    let receipt: RevocationReceipt = client(operator)?
        .admin(Method::POST, path, Some(request))
        .await?;
    output.show(&receipt, told)?;
    Ok(0)
}

/// The operator's token: the file named, else what `dayfly login` stored, else what the
/// development broker left in this folder.
pub fn client(operator: &OperatorArgs) -> Result<Client, Failure> {
    let path = operator
        .operator_token_file
        .clone()
        .or_else(super::login::stored_token);
    let Some(path) = path else {
        return Err(Failure {
            code: 4,
            ..Failure::failed(
                "no operator's token: run `dayfly login`, or give --operator-token-file",
            )
        });
    };
    Ok(Client::new(&operator.url, Some(read_token(&path)?))?)
}

fn read_token(path: &PathBuf) -> Result<Secret<String>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(Secret::new(text.trim().to_owned()))
}

fn read_standard_input() -> Result<Secret<String>, Failure> {
    std::io::read_to_string(std::io::stdin())
        .map(|text| Secret::new(text.trim().to_owned()))
        .map_err(|error| Failure::failed(format!("standard input: {error}")))
}

pub fn told(receipt: &RevocationReceipt) -> String {
    let state = match receipt.state {
        RevocationState::DryRun => "nothing was done; this is what would die",
        RevocationState::NotYetReplicated => "in force here, not yet replicated",
        RevocationState::Lifted => "lifted; what it killed stays dead",
        RevocationState::Revoking => "in force; not everything is confirmed dead yet",
        RevocationState::Confirmed => "dead everywhere, confirmed",
        RevocationState::ConfirmedExceptExpiry => {
            "dead at every broker; some credentials live downstream until they expire"
        }
    };
    let mut lines = vec![("state", state.to_owned())];
    lines.extend(counted(receipt.covered.as_ref()));
    let asked = if receipt.holds {
        "refused until lifted"
    } else {
        "allowed"
    };
    lines.push(("new requests", asked.to_owned()));
    let covered = receipt.covered.as_ref();
    let number = |of: fn(&Covered) -> u64| covered.map_or(0, of);
    for (name, number) in [
        ("outstanding", number(|covered| covered.outstanding)),
        ("unreadable", number(|covered| covered.unreadable)),
        ("given up", number(|covered| covered.given_up)),
    ] {
        if number > 0 {
            lines.push((name, number.to_string()));
        }
    }
    if let Some(id) = receipt.id {
        lines.push(("revocation", id.to_string()));
    }
    pairs(&lines)
}

fn counted(covered: Option<&Covered>) -> Vec<(&'static str, String)> {
    let Some(covered) = covered else {
        let why = "not counted: a part of the store does not answer";
        return vec![("leases", why.to_owned())];
    };
    let leases = covered.leases.iter();
    let leases: Vec<_> = leases
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    let leases = if leases.is_empty() {
        "none".to_owned()
    } else {
        leases.join(", ")
    };
    let agents: Vec<_> = covered.agents.iter().map(AgentId::as_str).collect();
    let targets: Vec<_> = covered.targets.iter().map(TargetId::as_str).collect();
    vec![
        ("leases", leases),
        ("agents", agents.join(", ")),
        ("targets", targets.join(", ")),
    ]
}

fn describe(lease: &LeaseView) -> String {
    let now = SystemClock::new().now();
    let alive = match &lease.why_ended {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    let mut lines = vec![
        ("lease", lease.id.to_string()),
        ("alive", alive),
        ("state", lease.state.clone()),
        ("agent", lease.agent.to_string()),
        ("owner", lease.owner.clone()),
        ("mission", lease.mission.to_string()),
        ("target", lease.target.to_string()),
        ("goal", lease.goal.clone()),
        ("task", lease.task.clone().unwrap_or_default()),
        ("instance", lease.instance.clone().unwrap_or_default()),
        ("identity", format!("{} at {}", lease.subject, lease.issuer)),
        ("on behalf of", served(&lease.on_behalf_of)),
        (
            "handed on from",
            lease.parent.map_or_else(String::new, |id| id.to_string()),
        ),
        ("created", moment(lease.created_at, now)),
        ("expires", moment(lease.expires_at, now)),
        (
            "revocation",
            format!(
                "{:?}, within {} s",
                lease.revocation.class, lease.revocation.within_seconds
            )
            .to_lowercase(),
        ),
    ];
    for detail in &lease.authorization_details {
        lines.push((
            "may",
            format!(
                "{} on {}",
                detail.actions.join(", "),
                detail.locations.join(", ")
            ),
        ));
    }
    if !lease.names.is_empty() {
        lines.push(("seen downstream as", lease.names.join(", ")));
    }
    if lease.alive {
        lines.push(("to end it", format!("dayfly revoke --lease {}", lease.id)));
    }
    pairs(&lines)
}

/// Whom it began with first.
fn served(chain: &[Principal]) -> String {
    let told = chain.iter().map(|link| match link {
        Principal::Person {
            issuer_url,
            subject,
            in_person,
            ..
        } => {
            let how = if *in_person { ", in person" } else { "" };
            format!("{subject} at {issuer_url}{how}")
        }
        Principal::Agent { agent, lease, .. } => format!("{agent} ({lease})"),
    });
    told.collect::<Vec<_>>().join(", then ")
}

pub fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<width$}  {value}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn lease_row(lease: &LeaseView, now: OffsetDateTime) -> Vec<String> {
    vec![
        lease.id.to_string(),
        if lease.alive { "yes" } else { "no" }.to_owned(),
        lease.agent.to_string(),
        lease.mission.to_string(),
        lease.target.to_string(),
        moment(lease.expires_at, now),
    ]
}
