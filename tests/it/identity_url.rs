//! Platforms that make tokens on request, each as a strict fake on loopback: `dayfly exec` binds a key
//! of the moment by the audience, wherever the token comes from.

use crate::exec::{SHORT, dayfly, run};
use crate::support::broker::{Setup, TestBroker};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::process::Command;

struct Platform {
    url: String,
    /// The audiences that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

struct Shared {
    sign: Box<dyn Fn(&str) -> String + Send + Sync>,
    broker: String,
    asked: Arc<Mutex<Vec<String>>>,
}

type Asked = (HeaderMap, HashMap<String, String>);

impl Platform {
    async fn start(broker: &TestBroker) -> Self {
        let issuer = broker.issuer.clone();
        let claims = broker.platform_claims();
        let sign = move |audience: &str| {
            let mut claims = claims.clone();
            claims["aud"] = json!(audience);
            issuer.sign(&claims)
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(Shared {
            sign: Box::new(sign),
            broker: broker.url.clone(),
            asked: asked.clone(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .route("/computeMetadata/v1/identity", get(metadata))
            .route("/oidc", get(oidc))
            .route("/fixed", get(fixed))
            .route("/moved", get(async || Redirect::temporary("/fixed")))
            .route("/endless", get(async || "x".repeat(70 * 1024)))
            .route("/page", get(async || "<html>sign in</html> please"))
            .with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Shared {
    /// Signs for exactly one audience, which is noted.
    fn token(&self, (_, query): &Asked) -> Result<String, StatusCode> {
        let audience = query.get("audience").ok_or(StatusCode::BAD_REQUEST)?;
        self.asked.lock().unwrap().push(audience.clone());
        Ok((self.sign)(audience))
    }
}

fn carries(headers: &HeaderMap, name: &str, value: &str) -> bool {
    let mut all = headers.get_all(name).iter();
    all.next().is_some_and(|given| given == value) && all.next().is_none()
}

/// As Google's metadata server: the flavor is asked for, the answer is the token alone.
async fn metadata(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, StatusCode> {
    if !carries(&headers, "metadata-flavor", "Google") || !query.contains_key("format") {
        return Err(StatusCode::FORBIDDEN);
    }
    let token = shared.token(&(headers, query))?;
    Ok(([(header::CONTENT_TYPE, "text/html")], format!("{token}\n")).into_response())
}

/// A bearer of the job's own, and an answer in JSON.
async fn oidc(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<axum::Json<Value>, StatusCode> {
    if !carries(&headers, "authorization", "Bearer job-secret") {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let token = shared.token(&(headers, query))?;
    Ok(axum::Json(
        json!({ "data": { "token": token }, "expires": 300 }),
    ))
}

/// A platform that chooses the audience itself.
async fn fixed(State(shared): State<Arc<Shared>>) -> String {
    (shared.sign)(&shared.broker)
}

async fn start() -> (TestBroker, Platform) {
    let setup = Setup {
        more: SHORT.to_owned(),
        ..Setup::default()
    };
    let broker = TestBroker::with(setup).await;
    let platform = Platform::start(&broker).await;
    (broker, platform)
}

fn exec(broker: &TestBroker, mission: &str, source: &[&str], script: &str) -> Command {
    let mut command = dayfly();
    command
        .args(["exec", "--url", &broker.url, "--agent", "deployer"])
        .args(["--mission", mission, "--target", "deploy-api"])
        .args(["--goal", "Deploy"])
        .args(source)
        .args(["--", "sh", "-c", script]);
    command
}

const SHOW: &str = "cat $DAYFLY_TOKEN_DEPLOY_API_FILE";

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_server_s_token_is_bound_to_a_key_of_the_moment() {
    let (broker, platform) = start().await;
    let url = format!(
        "{}/computeMetadata/v1/identity?audience={{audience}}&format=full",
        platform.url
    );
    let source = [
        "--identity-url",
        &url,
        "--identity-header",
        "Metadata-Flavor: text:Google",
    ];
    let (code, out, err) = run(exec(&broker, "deploy-checkout", &source, SHOW)).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ey"), "{out}");
    let asked = platform.asked();
    let [audience] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    let (url, key) = audience.split_once("#jkt=").unwrap();
    assert_eq!((url, key.len()), (broker.url.as_str(), 43));
    // Without the header the platform gives nothing, and the command is not run.
    let (code, out, _) = run(exec(&broker, "deploy-checkout", &source[..2], "echo ran")).await;
    assert_eq!((code, out.as_str()), (122, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_s_bearer_comes_by_reference_and_is_told_to_nobody() {
    let (broker, platform) = start().await;
    let url = format!("{}/oidc?audience={{audience}}", platform.url);
    let secret = broker.folder.path().join("bearer");
    std::fs::write(&secret, "job-secret\n").unwrap();
    let by_file = format!("authorization: Bearer file:{}", secret.display());
    for reference in ["Authorization: Bearer env:JOB_TOKEN", by_file.as_str()] {
        let source = [
            "--identity-url",
            &url,
            "--identity-header",
            reference,
            "--identity-pointer",
            "/data/token",
        ];
        let mut command = exec(&broker, "deploy-checkout", &source, SHOW);
        command.env("JOB_TOKEN", "job-secret");
        let (code, out, err) = run(command).await;
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("ey"), "{out}");
        assert!(!err.contains("job-secret"));
    }
    let plain = [
        "--identity-url",
        &url,
        "--identity-header",
        "Authorization: Bearer job-secret",
    ];
    let (code, _, err) = run(exec(&broker, "deploy-checkout", &plain, "true")).await;
    assert_eq!(code, 120, "{err}");
    assert!(!err.contains("job-secret"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_renewal_asks_for_a_fresh_token_with_the_same_key() {
    let (broker, platform) = start().await;
    let url = format!("{}/oidc?audience={{audience}}", platform.url);
    let source = [
        "--identity-url",
        &url,
        "--identity-header",
        "Authorization: Bearer text:job-secret",
        "--identity-pointer",
        "/data/token",
    ];
    let script = "f=$DAYFLY_TOKEN_DEPLOY_API_FILE; cat $f; echo; sleep 4; cat $f; echo";
    let (code, out, err) = run(exec(&broker, "short", &source, script)).await;
    assert_eq!(code, 0, "{err}");
    let tokens: Vec<_> = out.lines().collect();
    assert_eq!(tokens.len(), 2, "{out}");
    assert_ne!(tokens[0], tokens[1]);
    let asked = platform.asked();
    assert!(asked.len() >= 2, "{asked:?}");
    assert!(
        asked.iter().all(|audience| *audience == asked[0]),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_token_runs_no_command_and_says_why() {
    let (broker, platform) = start().await;
    let bearer = "Authorization: Bearer text:job-secret";
    for (path, header, pointer, told) in [
        (
            "/oidc?audience={audience}",
            "X: text:y",
            "/data/token",
            "status 401",
        ),
        (
            "/oidc?audience={audience}",
            bearer,
            "/value",
            "no text at `/value`",
        ),
        (
            "/oidc?audience={audience}",
            bearer,
            "/data",
            "no text at `/data`",
        ),
        ("/oidc", bearer, "/data/token", "status 400"),
        ("/fixed", bearer, "/value", "not JSON"),
        ("/moved", bearer, "", "status 307"),
        ("/endless", bearer, "", "longer than 64 KiB"),
        ("/page", bearer, "", "not a token"),
        ("/nothing", bearer, "", "status 404"),
    ] {
        let url = format!("{}{path}", platform.url);
        let mut source = vec!["--identity-url", &url, "--identity-header", header];
        if !pointer.is_empty() {
            source.extend(["--identity-pointer", pointer]);
        }
        let (code, out, err) = run(exec(&broker, "deploy-checkout", &source, "echo ran")).await;
        assert_eq!((code, out.as_str()), (122, ""), "{path}: {err}");
        assert!(err.contains(told), "{path}: {err}");
        assert!(!err.contains("job-secret"), "{err}");
    }
    for url in ["http://ci.example/token", "ftp://127.0.0.1/", "token"] {
        let source = ["--identity-url", url];
        let (code, _, err) = run(exec(&broker, "deploy-checkout", &source, "true")).await;
        assert_eq!(code, 120, "{url}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_platform_chooses_the_audience_a_registered_key_signs() {
    let (broker, platform) = start().await;
    let url = format!("{}/fixed", platform.url);
    let source = ["--identity-url", url.as_str()];
    // Nothing vouches for a key of the moment.
    let (code, out, _) = run(exec(&broker, "deploy-checkout", &source, SHOW)).await;
    assert_eq!((code, out.as_str()), (121, ""));
    let key = broker.folder.path().join("agent.jwk.json");
    std::fs::write(&key, broker.key.to_private_jwk().expose()).unwrap();
    let mut command = exec(&broker, "deploy-checkout", &source, SHOW);
    command.env("DAYFLY_KEY_FILE", &key);
    let (code, out, err) = run(command).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ey"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_carried_by_exec_and_read_anew_for_each_request() {
    let changes = crate::support::world::key();
    let keys = crate::support::world::inline_keys(&changes);
    let more = format!(
        "[facts.changes]\nevidence = {{ issuer = \"https://changes.example\", keys = {keys} }}\n\
         proves = [\"change.id\", \"change.state\"]\n\
         [mission.changed]\nagents = [\"deployer\"]\nowner = \"sre@acme.example\"\npurpose = \"x\"\nttl = \"3s\"\n\
         require = {{ \"change.state\" = \"approved\" }}\n\
         allow = [{{ target = \"deploy-api\", actions = [\"deploy:write\"], locations = [\"https://deploy.example/checkout\"] }}]\n"
    );
    let broker = TestBroker::with(Setup {
        more,
        ..Setup::default()
    })
    .await;
    let now = broker.now();
    let evidence = json!({
        "iss": "https://changes.example", "client_id": "deployer", "aud": broker.url,
        "iat": now, "exp": now + 600, "jti": "1",
        "facts": { "change.id": "CHG7", "change.state": "approved" },
    });
    let evidence = changes.sign("evidence+jwt", changes.verifying().kid(), &evidence, false);
    let folder = broker.folder.path();
    let files = [
        ("key.json", broker.key.to_private_jwk().expose().clone()),
        ("token.jwt", broker.platform_token()),
        ("change.jws", evidence.unwrap()),
        (
            "context.json",
            json!({ "change": { "id": "CHG7" } }).to_string(),
        ),
    ];
    for (name, text) in &files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let source = |names: &[&str]| {
        let mut command = exec(
            &broker,
            "changed",
            names,
            "f=$DAYFLY_TOKEN_DEPLOY_API_FILE; sleep 3; cat $f",
        );
        command.current_dir(folder);
        command
    };
    let bare = ["--key", "key.json", "--subject-token-file", "token.jwt"];
    let (code, _, err) = run(source(&bare)).await;
    assert_eq!(code, 121, "{err}");
    let with = [
        &bare[..],
        &["--evidence", "change.jws", "--context", "context.json"],
    ]
    .concat();
    let (code, out, err) = run(source(&with)).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ey"), "{out}");
    let missing = [&bare[..], &["--evidence", "none.jws"]].concat();
    let (code, _, err) = run(source(&missing)).await;
    assert_eq!(code, 122, "{err}");
}
