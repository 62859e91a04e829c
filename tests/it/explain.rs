//! `dayfly explain` without a broker: from a request that was written down, and from an exported
//! audit.

use crate::support::process::{Installation, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::process::Command;

async fn explain(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .arg("explain")
        .args(arguments)
        .env_clear()
        .output()
        .await
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&told).into_owned(),
    )
}

fn example() -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/example");
    folder.to_str().unwrap().to_owned()
}

fn write(folder: &Path, request: &Value) -> String {
    let path = folder.join("request.json");
    std::fs::write(&path, request.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn request(service: &str, environment: &str) -> Value {
    json!({
        "agent": "checkout-deployer",
        "mission": "deploy-checkout",
        "authorization_details": [{
            "type": "aws_session", "identifier": "aws-prod", "actions": ["ecs:UpdateService"],
            "locations": [format!("arn:aws:ecs:eu-west-1:111122223333:service/prod/{service}")],
        }],
        "facts": {
            "pipeline.environment": environment, "pipeline.ref_protected": "true",
            "pipeline.repository_id": "1234", "pipeline.run_id": "1", "pipeline.run_attempt": "1",
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_written_request_is_explained_by_the_configuration_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = example();
    for (service, environment, code, words) in [
        ("checkout", "production", 0, "granted"),
        ("payments", "production", 3, "exceeds_mission"),
        ("checkout", "staging", 3, "pipeline.environment"),
    ] {
        let file = write(folder.path(), &request(service, environment));
        let (got, told) = explain(&[&file, "--config", &config]).await;
        assert_eq!(got, code, "{told}");
        assert!(told.contains(words), "{told}");
        let (got, told) = explain(&["-o", "json", &file, "--config", &config]).await;
        assert_eq!(got, code);
        let answer: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(answer["granted"], code == 0);
        let failed = answer["checks"].as_array().unwrap().iter();
        let failed = failed.filter(|check| check["passed"] == false).count();
        assert_eq!(
            failed,
            usize::from(code != 0),
            "the one condition that failed"
        );
    }
    let mut unknown = request("checkout", "production");
    unknown["agent"] = json!("nobody");
    let file = write(folder.path(), &unknown);
    assert_eq!(explain(&[&file, "--config", &config]).await.0, 5);
    let file = write(
        folder.path(),
        &json!({ "agent": "checkout-deployer", "wish": 1 }),
    );
    let (code, told) = explain(&[&file, "--config", &config]).await;
    assert_eq!(code, 2, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_refusal_is_explained_from_the_export_after_the_broker_is_gone() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let asked = installation.form_for(&json!({
        "type": "access_token", "identifier": "deploy-api",
        "actions": ["deploy:delete"], "locations": ["https://deploy.example/checkout"],
    }));
    let refused = installation.exchange(&process, &asked).await.unwrap();
    assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
    let id = refused.body["refusal_id"].as_str().unwrap().to_owned();
    let export = replica.folder.join("audit.jsonl");
    until("the refusal is exported", || async {
        std::fs::read_to_string(&export).is_ok_and(|text| text.contains(&id))
    })
    .await;
    process.kill();
    let (export, config) = (export.to_str().unwrap(), replica.folder.to_str().unwrap());
    let (code, told) = explain(&["--refusal", &id, "--audit", export, "--config", config]).await;
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("deploy:delete"), "{told}");
    assert!(told.contains("exceeds_mission"), "{told}");
}
