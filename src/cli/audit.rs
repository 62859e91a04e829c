//! `audit tail` and `audit verify`: what happened, and whether the record still says so.

use super::OperatorArgs;
use super::operator_side;
use super::output::{Failure, Output, columns};
use crate::audit::{self, Report};
use crate::client::http_client;
use crate::jose::{Algorithm, Compact, KeySet, TypRule};
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A checkpoint's `typ`.
pub const CHECKPOINT_TYP: &str = "dayfly-checkpoint+jwt";
/// A checkpoint names the head of every shard.
const MAX_CHECKPOINT: usize = 64 * 1024;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// The newest entries that the store still keeps: what was done, to whom, by whom and why. All of each with `-o json`.
    #[command(after_help = "Example:\n  dayfly audit tail --limit 5")]
    Tail {
        /// How many at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Find any edit, gap, reorder or cut in an export: 0 if there is none, 1 if there is.
    #[command(after_help = "Example:\n  dayfly audit verify /var/lib/dayfly/audit.jsonl")]
    Verify {
        /// The exported folder or file.
        path: PathBuf,
        /// The broker's published keys: a file saved from `/jwks`. Without it they are fetched. Several
        /// where the store was lost in between, and its keys with it.
        #[arg(long)]
        keys: Vec<PathBuf>,
        /// The broker's URL.
        #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
        url: String,
    },
}

pub async fn audit(command: AuditCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        AuditCommand::Tail { limit, operator } => {
            operator_side::audit_tail(&operator, limit, output).await
        }
        AuditCommand::Verify { path, keys, url } => {
            let mut sets = Vec::new();
            for file in &keys {
                sets.push(read_keys(file)?);
            }
            if sets.is_empty() {
                sets.push(fetch_keys(&url).await?);
            }
            let holds = |jws: &str| sets.iter().any(|keys| checkpoint_holds(jws, keys));
            let report =
                audit::verify(&path, &holds).map_err(|error| Failure::failed(error.to_string()))?;
            show(&report, output)?;
            Ok(u8::from(!report.is_sound()))
        }
    }
}

/// Whether one of these keys signed the checkpoint.
pub fn checkpoint_holds(jws: &str, keys: &KeySet) -> bool {
    let Ok(parsed) = Compact::parse(jws, MAX_CHECKPOINT, &TypRule::Exactly(CHECKPOINT_TYP)) else {
        return false;
    };
    let candidates = keys.candidates(parsed.kid(), parsed.alg());
    parsed.verify(&candidates, &Algorithm::ALL).is_ok()
}

/// A line for each entry. What an entry holds may be somebody else's text, so nothing in it moves
/// the cursor.
pub fn entries(items: &[Value]) -> String {
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    columns(&["AT", "EVENT", "AGENT", "BY", "LEASE", "WHY"], &rows)
}

fn row(entry: &Value) -> Vec<String> {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let second = text("/at").get(..19).unwrap_or("");
    let reason = match (text("/reason"), text("/detail/why")) {
        (reason, "") => reason.to_owned(),
        (reason, why) => format!("{reason}: {why}"),
    };
    let why = match (text("/detail/kind"), text("/detail/dimension")) {
        (kind, dimension) if !kind.is_empty() && !dimension.is_empty() => {
            format!("{kind} {dimension} {}: {reason}", text("/detail/value"))
        }
        _ => match (reason.as_str(), text("/detail/goal")) {
            ("", goal) => goal.to_owned(),
            _ => reason,
        },
    };
    [
        format!("{second}Z"),
        text("/event").to_owned(),
        text("/agent").to_owned(),
        text("/operator").to_owned(),
        text("/lease").to_owned(),
        why,
    ]
    .map(|cell| cell.replace(char::is_control, "?"))
    .into()
}

fn show(report: &Report, output: &Output) -> Result<(), Failure> {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|found| format!("{}:{}: {}", found.file.display(), found.line, found.what))
        .collect();
    let value = json!({
        "sound": report.is_sound(),
        "entries": report.entries,
        "checkpoints": report.checkpoints,
        "unsealed": report.unsealed,
        "breaks": report.breaks,
        "superseded": report.superseded,
        "findings": findings,
    });
    output.show(&value, |_| {
        let mut lines = findings.clone();
        lines.extend(report.breaks.iter().map(|lost| {
            format!(
                "{}:{}: the store lost what shard {} had behind place {}; it was sealed up to {}",
                lost.file.display(),
                lost.line,
                lost.shard,
                lost.resumes.min(lost.sealed),
                lost.sealed
            )
        }));
        lines.extend(report.superseded.iter().map(|aside| {
            let (entries, by) = (aside.entries, aside.by.display());
            format!(
                "{}:{}: exported, not sealed by the time of the crash: {entries} entries, which {by} sealed as checkpoint {}",
                aside.file.display(),
                aside.line,
                aside.sealed.unwrap_or(aside.checkpoint)
            )
        }));
        lines.push(format!(
            "{}: {} entries, {} signed checkpoints, {} entries behind the last one",
            if report.is_sound() {
                "sound"
            } else {
                "NOT SOUND"
            },
            report.entries,
            report.checkpoints,
            report.unsealed
        ));
        lines.join("\n")
    })
}

fn read_keys(path: &Path) -> Result<KeySet, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    KeySet::parse(&bytes).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

async fn fetch_keys(url: &str) -> Result<KeySet, Failure> {
    let place = format!("{}/jwks", url.trim_end_matches('/'));
    let problem = |error: reqwest::Error| Failure {
        code: 6,
        ..Failure::failed(format!("{place}: {}", error.without_url()))
    };
    let answer = http_client()?.get(&place).send().await.map_err(problem)?;
    let bytes = answer.bytes().await.map_err(problem)?;
    KeySet::parse(&bytes).map_err(|error| Failure::failed(format!("{place}: {error}")))
}

#[cfg(test)]
mod tests;
