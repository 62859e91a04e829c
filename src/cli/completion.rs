//! `dayfly completion SHELL`: source it, or put it where the shell looks.

use super::Cli;
use super::output::{Failure, Output};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Which shell.
    shell: Shell,
}

pub fn completion(args: &CompletionArgs, output: &Output) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dayfly", &mut script);
    output.line(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
