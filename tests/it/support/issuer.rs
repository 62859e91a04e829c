//! A platform on loopback: an OpenID Connect issuer with discovery and a JWKS over HTTP, whose keys
//! can be rotated and which can be switched off.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub struct Issuer {
    pub url: String,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    url: String,
    key: Mutex<Arc<SigningKey>>,
    down: AtomicBool,
    slow: AtomicBool,
    asked: AtomicU64,
}

impl Issuer {
    pub async fn start() -> Self {
        Self::with(Algorithm::Rs256).await
    }

    /// One that signs under a name that leads nowhere: for brokers that have its keys already.
    pub async fn named(url: &str) -> Self {
        let mut issuer = Self::start().await;
        url.clone_into(&mut issuer.url);
        issuer
    }

    pub async fn with(algorithm: Algorithm) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            url: url.clone(),
            key: Mutex::new(Arc::new(key(algorithm))),
            down: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            shared,
            server,
        }
    }

    pub fn key(&self) -> Arc<SigningKey> {
        self.shared.key.lock().unwrap().clone()
    }

    pub fn rotate(&self) {
        let algorithm = self.key().algorithm();
        *self.shared.key.lock().unwrap() = Arc::new(key(algorithm));
    }

    pub fn down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// Whoever asks for its keys waits for as long as this is on.
    pub fn slow(&self, slow: bool) {
        self.shared.slow.store(slow, Ordering::SeqCst);
    }

    /// How often its keys were fetched.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Signs as the platform does: `typ: JWT`, a `kid`.
    pub fn sign(&self, claims: &Value) -> String {
        let key = self.key();
        key.sign("JWT", key.verifying().kid(), claims, false)
            .unwrap()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn key(algorithm: Algorithm) -> SigningKey {
    SigningKey::generate(algorithm)
        .unwrap()
        .named_by_thumbprint()
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, StatusCode> {
    up(&shared)?;
    let url = &shared.url;
    Ok(Json(json!({
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })))
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, StatusCode> {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    while shared.slow.load(Ordering::SeqCst) {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    up(&shared)?;
    let key = shared.key.lock().unwrap().clone();
    Ok(Json(json!({ "keys": [key.public_jwk()] })))
}

fn up(shared: &Shared) -> Result<(), StatusCode> {
    if shared.down.load(Ordering::SeqCst) {
        Err(StatusCode::BAD_GATEWAY)
    } else {
        Ok(())
    }
}
