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
