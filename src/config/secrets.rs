//! Secrets come by reference (`env:NAME`, `file:/path`, `cmd:program argument...`), never as values.

use crate::secret::Secret;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// No secret is longer.
const MAX_BYTES: u64 = 64 * 1024;
/// How long a `cmd:` may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    #[error("a secret is a reference: write `env:NAME`, `file:/path` or `cmd:program argument`")]
    NotAReference,
    #[error("environment variable `{0}` is not set")]
    NotSet(String),
    #[error("`{path}` cannot be read: {why}")]
    File { path: String, why: String },
    #[error("`{program}` {why}")]
    Command { program: String, why: String },
    #[error("the secret of `{0}` is empty")]
    Empty(String),
    #[error("the secret of `{0}` is over 64 KiB")]
    TooLong(String),
    #[error("the secret of `{0}` is not UTF-8: encode it in base64")]
    NotText(String),
    #[error(
        "`{0}` is not a sealing key: it must be 32 random bytes in base64, such as from `openssl rand -base64 32`"
    )]
    NotASealingKey(String),
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum Reference<'a> {
    Environment(&'a str),
    File(&'a Path),
    Command(Vec<&'a str>),
}

impl<'a> Reference<'a> {
    pub fn parse(text: &'a str) -> Result<Self, SecretError> {
        let (scheme, rest) = text.split_once(':').ok_or(SecretError::NotAReference)?;
        let rest = rest.trim();
        match scheme {
            _ if rest.is_empty() => Err(SecretError::NotAReference),
            "env" => Ok(Self::Environment(rest)),
            "file" => Ok(Self::File(Path::new(rest))),
            "cmd" => Ok(Self::Command(rest.split_whitespace().collect())),
            _ => Err(SecretError::NotAReference),
        }
    }
}

/// The secret behind a reference. One newline at its end is not part of it.
pub fn secret_reference(text: &str) -> Result<Secret<String>, SecretError> {
    let bytes = match Reference::parse(text)? {
        Reference::Environment(name) => environment(name)?,
        Reference::File(path) => file(path)?,
        Reference::Command(words) => command(&words)?,
    };
    let shown = || shown(text);
    if bytes.expose().len() as u64 > MAX_BYTES {
        return Err(SecretError::TooLong(shown()));
    }
    let value = std::str::from_utf8(bytes.expose()).map_err(|_| SecretError::NotText(shown()))?;
    let value = value.strip_suffix('\n').unwrap_or(value);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Err(SecretError::Empty(shown()));
    }
    Ok(Secret::new(value.to_owned()))
}

/// The 32 bytes of a sealing key behind a reference: base64, with or without padding.
pub fn sealing_key(text: &str) -> Result<Secret<Vec<u8>>, SecretError> {
    use base64::Engine;
    let encoded = secret_reference(text)?;
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine
        .decode(encoded.expose().trim())
        .ok()
        .filter(|bytes| bytes.len() == 32)
        .map(Secret::new)
        .ok_or_else(|| SecretError::NotASealingKey(shown(text)))
}

/// For messages: a command's arguments may be secret, its name is not.
fn shown(text: &str) -> String {
    match Reference::parse(text) {
        Ok(Reference::Command(words)) => format!("cmd:{}", words.first().unwrap_or(&"")),
        Ok(_) => text.to_owned(),
        Err(_) => "?".to_owned(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads what the configuration refers to"
)]
fn environment(name: &str) -> Result<Secret<Vec<u8>>, SecretError> {
    std::env::var(name)
        .map(|value| Secret::new(value.into_bytes()))
        .map_err(|_| SecretError::NotSet(name.to_owned()))
}

fn file(path: &Path) -> Result<Secret<Vec<u8>>, SecretError> {
    let fault = |why: std::io::Error| SecretError::File {
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let file = std::fs::File::open(path).map_err(fault)?;
    if readable_by_others(&file) {
        tracing::warn!(
            path = %path.display(),
            "everyone on this machine can read this secret: chmod 600"
        );
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    Ok(Secret::new(bytes))
}

fn readable_by_others(file: &std::fs::File) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

// SECURITY: no shell. The words are split at blanks and handed on as they are.
fn command(words: &[&str]) -> Result<Secret<Vec<u8>>, SecretError> {
    let (program, arguments) = words.split_first().ok_or(SecretError::NotAReference)?;
    let fault = |why: String| SecretError::Command {
        program: (*program).to_owned(),
        why,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| fault(format!("cannot be started: {error}")))?;
    let process = rustix::process::Pid::from_child(&child);
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let output = child.stdout.take().map(|pipe| pipe.take(MAX_BYTES + 1));
        let read = output.and_then(|mut pipe| pipe.read_to_end(&mut bytes).ok());
        let ended = read.and_then(|_| child.wait().ok());
        // Nobody listens any more once patience has run out.
        let _ = send.send((Secret::new(bytes), ended));
    });
    let Ok((bytes, ended)) = receive.recv_timeout(PATIENCE) else {
        // It may have ended by itself in between.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        return Err(fault("gave no answer within 5 seconds".to_owned()));
    };
    // Output beyond the bound is never read: its size is the better message.
    let is_cut = bytes.expose().len() as u64 > MAX_BYTES;
    match ended {
        Some(status) if !status.success() && !is_cut => Err(fault(format!("ended with {status}"))),
        Some(_) => Ok(bytes),
        None => Err(fault("gave no readable answer".to_owned())),
    }
}
