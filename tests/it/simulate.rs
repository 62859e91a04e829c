//! What was recorded is decided again: `dayfly simulate`, `dayfly mission suggest`, `dayfly access`.

use crate::cli::{Done, dayfly};
use crate::support::broker::{OPERATOR_TOKEN, TestBroker, configuration};
use crate::support::process::{Installation, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// An exported audit of three decisions, and the folder they were made with.
struct Past {
    audit: PathBuf,
    folder: PathBuf,
    _installation: std::sync::Arc<Installation>,
}

const CHECKOUT: &str = "https://deploy.example/checkout";

fn detail(action: &str, location: &str) -> Value {
    json!({
        "type": "access_token", "identifier": "deploy-api",
        "actions": [action], "locations": [location],
    })
}

impl Past {
    /// Granted: write on checkout. Refused: read on checkout, read on shop.
    async fn new() -> Self {
        let installation = Installation::start().await;
        let replica = installation.embedded("");
        let process = replica.serve().await;
        installation.issue(&process).await;
        let mut last = String::new();
        for location in [CHECKOUT, "https://deploy.example/shop"] {
            let form = installation.form_for(&detail("deploy:read", location));
            let refused = installation.exchange(&process, &form).await.unwrap();
            assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
            last = refused.body["refusal_id"].as_str().unwrap().to_owned();
        }
        let audit = replica.folder.join("audit.jsonl");
        until("the last refusal is exported", || async {
            std::fs::read_to_string(&audit).is_ok_and(|text| text.contains(&last))
        })
        .await;
        process.kill();
        Self {
            audit,
            folder: replica.folder.clone(),
            _installation: installation,
        }
    }

    /// The configuration with something else in it.
    fn changed(&self, change: impl Fn(String) -> String) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file()
                && !path
                    .extension()
                    .is_some_and(|e| e == "redb" || e == "jsonl")
            {
                std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let file = folder.path().join("dayfly.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            change(text.replace("../", &format!("{}/", self.above()))),
        )
        .unwrap();
        folder
    }

    fn above(&self) -> String {
        self.folder.parent().unwrap().to_str().unwrap().to_owned()
    }

    async fn simulate(&self, config: &Path) -> Value {
        let (audit, config) = (self.audit.to_str().unwrap(), config.to_str().unwrap());
        let arguments = [
            "simulate", "--audit", audit, "--config", config, "-o", "json",
        ];
        dayfly(&arguments, &[], "").await.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_changed_configuration_would_have_decided_is_told_as_a_diff() {
    let past = Past::new().await;
    let same = past.simulate(&past.folder).await;
    assert_eq!(same["replayed"], 3, "{same}");
    assert_eq!(same["changes"], json!([]));

    let elsewhere = past.changed(|text| {
        let from = format!("actions = [\"deploy:write\"], locations = [\"{CHECKOUT}\"]");
        assert!(text.contains(&from));
        text.replace(
            &from,
            "actions = [\"deploy:read\"], locations = [\"https://deploy.example/*\"]",
        )
    });
    let report = past.simulate(elsewhere.path()).await;
    let told: Vec<_> = report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            let text = |name: &str| change[name].as_str().unwrap();
            (
                text("kind"),
                text("before"),
                text("after"),
                change["times"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        (
            "refused",
            "granted by deploy-checkout",
            "refused: exceeds_mission",
            1,
        ),
        (
            "allowed",
            "refused: exceeds_mission",
            "granted by deploy-checkout",
            2,
        ),
    ];
    assert_eq!(told, expected, "{report}");

    let (audit, config) = (
        past.audit.to_str().unwrap(),
        elsewhere.path().to_str().unwrap(),
    );
    let arguments = ["simulate", "--audit", audit, "--config", config];
    let shown = dayfly(&arguments, &[], "").await;
    shown.is(0);
    let minus = "- deployer: granted by deploy-checkout -> refused: exceeds_mission, once";
    let plus = "+ deployer: refused: exceeds_mission -> granted by deploy-checkout, 2 times";
    assert!(shown.out.contains(minus), "{shown:?}");
    assert!(shown.out.contains(plus), "{shown:?}");
    assert!(
        shown
            .out
            .contains("3 decisions, 3 come out otherwise; 0 depended"),
        "{shown:?}"
    );
    dayfly(&[&arguments[..], &["--fail-on-refused"]].concat(), &[], "")
        .await
        .is(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suggested_mission_allows_what_was_asked_and_nothing_else() {
    let past = Past::new().await;
    let audit = past.audit.to_str().unwrap();
    let suggested = dayfly(&["mission", "suggest", "--audit", audit], &[], "").await;
    suggested.is(0);
    let mission = |text: String| {
        let from = text.find("[mission.deploy-checkout]").unwrap();
        let to = text.find("[target.deploy-api]").unwrap();
        format!("{}\n{}\n{}", &text[..from], suggested.out, &text[to..])
    };
    let config = past.changed(mission);
    let dir = config.path().to_str().unwrap();
    let checked = dayfly(&["check", dir], &[], "").await;
    checked.is(0);

    let report = past.simulate(config.path()).await;
    let changes = report["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{report}");
    assert_eq!(changes[0]["kind"], "allowed");
    assert_eq!(changes[0]["times"], 2);

    let file = config.path().join("request.json");
    for (action, location, environment, code) in [
        (
            "deploy:read",
            "https://deploy.example/shop",
            "production",
            0,
        ),
        ("deploy:write", CHECKOUT, "production", 0),
        // Its neighbours: another pair of the same words, another place, another environment.
        (
            "deploy:write",
            "https://deploy.example/shop",
            "production",
            3,
        ),
        (
            "deploy:read",
            "https://deploy.example/other",
            "production",
            3,
        ),
        ("deploy:read", CHECKOUT, "staging", 3),
    ] {
        let request = json!({
            "agent": "deployer",
            "authorization_details": [detail(action, location)],
            "facts": facts_of(&past.audit, environment),
        });
        std::fs::write(&file, request.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let told = dayfly(&["explain", file, "--config", dir], &[], "").await;
        assert_eq!(
            told.code, code,
            "{action} {location} {environment}\n{told:?}\n{}",
            suggested.out
        );
    }
    let nobody = ["mission", "suggest", "--audit", audit, "--agent", "nobody"];
    dayfly(&nobody, &[], "").await.is(1);
}

/// The facts of a recorded decision: they are in the entry of what was granted, too.
fn facts_of(audit: &Path, environment: &str) -> Value {
    let text = std::fs::read_to_string(audit).unwrap();
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let issued = lines
        .find(|line| line["entry"]["event"] == "issued")
        .unwrap();
    let mut facts = issued["entry"]["detail"]["facts"].clone();
    assert_eq!(facts["pipeline.environment"], "production", "{issued}");
    facts["pipeline.environment"] = json!(environment);
    facts
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_reach_what_is_told_from_both_sides() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config/example");
    let ask = |more: &'static [&'static str]| async move {
        let arguments = [&["access", "--config", config, "-o", "json"], more].concat();
        dayfly(&arguments, &[], "").await
    };
    let all = ask(&[]).await.json();
    let rows = all.as_array().unwrap();
    assert_eq!(rows.len(), 1, "{all}");
    assert_eq!(rows[0]["agent"], "checkout-deployer");
    assert_eq!(rows[0]["mission_owner"], "sre@acme.example");
    assert_eq!(rows[0]["may"][0]["actions"][0], "ecs:UpdateService");
    assert_eq!(rows[0]["require"]["pipeline.environment"], "production");
    for (selector, count) in [
        (&["--target", "aws-prod"][..], 1),
        (&["--agent", "checkout-deployer"], 1),
        (&["--label", "env=prod", "--label", "data=none"], 1),
        (&["--label", "env=test"], 0),
    ] {
        let found = ask(selector).await.json();
        assert_eq!(found.as_array().unwrap().len(), count, "{selector:?}");
    }
    ask(&["--target", "nowhere"]).await.is(5);
    ask(&["--agent", "nobody"]).await.is(5);
    ask(&["--label", "env"]).await.is(2);
}

/// `lease narrowed` by whoever may, with this configuration.
async fn narrowed(broker: &TestBroker, text: &str, more: &[&str]) -> Done {
    let folder = broker.folder.path();
    let operator = folder.join("operator.token");
    std::fs::write(&operator, format!("{OPERATOR_TOKEN}\n")).unwrap();
    std::fs::write(folder.join("test.toml"), text).unwrap();
    let environment = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", operator.to_str().unwrap()),
    ];
    let config = folder.to_str().unwrap();
    let arguments = [
        &["lease", "narrowed", "--config", config, "-o", "json"],
        more,
    ];
    dayfly(&arguments.concat(), &environment, "").await
}

/// A broker, a token that it vouches for, and what it was configured by.
async fn one_alive() -> (TestBroker, String, String) {
    let broker = TestBroker::start().await;
    let issued = broker.exchange(&broker.good_form()).await;
    let token = issued.body["access_token"].as_str().unwrap().to_owned();
    assert!(broker.is_active(&token).await, "{}", issued.body);
    let text = configuration(&broker.url, &broker.issuer, "ES256");
    (broker, token, text)
}

fn changed(text: &str, from: &str, to: &str) -> String {
    let changed = text.replace(from, to);
    assert_ne!(changed, text);
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_a_narrower_configuration_would_not_grant_are_listed_and_then_ended() {
    let (broker, token, text) = one_alive().await;
    // The same: nothing. A reload alone ends nothing either.
    let same = narrowed(&broker, &text, &["--revoke", "--reason", "none"]).await;
    let same = same.json();
    assert_eq!(same["alive"], 1, "{same}");
    assert_eq!(same["unjudged"], 0, "{same}");
    assert_eq!(same["narrowed"], json!([]));
    let narrow = changed(
        &text,
        "[mission.deploy-checkout]",
        "[mission.deploy-checkout]\nends = 2020-01-01",
    );
    let listed = narrowed(&broker, &narrow, &[]).await.json();
    assert_eq!(listed["narrowed"][0]["reason"], "mission_ended", "{listed}");
    assert_eq!(listed["narrowed"][0]["revoked"], false);
    assert!(broker.is_active(&token).await, "it was only listed");
    narrowed(&broker, &narrow, &["--revoke"]).await.is(2);
    let ended = narrowed(&broker, &narrow, &["--revoke", "--reason", "narrowed"]).await;
    let ended = ended.json();
    assert_eq!(ended["narrowed"][0]["revoked"], true, "{ended}");
    assert!(!broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lease_was_asked_with_is_put_to_the_narrower_configuration_again() {
    let (broker, _, text) = one_alive().await;
    let environment = r#""pipeline.environment" = "production""#;
    for (narrow, reason, why) in [
        (
            changed(&text, environment, r#""pipeline.environment" = "staging""#),
            "requirement_unmet",
            "pipeline.environment",
        ),
        (
            changed(
                &text,
                "tether = [\"pipeline\"]",
                "tether = [\"pipeline\"]\nwhen = 'context.ttl > 1000'",
            ),
            "condition_unmet",
            "deploy-checkout",
        ),
        (
            changed(&text, "ttl = \"10m\"", "ttl = \"1m\""),
            "outlives_its_mission",
            "60 s",
        ),
        (
            changed(&text, "[agent.deployer]", "[agent.another]")
                .replace("agents = [\"deployer\"]", "agents = [\"another\"]"),
            "unknown_agent",
            "deployer",
        ),
        (
            changed(&text, "ends = 2099-01-01", "ends = 2020-01-01"),
            "agent_not_in_standing",
            "2020-01-01",
        ),
    ] {
        let listed = narrowed(&broker, &narrow, &[]).await.json();
        assert_eq!(listed["narrowed"][0]["reason"], reason, "{listed}");
        let told = listed["narrowed"][0]["why"].as_str().unwrap();
        assert!(told.contains(why), "{told}");
    }
    // Whose question is not to be had is counted, not called allowed.
    let empty = broker.folder.path().join("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    let audit = ["--audit", empty.to_str().unwrap()];
    let staging = changed(&text, environment, r#""pipeline.environment" = "staging""#);
    let listed = narrowed(&broker, &staging, &audit).await.json();
    assert_eq!(listed["narrowed"], json!([]), "{listed}");
    assert_eq!(listed["unjudged"], 1, "{listed}");
}
