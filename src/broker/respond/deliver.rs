//! Telling somebody: a signed webhook, or a command that is given a mail on its standard input.

use super::Message;
use crate::jose::KeyClient;
use crate::secret::Secret;
use std::process::Stdio;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;

/// For a command. A webhook has the client's own: five seconds in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// `[[notify]]`.
#[derive(Debug, Clone)]
pub struct Notify {
    pub name: String,
    pub way: Way,
}

#[derive(Debug, Clone)]
pub enum Way {
    Webhook {
        client: KeyClient,
        url: String,
        secret: Secret<String>,
    },
    /// SECURITY: its words are the configuration's own; what happened comes on standard input, so that
    /// nothing an agent chose is ever an argument.
    Command { words: Vec<String>, to: Vec<String> },
}

impl Notify {
    /// `Err`: it was not taken, and why.
    pub(super) async fn deliver(
        &self,
        message: &Message,
        now: OffsetDateTime,
    ) -> Result<(), String> {
        match &self.way {
            Way::Webhook {
                client,
                url,
                secret,
            } => post(client, url, secret, message, now).await,
            Way::Command { words, to } => {
                let told = recipients(message, to);
                // Nobody answers for it: there is nobody to tell.
                if told.is_empty() && !to.is_empty() {
                    return Ok(());
                }
                let ended = tokio::time::timeout(PATIENCE, run(words, mail(message, &told))).await;
                ended.unwrap_or_else(|_| Err("it did not end within 10 seconds".to_owned()))
            }
        }
    }
}

async fn post(
    client: &KeyClient,
    url: &str,
    secret: &Secret<String>,
    message: &Message,
    now: OffsetDateTime,
) -> Result<(), String> {
    let body = serde_json::to_string(message).map_err(|error| error.to_string())?;
    let sent = now.unix_timestamp().to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.expose().as_bytes());
    let tag = ring::hmac::sign(&key, format!("{sent}.{body}").as_bytes());
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let signature = format!("sha256={hex}");
    let headers = [
        ("content-type", "application/json"),
        ("x-dayfly-timestamp", sent.as_str()),
        ("x-dayfly-signature", signature.as_str()),
    ];
    let posted = client.post(url, &headers, body).await;
    match posted.map_err(|error| error.to_string())? {
        (200..=299, _) => Ok(()),
        (status, _) => Err(format!("answered with status {status}")),
    }
}

async fn run(words: &[String], text: String) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("there is no command")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(text.as_bytes()).await;
        written.map_err(|error| format!("{program}: {error}"))?;
    }
    let ended = child.wait().await;
    match ended.map_err(|error| format!("{program}: {error}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("{program}: {status}")),
    }
}

/// Whoever is named, and in the places of `owner` and `backup_owner` whoever answers for what it is about.
pub(super) fn recipients(message: &Message, to: &[String]) -> Vec<String> {
    // SECURITY: one address is one recipient, whatever an owner's name holds.
    let address = |text: &&String| {
        text.contains('@')
            && !text
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == ',')
    };
    let mut all: Vec<String> = Vec::new();
    for name in to {
        match name.as_str() {
            "owner" => all.extend(message.owner.iter().filter(address).cloned()),
            "backup_owner" => all.extend(message.backup_owners.iter().filter(address).cloned()),
            _ => all.push(name.clone()),
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|one| seen.insert(one.clone()));
    all
}

/// RFC 5322, as `sendmail -t` takes it.
pub(super) fn mail(message: &Message, to: &[String]) -> String {
    let what = message.reason.as_deref().unwrap_or(&message.event);
    let who = message.agent.as_deref().or(message.operator.as_deref());
    let mut text = String::new();
    if !to.is_empty() {
        text.push_str(&format!("To: {}\n", line(&to.join(", "))));
    }
    let soon = if message.soon { "soon: " } else { "" };
    let subject = match who {
        Some(who) => format!("dayfly: {soon}{what}: {who}"),
        None => format!("dayfly: {soon}{what}"),
    };
    text.push_str(&format!("Subject: {}\n", line(&subject)));
    text.push_str("Auto-Submitted: auto-generated\nContent-Type: text/plain; charset=utf-8\n\n");
    let count = message.count.to_string();
    let backup = message.backup_owners.join(", ");
    let actions = message.actions.join(", ");
    let at = message.at.to_string();
    let entry = message.entry.to_string();
    let rows = [
        ("event", Some(&message.event)),
        ("reason", message.reason.as_ref()),
        ("why", message.why.as_ref()),
        ("agent", message.agent.as_ref()),
        ("owner", message.owner.as_ref()),
        ("backup", Some(&backup).filter(|all| !all.is_empty())),
        ("mission", message.mission.as_ref()),
        ("target", message.target.as_ref()),
        ("lease", message.lease.as_ref()),
        ("by", message.operator.as_ref()),
        ("at", Some(&at)),
        ("count", Some(&count)),
        ("done", Some(&actions).filter(|actions| !actions.is_empty())),
        ("response", Some(&message.response)),
        ("audit entry", Some(&entry)),
        ("message", Some(&message.id)),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            text.push_str(&format!("{name:<12} {}\n", line(value)));
        }
    }
    text
}

/// SECURITY: on one line, or a reason could add a header or a recipient.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(500).collect()
}
