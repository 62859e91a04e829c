//! `check` and `explain`: what a configuration means, before and after something was refused.

use super::OperatorArgs;
use super::live;
use super::operator_side::client;
use super::output::{Failure, Output};
use super::recorded::entries;
use super::simulate::built;
use crate::agents::AgentError;
use crate::broker::show;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Problem, Severity};
use crate::fences::View;
use crate::ids::AgentId;
use crate::policy::{Denial, Recorded};
use crate::wire::{ExplainAnswer, ExplainRequest, Page};
use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How many audit entries are looked through for a refusal.
const LOOKED_AT: usize = 1000;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration folder.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Also print each problem as an annotation for the lines of a pull request. The folder is to be
    /// relative to the repository's root.
    #[arg(long, value_enum)]
    annotations: Option<Annotations>,
    /// Also look at what the folder names: the store, the keys of issuers, the targets, and whether the
    /// secrets can be read. Run it where the broker runs; it changes nothing and prints no secret.
    #[arg(long, conflicts_with = "annotations")]
    live: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Annotations {
    /// Workflow commands of GitHub Actions: `::error file=...`.
    Github,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A request as JSON: agent, mission, authorization_details, facts. `-` reads standard input.
    #[arg(required_unless_present = "refusal", conflicts_with = "refusal")]
    request: Option<PathBuf>,
    /// The `refusal_id` that a caller was told; its request is taken from the audit.
    #[arg(long)]
    refusal: Option<uuid::Uuid>,
    /// An exported audit to look the refusal up in, instead of asking the broker.
    #[arg(long, requires = "refusal")]
    audit: Option<PathBuf>,
    /// Explain against this configuration folder, without a broker.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// `dayfly check`: 0 if nothing is wrong and every case came out as expected.
pub async fn check(args: &CheckArgs, output: &Output) -> Result<u8, Failure> {
    let report = config::check(&args.directory, SystemClock::new().now());
    if args.live {
        return live::check(&args.directory, report, output).await;
    }
    if args.annotations.is_some() {
        if output.is_json() {
            return Err(Failure::usage(
                "--annotations and -o json are two formats: choose one",
            ));
        }
        for problem in &report.problems.0 {
            output.line(&workflow_command(&args.directory, problem))?;
        }
    }
    output.show(&report, ToString::to_string)?;
    Ok(u8::from(!report.ok))
}

/// GitHub Actions, "Workflow commands", "Setting an error message".
// SECURITY: a line break in a value would begin another command.
fn workflow_command(directory: &Path, problem: &Problem) -> String {
    let escape = |text: &str, more: &[(char, &str)]| {
        let mut escaped = text.replace('%', "%25");
        for (from, to) in [('\r', "%0D"), ('\n', "%0A")].iter().chain(more) {
            escaped = escaped.replace(*from, to);
        }
        escaped
    };
    let property = |text: &str| escape(text, &[(':', "%3A"), (',', "%2C")]);
    let level = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut properties = Vec::new();
    if let Some(file) = &problem.file {
        let file = directory.join(file);
        let file = file.strip_prefix(".").unwrap_or(&file).to_string_lossy();
        properties.push(format!("file={}", property(&file)));
    }
    let places = [("line", problem.line), ("col", problem.column)];
    properties.extend(
        places
            .iter()
            .filter_map(|(name, place)| Some(format!("{name}={}", (*place)?))),
    );
    properties.push(format!("title={}", property(problem.code.as_str())));
    let help = problem.help.as_ref();
    let help = help.map_or_else(String::new, |help| format!("\nhelp: {help}"));
    let message = escape(&format!("{}{help}", problem.message), &[]);
    format!("::{level} {}::{message}", properties.join(","))
}

/// `dayfly schema`.
pub fn schema(output: &Output) -> Result<u8, Failure> {
    let schema = config::schema().map_err(|problems| Failure::failed(problems.to_string()))?;
    let text = serde_json::to_string_pretty(&schema);
    output.line(&text.map_err(|error| Failure::failed(error.to_string()))?)?;
    Ok(0)
}

/// `dayfly explain`: 0 if it would be granted, 3 if refused.
pub async fn explain(args: ExplainArgs, output: &Output) -> Result<u8, Failure> {
    if let (Some(id), Some(export), Some(dir)) = (args.refusal, &args.audit, &args.config) {
        let answer = offline_again(dir, export, id)?;
        output.show(&answer, told)?;
        return Ok(if answer.granted { 0 } else { 3 });
    }
    let request = match (&args.refusal, &args.request) {
        (Some(id), _) => recorded(*id, args.audit.as_deref(), &args.operator).await?,
        (None, Some(path)) => read_request(path)?,
        (None, None) => return Err(Failure::usage("give a request or --refusal")),
    };
    let answer = match &args.config {
        Some(dir) => offline(dir, request)?,
        None => {
            client(&args.operator)?
                .admin(Method::POST, "/explain", Some(&request))
                .await?
        }
    };
    output.show(&answer, told)?;
    Ok(if answer.granted { 0 } else { 3 })
}

fn offline(dir: &Path, request: ExplainRequest) -> Result<ExplainAnswer, Failure> {
    let (policy, agents) = built(dir, &[])?;
    let now = SystemClock::new().now();
    show::explain(&agents, &policy, request, &View::origin(), now)
        .map_err(|refusal| Failure::not_found(refusal.detail))
}

/// Exactly what was asked, where nobody else has to be asked about it.
fn offline_again(dir: &Path, export: &Path, id: uuid::Uuid) -> Result<ExplainAnswer, Failure> {
    let entry = find(entries(export)?, id)?;
    let problem = |what: &str| Failure::failed(format!("the audit entry of refusal {id} {what}"));
    let question = Recorded::from_detail(entry.get("detail").unwrap_or(&Value::Null));
    let question = question.ok_or_else(|| problem("does not hold its question"))?;
    let agent = entry.get("agent").and_then(Value::as_str);
    let agent: Option<AgentId> = agent.and_then(|agent| agent.parse().ok());
    let agent = agent.ok_or_else(|| problem("names no agent"))?;
    let (policy, agents) = built(dir, &[])?;
    let now = SystemClock::new().now();
    match policy.again(&agents, &agent, &question, &View::origin(), now) {
        Ok(told) => Ok(show::explained(told)),
        Err(AgentError::Unknown) => Err(Failure::not_found(format!("there is no agent {agent}"))),
        Err(error) => Ok(show::out_of_standing(error)),
    }
}

/// The request behind a refusal, as the audit keeps it.
async fn recorded(
    id: uuid::Uuid,
    export: Option<&Path>,
    operator: &OperatorArgs,
) -> Result<ExplainRequest, Failure> {
    let lines = match export {
        Some(path) => entries(path)?,
        None => {
            let path = format!("/audit?limit={LOOKED_AT}");
            let page: Page<Value> = client(operator)?
                .admin(Method::GET, &path, None::<&()>)
                .await?;
            page.items
        }
    };
    let entry = find(lines, id)?;
    let part = |pointer: &str| entry.pointer(pointer).cloned().unwrap_or(Value::Null);
    let facts = match part("/detail/facts") {
        Value::Null => json!({}),
        facts => facts,
    };
    // What stood beside the intent narrowed it.
    let exceeds = part("/reason") == json!(Denial::ExceedsIntent.code());
    let asked = match part("/detail/beside/authorization_details") {
        beside @ Value::Array(_) if !exceeds => beside,
        _ => part("/detail/asked"),
    };
    serde_json::from_value(json!({
        "agent": part("/agent"),
        "mission": part("/detail/mission"),
        "authorization_details": asked,
        "facts": facts,
        "signer": part("/detail/signer"),
    }))
    .map_err(|error| Failure::failed(format!("the audit entry of refusal {id}: {error}")))
}

fn find(entries: Vec<Value>, id: uuid::Uuid) -> Result<Value, Failure> {
    let wanted = json!(id);
    let is_it = |entry: &Value| entry.pointer("/detail/refusal_id") == Some(&wanted);
    entries.into_iter().find(is_it).ok_or_else(|| {
        Failure::not_found(format!(
            "refusal {id} is not in the audit: it was older, or refused before the caller was known"
        ))
    })
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
