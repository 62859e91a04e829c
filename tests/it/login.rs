//! `dayfly login` at an OpenID provider that checks everything, with the test in the browser's place;
//! then what the token that it stored may do.

mod person;

use crate::cli::{Done, dayfly};
use crate::support::broker::{Setup, TestBroker, b64, sha256, unique};
use crate::support::process::now;
use axum::extract::{Form, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

const CLIENT: &str = "dayfly-cli";

type Fields = HashMap<String, String>;

/// A provider that gives a code once, to the client, redirect and challenge it was asked with.
struct Provider {
    url: String,
    /// What its discovery document says it is.
    says: String,
    key: SigningKey,
    group: &'static str,
    denies: bool,
    drops_nonces: AtomicBool,
    /// Others come to the callback first.
    crowded: AtomicBool,
    codes: Mutex<HashMap<String, Fields>>,
}

impl Provider {
    async fn start(group: &'static str, denies: bool, lie: Option<&str>) -> Arc<Self> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let provider = Arc::new(Self {
            says: lie.unwrap_or(&url).to_owned(),
            url,
            key: SigningKey::generate(Algorithm::Rs256)
                .unwrap()
                .named_by_thumbprint(),
            group,
            denies,
            drops_nonces: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            codes: Mutex::default(),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/jwks", get(jwks))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        provider
    }

    /// A broker whose operators sign in here.
    async fn broker(&self) -> TestBroker {
        let more = format!(
            r#"
[operators]
issuer = "{}"
audience = "{CLIENT}"
algorithms = ["RS256"]
roles = [
  {{ role = "viewer", claims = {{ groups = "readers" }} }},
  {{ role = "operator", claims = {{ groups = "on-call" }} }},
]
"#,
            self.url
        );
        TestBroker::with(Setup {
            more,
            ..Setup::default()
        })
        .await
    }

    /// Signs in. `browser` is given where the provider sends it, and says where it goes instead.
    async fn login(&self, state: &str, browser: impl Fn(String) -> String) -> Done {
        self.login_as(&[], state, browser).await
    }

    async fn login_as(
        &self,
        more: &[&str],
        state: &str,
        browser: impl Fn(String) -> String,
    ) -> Done {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
            .args(["login", "--issuer", &self.url, "--client-id", CLIENT])
            .args(more)
            .env_clear()
            .env("XDG_STATE_HOME", state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut err = String::new();
        let http = dayfly::client::http_client().unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            err.push_str(&line);
            err.push('\n');
            if let Some(at) = line.find(&format!("{}/authorize", self.url)) {
                let answer = http.get(&line[at..]).send().await.unwrap();
                assert_eq!(answer.status(), 303, "{}", answer.text().await.unwrap());
                let to = answer.headers()["location"].to_str().unwrap().to_owned();
                if self.crowded.load(Ordering::SeqCst) {
                    let (place, state) = to.split_once('?').unwrap();
                    let state = state.split_once("&state=").unwrap().1;
                    for others in [
                        format!("code=theirs&state=x{state}"),
                        format!("error=access_denied&state=x{state}"),
                        "code=theirs".to_owned(),
                        format!("code=theirs&state={state}&state={state}"),
                    ] {
                        let page = http.get(format!("{place}?{others}")).send().await.unwrap();
                        assert_eq!(page.status(), 400, "{others}");
                    }
                }
                let page = http.get(browser(to)).send().await.unwrap();
                assert_eq!(page.status(), 200);
            }
        }
        let mut out = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut out).await.unwrap();
        let code = child.wait().await.unwrap().code().unwrap_or(-1);
        Done { code, out, err }
    }
}

async fn discovery(State(provider): State<Arc<Provider>>) -> Json<Value> {
    let url = &provider.url;
    Json(json!({
        "issuer": provider.says, "jwks_uri": format!("{url}/jwks"),
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
}

async fn jwks(State(provider): State<Arc<Provider>>) -> Json<Value> {
    Json(json!({ "keys": [provider.key.public_jwk()] }))
}

async fn authorize(
    State(provider): State<Arc<Provider>>,
    Query(asked): Query<Fields>,
) -> axum::response::Response {
    let is = |name: &str, value: &str| asked.get(name).is_some_and(|told| told == value);
    let redirect = asked.get("redirect_uri").cloned().unwrap_or_default();
    let fine = is("response_type", "code")
        && is("client_id", CLIENT)
        && is("code_challenge_method", "S256")
        && asked
            .get("scope")
            .is_some_and(|text| text.contains("openid"))
        && redirect.starts_with("http://127.0.0.1:");
    let (Some(state), true) = (asked.get("state"), fine) else {
        return (StatusCode::BAD_REQUEST, format!("{asked:?}")).into_response();
    };
    let to = if provider.denies {
        format!("{redirect}?error=access_denied&state={state}")
    } else {
        let code = unique();
        let to = format!("{redirect}?code={code}&state={state}");
        provider.codes.lock().unwrap().insert(code, asked.clone());
        to
    };
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

async fn token(
    State(provider): State<Arc<Provider>>,
    Form(given): Form<Fields>,
) -> (StatusCode, Json<Value>) {
    let field = |name: &str| given.get(name).cloned().unwrap_or_default();
    // Taken out: a code is good once.
    let asked = provider.codes.lock().unwrap().remove(&field("code"));
    let fine = asked.as_ref().is_some_and(|asked| {
        field("grant_type") == "authorization_code"
            && field("redirect_uri") == asked["redirect_uri"]
            && field("client_id") == CLIENT
            && b64(&sha256(field("code_verifier").as_bytes())) == asked["code_challenge"]
    });
    if !fine {
        let body = json!({ "error": "invalid_grant" });
        return (StatusCode::BAD_REQUEST, Json(body));
    }
    let mut claims = json!({
        "iss": provider.url, "sub": "olga", "aud": CLIENT, "jti": unique(), "sid": "session-1",
        "iat": now(), "exp": now() + 300, "groups": [provider.group],
    });
    // OpenID Connect Core section 2: unchanged.
    if let Some(nonce) = asked.and_then(|asked| asked.get("nonce").cloned())
        && !provider.drops_nonces.load(Ordering::SeqCst)
    {
        claims["nonce"] = json!(nonce);
    }
    let key = &provider.key;
    let id = key
        .sign("JWT", key.verifying().kid(), &claims, false)
        .unwrap();
    let body = json!({ "access_token": unique(), "token_type": "Bearer", "id_token": id });
    (StatusCode::OK, Json(body))
}

async fn as_signed_in(broker: &TestBroker, state: &str, arguments: &[&str]) -> Done {
    let environment = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("XDG_STATE_HOME", state),
    ];
    dayfly(arguments, &environment, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_may_do_what_the_role_allows_and_no_more() {
    let provider = Provider::start("readers", false, None).await;
    let broker = provider.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let done = provider.login(state, |to| to).await;
    done.is(0);
    let file = folder.path().join("dayfly/operator-token");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stored = std::fs::read_to_string(&file).unwrap();
    assert!(!done.err.contains(stored.trim()) && !done.out.contains(stored.trim()));

    as_signed_in(&broker, state, &["lease", "list"]).await.is(0);
    let revoke = ["revoke", "--agent", "deployer"];
    as_signed_in(&broker, state, &revoke).await.is(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_signed_in_revokes() {
    let provider = Provider::start("on-call", false, None).await;
    let broker = provider.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    provider.login(state, |to| to).await.is(0);
    let issued = broker.issue().await;
    let revoke = ["revoke", "--agent", "deployer"];
    as_signed_in(&broker, state, &revoke).await.is(0);
    let token = issued["access_token"].as_str().unwrap();
    assert!(!broker.is_active(token).await);
    as_signed_in(&broker, state, &["key", "rotate"]).await.is(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_goes_wrong_stores_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let provider = Provider::start("on-call", false, None).await;
    let wrong_code = |to: String| to.replace("?code=", "?code=x");
    provider.login(state, wrong_code).await.is(4);

    let provider = Provider::start("on-call", true, None).await;
    let done = provider.login(state, |to| to).await;
    assert!(done.is(4).err.contains("access_denied"), "{done:?}");

    let provider = Provider::start("on-call", false, Some("https://else.example")).await;
    let done = provider.login(state, |to| to).await;
    assert!(done.is(1).err.contains("else.example"), "{done:?}");
    assert!(!folder.path().join("dayfly/operator-token").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_with_another_state_is_turned_away_and_the_sign_in_waits_for_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let provider = Provider::start("on-call", false, None).await;
    provider.crowded.store(true, Ordering::SeqCst);
    provider.login(state, |to| to).await.is(0);
    assert!(folder.path().join("dayfly/operator-token").exists());
}
