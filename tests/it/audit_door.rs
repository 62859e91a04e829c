//! `GET /admin/v1/audit`: what happened, without a single secret.

use crate::support::broker::{OPERATOR_TOKEN, SERVER_SECRET, form, with};
use crate::support::world::World;
use serde_json::{Value, json};

fn of<'a>(entries: &'a [Value], event: &str) -> Vec<&'a Value> {
    entries
        .iter()
        .filter(|entry| entry["event"] == event)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_what_was_issued_refused_and_ended_and_never_a_secret() {
    let world = World::start().await;
    let broker = &world.broker;
    let good = broker.good_form();
    let issued = broker.exchange(&good).await.body;
    let replay = broker.exchange(&good).await;
    let wide = with(broker.good_form(), "scope", "deploy:read");
    let refused = broker.exchange(&wide).await;
    assert_eq!(refused.reason(), "exceeds_intent", "{}", refused.body);
    let robot_form = world.robot_form();
    let robot = broker.exchange(&robot_form).await.body;
    let released = robot["access_token"].as_str().unwrap();
    broker.post("/revoke", &form(&[("token", released)])).await;
    broker.revoke(json!({ "agent": "deployer" })).await;

    let page = broker.admin("GET", "/audit?limit=1000", None).await;
    assert_eq!(page.status, 200);
    let entries = page.body["items"].as_array().unwrap();
    let issues = of(entries, "issued");
    assert_eq!(issues.len(), 2, "{entries:#?}");
    let refusals = of(entries, "refused");
    let reasons: Vec<_> = refusals.iter().map(|entry| &entry["reason"]).collect();
    assert_eq!(reasons, ["intent_spent", "exceeds_intent"], "{refusals:#?}");
    let text = page.body.to_string();
    for id in [
        &replay.body["refusal_id"],
        &refused.body["refusal_id"],
        &issued["lease_id"],
    ] {
        assert!(text.contains(id.as_str().unwrap()), "{id}");
    }
    assert_eq!(
        of(entries, "fence_raised").len(),
        2,
        "the release and the revocation"
    );

    let mut secrets = vec![
        OPERATOR_TOKEN.to_owned(),
        SERVER_SECRET.to_owned(),
        "hook-secret".to_owned(),
    ];
    let secret = ["subject_token", "intent", "client_assertion"];
    for (name, value) in good.iter().chain(&wide).chain(&robot_form) {
        if secret.contains(&name.as_str()) {
            // Nor its signature alone, which would make the rest usable.
            secrets.push(value.rsplit('.').next().unwrap().to_owned());
            secrets.push(value.clone());
        }
    }
    for credential in [&issued["access_token"], &robot["access_token"]] {
        secrets.push(credential.as_str().unwrap().to_owned());
    }
    let leases = broker.admin("GET", "/leases", None).await.body.to_string();
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret}");
        assert!(!leases.contains(secret.as_str()), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_goes_on_where_the_last_one_ended() {
    let world = World::start().await;
    let broker = &world.broker;
    broker.issue().await;
    let first = broker.admin("GET", "/audit", None).await.body;
    let next = first["next"].as_str().unwrap();
    let empty = broker
        .admin("GET", &format!("/audit?after={next}"), None)
        .await
        .body;
    assert_eq!(empty["items"], json!([]));
    let issued = broker.issue().await;
    let page = broker
        .admin("GET", &format!("/audit?after={next}"), None)
        .await
        .body;
    let items = page["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{items:#?}");
    assert!(
        items[0]
            .to_string()
            .contains(issued["lease_id"].as_str().unwrap())
    );
    for query in ["?limit=0", "?limit=x", "?befor=1"] {
        let answer = broker.admin("GET", &format!("/audit{query}"), None).await;
        assert_eq!(answer.status, 400, "{query}");
    }
}
