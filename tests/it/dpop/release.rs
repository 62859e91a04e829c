//! Ending what is bound to a key.

use crate::support::broker::{TestBroker, form};
use crate::support::dpop;
use crate::support::forge::spoiled;
use crate::support::world::{assert_refused, key};
use dayfly::broker::Reason;
use serde_json::{Value, json};

/// Whoever finds a stolen credential can end it, and a job that is over may have lost its key.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_presents_a_bound_credential_may_end_it_without_the_key() {
    let broker = TestBroker::start().await;
    let issued = broker.issue_bound(&key()).await;
    let token = issued["access_token"].as_str().unwrap();
    let answer = broker.post("/revoke", &form(&[("token", token)])).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_is_sent_along_is_of_the_credential_and_its_key() {
    let broker = TestBroker::start().await;
    let key = key();
    let issued = broker.issue_bound(&key).await;
    let token = issued["access_token"].as_str().unwrap();
    let end = form(&[("token", token)]);
    let url = format!("{}/revoke", broker.url);
    let nonce = broker.nonce().await;
    let mut claims = dpop::claims("POST", &url, broker.now(), &nonce);
    claims["ath"] = dpop::ath(token);
    for (what, name, value, reason) in [
        ("no ath", "ath", Value::Null, Reason::InvalidDpopProof),
        ("another's", "ath", dpop::ath("x"), Reason::InvalidDpopProof),
        (
            "another door's",
            "htu",
            json!(format!("{}/token", broker.url)),
            Reason::InvalidDpopProof,
        ),
        ("no nonce", "nonce", Value::Null, Reason::UseDpopNonce),
    ] {
        let proof = dpop::sign(&key, &spoiled(&claims, name, value));
        let answer = broker.proved("/revoke", &end, &[&proof]).await;
        assert_refused(&answer, reason, what);
    }
    let other = dpop::sign(&self::key(), &claims);
    let answer = broker.proved("/revoke", &end, &[&other]).await;
    assert_refused(&answer, Reason::InvalidDpopProof, "another key");
    assert!(broker.is_active(token).await);
    let answer = broker
        .proved("/revoke", &end, &[&dpop::sign(&key, &claims)])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!broker.is_active(token).await);
}
