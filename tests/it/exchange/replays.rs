//! What is good once is good once, however it is sent.

use crate::support::broker::{form, with};
use crate::support::world::{ASSERTION, World, assert_refused};
use dayfly::broker::Reason;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn of_one_intent_sent_twenty_times_at_once_exactly_one_is_granted() {
    let world = World::start().await;
    let form = world.broker.good_form();
    let all = (0..20).map(|_| world.broker.exchange(&form));
    let answers = futures_util::future::join_all(all).await;
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(granted, 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_refused(answer, Reason::IntentSpent, "a copy");
        assert_eq!(answer.reason(), "intent_spent");
    }
    let leases = world.broker.admin("GET", "/leases", None).await.body;
    assert_eq!(leases["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_jti_in_another_intent_is_a_replay() {
    let world = World::start().await;
    let broker = &world.broker;
    let sent = |goal: &str, jti: &str| {
        let token = broker.platform_token();
        let mut claims = broker.intent_claims(&token);
        claims["jti"] = json!(jti);
        claims["intent"]["goal"] = json!(goal);
        let form = with(broker.good_form(), "subject_token", &token);
        with(form, "intent", &broker.sign_intent(&claims))
    };
    let first = broker.exchange(&sent("one thing", "same")).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let again = broker.exchange(&sent("another thing", "same")).await;
    assert_refused(&again, Reason::IntentSpent, "the same jti");
    let other = broker.exchange(&sent("another thing", "other")).await;
    assert_eq!(other.status, 200, "{}", other.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_single_use_issuer_is_good_once() {
    let world = World::start().await;
    let claims = world.once_claims();
    let token = world.sign_once(&claims);
    let form = world.once_form(&token);
    // A refusal does not spend it.
    let wrong = with(form.clone(), "audience", "metrics-key");
    assert_eq!(world.broker.exchange(&wrong).await.status, 400);
    let first = world.broker.exchange(&form).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let again = world.broker.exchange(&form).await;
    assert_refused(&again, Reason::TokenSpent, "the same token");
    // ECDSA signs the same claims differently each time: it is the jti that counts.
    let resigned = world.once_form(&world.sign_once(&claims));
    let again = world.broker.exchange(&resigned).await;
    assert_refused(&again, Reason::TokenSpent, "the same claims");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_good_once_at_whatever_door() {
    let world = World::start().await;
    let broker = &world.broker;
    let assertion = world.sign_assertion(&world.assertion_claims());
    let fresh = || with(world.robot_form(), "client_assertion", &assertion);
    let first = broker.exchange(&fresh()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let again = broker.exchange(&fresh()).await;
    assert_refused(&again, Reason::InvalidClient, "another intent beside it");
    // Nor does it end a lease.
    let lease = first.body["lease_id"].as_str().unwrap();
    let end = |assertion: &str| {
        form(&[
            ("token", lease),
            ("client_assertion", assertion),
            ("client_assertion_type", ASSERTION),
        ])
    };
    let answer = broker.post("/revoke", &end(&assertion)).await;
    assert_refused(&answer, Reason::InvalidClient, "at the other door");
    let token = first.body["access_token"].as_str().unwrap();
    assert!(broker.is_active(token).await);
    // What ended a lease gets none.
    let other = world.sign_assertion(&world.assertion_claims());
    assert_eq!(broker.post("/revoke", &end(&other)).await.status, 200);
    assert!(!broker.is_active(token).await);
    let answer = broker
        .exchange(&with(world.robot_form(), "client_assertion", &other))
        .await;
    assert_refused(&answer, Reason::InvalidClient, "back at the first door");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_without_a_jti_is_known_by_what_it_signs() {
    let world = World::start().await;
    let mut claims = world.assertion_claims();
    claims.as_object_mut().unwrap().remove("jti");
    let first = world.sign_assertion(&claims);
    let again = world.sign_assertion(&claims);
    assert_ne!(first, again, "ECDSA signs differently each time");
    let with_it = |assertion: &str| with(world.robot_form(), "client_assertion", assertion);
    let answer = world.broker.exchange(&with_it(&first)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = world.broker.exchange(&with_it(&again)).await;
    assert_refused(&answer, Reason::InvalidClient, "signed again");
}
