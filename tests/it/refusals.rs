//! Refusals in the audit: one by one while they are few and of somebody known, and counted in one entry else.

use crate::support::broker::{Setup, TestBroker, with};
use serde_json::{Value, json};
use std::time::Duration;

async fn events(broker: &TestBroker, event: &str) -> Vec<Value> {
    let page = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let items = page["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["event"] == event)
        .cloned()
        .collect()
}

/// Of all summaries together, how many had this reason.
async fn summed(broker: &TestBroker, reason: &str) -> u64 {
    let all = events(broker, "refused_summary").await;
    let of_reason = all
        .iter()
        .filter_map(|entry| entry["detail"]["by_reason"][reason].as_u64());
    of_reason.sum()
}

async fn until_summed(broker: &TestBroker, reason: &str, number: u64) {
    for _ in 0..100 {
        if summed(broker, reason).await == number {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{reason}: {}", summed(broker, reason).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_nobody_known_are_one_entry_a_second() {
    let broker = TestBroker::start().await;
    let bad = with(broker.good_form(), "subject_token", "not.a.token");
    for _ in 0..20 {
        assert_eq!(broker.exchange(&bad).await.status, 400);
    }
    until_summed(&broker, "invalid_token", 20).await;
    let entries = events(&broker, "refused_summary").await;
    assert!(entries.len() < 20, "{entries:?}");
    assert!(entries.iter().all(|entry| entry["agent"].is_null()));
    assert!(events(&broker, "refused").await.is_empty());
    // Nothing was refused since: there is nothing to say.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(events(&broker, "refused_summary").await, entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_sixty_a_minute_refusals_of_an_agent_are_counted() {
    let broker = TestBroker::with(Setup {
        mission: "drift = { count = 100, within = \"1h\", do = \"alarm\" }".to_owned(),
        ..Setup::default()
    })
    .await;
    for number in 0..63 {
        let token = broker.platform_token();
        let mut claims = broker.intent_claims(&token);
        claims["authorization_details"][0]["actions"] = json!(["deploy:destroy"]);
        let form = with(broker.good_form(), "subject_token", &token);
        let form = with(form, "intent", &broker.sign_intent(&claims));
        let answer = broker.exchange(&form).await;
        assert_eq!(
            answer.reason(),
            "exceeds_mission",
            "{number}: {}",
            answer.body
        );
    }
    let written = events(&broker, "refused").await.len() as u64;
    // One more a second is let in as the minute goes by.
    assert!((60..63).contains(&written), "{written}");
    until_summed(&broker, "exceeds_mission", 63 - written).await;
}
