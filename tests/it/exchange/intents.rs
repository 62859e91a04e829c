//! Intents with exactly one thing wrong.

use crate::support::broker::{b64, sha256, with};
use crate::support::forge::{flipped, sign, sign_raw, sign_with_public_key, spoiled};
use crate::support::world::{World, assert_refused, key};
use dayfly::broker::Reason;
use serde_json::{Value, json};

/// Sends the good form with this intent in it, then the good form itself.
async fn refused(world: &World, reason: Reason, what: &str, spoil: impl FnOnce(&Value) -> String) {
    let broker = &world.broker;
    let token = broker.platform_token();
    let claims = broker.intent_claims(&token);
    let good = with(broker.good_form(), "subject_token", &token);
    let good = with(good, "intent", &broker.sign_intent(&claims));
    let bad = with(good.clone(), "intent", &spoil(&claims));
    assert_refused(&broker.exchange(&bad).await, reason, what);
    let answer = broker.exchange(&good).await;
    assert_eq!(answer.status, 200, "after {what}: {}", answer.body);
}

fn header(world: &World) -> Value {
    json!({ "alg": "ES256", "typ": "intent+jwt", "jwk": world.broker.key.public_jwk() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_compact_jws_is_no_intent() {
    let world = World::start().await;
    for text in [
        "x",
        "a.b",
        "a.b.c",
        "..",
        "a.b.c.d.e",
        "{\"payload\":\"e30\"}",
        "\u{1f600}",
    ] {
        refused(&world, Reason::InvalidIntent, text, |_| text.to_owned()).await;
    }
    let good = |claims: &Value| world.broker.sign_intent(claims);
    let bad = Reason::InvalidIntent;
    refused(&world, bad, "a blank behind", |c| format!("{} ", good(c))).await;
    refused(&world, bad, "padding", |c| format!("{}==", good(c))).await;
    refused(&world, bad, "claims over 8 KiB", |c| {
        good(&spoiled(c, "tctx", json!({ "x": "x".repeat(8 * 1024) })))
    })
    .await;
    refused(&world, Reason::MalformedRequest, "17 KiB", |c| {
        good(&spoiled(c, "tctx", json!({ "x": "x".repeat(17 * 1024) })))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_intent_and_names_a_key_of_the_agents() {
    let world = World::start().await;
    let own = &world.broker.key;
    let good = header(&world);
    let bad = Reason::InvalidIntent;
    for (what, name, value) in [
        ("typ JWT", "typ", json!("JWT")),
        ("no typ", "typ", Value::Null),
        (
            "an assertion's typ",
            "typ",
            json!("client-authentication+jwt"),
        ),
        ("another algorithm", "alg", json!("ES384")),
        ("crit", "crit", json!(["jwk"])),
        ("b64", "b64", json!(false)),
        ("jku", "jku", json!("https://keys.example/jwks")),
        ("x5c", "x5c", json!(["MIIB"])),
        ("no key", "jwk", Value::Null),
        (
            "another key than the one that signed",
            "jwk",
            key().public_jwk(),
        ),
        ("the key's private half", "jwk", {
            let private = own.to_private_jwk();
            serde_json::from_str(private.expose()).unwrap()
        }),
        (
            "a key that is none",
            "jwk",
            json!({ "kty": "oct", "k": "AAAA" }),
        ),
    ] {
        let header = spoiled(&good, name, value);
        refused(&world, bad, what, |claims| sign(own, &header, claims)).await;
    }
    refused(&world, bad, "alg none", |claims| {
        let header = spoiled(&good, "alg", json!("none"));
        let part = |value: &Value| b64(value.to_string().as_bytes());
        format!("{}.{}.", part(&header), part(claims))
    })
    .await;
    refused(&world, bad, "HMAC with the public key", |claims| {
        sign_with_public_key(own, &spoiled(&good, "alg", json!("HS256")), claims)
    })
    .await;
    refused(&world, bad, "a changed signature", |claims| {
        flipped(&sign(own, &good, claims))
    })
    .await;
    let stranger = key();
    let strangers = spoiled(&good, "jwk", stranger.public_jwk());
    refused(&world, bad, "a stranger's key", |c| {
        sign(&stranger, &strangers, c)
    })
    .await;
    let robots = spoiled(&good, "jwk", world.robot.public_jwk());
    refused(&world, bad, "another agent's key", |c| {
        sign(&world.robot, &robots, c)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_closed_bounded_fresh_and_for_this_request() {
    let world = World::start().await;
    let now = world.broker.now();
    let good = |claims: &Value| world.broker.sign_intent(claims);
    for (what, name, value) in [
        ("no exp", "exp", Value::Null),
        ("exp is text", "exp", json!("soon")),
        ("exp is past", "exp", json!(now - 61)),
        ("a life of 301 s", "exp", json!(now + 301)),
        ("no iat", "iat", Value::Null),
        ("iat is to come", "iat", json!(now + 100)),
        ("nbf is to come", "nbf", json!(now + 100)),
        ("another audience", "aud", json!("https://other.example")),
        (
            "two audiences",
            "aud",
            json!([world.broker.url, "https://other.example"]),
        ),
        ("no audience", "aud", Value::Null),
        (
            "an unknown signer",
            "iss",
            json!("https://orchestrator.example"),
        ),
        ("another agent as the signer", "iss", json!("robot")),
        ("no issuer", "iss", Value::Null),
        ("another principal", "sub", json!("octavia@acme.example")),
        ("on behalf of someone", "act", json!({ "sub": "deployer" })),
        ("no jti", "jti", Value::Null),
        ("an empty jti", "jti", json!("")),
        ("a jti that is a number", "jti", json!(1)),
        ("a jti with a blank", "jti", json!("a b")),
        ("an endless jti", "jti", json!("a".repeat(257))),
        ("an unknown member", "admin", json!(true)),
        (
            "a mission that is text",
            "mission",
            json!("deploy-checkout"),
        ),
        (
            "a mission with more",
            "mission",
            json!({ "id": "deploy-checkout", "x": 1 }),
        ),
        (
            "a mission that is no name",
            "mission",
            json!({ "id": "../x" }),
        ),
    ] {
        let spoil = |claims: &Value| good(&spoiled(claims, name, value));
        refused(&world, Reason::InvalidIntent, what, spoil).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purpose_is_for_people_and_facts_are_small() {
    let world = World::start().await;
    let good = |claims: &Value| world.broker.sign_intent(claims);
    let stranger = key();
    for (what, name, value) in [
        ("no goal", "intent", json!({})),
        ("an empty goal", "intent", json!({ "goal": " " })),
        (
            "a goal that turns round",
            "intent",
            json!({ "goal": "pay \u{202e}lla" }),
        ),
        (
            "an endless goal",
            "intent",
            json!({ "goal": "x".repeat(4097) }),
        ),
        (
            "a purpose that has ended",
            "intent",
            json!({ "goal": "x", "expires_at": "2020-01-01T00:00:00Z" }),
        ),
        (
            "an end that is no time",
            "intent",
            json!({ "goal": "x", "expires_at": "tomorrow" }),
        ),
        (
            "bound to another key",
            "cnf",
            json!({ "jkt": stranger.thumbprint() }),
        ),
        ("bound to no thumbprint", "cnf", json!({ "jkt": "x" })),
        (
            "another subject token",
            "subject_token_hash",
            json!(b64(&sha256(b"other"))),
        ),
        ("no subject token", "subject_token_hash", Value::Null),
        (
            "deep facts",
            "tctx",
            json!({ "a": { "b": { "c": { "d": { "e": { "f": 1 } } } } } }),
        ),
        (
            "five pieces of evidence",
            "tctx",
            json!({ "evidence": ["a", "b", "c", "d", "e"] }),
        ),
        ("an instance with a blank", "instance", json!("a b")),
        ("an endless task", "txn", json!("t".repeat(129))),
    ] {
        let spoil = |claims: &Value| good(&spoiled(claims, name, value));
        refused(&world, Reason::InvalidIntent, what, spoil).await;
    }
    let own = &world.broker.key;
    let header = header(&world).to_string();
    refused(&world, Reason::InvalidIntent, "a claim twice", |claims| {
        let text = claims.to_string();
        let text = format!("{{\"mission\":{{\"id\":\"nightly\"}},{}", &text[1..]);
        sign_raw(own, &header, text.as_bytes())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_for_another_agent_has_the_face_of_an_unknown_one() {
    let world = World::start().await;
    refused(&world, Reason::UnknownAgent, "client_id", |claims| {
        let mut claims = claims.clone();
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!("robot");
        }
        world.broker.sign_intent(&claims)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_intent_of_one_run_does_not_go_with_the_token_of_another() {
    let world = World::start().await;
    let broker = &world.broker;
    let (mine, theirs) = (broker.platform_token(), broker.platform_token());
    let intent = broker.sign_intent(&broker.intent_claims(&mine));
    let form = with(broker.good_form(), "intent", &intent);
    let crossed = broker
        .exchange(&with(form.clone(), "subject_token", &theirs))
        .await;
    assert_refused(&crossed, Reason::InvalidIntent, "crossed");
    let own = broker.exchange(&with(form, "subject_token", &mine)).await;
    assert_eq!(own.status, 200, "{}", own.body);
}
