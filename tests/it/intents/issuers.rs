//! An orchestrator signs for its own agents and missions, with keys that are fetched.

use super::{Office, sign};
use crate::support::broker::with;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use serde_json::{Value, json};

/// Claims of an intent that the orchestrator signs for this agent.
fn ordered(office: &Office, agent: &str) -> Value {
    let mut claims = office.intent_for("ordered", "");
    claims.as_object_mut().unwrap().remove("subject_token_hash");
    claims["iss"] = json!(office.orchestrator.url);
    claims["sub"] = json!(agent);
    claims["client_id"] = json!(agent);
    claims
}

fn order(office: &Office, claims: &Value) -> Vec<(String, String)> {
    let intent = sign(&office.orchestrator, "intent+jwt", claims);
    office.form(&office.broker.platform_token(), &intent)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_orders_within_its_bounds_only() {
    let office = Office::start().await;
    let broker = &office.broker;
    let good = order(&office, &ordered(&office, "deployer"));
    let issued = broker.exchange(&good).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    assert_eq!(issued.body["mission"], "ordered");

    // Another team's agent, which the mission itself would admit.
    let mut token = broker.platform_claims();
    token["sub"] = json!("repo:acme/neighbour");
    let form = order(&office, &ordered(&office, "neighbour"));
    let form = with(form, "subject_token", &broker.issuer.sign(&token));
    assert_refused(
        &broker.exchange(&form).await,
        Reason::InvalidIntent,
        "another team's agent",
    );
    let mut other = ordered(&office, "deployer");
    other["mission"]["id"] = json!("deploy-checkout");
    assert_refused(
        &broker.exchange(&order(&office, &other)).await,
        Reason::InvalidIntent,
        "another mission",
    );
    other.as_object_mut().unwrap().remove("mission");
    let unnamed = with(order(&office, &other), "scope", "mission:ordered");
    assert_refused(
        &broker.exchange(&unnamed).await,
        Reason::InvalidIntent,
        "a mission that the agent adds",
    );
    // The agent's own signature does not stand in for the orchestrator's.
    let own = broker.platform_token();
    let intent = broker.sign_intent(&office.intent_for("ordered", &own));
    let answer = broker.exchange(&office.form(&own, &intent)).await;
    assert_refused(&answer, Reason::SignerNotAccepted, "the agent's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrators_new_key_is_fetched_and_its_old_one_is_out() {
    let office = Office::start().await;
    let broker = &office.broker;
    let old = order(&office, &ordered(&office, "deployer"));
    office.orchestrator.rotate();
    let new = order(&office, &ordered(&office, "deployer"));
    assert_eq!(broker.exchange(&new).await.status, 200);
    assert_refused(
        &broker.exchange(&old).await,
        Reason::InvalidIntent,
        "a key that was taken back",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_orchestrators_keys_nothing_is_decided() {
    let office = Office::start().await;
    office.orchestrator.down(true);
    let form = order(&office, &ordered(&office, "deployer"));
    let answer = office.broker.exchange(&form).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "no keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_an_orchestrator_ordered_ends_by_its_url_or_by_its_key() {
    for by_key in [false, true] {
        let office = Office::start().await;
        let broker = &office.broker;
        let issued = broker
            .exchange(&order(&office, &ordered(&office, "deployer")))
            .await;
        assert_eq!(issued.status, 200, "{}", issued.body);
        let token = issued.body["access_token"].as_str().unwrap();
        let kept = broker.issue().await;
        let selector = if by_key {
            json!({ "issuer_key": office.orchestrator.key().thumbprint() })
        } else {
            json!({ "issuer": office.orchestrator.url })
        };
        let receipt = broker.revoke(selector).await;
        assert_eq!(receipt.status, 200, "{}", receipt.body);
        assert!(!broker.is_active(token).await);
        assert!(
            broker
                .is_active(kept["access_token"].as_str().unwrap())
                .await
        );
        let again = broker
            .exchange(&order(&office, &ordered(&office, "deployer")))
            .await;
        assert_refused(&again, Reason::Held, "a hold on the orchestrator");
    }
}
