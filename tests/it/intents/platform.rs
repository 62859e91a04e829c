//! The platform's own token in the place of an intent: bounded, kept out of production, and never
//! kept itself.

use crate::support::broker::{Setup, TestBroker, with, without};
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::store::embedded::Embedded;
use serde_json::json;
use std::sync::Arc;

const MISSIONS: &str = r#"
[mission.stock]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "What a stock client does"
signer = "platform"
max_active = 2
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/stock"] }]

[mission.opened]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "What a stock client may do in production"
signer = "platform"
max_active = 2
allow = [{ target = "opened-api", actions = ["deploy:read"], locations = ["https://deploy.example/stock"] }]

[target.opened-api]
kind = "access_token"
ceiling = { actions = ["deploy:*"], locations = ["https://deploy.example/*"] }
allow_platform_signer = true
labels = { env = "prod" }
"#;

async fn start(setup: Setup) -> TestBroker {
    TestBroker::with(Setup {
        more: MISSIONS.to_owned(),
        ..setup
    })
    .await
}

/// A request as a stock client sends it: a token, a target, a scope.
fn bare(broker: &TestBroker, mission: &str) -> Vec<(String, String)> {
    let form = without(broker.good_form(), "intent");
    with(form, "scope", &format!("mission:{mission}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_sent_again_and_again_gets_no_more_than_its_mission_allows_at_once() {
    let broker = start(Setup::default()).await;
    let form = bare(&broker, "stock");
    let mut first = String::new();
    for _ in 0..2 {
        let answer = broker.exchange(&form).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        first = answer.body["access_token"].as_str().unwrap().to_owned();
    }
    let third = broker.exchange(&form).await;
    assert_refused(&third, Reason::TooManyLeases, "the third");
    // The work of one is done: there is room for another.
    let done = crate::support::broker::form(&[("token", &first)]);
    assert_eq!(broker.post("/revoke", &done).await.status, 200);
    assert_eq!(broker.exchange(&form).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn production_takes_a_platforms_word_only_where_its_owner_says_so() {
    let broker = start(Setup::default()).await;
    let form = with(bare(&broker, "opened"), "audience", "opened-api");
    let answer = broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Without the target's word the configuration itself is refused.
    let closed = MISSIONS.replace("allow_platform_signer = true\n", "");
    let text = format!(
        "[broker]\nurl = \"http://127.0.0.1:1\"\nstore = {{ embedded = \"s\" }}\nkeys = {{ sealing = [\"env:X\"] }}\n\
         [agent.deployer]\nowner = \"a@b.example\"\npurpose = \"x\"\nends = 2099-01-01\n\
         identity = {{ github = \"acme/x\", repository_id = 1 }}\n\
         [target.deploy-api]\nkind = \"access_token\"\n\
         ceiling = {{ actions = [\"deploy:*\"], locations = [\"https://deploy.example/*\"] }}\n{closed}"
    );
    let files = vec![("x.toml".to_owned(), text)];
    let problems = dayfly::config::load_with(files, "/nonexistent".into())
        .and_then(|document| document.resolve())
        .unwrap_err();
    let codes: Vec<_> = problems.0.iter().map(|p| p.code.as_str()).collect();
    assert_eq!(codes, ["platform_signer"], "{problems}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_platforms_token_the_hash_is_kept_and_never_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Arc::new(Embedded::open(&path).unwrap());
    let broker = start(Setup {
        store: Some(store),
        ..Setup::default()
    })
    .await;
    let form = bare(&broker, "stock");
    let answer = broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let astray = with(form.clone(), "audience", "metrics-key");
    assert_eq!(broker.exchange(&astray).await.status, 400);
    let token = &form
        .iter()
        .find(|(name, _)| name == "subject_token")
        .unwrap()
        .1;
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let issued = audit["items"].as_array().unwrap();
    let issued = issued.iter().find(|e| e["event"] == "issued").unwrap();
    let hash: String = crate::support::broker::sha256(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(issued["intent_hash"], hash);
    assert_eq!(issued["detail"]["signer"], "platform");
    assert_eq!(issued["detail"]["facts"]["pipeline.run_id"], "77");
    let lease = broker
        .admin(
            "GET",
            &format!("/leases/{}", issued["lease"].as_str().unwrap()),
            None,
        )
        .await
        .body;
    assert_eq!(lease["subject"], "repo:acme/checkout:ref:refs/heads/main");
    let files = [path];
    for part in token.split('.').skip(1) {
        assert!(!json!([audit, lease]).to_string().contains(part));
        for file in &files {
            let bytes = std::fs::read(file).unwrap();
            let found = bytes.windows(part.len()).any(|w| w == part.as_bytes());
            assert!(!found, "a part of the token is in the store");
        }
    }
}
