//! A mission that only observes, from the exchange to the mission that would have allowed it.

use crate::cli::dayfly;
use crate::support::process::{Installation, Process, now, until};
use dayfly::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use std::path::Path;

const CHECKOUT: &str = "https://deploy.example/checkout";
const REQUIRE: &str = "require = { \"pipeline.environment\" = \"production\" }";

fn detail(action: &str, location: &str) -> Value {
    json!({
        "type": "access_token", "identifier": "deploy-api",
        "actions": [action], "locations": [location],
    })
}

/// Granted, or the reason.
async fn ask(installation: &Installation, at: &Process, environment: &str, asked: Value) -> String {
    let mut claims = installation.platform_claims(now());
    claims["environment"] = json!(environment);
    let token = installation.issuer.sign(&claims);
    let form = installation.form_of(&token, now(), "deploy-checkout", &asked);
    let answer = installation.exchange(at, &form).await.unwrap();
    match answer.status {
        200 => "granted".to_owned(),
        _ => answer.reason().to_owned(),
    }
}

fn exported(audit: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(audit).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str::<Value>);
    lines.map(|line| line.unwrap()["entry"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_observed_becomes_the_mission_that_allows_exactly_that() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let last = (SystemClock::new().now() + std::time::Duration::from_secs(7 * 86_400)).date();
    let ceiling = "ceiling = [{ target = \"deploy-api\", actions = [\"deploy:*\"], locations = [\"https://deploy.example/*\"] }]";
    let limits = "limits = { active = 5000, per_minute = 100000 }";
    replica.edit(limits, &format!("{limits}\n{ceiling}"));
    let observes = format!(
        "require = {{ \"pipeline.environment\" = \"staging\" }}\nmode = \"observe\"\nobserve_until = {last}"
    );
    replica.edit(REQUIRE, &observes);
    let process = replica.serve().await;
    let asking = async |asked: Value| ask(&installation, &process, "production", asked).await;
    // What `require` would refuse passes; what the grants do not allow is refused as ever.
    assert_eq!(asking(detail("deploy:write", CHECKOUT)).await, "granted");
    let beyond = asking(detail("deploy:read", "https://deploy.example/shop")).await;
    assert_eq!(beyond, "exceeds_mission");
    let audit = replica.folder.join("audit.jsonl");
    let of = |event: &str| {
        let all = exported(&audit).into_iter();
        all.filter(|entry| entry["event"] == event)
            .collect::<Vec<_>>()
    };
    until("both are exported", || async {
        of("issued").len() == 1 && of("refused").len() == 1
    })
    .await;
    let observed = of("issued")[0]["detail"]["observed"].clone();
    assert_eq!(observed[0]["reason"], "requirement_unmet", "{observed}");
    let why = observed[0]["why"].as_str().unwrap();
    assert!(why.contains("pipeline.environment"), "{why}");
    let metrics = installation.http.get(format!("{}/metrics", process.health));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let counted = metrics.lines().find(|line| {
        line.starts_with("dayfly_observed_refusals_total{") && line.contains("deploy-checkout")
    });
    assert!(
        counted.is_some_and(|line| line.ends_with(" 1")),
        "{counted:?}"
    );
    process.kill();

    // The draft takes the mission's place, and is the configuration as it stands.
    let path = audit.to_str().unwrap();
    let suggested = dayfly(&["mission", "suggest", "--audit", path], &[], "").await;
    suggested.is(0);
    let file = replica.folder.join("dayfly.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let from = text.find("[mission.deploy-checkout]").unwrap();
    let to = text.find("[target.deploy-api]").unwrap();
    let text = format!("{}{}\n{}", &text[..from], suggested.out, &text[to..]);
    std::fs::write(&file, text).unwrap();
    let folder = replica.folder.to_str().unwrap();
    dayfly(&["check", folder], &[], "").await.is(0);
    let process = replica.serve().await;
    let shop = "https://deploy.example/shop";
    for (action, location, environment, expected) in [
        ("deploy:write", CHECKOUT, "production", "granted"),
        ("deploy:read", shop, "production", "granted"),
        // Its neighbours: the other pairs, another action, another place, another environment.
        ("deploy:read", CHECKOUT, "production", "exceeds_mission"),
        ("deploy:write", shop, "production", "exceeds_mission"),
        ("deploy:destroy", shop, "production", "exceeds_mission"),
        (
            "deploy:read",
            "https://deploy.example/other",
            "production",
            "exceeds_mission",
        ),
        ("deploy:write", CHECKOUT, "staging", "requirement_unmet"),
    ] {
        let asked = detail(action, location);
        let told = ask(&installation, &process, environment, asked).await;
        assert_eq!(told, expected, "{action} {location}\n{}", suggested.out);
    }
    assert!(!suggested.out.contains("observe"), "{}", suggested.out);
}
