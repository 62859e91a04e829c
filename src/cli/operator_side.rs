//! What operators call: find, lease, revoke, lift, audit tail, key rotate.

use super::OperatorArgs;
use super::output::{Failure, Output, columns};
use crate::client::Client;
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::secret::Secret;
use crate::wire::{
    LeaseView, LiftRequest, Page, RevocationReceipt, RevocationRequest, RevocationState,
    RotateAnswer, RotateRequest, Selector,
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;
use std::path::PathBuf;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

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
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new signing key; the old one stays valid for what it signed.
    ///
    /// The new key signs once every verifier has had time to fetch it. Keys rotate by themselves when
    /// they are due; this is for when one may be known to somebody.
    #[command(after_help = "Example:\n  dayfly key rotate --purpose access_token --compromised")]
    Rotate {
        /// `access_token`, `introspection`, `checkpoint` or `federation/TARGET`.
        #[arg(long, default_value = "access_token")]
        purpose: String,
        /// Remove the old key at once and end every lease it signed.
        #[arg(long)]
        compromised: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

/// Exactly one selector.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SelectorArgs {
    /// One lease.
    #[arg(long)]
    lease: Option<LeaseId>,
    /// Everything of one agent.
    #[arg(long)]
    agent: Option<AgentId>,
    /// Everything given for one mission.
    #[arg(long)]
    mission: Option<MissionId>,
    /// Everything on one target.
    #[arg(long)]
    target: Option<TargetId>,
    /// Everything of agents that this owner answers for.
    #[arg(long)]
    owner: Option<String>,
    /// Everything that one issuer vouched for: its URL.
    #[arg(long)]
    issuer: Option<String>,
    /// Everything of one identity.
    #[arg(long, num_args = 2, value_names = ["ISSUER", "SUBJECT"])]
    subject: Option<Vec<String>>,
    /// One run of work, as the requests named it (`--task`).
    #[arg(long)]
    task: Option<String>,
    /// The lease at the root of a delegation.
    #[arg(long)]
    delegation: Option<LeaseId>,
    /// Everything that hangs on one context, such as a pipeline run: the issuer's URL, the kind, the id.
    #[arg(long, num_args = 3, value_names = ["ISSUER", "KIND", "ID"])]
    context: Option<Vec<String>>,
    /// Everything with this label, `NAME=VALUE`.
    #[arg(long)]
    label: Option<String>,
    /// Everything that one signing key signed: its `kid`.
    #[arg(long)]
    signing_key: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

impl SelectorArgs {
    fn selector(self) -> Result<Selector, Failure> {
        let one = |list: Option<Vec<String>>| list.map(Vec::into_iter);
        let found = None
            .or(self.lease.map(Selector::Lease))
            .or(self.agent.map(Selector::Agent))
            .or(self.mission.map(Selector::Mission))
            .or(self.target.map(Selector::Target))
            .or(self.owner.map(Selector::Owner))
            .or(self.issuer.map(Selector::Issuer))
            .or(self.task.map(Selector::Task))
            .or(self.delegation.map(Selector::Delegation))
            .or(self.signing_key.map(Selector::SigningKey))
            .or(self.all.then_some(Selector::All));
        if let Some(selector) = found {
            return Ok(selector);
        }
        if let Some(label) = self.label {
            let (name, value) = label
                .split_once('=')
                .ok_or_else(|| Failure::usage("--label takes NAME=VALUE"))?;
            return Ok(Selector::Label {
                name: name.to_owned(),
                value: value.to_owned(),
            });
        }
        if let Some(mut words) = one(self.subject)
            && let (Some(issuer), Some(subject)) = (words.next(), words.next())
        {
            return Ok(Selector::Subject { issuer, subject });
        }
        if let Some(mut words) = one(self.context)
            && let (Some(issuer), Some(kind), Some(id)) = (words.next(), words.next(), words.next())
        {
            return Ok(Selector::Context { issuer, kind, id });
        }
        Err(Failure::usage(
            "name what to revoke: see `dayfly revoke --help`",
        ))
    }
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    selector: SelectorArgs,
    /// Why: it is in the audit and in every refusal's explanation.
    #[arg(long, default_value = "revoked by an operator")]
    reason: String,
    /// Only say what would die.
    #[arg(long)]
    dry_run: bool,
    /// End what is there and go on minting.
    #[arg(long)]
    kill_only: bool,
    #[command(flatten)]
    operator: OperatorArgs,
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
        LeaseCommand::Show { id, operator } => {
            let lease: LeaseView = get(&operator, &format!("/leases/{id}")).await?;
            output.show(&lease, describe)?;
        }
        LeaseCommand::List {
            agent,
            mission,
            target,
            alive,
            limit,
            operator,
        } => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", &limit.to_string());
            for (name, value) in [
                ("agent", agent.map(String::from)),
                ("mission", mission.map(String::from)),
                ("target", target.map(String::from)),
                ("alive", alive.then(|| "true".to_owned())),
            ] {
                if let Some(value) = value {
                    query.append_pair(name, &value);
                }
            }
            let page: Page<LeaseView> =
                get(&operator, &format!("/leases?{}", query.finish())).await?;
            output.show(&page, |page| {
                let rows: Vec<_> = page.items.iter().map(lease_row).collect();
                columns(
                    &["LEASE", "ALIVE", "AGENT", "MISSION", "TARGET", "EXPIRES"],
                    &rows,
                )
            })?;
        }
    }
    Ok(0)
}

pub async fn revoke(args: RevokeArgs, output: &Output) -> Result<u8, Failure> {
    let request = RevocationRequest {
        selector: args.selector.selector()?,
        reason: args.reason,
        kill_only: args.kill_only,
    };
    let path = if args.dry_run {
        "/revocations?dry_run=true"
    } else {
        "/revocations"
    };
    post_revocation(&args.operator, path, &request, output).await
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
            ("signs from", answer.signs_from.to_string()),
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
    output.show(&page, |page| {
        page.items
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
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

fn told(receipt: &RevocationReceipt) -> String {
    let state = match receipt.state {
        RevocationState::DryRun => "nothing was done; this is what would die",
        RevocationState::NotYetReplicated => "in force here, not yet replicated",
        RevocationState::Lifted => "lifted; what it killed stays dead",
        RevocationState::Revoking => "dead at every broker; downstreams are being ended",
        RevocationState::Confirmed => "dead everywhere, confirmed",
        RevocationState::ConfirmedExceptExpiry => {
            "dead at every broker; some credentials live downstream until they expire"
        }
    };
    let leases: Vec<_> = receipt
        .leases
        .iter()
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    let agents: Vec<_> = receipt.agents.iter().map(AgentId::as_str).collect();
    let targets: Vec<_> = receipt.targets.iter().map(TargetId::as_str).collect();
    let mut lines = vec![
        ("state", state.to_owned()),
        (
            "leases",
            if leases.is_empty() {
                "none".to_owned()
            } else {
                leases.join(", ")
            },
        ),
        ("agents", agents.join(", ")),
        ("targets", targets.join(", ")),
        (
            "new requests",
            if receipt.holds {
                "refused until lifted"
            } else {
                "allowed"
            }
            .to_owned(),
        ),
    ];
    if receipt.outstanding > 0 {
        lines.push(("outstanding", receipt.outstanding.to_string()));
    }
    if let Some(id) = receipt.id {
        lines.push(("revocation", id.to_string()));
    }
    pairs(&lines)
}

fn describe(lease: &LeaseView) -> String {
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
        ("identity", format!("{} at {}", lease.subject, lease.issuer)),
        ("created", moment(lease.created_at)),
        ("expires", moment(lease.expires_at)),
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
    pairs(&lines)
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

fn lease_row(lease: &LeaseView) -> Vec<String> {
    vec![
        lease.id.to_string(),
        if lease.alive { "yes" } else { "no" }.to_owned(),
        lease.agent.to_string(),
        lease.mission.to_string(),
        lease.target.to_string(),
        moment(lease.expires_at),
    ]
}

/// RFC 3339 in UTC, to the second: what a person compares with a log.
fn moment(at: OffsetDateTime) -> String {
    let second = at.replace_nanosecond(0).unwrap_or(at);
    second
        .to_offset(UtcOffset::UTC)
        .format(&Rfc3339)
        .unwrap_or_else(|_| at.to_string())
}
