//! What was signed once stays signed: a message is acted on once, and only once it was.

use super::{SOURCES, form_of, github, hmac, issue, run, send, signed};
use crate::support::broker::{Answer, Setup, TestBroker, unique};
use crate::support::gate::Gate;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;

fn context() -> Value {
    json!({ "issuer": "ci", "kind": "pipeline", "id": "1234:77/1" })
}

async fn lift(broker: &TestBroker) {
    let issuer = broker.issuer.url.as_str();
    for issuer in [issuer, "ci"] {
        let mut context = context();
        context["issuer"] = json!(issuer);
        let body = json!({ "selector": { "context": context }, "reason": "it was a mistake" });
        let answer = broker.admin("POST", "/lifts", Some(body)).await;
        assert!([200, 404].contains(&answer.status), "{}", answer.body);
    }
    assert_eq!(ask(broker).await.status, 200, "it is lifted");
}

async fn ask(broker: &TestBroker) -> Answer {
    broker.exchange(&form_of(broker, Some("1"))).await
}

async fn on(store: &Arc<dyn Store>, like: Option<&TestBroker>) -> TestBroker {
    TestBroker::with(Setup {
        issuer: like.map(|like| like.issuer.clone()),
        key: like.map(|like| like.key.clone()),
        public_url: like.map(|like| like.url.clone()),
        store: Some(Arc::clone(store)),
        more: SOURCES.to_owned(),
        ..Setup::default()
    })
    .await
}

fn store() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory().unwrap())
}

/// A message of each kind that ends the first attempt of run 77, as it can be recorded.
async fn tell(broker: &TestBroker, kind: &str, sent: i64) -> u16 {
    let answer = match kind {
        "github" => {
            // Not part of what is signed: a replay may have another.
            let body = run(1234, 1, "completed");
            let (signature, delivery) = (hmac(body.as_bytes()), unique());
            let headers = [
                ("x-github-event", "workflow_run"),
                ("x-github-delivery", &*delivery),
                ("x-hub-signature-256", &*signature),
            ];
            send(broker, "github", &headers, &body).await
        }
        _ => {
            let body = json!({ "kind": "pipeline", "id": "1234:77/1" });
            signed(broker, "ci", sent, &body.to_string()).await
        }
    };
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_after_a_lift_holds_nothing_again() {
    let store = store();
    let one = on(&store, None).await;
    for kind in ["github", "generic"] {
        let sent = one.now();
        let token = issue(&one, Some("1")).await;
        assert_eq!(tell(&one, kind, sent).await, 204, "{kind}");
        assert!(!one.is_active(&token).await, "{kind}");
        assert_eq!(ask(&one).await.reason(), "held", "{kind}");
        lift(&one).await;
        let token = issue(&one, Some("1")).await;
        // What one replica heard, the next one knows.
        let two = on(&store, Some(&one)).await;
        for broker in [&one, &two] {
            assert_eq!(tell(broker, kind, sent).await, 204, "{kind}");
            assert!(broker.is_active(&token).await, "{kind}");
            assert_eq!(ask(broker).await.status, 200, "{kind}");
        }
    }
    // It is said anew: signed at another time.
    assert_eq!(tell(&one, "generic", one.now() - 9).await, 204);
    assert_eq!(ask(&one).await.reason(), "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_source_or_another_run_says_is_another_message() {
    let broker = on(&store(), None).await;
    let sent = broker.now();
    assert_eq!(tell(&broker, "github", sent).await, 204);
    lift(&broker).await;
    assert_eq!(tell(&broker, "generic", sent).await, 204);
    assert_eq!(ask(&broker).await.reason(), "held", "another source");
    lift(&broker).await;
    // The same end, told at another time.
    let mut body: Value = serde_json::from_str(&run(1234, 1, "completed")).unwrap();
    body["workflow_run"]["updated_at"] = json!("2026-11-22T03:05:00Z");
    assert_eq!(github(&broker, &body.to_string()).await.status, 204);
    assert_eq!(ask(&broker).await.reason(), "held", "another body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_found_it_held_is_spent_as_well() {
    let broker = on(&store(), None).await;
    let ended = broker.admin("POST", "/contexts/end", Some(context())).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    let mut by_url = context();
    by_url["issuer"] = json!(broker.issuer.url);
    let ended = broker.admin("POST", "/contexts/end", Some(by_url)).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert_eq!(tell(&broker, "github", 0).await, 204);
    lift(&broker).await;
    assert_eq!(tell(&broker, "github", 0).await, 204);
    assert_eq!(
        ask(&broker).await.status,
        200,
        "it was heard before the lift"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_handling_failed_is_handled_when_it_is_delivered_again() {
    let gate = Gate::before(&store());
    let gated: Arc<dyn Store> = gate.clone();
    let broker = on(&gated, None).await;
    let token = issue(&broker, Some("1")).await;
    gate.refuse("fences");
    assert_eq!(
        tell(&broker, "github", 0).await,
        503,
        "the log takes nothing"
    );
    assert_eq!(tell(&broker, "github", 0).await, 503);
    assert!(broker.is_active(&token).await);
    gate.open();
    assert_eq!(tell(&broker, "github", 0).await, 204);
    assert!(!broker.is_active(&token).await);
    assert_eq!(ask(&broker).await.reason(), "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_may_leave_twice_in_the_same_words() {
    let people = "[source.people]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\nends = [\"acme.example\"]\n";
    let broker = TestBroker::with(Setup {
        more: people.to_owned(),
        ..Setup::default()
    })
    .await;
    let says = async |active: bool| {
        let body = json!({ "userName": "payments@acme.example", "active": active });
        let bearer = [("authorization", "Bearer hook-secret")];
        send(&broker, "people", &bearer, &body.to_string())
            .await
            .status
    };
    for _ in 0..2 {
        assert_eq!(says(false).await, 204);
        assert_ne!(ask(&broker).await.status, 200, "gone");
        assert_eq!(says(true).await, 204);
        assert_eq!(ask(&broker).await.status, 200, "back");
    }
}
