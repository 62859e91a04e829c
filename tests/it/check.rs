//! `dayfly check` as a pipeline runs it.

use crate::cli::dayfly;
use serde_json::Value;

const FOLDER: &str = r#"
[broker]
url   = "https://dayfly.acme.example"
store = { embedded = "dayfly.redb" }
keys  = { sealing = ["file:sealing.key"] }

[agent.deployer]
owner    = "team@acme.example"
purpose  = "Deploys: 100 %, always"
ends     = 2099-03-01
identity = { github = "acme/shop", repository_id = 7 }

[mission.deploy]
agents  = ["deployer", "a,b:100%"]
owner   = "sre@acme.example"
purpose = "Ship a release"
require = { "pipeline.enviroment" = "production" }
allow   = [{ target = "api", actions = ["releases:write"], locations = ["https://api.acme.example/shop"] }]

[target.api]
kind    = "access_token"
ceiling = { actions = ["releases:*"], locations = ["https://api.acme.example/*"] }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_annotations_at_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dayfly.toml"), FOLDER).unwrap();
    let dir = folder.path().to_str().unwrap();
    let done = dayfly(&["check", dir, "--annotations", "github"], &[], "").await;
    done.is(1);
    let lines: Vec<_> = done
        .out
        .lines()
        .filter(|line| line.starts_with("::"))
        .collect();
    let file = dir.replace(',', "%2C");
    let line = |needle: &str| FOLDER.lines().position(|l| l.contains(needle)).unwrap() + 1;
    let error = format!(
        "::error file={file}/dayfly.toml,line={},col=24,title=unknown_agent::there is no agent `a,b:100%25`%0Ahelp: ",
        line("a,b:100%")
    );
    assert!(lines[0].starts_with(&error), "{} is not {error}", lines[0]);
    let report = dayfly(&["check", dir, "-o", "json"], &[], "").await;
    let problems: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(problems["problems"].as_array().unwrap().len(), lines.len());
    dayfly(
        &["check", dir, "--annotations", "github", "-o", "json"],
        &[],
        "",
    )
    .await
    .is(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_a_mistake_has_no_annotation() {
    let folder = tempfile::tempdir().unwrap();
    let good = FOLDER
        .replace(", \"a,b:100%\"", "")
        .replace("enviroment", "environment");
    std::fs::write(folder.path().join("dayfly.toml"), good).unwrap();
    let dir = folder.path().to_str().unwrap();
    let done = dayfly(&["check", dir, "--annotations", "github"], &[], "").await;
    done.is(0);
    assert!(!done.out.contains("::"), "{}", done.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn strictly_a_warning_fails() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dayfly.toml");
    let warned = FOLDER.replace(", \"a,b:100%\"", "");
    std::fs::write(&file, &warned).unwrap();
    let dir = folder.path().to_str().unwrap();
    let lax = dayfly(&["check", dir], &[], "").await;
    assert!(
        lax.is(0).out.contains("ok: 0 errors, 2 warnings"),
        "{lax:?}"
    );
    let strict = dayfly(&["check", dir, "--strict"], &[], "").await;
    assert!(
        strict.is(1).out.contains("not ok: 0 errors, 2 warnings"),
        "{strict:?}"
    );
    let json = dayfly(&["check", dir, "--strict", "-o", "json"], &[], "").await;
    let report: Value = serde_json::from_str(&json.is(1).out).unwrap();
    assert_eq!(report["ok"], false);
    std::fs::write(&file, warned.replace("enviroment", "environment")).unwrap();
    dayfly(&["check", dir, "--strict"], &[], "").await.is(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cedar_schema_has_the_facts_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dayfly.toml");
    let plain = FOLDER
        .replace(", \"a,b:100%\"", "")
        .replace("enviroment", "environment");
    let dir = folder.path().to_str().unwrap();
    let ask = ["schema", "--cedar", dir];
    std::fs::write(&file, &plain).unwrap();
    let standard = dayfly(&ask, &[], "").await;
    let published = include_str!("../../src/policy/schema.cedarschema");
    let told: Vec<_> = standard.is(0).out.lines().collect();
    assert!(
        published.lines().all(|line| told.contains(&line)),
        "{standard:?}"
    );
    assert!(!told.iter().any(|line| line.contains("freeze")));
    let own = "[issuer.ci]\nurl = \"https://ci.acme.example\"\nfacts = { \"freeze.state\" = \"freeze\" }\n";
    std::fs::write(&file, plain + own).unwrap();
    let told = dayfly(&ask, &[], "").await;
    assert!(told.is(0).out.contains("\"freeze\"?: {"), "{told:?}");
}
