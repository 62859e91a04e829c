//! `dayfly exec` as a real child: what the command sees, what it leaves behind, what it fails with.

use crate::support::broker::{Setup, TestBroker};
use crate::support::gate::Gate;
use crate::support::pipeline::github_endpoint;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::json;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// A mission whose credentials live for three seconds, so that a renewal is seen.
pub const SHORT: &str = r#"
[mission.short]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Short work"
ttl = "3s"
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]
"#;

struct Bench {
    broker: TestBroker,
    key: PathBuf,
    token: PathBuf,
}

impl Bench {
    async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        let setup = Setup {
            more: SHORT.to_owned(),
            ..setup
        };
        let broker = TestBroker::with(setup).await;
        let key = broker.folder.path().join("agent.jwk.json");
        std::fs::write(&key, broker.key.to_private_jwk().expose()).unwrap();
        let token = broker.folder.path().join("platform.token");
        std::fs::write(&token, broker.platform_token()).unwrap();
        Self { broker, key, token }
    }

    /// `dayfly exec` for the deployer, with nothing of this process's own environment but the path.
    fn exec(&self, mission: &str, more: &[&str], script: &str) -> Command {
        let mut command = dayfly();
        command
            .args([
                "exec",
                "--url",
                &self.broker.url,
                "--agent",
                "deployer",
                "--mission",
                mission,
            ])
            .args(["--target", "deploy-api", "--goal", "Test exec"])
            .arg("--key")
            .arg(&self.key)
            .arg("--subject-token-file")
            .arg(&self.token)
            .args(more)
            .args(["--", "sh", "-c", script]);
        command
    }
}

pub fn dayfly() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub async fn run(mut command: Command) -> (i32, String, String) {
    let done = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = done.expect("it ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reads_its_credential_from_a_file_that_goes_with_it() {
    let bench = Bench::start().await;
    let script = "cat \"$DAYFLY_TOKEN_DEPLOY_API_FILE\"; echo; \
                  stat -c %a \"$DAYFLY_TOKEN_DEPLOY_API_FILE\"; echo \"$DAYFLY_TOKEN_DEPLOY_API_FILE\"";
    let (code, out, err) = run(bench.exec("deploy-checkout", &[], script)).await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<_> = out.lines().collect();
    let [token, mode, path] = lines.as_slice() else {
        panic!("{out}")
    };
    assert_eq!(*mode, "600");
    assert!(!PathBuf::from(path).exists(), "the file is gone");
    assert!(!bench.broker.is_active(token).await, "released at the end");
    assert!(!err.contains(token), "no secret on standard error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_command_sees_a_renewed_credential_in_the_same_file() {
    let bench = Bench::start().await;
    let script = "f=$DAYFLY_TOKEN_DEPLOY_API_FILE; cat $f; echo; sleep 4; cat $f; echo";
    let (code, out, err) = run(bench.exec("short", &[], script)).await;
    assert_eq!(code, 0, "{err}");
    let tokens: Vec<_> = out.lines().collect();
    let [first, second] = tokens.as_slice() else {
        panic!("{out} {err}")
    };
    assert_ne!(first, second);
    for token in [first, second] {
        assert!(
            !bench.broker.is_active(token).await,
            "nothing outlives the command"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_variable_is_opt_in_and_says_when_it_dies() {
    let bench = Bench::start().await;
    let script =
        "echo \"${DAYFLY_TOKEN_DEPLOY_API}\"; echo \"${DAYFLY_TOKEN_DEPLOY_API_FILE-none}\"";
    let (code, out, err) = run(bench.exec("deploy-checkout", &["--env"], script)).await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("ey"), "{out}");
    assert_eq!(lines[1], "none");
    assert!(err.contains("dies in"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_s_own_exit_code_is_passed_on() {
    let bench = Bench::start().await;
    let (code, _, err) = run(bench.exec("deploy-checkout", &[], "exit 37")).await;
    assert_eq!(code, 37, "{err}");
    let (code, _, _) = run(bench.exec("deploy-checkout", &[], "kill -KILL $$")).await;
    assert_eq!(code, 128 + 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_command_and_what_it_held_is_released() {
    let bench = Bench::start().await;
    let script = "cat $DAYFLY_TOKEN_DEPLOY_API_FILE; echo; trap 'exit 5' TERM; echo ready; \
                  while true; do sleep 0.1; done";
    let mut child = bench
        .exec("deploy-checkout", &[], script)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let token = lines.next_line().await.unwrap().unwrap();
    assert!(bench.broker.is_active(&token).await);
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "ready");
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait())
        .await
        .unwrap();
    assert_eq!(
        status.unwrap().code(),
        Some(5),
        "the command chose its own end"
    );
    assert!(!bench.broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_failures_have_codes_of_their_own() {
    let bench = Bench::start().await;
    let (code, _, err) = run(bench.exec("no-such-mission", &[], "true")).await;
    assert_eq!(code, 121, "refused: {err}");

    let mut nothing = dayfly();
    nothing.args([
        "exec",
        "--url",
        &bench.broker.url,
        "--agent",
        "deployer",
        "--mission",
        "m",
    ]);
    nothing.args(["--target", "deploy-api", "--goal", "Test", "--", "true"]);
    let (code, _, err) = run(nothing).await;
    assert_eq!(code, 120, "no proof: {err}");

    std::fs::remove_file(&bench.token).unwrap();
    let (code, _, err) = run(bench.exec("deploy-checkout", &[], "true")).await;
    assert_eq!(code, 122, "the proof cannot be read: {err}");

    let mut mistyped = dayfly();
    mistyped.args(["exec", "--no-such-flag", "--", "true"]);
    assert_eq!(run(mistyped).await.0, 120, "usage");

    let mut nobody = dayfly();
    nobody.args([
        "exec",
        "--url",
        "http://127.0.0.1:1",
        "--agent",
        "deployer",
        "--mission",
        "m",
    ]);
    nobody.arg("--key").arg(&bench.key);
    nobody.args(["--target", "deploy-api", "--goal", "Test", "--", "true"]);
    let (code, _, err) = run(nobody).await;
    assert_eq!(code, 123, "no broker: {err}");

    std::fs::write(&bench.token, bench.broker.platform_token()).unwrap();
    let mut command = bench.exec("deploy-checkout", &[], "true");
    command.env("TMPDIR", "/nonexistent");
    let (code, _, err) = run(command).await;
    assert_eq!(code, 124, "nowhere to deliver: {err}");

    let mut missing = dayfly();
    missing
        .args(["exec", "--url", &bench.broker.url, "--agent", "deployer"])
        .args(["--mission", "deploy-checkout", "--target", "deploy-api"])
        .arg("--key")
        .arg(&bench.key)
        .arg("--subject-token-file")
        .arg(&bench.token)
        .args(["--goal", "Test exec", "--", "/no/such/command"]);
    let (code, _, err) = run(missing).await;
    assert_eq!(code, 125, "no such command: {err}");
    let open = bench
        .broker
        .admin("GET", "/leases?agent=deployer&alive=true", None)
        .await;
    assert_eq!(
        open.body["items"],
        json!([]),
        "and what was got for it was released"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_command_gets_no_dead_credential_when_its_agent_is_suspended() {
    let bench = Bench::start().await;
    let script = "f=$DAYFLY_TOKEN_DEPLOY_API_FILE; echo $f; \
                  for i in 1 2 3 4 5 6 7 8 9 10 11 12; do [ -e $f ] || { echo gone; exit 0; }; sleep 1; done; exit 1";
    let mut child = bench
        .exec("short", &[], script)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    let receipt = bench.broker.revoke(json!({ "agent": "deployer" })).await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("gone"));
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_github_job_nothing_is_stored_and_a_fresh_key_is_bound_by_the_audience() {
    let bench = Bench::start().await;
    let endpoint = github_endpoint(&bench.broker).await;
    let mut command = dayfly();
    command
        .args(["exec", "--url", &bench.broker.url, "--agent", "deployer"])
        .args([
            "--mission",
            "deploy-checkout",
            "--target",
            "deploy-api",
            "--goal",
            "Deploy",
        ])
        .args(["--", "sh", "-c", "cat $DAYFLY_TOKEN_DEPLOY_API_FILE"])
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", endpoint)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job-secret");
    let (code, out, err) = run(command).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ey"), "{out}");
    assert!(!err.contains("job-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_s_token_is_the_proof_and_a_registered_key_signs_the_intent() {
    let bench = Bench::start().await;
    let gitlab = |key: bool| {
        let mut command = dayfly();
        command
            .args(["exec", "--url", &bench.broker.url, "--agent", "deployer"])
            .args(["--mission", "deploy-checkout", "--target", "deploy-api"])
            .args(["--goal", "Deploy", "--", "sh", "-c"])
            .arg("cat $DAYFLY_TOKEN_DEPLOY_API_FILE")
            .env("DAYFLY_ID_TOKEN", bench.broker.platform_token());
        if key {
            command.env("DAYFLY_KEY_FILE", &bench.key);
        }
        command
    };
    let (code, out, err) = run(gitlab(true)).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("ey"), "{out}");
    // Nothing vouches for a key of the moment: this token's audience was fixed before it was made.
    let (code, out, _) = run(gitlab(false)).await;
    assert_eq!((code, out.as_str()), (121, ""));
}

/// A command that has told its credential and ended, while the store takes no end of anything.
async fn ended_while_nothing_ends() -> (Bench, Arc<Gate>, tokio::process::Child, String) {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let gate = Gate::before(&store);
    let bench = Bench::with(Setup {
        store: Some(gate.clone()),
        ..Setup::default()
    })
    .await;
    let go = bench.broker.folder.path().join("go");
    let script = format!(
        "cat $DAYFLY_TOKEN_DEPLOY_API_FILE; echo; while [ ! -e {} ]; do sleep 0.1; done; exit 7",
        go.display()
    );
    let mut command = bench.exec("deploy-checkout", &[], &script);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let token = lines.next_line().await.unwrap().unwrap();
    gate.refuse("fences");
    std::fs::write(go, "").unwrap();
    (bench, gate, child, token)
}

/// With what it wrote on standard error.
async fn ends(child: tokio::process::Child) -> (i32, String) {
    let done = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let output = done.expect("it ends").unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_back_just_now_is_brought_again() {
    let (bench, gate, mut child, token) = ended_while_nothing_ends().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    assert!(bench.broker.is_active(&token).await);
    gate.open();
    let (code, told) = ends(child).await;
    assert_eq!((code, told.contains("not released")), (7, false), "{told}");
    assert!(!bench.broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_back_lives_until_it_expires_and_that_is_said() {
    let (bench, _gate, child, token) = ended_while_nothing_ends().await;
    let began = tokio::time::Instant::now();
    let (code, told) = ends(child).await;
    let took = began.elapsed();
    assert_eq!(code, 7, "the command's own: {told}");
    assert!(
        took > Duration::from_secs(5) && took < Duration::from_secs(30),
        "{took:?}"
    );
    let said = told.split("the lease lives until it expires, ").nth(1);
    let said = said.unwrap_or_else(|| panic!("{told}"));
    let left: u64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!((500..=600).contains(&left), "of ten minutes: {told}");
    assert!(!told.contains(&token), "no secret on standard error");
    assert!(bench.broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_waiting_for_what_is_not_taken_back() {
    let (_bench, _gate, mut child, _) = ended_while_nothing_ends().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let began = tokio::time::Instant::now();
    let (code, told) = ends(child).await;
    assert_eq!(code, 7, "{told}");
    assert!(began.elapsed() < Duration::from_secs(5), "{told}");
    assert!(told.contains("the lease lives until it expires"), "{told}");
}
