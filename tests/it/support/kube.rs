//! A Kubernetes API server as far as TokenReview goes: it issues projected tokens, deletes pods and
//! accounts, and answers as `kube-apiserver` does, down to the status codes of its refusals.

use super::issuer::Issuer;
use super::tokens;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use dayfly::http::{Bound, ListenSettings, TlsFiles};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

pub struct Cluster {
    pub url: String,
    /// Signs the tokens; serves discovery and keys to everybody, as a managed cluster's issuer does.
    pub issuer: Arc<Issuer>,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    issuer: Arc<Issuer>,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the broker, which may create TokenReviews.
    reviewer: String,
    issued: HashMap<String, Value>,
    deleted: Vec<String>,
    reviews: usize,
    /// Said instead of an answer.
    instead: Option<(u16, String)>,
    /// Does this to each answer.
    spoil: Option<fn(&mut Value)>,
}

impl Cluster {
    /// Over plain http on loopback.
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// Over TLS, with this certificate.
    pub async fn with(tls: Option<TlsFiles>) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listen = ListenSettings {
            tls,
            ..ListenSettings::on("127.0.0.1:0".parse().unwrap())
        };
        let bound = Bound::bind(listen).await.unwrap();
        let url = format!("{scheme}://localhost:{}", bound.address().port());
        let issuer = Arc::new(Issuer::start().await);
        let shared = Arc::new(Shared {
            issuer: issuer.clone(),
            state: Mutex::default(),
        });
        shared.state.lock().unwrap().reviewer = "broker-token-1".to_owned();
        let router = Router::new()
            .route(PATH, any(review))
            .route("/openid/v1/jwks", get(keys))
            .fallback(|| async { failure(StatusCode::NOT_FOUND, "NotFound") })
            .with_state(shared.clone());
        let server = tokio::spawn(bound.serve(router, std::future::pending()));
        Self {
            url,
            issuer,
            shared,
            server,
        }
    }

    /// A projected token for the audience, of the pod and the account that these claims name.
    pub fn issue(&self, claims: &Value) -> String {
        let token = self.issuer.sign(claims);
        let mut state = self.shared.state.lock().unwrap();
        state.issued.insert(token.clone(), claims.clone());
        token
    }

    pub fn claims(&self, now: i64, audience: &str) -> Value {
        tokens::kubernetes(now, &self.issuer.url, audience)
    }

    /// A pod or an account is gone, by its uid.
    pub fn delete(&self, uid: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state.deleted.push(uid.to_owned());
    }

    /// The broker's own token from now on.
    pub fn renew_reviewer(&self, token: &str) {
        self.shared.state.lock().unwrap().reviewer = token.to_owned();
    }

    pub fn says_instead(&self, answer: Option<(u16, &str)>) {
        let answer = answer.map(|(status, text)| (status, text.to_owned()));
        self.shared.state.lock().unwrap().instead = answer;
    }

    pub fn spoils(&self, spoil: fn(&mut Value)) {
        self.shared.state.lock().unwrap().spoil = Some(spoil);
    }

    pub fn reviews(&self) -> usize {
        self.shared.state.lock().unwrap().reviews
    }

    pub fn stop(&self) {
        self.server.abort();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn failure(status: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}

/// The account issuer's keys, for whoever is known: strangers have no access to them by default.
async fn keys(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let state = shared.state.lock().unwrap();
    let bearer = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    if bearer != Some(&format!("Bearer {}", state.reviewer)) {
        return failure(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let body = json!({ "keys": [shared.issuer.key().public_jwk()] }).to_string();
    ([("content-type", "application/jwk-set+json")], body).into_response()
}

async fn review(
    State(shared): State<Arc<Shared>>,
    method: axum::http::Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut state = shared.state.lock().unwrap();
    state.reviews += 1;
    if let Some((status, text)) = &state.instead {
        let status = StatusCode::from_u16(*status).unwrap();
        return (status, text.clone()).into_response();
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match header("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) if token == state.reviewer => {}
        Some("no-rights") => return failure(StatusCode::FORBIDDEN, "Forbidden"),
        _ => return failure(StatusCode::UNAUTHORIZED, "Unauthorized"),
    }
    if method != axum::http::Method::POST {
        return failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed");
    }
    if header("content-type") != Some("application/json") {
        return failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType");
    }
    let asked: Value = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(_) => return failure(StatusCode::BAD_REQUEST, "BadRequest"),
    };
    let token = asked["spec"]["token"].as_str().unwrap_or_default();
    if asked["kind"] != "TokenReview"
        || asked["apiVersion"] != "authentication.k8s.io/v1"
        || token.is_empty()
    {
        return failure(StatusCode::BAD_REQUEST, "BadRequest");
    }
    let mut answer = asked.clone();
    answer["metadata"] = json!({ "creationTimestamp": null });
    answer["status"] = state.status(token, &asked["spec"]["audiences"]);
    if let Some(spoil) = state.spoil {
        spoil(&mut answer);
    }
    (StatusCode::CREATED, Json(answer)).into_response()
}

impl Known {
    fn status(&self, token: &str, audiences: &Value) -> Value {
        let no =
            |why: &str| json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") });
        let Some(claims) = self.issued.get(token) else {
            return no("unknown");
        };
        let own = &claims["kubernetes.io"];
        for part in ["pod", "serviceaccount"] {
            let uid = own[part]["uid"].as_str().unwrap();
            if self.deleted.iter().any(|gone| gone == uid) {
                return no("service account token has been invalidated");
            }
        }
        let mine: Vec<&Value> = claims["aud"].as_array().unwrap().iter().collect();
        let shared: Vec<&Value> = audiences
            .as_array()
            .into_iter()
            .flatten()
            .filter(|asked| mine.contains(asked))
            .collect();
        if shared.is_empty() {
            return no("token audiences are invalid");
        }
        let namespace = own["namespace"].as_str().unwrap();
        json!({
            "authenticated": true,
            "user": {
                "username": claims["sub"],
                "uid": own["serviceaccount"]["uid"],
                "groups": [
                    "system:serviceaccounts",
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated",
                ],
                "extra": {
                    "authentication.kubernetes.io/credential-id": [format!("JTI={}", claims["jti"].as_str().unwrap())],
                    "authentication.kubernetes.io/node-name": [own["node"]["name"]],
                    "authentication.kubernetes.io/node-uid": [own["node"]["uid"]],
                    "authentication.kubernetes.io/pod-name": [own["pod"]["name"]],
                    "authentication.kubernetes.io/pod-uid": [own["pod"]["uid"]],
                },
            },
            "audiences": shared,
        })
    }
}
