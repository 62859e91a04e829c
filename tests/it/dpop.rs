//! Possession by DPoP (RFC 9449), over the wire.

mod operators;
mod proofs;
mod release;

use crate::support::broker::{Answer, Setup, TestBroker, form, with};
use crate::support::dpop;
use crate::support::forge;
use crate::support::redis::RedisServer;
use crate::support::time::Manual;
use crate::support::world::{World, assert_refused, key};
use dayfly::broker::Reason;
use dayfly::secret::Secret;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use dayfly::store::redis::{Redis, RedisSettings};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn claims_of(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part);
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_proves_a_key_gets_a_token_that_is_bound_to_it() {
    let broker = TestBroker::start().await;
    let key = key();
    let issued = broker.issue_bound(&key).await;
    assert_eq!(issued["token_type"], "DPoP");
    let token = issued["access_token"].as_str().unwrap();
    let cnf = json!({ "jkt": key.thumbprint() });
    assert_eq!(claims_of(token)["cnf"], cnf);
    let told = broker.introspect(token).await.body;
    assert_eq!(
        (&told["active"], &told["token_type"]),
        (&json!(true), &json!("DPoP"))
    );
    assert_eq!(told["cnf"], cnf);
    let metadata = broker.http.get(format!(
        "{}/.well-known/oauth-authorization-server",
        broker.url
    ));
    let metadata: Value = metadata.send().await.unwrap().json().await.unwrap();
    let algorithms = metadata["dpop_signing_alg_values_supported"]
        .as_array()
        .unwrap();
    assert!(algorithms.contains(&json!("ES256")) && !algorithms.contains(&json!("none")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_key_is_bound_where_it_is_introspected() {
    let broker = TestBroker::start().await;
    let key = key();
    let token = broker.platform_token();
    let mut intent = broker.intent_claims(&token);
    intent["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/a"],
    }]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&intent));
    let form = with(form, "audience", "metrics-key");
    let answer = broker
        .proved("/token", &form, &[&broker.proof(&key).await])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["token_type"], "DPoP");
    let told = broker
        .introspect(answer.body["access_token"].as_str().unwrap())
        .await;
    assert_eq!(told.body["cnf"], json!({ "jkt": key.thumbprint() }));
    assert_eq!(told.body["token_type"], "DPoP");
}

/// The agent's signature under the intent shows a key, and asks for nothing to be bound to it.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_no_proof_gets_a_bearer_token() {
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    assert_eq!(issued["token_type"], "Bearer");
    let token = issued["access_token"].as_str().unwrap();
    assert_eq!(claims_of(token)["cnf"], Value::Null);
    let told = broker.introspect(token).await.body;
    assert_eq!(
        (&told["token_type"], &told["cnf"]),
        (&json!("Bearer"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_nonce_is_given_one_and_sends_the_same_request_again() {
    let broker = TestBroker::start().await;
    let key = key();
    let form = broker.good_form();
    let mut claims = broker.proof_claims().await;
    claims.as_object_mut().unwrap().remove("nonce");
    let answer = broker
        .proved("/token", &form, &[&dpop::sign(&key, &claims)])
        .await;
    assert_refused(&answer, Reason::UseDpopNonce, "no nonce");
    assert_eq!(answer.body["at"], "DPoP.nonce");
    claims["nonce"] = json!(answer.headers["dpop-nonce"].to_str().unwrap());
    // What was refused spent nothing: not the intent, and not the proof's own name.
    let answer = broker
        .proved("/token", &form, &[&dpop::sign(&key, &claims)])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // The next one comes with the answer; who sends no proof is told none.
    assert!(answer.headers.contains_key("dpop-nonce"));
    let answer = broker.exchange(&broker.good_form()).await;
    assert!(!answer.headers.contains_key("dpop-nonce"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_ends_after_five_minutes_and_is_replaced_before() {
    let clock = Manual::start();
    let setup = Setup {
        clock: clock.clone(),
        ..Setup::default()
    };
    let broker = TestBroker::with(setup).await;
    let key = key();
    let old = broker.nonce().await;
    let with_nonce = |nonce: String| {
        let url = format!("{}/token", broker.url);
        dpop::sign(&key, &dpop::claims("POST", &url, broker.now(), &nonce))
    };
    clock.advance(Duration::from_secs(239));
    let proof = with_nonce(old.clone());
    let answer = broker
        .proved("/token", &broker.good_form(), &[&proof])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let next = answer.headers["dpop-nonce"].to_str().unwrap().to_owned();
    assert_ne!(next, old);
    clock.advance(Duration::from_secs(61));
    let proof = with_nonce(old);
    let answer = broker
        .proved("/token", &broker.good_form(), &[&proof])
        .await;
    assert_refused(&answer, Reason::UseDpopNonce, "an old nonce");
    let proof = with_nonce(next);
    let answer = broker
        .proved("/token", &broker.good_form(), &[&proof])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nonces_are_off_none_is_asked_for_and_none_is_looked_at() {
    let broker = TestBroker::with(Setup {
        broker: "dpop_nonce = \"off\"".to_owned(),
        ..Setup::default()
    })
    .await;
    let url = format!("{}/token", broker.url);
    for nonce in [Value::Null, json!("another broker's")] {
        let mut claims = dpop::claims("POST", &url, broker.now(), "");
        claims["nonce"] = nonce;
        let proof = dpop::sign(&key(), &claims);
        let answer = broker
            .proved("/token", &broker.good_form(), &[&proof])
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(!answer.headers.contains_key("dpop-nonce"));
    }
}

/// Two replicas that share a store: the proof that one has granted something for is spent at the other.
async fn two(store: Arc<dyn Store>, first: &TestBroker) -> TestBroker {
    TestBroker::with(Setup {
        store: Some(store),
        issuer: Some(first.issuer.clone()),
        key: Some(first.key.clone()),
        public_url: Some(first.url.clone()),
        ..Setup::default()
    })
    .await
}

async fn a_proof_is_good_once_at_all(store: Arc<dyn Store>) {
    let setup = Setup {
        store: Some(store.clone()),
        ..Setup::default()
    };
    let first = TestBroker::with(setup).await;
    let second = two(store, &first).await;
    let key = key();
    let claims = first.proof_claims().await;
    let proof = dpop::sign(&key, &claims);
    // A refusal spends nothing.
    let wrong = with(first.good_form(), "audience", "metrics-key");
    let answer = first.proved("/token", &wrong, &[&proof]).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    let answer = second
        .proved("/token", &second.good_form(), &[&proof])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (what, broker) in [("the other", &first), ("the same", &second)] {
        let answer = broker
            .proved("/token", &broker.good_form(), &[&proof])
            .await;
        assert_refused(&answer, Reason::DpopProofSpent, what);
    }
    // Signed anew it is the same proof: ECDSA never signs twice alike.
    let again = dpop::sign(&key, &claims);
    assert_ne!(again, proof);
    let answer = first.proved("/token", &first.good_form(), &[&again]).await;
    assert_refused(&answer, Reason::DpopProofSpent, "the same jti");
    // Of another key it is another proof, and so is one with another jti.
    let other = dpop::sign(&self::key(), &claims);
    let answer = first.proved("/token", &first.good_form(), &[&other]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    first.issue_bound(&key).await;
    second.issue_bound(&key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_good_once_at_all_replicas() {
    a_proof_is_good_once_at_all(Arc::new(Embedded::in_memory().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_good_once_at_all_replicas_over_redis() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let url = Secret::new(redis.url());
    let store = Redis::connect(RedisSettings::new(url)).await.unwrap();
    a_proof_is_good_once_at_all(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_proof_sent_twenty_times_at_once_exactly_one_is_granted() {
    let broker = TestBroker::start().await;
    let proof = broker.proof(&key()).await;
    let proofs = [proof.as_str()];
    let forms: Vec<_> = (0..20).map(|_| broker.good_form()).collect();
    let all = forms
        .iter()
        .map(|form| broker.proved("/token", form, &proofs));
    let answers = futures_util::future::join_all(all).await;
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(granted, 1);
    // A machine with too much to do answers some of them with 503, which spends nothing either.
    let refused = |answer: &&Answer| !matches!(answer.status, 200 | 503);
    for answer in answers.iter().filter(refused) {
        assert_refused(answer, Reason::DpopProofSpent, "a copy");
    }
    let last = broker.proved("/token", &broker.good_form(), &proofs).await;
    assert_refused(&last, Reason::DpopProofSpent, "the last");
}

/// The broker listens on one address and is known by another: only the configuration says which.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_door_is_where_the_configuration_says() {
    let public = "http://127.0.0.1:9/dayfly";
    let broker = TestBroker::with(Setup {
        public_url: Some(public.to_owned()),
        ..Setup::default()
    })
    .await;
    let nonce = broker.nonce().await;
    for (what, htu, granted) in [
        ("the public URL", format!("{public}/token"), true),
        ("where it listens", format!("{}/token", broker.at), false),
        (
            "without its path",
            "http://127.0.0.1:9/token".to_owned(),
            false,
        ),
    ] {
        // Whether the proxy strips the path makes no difference, nor does what it says of itself.
        for path in ["/token", "/dayfly/token"] {
            let claims = dpop::claims("POST", &htu, broker.now(), &nonce);
            let proof = dpop::sign(&key(), &claims);
            let listening = broker.at.trim_start_matches("http://");
            let request = broker.http.post(format!("{}{path}", broker.at));
            let request = request
                .header("dpop", proof)
                .header("x-forwarded-host", listening)
                .header("forwarded", format!("host={listening};proto=http"))
                .form(&broker.good_form());
            let answer = request.send().await.unwrap();
            let answer = Answer::of(answer).await;
            if granted {
                assert_eq!(answer.status, 200, "{what} {path}: {}", answer.body);
            } else {
                assert_refused(&answer, Reason::InvalidDpopProof, what);
                assert_eq!(answer.body["at"], "DPoP.htu", "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_the_one_that_the_intent_confirms() {
    let broker = TestBroker::start().await;
    let (own, other) = (key(), key());
    let sent = || {
        let token = broker.platform_token();
        let mut intent = broker.intent_claims(&token);
        intent["cnf"] = json!({ "jkt": own.thumbprint() });
        let form = with(broker.good_form(), "subject_token", &token);
        with(form, "intent", &broker.sign_intent(&intent))
    };
    let form = sent();
    let answer = broker
        .proved("/token", &form, &[&broker.proof(&other).await])
        .await;
    assert_refused(&answer, Reason::InvalidIntent, "another key");
    let answer = broker.exchange(&form).await;
    assert_refused(&answer, Reason::InvalidIntent, "no proof");
    let answer = broker
        .proved("/token", &form, &[&broker.proof(&own).await])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_the_one_that_the_platforms_token_is_bound_to() {
    let world = World::start().await;
    let broker = &world.broker;
    let (own, other) = (key(), key());
    for (name, value) in [
        ("cnf", json!({ "jkt": own.thumbprint() })),
        (
            "aud",
            json!(format!("{}#jkt={}", broker.url, own.thumbprint())),
        ),
    ] {
        // Without an intent nothing but the proof can show the key.
        let claims = forge::spoiled(&broker.platform_claims(), name, value);
        let token = broker.issuer.sign(&claims);
        let form = form(&[
            ("grant_type", crate::support::world::EXCHANGE),
            ("subject_token", &token),
            ("subject_token_type", crate::support::world::JWT),
            ("audience", "deploy-api"),
            ("scope", "mission:nightly"),
        ]);
        let answer = broker.exchange(&form).await;
        assert_refused(&answer, Reason::InvalidIntent, "no proof");
        let answer = broker
            .proved("/token", &form, &[&broker.proof(&other).await])
            .await;
        assert_refused(&answer, Reason::InvalidIntent, "another key");
        let answer = broker
            .proved("/token", &form, &[&broker.proof(&own).await])
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.body["token_type"], "DPoP");
    }
}

const CLOUD: &str = r#"
[target.aws-prod]
kind = "aws"
role = "arn:aws:iam::111122223333:role/deploy"
ceiling = { actions = ["ecs:*"], locations = ["arn:aws:ecs:*:111122223333:*"] }

[mission.cloud]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Roll out"
allow = [{ target = "aws-prod", actions = ["ecs:UpdateService"], locations = ["arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout"] }]

[mission.bound]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Nothing that is good in anybody's hands"
when = 'context.delivery == "bound"'
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]
"#;

fn for_mission(
    broker: &TestBroker,
    mission: &str,
    change: impl Fn(&mut Value),
) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut intent = broker.intent_claims(&token);
    intent["mission"]["id"] = json!(mission);
    change(&mut intent);
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&intent))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_bound_is_refused_and_never_quietly_given_unbound() {
    let setup = Setup {
        more: CLOUD.to_owned(),
        ..Setup::default()
    };
    let broker = TestBroker::with(setup).await;
    let form = for_mission(&broker, "cloud", |intent| {
        intent["authorization_details"] = json!([{
            "type": "aws_session", "identifier": "aws-prod", "actions": ["ecs:UpdateService"],
            "locations": ["arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout"],
        }]);
    });
    let form = with(form, "audience", "aws-prod");
    let answer = broker
        .proved("/token", &form, &[&broker.proof(&key()).await])
        .await;
    assert_refused(&answer, Reason::CredentialNotBindable, "an AWS session");
    assert_eq!(answer.reason(), "credential_not_bindable");
    let leases = broker.admin("GET", "/leases", None).await.body;
    assert_eq!(leases["items"], json!([]), "nothing was reserved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_may_ask_for_bound_credentials() {
    let setup = Setup {
        more: CLOUD.to_owned(),
        ..Setup::default()
    };
    let broker = TestBroker::with(setup).await;
    let form = for_mission(&broker, "bound", |_| {});
    let answer = broker.exchange(&form).await;
    assert_refused(&answer, Reason::ConditionUnmet, "a bearer token");
    let answer = broker
        .proved("/token", &form, &[&broker.proof(&key()).await])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}
