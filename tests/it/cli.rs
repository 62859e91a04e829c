//! The command line as a person or a script uses it: the real binary against a real broker; what it
//! prints where, and what it exits with.

use crate::support::broker::{OPERATOR_TOKEN, TestBroker, with};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What a command left behind.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Standard output as JSON, where the command did what it was asked.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn is(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Runs `dayfly` with nothing of this process's environment.
pub async fn dayfly(arguments: &[&str], environment: &[(&str, &str)], stdin: &str) -> Done {
    dayfly_in(Path::new("."), arguments, environment, stdin).await
}

pub async fn dayfly_in(
    folder: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    stdin: &str,
) -> Done {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A command that reads nothing may be gone already.
    drop(input.write_all(stdin.as_bytes()).await);
    drop(input);
    let done = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let output = done.expect("it ends").unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

struct Desk {
    broker: TestBroker,
    token: PathBuf,
}

impl Desk {
    async fn open() -> Self {
        let broker = TestBroker::start().await;
        let token = broker.folder.path().join("operator.token");
        std::fs::write(&token, format!("{OPERATOR_TOKEN}\n")).unwrap();
        let key = broker.folder.path().join("agent.jwk.json");
        std::fs::write(key, broker.key.to_private_jwk().expose()).unwrap();
        Self { broker, token }
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        self.fed(arguments, "").await
    }

    async fn fed(&self, arguments: &[&str], stdin: &str) -> Done {
        let environment = [
            ("DAYFLY_URL", self.broker.url.as_str()),
            ("DAYFLY_OPERATOR_TOKEN_FILE", self.token.to_str().unwrap()),
        ];
        dayfly(arguments, &environment, stdin).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let all: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).collect();
        self.run(&all).await.json()
    }

    /// `dayfly token` for the deployer, on this target.
    async fn token(&self, target: &str, more: &[&str]) -> Done {
        let folder = self.broker.folder.path();
        let platform = folder.join("platform.token");
        std::fs::write(&platform, self.broker.platform_token()).unwrap();
        let key = folder.join("agent.jwk.json");
        let mut arguments = vec![
            "token",
            "--agent",
            "deployer",
            "--mission",
            "deploy-checkout",
        ];
        arguments.extend(["--target", target, "--goal", "Deploy checkout 1.42"]);
        arguments.extend(["--key", key.to_str().unwrap()]);
        arguments.extend(["--subject-token-file", platform.to_str().unwrap()]);
        arguments.extend(more);
        self.run(&arguments).await
    }
}

fn lease_of(issued: &Value) -> &str {
    issued["lease_id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_printed_bare_for_people_and_whole_for_programs() {
    let desk = Desk::open().await;
    let bare = desk.token("deploy-api", &[]).await;
    bare.is(0);
    assert!(desk.broker.is_active(bare.out.trim()).await);
    assert_eq!(bare.err, "");
    let whole = desk.token("deploy-api", &["-o", "json"]).await.json();
    let token = whole["access_token"].as_str().unwrap();
    assert!(desk.broker.is_active(token).await);
    desk.fed(&["release"], token).await.is(0);
    assert!(!desk.broker.is_active(token).await, "released");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_exits_with_three_and_says_why() {
    let desk = Desk::open().await;
    let more = ["--type", "access_token", "--action", "customers:read"];
    let more = [&more[..], &["--location", "https://deploy.example/all"]].concat();
    let refused = desk.token("deploy-api", &more).await;
    refused.is(3);
    assert_eq!(refused.out, "");
    let refused = desk
        .token("deploy-api", &[&more[..], &["-o", "json"]].concat())
        .await;
    let error: Value = serde_json::from_str(&refused.is(3).err).unwrap();
    assert_eq!(error["exit_code"], 3);
    assert_eq!(error["reason"], "exceeds_mission", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_person_holds_leads_to_the_lease_and_to_the_line_that_ends_it() {
    let desk = Desk::open().await;
    let issued = desk.broker.issue().await;
    let (lease, token) = (lease_of(&issued), issued["access_token"].as_str().unwrap());
    let found = desk.fed(&["find", "-"], token).await;
    found.is(0);
    assert!(found.out.contains(lease), "{found:?}");
    assert!(!found.out.contains(token), "the secret is not repeated");
    assert!(found.out.contains("(in 9 min)"), "{}", found.out);
    let end = format!("dayfly revoke --lease {lease}");
    let line = found.out.lines().find(|line| line.ends_with(&end));
    assert!(line.is_some(), "{}", found.out);
    assert_eq!(desk.json(&["find", lease]).await["id"], json!(lease));
    assert_eq!(
        desk.json(&["lease", "show", lease]).await["goal"],
        "Deploy checkout 1.42"
    );

    let key = desk.token("metrics-key", &["-o", "json"]).await.json();
    let secret = key["access_token"].as_str().unwrap();
    let found = desk.fed(&["find", "-", "-o", "json"], secret).await.json();
    assert_eq!(found["target"], "metrics-key");

    let words: Vec<_> = end.split(' ').skip(1).collect();
    desk.run(&words).await.is(0);
    assert!(!desk.broker.is_active(token).await);
    let shown = desk.run(&["lease", "show", lease]).await;
    assert!(!shown.out.contains("dayfly revoke"), "{}", shown.out);
    desk.fed(&["find", "-"], "nobody's").await.is(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_narrows_by_every_filter_and_pages_to_its_limit() {
    let desk = Desk::open().await;
    for _ in 0..5 {
        desk.broker.issue().await;
    }
    desk.token("metrics-key", &[]).await.is(0);
    for (filter, count) in [
        (&["--agent", "deployer"][..], 6),
        (&["--mission", "deploy-checkout"], 6),
        (&["--target", "metrics-key"], 1),
        (&["--alive"], 6),
        (&["--limit", "2"], 2),
        (&["--limit", "6", "--alive"], 6),
        (&["--agent", "nobody"], 0),
    ] {
        let page = desk.json(&[&["lease", "list"][..], filter].concat()).await;
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{filter:?}");
    }
    let table = desk.run(&["lease", "list", "--limit", "2"]).await;
    assert_eq!(table.is(0).out.lines().count(), 3, "{table:?}");
    assert!(table.out.starts_with("LEASE"));
    assert!(table.err.contains("--limit"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_selector_revokes_and_a_dry_run_revokes_nothing() {
    let desk = Desk::open().await;
    let issuer = desk.broker.issuer.url.clone();
    let subject = "repo:acme/checkout:ref:refs/heads/main";
    for selector in [
        &["--agent", "deployer"][..],
        &["--mission", "deploy-checkout"],
        &["--target", "deploy-api"],
        &["--owner", "payments@acme.example"],
        &["--issuer", &issuer],
        &["--subject", &issuer, subject],
        &["--context", &issuer, "pipeline", "1234:77:1"],
        &["--all"],
    ] {
        let issued = desk.broker.issue().await;
        let token = issued["access_token"].as_str().unwrap();
        let revoke = [&["revoke"][..], selector].concat();
        let dry = desk.json(&[&revoke[..], &["--dry-run"]].concat()).await;
        assert_eq!(dry["state"], "dry_run");
        assert!(desk.broker.is_active(token).await, "{selector:?}");
        let done = desk.json(&[&revoke[..], &["--kill-only"]].concat()).await;
        assert_eq!(done["holds"], false, "{done}");
        if selector.first() != Some(&"--context") {
            assert!(!desk.broker.is_active(token).await, "{selector:?}");
        }
    }
    desk.run(&["revoke"]).await.is(2);
    desk.run(&["revoke", "--all", "--agent", "deployer"])
        .await
        .is(2);
    desk.run(&["revoke", "--label", "no-value"]).await.is(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_agent_waits_for_its_resumption() {
    let desk = Desk::open().await;
    let table = desk.run(&["agent", "list"]).await;
    assert!(table.is(0).out.contains("deployer"), "{table:?}");
    desk.run(&["agent", "suspend", "deployer", "--reason", "INC-1"])
        .await
        .is(0);
    let shown = desk.json(&["agent", "show", "deployer"]).await;
    assert_eq!(shown["state"], "suspended");
    assert_eq!(shown["why"], "INC-1");
    desk.token("deploy-api", &[]).await.is(3);
    desk.run(&["agent", "resume", "deployer", "--reason", "over"])
        .await
        .is(0);
    desk.token("deploy-api", &[]).await.is(0);
    desk.run(&["revoke", "--mission", "deploy-checkout"])
        .await
        .is(0);
    desk.token("deploy-api", &[]).await.is(3);
    let lift = ["lift", "--mission", "deploy-checkout", "--reason", "over"];
    desk.run(&lift).await.is(0);
    desk.token("deploy-api", &[]).await.is(0);
    desk.run(&["agent", "show", "nobody"]).await.is(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_the_audit_is_shown() {
    let desk = Desk::open().await;
    desk.broker.issue().await;
    let rotated = desk.json(&["key", "rotate"]).await;
    assert!(rotated["new_key"].is_string(), "{rotated}");
    let tail = desk.run(&["audit", "tail", "--limit", "50"]).await;
    let issued = tail.is(0).out.lines().find(|line| line.contains("issued"));
    assert!(issued.unwrap().contains("deployer"), "{}", tail.out);
    let whole = desk.json(&["audit", "tail", "--limit", "50"]).await;
    assert!(whole["items"][0]["id"].is_string(), "{whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_or_no_broker_is_told_apart() {
    let desk = Desk::open().await;
    let url = desk.broker.url.as_str();
    let nobody = dayfly(&["lease", "list"], &[("DAYFLY_URL", url)], "").await;
    assert!(nobody.is(4).err.contains("dayfly login"), "{nobody:?}");
    std::fs::write(&desk.token, "dayflyop_wrong").unwrap();
    desk.run(&["lease", "list"]).await.is(4);
    let nowhere = ["lease", "list", "--url", "http://127.0.0.1:9", "-o", "json"];
    let nowhere = desk.run(&nowhere).await;
    let error: Value = serde_json::from_str(&nowhere.is(6).err).unwrap();
    assert_eq!(error["exit_code"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_explained_from_its_id() {
    let desk = Desk::open().await;
    let broker = &desk.broker;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"][0]["actions"] = json!(["customers:read"]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let refused = broker.exchange(&form).await;
    let id = refused.body["refusal_id"].as_str().unwrap();
    let explained = desk.run(&["explain", "--refusal", id]).await;
    assert!(
        explained.is(3).out.contains("exceeds_mission"),
        "{explained:?}"
    );
    let unknown = "00000000-0000-0000-0000-000000000000";
    desk.run(&["explain", "--refusal", unknown]).await.is(5);
}

#[tokio::test]
async fn help_renders_everywhere_and_an_unknown_flag_is_a_usage_mistake() {
    let commands = [
        "token",
        "exec",
        "release",
        "serve",
        "demo",
        "init",
        "login",
        "find",
        "lease",
        "revoke",
        "lift",
        "agent",
        "check",
        "explain",
        "audit",
        "operator",
        "key",
        "recover",
        "bench",
        "completion",
    ];
    for command in commands {
        let help = dayfly(&[command, "--help"], &[], "").await;
        assert!(help.is(0).out.contains("Usage"), "{help:?}");
        let wrong = dayfly(&[command, "--no-such-flag"], &[], "").await;
        let usage = if command == "exec" { 120 } else { 2 };
        assert_eq!(wrong.is(usage).out, "");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = dayfly(&["completion", shell], &[], "").await;
        assert!(script.is(0).out.contains("dayfly"), "{shell}");
    }
}

#[tokio::test]
async fn check_names_the_file_and_the_line() {
    let root = env!("CARGO_MANIFEST_DIR");
    let example = format!("{root}/config/example");
    dayfly(&["check", &example], &[], "").await.is(0);
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(format!("{example}/dayfly.toml")).unwrap();
    std::fs::write(
        folder.path().join("dayfly.toml"),
        format!("{text}\n[agent.broken]\nownr = 1\n"),
    )
    .unwrap();
    let path = folder.path().to_str().unwrap();
    let broken = dayfly(&["check", path], &[], "").await;
    assert!(broken.is(1).out.contains("dayfly.toml:"), "{broken:?}");
    let broken = dayfly(&["check", path, "-o", "json"], &[], "").await;
    let report: Value = serde_json::from_str(&broken.is(1).out).unwrap();
    assert_eq!(report["ok"], false);
}

#[tokio::test]
async fn a_type_alone_is_no_request_and_says_what_is_missing() {
    let asked = [
        "token",
        "--target",
        "orders",
        "--agent",
        "reporter",
        "--type",
        "postgres_login",
    ];
    let done = dayfly(&asked, &[], "").await;
    done.is(2);
    assert!(done.err.contains("--action"), "{done:?}");
}
