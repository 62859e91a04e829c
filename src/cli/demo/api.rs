//! The demo API: a resource server that believes no token and asks the broker about each
//! (RFC 7662).

use crate::cli::output::Failure;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub struct Api {
    pub url: String,
    asks: Arc<Asks>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Asks {
    http: reqwest::Client,
    /// Where to introspect, and this API's secret there: known once the broker stands.
    broker: OnceLock<(String, String)>,
}

impl Api {
    pub async fn start() -> Result<Self, Failure> {
        let (listener, url) = super::world::listen().await?;
        let asks = Arc::new(Asks {
            http: crate::client::http_client()?,
            broker: OnceLock::new(),
        });
        let router = Router::new()
            .route("/checkout", post(deploy))
            .with_state(asks.clone());
        let server = super::world::serve(listener, router);
        Ok(Self { url, asks, server })
    }

    pub fn trust(&self, broker: &str, secret: &str) {
        // Set once, when the world is built.
        drop(
            self.asks
                .broker
                .set((format!("{broker}/introspect"), secret.to_owned())),
        );
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn deploy(State(asks): State<Arc<Asks>>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let refused = |status, why: &str| (status, Json(json!({ "error": why })));
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Bearer "));
    let (Some(token), Some((endpoint, secret))) = (token, asks.broker.get()) else {
        return refused(StatusCode::UNAUTHORIZED, "no token");
    };
    let answer = asks
        .http
        .post(endpoint)
        .basic_auth("deploy-api", Some(secret))
        .form(&[("token", token)])
        .send()
        .await;
    let said: Value = match answer {
        Ok(answer) if answer.status() == StatusCode::OK => answer.json().await.unwrap_or_default(),
        // The broker vouches for nothing now, so neither does this API.
        _ => {
            return refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "the broker does not answer",
            );
        }
    };
    if said.get("active") != Some(&Value::Bool(true)) {
        return refused(StatusCode::UNAUTHORIZED, "this token is not active");
    }
    let scope = said
        .get("scope")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !scope.split(' ').any(|one| one == "deploy:write") {
        return refused(StatusCode::FORBIDDEN, "deploy:write is needed");
    }
    (
        StatusCode::OK,
        Json(json!({ "deployed": "checkout", "by": said.get("sub"), "lease": said.get("jti") })),
    )
}
