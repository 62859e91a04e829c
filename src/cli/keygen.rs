//! `dayfly agent keygen NAME`: the private half for the agent, the public half for the configuration.

use super::output::{Failure, Output};
use crate::ids::AgentId;
use crate::jose::{Algorithm, KeySet, SigningKey};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  dayfly agent keygen reporter
  # in the configuration:
  #   [agent.reporter]
  #   identity = { client = { keys = \"file:reporter.jwks.json\" } }
  # where the agent runs:
  DAYFLY_KEY_FILE=reporter.key.json dayfly token --agent reporter --mission weekly-report \\
    --target orders --goal 'The report of week 47'")]
pub struct KeygenArgs {
    /// The agent's name.
    name: AgentId,
    /// Where NAME.key.json (private, mode 0600) and NAME.jwks.json (public) are written. What is
    /// there already is not overwritten.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// What the key signs with.
    #[arg(long, value_enum, default_value_t = KeyKind::Es256)]
    algorithm: KeyKind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KeyKind {
    /// ECDSA on P-256: every library has it.
    Es256,
    /// EdDSA on Curve25519.
    Ed25519,
}

pub fn keygen(args: &KeygenArgs, output: &Output) -> Result<u8, Failure> {
    let private_path = private_path(&args.directory, &args.name);
    let public_path = private_path.with_file_name(format!("{}.jwks.json", args.name));
    if let Some(there) = [&private_path, &public_path]
        .into_iter()
        .find(|path| path.exists())
    {
        return Err(Failure::failed(format!(
            "{} exists: nothing was written; choose another --directory",
            there.display()
        )));
    }
    let key = make_private(&private_path, args.algorithm)?;
    let public = KeySet::new(vec![key.verifying().clone()])
        .map_err(|error| Failure::failed(error.to_string()))?
        .to_jwks();
    write_new(&public_path, 0o644, &format!("{public:#}"))?;
    let value = json!({
        "private": private_path, "public": public_path, "thumbprint": key.thumbprint(),
    });
    output.show(&value, |_| {
        format!(
            "{}  the private half, for the agent alone\n{}  the public half, for the configuration",
            private_path.display(),
            public_path.display()
        )
    })?;
    Ok(0)
}

/// Where an agent's private key lies.
pub fn private_path(directory: &Path, agent: &AgentId) -> PathBuf {
    let folder = directory.strip_prefix(".").unwrap_or(directory);
    folder.join(format!("{agent}.key.json"))
}

/// A new key, called by its thumbprint, in a file of its own.
pub fn make_private(path: &Path, kind: KeyKind) -> Result<SigningKey, Failure> {
    let algorithm = match kind {
        KeyKind::Es256 => Algorithm::Es256,
        KeyKind::Ed25519 => Algorithm::Ed25519,
    };
    let key = SigningKey::generate(algorithm)
        .map_err(|error| Failure::failed(error.to_string()))?
        .named_by_thumbprint();
    // SECURITY: only its owner may read the private half, from the first moment on.
    write_new(path, 0o600, key.to_private_jwk().expose())?;
    Ok(key)
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}
