//! What a mission's card tells of each of its agents: what that one asked for, and holds.

use crate::support::broker::{Setup, TestBroker, with};
use serde_json::{Value, json};
use std::time::Duration;

const TWO: &str = r#"
[agent.other]
owner = "x@acme.example"
purpose = "Waits"
ends = 2099-01-01
identity = { issuer = "ci", subject = "other" }

[people.oncall]
issuer = "corp"
claims = { groups = "oncall" }
ceiling = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }]

[issuer.corp]
url = "https://login.acme.example"
audience = "dayfly-people"
people = true

[mission.shared]
agents = ["deployer", "other"]
owner = "sre@acme.example"
purpose = "Two have it"
allow = [{ target = "deploy-api", actions = ["deploy:read", "deploy:write"], locations = ["https://deploy.example/checkout"] }]

[mission.for-people]
agents = ["other"]
on_behalf_of = ["oncall"]
in_person = true
tether = ["session"]
owner = "sre@acme.example"
purpose = "For people"
allow = [{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }]

[mission.over]
agents = ["other"]
ends = 2020-01-01
owner = "sre@acme.example"
purpose = "Long ago"
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }]
"#;

async fn start() -> TestBroker {
    TestBroker::with(Setup {
        more: TWO.to_owned(),
        ..Setup::default()
    })
    .await
}

async fn line(broker: &TestBroker, agent: &str) -> Value {
    let page = broker.admin("GET", "/reviews?all=true", None).await.body;
    let items = page["items"].as_array().unwrap();
    let card = items
        .iter()
        .find(|item| item["mission"]["id"] == "shared")
        .unwrap();
    let reach = card["mission"]["reach"].as_array().unwrap();
    let found = reach.iter().find(|line| line["agent"] == agent);
    found.unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_agent_asked_for_another_of_the_mission_did_not() {
    let broker = start().await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["mission"]["id"] = json!("shared");
    claims["authorization_details"][0]["actions"] = json!(["deploy:read"]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let issued = broker.exchange(&form).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    // It is written beside the answer.
    let mut own = Value::Null;
    for _ in 0..300 {
        own = line(&broker, "deployer").await;
        if own["last_used"].is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(own["asked"], json!(["deploy:read"]), "{own}");
    assert_eq!(own["never_asked"], json!(["deploy:write"]));
    let others = line(&broker, "other").await;
    assert!(others.get("asked").is_none(), "{others}");
    assert!(others.get("last_used").is_none(), "{others}");
    assert_eq!(
        others["never_asked"],
        json!(["deploy:read", "deploy:write"])
    );
    // And each card counts what its agent holds.
    let card = async |agent: &str| {
        let path = format!("/agents/{agent}");
        broker.admin("GET", &path, None).await.body
    };
    assert_eq!(card("deployer").await["live_leases"], 1);
    assert_eq!(card("other").await["live_leases"], 0);
    let ended = broker.revoke(json!({ "agent": "deployer" })).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert_eq!(card("deployer").await["live_leases"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_says_for_whom_until_when_and_what_nothing_comes_of() {
    let broker = start().await;
    let card = broker.admin("GET", "/agents/other", None).await.body;
    let reach = card["reach"].as_array().unwrap();
    let of = |mission: &str| {
        let found = reach.iter().find(|line| line["mission"] == mission);
        found.unwrap_or_else(|| panic!("{mission}: {card}"))
    };
    let people = of("for-people");
    assert_eq!(people["on_behalf_of"][0]["group"], "oncall", "{people}");
    assert_eq!(
        people["on_behalf_of"][0]["within"][0]["actions"],
        json!(["deploy:read"])
    );
    assert_eq!(people["in_person"], true);
    assert_eq!(people["tether"], json!(["session"]));
    assert!(people.get("never").is_none(), "{people}");
    assert!(of("shared").get("on_behalf_of").is_none());
    assert!(of("shared").get("never").is_none());
    let why = of("over")["never"][0].as_str().unwrap();
    assert!(why.contains("2020-01-01"), "{why}");
}
