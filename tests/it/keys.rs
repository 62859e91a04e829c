//! New signing keys: what the old one signed lives on, unless it was compromised.

use crate::support::broker::{Answer, Setup, TestBroker};
use crate::support::time::Manual;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::time::Duration;

async fn rotate(broker: &TestBroker, body: Value) -> Answer {
    broker.admin("POST", "/keys/rotate", Some(body)).await
}

async fn published(broker: &TestBroker) -> Vec<String> {
    let request = broker.http.get(format!("{}/jwks", broker.url));
    let answer = Answer::of(request.send().await.unwrap()).await;
    let keys = answer.body["keys"].as_array().unwrap().clone();
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

fn kid_of(token: &str) -> String {
    use base64::Engine as _;
    let header = token.split('.').next().unwrap();
    let engine = URL_SAFE_NO_PAD;
    let header: Value = serde_json::from_slice(&engine.decode(header).unwrap()).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn token(broker: &TestBroker) -> String {
    let issued = broker.issue().await;
    issued["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_published_before_it_signs_and_the_old_ones_tokens_live_on() {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    let old = token(&broker).await;
    let answer = rotate(&broker, json!({ "purpose": "access_token" })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["removed"], json!([]));
    let new = answer.body["new_key"].as_str().unwrap().to_owned();
    let keys = published(&broker).await;
    assert!(keys.contains(&new) && keys.contains(&kid_of(&old)));
    assert_eq!(kid_of(&token(&broker).await), kid_of(&old), "not yet");
    assert!(broker.is_active(&old).await);

    clock.advance(Duration::from_secs(7 * 60));
    broker
        .composed
        .keyring
        .refresh(broker.composed.clock.now())
        .await
        .unwrap();
    let next = token(&broker).await;
    assert_eq!(kid_of(&next), new);
    assert!(broker.is_active(&next).await);
    assert!(broker.is_active(&old).await, "until it expires by itself");
    // A second rotation before the first has come into force is the same one.
    let again = rotate(&broker, json!({ "purpose": "introspection" }))
        .await
        .body;
    let same = rotate(&broker, json!({ "purpose": "introspection" }))
        .await
        .body;
    assert_eq!(again["new_key"], same["new_key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compromised_key_signed_is_dead_at_once() {
    let broker = TestBroker::start().await;
    let old = token(&broker).await;
    let body = json!({ "purpose": "access_token", "compromised": true });
    let answer = rotate(&broker, body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["removed"], json!([kid_of(&old)]));
    assert!(!broker.is_active(&old).await);
    assert!(!published(&broker).await.contains(&kid_of(&old)));
    let next = token(&broker).await;
    assert_eq!(kid_of(&next), answer.body["new_key"].as_str().unwrap());
    assert!(broker.is_active(&next).await);
    // An operator who was given the old token still learns whose it was.
    let query = json!({ "query": old });
    let found = broker.admin("POST", "/find", Some(query)).await.body;
    assert_eq!(found["alive"], false, "{found}");
    assert_eq!(found["agent"], "deployer");
    assert_eq!(found["why_ended"], "signing key compromised");
    broker.is_confirmed("signing_key", &kid_of(&old), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_keys_but_those_that_are_used() {
    let broker = TestBroker::start().await;
    for (purpose, status) in [
        ("nothing", 404),
        ("", 404),
        ("federation/", 404),
        ("federation/deploy-api", 404),
        ("federation/no-such", 404),
    ] {
        let answer = rotate(&broker, json!({ "purpose": purpose })).await;
        assert_eq!(answer.status, status, "{purpose}: {}", answer.body);
    }
    let answer = rotate(&broker, json!({ "purpose": "access_token", "force": true })).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_are_signed_with_the_algorithm_that_the_configuration_names() {
    for (algorithm, alg, kty) in [("ES256", "ES256", "EC"), ("Ed25519", "EdDSA", "OKP")] {
        let setup = Setup {
            access_tokens: algorithm,
            ..Setup::default()
        };
        let broker = TestBroker::with(setup).await;
        let issued = broker.issue().await;
        let token = issued["access_token"].as_str().unwrap();
        let header = token.split('.').next().unwrap();
        let header = URL_SAFE_NO_PAD.decode(header).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["typ"], "at+jwt");
        assert_eq!(header["alg"], alg);
        let url = format!("{}/jwks", broker.url);
        let keys = Answer::of(broker.http.get(url).send().await.unwrap()).await;
        let known = keys.body["keys"].as_array().unwrap();
        let key = known
            .iter()
            .find(|key| key["kid"] == header["kid"])
            .unwrap();
        assert_eq!(key["kty"], kty);
        assert!(broker.is_active(token).await);
    }
}
