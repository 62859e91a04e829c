//! `explain`: why something was, or would be, granted or refused.

use super::OperatorArgs;
use super::operator_side::client;
use super::output::{Failure, Output};
use super::recorded::entries;
use super::register::exported;
use super::simulate::built;
use crate::broker::Refusal;
use crate::broker::explain::{explain as stated, explain_again};
use crate::clock::{Clock, SystemClock};
use crate::fences::View;
use crate::wire::{
    ExplainAnswer, ExplainQuestion, ExplainRecorded, ExplainRefusal, ExplainRequest, Page,
};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How many entries a broker's audit is asked for, where its question is taken elsewhere.
const LOOKED_AT: usize = 1000;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A request as JSON: agent, mission, authorization_details, facts and what else the broker's API
    /// takes of it. `-` reads standard input.
    #[arg(required_unless_present = "refusal", conflicts_with = "refusal")]
    request: Option<PathBuf>,
    /// The `refusal_id` that a caller was told; its question is taken from the audit, whole.
    #[arg(long)]
    refusal: Option<uuid::Uuid>,
    /// An exported audit to look the refusal up in, instead of asking the broker.
    #[arg(long, requires = "refusal")]
    audit: Option<PathBuf>,
    /// Explain against this configuration folder, without a broker.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: Option<PathBuf>,
    /// Also who is registered: what `dayfly agent export` wrote.
    #[arg(long, value_name = "FILE", requires = "config")]
    registered: Option<PathBuf>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// `dayfly explain`: 0 if it would be granted, 3 if refused.
pub async fn explain(args: ExplainArgs, output: &Output) -> Result<u8, Failure> {
    let question = match (&args.refusal, &args.audit, &args.request) {
        (Some(id), Some(export), _) => recorded(find(entries(export)?, *id, "this export")?)?,
        (Some(id), None, _) if args.config.is_some() => {
            let entries = newest(&args.operator).await?;
            let among = format!("the broker's {LOOKED_AT} newest entries");
            recorded(find(entries, *id, &among)?)?
        }
        (Some(id), None, _) => ExplainQuestion::Refusal(ExplainRefusal { refusal: *id }),
        (None, _, Some(path)) => ExplainQuestion::Stated(Box::new(read_request(path)?)),
        (None, _, None) => return Err(Failure::usage("give a request or --refusal")),
    };
    let answer = match &args.config {
        Some(dir) => offline((dir, args.registered.as_deref()), question)?,
        None => asked(&args.operator, &question).await?,
    };
    output.show(&answer, told)?;
    Ok(if answer.granted { 0 } else { 3 })
}

async fn asked(
    operator: &OperatorArgs,
    question: &ExplainQuestion,
) -> Result<ExplainAnswer, Failure> {
    let client = client(operator)?;
    let answer = client.admin(Method::POST, "/explain", Some(question)).await;
    answer.map_err(|error| match (Failure::from(error), question) {
        (failure, ExplainQuestion::Refusal(asked)) if failure.code == 5 => absent(
            &asked.refusal,
            "what the broker's store still has of the audit",
        ),
        (failure, _) => failure,
    })
}

fn offline(
    (dir, registered): (&Path, Option<&Path>),
    question: ExplainQuestion,
) -> Result<ExplainAnswer, Failure> {
    let registered = registered.map(exported).transpose()?;
    let (policy, agents) = built(dir, &registered.unwrap_or_default())?;
    let known = (&agents, &policy);
    let (view, now) = (View::origin(), SystemClock::new().now());
    let answer = match question {
        ExplainQuestion::Stated(request) => stated(known, *request, &view, now),
        ExplainQuestion::Recorded(one) => {
            explain_again(known, &Value::Object(one.recorded), &view, now)
        }
        ExplainQuestion::Refusal(_) => return Err(Failure::usage("give --audit, too")),
    };
    answer.map_err(|refusal: Refusal| Failure::not_found(refusal.detail))
}

async fn newest(operator: &OperatorArgs) -> Result<Vec<Value>, Failure> {
    let path = format!("/audit?limit={LOOKED_AT}");
    let page: Page<Value> = client(operator)?
        .admin(Method::GET, &path, None::<&()>)
        .await?;
    Ok(page.items)
}

fn recorded(entry: Value) -> Result<ExplainQuestion, Failure> {
    match entry {
        Value::Object(recorded) => Ok(ExplainQuestion::Recorded(ExplainRecorded { recorded })),
        _ => Err(Failure::failed("the audit entry is no object")),
    }
}

fn find(entries: Vec<Value>, id: uuid::Uuid, among: &str) -> Result<Value, Failure> {
    let wanted = json!(id);
    let is_it = |entry: &Value| entry.pointer("/detail/refusal_id") == Some(&wanted);
    let found = entries.into_iter().find(is_it);
    found.ok_or_else(|| absent(&id, among))
}

fn absent(id: &uuid::Uuid, among: &str) -> Failure {
    Failure::not_found(format!(
        "refusal {id} is not in {among}: it was older (look it up in an export with --audit), or was \
         refused before the caller was known"
    ))
}

fn read_request(path: &Path) -> Result<ExplainRequest, Failure> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    }
    .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn told(answer: &ExplainAnswer) -> String {
    let mut lines: Vec<String> = answer
        .checks
        .iter()
        .map(|check| {
            let mark = if check.passed { "ok  " } else { "FAIL" };
            format!("{mark}  {:<21}  {}", check.name, check.detail)
        })
        .collect();
    lines.push(String::new());
    lines.push(match &answer.reason {
        None => format!("granted: {}", answer.summary),
        Some(reason) => format!("refused ({reason}): {}", answer.summary),
    });
    if let Some(then) = &answer.then {
        let (when, reason, why) = (&then.when, &then.reason, &then.why);
        let by = if then.other_configuration {
            ", by another configuration"
        } else {
            ""
        };
        lines.push(format!("it was refused ({reason}) at {when}{by}: {why}"));
    }
    if let Some(nearest) = &answer.nearest {
        let mission = &nearest.mission;
        lines.push(match &nearest.missing {
            _ if !nearest.lists_agent => {
                format!("nearest: {mission} allows it, and does not list this agent")
            }
            None => format!("nearest: {mission} would grant it: name it"),
            Some(missing) => format!(
                "nearest: {mission} fails at {}: {}",
                missing.name, missing.detail
            ),
        });
    }
    lines.join("\n")
}
