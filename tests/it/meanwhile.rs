//! What is ended while somebody waits for an answer about it: the answer looks at the view last.

use crate::postgres::World;
use crate::support::broker::{Answer, Setup, TestBroker};
use crate::support::gate::Gate;
use crate::support::process::until;
use dayfly::broker::Reason;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

fn gate() -> (Arc<Gate>, Setup) {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let gate = Gate::before(&store);
    let setup = Setup {
        store: Some(gate.clone()),
        ..Setup::default()
    };
    (gate, setup)
}

/// Ends what it covers and holds nothing, so that only the view tells.
async fn kill(broker: &TestBroker, selector: Value) {
    let body = json!({ "selector": selector, "reason": "a test says so", "kill_only": true });
    let killed = broker.admin("POST", "/revocations", Some(body)).await;
    assert_eq!(killed.status, 200, "{}", killed.body);
}

fn is_refused(answer: &Answer) {
    let reason = Reason::RevokedMeanwhile.code();
    assert_eq!(
        (answer.status, answer.reason()),
        (400, reason),
        "{}",
        answer.body
    );
    let members = answer.body.as_object().unwrap();
    let given = ["access_token", "credential", "lease_id"];
    assert!(given.iter().all(|name| !members.contains_key(*name)));
}

/// The only lease that there is, by the audit.
async fn lease(broker: &TestBroker) -> Value {
    let page = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let items = page["items"].as_array().unwrap().iter();
    let told: BTreeSet<_> = items.filter_map(|item| item["lease"].as_str()).collect();
    assert_eq!(told.len(), 1, "{page}");
    let path = format!("/leases/{}", told.first().unwrap());
    broker.admin("GET", &path, None).await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_before_it_is_answered_is_not_answered() {
    for selector in [
        json!({ "mission": "deploy-checkout" }),
        json!({ "agent": "deployer" }),
        json!("all"),
    ] {
        let (gate, setup) = gate();
        let broker = TestBroker::with(setup).await;
        // It is written, and the broker has not heard so.
        gate.hold_writing("lease/", 0);
        let form = broker.good_form();
        let ending = async {
            gate.until_waiting(1).await;
            kill(&broker, selector.clone()).await;
            gate.answer();
        };
        let (answer, ()) = tokio::join!(broker.exchange(&form), ending);
        is_refused(&answer);
        assert_eq!(lease(&broker).await["alive"], false, "{selector}");
        // It was the end that refused it, and ends nothing after it.
        broker.issue().await;
    }
}

/// It is decided on the view that there was before anything was asked.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_while_its_caller_is_verified_is_ended_for_it_too() {
    let broker = TestBroker::start().await;
    broker.issuer.slow(true);
    let form = broker.good_form();
    let ending = async {
        until("the keys are asked for", || async {
            broker.issuer.asked() > 0
        })
        .await;
        kill(&broker, json!({ "mission": "deploy-checkout" })).await;
        broker.issuer.slow(false);
    };
    let (answer, ()) = tokio::join!(broker.exchange(&form), ending);
    is_refused(&answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_before_its_login_is_answered_is_not_answered_and_the_login_is_gone() {
    let (gate, setup) = gate();
    let Some(world) = World::with(setup).await else {
        return;
    };
    // The second writing: the login is there, and its handle is on record.
    gate.hold_writing("lease/", 1);
    let ending = async {
        gate.until_waiting(1).await;
        assert_eq!(world.made().await, 1);
        kill(&world.broker, json!({ "mission": "read-orders" })).await;
        gate.answer();
    };
    let (answer, ()) = tokio::join!(world.ask("public.orders"), ending);
    is_refused(&answer);
    until("the login is gone", || async { world.made().await == 0 }).await;
    let lease = lease(&world.broker).await;
    assert_eq!(lease["alive"], false, "{lease}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_while_the_target_makes_it_is_ended_there_with_the_answer() {
    let (gate, setup) = gate();
    let Some(world) = World::with(setup).await else {
        return;
    };
    // No sweeper comes to do it instead.
    gate.hold_ranges("lease-ending");
    gate.until_waiting(1).await;
    let waiting = gate.waiting();
    // The first writing: the reservation. The login is made after it.
    gate.hold_writing("lease/", 0);
    let ending = async {
        until("the reservation waits", || async {
            let open = world.broker.admin("GET", "/leases", None).await;
            gate.waiting() > waiting && open.body["items"][0]["state"] == "reserved"
        })
        .await;
        kill(&world.broker, json!({ "mission": "read-orders" })).await;
        assert_eq!(world.made().await, 0);
        gate.answer();
    };
    let (answer, ()) = tokio::join!(world.ask("public.orders"), ending);
    is_refused(&answer);
    // Not soon: by now.
    assert_eq!(world.made().await, 0);
    let lease = lease(&world.broker).await;
    assert_eq!(lease["state"], "revoked", "{lease}");
    gate.open();
}

/// Past its bound nothing is vouched for, and what was made for nobody is ended.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_when_the_view_is_too_old_is_not_answered() {
    let (gate, setup) = gate();
    let broker = TestBroker::with(setup).await;
    gate.hold_writing("lease/", 0);
    let form = broker.good_form();
    let ageing = async {
        gate.until_waiting(1).await;
        gate.hold_tails();
        tokio::time::sleep(Duration::from_millis(1300)).await;
        gate.answer();
    };
    let (answer, ()) = tokio::join!(broker.exchange(&form), ageing);
    // "Later" tells nobody why.
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.body.get("access_token").is_none());
    gate.let_tails();
    until("it is followed again", || async {
        broker.composed.broker.ready().await.is_ok()
    })
    .await;
    until("nobody has it, so it is ended", || async {
        lease(&broker).await["alive"] == false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_ended_while_its_lease_is_read_is_dead() {
    for selector in [
        json!({ "mission": "deploy-checkout" }),
        json!({ "target": "deploy-api" }),
    ] {
        let (gate, setup) = gate();
        let broker = TestBroker::with(setup).await;
        let issued = broker.issue().await;
        let token = issued["access_token"].as_str().unwrap();
        // What is read is alive: the end comes after it.
        gate.hold_next_reading("lease/");
        let ending = async {
            gate.until_waiting(1).await;
            kill(&broker, selector.clone()).await;
            gate.answer();
        };
        let (told, ()) = tokio::join!(broker.introspect(token), ending);
        assert_eq!(told.status, 200, "{}", told.body);
        assert_eq!(told.body, json!({ "active": false }), "{selector}");
    }
}
