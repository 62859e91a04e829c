//! What pipelines include: the GitHub Action's two halves run by node as a runner runs them, the
//! GitLab component's script run by a shell with its inputs put in; and boto3 under `dayfly exec`.

use crate::exec::run;
use crate::support::broker::{Setup, TestBroker};
use crate::support::moto::Moto;
use crate::support::pipeline::github_endpoint;
use crate::support::process::secret_file;
use crate::support::tools;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
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

    fn command(&self, script: &str, more: &[(&str, &str)]) -> Command {
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
            .envs(more.iter().copied())
            .kill_on_drop(true);
        command
    }

    async fn half(&self, script: &str, more: &[(&str, &str)]) -> (i32, String) {
        let output = self.command(script, more).output().await.unwrap();
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
async fn a_cancelled_job_ends_the_action_s_command_and_releases_what_it_held() {
    if tools::node_folder().is_none() {
        return;
    }
    let broker = TestBroker::start().await;
    let runner = Runner::start(&broker).await;
    let script = "cat $DAYFLY_TOKEN_DEPLOY_API_FILE; echo; while true; do sleep 0.1; done";
    let mut command = runner.command("main.mjs", &[("INPUT_COMMAND", script)]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let token = lines.next_line().await.unwrap().unwrap();
    assert!(broker.is_active(&token).await);
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(128 + 15));
    assert!(!broker.is_active(&token).await);
}

/// The component's job with its inputs in place, as GitLab makes it.
async fn gitlab_job(python: &Path, inputs: &[(&str, &str)]) -> Value {
    let mut command = Command::new(python);
    command
        .args(["-c", "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))"])
        .arg(repository("deploy/gitlab/component.yml"));
    let documents = tools::json_of(command).await;
    let known = documents[0]["spec"]["inputs"].as_object().unwrap();
    let mut job = documents[1].clone();
    for (name, input) in known {
        let given = inputs.iter().find(|(given, _)| given == name);
        let value = given.map(|(_, value)| *value);
        let value = value.or_else(|| input["default"].as_str());
        let value = value.unwrap_or_else(|| panic!("the input {name} is needed"));
        fill(&mut job, &format!("$[[ inputs.{name} ]]"), value);
    }
    job["$[[ inputs.job ]]"].clone()
}

/// GitLab puts inputs into values that are parsed already.
fn fill(node: &mut Value, placeholder: &str, value: &str) {
    match node {
        Value::String(text) => *text = text.replace(placeholder, value),
        Value::Array(all) => all.iter_mut().for_each(|one| fill(one, placeholder, value)),
        Value::Object(all) => all
            .values_mut()
            .for_each(|one| fill(one, placeholder, value)),
        _ => {}
    }
}

/// The script's lines, in the environment that GitLab gives them.
fn gitlab_script(job: &Value, token: &str, key: Option<&Path>) -> Command {
    let predefined = [
        ("CI_JOB_NAME", "dayfly-exec"),
        ("CI_PROJECT_PATH", "acme/checkout"),
        ("CI_PIPELINE_ID", "77"),
    ];
    let lines: Vec<_> = job["script"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    let program = Path::new(env!("CARGO_BIN_EXE_dayfly")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", program.display());
    let mut command = Command::new("bash");
    command
        .args(["-eo", "pipefail", "-c", &lines.join("\n")])
        .env_clear()
        .env("PATH", path);
    for (name, value) in job["variables"].as_object().unwrap() {
        let (text, expand) = match value {
            Value::String(text) => (text.clone(), true),
            other => (
                other["value"].as_str().unwrap().to_owned(),
                other["expand"] != false,
            ),
        };
        let expanded = predefined.iter().fold(text.clone(), |text, (name, value)| {
            text.replace(&format!("${name}"), value)
        });
        command.env(name, if expand { expanded } else { text });
    }
    assert_eq!(job["id_tokens"].as_object().unwrap().len(), 1);
    command.envs(predefined).env("DAYFLY_ID_TOKEN", token);
    if let Some(key) = key {
        command.env("DAYFLY_KEY_FILE", key);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitlab_component_runs_its_whole_command_under_exec() {
    let Some(python) = tools::python() else {
        return;
    };
    let broker = TestBroker::start().await;
    let key = broker.folder.path().join("agent.jwk.json");
    std::fs::write(&key, broker.key.to_private_jwk().expose()).unwrap();
    let inputs = [
        ("url", broker.url.as_str()),
        ("agent", "deployer"),
        ("mission", "deploy-checkout"),
        ("target", "deploy-api"),
        // Both halves, and what only the inner shell may read.
        (
            "command",
            "echo \"run: $CI_PIPELINE_ID\" && cat $DAYFLY_TOKEN_DEPLOY_API_FILE; exit 3",
        ),
    ];
    let job = gitlab_job(&python, &inputs).await;
    assert_eq!(job["id_tokens"]["DAYFLY_ID_TOKEN"]["aud"], broker.url);
    let (code, out, err) = run(gitlab_script(&job, &broker.platform_token(), Some(&key))).await;
    assert_eq!(code, 3, "{out}{err}");
    let (first, token) = out.split_once('\n').unwrap();
    assert_eq!(first, "run: 77");
    assert!(token.starts_with("ey"), "{token}");
    assert!(!broker.is_active(token).await, "released at the end");
    let leases = broker
        .admin("GET", "/leases?agent=deployer&alive=false", None)
        .await;
    let told = leases.body.to_string();
    assert!(
        told.contains("dayfly-exec of acme/checkout, pipeline 77"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitlab_component_needs_no_key_where_a_mission_takes_the_platform_s_word() {
    let Some(python) = tools::python() else {
        return;
    };
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
    let inputs = [
        ("url", broker.url.as_str()),
        ("agent", "deployer"),
        ("mission", "stock"),
        ("target", "deploy-api"),
        ("platform_signed", "true"),
        ("command", "cat $DAYFLY_TOKEN_DEPLOY_API_FILE"),
    ];
    let job = gitlab_job(&python, &inputs).await;
    let (code, out, err) = run(gitlab_script(&job, &broker.platform_token(), None)).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ey"), "{out}");
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
