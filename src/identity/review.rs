//! The cluster's last word on a token that its keys signed (Kubernetes TokenReview).
//!
//! A signature says what was true when the token was made. Whether the pod and the account are
//! still there only the API server knows, so it is asked, after the signature: a stranger's token
//! costs no call. An answer is kept for five seconds, good or bad. No answer, no credential.

use super::settings::ReviewSettings;
use super::{Caller, IdentityError, TokenFault, audience};
use crate::jose::{KeyClient, RemoteKeys, RemoteKeysError, parse_object};
use crate::secret::{Renewed, Secret};
use serde_json::{Map, Value, json};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{Mutex, Semaphore};

/// A pod or an account that was deleted gets nothing after this, as far as the API server knows.
pub const ANSWER_KEPT: Duration = Duration::from_secs(5);
/// How long the broker's own token is used before it is read again; a kubelet renews it with
/// minutes to spare.
pub const TOKEN_KEPT: Duration = Duration::from_secs(60);
const CAPACITY: u64 = 10_000;
/// Questions under way at once.
const AT_ONCE: usize = 32;

#[derive(Debug)]
pub(super) struct Reviewer {
    client: KeyClient,
    address: String,
    token: Renewed,
    /// The broker's own token, and when it was read.
    read: Mutex<Option<(Secret<String>, OffsetDateTime)>>,
    answers: moka::sync::Cache<[u8; 32], Answered>,
    room: Semaphore,
}

/// `Err`: why the cluster does not stand by the token.
#[derive(Debug, Clone)]
struct Answered {
    at: OffsetDateTime,
    verdict: Result<(), String>,
}

impl Reviewer {
    pub(super) fn new(settings: ReviewSettings, fetcher: &KeyClient) -> Result<Self, String> {
        let client = client(&settings, fetcher)?;
        let address = below(&settings, "/apis/authentication.k8s.io/v1/tokenreviews");
        Ok(Self {
            client,
            address,
            token: settings.token,
            read: Mutex::default(),
            answers: moka::sync::Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(ANSWER_KEPT)
                .build(),
            room: Semaphore::new(AT_ONCE),
        })
    }

    /// Whether the cluster still stands by this token of this caller.
    pub(super) async fn confirm(
        &self,
        text: &str,
        accepted: &[String],
        caller: &Caller,
        now: OffsetDateTime,
    ) -> Result<(), IdentityError> {
        let known = self
            .answers
            .get(&caller.token_sha256)
            .filter(|answer| answer.at <= now && now - answer.at < ANSWER_KEPT);
        let verdict = match known {
            Some(answer) => answer.verdict,
            None => {
                let audiences = audience::accepted(&caller.claims, accepted);
                let verdict = self
                    .ask(text, &audiences, caller, now)
                    .await
                    .map_err(|why| IdentityError::Unasked {
                        issuer: caller.issuer.clone(),
                        why,
                    })?;
                let answer = Answered {
                    at: now,
                    verdict: verdict.clone(),
                };
                self.answers.insert(caller.token_sha256, answer);
                verdict
            }
        };
        verdict.map_err(|why| IdentityError::InvalidToken(TokenFault::Disowned(why)))
    }

    /// `Err`: there is no answer.
    async fn ask(
        &self,
        text: &str,
        audiences: &[&str],
        caller: &Caller,
        now: OffsetDateTime,
    ) -> Result<Result<(), String>, String> {
        let _place = self
            .room
            .try_acquire()
            .map_err(|_| "too many questions are under way".to_owned())?;
        let bearer = Secret::new(format!("Bearer {}", self.own_token(now).await?.expose()));
        let question = Secret::new(
            json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": { "token": text, "audiences": audiences },
            })
            .to_string(),
        );
        let headers = [
            ("authorization", bearer.expose().as_str()),
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        let (status, body) = self
            .client
            .post(&self.address, &headers, question.expose().clone())
            .await
            .map_err(|error: RemoteKeysError| error.to_string())?;
        match status {
            200 | 201 => {}
            401 => return Err("the API server does not know the broker's own token".to_owned()),
            403 => return Err("the broker's own token may not create TokenReviews".to_owned()),
            other => return Err(format!("the API server answered with status {other}")),
        }
        let answer = parse_object(&body)
            .ok()
            .filter(|answer| answer.get("kind").is_some_and(|kind| kind == "TokenReview"))
            .ok_or("the API server's answer is no TokenReview")?;
        let status = answer
            .get("status")
            .and_then(Value::as_object)
            .ok_or("the API server's answer has no status")?;
        Ok(judge(status, audiences, caller))
    }

    async fn own_token(&self, now: OffsetDateTime) -> Result<Secret<String>, String> {
        let mut kept = self.read.lock().await;
        if let Some((token, at)) = kept.as_ref()
            && *at <= now
            && now - *at < TOKEN_KEPT
        {
            return Ok(token.clone());
        }
        let token = self.token.read().await?;
        *kept = Some((token.clone(), now));
        Ok(token)
    }
}

/// The keys that the API server itself says it signs with: whoever may be asked about a token may be
/// asked for these, and neither is open to strangers.
pub(super) fn keys(settings: &ReviewSettings, fetcher: &KeyClient) -> Result<RemoteKeys, String> {
    let client = client(settings, fetcher)?.as_bearer(settings.token.clone());
    Ok(RemoteKeys::jwks(client, below(settings, "/openid/v1/jwks")))
}

fn client(settings: &ReviewSettings, fetcher: &KeyClient) -> Result<KeyClient, String> {
    let ca = match &settings.ca {
        Some(path) => Some(
            std::fs::read(path)
                .map_err(|error| format!("`token_review.ca` {}: {error}", path.display()))?,
        ),
        None => None,
    };
    let client = fetcher
        .to_service(ca.as_deref())
        .map_err(|error| format!("`token_review`: {error}"))?;
    client
        .check_address(&settings.url)
        .map_err(|error| format!("`token_review.url`: {error}"))?;
    Ok(client)
}

fn below(settings: &ReviewSettings, path: &str) -> String {
    format!("{}{path}", settings.url.trim_end_matches('/'))
}

/// INVARIANT: every branch that does not see exactly this caller, alive, for us, is a no.
fn judge(status: &Map<String, Value>, asked: &[&str], caller: &Caller) -> Result<(), String> {
    let said = status
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if status.get("authenticated") != Some(&Value::Bool(true)) || !said.is_empty() {
        return Err(format!("not authenticated {}", shown(said)));
    }
    // SECURITY: a server that does not know audiences would vouch for a token meant for others.
    let audiences = status.get("audiences").and_then(Value::as_array);
    let for_us = audiences
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|one| asked.contains(&one));
    if !for_us {
        return Err("the answer is for none of the audiences that were asked about".to_owned());
    }
    let user = status.get("user").and_then(Value::as_object);
    let told = |name: &str| user.and_then(|user| user.get(name)).and_then(Value::as_str);
    if told("username") != Some(caller.subject()) {
        return Err("the answer is about another user".to_owned());
    }
    let claimed = |path: &str| caller.claim(path).and_then(Value::as_str);
    if claimed("kubernetes.io.serviceaccount.uid") != told("uid") {
        return Err("the account was made anew under the same name".to_owned());
    }
    let pod = user
        .and_then(|user| {
            user.get("extra")?
                .get("authentication.kubernetes.io/pod-uid")
        })
        .and_then(|list| list.as_array()?.first()?.as_str());
    match claimed("kubernetes.io.pod.uid") {
        Some(uid) if pod != Some(uid) => Err("the answer is about another pod".to_owned()),
        _ => Ok(()),
    }
}

/// What a server said, bounded, on one line.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}
