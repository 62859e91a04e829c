//! `jwt-bearer` (RFC 7523 section 2.1): the assertion is what a subject token or a client assertion
//! would be, and goes the same way.

use crate::support::broker::{form, with, without};
use crate::support::forge::spoiled;
use crate::support::world::{ASSERTION, World, assert_refused};
use dayfly::broker::Reason;
use serde_json::json;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The robot's own assertion as the grant, with a signed intent.
fn own(world: &World) -> Vec<(String, String)> {
    let assertion = world.sign_assertion(&world.assertion_claims());
    let intent = world.sign_robot_intent(&world.robot_intent_claims());
    form(&[
        ("grant_type", JWT_BEARER),
        ("assertion", &assertion),
        ("audience", "deploy-api"),
        ("intent", &intent),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_granted_by_its_own_assertion_what_its_intent_says() {
    let world = World::start().await;
    let answer = world.broker.exchange(&own(&world)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["mission"], "robot-work");
    assert!(answer.body.get("refresh_token").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_granted_by_its_platforms_token_what_its_mission_says() {
    let world = World::start().await;
    let form = form(&[
        ("grant_type", JWT_BEARER),
        ("assertion", &world.broker.platform_token()),
        ("audience", "deploy-api"),
        ("scope", "mission:nightly deploy:read"),
    ]);
    let answer = world.broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["mission"], "nightly");
    assert_eq!(answer.body["scope"], "deploy:read");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_is_no_good_is_an_invalid_grant_whoever_signed_it() {
    let world = World::start().await;
    let claims = world.assertion_claims();
    let platform = world.broker.platform_claims();
    let other = json!("https://other.example");
    for (what, assertion) in [
        ("no JWT", "x".to_owned()),
        (
            "another audience",
            world.sign_assertion(&spoiled(&claims, "aud", other.clone())),
        ),
        (
            "an unknown client",
            world.sign_assertion(&spoiled(
                &spoiled(&claims, "iss", json!("nobody")),
                "sub",
                json!("nobody"),
            )),
        ),
        (
            "a platform's for somebody else",
            world.broker.issuer.sign(&spoiled(&platform, "aud", other)),
        ),
    ] {
        let answer = world
            .broker
            .exchange(&with(own(&world), "assertion", &assertion))
            .await;
        assert_refused(&answer, Reason::InvalidAssertion, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_spent_whichever_way_it_was_sent() {
    let world = World::start().await;
    let assertion = world.sign_assertion(&world.assertion_claims());
    let granted = with(own(&world), "assertion", &assertion);
    assert_eq!(world.broker.exchange(&granted).await.status, 200);
    let again = with(own(&world), "assertion", &assertion);
    let again = world.broker.exchange(&again).await;
    assert_refused(&again, Reason::InvalidAssertion, "as a grant");
    let client = with(world.robot_form(), "client_assertion", &assertion);
    let client = world.broker.exchange(&client).await;
    assert_refused(&client, Reason::InvalidClient, "as client authentication");

    let token = world.sign_once(&world.once_claims());
    let subject = world.broker.exchange(&world.once_form(&token)).await;
    assert_eq!(subject.status, 200, "{}", subject.body);
    let as_grant = form(&[
        ("grant_type", JWT_BEARER),
        ("assertion", &token),
        ("audience", "deploy-api"),
    ]);
    let as_grant = world.broker.exchange(&as_grant).await;
    assert_refused(&as_grant, Reason::InvalidAssertion, "a platform's token");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_authentication_beside_a_grant_fails_as_client_authentication() {
    let world = World::start().await;
    let spent = world.sign_assertion(&world.assertion_claims());
    let first = with(world.robot_form(), "client_assertion", &spent);
    assert_eq!(world.broker.exchange(&first).await.status, 200);
    let form = with(own(&world), "client_assertion", &spent);
    let form = with(form, "client_assertion_type", ASSERTION);
    let answer = world.broker.exchange(&form).await;
    assert_refused(&answer, Reason::InvalidClient, "spent before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_belongs_to_its_grant_and_to_no_other() {
    let world = World::start().await;
    let bad = Reason::MalformedRequest;
    for (what, form) in [
        ("no assertion", without(own(&world), "assertion")),
        (
            "with a subject",
            with(own(&world), "subject_token", &world.broker.platform_token()),
        ),
        (
            "with client_credentials",
            with(world.robot_form(), "assertion", "x"),
        ),
        (
            "with token exchange",
            with(world.broker.good_form(), "assertion", "x"),
        ),
        (
            "too long",
            with(own(&world), "assertion", &"x".repeat(16 * 1024 + 1)),
        ),
    ] {
        assert_refused(&world.broker.exchange(&form).await, bad, what);
    }
}
