//! Ends, ceilings, quotas, conditions; and an issuer that is not there.

use crate::support::broker::{Setup, TestBroker, with};
use crate::support::issuer::Issuer;
use crate::support::time::Manual;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

async fn started(more: &str) -> TestBroker {
    TestBroker::with(Setup {
        more: more.to_owned(),
        ..Setup::default()
    })
    .await
}

/// A good form with this in the intent.
fn asking(broker: &TestBroker, change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    change(&mut claims);
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&claims))
}

fn mission(name: &'static str) -> impl FnOnce(&mut Value) {
    move |claims| claims["mission"]["id"] = json!(name)
}

const MISSIONS: &str = r#"
[mission.conditional]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Only for one commit"
when = 'context.verified has pipeline.sha && context.verified.pipeline.sha == "beef"'
allow = [{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }]

[mission.ends]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Has a last day"
ends = 2098-01-01
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/*"] }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_missions_condition_is_one_more_thing_that_must_hold() {
    let broker = started(MISSIONS).await;
    let answer = broker
        .exchange(&asking(&broker, mission("conditional")))
        .await;
    assert_refused(&answer, Reason::ConditionUnmet, "another commit");
    assert_eq!(answer.reason(), "condition_unmet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_and_a_purpose_that_are_over_give_nothing() {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        more: MISSIONS.to_owned(),
        ..Setup::default()
    })
    .await;
    let good = broker.exchange(&asking(&broker, mission("ends"))).await;
    assert_eq!(good.status, 200, "{}", good.body);
    let soon = |claims: &mut Value| {
        claims["authorization_details"][0]["max_ttl"] = json!(0);
    };
    let answer = broker.exchange(&asking(&broker, soon)).await;
    assert_refused(
        &answer,
        Reason::InvalidAuthorizationDetails,
        "no time at all",
    );
    let ends = broker.composed.clock.now() + Duration::from_secs(1) - Duration::from_millis(1);
    let ends = ends
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let short = |claims: &mut Value| claims["intent"]["expires_at"] = json!(ends);
    let answer = broker.exchange(&asking(&broker, short)).await;
    assert_refused(&answer, Reason::LifetimeOutOfRange, "less than a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_is_over_after_its_last_day() {
    let last = MISSIONS.replace("2098-01-01", "2020-01-01");
    let broker = started(&last).await;
    let answer = broker.exchange(&asking(&broker, mission("ends"))).await;
    assert_refused(&answer, Reason::MissionEnded, "the day after");
    assert_eq!(answer.reason(), "mission_ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_that_cannot_be_compared_is_refused() {
    let broker = started("").await;
    let odd = |claims: &mut Value| {
        claims["authorization_details"][0]["locations"] = json!(["https://deploy.example/${x}"]);
    };
    let answer = broker.exchange(&asking(&broker, odd)).await;
    assert_refused(&answer, Reason::Undecidable, "a variable");
    assert_eq!(answer.body["at"], "authorization_details[0].locations[0]");
}

/// An agent with little: two leases, five requests a minute, a ceiling below its mission's.
const MODEST: &str = r#"
[agent.modest]
owner = "modest@acme.example"
purpose = "Needs little"
ends = 2099-01-01
identity = { issuer = "ci", subject = "repo:acme/modest" }
limits = { active = 2, per_minute = 5 }
ceiling = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }]

[mission.modest]
agents = ["modest"]
owner = "sre@acme.example"
purpose = "What stock clients do"
signer = "platform"
max_active = 50
allow = [
  { target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/a"] },
  { target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/a"] },
]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_its_own_ceiling_and_its_own_quotas() {
    let broker = started(MODEST).await;
    let ask = |audience: &'static str| {
        let mut claims = broker.platform_claims();
        claims["sub"] = json!("repo:acme/modest");
        let token = broker.issuer.sign(&claims);
        let form = with(broker.good_form(), "subject_token", &token);
        let form = super::without(form, "intent");
        let form = with(form, "audience", audience);
        let broker = &broker;
        async move { broker.exchange(&form).await }
    };
    let above = ask("metrics-key").await;
    assert_refused(&above, Reason::ExceedsAgentCeiling, "above its ceiling");
    let first = ask("deploy-api").await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(ask("deploy-api").await.status, 200);
    let third = ask("deploy-api").await;
    assert_refused(&third, Reason::TooManyLeases, "a third lease");
    // What is given back is free again.
    let token = first.body["access_token"].as_str().unwrap();
    let released = crate::support::broker::form(&[("token", token)]);
    assert_eq!(broker.post("/revoke", &released).await.status, 200);
    assert_eq!(ask("deploy-api").await.status, 200);
    let sixth = ask("deploy-api").await;
    assert_refused(&sixth, Reason::TooManyRequests, "the sixth in a minute");
    // Another agent is not concerned.
    broker.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_is_waited_for_and_nothing_is_spent() {
    let issuer = Arc::new(Issuer::start().await);
    issuer.down(true);
    let broker = TestBroker::with(Setup {
        issuer: Some(issuer.clone()),
        ..Setup::default()
    })
    .await;
    let good = broker.good_form();
    let answer = broker.exchange(&good).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "no keys");
    issuer.down(false);
    for _ in 0..100 {
        let answer = broker.exchange(&good).await;
        if answer.status == 200 {
            return;
        }
        assert_refused(&answer, Reason::IssuerUnavailable, "not yet");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the issuer is back, and the broker does not see it");
}
