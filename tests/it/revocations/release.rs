//! RFC 7009: whoever holds a credential may end it.

use crate::support::broker::{TestBroker, form, with};
use crate::support::forge::flipped;
use crate::support::process::until;
use crate::support::world::{ASSERTION, World};
use serde_json::{Value, json};

async fn release(broker: &TestBroker, token: &str) -> u16 {
    broker
        .post("/revoke", &form(&[("token", token)]))
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn the_holder_ends_its_credential_and_may_say_so_twice() {
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    for _ in 0..2 {
        let hint = form(&[("token", token), ("token_type_hint", "refresh_token")]);
        let answer = broker.post("/revoke", &hint).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(!broker.is_active(token).await);
    }
    let lease = issued["lease_id"].as_str().unwrap();
    let shown = broker
        .admin("GET", &format!("/leases/{lease}"), None)
        .await
        .body;
    assert_eq!(shown["alive"], false);
    assert!(
        shown["why_ended"].as_str().unwrap().contains("released"),
        "{shown}"
    );
    // The audit says who it was: no operator.
    let audit = broker.admin("GET", "/audit", None).await.body;
    let mut entries = audit["items"].as_array().unwrap().iter();
    let fence = entries
        .find(|entry| entry["event"] == "fence_raised")
        .unwrap();
    assert_eq!(fence["operator"], json!(null), "{fence}");
    assert_eq!(
        (&fence["agent"], &fence["detail"]["by"]),
        (&json!("deployer"), &json!("holder"))
    );
    // What becomes of it its own entry says, and no receipt.
    until("it is said", || async {
        let all = broker.audited("released").await;
        let own = all.iter().filter(|entry| entry["lease"] == lease);
        own.map(|entry| &entry["detail"]["state"])
            .eq([&json!("released")])
    })
    .await;
    // Whoever looks after receipts has looked by then.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(
        broker.audited("revocation_confirmed").await,
        [] as [Value; 0]
    );
    // It is a release, not a hold.
    assert_eq!(broker.exchange(&broker.good_form()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_ended_by_itself() {
    let broker = TestBroker::start().await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/a"],
    }]);
    let fields = with(broker.good_form(), "subject_token", &token);
    let fields = with(fields, "intent", &broker.sign_intent(&claims));
    let issued = broker
        .exchange(&with(fields, "audience", "metrics-key"))
        .await
        .body;
    let key = issued["access_token"].as_str().unwrap();
    assert!(broker.is_active(key).await);
    assert_eq!(release(&broker, key).await, 200);
    assert!(!broker.is_active(key).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_was_ended_and_what_is_only_similar_was_not() {
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    let lease = issued["lease_id"].as_str().unwrap();
    let handle = format!("dayflyh_{lease}");
    for text in [
        "x",
        lease,
        &flipped(token),
        &handle,
        &broker.platform_token(),
    ] {
        assert_eq!(release(&broker, text).await, 200, "{text}");
    }
    assert!(broker.is_active(token).await);
    let empty = broker.post("/revoke", &form(&[])).await;
    assert_eq!((empty.status, empty.error()), (400, "invalid_request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_authenticates_ends_its_own_lease_by_id_and_no_other() {
    let world = World::start().await;
    let broker = &world.broker;
    let own = broker.exchange(&world.robot_form()).await.body;
    let other = broker.issue().await;
    let end = |lease: &Value| {
        let assertion = world.sign_assertion(&world.assertion_claims());
        let fields = form(&[
            ("token", lease.as_str().unwrap()),
            ("client_assertion", &assertion),
            ("client_assertion_type", ASSERTION),
        ]);
        async move { broker.post("/revoke", &fields).await.status }
    };
    assert_eq!(end(&other["lease_id"]).await, 200);
    assert!(
        broker
            .is_active(other["access_token"].as_str().unwrap())
            .await
    );
    assert_eq!(end(&own["lease_id"]).await, 200);
    assert!(
        !broker
            .is_active(own["access_token"].as_str().unwrap())
            .await
    );
    let forged = form(&[
        ("token", other["lease_id"].as_str().unwrap()),
        ("client_assertion", "a.b.c"),
        ("client_assertion_type", ASSERTION),
    ]);
    let answer = broker.post("/revoke", &forged).await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
}
