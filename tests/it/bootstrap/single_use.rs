//! A token of a `single_use` issuer is good once: among replicas, over restarts, whatever is sent
//! beside it. A refusal does not spend it.

use crate::support::broker::{Answer, Setup, TestBroker, form, unique, with};
use crate::support::forge;
use crate::support::redis::RedisServer;
use crate::support::world::{JWT, assert_refused, inline_keys, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use dayfly::secret::Secret;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use dayfly::store::redis::{Redis, RedisSettings};
use serde_json::{Value, json};
use std::sync::Arc;

/// What all replicas are called.
const AUDIENCE: &str = "https://dayfly.example";

async fn replica(store: Arc<dyn Store>, platform: &SigningKey) -> TestBroker {
    let more = format!(
        r#"
[issuer.once]
url = "https://once.example"
audience = "{AUDIENCE}"
keys = {}
algorithms = ["ES256"]
single_use = true

[agent.once]
owner = "once@acme.example"
purpose = "Runs on a platform whose tokens are single use"
ends = 2099-01-01
identity = {{ issuer = "once", subject = "job" }}
limits = {{ active = 100, per_minute = 100000 }}

[mission.nightly]
agents = ["once"]
owner = "sre@acme.example"
purpose = "What is done at night"
signer = "platform"
max_active = 50
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/nightly"] }}]
"#,
        inline_keys(platform)
    );
    TestBroker::with(Setup {
        store: Some(store),
        more,
        ..Setup::default()
    })
    .await
}

fn claims(now: i64) -> Value {
    json!({
        "iss": "https://once.example", "sub": "job", "aud": AUDIENCE,
        "iat": now, "exp": now + 300, "jti": unique(),
    })
}

fn sign(platform: &SigningKey, claims: &Value) -> String {
    let header = json!({ "alg": "ES256", "kid": platform.verifying().kid() });
    forge::sign(platform, &header, claims)
}

fn exchange(token: &str) -> Vec<(String, String)> {
    form(&[
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token", token),
        ("subject_token_type", JWT),
        ("audience", "deploy-api"),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_token_sent_to_two_replicas_at_once_exactly_one_is_granted_and_none_after_a_restart()
{
    let Some(server) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let store = async || {
        let settings = RedisSettings::new(Secret::new(server.url()));
        let store: Arc<dyn Store> = Arc::new(Redis::connect(settings).await.unwrap());
        store
    };
    let platform = key();
    let replicas = [
        replica(store().await, &platform).await,
        replica(store().await, &platform).await,
    ];
    let claims = claims(replicas[0].now());
    let token = sign(&platform, &claims);
    // What is refused after the proof was verified spends nothing.
    let wider = with(exchange(&token), "scope", "deploy:everything");
    for broker in &replicas {
        let answer = broker.exchange(&wider).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_ne!(answer.reason(), "token_spent", "{}", answer.body);
    }
    let form = exchange(&token);
    let all = (0..20).map(|place| replicas[place % 2].exchange(&form));
    let answers: Vec<Answer> = futures_util::future::join_all(all).await;
    let (granted, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(granted.len(), 1);
    for answer in refused {
        assert_refused(answer, Reason::TokenSpent, "a copy");
    }
    drop(replicas);
    let again = replica(store().await, &platform).await;
    let answer = again.exchange(&form).await;
    assert_refused(&answer, Reason::TokenSpent, "after a restart");
    // The same name under another signature, and another name.
    let answer = again.exchange(&exchange(&sign(&platform, &claims))).await;
    assert_refused(&answer, Reason::TokenSpent, "signed again");
    let mut other = claims;
    other["jti"] = json!(unique());
    let answer = again.exchange(&exchange(&sign(&platform, &other))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_node_a_token_stays_spent_whoever_comes_after() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let platform = key();
    let first = replica(Arc::clone(&store), &platform).await;
    // Without a jti it is known by what was signed.
    let mut claims = claims(first.now());
    claims.as_object_mut().unwrap().remove("jti");
    let form = exchange(&sign(&platform, &claims));
    let answer = first.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(first);
    let second = replica(store, &platform).await;
    let again = exchange(&sign(&platform, &claims));
    assert_ne!(form, again, "ECDSA signs differently each time");
    assert_refused(&second.exchange(&again).await, Reason::TokenSpent, "again");
    let unspent = {
        let mut claims = claims.clone();
        claims["sub"] = json!("nobody");
        claims
    };
    let answer = second.exchange(&exchange(&sign(&platform, &unspent))).await;
    assert_refused(&answer, Reason::UnknownAgent, "another subject");
}
