//! The command line. Each command is a file; this one parses, runs and turns failures into exit
//! codes by class.

mod agent_side;
mod output;

pub use output::{Failure, Output};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// A credential broker: narrow, minutes-long, recorded, killable credentials for agents and pipelines.
#[derive(Debug, Parser)]
#[command(
    name = "dayfly",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 not authenticated or not permitted, \
                  5 not found, 6 unavailable (try again). `exec` passes its command's code on and keeps \
                  120-125 for its own failures."
)]
pub struct Cli {
    /// How answers are printed.
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Format::Table, env = "DAYFLY_FORMAT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: the same JSON as the admin API's.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask for a credential and print it.
    Token(agent_side::TokenArgs),
    /// Run a command with credentials that stay fresh under it and are released when it ends.
    Exec(agent_side::ExecArgs),
}

/// Where the broker is and who the operator is.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// The broker's URL.
    #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
    url: String,
    /// A file that holds the operator's token; default: what `dayfly login` stored.
    #[arg(long, env = "DAYFLY_OPERATOR_TOKEN_FILE")]
    operator_token_file: Option<PathBuf>,
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    // `ring` is the one provider of cryptography; reqwest and rustls are built without a default.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Help and version go to standard output, mistakes to standard error.
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    let output = Output::new(cli.output);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(error.to_string())),
    };
    match runtime.block_on(run(cli.command, &output)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => output.fail(&failure),
    }
}

async fn run(command: Command, output: &Output) -> Result<u8, Failure> {
    match command {
        Command::Token(args) => agent_side::token(args, output).await,
        Command::Exec(args) => agent_side::exec(args, output).await,
    }
}
