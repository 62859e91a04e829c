//! One write ends whatever it covers, and nothing else; who may make it; what the holder may do.

pub mod given_up;
mod operators;
mod receipts;
mod release;
mod unreadable;

use crate::support::broker::{Answer, Setup, with};
use crate::support::issuer::Issuer;
use crate::support::world::World;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is expected of one selector.
struct Case {
    /// Of the victim's answer.
    selector: fn(&World, &Value) -> Value,
    holds: bool,
    /// Whether the robot's lease is none of its business.
    spares: bool,
}

/// A deployer's form for the task `task-7`.
fn task_form(world: &World) -> Vec<(String, String)> {
    let broker = &world.broker;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["txn"] = json!("task-7");
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&claims))
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["access_token"].as_str().unwrap().to_owned()
}

async fn check(issuer: &Arc<Issuer>, case: Case) {
    let more = "[agent.deployer.labels]\nteam = \"payments\"\n".to_owned();
    let setup = Setup {
        issuer: Some(issuer.clone()),
        more,
        ..Setup::default()
    };
    let world = World::with(setup).await;
    let broker = &world.broker;
    let issued = broker.exchange(&task_form(&world)).await;
    let victim = token_of(&issued);
    let bystander = token_of(&broker.exchange(&world.robot_form()).await);
    let selector = (case.selector)(&world, &issued.body);
    let what = selector.to_string();

    let body = json!({ "selector": selector, "reason": "a test says so" });
    let dry = broker
        .admin("POST", "/revocations?dry_run=true", Some(body))
        .await;
    assert_eq!(dry.status, 200, "{what}: {}", dry.body);
    let covered = if case.spares { 1 } else { 2 };
    assert_eq!(dry.body["state"], "dry_run", "{what}");
    assert_eq!(dry.body["leases"], json!({ "broker": covered }), "{what}");
    assert_eq!(dry.body["holds"], case.holds, "{what}");
    assert_eq!(dry.body["targets"], json!(["deploy-api"]), "{what}");
    assert!(dry.body.get("id").is_none() && dry.body.get("position").is_none());
    assert!(broker.is_active(&victim).await, "{what}: dry");

    let done = broker.revoke(selector.clone()).await;
    assert_eq!(done.status, 200, "{what}: {}", done.body);
    assert_eq!(done.body["selector"], selector, "{what}");
    assert_eq!(done.body["holds"], case.holds, "{what}");
    assert!(!broker.is_active(&victim).await, "{what}");
    assert_eq!(broker.is_active(&bystander).await, case.spares, "{what}");
    // Of one lease it may be known at once.
    if case.holds {
        assert_eq!(done.body["state"], "revoking", "{what}");
    }
    receipts::until_confirmed(broker, &done.body).await;
    let receipt = receipts::asked(broker, &done.body).await;
    assert_eq!(receipt["position"], done.body["position"], "{what}");
    assert_eq!(receipt["outstanding"], 0, "{what}");

    let again = broker.exchange(&task_form(&world)).await;
    let lift = json!({ "selector": selector, "reason": "it is over" });
    if case.holds {
        assert_eq!(again.status, 400, "{what}: {}", again.body);
        let lifted = broker.admin("POST", "/lifts", Some(lift.clone())).await;
        assert_eq!(lifted.status, 200, "{what}: {}", lifted.body);
        let after = broker.exchange(&task_form(&world)).await;
        assert_eq!(after.status, 200, "{what}: {}", after.body);
    } else {
        assert_eq!(again.status, 200, "{what}: {}", again.body);
    }
    assert!(!broker.is_active(&victim).await, "{what}: lifted");
    let nothing = broker.admin("POST", "/lifts", Some(lift)).await;
    assert_eq!(nothing.status, 404, "{what}: {}", nothing.body);
}

fn kid_of(token: &Value) -> Value {
    use base64::Engine as _;
    let header = token.as_str().unwrap().split('.').next().unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(header)
        .unwrap();
    serde_json::from_slice::<Value>(&bytes).unwrap()["kid"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_selector_ends_what_it_covers_and_holds_until_it_is_lifted() {
    let issuer = Arc::new(Issuer::start().await);
    let holds: [fn(&World, &Value) -> Value; 11] = [
        |_, _| json!({ "agent": "deployer" }),
        |_, _| json!({ "mission": "deploy-checkout" }),
        |_, _| json!({ "owner": "payments@acme.example" }),
        |world, _| json!({ "issuer": world.broker.issuer.url }),
        |_, _| json!({ "issuer": "ci" }),
        |world, _| {
            json!({ "subject": {
                "issuer": world.broker.issuer.url,
                "subject": "repo:acme/checkout:ref:refs/heads/main",
            } })
        },
        |_, _| json!({ "task": "task-7" }),
        |world, _| {
            let issuer = &world.broker.issuer.url;
            json!({ "context": { "issuer": issuer, "kind": "pipeline", "id": "1234:77" } })
        },
        |_, _| json!({ "context": { "issuer": "ci", "kind": "pipeline", "id": "1234:77" } }),
        |_, _| json!({ "context": { "issuer": "ci", "kind": "pipeline", "id": "1234:77/1" } }),
        |_, _| json!({ "label": { "name": "team", "value": "payments" } }),
    ];
    for selector in holds {
        check(
            &issuer,
            Case {
                selector,
                holds: true,
                spares: true,
            },
        )
        .await;
    }
    let wide: [fn(&World, &Value) -> Value; 2] = [
        |_, _| json!({ "target": "deploy-api" }),
        |_, _| json!("all"),
    ];
    for selector in wide {
        check(
            &issuer,
            Case {
                selector,
                holds: true,
                spares: false,
            },
        )
        .await;
    }
    let lease: fn(&World, &Value) -> Value = |_, issued| json!({ "lease": issued["lease_id"] });
    check(
        &issuer,
        Case {
            selector: lease,
            holds: false,
            spares: true,
        },
    )
    .await;
    let key: fn(&World, &Value) -> Value =
        |_, issued| json!({ "signing_key": kid_of(&issued["access_token"]) });
    check(
        &issuer,
        Case {
            selector: key,
            holds: false,
            spares: false,
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_covers_nothing_ends_nothing() {
    let world = World::start().await;
    let broker = &world.broker;
    let token = token_of(&broker.exchange(&broker.good_form()).await);
    let issuer = &broker.issuer.url;
    for selector in [
        json!({ "agent": "robot" }),
        json!({ "mission": "nightly" }),
        json!({ "target": "metrics-key" }),
        json!({ "owner": "payments" }),
        json!({ "issuer": format!("{issuer}/") }),
        json!({ "subject": { "issuer": issuer, "subject": "repo:acme/checkout" } }),
        json!({ "subject": { "issuer": "once", "subject": "repo:acme/checkout:ref:refs/heads/main" } }),
        json!({ "context": { "issuer": "once", "kind": "pipeline", "id": "1234:77" } }),
        json!({ "context": { "issuer": "ci", "kind": "pipeline", "id": "1234:7" } }),
        json!({ "context": { "issuer": "ci", "kind": "pipeline", "id": "1234:77/2" } }),
        json!({ "label": { "name": "team", "value": "payments" } }),
        json!({ "task": "deployer" }),
        json!({ "signing_key": "deployer" }),
        json!({ "issuer_key": "deployer" }),
    ] {
        let done = broker.revoke(selector.clone()).await;
        assert_eq!(done.status, 200, "{selector}: {}", done.body);
        assert_eq!(done.body["leases"], json!({}), "{selector}");
        receipts::until_confirmed(broker, &done.body).await;
        assert!(broker.is_active(&token).await, "{selector}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_only_ends_what_is_there_and_goes_on_minting() {
    let world = World::start().await;
    let broker = &world.broker;
    let token = token_of(&broker.exchange(&broker.good_form()).await);
    let selector = json!({ "agent": "deployer" });
    let body = json!({ "selector": selector, "reason": "a leak", "kill_only": true });
    let done = broker.admin("POST", "/revocations", Some(body)).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(done.body["holds"], false);
    assert!(!broker.is_active(&token).await);
    let next = token_of(&broker.exchange(&broker.good_form()).await);
    assert!(broker.is_active(&next).await);
    assert!(!broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_exactly_understood_revokes_nothing() {
    let world = World::start().await;
    let broker = &world.broker;
    let token = token_of(&broker.exchange(&broker.good_form()).await);
    let good = json!({ "selector": { "agent": "deployer" }, "reason": "x" });
    let cases = [
        (
            "/revocations",
            json!({ "selector": { "agents": "deployer" }, "reason": "x" }),
        ),
        (
            "/revocations",
            json!({ "selector": { "agent": "deployer", "mission": "nightly" }, "reason": "x" }),
        ),
        ("/revocations", json!({ "selector": {}, "reason": "x" })),
        (
            "/revocations",
            json!({ "selector": { "agent": "../x" }, "reason": "x" }),
        ),
        (
            "/revocations",
            json!({ "selector": { "agent": ["deployer"] }, "reason": "x" }),
        ),
        (
            "/revocations",
            json!({ "selector": { "agent": "deployer" } }),
        ),
        (
            "/revocations",
            json!({ "selector": { "agent": "deployer" }, "reason": "x", "dry_run": true }),
        ),
        (
            "/revocations",
            json!({ "selector": "everything", "reason": "x" }),
        ),
        ("/revocations", json!([])),
        ("/revocations?dryrun=true", good.clone()),
        ("/revocations?dry_run=yes", good.clone()),
        ("/revocations?dry_run=true&dry_run=false", good.clone()),
    ];
    for (path, body) in cases {
        let answer = broker.admin("POST", path, Some(body.clone())).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "invalid_request"),
            "{path} {body}"
        );
    }
    let form = broker
        .http
        .post(format!("{}/admin/v1/revocations", broker.url));
    let form = form
        .bearer_auth(crate::support::broker::OPERATOR_TOKEN)
        .form(&[("selector", "all")]);
    assert_eq!(form.send().await.unwrap().status(), 415);
    assert!(broker.is_active(&token).await);
    for path in [
        "/revocations/x",
        "/revocations/019e7f0a-5c1e-7d52-9a53-3f5f0f8f4a11",
    ] {
        assert_eq!(broker.admin("GET", path, None).await.status, 404, "{path}");
    }
}
