//! The main job over the wire: what is granted, and every way in which it is not.

use crate::support::broker::TestBroker;

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
