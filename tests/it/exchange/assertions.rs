//! Client assertions with exactly one thing wrong.

use crate::support::broker::{Answer, b64, with, without};
use crate::support::forge::{flipped, sign, sign_with_public_key, spoiled};
use crate::support::world::{World, assert_refused, key};
use dayfly::broker::Reason;
use serde_json::{Value, json};

/// Sends the good form with this assertion in it, then the good form itself.
async fn refused(world: &World, what: &str, spoil: impl FnOnce(&Value) -> String) {
    let claims = world.assertion_claims();
    let good = with(
        world.robot_form(),
        "client_assertion",
        &world.sign_assertion(&claims),
    );
    let bad = with(good.clone(), "client_assertion", &spoil(&claims));
    let answer = world.broker.exchange(&bad).await;
    assert_refused(&answer, Reason::InvalidClient, what);
    assert!(!answer.headers.contains_key("www-authenticate"), "{what}");
    let answer = world.broker.exchange(&good).await;
    assert_eq!(answer.status, 200, "after {what}: {}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_a_jws_of_the_clients_key() {
    let world = World::start().await;
    for text in ["x", "a.b", "a.b.c", "a.b.c.d.e", "\u{1f600}"] {
        refused(&world, text, |_| text.to_owned()).await;
    }
    let kid = world.robot.verifying().kid();
    let good = json!({ "alg": "ES256", "typ": "JWT", "kid": kid });
    for (what, name, value) in [
        ("an intent's typ", "typ", json!("intent+jwt")),
        ("an access token's typ", "typ", json!("at+jwt")),
        ("another algorithm", "alg", json!("EdDSA")),
        ("an unknown kid", "kid", json!("nobody")),
        ("crit", "crit", json!(["exp"])),
        ("its own key", "jwk", world.robot.public_jwk()),
        ("jku", "jku", json!("https://keys.example")),
    ] {
        let header = spoiled(&good, name, value);
        refused(&world, what, |claims| sign(&world.robot, &header, claims)).await;
    }
    refused(&world, "alg none", |claims| {
        let part = |value: &Value| b64(value.to_string().as_bytes());
        format!("{}.{}.", part(&json!({ "alg": "none" })), part(claims))
    })
    .await;
    refused(&world, "HMAC with the public key", |claims| {
        sign_with_public_key(&world.robot, &json!({ "alg": "HS256" }), claims)
    })
    .await;
    let stranger = key();
    refused(&world, "another key", |claims| {
        sign(&stranger, &good, claims)
    })
    .await;
    refused(&world, "another agent's key", |claims| {
        sign(&world.broker.key, &json!({ "alg": "ES256" }), claims)
    })
    .await;
    refused(&world, "a changed signature", |c| {
        flipped(&world.sign_assertion(c))
    })
    .await;
    refused(&world, "9 KiB", |c| {
        world.sign_assertion(&spoiled(c, "x", json!("x".repeat(9 * 1024))))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_of_this_client_for_this_broker_and_of_now() {
    let world = World::start().await;
    let now = world.broker.now();
    let url = world.broker.url.clone();
    for (what, name, value) in [
        ("no exp", "exp", Value::Null),
        ("exp is text", "exp", json!("soon")),
        ("exp is past", "exp", json!(now - 61)),
        ("a life over an hour", "exp", json!(now + 3700)),
        ("nbf is to come", "nbf", json!(now + 100)),
        ("iat is to come", "iat", json!(now + 100)),
        ("another audience", "aud", json!("https://other.example")),
        (
            "two audiences",
            "aud",
            json!([url, "https://other.example"]),
        ),
        ("the token endpoint", "aud", json!(format!("{url}/token"))),
        ("no audience", "aud", Value::Null),
        ("no issuer", "iss", Value::Null),
        ("another issuer", "iss", json!("deployer")),
        ("no subject", "sub", Value::Null),
        ("another subject", "sub", json!("deployer")),
        ("an endless jti", "jti", json!("x".repeat(300))),
        ("a jti that is a number", "jti", json!(1)),
    ] {
        let spoil = |claims: &Value| world.sign_assertion(&spoiled(claims, name, value));
        refused(&world, what, spoil).await;
    }
    refused(&world, "an unknown client", |claims| {
        let claims = spoiled(claims, "iss", json!("nobody"));
        world.sign_assertion(&spoiled(&claims, "sub", json!("nobody")))
    })
    .await;
    refused(&world, "an agent without a key", |claims| {
        let claims = spoiled(claims, "iss", json!("deployer"));
        world.sign_assertion(&spoiled(&claims, "sub", json!("deployer")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_who_it_is_once_and_in_one_way() {
    let world = World::start().await;
    let good = world.robot_form();
    let broker = &world.broker;
    let other = broker
        .exchange(&with(good.clone(), "client_id", "deployer"))
        .await;
    assert_refused(&other, Reason::InvalidClient, "another client_id");
    let kind = with(good.clone(), "client_assertion_type", "urn:example:saml");
    let answer = broker.exchange(&kind).await;
    assert_refused(&answer, Reason::InvalidClient, "another type of assertion");
    let untyped = without(good.clone(), "client_assertion_type");
    let answer = broker.exchange(&untyped).await;
    assert_refused(&answer, Reason::MalformedRequest, "no type of assertion");
    let bare = without(good.clone(), "client_assertion");
    let answer = broker.exchange(&bare).await;
    assert_refused(&answer, Reason::MalformedRequest, "a type and no assertion");
    let secret = with(good.clone(), "client_secret", "x");
    let answer = broker.exchange(&secret).await;
    assert_refused(&answer, Reason::InvalidClient, "a secret in the body");

    let header = |form: Vec<(String, String)>, secret: &'static str| async move {
        let request = broker.http.post(format!("{}/token", broker.url));
        let request = request.basic_auth("robot", Some(secret)).form(&form);
        Answer::of(request.send().await.unwrap()).await
    };
    let answer = header(good.clone(), "x").await;
    assert_refused(&answer, Reason::MalformedRequest, "two ways at once");
    let lone = without(
        without(good.clone(), "client_assertion"),
        "client_assertion_type",
    );
    let answer = header(lone, "x").await;
    assert_refused(&answer, Reason::InvalidClient, "a password");
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Basic "), "{challenge}");
    // What oauthlib sends beside an assertion is no second way.
    let answer = header(good, "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_intent_does_not_spend_the_assertion_beside_it() {
    let world = World::start().await;
    let good = world.robot_form();
    let bad = with(good.clone(), "intent", "x.y.z");
    let answer = world.broker.exchange(&bad).await;
    assert_refused(&answer, Reason::InvalidIntent, "a bad intent");
    let answer = world.broker.exchange(&good).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}
