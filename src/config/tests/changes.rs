//! One thing changed, one change told: its direction, and who has to agree.

use super::*;

/// As `+ place`, `- place`, `! place`, and the owners who approve.
fn compared(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let found = changes(&settings(before), &settings(after)).unwrap();
    let mut told = Vec::new();
    for reach in &found.reach {
        for (sign, what) in [('+', &reach.gains), ('-', &reach.loses)] {
            if !what.is_empty() {
                told.push(format!(
                    "{sign} {} {}",
                    reach.agent,
                    crate::policy::words(what)
                ));
            }
        }
    }
    for change in &found.keys {
        let sign = match change.direction {
            Direction::Widens => '+',
            Direction::Narrows => '-',
            Direction::Changes => '!',
        };
        told.push(format!("{sign} {}", change.place));
    }
    let owners = found.approvals.into_iter().map(|approval| approval.owner);
    (told, owners.collect())
}

const SRE: &str = "sre@acme.example";
const TEAM: &str = "team@acme.example";

/// Forwards it is wider and needs these owners; backwards it is narrower and needs nobody.
#[track_caller]
fn widens(before: &str, after: &str, told: &[&str], owners: &[&str]) {
    let wider: Vec<_> = told.iter().map(|one| format!("+ {one}")).collect();
    let narrower: Vec<_> = told.iter().map(|one| format!("- {one}")).collect();
    let owners: Vec<_> = owners.iter().map(|one| (*one).to_owned()).collect();
    assert_eq!(compared(before, after), (wider, owners));
    assert_eq!(compared(after, before), (narrower, Vec::new()));
}

#[test]
fn the_same_configuration_changes_nothing() {
    assert_eq!(compared(GOOD, GOOD), (Vec::new(), Vec::new()));
    let told = changes(&settings(GOOD), &settings(GOOD)).unwrap();
    assert_eq!(told.to_string(), "no authority changes");
}

#[test]
fn a_mission_that_allows_more_is_wider_for_each_of_its_agents() {
    let more = spoiled("[\"@write\"]", "[\"@write\", \"releases:delete\"]");
    let reach = "deployer releases:delete on https://api.acme.example/shop";
    widens(GOOD, &more, &[reach], &[SRE]);
    // By way of the target's set, whose file nobody of the mission's reviews.
    let by_set = spoiled(
        "\"releases:read\"]",
        "\"releases:read\", \"releases:delete\"]",
    );
    widens(GOOD, &by_set, &[reach], &[SRE]);
}

#[test]
fn each_condition_of_a_mission_has_its_direction() {
    let with = |line: &str| spoiled("ttl     = \"10m\"", line);
    let pipeline = "require = { \"pipeline.environment\" = \"production\" }";
    for (narrow, wide, key) in [
        ("ttl = \"10m\"", "ttl = \"11m\"", "ttl"),
        ("ends = 2026-12-01", "ends = 2026-12-02", "ends"),
        ("ends = 2026-12-01", "", "ends"),
        ("max_active = 1", "max_active = 2", "max_active"),
        ("max_active = 1", "", "max_active"),
        ("approval = {}", "", "approval.count"),
        (
            "approval = { count = 2 }",
            "approval = {}",
            "approval.count",
        ),
        (
            "approval = { by = [\"ann\"] }",
            "approval = { by = [\"ann\", \"bob\"] }",
            "approval.by",
        ),
        (
            "approval = { by = [\"ann\"] }",
            "approval = {}",
            "approval.by",
        ),
        (
            "approval = {}",
            "approval = { for = \"2h\" }",
            "approval.for",
        ),
        ("tether = [\"pipeline\"]", "", "tether"),
        (pipeline, "", "require"),
        (
            pipeline,
            "require = { \"pipeline.environment\" = [\"production\", \"staging\"] }",
            "require",
        ),
        ("when = \"context.ttl < 60\"", "", "when"),
    ] {
        // `ttl` has a default of its own that is not to be told.
        let ttl = |line: &str| match line.starts_with("ttl") {
            true => line.to_owned(),
            false => format!("ttl = \"10m\"\n{line}"),
        };
        let (narrow, wide) = (with(&ttl(narrow)), with(&ttl(wide)));
        widens(&narrow, &wide, &[&format!("mission.deploy.{key}")], &[SRE]);
    }
    let other = with("ttl = \"10m\"\nrequire = { \"pipeline.environment\" = \"staging\" }");
    let this = with(&format!("ttl = \"10m\"\n{pipeline}"));
    let told = vec!["! mission.deploy.require".to_owned()];
    assert_eq!(compared(&this, &other), (told, vec![SRE.to_owned()]));
    let ceiling = "ends = 2027-03-01\nceiling = [{ target = \"api\", actions = [\"*\"], locations = [\"*\"] }]";
    let bounded = GOOD.replace("ends     = 2027-03-01", ceiling);
    let observing = bounded.replace(
        "ttl     =",
        "mode = \"observe\"\nobserve_until = 2026-12-01\nttl =",
    );
    widens(&bounded, &observing, &["mission.deploy.mode"], &[SRE]);
}

#[test]
fn an_agent_is_wider_by_proofs_ceilings_and_limits() {
    let ceiling = |actions: &str| {
        let own = format!(
            "ends = 2027-03-01\nceiling = [{{ target = \"api\", actions = [{actions}], locations = [\"*\"] }}]"
        );
        spoiled("ends     = 2027-03-01", &own)
    };
    let (narrow, wide) = (ceiling("\"releases:read\""), ceiling("\"releases:*\""));
    let told = compared(&narrow, &wide);
    let expected = [
        "+ deployer releases:write, releases:read on https://api.acme.example/shop",
        "+ agent.deployer.ceiling",
    ];
    assert_eq!(told.0[1], expected[1]);
    assert!(told.0[0].contains("releases:write"), "{told:?}");
    assert_eq!(told.1, [SRE, TEAM]);
    let told = compared(&wide, &narrow);
    assert!(told.0.iter().all(|line| line.starts_with('-')), "{told:?}");
    assert_eq!(told.1, [""; 0]);

    let two = spoiled(
        "identity = { github = \"acme/shop\", repository_id = 7 }",
        "identity = [{ github = \"acme/shop\", repository_id = 7 }, { github = \"acme/other\", repository_id = 8 }]",
    );
    widens(GOOD, &two, &["agent.deployer.identity"], &[TEAM]);
    let machines = spoiled(
        "identity = { github = \"acme/shop\", repository_id = 7 }",
        "identity = [{ github = \"acme/shop\", repository_id = 7 }, { client = { enrol = true } }]",
    );
    widens(GOOD, &machines, &["agent.deployer.identity"], &[TEAM]);
    let longer = spoiled("ends     = 2027-03-01", "ends = 2028-03-01");
    widens(GOOD, &longer, &["agent.deployer.ends"], &[TEAM]);
    let more = spoiled(
        "ends     = 2027-03-01",
        "ends = 2027-03-01\nlimits = { active = 21 }",
    );
    widens(GOOD, &more, &["agent.deployer.limits.active"], &[TEAM]);
    let labelled = spoiled(
        "ends     = 2027-03-01",
        "ends = 2027-03-01\nlabels = { team = \"a\" }",
    );
    let told = vec!["! agent.deployer.labels".to_owned()];
    assert_eq!(compared(GOOD, &labelled), (told, vec![TEAM.to_owned()]));
}

#[test]
fn a_target_and_everything_else_is_for_whoever_reviews_the_file() {
    let wide = spoiled("[\"releases:*\"]", "[\"releases:*\", \"users:*\"]");
    let reviewer = "whoever reviews the file of target.api";
    widens(GOOD, &wide, &["target.api.ceiling"], &[reviewer]);
    let other = spoiled("kind    = \"access_token\"", "kind = \"api_key\"");
    let (told, owners) = compared(GOOD, &other);
    assert_eq!(told, ["! target.api.kind"]);
    assert_eq!(owners, [reviewer]);
    let forbid = |text: &str| {
        let mut all = files(GOOD);
        all.push(("policies/org.cedar".to_owned(), text.to_owned()));
        load_with(all, PathBuf::from("/etc/dayfly"))
            .unwrap()
            .resolve()
            .unwrap()
    };
    let some = forbid("forbid (principal, action, resource) when { context.ttl > 60 };");
    let none = settings(GOOD);
    let told = changes(&some, &none).unwrap();
    assert_eq!(told.keys[0].direction, Direction::Widens);
    assert_eq!(told.approvals.len(), 1);
    let told = changes(&none, &some).unwrap();
    assert_eq!(told.keys[0].direction, Direction::Narrows);
    assert!(told.approvals.is_empty());
}

#[test]
fn who_owned_it_before_has_to_agree_as_well() {
    let other = spoiled(
        "owner   = \"sre@acme.example\"",
        "owner = \"new@acme.example\"",
    );
    let (told, owners) = compared(GOOD, &other);
    assert_eq!(told, ["! mission.deploy.owner"]);
    assert_eq!(owners, ["new@acme.example", SRE]);
}

#[test]
fn another_certificate_or_an_unbound_credential_is_wider() {
    let asked = "[broker]\nmtls = { url = \"https://mtls.acme.example\" }\n";
    let base = GOOD.replacen("[broker]\n", asked, 1);
    let identity = "identity = { github = \"acme/shop\", repository_id = 7 }";
    let with = |own: &str| base.replacen(identity, own, 1);
    let pem = |der: &str| {
        format!(
            "{{ certificate = {{ self_signed = \"-----BEGIN CERTIFICATE-----\\n{der}\\n-----END CERTIFICATE-----\" }} }}"
        )
    };
    let one = with(&format!("identity = [{}]", pem("MAA=")));
    let two = with(&format!("identity = [{}, {}]", pem("MAA="), pem("MAE=")));
    widens(&one, &two, &["agent.deployer.identity"], &[TEAM]);
    let bound = with(&format!("{identity}\ncertificate_bound = true"));
    widens(
        &bound,
        &base,
        &["agent.deployer.certificate_bound"],
        &[TEAM],
    );
    let proxies = "limits = { trusted_proxies = [\"10.0.0.7\"], client_cert_header = true }\n";
    let proxied = base.replacen("[broker]\n", &format!("[broker]\n{proxies}"), 1);
    let place = "broker.limits.client_cert_header";
    widens(
        &base,
        &proxied,
        &[place],
        &[&format!("whoever reviews the file of {place}")],
    );
}

#[test]
fn whom_a_mission_serves_and_hands_on_to_is_told() {
    let with = |more: &str| {
        let people = r#"
[issuer.corp]
url = "https://login.acme.example"
audience = "dayfly-people"
people = true

[people.oncall]
issuer = "corp"
claims = { groups = "oncall" }
ceiling = [{ target = "api", actions = ["*"], locations = ["*"] }]

[mission.assist]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Help whoever is on call"
allow = [{ target = "api", actions = ["@write"], locations = ["https://api.acme.example/shop"] }]
"#;
        spoiled("[target.api]", &format!("{people}{more}\n\n[target.api]"))
    };
    let none = with("");
    let (told, _) = compared(&none, &with("on_behalf_of = [\"oncall\"]"));
    assert!(
        told.contains(&"! mission.assist.on_behalf_of".to_owned()),
        "{told:?}"
    );
    assert!(told.contains(&"+ people.oncall".to_owned()), "{told:?}");
    let handed = with("delegates_to = [\"deployer\"]");
    widens(&none, &handed, &["mission.assist.delegates_to"], &[SRE]);
    let served = with("on_behalf_of = [\"oncall\"]");
    let person = with("on_behalf_of = [\"oncall\"]\nin_person = true");
    widens(&served, &person, &["mission.assist.in_person"], &[SRE]);
}

#[test]
fn a_response_less_is_wider_and_somebody_told_otherwise_is_told() {
    let more = |text: &str| spoiled("[target.api]", &format!("{text}\n[target.api]"));
    let told = "[[notify]]\nname = \"a\"\ncommand = [\"/bin/mail\"]\n";
    let response = "[[response]]\nname = \"r\"\non = \"held\"\ndo = [\"suspend\"]\n";
    let reviewer = "whoever reviews the file of response r";
    widens(&more(response), GOOD, &["response r"], &[reviewer]);
    let other = told.replace("/bin/mail", "/bin/other");
    let (changed, _) = compared(&more(told), &more(&other));
    assert_eq!(changed, ["! notify a"]);
}

#[test]
fn a_response_that_could_do_nothing_is_an_error() {
    let report = |text: &str| checked(&spoiled("[target.api]", &format!("{text}\n[target.api]")));
    let good = "[[notify]]\nname = \"a\"\ncommand = [\"/bin/mail\"]\n[[response]]\non = \"held\"\ncount = 2\nwithin = \"1m\"\ndo = [\"notify\", \"restrict\"]\nnotify = [\"a\"]\nrestrict = { target = \"api\", deny = [\"releases:write\"] }\n";
    assert!(report(good).ok, "{}", report(good));
    let shorter =
        good.replace("\"restrict\"]", "\"restrict\", \"shorten\"]") + "shorten = { to = \"2m\" }\n";
    assert!(report(&shorter).ok, "{}", report(&shorter));
    for to in [
        "to = \"0s\"",
        "to = \"2d\"",
        "for = \"1h\"",
        "to = \"2m\", on = \"api\"",
    ] {
        assert!(!report(&shorter.replace("to = \"2m\"", to)).ok, "{to}");
    }
    for (from, to, code) in [
        ("\"held\"", "\"hold\"", "bad_value"),
        ("\nwithin = \"1m\"", "", "missing_key"),
        ("count = 2", "count = 101", "bad_value"),
        ("\"notify\", ", "\"shorten\", ", "bad_value"),
        ("notify = [\"a\"]", "notify = [\"b\"]", "bad_value"),
        ("\nrestrict = {", "\n# {", "bad_value"),
        ("target = \"api\"", "target = \"apis\"", "unknown_target"),
        ("releases:write\"]", "releases write\"]", "undecidable"),
        ("/bin/mail", "mail", "bad_value"),
        ("command = [\"/bin/mail\"]", "to = \"me\"", "missing_key"),
    ] {
        assert!(good.contains(from), "{from}");
        let report = report(&good.replacen(from, to, 1));
        let errors: Vec<_> = report.problems.0.iter().map(|p| p.code.as_str()).collect();
        assert!(errors.contains(&code), "{to}: {errors:?}");
    }
}
