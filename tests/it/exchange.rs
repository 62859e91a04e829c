//! The main job over the wire: what is granted, and every way in which it is not.

mod assertions;
mod details;
mod faces;
mod forms;
mod grants;
mod intents;
mod limits;
mod replays;
mod subject_tokens;

use crate::support::broker::{TestBroker, form, with, without};
use crate::support::world::{ASSERTION, EXCHANGE, World, assert_refused};
use dayfly::broker::Reason;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_and_a_signed_intent_get_a_narrow_credential_that_can_be_killed() {
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    assert_eq!(issued["token_type"], "Bearer");
    assert_eq!(issued["mission"], "deploy-checkout");
    assert_eq!(issued["revocation"]["class"], "broker");
    assert_eq!(
        issued["authorization_details"][0]["actions"][0],
        "deploy:write"
    );
    let token = issued["access_token"].as_str().unwrap();
    assert!(broker.is_active(token).await);
    let receipt = broker
        .revoke(serde_json::json!({ "lease": issued["lease_id"] }))
        .await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    assert!(!broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_never_stored_and_never_carries_a_refresh_token() {
    let broker = TestBroker::start().await;
    let answer = broker.exchange(&broker.good_form()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "application/json");
    let body = answer.body.as_object().unwrap();
    assert!(body["expires_in"].is_u64());
    assert!(!body.contains_key("refresh_token"));
    assert!(
        !body.contains_key("credential"),
        "a bearer has no other form"
    );
    assert_eq!(
        body["issued_token_type"],
        "urn:ietf:params:oauth:token-type:access_token"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_had_by_its_targets_name() {
    let broker = TestBroker::start().await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/checkout"],
    }]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let answer = broker
        .exchange(&with(form, "audience", "metrics-key"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let key = answer.body["access_token"].as_str().unwrap();
    assert!(key.starts_with("dayfly"), "{key}");
    let told = broker.introspect(key).await.body;
    assert_eq!(told["active"], true);
    assert_eq!(told["aud"], "metrics-key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_url_names_its_target_and_is_the_tokens_audience() {
    let broker = TestBroker::start().await;
    let form = without(broker.good_form(), "audience");
    let form = with(form, "resource", "https://deploy.example");
    let answer = broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().unwrap();
    assert_eq!(claims_of(token)["aud"], "https://deploy.example");
    assert!(broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_target_may_be_named_in_several_ways_and_what_is_unknown_is_ignored() {
    let broker = TestBroker::start().await;
    let mut form = broker.good_form();
    form.extend(crate::support::broker::form(&[
        ("audience", "deploy-api"),
        ("resource", "https://deploy.example"),
        ("some_vendor_extension", "whatever"),
        ("scope", ""),
    ]));
    let answer = broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_key_of_its_own_gets_a_token_by_client_credentials() {
    let world = World::start().await;
    let answer = world.broker.exchange(&world.robot_form()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["mission"], "robot-work");
    let token = answer.body["access_token"].as_str().unwrap();
    let claims = claims_of(token);
    assert_eq!(claims["sub"], "robot");
    assert_eq!(claims["client_id"], "robot");
    assert!(world.broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platforms_token_alone_is_enough_for_a_mission_that_says_so() {
    let world = World::start().await;
    let bare = without(world.broker.good_form(), "intent");
    // Two missions fit, and nothing says which.
    let answer = world.broker.exchange(&bare).await;
    assert_refused(&answer, Reason::AmbiguousMission, "no mission named");
    let answer = world
        .broker
        .exchange(&with(bare.clone(), "scope", "mission:nightly"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["mission"], "nightly");
    assert_eq!(
        answer.body["authorization_details"][0]["actions"],
        json!(["deploy:read", "deploy:plan"])
    );
    let other = with(bare, "scope", "mission:deploy-checkout");
    let answer = world.broker.exchange(&other).await;
    assert_refused(
        &answer,
        Reason::SignerNotAccepted,
        "a mission that does not",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_without_details_asks_for_all_that_its_mission_allows_on_the_target() {
    let broker = TestBroker::start().await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims
        .as_object_mut()
        .unwrap()
        .remove("authorization_details");
    let form = with(broker.good_form(), "subject_token", &token);
    let answer = broker
        .exchange(&with(form, "intent", &broker.sign_intent(&claims)))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.body["authorization_details"],
        json!([{
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write", "deploy:read"],
            "locations": ["https://deploy.example/checkout"],
        }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_and_details_beside_the_intent_narrow_it() {
    let broker = TestBroker::start().await;
    let both = |broker: &TestBroker| {
        let token = broker.platform_token();
        let mut claims = broker.intent_claims(&token);
        claims["authorization_details"][0]["actions"] = json!(["deploy:read", "deploy:write"]);
        let form = with(broker.good_form(), "subject_token", &token);
        with(form, "intent", &broker.sign_intent(&claims))
    };
    let by_scope = with(both(&broker), "scope", "deploy:read");
    let answer = broker.exchange(&by_scope).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let granted = &answer.body["authorization_details"][0];
    assert_eq!(granted["actions"], json!(["deploy:read"]));
    assert_eq!(answer.body["scope"], "deploy:read");

    let details = json!([{
        "type": "access_token", "identifier": "deploy-api", "actions": ["deploy:read"],
        "locations": ["https://deploy.example/checkout"], "max_ttl": 60,
    }]);
    let by_details = with(both(&broker), "authorization_details", &details.to_string());
    let answer = broker.exchange(&by_details).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let granted = &answer.body["authorization_details"][0];
    assert_eq!(granted["actions"], json!(["deploy:read"]));
    // Whole seconds, of which the first has begun.
    let seconds = answer.body["expires_in"].as_u64().unwrap();
    assert!((59..=60).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_may_come_as_a_self_signed_subject_token() {
    let world = World::start().await;
    let intent = world.sign_robot_intent(&world.robot_intent_claims());
    let fields = form(&[
        ("grant_type", EXCHANGE),
        ("subject_token", &intent),
        (
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:self_signed",
        ),
        (
            "client_assertion",
            &world.sign_assertion(&world.assertion_claims()),
        ),
        ("client_assertion_type", ASSERTION),
        ("audience", "deploy-api"),
    ]);
    // An intent is no proof of who sends it.
    let bare = without(
        without(fields.clone(), "client_assertion"),
        "client_assertion_type",
    );
    let answer = world.broker.exchange(&bare).await;
    assert_refused(&answer, Reason::NoProof, "an intent alone");
    let twice = with(fields.clone(), "intent", &intent);
    let answer = world.broker.exchange(&twice).await;
    assert_refused(&answer, Reason::MalformedRequest, "an intent twice");
    let answer = world.broker.exchange(&fields).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["mission"], "robot-work");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_no_longer_than_its_purpose() {
    let broker = TestBroker::start().await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    let ends = broker.composed.clock.now() + time::Duration::seconds(45);
    let ends = ends
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    claims["intent"]["expires_at"] = json!(ends);
    let form = with(broker.good_form(), "subject_token", &token);
    let answer = broker
        .exchange(&with(form, "intent", &broker.sign_intent(&claims)))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body["expires_in"].as_u64().unwrap() <= 45);
}

/// The claims of a compact JWS, unverified.
pub fn claims_of(jwt: &str) -> Value {
    use base64::Engine as _;
    let claims = jwt.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}
