//! The broker as an attacker and as a bad network meet it: replicas that lag, views that go stale at
//! the worst moment, answers that could tell who exists, proofs brought to the wrong door.

use crate::support::broker::{Answer, SERVER_SECRET, Setup, TestBroker, form, with, without};
use crate::support::process::until;
use async_trait::async_trait;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Log, Outcome, Position, Store, StoreError, Tail, Transaction};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A store behind a network that can be made slow, or lose what follows the log.
#[derive(Debug)]
struct Network {
    store: Arc<dyn Store>,
    tail_cut: AtomicBool,
    tail_delay: AtomicU64,
    commit_delay: AtomicU64,
}

impl Network {
    fn before(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            tail_cut: AtomicBool::new(false),
            tail_delay: AtomicU64::new(0),
            commit_delay: AtomicU64::new(0),
        })
    }

    async fn pause(delay: &AtomicU64) {
        let delay = delay.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }
}

#[async_trait]
impl dayfly::store::Over for Network {
    fn below(&self) -> &dyn Store {
        self.store.as_ref()
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        Self::pause(&self.commit_delay).await;
        self.store.commit(transaction).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let found = self.store.tail(log, after, limit, wait).await;
        Self::pause(&self.tail_delay).await;
        if self.tail_cut.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the network is cut".to_owned()));
        }
        found
    }
}

async fn behind_a_network() -> (TestBroker, Arc<Network>) {
    let network = Network::before(Arc::new(Embedded::in_memory().unwrap()));
    let setup = Setup {
        store: Some(network.clone()),
        ..Setup::default()
    };
    (TestBroker::with(setup).await, network)
}

async fn until_stale(broker: &TestBroker) {
    for _ in 0..100 {
        if broker.introspect("no-token-of-ours").await.status == 503 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the view never went stale");
}

async fn until_fresh(broker: &TestBroker) {
    for _ in 0..100 {
        if broker.introspect("no-token-of-ours").await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the view never came back");
}

fn api_key_form(broker: &TestBroker) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/a"],
    }]);
    let fields = with(broker.good_form(), "subject_token", &token);
    let fields = with(fields, "intent", &broker.sign_intent(&claims));
    with(fields, "audience", "metrics-key")
}

/// Two replicas of one store, the second of them behind a network.
async fn two_replicas() -> (TestBroker, TestBroker, Arc<Network>) {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let ahead = TestBroker::with(Setup {
        store: Some(store.clone()),
        ..Setup::default()
    })
    .await;
    let network = Network::before(store);
    let lagging = TestBroker::with(Setup {
        store: Some(network.clone()),
        issuer: Some(ahead.issuer.clone()),
        ..Setup::default()
    })
    .await;
    (ahead, lagging, network)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_not_read_a_revocation_does_not_call_it_confirmed() {
    let (ahead, lagging, network) = two_replicas().await;
    ahead.issue().await;
    network.tail_cut.store(true, Ordering::SeqCst);
    until_stale(&lagging).await;
    let receipt = ahead.revoke(json!({ "agent": "deployer" })).await.body;
    let path = format!("/revocations/{}", receipt["id"].as_str().unwrap());
    let state = async |at: &TestBroker| at.admin("GET", &path, None).await.body["state"].clone();
    until("it is confirmed", || async {
        state(&ahead).await == "confirmed"
    })
    .await;
    assert_eq!(state(&lagging).await, "revoking");
    network.tail_cut.store(false, Ordering::SeqCst);
    until_fresh(&lagging).await;
    assert_eq!(state(&lagging).await, "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_replica_has_just_issued_is_active_at_one_that_lags() {
    let (ahead, lagging, network) = two_replicas().await;
    network.tail_delay.store(200, Ordering::SeqCst);
    for round in 0..3 {
        // A fence that has nothing to do with it moves the log on.
        let fenced = ahead
            .revoke(json!({ "task": format!("other-{round}") }))
            .await;
        assert_eq!(fenced.status, 200, "{}", fenced.body);
        let issued = ahead.exchange(&api_key_form(&ahead)).await;
        assert_eq!(issued.status, 200, "{}", issued.body);
        let key = issued.body["access_token"].as_str().unwrap();
        assert!(lagging.is_active(key).await, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_stale_view_nothing_is_issued_or_vouched_for_and_everything_can_be_ended() {
    let (broker, network) = behind_a_network().await;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    network.tail_cut.store(true, Ordering::SeqCst);
    until_stale(&broker).await;
    assert_eq!(broker.exchange(&broker.good_form()).await.status, 503);
    assert_eq!(broker.introspect(token).await.status, 503);

    let ended = hook(&broker, &json!({ "kind": "pipeline", "id": "1234:77" })).await;
    assert_eq!(ended.status, 204, "{}", ended.body);
    let receipt = broker.revoke(json!({ "task": "some-task" })).await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);

    network.tail_cut.store(false, Ordering::SeqCst);
    until_fresh(&broker).await;
    assert!(!broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_minted_and_could_not_be_answered_does_not_live_on() {
    let (broker, network) = behind_a_network().await;
    // The view is fresh when the request comes and stale when its commit is through.
    network.commit_delay.store(1500, Ordering::SeqCst);
    network.tail_cut.store(true, Ordering::SeqCst);
    let answer = broker.exchange(&broker.good_form()).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    network.commit_delay.store(0, Ordering::SeqCst);
    network.tail_cut.store(false, Ordering::SeqCst);
    until_fresh(&broker).await;
    let leases = broker.admin("GET", "/leases?alive=true", None).await;
    assert_eq!(leases.body["items"], json!([]), "{}", leases.body);
    let ended = broker.admin("GET", "/leases?alive=false", None).await;
    assert_eq!(ended.body["items"].as_array().unwrap().len(), 1);
}

async fn hook(broker: &TestBroker, body: &Value) -> Answer {
    let body = body.to_string();
    let timestamp = broker.now().to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hook-secret");
    let tag = ring::hmac::sign(&key, format!("{timestamp}.{body}").as_bytes());
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let request = broker
        .http
        .post(format!("{}/hooks/ci", broker.url))
        .header("content-type", "application/json")
        .header("x-dayfly-timestamp", timestamp)
        .header("x-dayfly-signature", format!("sha256={hex}"))
        .body(body);
    Answer::of(request.send().await.unwrap()).await
}

const NEIGHBOURS: &str = r#"
[agent.neighbour]
owner = "other@acme.example"
purpose = "Somebody else"
ends = 2099-01-01
identity = { issuer = "ci", subject = "neighbour" }
intent_keys = "file:deployer.jwks.json"
limits = { active = 100, per_minute = 100000 }

[mission.of-the-neighbour]
agents = ["neighbour"]
owner = "other@acme.example"
purpose = "None of the deployer's business"
ttl = "10m"
allow = [{ target = "neighbours-api", actions = ["read"] }]

[target.neighbours-api]
kind = "access_token"
ceiling = { actions = ["read"] }
"#;

/// What is seen from outside, without what is different every time.
fn seen(mut answer: Answer) -> (u16, Value) {
    answer.body.as_object_mut().unwrap().remove("refusal_id");
    (answer.status, answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_from_a_refusal_who_and_what_exists() {
    let broker = TestBroker::with(Setup {
        more: NEIGHBOURS.to_owned(),
        ..Setup::default()
    })
    .await;
    let of_subject = |subject: &str| {
        let mut claims = broker.platform_claims();
        claims["sub"] = subject.into();
        let token = broker.issuer.sign(&claims);
        without(with(broker.good_form(), "subject_token", &token), "intent")
    };
    let of_mission = |mission: &str, target: &str| {
        let token = broker.platform_token();
        let mut claims = broker.intent_claims(&token);
        claims["mission"]["id"] = mission.into();
        claims["authorization_details"][0]["identifier"] = target.into();
        let fields = with(broker.good_form(), "subject_token", &token);
        let fields = with(fields, "intent", &broker.sign_intent(&claims));
        with(fields, "audience", target)
    };
    let unknown = seen(broker.exchange(&of_subject("nobody")).await);
    assert_eq!(unknown.0, 400);
    for (mission, target) in [
        ("no-such-mission", "deploy-api"),
        ("of-the-neighbour", "deploy-api"),
        ("of-the-neighbour", "neighbours-api"),
        ("no-such-mission", "no-such-api"),
    ] {
        let refused = broker.exchange(&of_mission(mission, target)).await;
        assert_eq!(seen(refused), unknown, "{mission} {target}");
    }
    let foreign = broker
        .exchange(&of_mission("deploy-checkout", "neighbours-api"))
        .await;
    let nowhere = broker
        .exchange(&of_mission("deploy-checkout", "no-such-api"))
        .await;
    assert_eq!(seen(foreign), seen(nowhere));

    let held = broker.revoke(json!({ "agent": "neighbour" })).await;
    assert_eq!(held.status, 200, "{}", held.body);
    let suspended = broker.exchange(&of_subject("neighbour")).await;
    assert_eq!(seen(suspended), unknown, "suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_opens_no_door_but_its_own() {
    let broker = TestBroker::start().await;
    let platform = broker.platform_token();
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    for bearer in [platform.as_str(), token, "dayflyop_guessed", SERVER_SECRET] {
        let request = broker
            .http
            .get(format!("{}/admin/v1/leases", broker.url))
            .bearer_auth(bearer);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, 401, "{}", answer.body);
    }
    let bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    for assertion in [platform.as_str(), token] {
        let fields = form(&[
            ("token", token),
            ("client_assertion_type", bearer),
            ("client_assertion", assertion),
        ]);
        assert_eq!(broker.post("/introspect", &fields).await.status, 401);
    }
    // An access token of ours proves nobody: whoever acts on it must prove who that is.
    let fields = with(broker.good_form(), "subject_token", token);
    let answer = broker.exchange(&fields).await;
    assert_eq!(answer.status, 401, "{}", answer.body);
    let fields = form(&[("token", token)]);
    let request = broker
        .http
        .post(format!("{}/token", broker.url))
        .basic_auth("deploy-api", Some(SERVER_SECRET))
        .form(&with(fields, "grant_type", "client_credentials"));
    assert_eq!(Answer::of(request.send().await.unwrap()).await.status, 401);
}
