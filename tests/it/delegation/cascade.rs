//! Whatever ends a link of the chain ends all that came of it.

use super::{Cast, a_key, claims, token};
use crate::support::broker::{Setup, form, with};
use crate::support::gate::Gate;
use crate::support::process::until;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;

/// fixer -> helper -> third, and a lease of helper's own beside them.
async fn family(cast: &Cast) -> [String; 4] {
    let root = cast.root("fixer", "relay").await;
    let child = cast.child(&root, "helper", "relay").await;
    let grandchild = cast.child(&child, "third", "relay").await;
    let other = cast.root("helper", "relay").await;
    [root, child, grandchild, other]
}

async fn alive(cast: &Cast, family: &[String; 4]) -> [bool; 4] {
    let mut alive = [false; 4];
    for (alive, token) in alive.iter_mut().zip(family) {
        *alive = cast.broker.is_active(token).await;
    }
    alive
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_link_ends_all_that_came_of_it() {
    let id = |token: &String| claims(token)["jti"].clone();
    type Selector = Box<dyn Fn(&[String; 4]) -> Value + Send + Sync>;
    let cases: Vec<(&str, Selector, [bool; 4])> = vec![
        (
            "the root",
            Box::new(move |f| json!({ "lease": id(&f[0]) })),
            [false, false, false, true],
        ),
        (
            "the middle",
            Box::new(move |f| json!({ "lease": id(&f[1]) })),
            [true, false, false, true],
        ),
        (
            "the end",
            Box::new(move |f| json!({ "lease": id(&f[2]) })),
            [true, true, false, true],
        ),
        (
            "the agent of the root",
            Box::new(|_| json!({ "agent": "fixer" })),
            [false, false, false, true],
        ),
        (
            "the owner of the middle",
            Box::new(|_| json!({ "owner": "helper@acme.example" })),
            [true, false, false, false],
        ),
        (
            "a delegation by its end",
            Box::new(move |f| json!({ "delegation": id(&f[2]) })),
            [false, false, false, true],
        ),
        (
            "a delegation by its root",
            Box::new(move |f| json!({ "delegation": id(&f[0]) })),
            [false, false, false, true],
        ),
    ];
    for (what, selector, expected) in cases {
        let cast = Cast::start().await;
        let family = family(&cast).await;
        assert_eq!(alive(&cast, &family).await, [true; 4], "{what}");
        let dead = expected.iter().filter(|alive| !**alive).count();
        let dry = json!({ "selector": selector(&family), "reason": "x" });
        let dry = cast
            .broker
            .admin("POST", "/revocations?dry_run=true", Some(dry))
            .await
            .body;
        assert_eq!(dry["leases"]["broker"], dead, "{what}: {dry}");
        cast.broker.revoke(selector(&family)).await;
        assert_eq!(alive(&cast, &family).await, expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_holder_is_done_so_is_whoever_it_handed_on_to() {
    let cast = Cast::start().await;
    let family = family(&cast).await;
    let released = form(&[("token", &family[0])]);
    assert_eq!(cast.broker.post("/revoke", &released).await.status, 200);
    assert_eq!(alive(&cast, &family).await, [false, false, false, true]);
    // The sweeper writes it down, on every shard.
    let id = claims(&family[2])["jti"].as_str().unwrap().to_owned();
    for _ in 0..100 {
        if cast.lease(&id).await["state"] == "released" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{}", cast.lease(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_that_was_handed_on_is_confirmed_once_no_child_can_come_any_more() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let gate = Gate::before(&store);
    let cast = Cast::with(Setup {
        store: Some(gate.clone()),
        ..Setup::default()
    })
    .await;
    let root = cast.root("fixer", "relay").await;
    cast.child(&root, "helper", "relay").await;
    // Each shard would still take what was decided before.
    gate.hold_writes("lease-swept");
    let id = claims(&root)["jti"].as_str().unwrap().to_owned();
    let receipt = cast.broker.revoke(json!({ "lease": id })).await.body;
    until("its own record says so", || async {
        cast.lease(&id).await["state"] == "revoked"
    })
    .await;
    let path = format!("/revocations/{}", receipt["id"].as_str().unwrap());
    let state = async || cast.broker.admin("GET", &path, None).await.body["state"].clone();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(state().await, "revoking");
    gate.open();
    until("it is confirmed", || async { state().await == "confirmed" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_parent_is_known_at_another_replica_at_once() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let one = Cast::with(Setup {
        store: Some(store.clone()),
        ..Setup::default()
    })
    .await;
    let family = family(&one).await;
    // Another replica over the same store and keys: it knows the tokens by their leases.
    let two = Cast::with(Setup {
        store: Some(store),
        ..Setup::default()
    })
    .await;
    let mut intent = one.intent_claims("fixer", "relay", None);
    a_key(&mut intent);
    let form_of_root = with(
        one.root_form("fixer", "relay"),
        "intent",
        &one.sign_intent("fixer", &intent),
    );
    let key = token(&one.granted(&form_of_root).await);
    let child = token(
        &one.granted(&one.form_for(&key, "helper", "relay", a_key))
            .await,
    );
    assert!(two.broker.is_active(&child).await);
    one.broker.post("/revoke", &form(&[("token", &key)])).await;
    assert!(!one.broker.is_active(&child).await);
    for _ in 0..100 {
        if !two.broker.is_active(&child).await {
            assert_eq!(alive(&one, &family).await, [true; 4]);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("alive at the other replica after two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_on_the_root_lets_nobody_act_for_it() {
    let cast = Cast::start().await;
    let root = cast.root("fixer", "relay").await;
    cast.broker.revoke(json!({ "agent": "fixer" })).await;
    let answer = cast
        .broker
        .exchange(&cast.form_for(&root, "helper", "relay", |_| {}))
        .await;
    assert_eq!((answer.status, answer.reason()), (400, "parent_not_alive"));
    assert!(token(&cast.granted(&cast.root_form("helper", "relay")).await).len() > 10);
}
