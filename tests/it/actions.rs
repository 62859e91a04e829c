//! What pipelines include: the GitHub Action's two halves run by node as a runner runs them, the
//! GitLab component's script run by a shell with its inputs put in; and boto3 under `dayfly exec`.

use crate::support::broker::{Setup, TestBroker};
use crate::support::moto::Moto;
use crate::support::pipeline::github_endpoint;
use crate::support::process::secret_file;
use crate::support::tools;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::process::Command;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `NAME<<DELIMITER`, lines, `DELIMITER`: what a runner reads from its command files.
fn command_file(path: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let mut found = BTreeMap::new();
    while let Some((name, delimiter)) = lines.next().and_then(|line| line.split_once("<<")) {
        let value: Vec<_> = lines
            .by_ref()
            .take_while(|line| *line != delimiter)
            .collect();
        found.insert(name.to_owned(), value.join("\n"));
    }
    found
}

struct Runner {
    folder: tempfile::TempDir,
    endpoint: String,
    url: String,
}

impl Runner {
    async fn start(broker: &TestBroker) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["env", "state", "output"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        Self {
            folder,
            endpoint: github_endpoint(broker).await,
            url: broker.url.clone(),
        }
    }

    async fn half(&self, script: &str, more: &[(&str, &str)]) -> (i32, String) {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("node");
        command
            .arg(repository("deploy/github-action").join(script))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("RUNNER_TEMP", self.folder.path())
            .env("GITHUB_ENV", file("env"))
            .env("GITHUB_STATE", file("state"))
            .env("GITHUB_OUTPUT", file("output"))
            .env("GITHUB_RUN_ID", "77")
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", &self.endpoint)
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job-secret")
            .env("INPUT_URL", &self.url)
            .env("INPUT_AGENT", "deployer")
            .env("INPUT_MISSION", "deploy-checkout")
            .env("INPUT_TARGET", "deploy-api")
            .env("INPUT_GOAL", "Deploy from a workflow")
            .env("INPUT_DAYFLY", env!("CARGO_BIN_EXE_dayfly"))
            .envs(more.iter().copied());
        let output = command.output().await.unwrap();
        let told = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&told).into_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_github_action_hands_a_credential_to_the_job_and_releases_it_after_it() {
    if tools::node_folder().is_none() {
        return;
    }
    let broker = TestBroker::start().await;
    let runner = Runner::start(&broker).await;
    let (code, told) = runner.half("main.mjs", &[]).await;
    assert_eq!(code, 0, "{told}");
    let exported = command_file(&runner.folder.path().join("env"));
    let path = &exported["DAYFLY_TOKEN_DEPLOY_API_FILE"];
    let token = std::fs::read_to_string(path).unwrap();
    assert!(broker.is_active(&token).await);
    assert!(
        told.contains(&format!("::add-mask::{token}")),
        "the runner hides it"
    );
    let output = command_file(&runner.folder.path().join("output"));
    assert!(output["lease"].starts_with("dfl"));

    let state = command_file(&runner.folder.path().join("state"));
    let state: Vec<_> = state
        .iter()
        .map(|(name, value)| (format!("STATE_{name}"), value.as_str()))
        .collect();
    let state: Vec<_> = state
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let (code, told) = runner.half("post.mjs", &state).await;
    assert_eq!(code, 0, "{told}");
    assert!(!broker.is_active(&token).await, "dead with the job");
    assert!(!Path::new(path).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_github_action_runs_one_command_and_passes_its_failure_on() {
    if tools::node_folder().is_none() {
        return;
    }
    let broker = TestBroker::start().await;
    let runner = Runner::start(&broker).await;
    let script = "test -s \"$DAYFLY_TOKEN_DEPLOY_API_FILE\" && exit 9";
    let (code, told) = runner.half("main.mjs", &[("INPUT_COMMAND", script)]).await;
    assert_eq!(code, 9, "{told}");
    let (code, told) = runner
        .half("main.mjs", &[("INPUT_MISSION", "another")])
        .await;
    assert_ne!(code, 0);
    assert!(told.contains("::error"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitlab_component_s_job_runs_its_command_with_a_credential() {
    let more = r#"
[mission.stock]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Deploy from pipelines that have no key"
signer = "platform"
max_active = 5
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]
"#;
    let broker = TestBroker::with(Setup {
        more: more.to_owned(),
        ..Setup::default()
    })
    .await;
    // A registered key, or none and a mission that accepts the platform's word.
    run_component(&broker, "deploy-checkout", "false").await;
    run_component(&broker, "stock", "true").await;
}

async fn run_component(broker: &TestBroker, mission: &str, platform_signed: &str) {
    let text = std::fs::read_to_string(repository("deploy/gitlab/component.yml")).unwrap();
    let inputs = [
        ("url", broker.url.as_str()),
        ("agent", "deployer"),
        ("mission", mission),
        ("platform_signed", platform_signed),
        ("target", "deploy-api"),
        ("goal", "Deploy from a pipeline"),
        (
            "command",
            "sh -c 'test -s $DAYFLY_TOKEN_DEPLOY_API_FILE && echo delivered'",
        ),
    ];
    let job = inputs.iter().fold(text, |text, (name, value)| {
        text.replace(&format!("$[[ inputs.{name} ]]"), value)
    });
    let job = job.split("\n---\n").nth(1).unwrap();
    let section = |from: &str, to: &str| {
        let start = job.find(from).unwrap() + from.len();
        let end = job[start..].find(to).map_or(job.len(), |end| start + end);
        job[start..end].to_owned()
    };
    let variables = section("  variables:\n", "  script:");
    let script = section("  script:\n    - ", "\n    - ");
    // The agent's intent key is registered: GitLab fixes the audience before the job runs.
    let key = broker.folder.path().join("agent.jwk.json");
    std::fs::write(&key, broker.key.to_private_jwk().expose()).unwrap();
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", &script])
        .env_clear()
        .env("PATH", {
            let bin = Path::new(env!("CARGO_BIN_EXE_dayfly")).parent().unwrap();
            format!("{}:/usr/bin:/bin", bin.display())
        })
        .env("CI_PIPELINE_ID", "574")
        .env("DAYFLY_ID_TOKEN", broker.platform_token());
    if platform_signed == "false" {
        command.env("DAYFLY_KEY_FILE", &key);
    }
    for line in variables.lines() {
        let (name, value) = line.trim().split_once(": ").unwrap();
        command.env(
            name,
            value.trim_matches('"').replace("$CI_PIPELINE_ID", "574"),
        );
    }
    let output = command.output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "delivered",
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unmodified_boto3_works_under_exec_without_a_key_in_its_environment() {
    let Some(python) = tools::python() else {
        return;
    };
    let Some(moto) = Moto::start(true).await else {
        return;
    };
    let secrets = tempfile::tempdir().unwrap();
    secret_file(&secrets.path().join("id"), &moto.access_key_id);
    secret_file(&secrets.path().join("key"), &moto.secret_access_key);
    let more = format!(
        r#"
[mission.look-around]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "See which buckets there are"
ttl = "15m"
allow = [{{ target = "aws-prod", actions = ["s3:ListAllMyBuckets"], locations = ["*"] }}]

[target.aws-prod]
kind = "aws"
role = "{}"
method = "assume_role"
endpoint = "{}"
access_key_id = "file:{folder}/id"
secret_access_key = "file:{folder}/key"
ceiling = {{ actions = ["s3:*"], locations = ["*"] }}
"#,
        moto.role_arn,
        moto.url,
        folder = secrets.path().display()
    );
    let broker = TestBroker::with(Setup {
        more,
        ..Setup::default()
    })
    .await;
    let endpoint = github_endpoint(&broker).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command
        .args([
            "exec",
            "--url",
            &broker.url,
            "--agent",
            "deployer",
            "--mission",
            "look-around",
        ])
        .args([
            "--target",
            "aws-prod",
            "--goal",
            "See which buckets there are",
            "--",
        ])
        .arg(python)
        .arg(tools::script("boto3_list.py"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", endpoint)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job-secret")
        // A key that must not win over the lease's.
        .env("AWS_ACCESS_KEY_ID", "AKIAINHERITED")
        .env("AWS_SECRET_ACCESS_KEY", "inherited")
        .env("AWS_ENDPOINT_URL", &moto.url);
    let said: Value = tools::json_of(command).await;
    assert_eq!(said["method"], "container-role");
    assert_eq!(said["buckets"], 200);
    assert!(said["arn"].as_str().unwrap().contains("/dfl"), "{said}");
}
