use super::*;
use crate::broker::publish::Files;
use crate::config::load_with;
use serde_json::json;
use std::path::PathBuf;

const FILES: &str = r#"
[broker]
url   = "https://dayfly.acme.example"
store = { embedded = "dayfly.redb" }
keys  = { sealing = ["file:sealing.key"] }

[issuer.ci]
preset = "generic"
url    = "https://ci.acme.example"

[agent.deployer]
owner    = "team@acme.example"
purpose  = "Deploys"
ends     = 2027-03-01
identity = { issuer = "ci", subject = "deployer" }

[mission.tidy]
agents           = []
allow_registered = true
owner            = "sre@acme.example"
purpose          = "Tidy up"
allow            = [{ target = "api", actions = ["releases:read"], locations = ["https://api.acme.example/shop"] }]

[mission.deploy]
agents  = ["deployer"]
owner   = "sre@acme.example"
purpose = "Ship a release"
allow   = [{ target = "api", actions = ["releases:write"], locations = ["https://api.acme.example/shop"] }]

[target.api]
kind    = "access_token"
ceiling = { actions = ["releases:*"], locations = ["https://api.acme.example/*"] }
"#;

fn files(text: &str) -> Result<Settings, crate::config::Problems> {
    let files = vec![("dayfly.toml".to_owned(), text.to_owned())];
    load_with(files, PathBuf::from("/etc/dayfly")).and_then(|document| document.resolve())
}

fn good() -> Value {
    json!({
        "owner": "nights@acme.example", "purpose": "Tidies up at night", "ends": "2027-03-01",
        "identity": { "issuer": "ci", "subject": "night" }, "missions": ["tidy"],
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut definition = good();
    definition[key] = value;
    definition
}

fn without(key: &str) -> Value {
    let mut definition = good();
    definition.as_object_mut().unwrap().remove(key);
    definition
}

fn joined(all: &[(&str, Value)]) -> Joined {
    beside(&files(FILES).unwrap(), all)
}

fn beside(files: &Settings, all: &[(&str, Value)]) -> Joined {
    let all: Vec<_> = all
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.as_object().unwrap().clone()))
        .collect();
    files.joined(&all).unwrap()
}

fn codes(joined: &Joined, name: &str) -> Vec<Code> {
    let of = joined.problems.get(&name.parse::<AgentId>().unwrap());
    let codes = of.into_iter().flatten().map(|problem| problem.code);
    codes.collect()
}

#[test]
fn one_that_is_good_is_an_agent_of_the_missions_that_it_joins_and_of_no_other() {
    let joined = joined(&[("night", good())]);
    assert_eq!(joined.problems, BTreeMap::new());
    let settings = &joined.settings;
    assert_eq!(settings.agents.last().unwrap().id.as_str(), "night");
    let night: AgentId = "night".parse().unwrap();
    let admits = |name: &str| {
        let mut all = settings.missions.iter();
        let mission = all.find(|mission| mission.id.as_str() == name).unwrap();
        mission.agents.contains(&night)
    };
    assert!(admits("tidy") && !admits("deploy"));
    assert!(settings.policy().is_ok());
    // What the files are called is not changed by it.
    assert_eq!(settings.hash, files(FILES).unwrap().hash);
}

#[test]
fn whatever_is_wrong_with_one_keeps_it_out() {
    let cases = [
        (without("owner"), Code::MissingKey),
        (without("ends"), Code::MissingKey),
        (without("identity"), Code::MissingKey),
        (without("missions"), Code::MissingKey),
        (with("purpos", json!("x")), Code::UnknownKey),
        (with("owner", json!(null)), Code::BadValue),
        (with("ends", json!("tomorrow")), Code::WrongType),
        (with("labels", json!({ "env": "dev" })), Code::UnknownKey),
        (with("missions", json!(["deploy"])), Code::UnknownMission),
        (with("missions", json!(["tidy", "x"])), Code::UnknownMission),
        (
            with("ceiling", json!([{ "target": "x", "actions": ["a"] }])),
            Code::UnknownTarget,
        ),
        (
            with(
                "identity",
                json!({ "client": { "keys": "file:sealing.key" } }),
            ),
            Code::BadReference,
        ),
        (
            with("intent_keys", json!("file:sealing.key")),
            Code::BadReference,
        ),
        (
            with("identity", json!({ "client": { "enrol": true } })),
            Code::BadValue,
        ),
        (
            with(
                "identity",
                json!({ "issuer": "elsewhere", "subject": "night" }),
            ),
            Code::UnknownIssuer,
        ),
        // A platform that needs no table in a file; but a file has to name it.
        (
            with(
                "identity",
                json!({ "github": "acme/x", "repository_id": 7 }),
            ),
            Code::UnknownIssuer,
        ),
        (
            with("identity", json!({ "issuer": "ci", "subject": "deployer" })),
            Code::SameIdentity,
        ),
    ];
    for (definition, code) in cases {
        let joined = joined(&[("night", definition.clone())]);
        let found = codes(&joined, "night");
        assert!(
            found.contains(&code),
            "{code:?}, not {found:?}: {definition}"
        );
        assert_eq!(joined.settings.agents.len(), 1, "{definition}");
    }
}

#[test]
fn an_agent_of_the_files_wins_its_name_and_whoever_came_first_its_proof() {
    let joined = joined(&[("deployer", good()), ("night", good()), ("other", good())]);
    assert_eq!(codes(&joined, "deployer"), [Code::Duplicate]);
    assert_eq!(codes(&joined, "other"), [Code::SameIdentity]);
    let names: Vec<_> = joined
        .settings
        .agents
        .iter()
        .map(|a| a.id.as_str())
        .collect();
    assert_eq!(names, ["deployer", "night"]);
}

#[test]
fn what_a_mission_lets_join_is_part_of_what_all_replicas_have_in_common() {
    let (on, off) = (
        FILES.to_owned(),
        FILES.replace(
            "agents           = []\nallow_registered = true",
            "agents = [\"deployer\"]",
        ),
    );
    let (on, off) = (files(&on).unwrap(), files(&off).unwrap());
    assert_ne!(on.decides, off.decides);
    assert!(on.document.is_some() && off.document.is_none());
    assert!(off.joined(&[]).is_err());
}

#[test]
fn a_mission_that_observes_lets_nobody_join() {
    let text = FILES.replace(
        "allow_registered = true",
        "allow_registered = true\nmode = \"observe\"\nobserve_until = 2026-12-01",
    );
    let problems = files(&text).unwrap_err();
    assert!(
        problems.0.iter().any(|one| one.code == Code::BadValue),
        "{problems}"
    );
}

#[test]
fn a_mission_whose_intents_a_platform_vouches_for_lets_nobody_join() {
    let by_platform = "signer = \"platform\"\nmax_active = 3";
    let open = format!("allow_registered = true\n{by_platform}");
    let problems = files(&FILES.replace("allow_registered = true", &open)).unwrap_err();
    let codes: Vec<_> = problems.0.iter().map(|one| one.code).collect();
    assert_eq!(codes, [Code::BadValue], "{problems}");
    let closed = FILES
        .replace("allow_registered = true", by_platform)
        .replace("= []", "= [\"deployer\"]");
    assert!(files(&closed).is_ok());
}

#[test]
fn a_proof_that_could_be_two_agents_is_nobody_elses() {
    let by = |identity: Value| with("identity", identity);
    let claims = |claims: Value| json!({ "issuer": "ci", "claims": claims });
    let text = FILES.replace(
        "subject = \"deployer\" }",
        "subject = \"deployer\", claims = { project = 7 } }",
    );
    let files = files(&text).unwrap();
    for (identity, expected) in [
        // A token may have both.
        (claims(json!({ "environment": "prod" })), true),
        (
            claims(json!({ "project": "7", "environment": "prod" })),
            true,
        ),
        (json!({ "issuer": "ci", "subject": "deployer" }), true),
        (
            json!([{ "issuer": "ci", "subject": "night" }, claims(json!({ "environment": "prod" }))]),
            true,
        ),
        (json!({ "issuer": "ci", "subject": "night" }), false),
        (claims(json!({ "project": "8" })), false),
    ] {
        let joined = beside(&files, &[("night", by(identity.clone()))]);
        let found = codes(&joined, "night");
        assert_eq!(found.contains(&Code::SameIdentity), expected, "{identity}");
        assert_eq!(found.is_empty(), !expected, "{identity}: {found:?}");
    }
}

#[test]
fn nobody_is_registered_under_a_name_that_a_policy_speaks_of() {
    let policy =
        "forbid (principal, action, resource) unless { principal == Dayfly::Agent::\"old-name\" };";
    let all = vec![
        ("dayfly.toml".to_owned(), FILES.to_owned()),
        ("policies/org.cedar".to_owned(), policy.to_owned()),
    ];
    let files = load_with(all, PathBuf::from("/etc/dayfly"));
    let files = files.and_then(|document| document.resolve()).unwrap();
    let joined = beside(&files, &[("old-name", good())]);
    assert_eq!(codes(&joined, "old-name"), [Code::BadName]);
    assert_eq!(
        beside(&files, &[("night", good())]).problems,
        BTreeMap::new()
    );
}

#[test]
fn no_value_that_an_issuer_refuses_is_an_identity_of_whoever_is_registered() {
    let url = "url    = \"https://ci.acme.example\"";
    let refused = format!("{url}\nrefused = {{ event = [\"fork\", 7] }}");
    let files = files(&FILES.replace(url, &refused)).unwrap();
    for (event, expected) in [
        (json!("fork"), vec![Code::BadValue]),
        (json!("7"), vec![Code::BadValue]),
        (json!("push"), vec![]),
    ] {
        let identity = json!({ "issuer": "ci", "subject": "night", "claims": { "event": event } });
        let joined = beside(&files, &[("night", with("identity", identity))]);
        assert_eq!(codes(&joined, "night"), expected, "{event}");
    }
}

#[test]
fn nobody_has_more_identities_than_it_can_need() {
    let some = |many: usize| {
        let each = |number| json!({ "issuer": "ci", "subject": format!("night-{number}") });
        with("identity", (0..many).map(each).collect())
    };
    assert_eq!(joined(&[("night", some(16))]).problems, BTreeMap::new());
    let more = joined(&[("night", some(17))]);
    assert_eq!(codes(&more, "night"), [Code::BadValue]);
}

/// Published files, of which one names a bundle below the replica's folder.
fn with_bundle(folder: &std::path::Path) -> Settings {
    let (own, common) = FILES.split_at(FILES.find("[issuer.ci]").unwrap());
    let domain = "[trust_domain.\"acme.test\"]\nbundle = \"file:bundle.json\"\n";
    let node = crate::config::Node {
        file: ("dayfly.toml".to_owned(), own.to_owned()),
        base: folder.to_path_buf(),
    };
    let all = Files {
        texts: vec![("all.toml".to_owned(), format!("{common}\n{domain}"))],
        attached: Vec::new(),
    };
    crate::config::published(&node, &all).resolve().unwrap()
}

#[test]
fn a_bundle_that_is_spoiled_or_moved_later_stops_nobody_who_is_registered() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (bundle, outside) = (
        folder.path().join("bundle.json"),
        other.path().join("b.json"),
    );
    for path in [&bundle, &outside] {
        std::fs::write(path, "{\"keys\":[]}").unwrap();
    }
    let files = with_bundle(folder.path());
    let vouched = with("identity", json!({ "spiffe": "spiffe://acme.test/night" }));
    let stands = || {
        let joined = beside(&files, &[("night", vouched.clone())]);
        assert_eq!(joined.problems, BTreeMap::new());
    };
    stands();
    std::fs::write(&bundle, "half of it").unwrap();
    stands();
    std::fs::remove_file(&bundle).unwrap();
    std::os::unix::fs::symlink(&outside, &bundle).unwrap();
    stands();
}
