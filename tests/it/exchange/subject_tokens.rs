//! Subject tokens with exactly one thing wrong.

use crate::support::broker::{b64, with};
use crate::support::forge::{flipped, sign, sign_raw, sign_with_public_key, spoiled};
use crate::support::world::{World, assert_refused, key};
use dayfly::broker::Reason;
use serde_json::{Value, json};

fn header(world: &World) -> Value {
    let key = world.broker.issuer.key();
    json!({ "alg": "RS256", "typ": "JWT", "kid": key.verifying().kid() })
}

/// Sends the good form with this token in it, then the good form itself: the intent is still good.
async fn refused(world: &World, what: &str, spoil: impl FnOnce(&Value) -> String) {
    refused_as(world, Reason::InvalidToken, what, spoil).await;
}

async fn refused_as(
    world: &World,
    reason: Reason,
    what: &str,
    spoil: impl FnOnce(&Value) -> String,
) {
    let broker = &world.broker;
    let claims = broker.platform_claims();
    let token = broker.issuer.sign(&claims);
    let intent = broker.sign_intent(&broker.intent_claims(&token));
    let good = with(broker.good_form(), "subject_token", &token);
    let good = with(good, "intent", &intent);
    let bad = with(good.clone(), "subject_token", &spoil(&claims));
    assert_refused(&broker.exchange(&bad).await, reason, what);
    let answer = broker.exchange(&good).await;
    assert_eq!(answer.status, 200, "after {what}: {}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_compact_jws_is_no_token() {
    let world = World::start().await;
    for text in [
        "x",
        "a.b",
        "a.b.c",
        "..",
        "a.b.c.d.e",
        "{\"payload\":\"e30\"}",
        "\u{1f600}",
        "a\0b",
    ] {
        refused(&world, text, |_| text.to_owned()).await;
    }
    let good = |claims: &Value| world.broker.issuer.sign(claims);
    refused(&world, "a blank in front", |c| format!(" {}", good(c))).await;
    refused(&world, "a line end", |c| format!("{}\n", good(c))).await;
    refused(&world, "padding", |c| format!("{}=", good(c))).await;
    refused(&world, "no signature", |c| {
        let token = good(c);
        format!("{}.", token.rsplit_once('.').unwrap().0)
    })
    .await;
    refused_as(&world, Reason::MalformedRequest, "17 KiB", |c| {
        let long = spoiled(c, "x", json!("x".repeat(17 * 1024)));
        good(&long)
    })
    .await;
    refused_as(&world, Reason::MalformedRequest, "nothing", |_| {
        String::new()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_nothing_but_what_it_may() {
    let world = World::start().await;
    let key = world.broker.issuer.key();
    let good = header(&world);
    for (what, name, value) in [
        ("an intent's typ", "typ", json!("intent+jwt")),
        ("a proof's typ", "typ", json!("dpop+jwt")),
        ("an access token's typ, as jwt", "typ", json!("at+jwt")),
        ("a typ that is no text", "typ", json!(1)),
        ("another algorithm", "alg", json!("RS512")),
        ("another family", "alg", json!("ES256")),
        (
            "an algorithm that is not the issuer's",
            "alg",
            json!("PS256"),
        ),
        ("an unknown kid", "kid", json!("nobody")),
        ("a kid that is no text", "kid", json!(7)),
        ("crit", "crit", json!(["exp"])),
        ("b64", "b64", json!(false)),
        ("jku", "jku", json!("https://keys.example/jwks")),
        ("x5u", "x5u", json!("https://keys.example/x5u")),
        ("its own key", "jwk", key.public_jwk()),
        ("no algorithm", "alg", Value::Null),
    ] {
        let header = spoiled(&good, name, value);
        refused(&world, what, |claims| sign(&key, &header, claims)).await;
    }
    refused(&world, "alg none", |claims| {
        let header = json!({ "alg": "none", "typ": "JWT" });
        let part = |value: &Value| b64(value.to_string().as_bytes());
        format!("{}.{}.", part(&header), part(claims))
    })
    .await;
    refused(&world, "HMAC with the public key", |claims| {
        sign_with_public_key(&key, &spoiled(&good, "alg", json!("HS256")), claims)
    })
    .await;
    refused(&world, "a member twice", |claims| {
        let header = r#"{"alg":"RS256","alg":"RS256","typ":"JWT"}"#;
        sign_raw(&key, header, claims.to_string().as_bytes())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_the_issuers_or_nothing() {
    let world = World::start().await;
    let issuer = &world.broker.issuer;
    refused(&world, "a changed signature", |c| flipped(&issuer.sign(c))).await;
    refused(&world, "changed claims", |c| {
        let token = issuer.sign(c);
        let parts: Vec<_> = token.split('.').collect();
        let other = spoiled(c, "sub", json!("repo:acme/sleeper"));
        format!(
            "{}.{}.{}",
            parts[0],
            b64(other.to_string().as_bytes()),
            parts[2]
        )
    })
    .await;
    let stranger = key();
    refused(&world, "another key under its kid", |c| {
        let kid = issuer.key().verifying().kid().map(str::to_owned);
        sign(
            &stranger,
            &json!({ "alg": "ES256", "typ": "JWT", "kid": kid }),
            c,
        )
    })
    .await;
    refused(&world, "the key of another configured issuer", |c| {
        sign(&world.once, &json!({ "alg": "ES256" }), c)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_for_this_broker_from_this_issuer_and_of_now() {
    let world = World::start().await;
    let now = world.broker.now();
    let url = world.broker.issuer.url.clone();
    let good = |claims: &Value| world.broker.issuer.sign(claims);
    for (what, name, value) in [
        ("no exp", "exp", Value::Null),
        ("exp is text", "exp", json!((now + 300).to_string())),
        ("exp is past", "exp", json!(now - 61)),
        ("exp is negative", "exp", json!(-1)),
        ("exp is beyond numbers", "exp", json!(1e300)),
        ("nbf is to come", "nbf", json!(now + 120)),
        ("iat is to come", "iat", json!(now + 120)),
        ("iat is text", "iat", json!("now")),
        ("a life of two days", "exp", json!(now + 2 * 86_400)),
        ("another audience", "aud", json!("https://other.example")),
        (
            "other audiences",
            "aud",
            json!(["https://other.example", "sts.amazonaws.com"]),
        ),
        ("no audience", "aud", Value::Null),
        ("an audience that is a number", "aud", json!(1)),
        ("an empty audience", "aud", json!([])),
        (
            "the audience and a slash",
            "aud",
            json!(format!("{}/", world.broker.url)),
        ),
        ("another issuer", "iss", json!("https://issuer.example")),
        ("the issuer and a slash", "iss", json!(format!("{url}/"))),
        (
            "another configured issuer",
            "iss",
            json!("https://once.example"),
        ),
        ("no issuer", "iss", Value::Null),
        ("no subject", "sub", Value::Null),
        ("a subject that is a number", "sub", json!(12)),
        ("an empty subject", "sub", json!("")),
        ("bound to a certificate", "cnf", json!({ "x5t#S256": "x" })),
    ] {
        refused(&world, what, |claims| good(&spoiled(claims, name, value))).await;
    }
    let key = world.broker.issuer.key();
    let header = header(&world).to_string();
    refused(&world, "a claim twice", |claims| {
        let text = claims.to_string();
        let text = format!("{{\"sub\":\"repo:acme/sleeper\",{}", &text[1..]);
        sign_raw(&key, &header, text.as_bytes())
    })
    .await;
    refused(&world, "no object", |_| sign_raw(&key, &header, b"[1]")).await;
    refused(&world, "no UTF-8", |_| {
        sign_raw(&key, &header, b"{\"a\":\"\xff\"}")
    })
    .await;
    refused(&world, "nothing in it", |_| sign_raw(&key, &header, b"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_bound_to_a_key_goes_with_that_key_alone() {
    let world = World::start().await;
    let broker = &world.broker;
    let bound = |thumbprint: &str| {
        let mut claims = broker.platform_claims();
        claims["aud"] = json!(format!("{}#jkt={thumbprint}", broker.url));
        let token = broker.issuer.sign(&claims);
        let intent = broker.sign_intent(&broker.intent_claims(&token));
        with(
            with(broker.good_form(), "subject_token", &token),
            "intent",
            &intent,
        )
    };
    let stolen = broker.exchange(&bound(key().thumbprint())).await;
    assert_refused(&stolen, Reason::InvalidIntent, "bound to another key");
    let own = broker.exchange(&bound(broker.key.thumbprint())).await;
    assert_eq!(own.status, 200, "{}", own.body);
}
