//! What is kept and told of a definition, and of one that does not stand.

use super::*;
use dayfly::broker::{Operator, Role};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_key_set_the_store_and_the_audit_have_the_public_keys_alone() {
    let (broker, _) = start().await;
    let key = key();
    let mut agent = definition(&key);
    agent["identity"]["client"]["keys"]["keys"][0]["note"] = json!("a diary");
    let first = registered(&broker, "night-worker", &agent).await;
    let shown = broker.admin("GET", "/agents/night-worker", None).await;
    assert_eq!(shown.body["registered"]["definition"], definition(&key));
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let audit = audit.to_string();
    assert!(
        audit.contains("agent_registered") && !audit.contains("a diary"),
        "{audit}"
    );
    // The same once more is the same.
    let again = registered(&broker, "night-worker", &agent).await;
    assert_eq!(again["number"], first["number"]);
    token(&broker, "night-worker", &key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_definition_is_told_to_whoever_sent_it_and_to_no_log() {
    let (broker, _) = start().await;
    let by = Operator {
        name: "octavia".to_owned(),
        role: Role::Admin,
        break_glass: false,
    };
    let agent = with(&definition(&key()), "missions", json!(["a-diary"]));
    let request = json!({ "agent": agent, "reason": "a test says so" });
    let request = serde_json::from_value(request).unwrap();
    let id = "night-worker".parse().unwrap();
    let refusal = broker.composed.broker.register(&by, id, request).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.reason, Reason::AgentRefused);
    assert_eq!(refusal.detail, "its definition does not stand");
    let told = serde_json::to_string(&refusal.problems).unwrap();
    assert!(told.contains("a-diary"), "{told}");
}
