//! Facts that the broker asks for: what they prove, for how long, and what ends when they change.

mod told;

use crate::support::broker::{Setup, TestBroker};
use crate::support::process::until;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Says whether changes are frozen, while it says anything.
#[derive(Clone)]
struct Calendar(Arc<Mutex<Option<Value>>>);

impl Calendar {
    async fn start() -> (Self, String) {
        let calendar = Self(Arc::new(Mutex::new(Some(json!({ "state": "open" })))));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/freeze.json", listener.local_addr().unwrap());
        let answer = calendar.clone();
        let get = axum::routing::get(move || async move {
            match answer.0.lock().unwrap().clone() {
                Some(said) => Ok(axum::Json(said)),
                None => Err(axum::http::StatusCode::BAD_GATEWAY),
            }
        });
        let app = axum::Router::new().route("/freeze.json", get);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (calendar, url)
    }

    fn says(&self, said: Option<Value>) {
        *self.0.lock().unwrap() = said;
    }
}

fn polled(url: &str) -> String {
    let poll = format!(
        "{{ url = \"{url}\", every = \"1s\", max_age = \"2s\", pointers = {{ \"freeze.state\" = \"/state\" }} }}"
    );
    format!("\n[facts.calendar]\npoll = {poll}\n{CAREFUL}")
}

const CAREFUL: &str = r#"
[agent.careful]
owner = "payments@acme.example"
purpose = "Deploys while nothing is frozen"
ends = 2099-01-01
identity = { issuer = "ci", subject = "repo:acme/careful" }
intent_keys = "file:deployer.jwks.json"
limits = { active = 100, per_minute = 100000 }
[mission.careful-deploy]
agents = ["careful"]
owner = "sre@acme.example"
purpose = "Ship while nothing is frozen"
require = { "freeze.state" = "open" }
tether = ["freeze.state"]
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]
"#;

async fn start(url: &str) -> TestBroker {
    let broker = TestBroker::with(Setup {
        more: polled(url),
        ..Setup::default()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    broker
}

async fn ask(broker: &TestBroker) -> crate::support::broker::Answer {
    let mut claims = broker.platform_claims();
    claims["sub"] = json!("repo:acme/careful");
    let token = broker.issuer.sign(&claims);
    let mut claims = broker.intent_claims(&token);
    for name in ["iss", "sub", "client_id"] {
        claims[name] = json!("careful");
    }
    claims["mission"]["id"] = json!("careful-deploy");
    let form = crate::support::broker::with(broker.good_form(), "subject_token", &token);
    let form = crate::support::broker::with(form, "intent", &broker.sign_intent(&claims));
    broker.exchange(&form).await
}

async fn issue(broker: &TestBroker) -> String {
    let answer = ask(broker).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_ends_what_hung_on_its_absence_and_its_end_lets_work_go_on() {
    let (calendar, url) = Calendar::start().await;
    let broker = start(&url).await;
    let token = issue(&broker).await;
    let other = broker.issue().await["access_token"].clone();
    calendar.says(Some(json!({ "state": "frozen" })));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!broker.is_active(&token).await, "what hung on it is dead");
    assert!(
        broker.is_active(other.as_str().unwrap()).await,
        "and nothing else"
    );
    assert_refused(&ask(&broker).await, Reason::RequirementUnmet, "frozen");
    calendar.says(Some(json!({ "state": "open" })));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!broker.is_active(&token).await, "dead for good");
    let again = issue(&broker).await;
    assert!(broker.is_active(&again).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_answered_or_not_told_is_refused() {
    let (calendar, url) = Calendar::start().await;
    let broker = start(&url).await;
    let token = issue(&broker).await;
    calendar.says(None);
    issue(&broker).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The fact that it would hang on is what it is told of first.
    assert_refused(
        &ask(&broker).await,
        Reason::TetherMissing,
        "too old an answer",
    );
    assert!(broker.is_active(&token).await, "no answer ends nothing");
    calendar.says(Some(json!({ "state": { "deep": "open" } })));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_refused(&ask(&broker).await, Reason::TetherMissing, "no fact");
    assert!(
        !broker.is_active(&token).await,
        "what is said no more has ended"
    );
}

/// Another replica of the same installation.
async fn beside(broker: &TestBroker, store: &Arc<dyn Store>, more: String) -> TestBroker {
    TestBroker::with(Setup {
        issuer: Some(broker.issuer.clone()),
        key: Some(broker.key.clone()),
        public_url: Some(broker.url.clone()),
        store: Some(Arc::clone(store)),
        more,
        ..Setup::default()
    })
    .await
}

async fn kills(broker: &TestBroker) -> usize {
    let page = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let entries = page["items"].as_array().unwrap().iter();
    let raised = entries.filter(|entry| entry["event"] == "fence_raised");
    let kills = raised.filter(|entry| entry["detail"]["kind"] == "kill");
    kills.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_replicas_ends_a_fact_that_changed_once_and_for_both() {
    let (calendar, url) = Calendar::start().await;
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let one = TestBroker::with(Setup {
        store: Some(Arc::clone(&store)),
        more: polled(&url),
        ..Setup::default()
    })
    .await;
    let two = beside(&one, &store, polled(&url)).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let tokens = [issue(&one).await, issue(&two).await];
    calendar.says(Some(json!({ "state": "frozen" })));
    until("both refuse", || async {
        let refused = Reason::RequirementUnmet.code();
        ask(&one).await.reason() == refused && ask(&two).await.reason() == refused
    })
    .await;
    for broker in [&one, &two] {
        for token in &tokens {
            until("it is dead", || async { !broker.is_active(token).await }).await;
        }
    }
    // They ask again and again, and it is said no more often.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(kills(&one).await, 2, "one of each replica");
    calendar.says(Some(json!({ "state": "open" })));
    until("work goes on", || async {
        ask(&one).await.status == 200 && ask(&two).await.status == 200
    })
    .await;
}
