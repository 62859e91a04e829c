//! What a pipeline's platform offers its jobs.

use super::broker::TestBroker;
use serde_json::{Value, json};

/// GitHub's token endpoint: answers whoever has the job's bearer with a token for any audience.
pub async fn github_endpoint(broker: &TestBroker) -> String {
    use axum::extract::{Query, State};
    use axum::http::{HeaderMap, StatusCode};
    use std::collections::HashMap;
    type Signer = std::sync::Arc<dyn Fn(&str) -> String + Send + Sync>;
    let issuer = broker.issuer.clone();
    let claims = broker.platform_claims();
    let sign: Signer = std::sync::Arc::new(move |audience: &str| {
        let mut claims = claims.clone();
        claims["aud"] = json!(audience);
        issuer.sign(&claims)
    });
    async fn answer(
        State(sign): State<Signer>,
        headers: HeaderMap,
        Query(query): Query<HashMap<String, String>>,
    ) -> Result<axum::Json<Value>, StatusCode> {
        if headers
            .get("authorization")
            .is_none_or(|given| given != "Bearer job-secret")
        {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let audience = query.get("audience").ok_or(StatusCode::BAD_REQUEST)?;
        Ok(axum::Json(json!({ "value": sign(audience) })))
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/token?api-version=2.0",
        listener.local_addr().unwrap()
    );
    let router = axum::Router::new()
        .route("/token", axum::routing::get(answer))
        .with_state(sign);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}
