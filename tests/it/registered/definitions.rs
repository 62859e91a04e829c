//! What is kept and told of a definition.

use super::*;

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
