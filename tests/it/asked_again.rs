//! A refusal of the audit is explained by the very question that was asked: whoever it was for, whatever
//! stood beside it, whatever else the request said.

use crate::cli::dayfly;
use crate::delegation::{CHECKOUT, Cast, asking};
use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker, configuration, with};
use serde_json::{Value, json};

async fn explained(broker: &TestBroker, refused: &Answer) -> Value {
    let asked = json!({ "refusal": refused.body["refusal_id"] });
    let answer = broker.admin("POST", "/explain", Some(asked)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// The check that failed, alone.
fn failed(told: &Value) -> &str {
    let checks = told["checks"].as_array().unwrap();
    let mut failed = checks.iter().filter(|check| check["passed"] == false);
    let name = failed.next().unwrap()["name"].as_str().unwrap();
    assert!(failed.next().is_none(), "{told}");
    name
}

async fn asked(broker: &TestBroker, change: impl FnOnce(&mut Value)) -> Answer {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    change(&mut claims);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    broker.exchange(&form).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_a_person_is_explained_for_that_person() {
    let cast = Cast::start().await;
    let person = cast.person();
    let form = cast.form_for(
        &person,
        "fixer",
        "assist",
        asking(&["deploy:admin"], &[CHECKOUT]),
    );
    let refused = cast.broker.exchange(&form).await;
    assert_eq!(
        refused.reason(),
        "exceeds_people_ceiling",
        "{}",
        refused.body
    );
    let told = explained(&cast.broker, &refused).await;
    assert_eq!(told["reason"], "exceeds_people_ceiling", "{told}");
    assert_eq!(told["then"]["reason"], "exceeds_people_ceiling");
    assert_eq!(told["then"]["other_configuration"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_beside_the_intent_is_a_part_of_the_question() {
    let broker = TestBroker::start().await;
    let mut form = broker.good_form();
    form.push(("scope".to_owned(), "deploy:read".to_owned()));
    let refused = broker.exchange(&form).await;
    assert_eq!(refused.reason(), "exceeds_intent", "{}", refused.body);
    let told = explained(&broker, &refused).await;
    assert_eq!(told["reason"], "exceeds_intent", "{told}");
    assert_eq!(failed(&told), "request");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_request_is_a_part_of_the_question() {
    let broker = TestBroker::with(Setup {
        mission: "when = 'context has task && context.task == \"release\" && context.ttl < 100'"
            .to_owned(),
        ..Setup::default()
    })
    .await;
    let refused = asked(&broker, |claims| claims["txn"] = json!("release")).await;
    assert_eq!(refused.reason(), "condition_unmet", "{}", refused.body);
    let told = explained(&broker, &refused).await;
    let why = told["summary"].as_str().unwrap();
    assert!(why.contains("context.ttl < 100"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refused_behind_the_policy_is_told_beside_a_decision_that_would_grant() {
    let broker = TestBroker::with(Setup {
        mission: "max_active = 1".to_owned(),
        ..Setup::default()
    })
    .await;
    broker.issue().await;
    let refused = broker.exchange(&broker.good_form()).await;
    assert_eq!(refused.reason(), "too_many_leases", "{}", refused.body);
    let told = explained(&broker, &refused).await;
    assert_eq!(told["granted"], true, "{told}");
    assert_eq!(told["then"]["reason"], "too_many_leases");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_asked_about_with_a_broker_and_without_one() {
    let broker = TestBroker::with(Setup {
        mission: "when = 'context has task && context.ttl < 100'".to_owned(),
        ..Setup::default()
    })
    .await;
    let refused = asked(&broker, |claims| claims["txn"] = json!("release")).await;
    assert_eq!(refused.reason(), "condition_unmet", "{}", refused.body);
    let id = refused.body["refusal_id"].as_str().unwrap();
    let page = broker.admin("GET", "/audit", None).await.body;
    let lines: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| json!({ "entry": entry }).to_string())
        .collect();
    let folder = broker.folder.path();
    let export = folder.join("export.jsonl");
    std::fs::write(&export, lines.join("\n")).unwrap();
    let text = configuration(&broker.url, &broker.issuer, "ES256").replace(
        "[mission.deploy-checkout]\n",
        "[mission.deploy-checkout]\nwhen = 'context has task && context.ttl < 100'\n",
    );
    std::fs::write(folder.join("test.toml"), text).unwrap();
    let operator = folder.join("operator.token");
    std::fs::write(&operator, format!("{OPERATOR_TOKEN}\n")).unwrap();
    let signed_in = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", operator.to_str().unwrap()),
    ];
    let (export, config) = (export.to_str().unwrap(), folder.to_str().unwrap());
    let of_export = ["explain", "--refusal", id, "--audit", export];
    for (more, environment) in [(&[][..], &signed_in[..]), (&["--config", config], &[])] {
        let told = dayfly(&[&of_export[..], more].concat(), environment, "").await;
        told.is(3);
        assert!(
            told.out.contains("`context.ttl < 100` does not hold"),
            "{told:?}"
        );
        assert!(
            told.out.contains("it was refused (condition_unmet) at "),
            "{told:?}"
        );
    }
    // From the broker's audit, against a folder.
    let newest = ["explain", "--refusal", id, "--config", config];
    let told = dayfly(&newest, &signed_in, "").await;
    assert!(told.is(3).out.contains("`context.ttl < 100`"), "{told:?}");
    // What the store has no more stands in an export, and whoever asks is told so.
    let unknown = "00000000-0000-0000-0000-000000000000";
    for arguments in [
        &["explain", "--refusal", unknown][..],
        &["explain", "--refusal", unknown, "--config", config],
    ] {
        let told = dayfly(arguments, &signed_in, "").await;
        assert!(told.is(5).err.contains("--audit"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stated_request_says_who_proves_it_with_which_key_and_for_which_task() {
    let broker = TestBroker::with(Setup {
        mission:
            "when = 'context has task && context.delivery == \"bound\" && context.issuer == \"ci\"'"
                .to_owned(),
        ..Setup::default()
    })
    .await;
    let good = json!({
        "agent": "deployer", "mission": "deploy-checkout",
        "authorization_details": [{
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write"], "locations": [CHECKOUT],
        }],
        "facts": { "pipeline.environment": "production", "pipeline.run_id": "1", "pipeline.run_attempt": "1" },
        "issuer": "ci", "bound": true, "task": "release", "instance": "pod-1", "scope": ["deploy:write"],
    });
    let ask = async |request: &Value| {
        broker
            .admin("POST", "/explain", Some(request.clone()))
            .await
    };
    let told = ask(&good).await.body;
    assert_eq!(told["granted"], true, "{told}");
    for (name, value, reason) in [
        ("bound", json!(false), "condition_unmet"),
        ("task", Value::Null, "condition_unmet"),
        ("scope", json!(["deploy:read"]), "exceeds_intent"),
        ("issuer", json!("elsewhere"), "unknown_agent"),
    ] {
        let mut spoiled = good.clone();
        spoiled[name] = value;
        let told = ask(&spoiled).await.body;
        assert_eq!(told["reason"], reason, "{name}: {told}");
    }
    let mut misspelt = good;
    misspelt["taks"] = json!("release");
    assert_eq!(ask(&misspelt).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_names_the_configuration_that_refused_it() {
    let broker = TestBroker::start().await;
    broker.issue().await;
    let refused = asked(&broker, |claims| {
        claims["authorization_details"][0]["actions"] = json!(["deploy:delete"]);
    })
    .await;
    assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
    let page = broker.admin("GET", "/audit", None).await.body;
    let of = |event: &str| {
        let mut all = page["items"].as_array().unwrap().iter();
        all.find(|entry| entry["event"] == event).unwrap()
    };
    assert_eq!(
        of("refused")["config_hash"].as_str().unwrap().len(),
        of("issued")["config_hash"].as_str().unwrap().len()
    );
    assert_eq!(of("refused")["config_hash"], of("issued")["config_hash"]);
}
