//! `agent invite`, `agent enrol`, `agent keys`: machines that no platform vouches for.

use super::OperatorArgs;
use super::agent_side::{read_key, read_text};
use super::keygen::{self, KeyKind};
use super::operator_side::{client, get, pairs};
use super::output::{Failure, Output, columns, moment};
use crate::client::Client;
use crate::clock::{Clock, SystemClock};
use crate::ids::AgentId;
use crate::secret::Secret;
use crate::wire::{EnrolledKeyView, InvitationAnswer, InvitationRequest, Page};
use clap::Args;
use reqwest::Method;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct InviteArgs {
    /// The agent's name; its configuration says `identity = { client = { enrol = true } }`.
    id: AgentId,
    /// How long the token may be spent, in seconds: a day at most.
    #[arg(long, default_value_t = 900)]
    valid: u32,
    /// Which machine it is for, in words: shown beside the key.
    #[arg(long)]
    note: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// The agent's name.
    id: AgentId,
    /// The broker's URL, exactly as it calls itself (its issuer identifier).
    #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
    url: String,
    /// A file that holds the join token; `-` reads it from standard input.
    #[arg(long, default_value = "-")]
    join_token_file: PathBuf,
    /// Where NAME.key.json (private, mode 0600) is. Made if it is not there: it never leaves this machine.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// What a new key signs with.
    #[arg(long, value_enum, default_value_t = KeyKind::Es256)]
    algorithm: KeyKind,
}

#[derive(Debug, Args)]
pub struct KeysArgs {
    /// The agent's name.
    id: AgentId,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// The token goes to standard output, once; everything about it to standard error.
pub async fn invite(args: InviteArgs, output: &Output) -> Result<u8, Failure> {
    let request = InvitationRequest {
        valid_seconds: Some(args.valid),
        note: args.note,
    };
    let path = format!("/agents/{}/invitations", args.id);
    let answer: InvitationAnswer = client(&args.operator)?
        .admin(Method::POST, &path, Some(&request))
        .await?;
    output.show(&answer, |answer| answer.join_token.clone())?;
    let until = moment(answer.expires_at, SystemClock::new().now());
    output.notice(&format!(
        "the token is shown once, good once and until {until}; on the machine: dayfly agent enrol {}",
        answer.agent
    ));
    Ok(0)
}

pub async fn enrol(args: EnrolArgs, output: &Output) -> Result<u8, Failure> {
    let token = Secret::new(read_text(&args.join_token_file)?);
    let broker = Client::new(&args.url, None)?;
    let path = keygen::private_path(&args.directory, &args.id);
    // A key that is there is enrolled as it is: an enrolment whose answer was lost is repeated so.
    if !path.exists() {
        keygen::make_private(&path, args.algorithm)?;
    }
    let key = read_key(&path)?;
    let now = SystemClock::new().now();
    let answer = broker.enrol(&args.id, &key, &token, now).await?;
    let value = json!({
        "agent": answer.agent, "thumbprint": answer.thumbprint, "private": path,
        "expires_at": answer.expires_at.unix_timestamp(),
    });
    output.show(&value, |_| {
        pairs(&[
            ("agent", answer.agent.to_string()),
            ("key", path.display().to_string()),
            ("thumbprint", answer.thumbprint.clone()),
            ("expires", moment(answer.expires_at, now)),
        ])
    })?;
    Ok(0)
}

pub async fn keys(args: KeysArgs, output: &Output) -> Result<u8, Failure> {
    let path = format!("/agents/{}/keys", args.id);
    let page: Page<EnrolledKeyView> = get(&args.operator, &path).await?;
    let now = SystemClock::new().now();
    output.show(&page, |page| {
        let rows: Vec<_> = page.items.iter().map(|key| row(key, now)).collect();
        columns(&["KEY", "STANDS", "ENROLLED", "BY", "FOR"], &rows)
    })?;
    Ok(0)
}

fn row(key: &EnrolledKeyView, now: time::OffsetDateTime) -> Vec<String> {
    let stands = match &key.held {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    vec![
        key.thumbprint.clone(),
        stands,
        moment(key.enrolled_at, now),
        key.invited_by.clone(),
        key.note.clone().unwrap_or_default(),
    ]
}
