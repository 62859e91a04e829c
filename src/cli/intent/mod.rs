//! `dayfly intent`: sign one, show one, verify one against a configuration. `token` and `exec` sign
//! theirs unseen.

mod show;
mod sign;
mod verify;

use super::agent_side::read_text;
use super::output::{Failure, Output};
use crate::identity::ClientCertificate;
use clap::Subcommand;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;

#[derive(Debug, Subcommand)]
pub enum IntentCommand {
    /// Build and sign an intent, and print it.
    ///
    /// From flags, from a file of claims, or both. The times, the `jti` and the audience are filled in; what
    /// the broker would refuse for its form is not signed. The key is read and never shown.
    #[command(
        after_help = "Example:\n  dayfly intent sign --key reporter.key.json --agent reporter --mission weekly-report \\\n    --goal 'The report of week 47' > intent.jws"
    )]
    Sign(Box<sign::SignArgs>),
    /// Decode an intent for reading. Nothing in it is verified.
    #[command(after_help = "Example:\n  dayfly intent show intent.jws")]
    Show(show::ShowArgs),
    /// Verify an intent against a configuration folder, offline, and tell each check.
    ///
    /// Exit code 0 if it would be accepted, 3 if refused, 6 where keys are needed that are fetched. Whether it
    /// was used before, what is held and what is granted only the broker knows: see `dayfly explain`.
    #[command(
        after_help = "Example:\n  dayfly intent verify --config config/example --subject-token-file token.jwt intent.jws"
    )]
    Verify(verify::VerifyArgs),
}

/// What a request will show: the certificates of a PEM file.
fn certificate(path: &Path) -> Result<ClientCertificate, Failure> {
    let pem = read_text(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.unwrap_or_default();
    let chain = found.iter().map(|der| der.to_vec()).collect();
    ClientCertificate::new(chain).ok_or_else(|| {
        let why = format!("{}: no PEM certificate, or too many", path.display());
        Failure::usage(why)
    })
}

pub async fn intent(command: IntentCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        IntentCommand::Sign(args) => sign::sign(&args, output),
        IntentCommand::Show(args) => show::show(&args, output),
        IntentCommand::Verify(args) => verify::verify(args, output).await,
    }
}
