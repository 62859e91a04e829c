//! One exchange, from the agent's side: prove, sign the intent, ask.

use super::proof::{Prover, read_token};
use super::{Client, ClientError};
use crate::authority::AuthorizationDetail;
use crate::clock::Clock;
use crate::secret::Secret;
use crate::wire::{CLIENT_CREDENTIALS, Retry, TOKEN_EXCHANGE, TokenResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;
use time::OffsetDateTime;

/// How long a signed intent may be used.
const INTENT_LIFETIME_SECONDS: i64 = 120;

/// Seconds between two tries, where the broker says none.
const LEAST_INTERVAL: u64 = 5;

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What the agent wants, and why.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub mission: String,
    pub target: String,
    /// Empty: all that the mission grants on this target.
    pub authorization_details: Vec<AuthorizationDetail>,
    pub goal: String,
    pub task: Option<String>,
    pub instance: Option<String>,
    /// The agent's name: the broker compares it with the proof.
    pub agent: String,
    /// Declared facts (`tctx`).
    pub context: Map<String, Value>,
    /// Files with signed evidence, read anew for each request: it lives for an hour at most.
    pub evidence: Vec<PathBuf>,
    /// The platform's token serves as the intent: for missions with `signer = "platform"`.
    pub platform_signed: bool,
    /// A file with the token of whom the agent acts for, or with the credential that was handed to it.
    pub on_behalf_of: Option<PathBuf>,
}

/// The claims of an intent (`intent+jwt`), ready to be signed.
pub fn intent_claims(
    wanted: &Wanted,
    broker: &str,
    thumbprint: &str,
    subject_token: Option<&Secret<String>>,
    now: OffsetDateTime,
) -> Value {
    let issued = now.unix_timestamp();
    let mut claims = json!({
        "iss": wanted.agent,
        "sub": wanted.agent,
        "client_id": wanted.agent,
        "aud": broker,
        "iat": issued,
        "exp": issued + INTENT_LIFETIME_SECONDS,
        "jti": crate::ids::draw_uuid(),
        "mission": { "id": wanted.mission },
        "intent": { "goal": wanted.goal },
        "cnf": { "jkt": thumbprint },
    });
    let mut tell = |name: &str, value: Value| {
        if let Value::Object(members) = &mut claims {
            members.insert(name.to_owned(), value);
        }
    };
    if !wanted.authorization_details.is_empty() {
        tell("authorization_details", json!(wanted.authorization_details));
    }
    if let Some(task) = &wanted.task {
        tell("txn", json!(task));
    }
    if let Some(instance) = &wanted.instance {
        tell("instance", json!(instance));
    }
    if !wanted.context.is_empty() {
        tell("tctx", json!(wanted.context));
    }
    if let Some(token) = subject_token {
        tell("subject_token_hash", json!(hash(token)));
    }
    claims
}

fn hash(token: &Secret<String>) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, token.expose().as_bytes()))
}

/// RFC 8693 section 2.1: whom it is for becomes the subject, and the agent's own token the actor.
fn serve(form: &mut Vec<(&'static str, String)>, subject: &Secret<String>) {
    for (name, _) in form.iter_mut() {
        match *name {
            "subject_token" => *name = "actor_token",
            "subject_token_type" => *name = "actor_token_type",
            _ => {}
        }
    }
    // The broker goes by what a token is, whatever it is called.
    form.push(("subject_token", subject.expose().clone()));
    form.push(("subject_token_type", ACCESS_TOKEN.to_owned()));
}

/// Asks until people who have to approve it have decided, for as long as it waits for them or `patience`
/// lasts. Each time with a new proof and a new intent.
pub async fn ask_people(
    client: &Client,
    prover: &Prover,
    wanted: &Wanted,
    (clock, patience): (&dyn Clock, Option<Duration>),
    notice: &(dyn Fn(&str) + Sync),
) -> Result<TokenResponse, ClientError> {
    let mut gives_up: Option<Duration> = None;
    loop {
        let answer = ask(client, prover, wanted, clock.now()).await;
        let now = clock.since_boot();
        let interval = match &answer {
            Err(ClientError::Refused { body, .. }) if body.retry == Retry::Approve => {
                let interval = Duration::from_secs(body.interval.unwrap_or(LEAST_INTERVAL));
                if gives_up.is_none() {
                    let waits = Duration::from_secs(body.expires_in.unwrap_or(0));
                    let waits = patience.map_or(waits, |patience| patience.min(waits));
                    gives_up = Some(now.saturating_add(waits));
                    let id = body.deferral_code.as_deref().unwrap_or_default();
                    let (target, seconds) = (&wanted.target, waits.as_secs());
                    if seconds > 0 {
                        notice(&format!(
                            "{target}: waits for people to approve {id}, for {seconds} s at most"
                        ));
                    }
                }
                interval
            }
            // Once people are asked, what passes is waited for, too.
            Err(error) if gives_up.is_some() && error.is_passing() => {
                let after = match error {
                    ClientError::Refused { retry_after, .. } => retry_after.unwrap_or(0),
                    _ => 0,
                };
                Duration::from_secs(after.max(LEAST_INTERVAL))
            }
            _ => return answer,
        };
        if gives_up.is_none_or(|end| now.saturating_add(interval) > end) {
            return answer;
        }
        tokio::time::sleep(interval.max(Duration::from_secs(1))).await;
    }
}

/// Asks once. A refused request burns nothing, so asking again with a new intent is safe.
pub async fn ask(
    client: &Client,
    prover: &Prover,
    wanted: &Wanted,
    now: OffsetDateTime,
) -> Result<TokenResponse, ClientError> {
    let form = form(client.broker(), prover, wanted, now).await?;
    client.token(&form).await
}

/// The token request: the proof, and an intent signed for it.
pub async fn form(
    broker: &str,
    prover: &Prover,
    wanted: &Wanted,
    now: OffsetDateTime,
) -> Result<Vec<(&'static str, String)>, ClientError> {
    let (mut form, own_token) = prover.fields(broker, now).await?;
    let served = match &wanted.on_behalf_of {
        Some(path) => Some(read_token(path).await?),
        None => None,
    };
    if let Some(token) = &served {
        serve(&mut form, token);
    }
    form.push(("audience", wanted.target.clone()));
    let grant = if served.is_some() || own_token.is_some() {
        TOKEN_EXCHANGE
    } else {
        CLIENT_CREDENTIALS
    };
    form.push(("grant_type", grant.to_owned()));
    if wanted.platform_signed {
        form.push(("scope", format!("mission:{}", wanted.mission)));
        if !wanted.authorization_details.is_empty() {
            let details = json!(wanted.authorization_details).to_string();
            form.push(("authorization_details", details));
        }
        return Ok(form);
    }
    let thumbprint = prover.key().thumbprint().to_owned();
    let subject_token = served.as_ref().or(own_token.as_ref());
    let mut claims = intent_claims(wanted, broker, &thumbprint, subject_token, now);
    if let (Some(_), Some(own), Value::Object(members)) = (&served, &own_token, &mut claims) {
        members.insert("actor_token_hash".to_owned(), json!(hash(own)));
    }
    carry(&wanted.evidence, &mut claims).await?;
    let intent = prover
        .key()
        // The header carries the key: a token, or the registry, vouches for its thumbprint.
        .sign("intent+jwt", Some(&thumbprint), &claims, true)
        .map_err(|error| ClientError::Local(format!("the intent cannot be signed: {error}")))?;
    form.push(("intent", intent));
    Ok(form)
}

/// Evidence goes into `tctx`, whose signer is the one who carries it.
async fn carry(files: &[PathBuf], claims: &mut Value) -> Result<(), ClientError> {
    if files.is_empty() {
        return Ok(());
    }
    let mut pieces = Vec::new();
    for path in files {
        let text = tokio::fs::read_to_string(path).await.map_err(|error| {
            let path = path.display();
            ClientError::Local(format!("the evidence {path} cannot be read: {error}"))
        })?;
        pieces.push(text.trim().to_owned());
    }
    if let Value::Object(members) = claims {
        let context = members.entry("tctx").or_insert_with(|| json!({}));
        if let Value::Object(context) = context {
            context.insert("evidence".to_owned(), json!(pieces));
        }
    }
    Ok(())
}
