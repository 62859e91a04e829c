//! From agent to agent: what is handed on, to whom, how far, and what a token cannot pass for.

use super::{CHECKOUT, Cast, a_key, asking, claims, token};
use crate::support::broker::{Setup, form, with, without};
use crate::support::time::Manual;
use crate::support::world::{ASSERTION, EXCHANGE, JWT, assert_refused, key};
use dayfly::broker::Reason;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_on_says_from_whom() {
    let cast = Cast::start().await;
    let url = &cast.broker.url;
    let root = cast.root("fixer", "relay").await;
    let answer = cast
        .granted(&cast.form_for(&root, "helper", "relay", |_| {}))
        .await;
    let child = token(&answer);
    let jwt = claims(&child);
    assert_eq!(
        (&jwt["sub"], &jwt["client_id"]),
        (&json!("fixer"), &json!("helper"))
    );
    assert_eq!(jwt["act"], json!({ "sub": "helper", "iss": url }));
    let third = cast.child(&child, "third", "relay").await;
    let act = json!({ "sub": "third", "iss": url, "act": { "sub": "helper", "iss": url } });
    assert_eq!(claims(&third)["act"], act);
    assert_eq!(cast.told(&third).await["act"], act);
    assert_eq!(cast.told(&third).await["sub"], "fixer");
    let lease = cast.lease(answer["lease_id"].as_str().unwrap()).await;
    assert_eq!(lease["parent"], claims(&root)["jti"]);
    assert_eq!(lease["on_behalf_of"][0]["agent"]["agent"], "fixer");
    assert_eq!(
        lease["on_behalf_of"][0]["agent"]["lease"],
        claims(&root)["jti"]
    );
    let audit = cast.broker.admin("GET", "/audit", None).await.body;
    let entries = audit["items"].as_array().unwrap();
    let issued = entries
        .iter()
        .find(|entry| entry["event"] == "issued" && entry["lease"] == answer["lease_id"]);
    let issued = issued.unwrap_or_else(|| panic!("{audit}"));
    assert_eq!(issued["detail"]["parent"], claims(&root)["jti"], "{issued}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_chain_goes_on_through_agents() {
    let cast = Cast::start().await;
    let person = cast.person();
    let first = token(
        &cast
            .granted(&cast.form_for(&person, "fixer", "assist", |_| {}))
            .await,
    );
    let second = cast.child(&first, "helper", "relay").await;
    let jwt = claims(&second);
    assert_eq!(jwt["sub"], "corp:00u1");
    assert_eq!(jwt["act"]["act"]["sub"], "fixer");
    // A mission for people takes the person whom it began with, if it names a group of theirs.
    let answer = cast
        .broker
        .exchange(&cast.form_for(&first, "helper", "for-staff", |_| {}))
        .await;
    assert_refused(
        &answer,
        Reason::SubjectNotAccepted,
        "served as on call, not as staff",
    );
    let root = cast.root("fixer", "relay").await;
    let answer = cast
        .broker
        .exchange(&cast.form_for(&root, "helper", "for-staff", |_| {}))
        .await;
    assert_refused(
        &answer,
        Reason::SubjectNotAccepted,
        "it began with no person",
    );
    let ended = json!({ "issuer": "corp", "kind": "session", "id": "session-1" });
    cast.broker
        .admin("POST", "/contexts/end", Some(ended))
        .await;
    assert!(!cast.broker.is_active(&second).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_act_one_for_another_and_no_fourth() {
    let cast = Cast::start().await;
    let mut held = cast.root("fixer", "relay").await;
    for name in ["helper", "third", "fourth"] {
        held = cast.child(&held, name, "relay").await;
    }
    let form = cast.form_for(&held, "fixer", "relay", |_| {});
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::ChainTooDeep, "a fourth");
    assert_eq!(answer.reason(), "chain_too_deep");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whom_the_mission_names_gets_it_handed_on() {
    let cast = Cast::start().await;
    let root = cast.root("fixer", "relay").await;
    let form = cast.form_for(&root, "stranger", "alone", |_| {});
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::ActorNotAccepted, "not among delegates_to");
    let alone = cast.root("fixer", "alone").await;
    let form = cast.form_for(&alone, "helper", "relay", |_| {});
    let answer = cast.broker.exchange(&form).await;
    assert_refused(
        &answer,
        Reason::ActorNotAccepted,
        "a mission that hands nothing on",
    );
    let form = cast.form_for(&root, "helper", "alone", |_| {});
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::UnknownMission, "a mission of others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_no_more_than_its_parent_in_any_dimension() {
    let cast = Cast::start().await;
    let over = Reason::ExceedsParent;
    let mut root = cast.intent_claims("fixer", "relay", None);
    root["authorization_details"][0]["max_ttl"] = json!(60);
    let form = with(
        cast.root_form("fixer", "relay"),
        "intent",
        &cast.sign_intent("fixer", &root),
    );
    let parent = token(&cast.granted(&form).await);
    let ask = async |change: Box<dyn FnOnce(&mut Value)>| {
        cast.broker
            .exchange(&cast.form_for(&parent, "helper", "relay", change))
            .await
    };
    let answer = ask(Box::new(asking(&["deploy:write"], &[CHECKOUT]))).await;
    assert_refused(&answer, over, "another action");
    assert_eq!(answer.reason(), "exceeds_parent");
    let answer = ask(Box::new(asking(
        &["deploy:read"],
        &["https://deploy.example/*"],
    )))
    .await;
    assert_refused(&answer, over, "more places");
    let answer = ask(Box::new(a_key)).await;
    assert_refused(&answer, over, "another target");
    let answer = ask(Box::new(|claims| {
        claims
            .as_object_mut()
            .unwrap()
            .remove("authorization_details");
    }))
    .await;
    assert_refused(&answer, Reason::UnknownTarget, "all that the mission has");
    let answer = ask(Box::new(|claims| {
        claims["authorization_details"][0]["max_ttl"] = json!(500);
    }))
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (child, parent) = (claims(&token(&answer.body)), claims(&parent));
    assert!(
        child["exp"].as_i64() <= parent["exp"].as_i64(),
        "{child} {parent}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_over_is_handed_on_no_more() {
    let clock = Manual::start();
    let cast = Cast::with(Setup {
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    let refused = async |parent: &str, what: &str| {
        let form = cast.form_for(parent, "helper", "relay", |_| {});
        let answer = cast.broker.exchange(&form).await;
        assert_refused(&answer, Reason::ParentNotAlive, what);
        assert_eq!(answer.reason(), "parent_not_alive");
    };
    let released = cast.root("fixer", "relay").await;
    cast.broker
        .post("/revoke", &form(&[("token", &released)]))
        .await;
    refused(&released, "released").await;
    let revoked = cast.root("fixer", "relay").await;
    let id = claims(&revoked)["jti"].clone();
    cast.broker.revoke(json!({ "lease": id })).await;
    refused(&revoked, "revoked").await;
    // Killed by what its parent hangs on, between the parent and the child.
    let fenced = cast.root("fixer", "relay").await;
    let kill =
        json!({ "selector": { "owner": "fixer@acme.example" }, "reason": "x", "kill_only": true });
    cast.broker.admin("POST", "/revocations", Some(kill)).await;
    refused(&fenced, "its owner's").await;
    let old = cast.root("fixer", "relay").await;
    clock.advance(Duration::from_secs(601));
    refused(&old, "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_is_decides_and_not_what_it_is_sent_as() {
    let cast = Cast::start().await;
    let root = cast.root("fixer", "relay").await;
    let good = cast.form_for(&root, "helper", "relay", |_| {});
    // Whatever type it is said to have, it is handed on, and the chain with it.
    for kind in ["jwt", "id_token", "access_token"] {
        let urn = format!("urn:ietf:params:oauth:token-type:{kind}");
        let form = cast.form_for(&root, "helper", "relay", |_| {});
        let answer = cast.granted(&with(form, "subject_token_type", &urn)).await;
        assert_eq!(claims(&token(&answer))["sub"], "fixer", "{kind}");
    }
    let refused = async |form: Vec<(String, String)>, reason: Reason, what: &str| {
        assert_refused(&cast.broker.exchange(&form).await, reason, what);
    };
    let own_type = "urn:ietf:params:oauth:token-type:self_signed";
    let form = without(good.clone(), "intent");
    refused(
        with(form, "subject_token_type", own_type),
        Reason::InvalidIntent,
        "as an intent",
    )
    .await;
    let alone = without(good.clone(), "client_assertion");
    let alone = without(alone, "client_assertion_type");
    refused(alone.clone(), Reason::NoProof, "as a proof of its holder").await;
    refused(
        with(alone, "client_id", "fixer"),
        Reason::NoProof,
        "with its holder's name",
    )
    .await;
    let form = with(good.clone(), "client_assertion", &root);
    refused(form, Reason::InvalidClient, "as an assertion").await;
    let form = with(
        with(good.clone(), "actor_token", &root),
        "actor_token_type",
        JWT,
    );
    refused(form, Reason::InvalidToken, "as the actor").await;
    refused(
        with(good.clone(), "intent", &root),
        Reason::InvalidIntent,
        "in the intent\u{2019}s place",
    )
    .await;
    let form = grant(
        &cast,
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion",
        &root,
    );
    refused(form, Reason::NoProof, "as a grant").await;
    let flipped = crate::support::forge::flipped(&root);
    let form = cast.form_for(&flipped, "helper", "relay", |_| {});
    refused(form, Reason::InvalidToken, "with a changed signature").await;
    let form = cast.form_for(&root, "helper", "relay", |claims| {
        claims["subject_token_hash"] = json!(crate::support::broker::b64(&[0; 32]));
    });
    refused(
        form,
        Reason::InvalidIntent,
        "with an intent for another token",
    )
    .await;
    let form = cast.form_for(&root, "helper", "relay", |claims| {
        claims.as_object_mut().unwrap().remove("subject_token_hash");
    });
    refused(form, Reason::InvalidIntent, "with an intent for any token").await;
    refused(
        without(good, "intent"),
        Reason::InvalidIntent,
        "without an intent",
    )
    .await;
}

/// A grant whose proof lies in a parameter of its own.
fn grant(cast: &Cast, grant_type: &str, name: &str, text: &str) -> Vec<(String, String)> {
    let claims = cast.intent_claims("fixer", "relay", Some(text));
    form(&[
        ("grant_type", grant_type),
        (name, text),
        ("intent", &cast.sign_intent("fixer", &claims)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_handed_on_like_tokens() {
    let cast = Cast::start().await;
    let mut intent = cast.intent_claims("fixer", "relay", None);
    a_key(&mut intent);
    let form = with(
        cast.root_form("fixer", "relay"),
        "intent",
        &cast.sign_intent("fixer", &intent),
    );
    let key = token(&cast.granted(&form).await);
    let ask = |key: &str| cast.form_for(key, "helper", "relay", a_key);
    let child = token(&cast.granted(&ask(&key)).await);
    assert_eq!(cast.told(&child).await["sub"], "fixer");
    // Well formed, and never issued.
    let last = key.chars().last().unwrap();
    let other = format!(
        "{}{}",
        &key[..key.len() - 1],
        if last == '0' { '1' } else { '0' }
    );
    let answer = cast.broker.exchange(&ask(&other)).await;
    assert_refused(&answer, Reason::InvalidToken, "a key that is none");
    let proof = form_of_key(&cast, &key);
    assert_refused(
        &cast.broker.exchange(&proof).await,
        Reason::NoProof,
        "a key as a proof",
    );
}

fn form_of_key(cast: &Cast, key: &str) -> Vec<(String, String)> {
    let claims = cast.intent_claims("fixer", "relay", Some(key));
    form(&[
        ("grant_type", EXCHANGE),
        ("subject_token", key),
        ("subject_token_type", JWT),
        ("intent", &cast.sign_intent("fixer", &claims)),
    ])
}

/// A lease that is bound to a key: of the deployer, whose platform token names one.
const BOUND: &str = r#"
[mission.bound]
agents = ["deployer"]
delegates_to = ["helper"]
owner = "sre@acme.example"
purpose = "Is handed on with its key"
allow = [{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_credential_is_handed_on_with_its_key_only() {
    let cast = Cast::with(Setup {
        more: BOUND.to_owned(),
        ..Setup::default()
    })
    .await;
    let broker = &cast.broker;
    let bound_to = |thumbprint: &str| {
        let mut platform = broker.platform_claims();
        platform["aud"] = json!(format!("{}#jkt={thumbprint}", broker.url));
        let platform = broker.issuer.sign(&platform);
        let mut intent = broker.intent_claims(&platform);
        intent["mission"]["id"] = json!("bound");
        intent["authorization_details"][0]["actions"] = json!(["deploy:read"]);
        (platform, intent)
    };
    let (platform, intent) = bound_to(broker.key.thumbprint());
    let form = with(broker.good_form(), "subject_token", &platform);
    let form = with(form, "intent", &broker.sign_intent(&intent));
    let proof = broker.proof(&broker.key).await;
    let parent = token(&broker.proved("/token", &form, &[&proof]).await.body);
    assert_eq!(claims(&parent)["cnf"]["jkt"], broker.key.thumbprint());
    let form = cast.form_for(&parent, "helper", "relay", |_| {});
    let answer = broker.exchange(&form).await;
    assert_refused(&answer, Reason::ParentKeyNotProved, "without its key");
    assert_eq!(answer.reason(), "parent_key_not_proved");

    // One process holds both keys: the helper authenticates, and signs with the lease's key.
    let helpers = cast.key("helper");
    let parent = {
        let (platform, intent) = bound_to(helpers.thumbprint());
        let intent = helpers.sign("intent+jwt", None, &intent, true).unwrap();
        let form = with(broker.good_form(), "subject_token", &platform);
        let form = with(form, "intent", &intent);
        let proof = broker.proof(helpers).await;
        token(&broker.proved("/token", &form, &[&proof]).await.body)
    };
    cast.child(&parent, "helper", "relay").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_agent_is_told_nothing_of_the_parent() {
    let cast = Cast::start().await;
    let root = cast.root("fixer", "relay").await;
    let nobody = key();
    let now = cast.broker.now();
    let assertion = nobody
        .sign(
            "JWT",
            None,
            &json!({ "iss": "nobody", "sub": "nobody", "aud": cast.broker.url, "iat": now, "exp": now + 60, "jti": "1" }),
            false,
        )
        .unwrap();
    let form = cast.form_for(&root, "helper", "relay", |_| {});
    let form = with(
        with(form, "client_assertion", &assertion),
        "client_assertion_type",
        ASSERTION,
    );
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::InvalidClient, "an unknown agent");
}
