//! The demo's CI platform: an OpenID Connect issuer that gives each run a token, and says over a
//! signed webhook when the run is over.

use crate::cli::output::Failure;
use crate::jose::{Algorithm, SigningKey};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;
use time::OffsetDateTime;

#[derive(Debug)]
pub struct Platform {
    pub url: String,
    key: Arc<SigningKey>,
    server: tokio::task::JoinHandle<()>,
}

impl Platform {
    pub async fn start() -> Result<Self, Failure> {
        let key = SigningKey::generate(Algorithm::Rs256)
            .map_err(|error| Failure::failed(error.to_string()))?;
        let key = Arc::new(key.named_by_thumbprint());
        let (listener, url) = super::world::listen().await?;
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/jwks") });
        let jwks = json!({ "keys": [key.public_jwk()] });
        let answer = |body: Value| get(move || async move { Json(body) });
        let router = Router::new()
            .route("/.well-known/openid-configuration", answer(discovery))
            .route("/jwks", answer(jwks));
        let server = super::world::serve(listener, router);
        Ok(Self { url, key, server })
    }

    /// The token of a run: like GitHub's, for an audience that names the key of the asking process.
    pub fn token(&self, run: &str, audience: &str, now: OffsetDateTime) -> Result<String, Failure> {
        let issued = now.unix_timestamp();
        let claims = json!({
            "iss": self.url,
            "sub": "repo:acme@99/checkout@1234:environment:production",
            "aud": audience,
            "iat": issued, "nbf": issued, "exp": issued + 300,
            "jti": crate::ids::draw_uuid(),
            "repository": "acme/checkout", "repository_id": "1234", "repository_owner_id": "99",
            "environment": "production", "ref": "refs/heads/main", "event_name": "push",
            "sha": "8843d7f92416211de9ebb963ff4ce28125932878", "run_id": run,
        });
        self.key
            .sign("JWT", self.key.verifying().kid(), &claims, false)
            .map_err(|error| Failure::failed(error.to_string()))
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.server.abort();
    }
}
