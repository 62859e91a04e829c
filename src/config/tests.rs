use super::*;
use crate::agents::IdentityMatch;
use crate::identity::KeySource;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use time::macros::datetime;

mod bad;
mod certificates;
mod changes;
mod people;
mod reach;
mod rendering;
mod schema;
mod secrets;
mod trust_domains;

const NOW: time::OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

/// Complete, and nothing in it is wrong. Tests spoil one thing.
const GOOD: &str = r#"
[broker]
url   = "https://dayfly.acme.example"
store = { embedded = "dayfly.redb" }
keys  = { sealing = ["file:sealing.key"] }

[agent.deployer]
owner    = "team@acme.example"
purpose  = "Deploys"
ends     = 2027-03-01
identity = { github = "acme/shop", repository_id = 7 }

[mission.deploy]
agents  = ["deployer"]
owner   = "sre@acme.example"
purpose = "Ship a release"
allow   = [{ target = "api", actions = ["@write"], locations = ["https://api.acme.example/shop"] }]
ttl     = "10m"

[target.api]
kind    = "access_token"
ceiling = { actions = ["releases:*"], locations = ["https://api.acme.example/*"] }
sets    = { write = ["releases:write", "releases:read"] }
labels  = { env = "prod" }
"#;

fn files(text: &str) -> Vec<(String, String)> {
    vec![("dayfly.toml".to_owned(), text.to_owned())]
}

fn checked(text: &str) -> CheckReport {
    check_files(files(text), PathBuf::from("/etc/dayfly"), NOW)
}

fn settings(text: &str) -> Settings {
    load_with(files(text), PathBuf::from("/etc/dayfly"))
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// `GOOD` with one thing replaced.
fn spoiled(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "`{from}` stands once");
    GOOD.replacen(from, to, 1)
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name)
}

/// With what `dayfly demo` fills in when it starts.
fn demo() -> Vec<(String, String)> {
    let text = include_str!("../../config/demo/dayfly.toml")
        .replace("{{broker}}", "http://127.0.0.1:18420")
        .replace("{{issuer}}", "http://127.0.0.1:18422")
        .replace("{{api}}", "http://127.0.0.1:18423");
    assert!(!text.contains("{{"), "every name is filled in");
    files(&text)
}

#[test]
fn every_example_checks_clean() {
    let example = check(&example("example"), NOW);
    let demo = check_files(demo(), PathBuf::from("/tmp/demo"), NOW);
    for report in [example, demo, checked(GOOD)] {
        assert!(report.ok && report.problems.0.is_empty(), "{report}");
        assert!(report.cases.iter().all(|case| case.passed), "{report}");
    }
}

#[test]
fn a_case_that_comes_out_otherwise_fails_the_check() {
    let case = r#"
[[case]]
name = "anyone may"
agent = "deployer"
asked = [{ target = "api", actions = ["releases:delete"], locations = ["https://api.acme.example/shop"] }]
expect = { granted = true }
"#;
    let report = checked(&format!("{GOOD}{case}"));
    assert!(!report.ok);
    assert!(!report.cases[0].passed);
    assert_eq!(report.problems.0[0].code, Code::CaseFailed);
    assert!(report.problems.0[0].message.contains("exceeds_mission"));
}

#[test]
fn a_case_says_which_key_task_instance_issuer_and_scope_a_request_has() {
    let when = "when = 'context has task && context.task == \"release\" && context.delivery == \"bound\" && context.issuer == \"github\"'";
    let case = |more: &str, expect: &str| {
        let text = spoiled("ttl     = \"10m\"", when)
            + &format!(
                r#"
[[case]]
agent = "deployer"
asked = [{{ target = "api", actions = ["releases:read"], locations = ["https://api.acme.example/shop"] }}]
{more}
expect = {expect}
"#
            );
        let report = checked(&text);
        assert!(report.ok, "{more}: {report}");
    };
    let granted = "{ granted = \"deploy\" }";
    let condition = "{ refused = \"condition_unmet\" }";
    case("bound = true\ntask = \"release\"", granted);
    case(
        "bound = true\ntask = \"release\"\ninstance = \"pod-1\"\nissuer = \"github\"",
        granted,
    );
    case(
        "bound = true\ntask = \"release\"\nscope = [\"releases:read\"]",
        granted,
    );
    case("task = \"release\"", condition);
    case("bound = true", condition);
    case("bound = true\ntask = \"other\"", condition);
    let scope = "bound = true\ntask = \"release\"\nscope = [\"releases:write\"]";
    case(scope, "{ refused = \"exceeds_intent\" }");
    let issuer = "bound = true\ntask = \"release\"\nissuer = \"gitlab\"";
    case(issuer, "{ refused = \"unknown_agent\" }");
}

#[test]
fn a_case_has_its_own_time() {
    let case = |now: &str, expect: &str| {
        format!(
            r#"{GOOD}
[[case]]
agent = "deployer"
asked = [{{ target = "api", actions = ["releases:read"], locations = ["https://api.acme.example/shop"] }}]
now = {now}
expect = {expect}
"#
        )
    };
    for text in [
        case("2027-03-01", "{ granted = \"deploy\" }"),
        case("2027-03-01T23:59:59Z", "{ granted = true }"),
        case("2027-03-02", "{ refused = \"agent_not_in_standing\" }"),
    ] {
        let report = checked(&text);
        assert!(report.ok, "{report}");
    }
}

#[test]
fn a_platform_needs_no_table() {
    let settings = settings(GOOD);
    let [issuer] = settings.issuers.as_slice() else {
        panic!("one issuer");
    };
    assert_eq!(issuer.url, "https://token.actions.githubusercontent.com");
    assert_eq!(issuer.audiences, ["https://dayfly.acme.example"]);
    assert!(matches!(issuer.keys, KeySource::Discovery));
    assert_eq!(
        issuer.tenant,
        BTreeMap::from([("repository_id".to_owned(), vec![json!(7)])]),
        "strangers have tokens of this issuer, too"
    );
}

#[test]
fn an_identity_becomes_the_claims_of_its_platform() {
    for (identity, issuer, subject, claims) in [
        (
            r#"{ github = "acme/shop", repository_id = 7, workflow = "d.yml", ref = "refs/heads/main" }"#,
            "github",
            None,
            json!({"repository": "acme/shop", "repository_id": 7, "ref": "refs/heads/main",
                "workflow_ref": "acme/shop/.github/workflows/d.yml@refs/heads/main"}),
        ),
        (
            r#"{ gitlab = "acme/shop", project_id = 8, ref_protected = "true" }"#,
            "gitlab",
            None,
            json!({"project_path": "acme/shop", "project_id": 8, "ref_protected": "true"}),
        ),
        (
            r#"{ kubernetes = "shop/deployer" }"#,
            "kubernetes",
            None,
            json!({"kubernetes.io.namespace": "shop",
                "kubernetes.io.serviceaccount.name": "deployer"}),
        ),
        (
            r#"{ issuer = "spire", claims = { region = "eu" } }"#,
            "spire",
            None,
            json!({"region": "eu"}),
        ),
        (
            r#"{ issuer = "spire", claims = { sub = "spiffe://acme/shop", region = "eu" } }"#,
            "spire",
            Some("spiffe://acme/shop"),
            json!({"region": "eu"}),
        ),
        (
            r#"{ issuer = "spire", subject = "spiffe://acme/shop", claims = { region = "eu" } }"#,
            "spire",
            Some("spiffe://acme/shop"),
            json!({"region": "eu"}),
        ),
    ] {
        let tables = "[issuer.kubernetes]\nurl = \"https://k8s.acme.example\"\n\
                      [issuer.spire]\nurl = \"https://spire.acme.example\"\n";
        let text = spoiled(r#"{ github = "acme/shop", repository_id = 7 }"#, identity) + tables;
        let settings = settings(&text);
        let expected = IdentityMatch {
            issuer: issuer.parse().unwrap(),
            subject: subject.map(str::to_owned),
            claims: claims.as_object().unwrap().clone().into_iter().collect(),
        };
        assert_eq!(settings.agents[0].identities, [expected]);
    }
}

const KEY: &str = r#"{ keys = [{ kty = "OKP", crv = "Ed25519", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;
/// RFC 8037 appendix A.3.
const THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

#[test]
fn the_key_that_an_agent_authenticates_with_signs_its_intents_too() {
    let identity = format!("{{ client = {{ keys = {KEY}, legacy_audience = true }} }}");
    let text = spoiled(r#"{ github = "acme/shop", repository_id = 7 }"#, &identity);
    let settings = settings(&text);
    assert_eq!(settings.clients[0].agent.as_str(), "deployer");
    assert!(settings.clients[0].legacy_audience);
    assert!(settings.agents[0].identities.is_empty());
    assert_eq!(settings.agents[0].intent_keys, [THUMBPRINT]);
}

#[test]
fn sets_are_expanded_and_defaults_are_safe() {
    let settings = settings(GOOD);
    let mission = &settings.missions[0];
    let allowed = mission.allow.values().next().unwrap();
    assert_eq!(allowed.0[0].actions, ["releases:write", "releases:read"]);
    assert_eq!(mission.ttl, Duration::from_secs(600));
    assert_eq!(mission.signer, crate::intent::SignerClass::Agent);
    assert!(!settings.targets[0].0.allow_platform_signer);
    let broker = &settings.broker;
    assert!(broker.listen.address.ip().is_loopback());
    assert!(broker.health_listen.address.ip().is_loopback());
    assert!(broker.doors.trusted_proxies.is_empty());
    assert!(!broker.allow_loopback);
    assert_eq!(broker.fence_view_max_age, Duration::from_secs(1));
}

#[test]
fn references_are_kept_as_references_and_paths_start_at_the_folder() {
    let settings = settings(GOOD);
    assert_eq!(
        settings.broker.sealing_keys,
        ["file:/etc/dayfly/sealing.key"]
    );
    assert_eq!(
        settings.broker.store,
        StoreSettings::Embedded {
            path: PathBuf::from("/etc/dayfly/dayfly.redb")
        }
    );
}

#[test]
fn a_condition_may_name_the_facts_of_the_configurations_own_issuers() {
    let issuer =
        "[issuer.ci]\nurl = \"https://ci.acme.example\"\nfacts = { \"ci.queue\" = \"queue\" }\n";
    let when = "when = 'context.verified has ci.queue && context.verified.ci.queue == \"release\"'";
    let text = spoiled("ttl     = \"10m\"", when);
    assert!(!checked(&text).ok, "nobody proves it");
    let report = checked(&format!("{text}{issuer}"));
    assert!(report.ok, "{report}");
}

#[test]
fn any_file_may_hold_any_table() {
    let (broker, rest) = GOOD.split_once("[mission.deploy]").unwrap();
    let split = vec![
        ("a.toml".to_owned(), broker.to_owned()),
        (
            "teams/shop/b.toml".to_owned(),
            format!("[mission.deploy]{rest}"),
        ),
    ];
    let report = check_files(split, PathBuf::new(), NOW);
    assert!(report.ok, "{report}");
}

#[test]
fn a_folder_is_read_to_its_depth_and_hidden_folders_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let (broker, rest) = GOOD.split_once("[mission.deploy]").unwrap();
    write("broker.toml", broker);
    write(
        "teams/shop/missions.toml",
        &format!("[mission.deploy]{rest}"),
    );
    write(".git/config.toml", "not = toml = at = all");
    write("notes.md", "not ours");
    let report = check(dir.path(), NOW);
    assert!(report.ok, "{report}");
}

#[test]
fn an_empty_or_missing_folder_is_a_problem_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("missing")] {
        let problems = load(&path).map(|_| ()).unwrap_err();
        assert!(problems.0.iter().any(|p| p.code == Code::Unreadable));
    }
}

#[test]
fn whatever_can_change_a_decision_changes_the_hash() {
    let mut seen = BTreeSet::new();
    let texts = [
        GOOD.to_owned(),
        spoiled("\"10m\"", "\"11m\""),
        spoiled("env = \"prod\"", "env = \"test\""),
        format!("{GOOD}# a remark\n"),
    ];
    for text in texts {
        let hash = settings(&text).hash;
        assert_eq!(hash.len(), 64);
        assert_eq!(hash, settings(&text).hash, "the same files, the same hash");
        assert!(seen.insert(hash));
    }
    let dir = tempfile::tempdir().unwrap();
    let text = spoiled(
        "purpose  = \"Deploys\"",
        "purpose = \"x\"\nintent_keys = \"file:k.json\"",
    );
    for x in [
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
    ] {
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]});
        std::fs::write(dir.path().join("k.json"), set.to_string()).unwrap();
        let document = load_with(files(&text), dir.path().to_path_buf()).unwrap();
        let settings = document.resolve().unwrap_or_else(|p| panic!("{p}"));
        assert!(seen.insert(settings.hash), "another key set");
    }
}

#[test]
fn the_development_broker_keeps_its_key_for_itself() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("state");
    let made = development(home.clone()).unwrap();
    assert!(made.settings.broker.listen.address.ip().is_loopback());
    let key = home.join("sealing.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = sealing_key(&made.settings.broker.sealing_keys[0]).unwrap();
    assert_eq!(first.expose().len(), 32);
    let again = development(home).unwrap();
    let second = sealing_key(&again.settings.broker.sealing_keys[0]).unwrap();
    assert_eq!(first.expose(), second.expose(), "a key is never replaced");
}

#[test]
fn every_code_is_described_in_the_documentation() {
    let docs = include_str!("../../docs/configuration.md");
    for code in Code::ALL {
        let severity = format!("{:?}", code.severity()).to_lowercase();
        let row = format!("| `{}` | {severity} |", code.as_str());
        assert!(
            docs.contains(&row),
            "docs/configuration.md has no row {row}"
        );
    }
}

#[test]
fn what_a_connector_cannot_be_set_up_with_is_found_at_its_key() {
    let file = "[target.aws-prod]\nkind = \"aws\"\n\
                role = \"arn:aws:iam::111122223333:role/deploy\"\n\
                endpoint = \"http://sts.example\"\n\
                ceiling = { actions = [\"s3:*\"], locations = [\"*\"] }\n";
    let files = vec![("dayfly.toml".to_owned(), file.to_owned())];
    let problems = check_files(files, PathBuf::new(), NOW).to_string();
    assert!(
        problems.contains("`endpoint` must be an https URL"),
        "{problems}"
    );
    assert!(problems.contains("dayfly.toml:4:"), "{problems}");
}
