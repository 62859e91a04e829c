//! `dayfly config`: publish a configuration to all replicas, and show which one decides.

use super::OperatorArgs;
use super::narrowed::{self, Narrowing};
use super::operator_side::{client, get, pairs};
use super::output::{Failure, Output};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::wire::{ConfigFile, ConfigView, PublishAnswer, PublishRequest};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Put a folder in force at every replica at once.
    ///
    /// For replicas with `config = "published"` in `[broker]`. The folder is checked here and at the
    /// broker, stored with its hash, and decides from one position of the fence log on: each replica
    /// swaps whole, or keeps what it had and is not ready. `[broker]` is each replica's own: files that
    /// hold nothing else are left out. To go back, publish the older folder.
    #[command(
        after_help = "Example:\n  dayfly config publish . --reason 'CHG-17: reporting reads invoices'\n  dayfly config publish . --reason 'CHG-18: no more deletes' --revoke-narrowed"
    )]
    Publish(PublishArgs),
    /// What decides at the broker that answers.
    #[command(after_help = "Example:\n  dayfly config show")]
    Show {
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The configuration folder.
    directory: PathBuf,
    /// Why: it is in the audit.
    #[arg(long)]
    reason: String,
    /// Also end live leases that the folder would not grant any more; see `dayfly lease narrowed`.
    #[arg(long)]
    revoke_narrowed: bool,
    /// For `--revoke-narrowed`: an exported audit, or a folder of them; see `dayfly lease narrowed`.
    #[arg(long, requires = "revoke_narrowed")]
    audit: Option<PathBuf>,
    /// Only if this is still the number of what is in force: `published` of an earlier publication, `number` of
    /// `dayfly config show`. For jobs that may run late. Without it: whatever is in force when this begins.
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Though whoever publishes it could not publish the next one.
    #[arg(long)]
    even_without_me: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    published: PublishAnswer,
    #[serde(skip_serializing_if = "Option::is_none")]
    narrowed: Option<narrowed::Report>,
}

pub async fn config(command: ConfigCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        ConfigCommand::Publish(args) => publish(args, output).await,
        ConfigCommand::Show { operator } => {
            let view: ConfigView = get(&operator, "/config").await?;
            output.show(&view, shown)?;
            Ok(0)
        }
    }
}

async fn publish(args: PublishArgs, output: &Output) -> Result<u8, Failure> {
    let report = config::check(&args.directory, SystemClock::new().now());
    if !report.ok {
        return Err(Failure::failed(format!("{report}\nnothing was published")));
    }
    let files = config::publishable(&args.directory)
        .map_err(|problems| Failure::failed(format!("{problems}\nnothing was published")))?;
    let after = match args.after {
        Some(after) => after,
        None => get::<ConfigView>(&args.operator, "/config").await?.number,
    };
    let named = |list: Vec<(String, String)>| {
        let each = list.into_iter();
        each.map(|(name, text)| ConfigFile { name, text }).collect()
    };
    let request = PublishRequest {
        files: named(files.texts),
        attached: named(files.attached),
        reason: args.reason.clone(),
        after: Some(after),
        even_without_me: args.even_without_me,
    };
    let published: PublishAnswer = client(&args.operator)?
        .admin(Method::POST, "/config", Some(&request))
        .await?;
    let narrowed = match args.revoke_narrowed {
        true => {
            let narrowing = Narrowing {
                config: &args.directory,
                audit: args.audit.as_deref(),
                revoke: Some(&args.reason),
                operator: &args.operator,
            };
            Some(narrowed::look(narrowing).await?)
        }
        false => None,
    };
    output.show(
        &Report {
            published,
            narrowed,
        },
        told,
    )?;
    Ok(0)
}

fn told(report: &Report) -> String {
    let answer = &report.published;
    let mut rows = vec![
        ("published", answer.revision.to_string()),
        ("hash", answer.hash.clone()),
        ("before", answer.before.clone()),
        ("position", answer.position.to_string()),
    ];
    if !answer.replicated {
        let lag = "not yet: a failover of the store now could lose it";
        rows.push(("replicated", lag.to_owned()));
    }
    let mut text = pairs(&rows);
    if let Some(narrowed) = &report.narrowed {
        text.push('\n');
        text.push_str(&narrowed::table(narrowed));
    }
    text
}

fn shown(view: &ConfigView) -> String {
    let mut rows = vec![
        ("hash", view.hash.clone()),
        ("number", view.number.to_string()),
    ];
    match view.revision {
        0 => rows.push(("source", "the replica's own folder".to_owned())),
        revision => rows.push(("source", format!("published, number {revision}"))),
    }
    if let Some(published) = &view.published {
        let text = format!("{} ({})", published.hash, published.revision);
        rows.push(("published last", text));
    }
    if let Some(behind) = &view.behind {
        rows.push(("behind", behind.clone()));
    }
    pairs(&rows)
}
