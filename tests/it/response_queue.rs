//! What a response asked for is done once, whichever replica lives; and lifetimes are shortened by one.

use crate::support::broker::{Setup, TestBroker, with};
use crate::support::process::{Installation, until};
use crate::support::redis::RedisServer;
use dayfly::steps::Step;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Only what comes after the first look is answered.
const FIRST_LOOK: Duration = Duration::from_millis(1500);

fn raised_by_response(audit: &Value) -> usize {
    let all = audit["items"].as_array().unwrap().iter();
    all.filter(|entry| {
        entry["event"] == "fence_raised" && entry["detail"]["by"] == "response wanders"
    })
    .count()
}

/// Right before its fence is written and right after: what it had queued waits in the store.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_had_queued_when_it_died_another_does_once() {
    for step in [Step::Raising, Step::Raised] {
        let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
            return;
        };
        let installation = Installation::start().await;
        let response =
            "[[response]]\nname = \"wanders\"\non = \"exceeds_mission\"\ndo = [\"suspend\"]\n";
        let one = installation.on_redis("one", &redis.url(), response);
        let other = installation.on_redis("other", &redis.url(), response);
        let mut dying = one.spawn_mortal(0);
        dying.until_ready().await;
        tokio::time::sleep(FIRST_LOOK).await;
        let held = installation.issue(&dying).await["access_token"].clone();
        std::fs::write(one.folder.join("die-at"), step.name()).unwrap();
        let beyond = json!({
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:destroy"], "locations": ["https://deploy.example/checkout"],
        });
        let form = installation.form_for(&beyond);
        let refused = installation.exchange(&dying, &form).await.unwrap();
        assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
        dying.ended().await;
        let lives = other.serve().await;
        let ask = async |path: &str| {
            let answer = installation.admin(&lives, "GET", path, None).await;
            answer.unwrap().body
        };
        until("the agent is suspended", || async {
            ask("/agents/deployer").await["state"] == "suspended"
        })
        .await;
        assert!(!installation.is_active(&lives, held.as_str().unwrap()).await);
        // The claim of the dead one runs out after 30 s; a second round would be here by then.
        tokio::time::sleep(Duration::from_secs(36)).await;
        let audit = ask("/audit?limit=1000").await;
        assert_eq!(raised_by_response(&audit), 1, "{}: {audit}", step.name());
        let shown = ask("/agents/deployer").await;
        assert_eq!(shown["rule"], "response/wanders", "{shown}");
    }
}

async fn wander(broker: &TestBroker) {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"][0]["actions"] = json!(["deploy:destroy"]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let refused = broker.exchange(&form).await;
    assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
}

/// In minutes, as it was given: a second of it may be over.
async fn minutes(broker: &TestBroker) -> i64 {
    (broker.issue().await["expires_in"].as_i64().unwrap() + 59) / 60
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wanders_gets_shorter_lifetimes_until_it_is_lifted() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let more = "[[response]]\nname = \"wanders\"\non = \"exceeds_mission\"\ndo = [\"shorten\"]\n\
                shorten = { to = \"2m\", for = \"1h\" }\n";
    let setup = || Setup {
        store: Some(store.clone()),
        more: more.to_owned(),
        ..Setup::default()
    };
    let broker = TestBroker::with(setup()).await;
    tokio::time::sleep(FIRST_LOOK).await;
    let before = broker.issue().await;
    assert_eq!(minutes(&broker).await, 10, "the mission's");
    let standing = async |broker: &TestBroker| {
        let listed = broker.admin("GET", "/restrictions", None).await.body;
        listed["items"].as_array().unwrap().clone()
    };
    for _ in 0..2 {
        wander(&broker).await;
        tokio::time::sleep(FIRST_LOOK).await;
    }
    let listed = standing(&broker).await;
    assert_eq!(listed.len(), 1, "once: {listed:?}");
    assert_eq!(listed[0]["agent"], "deployer");
    assert_eq!(listed[0]["max_ttl"], 120);
    assert_eq!(listed[0]["by"], "response wanders");
    assert_eq!(listed[0]["target"], Value::Null);
    assert_eq!(minutes(&broker).await, 2);
    // What was alive lives on, and the agent is in standing.
    let token = before["access_token"].as_str().unwrap();
    assert!(broker.is_active(token).await);
    let card = broker.admin("GET", "/agents/deployer", None).await.body;
    assert_eq!(card["state"], "active");
    // It is the log's: a broker that starts later knows it.
    let next = TestBroker::with(Setup {
        issuer: Some(broker.issuer.clone()),
        public_url: Some(broker.url.clone()),
        ..setup()
    })
    .await;
    assert_eq!(standing(&next).await.len(), 1);
    let path = format!("/restrictions/{}/lift", listed[0]["id"].as_str().unwrap());
    let body = json!({ "reason": "it was us" });
    let lifted = broker.admin("POST", &path, Some(body)).await;
    assert_eq!(lifted.status, 200, "{}", lifted.body);
    assert_eq!(minutes(&broker).await, 10);
}
