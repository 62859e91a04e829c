//! A lease dies with its context: signed webhooks and the operators' API say that a pipeline run,
//! or anything else a lease hangs on, is over.
//!
//! GitHub: "Validating webhook deliveries" (`X-Hub-Signature-256`). GitLab: a signing token (Standard
//! Webhooks), or the older `X-Gitlab-Token`, which is a password and signs nothing. Generic: HMAC-SHA-256 over `timestamp.body`.

mod standard;

pub use standard::{SigningSecret, id as signed_id};

use super::watched::Asking;
use super::{Broker, Reason, Refusal, heard, leavers};
use crate::fences::{By, Dimension, FenceKind, LONGEST_LIFETIME, NewFence};
use crate::identity::Facts;
use crate::policy::contexts;
use crate::secret::Secret;
use crate::wire::{EndContextRequest, RevocationReceipt, Selector};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

/// How far the clock of a webhook's sender may be off.
const TIMESTAMP_WINDOW: Duration = Duration::minutes(5);

/// What hangs on one job, and not on the whole run.
const JOB: &str = "pipeline.job_id";

/// `[source.NAME]`: who may say that a context has ended, and which.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    pub name: String,
    pub kind: SourceKind,
    pub secret: Secret<String>,
    /// The issuer whose facts it speaks about.
    pub issuer_url: String,
    /// Repository or project ids whose runs it may end; for `Generic`, the kinds of context.
    pub may_end: Vec<String>,
    /// Where it can be asked.
    pub asking: Option<Asking>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    Github,
    Gitlab,
    Generic,
    /// A SCIM user who is not active any more: an owner has left.
    Scim,
    /// `[facts.NAME]`: it tells facts, and ends what hung on those that are no more.
    Facts,
}

impl Broker {
    /// The end of a context is a hold, kept as long as a bootstrap token, an intent or a parent of
    /// that context can live: an end that beats the exchange is not lost. Idempotent.
    pub async fn end_context(
        &self,
        by: &str,
        request: EndContextRequest,
    ) -> Result<RevocationReceipt, Refusal> {
        let now = self.clock.now();
        let (fence, selector) = end_of((by, By::Operator), request, now);
        self.fence(fence, selector, now).await
    }

    /// `POST /hooks/{source}`.
    pub async fn webhook(
        &self,
        source: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let bundle = self.bundle.load_full();
        let known = bundle.sources.iter().find(|known| known.name == source);
        let unknown = || Refusal::new(Reason::NotAuthenticated, "unknown source or bad signature");
        let known = known.ok_or_else(unknown)?;
        if !is_authentic(known, headers, body, self.clock.now()) {
            return Err(unknown());
        }
        if known.kind == SourceKind::Facts {
            self.facts_told(&bundle, known, (headers, body)).await?;
            return self.acknowledged().await;
        }
        let mark = heard::mark(known, headers, body, self.clock.now());
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(Reason::MalformedRequest, error.to_string()).exact())?;
        if known.kind == SourceKind::Scim {
            return self.owner_changed(&bundle, known, &body).await;
        }
        let mut is_sure = true;
        for (kind, id) in ended(known, headers, &body)? {
            let request = EndContextRequest {
                issuer: known.issuer_url.clone(),
                kind,
                id,
                reason: None,
            };
            is_sure &= self.source_ended(known, request, mark.as_ref()).await?;
        }
        // INVARIANT: success is said of what no failover brings back. Whoever is told "later" may send it again;
        // that GitHub does not, is what `poll` is for.
        if is_sure {
            return Ok(());
        }
        self.acknowledged().await
    }
}

/// A hold for as long as anything lives that may hang on it, and what it is told by.
pub(in crate::broker) fn end_of(
    (author, by): (&str, By),
    request: EndContextRequest,
    now: OffsetDateTime,
) -> (NewFence, Selector) {
    let EndContextRequest {
        issuer,
        kind,
        id,
        reason,
    } = request;
    let why = reason.unwrap_or_else(|| format!("{kind} ended"));
    let fence = NewFence::new(
        FenceKind::Hold,
        Dimension::context(&issuer, &kind, &id),
        author,
        &why,
    );
    let fence = fence.by(by).until(now + LONGEST_LIFETIME);
    (fence, Selector::Context { issuer, kind, id })
}

fn is_authentic(
    source: &SourceSettings,
    headers: &HeaderMap,
    body: &[u8],
    now: OffsetDateTime,
) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, source.secret.expose().as_bytes());
    match source.kind {
        SourceKind::Github => header("x-hub-signature-256")
            .and_then(|text| text.strip_prefix("sha256="))
            .and_then(unhex)
            .is_some_and(|tag| ring::hmac::verify(&key, body, &tag).is_ok()),
        SourceKind::Gitlab => match SigningSecret::of(&source.secret) {
            // SECURITY: where messages are signed, the secret itself is no proof.
            Some(secret) => secret.is_ok_and(|secret| secret.signed(headers, body, now)),
            None => header("x-gitlab-token").is_some_and(|token| {
                token
                    .as_bytes()
                    .ct_eq(source.secret.expose().as_bytes())
                    .into()
            }),
        },
        SourceKind::Scim => leavers::is_authentic(source, headers),
        SourceKind::Generic | SourceKind::Facts => {
            let Some(timestamp) = header("x-dayfly-timestamp") else {
                return false;
            };
            let Ok(seconds) = timestamp.parse::<i64>() else {
                return false;
            };
            let Ok(sent) = OffsetDateTime::from_unix_timestamp(seconds) else {
                return false;
            };
            let signed = [timestamp.as_bytes(), b".", body].concat();
            (now - sent).abs() <= TIMESTAMP_WINDOW
                && header("x-dayfly-signature")
                    .and_then(|text| text.strip_prefix("sha256="))
                    .and_then(unhex)
                    .is_some_and(|tag| ring::hmac::verify(&key, &signed, &tag).is_ok())
        }
    }
}

/// The contexts (kind, id) that this message ends. Other messages are fine and end nothing.
///
/// SECURITY: the id of a run or a job carries its repository's id, and the source must be configured for
/// that repository: whoever holds one repository's webhook secret cannot end another's.
fn ended(
    source: &SourceSettings,
    headers: &HeaderMap,
    body: &Value,
) -> Result<Vec<(String, String)>, Refusal> {
    let over = match source.kind {
        SourceKind::Github => over_at_github(headers, body),
        SourceKind::Gitlab => over_at_gitlab(body),
        // Handled before: it ends no context.
        SourceKind::Scim | SourceKind::Facts => None,
        SourceKind::Generic => {
            let (kind, id) = (text(body, "/kind"), text(body, "/id"));
            if kind.is_empty() || id.is_empty() {
                let problem = "expected {\"kind\": ..., \"id\": ...}";
                return Err(Refusal::new(Reason::MalformedRequest, problem).exact());
            }
            return allowed(source, &kind).map(|()| vec![(kind, id)]);
        }
    };
    let Some(Over { tether, facts }) = over else {
        return Ok(Vec::new());
    };
    let owner = facts.get("pipeline.repository_id").map(plain);
    allowed(source, &owner.unwrap_or_default())?;
    // The narrowest: the end of one attempt must not refuse the next attempt of the same run.
    let found = contexts(tether, &facts).map_err(|missing| {
        Refusal::new(
            Reason::MalformedRequest,
            format!("the message lacks {missing}"),
        )
        .exact()
    })?;
    Ok(found.into_iter().next_back().into_iter().collect())
}

/// What is over: the tether that a lease hung on it by, and its facts as the platform's tokens prove them.
struct Over {
    tether: &'static str,
    facts: Facts,
}

impl Over {
    fn new(tether: &'static str, facts: &[(&str, String)]) -> Self {
        let named = facts.iter();
        let named = named.map(|(name, value)| (format!("pipeline.{name}"), json!(value)));
        let facts = named.collect();
        Self { tether, facts }
    }
}

/// "Webhook events and payloads": `workflow_run` and `workflow_job`, of which `completed` is the last action.
fn over_at_github(headers: &HeaderMap, body: &Value) -> Option<Over> {
    let event = headers.get("x-github-event")?.to_str().ok()?;
    if text(body, "/action") != "completed" {
        return None;
    }
    let repository = ("repository_id", text(body, "/repository/id"));
    match event {
        "workflow_run" => {
            let run = ("run_id", text(body, "/workflow_run/id"));
            let attempt = ("run_attempt", text(body, "/workflow_run/run_attempt"));
            Some(Over::new("pipeline", &[repository, run, attempt]))
        }
        "workflow_job" => {
            // The token's claim is `check_run_id`. A job's own id is the same number today; where the message
            // says which check run it is, that is what was proved.
            let check = text(body, "/workflow_job/check_run_url");
            let check = check.rsplit_once("/check-runs/").map(|(_, id)| id);
            let job = check.map_or_else(|| text(body, "/workflow_job/id"), str::to_owned);
            Some(Over::new(JOB, &[repository, ("job_id", job)]))
        }
        _ => None,
    }
}

/// "Webhook events": pipeline events, and job events, which still call a job a build.
fn over_at_gitlab(body: &Value) -> Option<Over> {
    let is_over = |at: &str| {
        let status = text(body, at);
        ["success", "failed", "canceled", "skipped"].contains(&status.as_str())
    };
    match &*text(body, "/object_kind") {
        "pipeline" if is_over("/object_attributes/status") => {
            let project = ("repository_id", text(body, "/project/id"));
            let run = ("run_id", text(body, "/object_attributes/id"));
            Some(Over::new("pipeline", &[project, run]))
        }
        "build" if is_over("/build_status") => {
            let project = ("repository_id", text(body, "/project_id"));
            let job = ("job_id", text(body, "/build_id"));
            Some(Over::new(JOB, &[project, job]))
        }
        _ => None,
    }
}

pub(in crate::broker) fn allowed(source: &SourceSettings, what: &str) -> Result<(), Refusal> {
    if source.may_end.iter().any(|allowed| allowed == what) {
        return Ok(());
    }
    let problem = format!("source {} may not end contexts of `{what}`", source.name);
    Err(Refusal::new(Reason::NotPermitted, problem))
}

fn text(body: &Value, pointer: &str) -> String {
    body.pointer(pointer).map(plain).unwrap_or_default()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    // Digits alone: `from_str_radix` reads `+a` as well.
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digits || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| {
            text.get(at..at + 2)
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect()
}
