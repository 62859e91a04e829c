//! `check` and `schema`: what a configuration says, and what may be said in one.

use super::live;
use super::output::{Failure, Output};
use super::register::exported;
use super::simulate::built;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Problem, Severity};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

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
    /// Also whether whoever is registered stands beside the files: what `dayfly agent export` wrote.
    #[arg(long, value_name = "FILE")]
    registered: Option<PathBuf>,
    /// Warnings fail, too.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The Cedar schema instead, of this configuration folder's `when` and `policies/*.cedar`, with the
    /// facts of its own.
    #[arg(long, value_name = "DIR")]
    cedar: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Annotations {
    /// Workflow commands of GitHub Actions: `::error file=...`.
    Github,
}

/// `dayfly check`: 0 if nothing is wrong and every case came out as expected.
pub async fn check(args: &CheckArgs, output: &Output) -> Result<u8, Failure> {
    let registered = args.registered.as_deref().map(exported).transpose()?;
    let registered = registered.unwrap_or_default();
    let mut report = config::check_with(&args.directory, &registered, SystemClock::new().now());
    report.ok &= !args.strict || report.warnings == 0;
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
pub fn schema(args: &SchemaArgs, output: &Output) -> Result<u8, Failure> {
    if let Some(dir) = &args.cedar {
        let (policy, _) = built(dir, &[])?;
        output.line(policy.schema().trim_end())?;
        return Ok(0);
    }
    let schema = config::schema().map_err(|problems| Failure::failed(problems.to_string()))?;
    let text = serde_json::to_string_pretty(&schema);
    output.line(&text.map_err(|error| Failure::failed(error.to_string()))?)?;
    Ok(0)
}
