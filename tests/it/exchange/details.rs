//! `authorization_details` and `scope`, malformed or too wide.

use crate::support::broker::with;
use crate::support::world::{World, assert_refused};
use dayfly::broker::Reason;
use serde_json::{Value, json};

fn detail() -> Value {
    json!({
        "type": "access_token", "identifier": "deploy-api", "actions": ["deploy:write"],
        "locations": ["https://deploy.example/checkout"],
    })
}

/// Sends a good form with one parameter more, then the good form itself.
async fn refused(world: &World, reason: Reason, name: &str, value: &str) {
    let good = world.broker.good_form();
    let bad = with(good.clone(), name, value);
    let answer = world.broker.exchange(&bad).await;
    assert_refused(&answer, reason, value.get(..80).unwrap_or(value));
    let answer = world.broker.exchange(&good).await;
    assert_eq!(answer.status, 200, "after {value}: {}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parameter_is_closed_and_bounded_json() {
    let world = World::start().await;
    let change = |name: &str, value: Value| {
        let mut detail = detail();
        detail[name] = value;
        json!([detail]).to_string()
    };
    let text = json!([detail()]).to_string();
    let cases = [
        "x".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "[1]".to_owned(),
        "null".to_owned(),
        text.clone() + "x",
        text.trim_end_matches(']').to_owned(),
        text.replacen('{', "{\"identifier\":\"metrics-key\",", 1),
        json!(vec![detail(); 17]).to_string(),
        change("admin", json!(true)),
        change("type", json!(1)),
        change("identifier", json!(["deploy-api"])),
        change("identifier", json!("")),
        change("actions", json!("deploy:write")),
        change("actions", json!([])),
        change("actions", json!([1])),
        change("actions", json!(vec!["deploy:write"; 65])),
        change("actions", json!(["x".repeat(513)])),
        change("locations", json!({ "a": 1 })),
        change("max_ttl", json!(-1)),
        change("max_ttl", json!("60")),
        change("max_ttl", json!(1.5)),
        change("max_ttl", json!(1e300)),
        "[".repeat(2000),
    ];
    for text in cases {
        let reason = Reason::InvalidAuthorizationDetails;
        refused(&world, reason, "authorization_details", &text).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beside_the_intent_never_widens_it() {
    let world = World::start().await;
    let wider = |name: &str, value: Value| {
        let mut detail = detail();
        detail[name] = value;
        json!([detail]).to_string()
    };
    for (reason, name, value) in [
        (Reason::ExceedsIntent, "actions", json!(["deploy:read"])),
        (
            Reason::ExceedsIntent,
            "actions",
            json!(["deploy:write", "deploy:read"]),
        ),
        (Reason::ExceedsIntent, "actions", json!(["*"])),
        (
            Reason::ExceedsIntent,
            "locations",
            json!(["https://deploy.example/*"]),
        ),
        (
            Reason::InvalidAuthorizationDetails,
            "identifier",
            json!("metrics-key"),
        ),
        (
            Reason::InvalidAuthorizationDetails,
            "identifier",
            json!("no-such"),
        ),
        (
            Reason::InvalidAuthorizationDetails,
            "type",
            json!("api_key"),
        ),
    ] {
        refused(&world, reason, "authorization_details", &wider(name, value)).await;
    }
    refused(&world, Reason::ExceedsIntent, "scope", "deploy:read").await;
    refused(
        &world,
        Reason::ExceedsIntent,
        "scope",
        "deploy:write deploy:*",
    )
    .await;
    refused(&world, Reason::InvalidIntent, "scope", "mission:nightly").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_of_the_characters_that_scopes_have() {
    let world = World::start().await;
    let long = "a".repeat(4097);
    for text in [
        "deploy\"write",
        "deploy\\write",
        "deploy:write\u{7f}",
        "d\u{e9}ploy",
        "mission:",
        "mission:../x",
        "mission:deploy-checkout mission:nightly",
        &long,
    ] {
        refused(&world, Reason::InvalidScope, "scope", text).await;
    }
}
