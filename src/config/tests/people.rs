//! Groups of people, the missions that serve them, and what does not go together.

use super::*;

const PEOPLE: &str = r#"
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
on_behalf_of = ["oncall"]
in_person = true
delegates_to = ["deployer"]
owner = "sre@acme.example"
purpose = "Help whoever is on call"
allow = [{ target = "api", actions = ["@write"], locations = ["https://api.acme.example/shop"] }]

[target.api]"#;

fn report(from: &str, to: &str) -> CheckReport {
    assert!(PEOPLE.contains(from), "{from}");
    checked(&spoiled("[target.api]", &PEOPLE.replacen(from, to, 1)))
}

fn errors(from: &str, to: &str) -> Vec<&'static str> {
    let report = report(from, to);
    let errors = report
        .problems
        .0
        .iter()
        .filter(|p| p.severity == Severity::Error);
    errors.map(|problem| problem.code.as_str()).collect()
}

#[test]
fn people_are_read_as_they_are_written() {
    assert_eq!(
        errors("[people.oncall]", "[people.oncall]"),
        Vec::<&str>::new()
    );
}

#[test]
fn each_thing_that_is_wrong_with_people_is_found() {
    for (from, to, code) in [
        ("issuer = \"corp\"", "issuer = \"other\"", "unknown_issuer"),
        (
            "issuer = \"corp\"",
            "issuer = \"github\"",
            "people_are_no_workloads",
        ),
        ("people = true", "people = false", "people_are_no_workloads"),
        (
            "people = true",
            "people = true\nsingle_use = true",
            "bad_value",
        ),
        ("claims = { groups = \"oncall\" }", "", "missing_key"),
        ("{ groups = \"oncall\" }", "{}", "bad_value"),
        (
            "{ groups = \"oncall\" }",
            "{ groups = [\"oncall\"] }",
            "bad_value",
        ),
        (
            "ceiling = [{ target = \"api\", actions = [\"*\"], locations = [\"*\"] }]",
            "",
            "missing_key",
        ),
        (
            "ceiling = [{ target = \"api\"",
            "ceiling = [{ target = \"apis\"",
            "unknown_target",
        ),
        (
            "on_behalf_of = [\"oncall\"]",
            "on_behalf_of = [\"on-call\"]",
            "unknown_people",
        ),
        ("on_behalf_of = [\"oncall\"]", "", "bad_value"),
        (
            "delegates_to = [\"deployer\"]",
            "delegates_to = [\"nobody\"]",
            "unknown_agent",
        ),
    ] {
        assert!(
            errors(from, to).contains(&code),
            "{from} -> {to}: {}",
            report(from, to)
        );
    }
}

#[test]
fn an_agent_is_not_identified_by_an_issuer_of_people() {
    let to = "[agent.person]\nowner = \"a@acme.example\"\npurpose = \"Is none\"\nends = 2027-01-01\n\
              identity = { issuer = \"corp\", subject = \"alice\" }\n[people.oncall]";
    assert!(errors("[people.oncall]", to).contains(&"people_are_no_workloads"));
}

#[test]
fn the_broker_vouches_for_nobody() {
    let url = "url = \"https://login.acme.example\"";
    for own in ["", "/federation/api"] {
        let to = format!("url = \"https://dayfly.acme.example{own}\"");
        let found = errors(url, &to);
        assert!(found.contains(&"bad_value"), "{own}: {}", report(url, &to));
    }
}
