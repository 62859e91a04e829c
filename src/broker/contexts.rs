//! A lease dies with its context: signed webhooks and the operators' API say that a pipeline run,
//! or anything else a lease hangs on, is over.
//!
//! GitHub: "Validating webhook deliveries" (`X-Hub-Signature-256`). GitLab: `X-Gitlab-Token`.
//! Generic: HMAC-SHA-256 over `timestamp.body`.

use super::{Broker, Reason, Refusal, leavers};
use crate::fences::{By, Dimension, FenceKind, LONGEST_LIFETIME, NewFence};
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
        self.context_ended((by, By::Operator), request).await
    }

    async fn context_ended(
        &self,
        (author, by): (&str, By),
        request: EndContextRequest,
    ) -> Result<RevocationReceipt, Refusal> {
        let now = self.clock.now();
        let dimension = Dimension::context(&request.issuer, &request.kind, &request.id);
        let why = request.reason;
        let why = why.unwrap_or_else(|| format!("{} ended", request.kind));
        let fence = NewFence::new(FenceKind::Hold, dimension, author, &why)
            .by(by)
            .until(now + LONGEST_LIFETIME);
        let selector = selector(&request.issuer, &request.kind, &request.id);
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
            return self.facts_told(&bundle, known, (headers, body)).await;
        }
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(Reason::MalformedRequest, error.to_string()).exact())?;
        if known.kind == SourceKind::Scim {
            return self.owner_changed(&bundle, known, &body).await;
        }
        for (kind, id) in ended(known, headers, &body)? {
            // A message that comes again says nothing new, and the log is not for repeating.
            let context = Dimension::context(&known.issuer_url, &kind, &id);
            // On a stale view it is said once more: the platform does not deliver a second time.
            let view = self.view();
            if view.is_ok_and(|view| view.held(&[context.hash()]).is_some()) {
                continue;
            }
            let issuer = known.issuer_url.clone();
            let request = EndContextRequest {
                issuer,
                kind,
                id,
                reason: None,
            };
            self.context_ended((&format!("source {source}"), By::Source), request)
                .await?;
        }
        Ok(())
    }
}

fn selector(issuer: &str, kind: &str, id: &str) -> Selector {
    Selector::Context {
        issuer: issuer.to_owned(),
        kind: kind.to_owned(),
        id: id.to_owned(),
    }
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
        SourceKind::Gitlab => header("x-gitlab-token").is_some_and(|token| {
            token
                .as_bytes()
                .ct_eq(source.secret.expose().as_bytes())
                .into()
        }),
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
/// SECURITY: the id of a run carries its repository's id, and the source must be configured for
/// that repository: whoever holds one repository's webhook secret cannot end another's runs.
fn ended(
    source: &SourceSettings,
    headers: &HeaderMap,
    body: &Value,
) -> Result<Vec<(String, String)>, Refusal> {
    let text = |pointer: &str| body.pointer(pointer).map(plain).unwrap_or_default();
    let (owner, kind, facts) = match source.kind {
        SourceKind::Github => {
            let event = headers
                .get("x-github-event")
                .and_then(|value| value.to_str().ok());
            if event != Some("workflow_run") || text("/action") != "completed" {
                return Ok(Vec::new());
            }
            let repository = text("/repository/id");
            let facts = json!({
                "pipeline.repository_id": repository,
                "pipeline.run_id": text("/workflow_run/id"),
                "pipeline.run_attempt": text("/workflow_run/run_attempt"),
            });
            (repository, "pipeline", facts)
        }
        SourceKind::Gitlab => {
            let status = text("/object_attributes/status");
            if text("/object_kind") != "pipeline"
                || !["success", "failed", "canceled", "skipped"].contains(&status.as_str())
            {
                return Ok(Vec::new());
            }
            let project = text("/project/id");
            let facts = json!({
                "pipeline.repository_id": project,
                "pipeline.run_id": text("/object_attributes/id"),
            });
            (project, "pipeline", facts)
        }
        // Handled before: it ends no context.
        SourceKind::Scim | SourceKind::Facts => return Ok(Vec::new()),
        SourceKind::Generic => {
            let kind = text("/kind");
            let id = text("/id");
            if kind.is_empty() || id.is_empty() {
                let problem = "expected {\"kind\": ..., \"id\": ...}";
                return Err(Refusal::new(Reason::MalformedRequest, problem).exact());
            }
            return allowed(source, &kind).map(|()| vec![(kind, id)]);
        }
    };
    allowed(source, &owner)?;
    let facts = facts
        .as_object()
        .map(|map| map.clone().into_iter().collect())
        .unwrap_or_default();
    // The narrowest: the end of one attempt must not refuse the next attempt of the same run.
    let found = contexts(kind, &facts).map_err(|missing| {
        Refusal::new(
            Reason::MalformedRequest,
            format!("the message lacks {missing}"),
        )
        .exact()
    })?;
    Ok(found.into_iter().next_back().into_iter().collect())
}

fn allowed(source: &SourceSettings, what: &str) -> Result<(), Refusal> {
    if source.may_end.iter().any(|allowed| allowed == what) {
        return Ok(());
    }
    let problem = format!("source {} may not end contexts of `{what}`", source.name);
    Err(Refusal::new(Reason::NotPermitted, problem))
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
