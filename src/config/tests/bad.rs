//! One thing spoiled, one problem: its line and its code.

use super::*;

/// The line, from 1, on which `needle` stands.
fn line_of(text: &str, needle: &str) -> usize {
    let found = text.lines().position(|line| line.contains(needle));
    found.unwrap_or_else(|| panic!("`{needle}` stands in the text")) + 1
}

/// Spoils `GOOD` and expects exactly this problem, on the line of `needle`.
fn expect(from: &str, to: &str, needle: &str, code: &str) {
    let text = spoiled(from, to);
    let report = checked(&text);
    let found: Vec<_> = report
        .problems
        .0
        .iter()
        .map(|problem| (problem.line.unwrap_or(0), problem.code.as_str()))
        .collect();
    let expected = [(line_of(&text, needle), code)];
    assert_eq!(found, expected, "{from} -> {to}\n{report}");
    let problem = &report.problems.0[0];
    assert!(problem.column.is_some_and(|column| column >= 1));
    assert_eq!(problem.file.as_deref(), Some("dayfly.toml"));
}

#[test]
fn of_a_key() {
    for (from, to, needle, code) in [
        ("owner    =", "ownr =", "[agent.deployer]", "missing_key"),
        ("ttl     = \"10m\"", "ttll = \"10m\"", "ttll", "unknown_key"),
        ("ttl     = \"10m\"", "ttl = 10", "ttl =", "wrong_type"),
        ("ttl     = \"10m\"", "ttl = \"ten\"", "ttl =", "bad_value"),
        ("ttl     = \"10m\"", "ttl = \"0s\"", "ttl =", "bad_value"),
        ("ttl     = \"10m\"", "ttl = \"2h\"", "ttl =", "ttl_capped"),
        ("ttl     = \"10m\"", "ttl =", "ttl =", "syntax"),
        (
            "ttl     = \"10m\"",
            "quorum = \"two\"",
            "quorum",
            "unknown_key",
        ),
        ("2027-03-01", "\"2027-03-01\"", "ends", "wrong_type"),
        ("2027-03-01", "2026-03-01", "ends", "ended"),
        ("2027-03-01", "2027-02-30", "ends", "syntax"),
        ("\"Deploys\"", "\"  \"", "purpose", "bad_value"),
        ("\"Deploys\"", "[\"Deploys\"]", "purpose", "wrong_type"),
        (
            "labels  = { env = \"prod\" }",
            "labels = { env = 1 }",
            "labels",
            "wrong_type",
        ),
        (
            "[target.api]",
            "[targets.api]\nx = 1\n[target.api]",
            "[targets.api]",
            "unknown_table",
        ),
        (
            "[target.api]",
            "[agent]\nX = 1\n[target.api]",
            "X = 1",
            "bad_name",
        ),
    ] {
        // The misspelt owner is unknown and missing; what is missing is at the table.
        if to == "ownr =" {
            let report = checked(&spoiled(from, to));
            let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
            assert_eq!(codes, ["missing_key", "unknown_key"], "{report}");
            let help = report.problems.0[1].help.as_deref();
            assert_eq!(help, Some("did you mean `owner`?"));
        } else if code == "bad_name" {
            let report = checked(&spoiled(from, to));
            assert!(report.problems.0.iter().any(|p| p.code == Code::BadName));
        } else {
            expect(from, to, needle, code);
        }
    }
}

#[test]
fn of_the_store() {
    let store = "{ embedded = \"dayfly.redb\" }";
    for (from, to, code) in [
        (store, "{}", "missing_key"),
        (
            store,
            "{ embedded = \"a\", redis = \"env:R\" }",
            "bad_value",
        ),
        (
            store,
            "{ embedded = \"a\" }\ndpop_nonce = \"on\"",
            "bad_value",
        ),
        (store, "{ embedded = \"a\", min_replicas = 1 }", "bad_value"),
        (store, "{ embedded = \"a\", ca = \"ca.pem\" }", "bad_value"),
        (
            store,
            "{ redis = \"env:R\", certificate = \"c.pem\" }",
            "bad_value",
        ),
        (store, "{ redis = \"env:R\", key = \"k.pem\" }", "bad_value"),
        (
            store,
            "{ redis = \"redis://:password@host\" }",
            "bad_reference",
        ),
        (
            store,
            "{ redis = \"env:R\", min_replicas = -1 }",
            "bad_value",
        ),
        (
            store,
            "{ redis = \"env:R\", fence_view_max_age = \"1h\" }",
            "bad_value",
        ),
        (store, "{ sqlite = \"a\" }", "missing_key"),
    ] {
        let report = checked(&spoiled(from, to));
        let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
        assert!(codes.contains(&code), "{to}: {report}");
        assert!(!report.ok);
    }
}

#[test]
fn of_the_broker() {
    let url = "https://dayfly.acme.example";
    let keys = "[\"file:sealing.key\"]";
    for (from, to, code) in [
        (url, "http://dayfly.acme.example", "insecure_url"),
        (url, "dayfly.acme.example", "bad_value"),
        (url, "https://dayfly.acme.example/", "bad_value"),
        (url, "https://dayfly.acme.example?x=1", "bad_value"),
        (url, "https://user@dayfly.acme.example", "bad_value"),
        (keys, "[]", "bad_value"),
        (
            keys,
            "[\"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0\"]",
            "bad_reference",
        ),
    ] {
        let text = spoiled(from, to);
        let report = checked(&text);
        let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
        assert!(codes.contains(&code), "{to}: {report}");
        assert!(!report.ok);
    }
    expect(
        "url   =",
        "limits = { trusted_proxies = [\"0.0.0.0/0\"] }\nurl   =",
        "limits",
        "bad_value",
    );
    expect(
        "url   =",
        "limits = { concurrency = 0 }\nurl   =",
        "limits",
        "bad_value",
    );
    expect(
        "url   =",
        "listen = \"8420\"\nurl   =",
        "listen",
        "bad_value",
    );
    expect(
        "url   =",
        "tls = { certificate = \"a\" }\nurl   =",
        "tls",
        "missing_key",
    );
}

#[test]
fn of_an_identity() {
    let good = r#"{ github = "acme/shop", repository_id = 7 }"#;
    for (to, code) in [
        ("{ github = \"acme/shop\" }", "identity_by_name"),
        (
            "{ github = \"acme/shop\", repository_id = 7, branch = \"main\" }",
            "unknown_key",
        ),
        (
            "{ github = \"acme/shop\", repository_id = [7] }",
            "bad_value",
        ),
        (
            "{ github = \"acme/shop\", repository_id = 7, workflow = \"d.yml\" }",
            "bad_value",
        ),
        ("{ kubernetes = \"shop/deployer\" }", "unknown_issuer"),
        ("{ issuer = \"nobody\", subject = \"x\" }", "unknown_issuer"),
        (
            "{ gitlab = \"acme/shop\", project_id = 8, claims = { sub = 7 } }",
            "bad_value",
        ),
        ("{ subject = \"x\" }", "missing_key"),
        ("{ client = { keys = \"keys.json\" } }", "bad_keys"),
        ("{ client = { keys = \"file:missing.json\" } }", "bad_keys"),
        ("{ client = { keys = { keys = [] } } }", "bad_keys"),
        ("{ client = {} }", "missing_key"),
        ("{ client = { enrol = false } }", "missing_key"),
        ("{ client = { enrol = \"yes\" } }", "wrong_type"),
        (
            "{ client = { enrol = true, keys = { keys = [] } } }",
            "bad_keys",
        ),
        ("\"acme/shop\"", "wrong_type"),
        ("[]", "missing_key"),
    ] {
        if to == "[]" {
            continue;
        }
        let report = checked(&spoiled(good, to));
        let first = report
            .problems
            .0
            .iter()
            .find(|p| p.severity == Severity::Error);
        let first = first.unwrap_or_else(|| panic!("{to} is accepted"));
        assert_eq!(first.code.as_str(), code, "{to}: {report}");
        assert_eq!(
            first.line,
            Some(line_of(GOOD, "identity =")),
            "{to}: {report}"
        );
    }
}

#[test]
fn of_an_issuer() {
    for (table, code) in [
        (
            "[issuer.github]\nurl = \"http://ci.acme.example\"",
            "insecure_url",
        ),
        (
            "[issuer.github]\nurl = \"http://127.0.0.1:1\"",
            "insecure_url",
        ),
        ("[issuer.x]", "missing_key"),
        ("[issuer.x]\npreset = \"githup\"", "bad_value"),
        (
            "[issuer.x]\nurl = \"https://a.example\"\nalgorithms = [\"HS256\"]",
            "bad_value",
        ),
        (
            "[issuer.x]\nurl = \"https://a.example\"\nmax_lifetime = \"90d\"",
            "bad_value",
        ),
        (
            "[issuer.x]\nurl = \"https://a.example\"\nkeys = \"http://a.example/jwks\"",
            "insecure_url",
        ),
        ("[issuer.client]\nurl = \"https://a.example\"", "bad_name"),
        ("[issuer.x]\npreset = \"gitlab\"", "no_tenant"),
        ("[issuer.x]\nurl = \"https://gitlab.com\"", "no_tenant"),
        (
            "[issuer.x]\npreset = \"github\"\ntenant = { repository_id = 1 }",
            "duplicate",
        ),
    ] {
        let text = format!("{GOOD}\n{table}\n");
        let report = checked(&text);
        let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
        assert!(codes.contains(&code), "{table}: {report}");
        let named = report.problems.0.iter().find(|p| p.code.as_str() == code);
        assert!(named.unwrap().line > Some(GOOD.lines().count()), "{report}");
    }
}

#[test]
fn of_authority() {
    for (from, to, needle, code) in [
        ("\"@write\"", "\"@wrte\"", "allow", "unknown_set"),
        (
            "\"@write\"",
            "\"payments:write\"",
            "allow",
            "wider_than_target",
        ),
        (
            "https://api.acme.example/shop",
            "https://other.example/shop",
            "allow",
            "wider_than_target",
        ),
        (
            "target = \"api\"",
            "target = \"apy\"",
            "allow",
            "unknown_target",
        ),
        (
            "[\"deployer\"]",
            "[\"deployer\", \"deploier\"]",
            "agents",
            "unknown_agent",
        ),
    ] {
        expect(from, to, needle, code);
    }
    let ceiling =
        "ceiling = { actions = [\"releases:*\"], locations = [\"https://api.acme.example/*\"] }";
    expect(ceiling, "", "[target.api]", "missing_key");
    let agent = "ends     = 2027-03-01";
    let narrow = "ends = 2027-03-01\nceiling = [{ target = \"api\", actions = [\"releases:read\"], \
                  locations = [\"https://api.acme.example/*\"] }]";
    expect(agent, narrow, "allow", "wider_than_agent");
}

#[test]
fn of_a_connection() {
    let kind = "kind    = \"access_token\"";
    for (to, code) in [
        ("kind = \"acces_token\"", "bad_value"),
        ("kind = \"access_token\"\nrole = \"x\"", "unknown_key"),
        ("kind = \"aws\"", "missing_key"),
        ("kind = \"aws\"\nrole = 1", "wrong_type"),
        ("kind = \"aws\"\nrole = \"r\"\nrolle = \"r\"", "unknown_key"),
        (
            "kind = \"aws\"\nrole = \"r\"\nsecret_access_key = \"AKIA\"",
            "bad_reference",
        ),
        ("max_ttl = \"2h\"\nkind = \"access_token\"", "bad_value"),
        (
            "revocation_alarm = \"500ms\"\nkind = \"access_token\"",
            "bad_value",
        ),
        (
            "resources = [\"no-url\"]\nkind = \"access_token\"",
            "bad_value",
        ),
    ] {
        let report = checked(&spoiled(kind, to));
        let first = &report.problems.0[0];
        assert_eq!(first.code.as_str(), code, "{to}: {report}");
    }
}

#[test]
fn of_an_alarm_that_comes_before_the_target_can_have_ended_anything() {
    let kind = "kind    = \"access_token\"";
    let server = "kind = \"postgres\"\nhost = \"127.0.0.1\"\ndatabase = \"d\"\nusername = \"u\"\npassword = \"env:P\"";
    let too_early = |alarm: &str| {
        let to = format!("{server}\nrevocation_alarm = \"{alarm}\"");
        let report = checked(&spoiled(kind, &to)).to_string();
        report.contains("`revocation_alarm` is less than it takes")
    };
    assert!(too_early("9s"));
    assert!(!too_early("10s"));
}

#[test]
fn of_a_mission_that_trusts_the_platforms_signature() {
    let ttl = "ttl     = \"10m\"";
    let two = "ttl = \"10m\"\nsigner = \"platform\"";
    let report = checked(&spoiled(ttl, two));
    let codes: Vec<_> = report.problems.0.iter().map(|p| p.code).collect();
    assert_eq!(
        codes,
        [Code::PlatformSigner, Code::PlatformSigner],
        "{report}"
    );
    let bounded = "ttl = \"10m\"\nmax_active = 3\nsigner = \"platform\"";
    expect(ttl, bounded, "signer", "platform_signer");
    let text =
        spoiled(ttl, bounded).replace("sets    =", "allow_platform_signer = true\nsets    =");
    assert!(checked(&text).problems.0.is_empty());
}

#[test]
fn of_two_agents_that_one_proof_fits() {
    let other = "\n[agent.other]\nowner = \"o\"\npurpose = \"p\"\nends = 2027-03-01\n\
                 identity = { github = \"acme/shop\", repository_id = 7, environment = \"prod\" }\n";
    let text = format!("{GOOD}{other}").replace("[\"deployer\"]", "[\"deployer\", \"other\"]");
    let report = checked(&text);
    assert_eq!(report.problems.0.len(), 1, "{report}");
    assert_eq!(report.problems.0[0].code, Code::SameIdentity);
    let as_text = text.replace(
        "repository_id = 7, environment",
        "repository_id = \"7\", environment",
    );
    assert_ne!(as_text, text);
    let report = checked(&as_text);
    assert_eq!(report.problems.0.len(), 1, "{report}");
    assert_eq!(report.problems.0[0].code, Code::SameIdentity);
    let apart = text.replace(
        "repository_id = 7, environment",
        "repository_id = 8, environment",
    );
    assert!(checked(&apart).ok);
}

#[test]
fn of_an_agent_that_no_mission_admits() {
    let other = "\n[agent.other]\nowner = \"o\"\npurpose = \"p\"\nends = 2027-03-01\n\
                 identity = { github = \"acme/till\", repository_id = 9 }\n";
    let report = checked(&format!("{GOOD}{other}"));
    assert!(report.ok, "a warning: {report}");
    assert_eq!(report.problems.0[0].code, Code::NoMission);
}

#[test]
fn of_a_mission_for_nobody_or_nothing() {
    expect("[\"deployer\"]", "[]", "agents", "bad_value");
    let allow = "[{ target = \"api\", actions = [\"@write\"], locations = [\"https://api.acme.example/shop\"] }]";
    expect(allow, "[]", "allow", "bad_value");
}

#[test]
fn of_a_condition_or_a_policy() {
    let ttl = "ttl     = \"10m\"";
    for when in ["context.(", "context.nonsense == 1", "principal ="] {
        expect(ttl, &format!("when = '{when}'"), "when =", "bad_policy");
    }
    let policies = vec![
        ("dayfly.toml".to_owned(), GOOD.to_owned()),
        (
            "policies/org.cedar".to_owned(),
            "forbid(principal, action".to_owned(),
        ),
    ];
    let report = check_files(policies, PathBuf::new(), NOW);
    let problem = &report.problems.0[0];
    assert_eq!(problem.code, Code::BadPolicy, "{report}");
    assert_eq!(problem.file.as_deref(), Some("policies/org.cedar"));
}

#[test]
fn of_the_smaller_tables() {
    each_is_told(&[
        ("[resource_server.x]\naudiences = [\"api\"]", "missing_key"),
        (
            "[resource_server.x]\nsecret = \"hunter2\"\naudiences = [\"api\"]",
            "bad_reference",
        ),
        ("[resource_server.x]\nsecret = \"env:X\"", "missing_key"),
        (
            "[resource_server.x]\nsecret = \"env:X\"\naudiences = [\"api\"]\n\
             certificate = { self_signed = \"file:x.pem\" }",
            "bad_value",
        ),
        // Nobody is asked for one.
        (
            "[resource_server.x]\naudiences = [\"api\"]\ncertificate = { self_signed = \"file:x.pem\" }",
            "bad_value",
        ),
        (
            "[operators]\nissuer = \"https://login.example\"\naudience = \"d\"",
            "missing_key",
        ),
        (
            "[operators]\nissuer = \"https://accounts.google.com\"\naudience = \"d\"\n\
          roles = [{ role = \"admin\", claims = { sub = \"1\" } }]",
            "no_tenant",
        ),
        (
            "[operators]\nissuer = \"https://login.example\"\naudience = \"d\"\n\
          roles = [{ role = \"root\", claims = { sub = \"1\" } }]",
            "bad_value",
        ),
        (
            "[operators]\nissuer = \"https://login.example\"\naudience = \"d\"\n\
          roles = [{ role = \"admin\", claims = {} }]",
            "bad_value",
        ),
        (
            "[source.x]\nkind = \"jenkins\"\nsecret = \"env:X\"\nends = [\"1\"]",
            "bad_value",
        ),
        (
            "[source.x]\nkind = \"generic\"\nsecret = \"env:X\"\nends = [\"1\"]",
            "missing_key",
        ),
        (
            "[source.x]\nkind = \"github\"\nsecret = \"env:X\"",
            "missing_key",
        ),
        ("[case]\nagent = \"deployer\"", "wrong_type"),
    ]);
}

#[test]
fn of_who_is_asked() {
    let asked = |poll: &str| {
        let source = "[source.x]\nkind = \"github\"\nends = [\"1\"]";
        format!(
            "{source}\npoll = {{ {poll} }}\n[issuer.github]\ntenant = {{ repository_owner_id = 1 }}"
        )
    };
    let url = "url = \"https://api.example/{+pipeline.repository}/{pipeline.run_id}\"";
    let over = "ended_when = [\"completed\"]";
    let good = asked(&format!(
        "{url}, {over}, bearer = \"env:X\", every = \"1m\""
    ));
    let report = checked(&format!("{GOOD}\n{good}\n"));
    assert!(!report.problems.has_errors(), "{report}");
    let wrong = [
        (asked(over), "missing_key"),
        (asked(url), "missing_key"),
        (asked(&format!("{url}, ended_when = []")), "bad_value"),
        (
            asked(&format!("{url}, {over}, pointer = \"status\"")),
            "bad_value",
        ),
        (
            asked(&format!("{url}, {over}, every = \"10m\"")),
            "bad_value",
        ),
        (
            asked(&format!("{url}, {over}, bearer = \"hunter2\"")),
            "bad_reference",
        ),
        (
            asked(&format!("{url}, {over}, secret = \"env:X\"")),
            "unknown_key",
        ),
    ];
    let urls = [
        ("https://api.example/runs", "bad_value"),
        ("https://api.example/runs-{pipeline.run_id}", "bad_value"),
        (
            "https://{pipeline.repository}/{pipeline.run_id}",
            "bad_value",
        ),
        ("https://api.example/{pipeline.branch}", "bad_value"),
        ("https://api.example/{pipeline.run_id}?x=1", "bad_value"),
        ("http://api.example/{pipeline.run_id}", "insecure_url"),
    ];
    let urls = urls.map(|(url, code)| (asked(&format!("url = \"{url}\", {over}")), code));
    let all: Vec<_> = wrong.into_iter().chain(urls).collect();
    let all: Vec<_> = all
        .iter()
        .map(|(text, code)| (text.as_str(), *code))
        .collect();
    each_is_told(&all);
    each_is_told(&[(
        "[source.x]\nkind = \"scim\"\nends = [\"acme.example\"]\npoll = { url = \"https://x.example/{a.b}\", ended_when = \"x\" }",
        "bad_value",
    )]);
}

#[test]
fn of_who_signs_and_who_proves() {
    each_is_told(&[
        (
            "[intent_issuer.x]\nissuer = \"https://ci.example\"\nclass = \"agent\"\n\
          keys = { keys = [] }",
            "bad_keys",
        ),
        (
            "[intent_issuer.x]\nissuer = \"https://ci.example\"\nclass = \"orchestrator\"",
            "missing_key",
        ),
        (
            "[intent_issuer.x]\nissuer = \"https://ci.example\"\nclass = \"platform\"\nagents = [\"deployer\"]",
            "bad_value",
        ),
        (
            "[intent_issuer.x]\nissuer = \"https://ci.example\"\nclass = \"orchestrator\"\nagents = [\"nobody\"]",
            "unknown_agent",
        ),
        (
            "[intent_issuer.x]\nissuer = \"https://ci.example\"\nclass = \"approver\"\nmissions = [\"none\"]",
            "unknown_mission",
        ),
        (
            "[facts.x]\nevidence = { issuer = \"https://changes.example\" }",
            "missing_key",
        ),
        ("[facts.x]\nproves = [\"change.id\"]", "missing_key"),
        (
            "[facts.x]\nevidence = { issuer = \"https://changes.example\", key = \"k\" }\nproves = [\"change.id\"]",
            "unknown_key",
        ),
        (
            "[facts.x]\nevidence = { issuer = \"http://changes.example\" }\nproves = [\"change.id\"]",
            "insecure_url",
        ),
        (
            "[facts.x]\nevidence = { issuer = \"https://changes.example\" }\nproves = [\"pipeline.risk\"]\n\
             [issuer.ci]\nurl = \"https://ci.example\"\nfacts = { \"pipeline.run_id\" = \"run\" }",
            "duplicate",
        ),
        (
            "[facts.ci]\nevidence = { issuer = \"https://changes.example\" }\nproves = [\"change.id\"]\n\
             [issuer.ci]\nurl = \"https://ci.example\"",
            "duplicate",
        ),
        (
            "[facts.x]\nevidence = { issuer = \"https://changes.example\" }\nproves = [\"change.id\"]\n\
             [facts.y]\nevidence = { issuer = \"https://risk.example\" }\nproves = [\"change.risk\"]",
            "bad_value",
        ),
        (
            "[[case]]\nagent = \"nobody\"\nasked = []\nexpect = { granted = true }",
            "unknown_agent",
        ),
        (
            "[[case]]\nagent = \"deployer\"\nasked = []\nexpect = { refused = \"no\" }",
            "bad_value",
        ),
        (
            "[[case]]\nagent = \"deployer\"\nasked = []\nexpect = {}",
            "bad_value",
        ),
    ]);
}

/// A table beside what is good, and the code that it gives.
fn each_is_told(tables: &[(&str, &str)]) {
    for (table, code) in tables {
        let report = checked(&format!("{GOOD}\n{table}\n"));
        let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
        assert!(codes.contains(code), "{table}: {report}");
    }
}

#[test]
fn of_every_file_at_once() {
    let report = check_files(
        vec![
            ("a.toml".to_owned(), spoiled("\"10m\"", "\"ten\"")),
            (
                "b.toml".to_owned(),
                "[agent.second]\nowner = 1\n= 2\n".to_owned(),
            ),
            ("c.toml".to_owned(), "[broker]\n".to_owned()),
        ],
        PathBuf::new(),
        NOW,
    );
    let codes: BTreeSet<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
    for code in ["bad_value", "syntax", "duplicate", "wrong_type"] {
        assert!(codes.contains(code), "{code}: {report}");
    }
}

#[test]
fn and_a_secret_that_stands_in_the_open_is_not_repeated() {
    let report = checked(&spoiled(
        "[\"file:sealing.key\"]",
        "[\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"]",
    ));
    assert!(!report.ok);
    assert!(!report.to_string().contains("AAECAwQF"), "{report}");
    let json = serde_json::to_string(&report).unwrap();
    assert!(!json.contains("AAECAwQF"));
}

#[test]
fn operators_and_workloads_must_not_be_one_audience_of_one_issuer() {
    let operators = |audience: &str| {
        format!(
            r#"
[operators]
issuer = "https://login.acme.example"
audience = "{audience}"
roles = [{{ role = "admin", claims = {{ groups = "security" }} }}]

[issuer.login]
url = "https://login.acme.example"
audience = "dayfly"

[target.api]"#
        )
    };
    let spoil = |audience: &str| checked(&spoiled("[target.api]", &operators(audience)));
    let report = spoil("dayfly");
    let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
    assert!(codes.contains(&"operators_are_workloads"), "{report}");
    let report = spoil("dayfly-operators");
    let codes: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
    assert!(!codes.contains(&"operators_are_workloads"), "{report}");
}

#[test]
fn of_what_a_platform_is_asked() {
    let review = |inner: &str| {
        format!(
            "[issuer.k8s]\npreset = \"kubernetes\"\nurl = \"https://k8s.acme.example\"\ntoken_review = {{ {inner} }}\n"
        )
    };
    let url = "url = \"https://kubernetes.default.svc\"";
    let token = "token = \"file:token\"";
    let sts = |more: &str| {
        format!(
            "[issuer.sts]\npreset = \"aws_sts\"\ntenant = {{ account = \"111122223333\" }}\n{more}\n"
        )
    };
    for (more, codes) in [
        (review(&format!("{url}, {token}")), vec![]),
        (review(&format!("{url}, {token}, ca = \"ca.crt\"")), vec![]),
        (review(url), vec!["missing_key"]),
        (review(token), vec!["missing_key"]),
        (
            review(&format!("{url}, {token}, more = 1")),
            vec!["unknown_key"],
        ),
        (
            review(&format!("{url}, token = \"eyJhbGciOi\"")),
            vec!["bad_reference"],
        ),
        (
            review(&format!("url = \"http://kubernetes\", {token}")),
            vec!["insecure_url"],
        ),
        (
            review(&format!("{url}, {token}")).replace("kubernetes\"\n", "gitlab\"\n"),
            vec!["bad_value"],
        ),
        (sts(""), vec![]),
        (
            sts("endpoints = [\"https://sts.eu-west-1.amazonaws.com\"]"),
            vec![],
        ),
        (sts("endpoints = []"), vec!["bad_value"]),
        (
            sts("endpoints = [\"https://sts.amazonaws.com/x\"]"),
            vec!["bad_value"],
        ),
        (
            sts("endpoints = [\"http://sts.acme.example\"]"),
            vec!["insecure_url"],
        ),
        (sts("endpoints = [1]"), vec!["wrong_type"]),
        (
            sts("keys = \"https://sts.amazonaws.com/jwks\""),
            vec!["bad_value"],
        ),
        (sts("").replace("tenant", "refused"), vec!["no_tenant"]),
        (
            "[issuer.github]\nendpoints = [\"https://sts.amazonaws.com\"]\n".to_owned(),
            vec!["bad_value"],
        ),
    ] {
        assert_codes(&more, &codes);
    }
}

fn assert_codes(more: &str, codes: &[&str]) {
    let report = checked(&format!("{GOOD}{more}"));
    let found: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
    assert_eq!(found, codes, "{more}{report}");
}

#[test]
fn of_an_issuer_inside_and_of_what_is_pinned() {
    let url = "url = \"https://kubernetes.default.svc\"";
    let token = "token = \"file:token\"";
    let inside = |more: &str| {
        format!("[issuer.inside]\npreset = \"kubernetes\"\nurl = \"https://10.1.2.3\"\n{more}\n")
    };
    let sts = |more: &str| {
        format!(
            "[issuer.sts]\npreset = \"aws_sts\"\ntenant = {{ account = \"111122223333\" }}\n{more}\n"
        )
    };
    for (more, codes) in [
        (inside("private_network = true"), vec![]),
        (inside("private_network = \"yes\""), vec!["wrong_type"]),
        (inside("keys_max_age = \"2h\""), vec![]),
        (inside("keys_max_age = \"1m\""), vec!["bad_value"]),
        (sts("keys_max_age = \"2h\""), vec!["bad_value"]),
        (inside("ca = \"file:nothing.pem\""), vec!["bad_keys"]),
        (
            inside(
                "private_network = true\nkeys = { keys = [{ kty = \"OKP\", crv = \"Ed25519\", x = \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\" }] }",
            ),
            vec!["bad_value"],
        ),
        (
            inside(&format!(
                "ca = \"file:ca.pem\"\ntoken_review = {{ {url}, {token} }}"
            )),
            vec!["bad_value"],
        ),
        (sts("private_network = true"), vec!["bad_value"]),
        (inside("pin_kept = \"2d\""), vec![]),
        (inside("pin_kept = \"1m\""), vec!["bad_value"]),
        (inside("pin = 1"), vec!["wrong_type"]),
        (sts("pin = true\ninstance = \"session\""), vec!["bad_value"]),
        (
            "[issuer.github]\npin = true\n".to_owned(),
            vec!["bad_value"],
        ),
        (
            "[issuer.github]\npin = true\ninstance = \"run_id\"\n".to_owned(),
            vec![],
        ),
    ] {
        assert_codes(&more, &codes);
    }
}

const POLL: &str = "[facts.x]\npoll = { url = \"https://ops.example/f\", every = \"5s\", max_age = \"15s\", pointers = { \"freeze.state\" = \"/state\" } }\n";
const WEBHOOK: &str = "[facts.x]\nwebhook = { hmac = \"file:x.secret\", max_age = \"15m\", pointers = { \"freeze.state\" = \"/state\" } }\n";

/// The codes of what is wrong once `from` is `to`.
fn facts(table: &str, from: &str, to: &str) -> Vec<&'static str> {
    assert!(table.contains(from), "{from}");
    let text = format!("{GOOD}\n{}", table.replace(from, to));
    let report = checked(&text);
    println!("{report}");
    report.problems.0.iter().map(|p| p.code.as_str()).collect()
}

#[test]
fn of_facts_that_are_asked_for() {
    assert_eq!(facts(POLL, "5s", "5s"), [""; 0], "it is good as it is");
    for (from, to, code) in [
        ("url = \"https://ops.example/f\", ", "", "missing_key"),
        (
            "https://ops.example/f",
            "http://ops.example/f",
            "insecure_url",
        ),
        ("https://ops.example/f", "ops.example", "bad_value"),
        ("every = \"5s\"", "every = \"500ms\"", "bad_value"),
        ("every = \"5s\"", "every = \"6m\"", "bad_value"),
        ("every = \"5s\"", "every = \"16s\"", "bad_value"),
        ("every = \"5s\"", "every = 5", "wrong_type"),
        ("max_age = \"15s\"", "max_age = \"2h\"", "bad_value"),
        (
            ", pointers = { \"freeze.state\" = \"/state\" }",
            "",
            "missing_key",
        ),
        ("\"freeze.state\" =", "\"freeze\" =", "bad_value"),
        ("\"/state\"", "\"state\"", "bad_value"),
        ("\"/state\"", "1", "wrong_type"),
        ("every =", "evry =", "unknown_key"),
        (
            "every =",
            "private_network = \"yes\", every =",
            "wrong_type",
        ),
        ("poll =", "proves = [\"freeze.state\"]\npoll =", "bad_value"),
        ("poll =", "agents = [\"deployer\"]\npoll =", "bad_value"),
        (
            "poll =",
            "evidence = { issuer = \"https://x.example\" }\npoll =",
            "bad_value",
        ),
        (
            "poll =",
            "webhook = { hmac = \"env:X\", max_age = \"1m\" }\npoll =",
            "bad_value",
        ),
        (
            "poll =",
            "ended_when = { \"freeze.other\" = \"x\" }\npoll =",
            "bad_value",
        ),
        (
            "[facts.x]",
            "[issuer.x]\nurl = \"https://x.example\"\n[facts.x]",
            "duplicate",
        ),
    ] {
        assert_eq!(facts(POLL, from, to), [code], "{from} -> {to}");
    }
}

#[test]
fn of_facts_that_a_webhook_tells() {
    assert_eq!(facts(WEBHOOK, "15m", "15m"), [""; 0], "it is good as it is");
    for (from, to, code) in [
        ("hmac = \"file:x.secret\", ", "", "missing_key"),
        ("file:x.secret", "hunter2", "bad_reference"),
        ("max_age = \"15m\", ", "", "missing_key"),
        ("max_age = \"15m\"", "max_age = \"25h\"", "bad_value"),
        (
            ", pointers = { \"freeze.state\" = \"/state\" }",
            "",
            "missing_key",
        ),
        ("\"/state\"", "\"state\"", "bad_value"),
        ("hmac =", "every = \"5s\", hmac =", "unknown_key"),
        (
            "webhook =",
            "proves = [\"freeze.state\"]\nwebhook =",
            "bad_value",
        ),
        (
            "webhook =",
            "agents = [\"deployer\"]\nwebhook =",
            "bad_value",
        ),
        (
            "webhook =",
            "ended_when = { \"freeze.other\" = \"x\" }\nwebhook =",
            "bad_value",
        ),
        (
            "[facts.x]",
            "[source.x]\nkind = \"scim\"\nsecret = \"env:X\"\nends = [\"acme.example\"]\n[facts.x]",
            "duplicate",
        ),
    ] {
        assert_eq!(facts(WEBHOOK, from, to), [code], "{from} -> {to}");
    }
}

#[test]
fn of_what_people_approve() {
    for (terms, code) in [
        ("\"two\"", "wrong_type"),
        ("{ count = 6 }", "bad_value"),
        ("{ count = 2, by = [\"ann\", \"ann\"] }", "bad_value"),
        ("{ for = \"25h\" }", "bad_value"),
        ("{ who = \"ann\" }", "unknown_key"),
    ] {
        let line = format!("approval = {terms}");
        expect("ttl     = \"10m\"", &line, "approval", code);
    }
}
