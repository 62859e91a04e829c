//! What governance by the clock and by drift does to what is alive, by whichever replica; and that the page
//! about it says what the table of the code says.

use crate::governance::Pair;
use crate::support::broker::{Answer, TestBroker, with};
use dayfly::agents::{Stage, Turn};
use serde_json::{Value, json};
use std::time::Duration;

const DROWSY: &str = r#"
[agent.drowsy]
owner = "x@acme.example"
purpose = "Works now and then"
ends = 2099-01-01
dormant = "5m"
identity = { issuer = "ci", subject = "drowsy" }
intent_keys = "file:deployer.jwks.json"

[mission.nap]
agents = ["drowsy", "deployer"]
owner = "sre@acme.example"
purpose = "Reads"
ttl = "20m"
drift = { count = 3, within = "10m", do = "suspend" }
allow = [{ target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/*"] }]
"#;

async fn ask(broker: &TestBroker, agent: &str, action: &str) -> Answer {
    let mut claims = broker.platform_claims();
    if agent != "deployer" {
        claims["sub"] = json!(agent);
    }
    let token = broker.issuer.sign(&claims);
    let mut intent = broker.intent_claims(&token);
    for name in ["iss", "sub", "client_id"] {
        intent[name] = json!(agent);
    }
    intent["mission"]["id"] = json!("nap");
    // An opaque key: each replica has an address of its own here, and knows it all the same.
    intent["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": [action], "locations": ["https://metrics.example/a"],
    }]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "audience", "metrics-key");
    let form = with(form, "intent", &broker.sign_intent(&intent));
    broker.exchange(&form).await
}

async fn held(broker: &TestBroker, agent: &str) -> (String, String) {
    let issued = ask(broker, agent, "metrics:read").await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    let text = |name: &str| issued.body[name].as_str().unwrap().to_owned();
    (text("access_token"), text("lease_id"))
}

async fn lease(broker: &TestBroker, id: &str) -> Value {
    broker
        .admin("GET", &format!("/leases/{id}"), None)
        .await
        .body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lives_dies_with_an_agent_that_nobody_used_for_too_long() {
    let pair = Pair::start(DROWSY).await;
    pair.round().await;
    let (token, id) = held(&pair.one, "drowsy").await;
    // Its use is written beside the answer.
    for _ in 0..300 {
        let card = pair.one.admin("GET", "/agents/drowsy", None).await.body;
        if card["last_used"].is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pair.clock.advance(Duration::from_secs(4 * 60 + 30));
    pair.round().await;
    assert_eq!(pair.state("drowsy").await, "active");
    assert!(pair.other.is_active(&token).await, "told, and nothing more");
    pair.clock.advance(Duration::from_secs(60));
    for _ in 0..3 {
        pair.round().await;
    }
    assert_eq!(pair.state("drowsy").await, "suspended");
    let told = lease(&pair.one, &id).await;
    assert_eq!(told["alive"], false, "{told}");
    assert_ne!(told["why_ended"], "expired");
    for broker in [&pair.one, &pair.other] {
        assert!(!broker.is_active(&token).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_the_last_day_of_its_agent() {
    let start = crate::support::time::Manual::start();
    let today = dayfly::clock::Clock::now(start.as_ref()).date();
    let last = today + time::Duration::days(2);
    let pair = Pair::start(&DROWSY.replace("ends = 2099-01-01", &format!("ends = {last}"))).await;
    pair.round().await;
    let now = dayfly::clock::Clock::now(pair.clock.as_ref());
    let end = last.next_day().unwrap().midnight().assume_utc();
    let left = Duration::try_from(end - now).unwrap();
    pair.clock.advance(left - Duration::from_secs(150));
    // Resumed after two idle days: it is the last day that is looked at here.
    let lift = json!({ "selector": { "agent": "drowsy" }, "reason": "its last day" });
    pair.one.admin("POST", "/lifts", Some(lift)).await;
    let (token, id) = held(&pair.one, "drowsy").await;
    let told = lease(&pair.one, &id).await;
    assert!(pair.other.is_active(&token).await, "{told}");
    pair.clock.advance(Duration::from_secs(151));
    for broker in [&pair.one, &pair.other] {
        assert!(!broker.is_active(&token).await);
    }
    for _ in 0..3 {
        pair.round().await;
    }
    assert_eq!(pair.state("drowsy").await, "retired");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_counted_over_all_replicas_and_ends_what_lives() {
    let pair = Pair::start(DROWSY).await;
    pair.round().await;
    let (token, _) = held(&pair.one, "deployer").await;
    for broker in [&pair.one, &pair.other] {
        let refused = ask(broker, "deployer", "metrics:delete").await;
        assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
        assert_eq!(pair.state("deployer").await, "active");
        assert!(pair.other.is_active(&token).await);
    }
    // Twice, once at each: the third, wherever, is the last.
    ask(&pair.one, "deployer", "metrics:delete").await;
    assert_eq!(pair.state("deployer").await, "suspended");
    assert!(!pair.one.is_active(&token).await);
    for _ in 0..300 {
        if !pair.other.is_active(&token).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the other replica still says that it lives");
}

#[test]
fn the_page_about_stages_says_what_the_code_does() {
    let page = include_str!("../../docs/agents.md");
    let rows = [
        ("an operator suspends it", Turn::Suspend),
        ("an operator retires it", Turn::Retire),
        ("an operator resumes it", Turn::Resume),
        ("an admin resumes it", Turn::Reinstate),
        ("a reviewer keeps or narrows it", Turn::Reviewed),
        (
            "its review is overdue, and the grace is over",
            Turn::Overdue,
        ),
        ("nobody used it for too long", Turn::Dormant),
        ("it asks for too much, again and again", Turn::Drifted),
        ("its last day is over", Turn::Ended),
        (
            "what is remembered of it was changed in the store",
            Turn::Unreadable,
        ),
    ];
    let table = page.split("| what happens |").nth(1).unwrap();
    let lines: Vec<_> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(lines.len(), rows.len(), "{lines:#?}");
    for (line, (what, turn)) in lines.into_iter().zip(rows) {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        assert_eq!(cells.next(), Some(what));
        for (cell, stage) in cells.zip(Stage::ALL) {
            // What an admin resumes that is not retired, an operator could have.
            let turn = match (turn, stage) {
                (Turn::Reinstate, Stage::Active | Stage::UnderReview | Stage::Suspended) => {
                    Turn::Resume
                }
                (turn, _) => turn,
            };
            let said = Stage::ALL
                .into_iter()
                .find(|stage| cell == stage.as_str().replace('_', " "));
            assert!(
                said.is_some() || cell.is_empty() || cell.starts_with("refused"),
                "{line}"
            );
            assert_eq!(said, stage.after(turn), "{what}: {}", stage.as_str());
        }
    }
}
