//! Shrink instead of kill: something is taken away on a target, from everybody, for a while.

use crate::support::broker::{Setup, TestBroker, with};
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn deny(action: &str) -> Value {
    json!({ "target": "deploy-api", "actions": [action], "reason": "INC-4711" })
}

async fn restrict(broker: &TestBroker, body: Value) -> Value {
    let answer = broker.admin("POST", "/restrictions", Some(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// A form that asks for this by name.
fn asking(broker: &TestBroker, action: &str, location: &str) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"][0]["actions"] = json!([action]);
    claims["authorization_details"][0]["locations"] = json!([location]);
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&claims))
}

const CHECKOUT: &str = "https://deploy.example/checkout";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restricted_is_refused_and_everything_else_goes_on() {
    let broker = TestBroker::start().await;
    let before = broker.issue().await;
    let receipt = restrict(&broker, deny("deploy:wr*")).await;
    assert_eq!(receipt["state"], "in_force");
    assert_eq!(receipt["leases"][0]["id"], before["lease_id"], "listed");
    let refused = broker.exchange(&broker.good_form()).await;
    assert_refused(&refused, Reason::Restricted, "write");
    assert_eq!(refused.reason(), "restricted");
    assert_eq!(refused.body["at"], "authorization_details[0].actions[0]");
    let read = asking(&broker, "deploy:read", CHECKOUT);
    assert_eq!(broker.exchange(&read).await.status, 200);
    // Listed, not ended.
    let token = before["access_token"].as_str().unwrap();
    assert!(broker.is_active(token).await);
    // The audit says what was taken away, and by whom.
    let audit = broker.admin("GET", "/audit", None).await.body;
    let entry = audit["items"].as_array().unwrap().iter();
    let entry = entry.clone().find(|entry| entry["event"] == "fence_raised");
    let entry = entry.unwrap();
    assert_eq!(entry["detail"]["kind"], "restrict");
    assert_eq!(
        entry["detail"]["denied"][0]["actions"],
        json!(["deploy:wr*"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_the_whole_mission_gets_the_rest_of_it() {
    let broker = TestBroker::start().await;
    restrict(&broker, deny("deploy:write")).await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims
        .as_object_mut()
        .unwrap()
        .remove("authorization_details");
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let answer = broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let granted = &answer.body["authorization_details"];
    assert_eq!(granted.as_array().unwrap().len(), 1);
    assert_eq!(granted[0]["actions"], json!(["deploy:read"]));
    restrict(&broker, deny("deploy:*")).await;
    let token = broker.platform_token();
    claims["subject_token_hash"] = broker.intent_claims(&token)["subject_token_hash"].clone();
    claims["jti"] = json!("another");
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let nothing = broker.exchange(&form).await;
    assert_refused(&nothing, Reason::Restricted, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_could_do_it_are_ended_and_stay_dead_when_it_is_lifted() {
    let broker = TestBroker::start().await;
    let write = broker.issue().await["access_token"].clone();
    let read = broker
        .exchange(&asking(&broker, "deploy:read", CHECKOUT))
        .await;
    let read = read.body["access_token"].clone();
    let mut body = deny("deploy:write");
    body["end_leases"] = json!(true);
    let dry = "/restrictions?dry_run=true";
    let dry = broker.admin("POST", dry, Some(body.clone())).await.body;
    assert_eq!((&dry["state"], dry.get("id")), (&json!("dry_run"), None));
    assert_eq!(dry["leases"].as_array().unwrap().len(), 1);
    assert!(broker.is_active(write.as_str().unwrap()).await);
    let receipt = restrict(&broker, body).await;
    assert_eq!(receipt["leases"].as_array().unwrap().len(), 1);
    assert!(!broker.is_active(write.as_str().unwrap()).await);
    assert!(broker.is_active(read.as_str().unwrap()).await);
    let listed = broker.admin("GET", "/restrictions", None).await.body;
    assert_eq!(listed["items"][0]["id"], receipt["id"]);
    let path = format!("/restrictions/{}/lift", receipt["id"].as_str().unwrap());
    let lift = json!({ "reason": "closed" });
    let lifted = broker.admin("POST", &path, Some(lift.clone())).await;
    assert_eq!(lifted.body["state"], "lifted", "{}", lifted.body);
    let again = broker.admin("POST", &path, Some(lift)).await;
    assert_eq!(again.status, 404);
    assert_eq!(broker.exchange(&broker.good_form()).await.status, 200);
    assert!(
        !broker.is_active(write.as_str().unwrap()).await,
        "dead for good"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lifts_by_itself_at_its_end() {
    let broker = TestBroker::start().await;
    let mut body = deny("deploy:write");
    body["for_seconds"] = json!(1);
    restrict(&broker, body).await;
    let refused = broker.exchange(&broker.good_form()).await;
    assert_refused(&refused, Reason::Restricted, "within its time");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(broker.exchange(&broker.good_form()).await.status, 200);
    let listed = broker.admin("GET", "/restrictions", None).await.body;
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_restricts_too() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let one = TestBroker::with(Setup {
        store: Some(store.clone()),
        ..Setup::default()
    })
    .await;
    let two = TestBroker::with(Setup {
        store: Some(store),
        issuer: Some(one.issuer.clone()),
        public_url: Some(one.url.clone()),
        ..Setup::default()
    })
    .await;
    let token = two.issue().await["access_token"].clone();
    let mut body = deny("deploy:write");
    body["end_leases"] = json!(true);
    restrict(&one, body).await;
    // The bound on every view.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = two.exchange(&two.good_form()).await;
    assert_refused(&refused, Reason::Restricted, "at the other replica");
    assert!(!two.is_active(token.as_str().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restriction_that_would_not_do_what_it_says_is_refused() {
    let broker = TestBroker::start().await;
    let mut odd = deny("deploy:write");
    odd["actions"] = json!([]);
    let mut endless = deny("deploy:write");
    endless["for_seconds"] = json!(31 * 24 * 3600);
    let mut silent = deny("deploy:write");
    silent["reason"] = json!(" ");
    let mut mistyped = deny("deploy:write");
    mistyped["end_lease"] = json!(true);
    for (what, body) in [
        ("no action", odd),
        ("too long", endless),
        ("no reason", silent),
        ("an unknown member", mistyped),
    ] {
        let answer = broker.admin("POST", "/restrictions", Some(body)).await;
        assert_refused(&answer, Reason::MalformedRequest, what);
    }
    let mut elsewhere = deny("deploy:write");
    elsewhere["target"] = json!("nowhere");
    let answer = broker.admin("POST", "/restrictions", Some(elsewhere)).await;
    assert_refused(&answer, Reason::NotFound, "no such target");
    for number in 0..64 {
        restrict(&broker, deny(&format!("deploy:{number}"))).await;
    }
    let answer = broker
        .admin("POST", "/restrictions", Some(deny("deploy:x")))
        .await;
    assert_refused(&answer, Reason::NotPermitted, "one too many");
}
