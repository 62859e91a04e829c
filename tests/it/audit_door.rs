//! `GET /admin/v1/audit`: what happened, without a single secret.

use crate::support::broker::{OPERATOR_TOKEN, SERVER_SECRET, Setup, TestBroker, form, with};
use crate::support::process::until;
use crate::support::world::{World, assert_refused};
use dayfly::broker::Reason;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Log, Outcome, Store, Transaction, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

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

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_cannot_be_exported_stops_minting_in_the_end_and_no_revocation() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let broker = TestBroker::with(Setup {
        store: Some(Arc::clone(&store)),
        // A folder is where the export should be.
        files: vec![("audit/in-the-way".to_owned(), String::new())],
        ..Setup::default()
    })
    .await;
    let core = &broker.composed.broker;
    until("it is told", || async { !core.warnings().is_empty() }).await;
    assert_eq!(core.ready().await, Ok(()), "nobody is kept from it");
    let issued = broker.issue().await;
    let lives = issued["access_token"].as_str().unwrap();
    wait_in(&store, 80_000).await;
    until("minting stops", || async {
        core.warnings()
            .iter()
            .any(|warning| warning.contains("nothing is minted"))
    })
    .await;
    let refused = broker.exchange(&broker.good_form()).await;
    assert_refused(&refused, Reason::StoreUnavailable, "no room");
    assert_eq!(refused.headers["retry-after"], "5");
    assert!(broker.is_active(lives).await);
    assert_eq!(core.ready().await, Ok(()));
    let done = broker.revoke(json!({ "agent": "deployer" })).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert!(!broker.is_active(lives).await);
}

/// So many entries more wait to be exported.
async fn wait_in(store: &Arc<dyn Store>, entries: usize) {
    let shard = ShardId::all().next().unwrap();
    let log = Log {
        shard,
        name: "audit",
    };
    for _ in 0..entries / 1000 {
        let deadline = SystemClock::new().now() + Duration::from_secs(9);
        let mut transaction = Transaction::new(shard, deadline);
        for _ in 0..1000 {
            let (log, value) = (log.clone(), br#"{"event":"a test"}"#.to_vec());
            transaction = transaction.write(Write::Append { log, value });
        }
        let outcome = store.commit(transaction).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
}
