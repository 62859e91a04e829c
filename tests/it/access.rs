//! `dayfly access`: who reaches what, from either side, and nothing that nobody reaches.

use crate::cli::{Done, dayfly};
use serde_json::Value;
use std::collections::BTreeSet;

const HOUSE: &str = r#"
[broker]
url   = "https://dayfly.acme.example"
store = { embedded = "dayfly.redb" }
keys  = { sealing = ["file:sealing.key"] }

[issuer.ci]
url = "https://ci.acme.example"

[issuer.corp]
url      = "https://login.acme.example"
audience = "dayfly-people"
people   = true

[people.oncall]
issuer  = "corp"
claims  = { groups = "oncall" }
ceiling = [{ target = "orders", actions = ["read"], locations = ["*"] }]

[people.others]
issuer  = "corp"
claims  = { groups = "others" }
ceiling = [{ target = "stock", actions = ["read"], locations = ["*"] }]

[agent.one]
owner    = "one@acme.example"
purpose  = "Works"
ends     = 2099-01-01
identity = { issuer = "ci", subject = "one" }
labels   = { team = "a" }

[agent.two]
owner    = "two@acme.example"
purpose  = "Works, too"
ends     = 2099-01-01
identity = { issuer = "ci", subject = "two" }

[agent.gone]
owner    = "gone@acme.example"
purpose  = "Is over"
ends     = 2020-01-01
identity = { issuer = "ci", subject = "gone" }

[mission.sell]
agents  = ["one", "two", "gone"]
owner   = "sre@acme.example"
purpose = "Sells"
tether  = ["pipeline"]
allow   = [
  { target = "orders", actions = ["read", "write"], locations = ["https://orders/*"] },
  { target = "stock", actions = ["read"], locations = ["https://stock/*"] },
]

[mission.over]
agents  = ["one"]
owner   = "sre@acme.example"
purpose = "Is over"
ends    = 2020-01-01
allow   = [{ target = "orders", actions = ["read"], locations = ["*"] }]

[mission.labelled]
agents  = ["one", "two"]
owner   = "sre@acme.example"
purpose = "For team a"
require = { "agent.labels.team" = "a" }
allow   = [{ target = "stock", actions = ["read"], locations = ["*"] }]

[mission.people]
agents       = ["two"]
on_behalf_of = ["oncall", "others"]
in_person    = true
owner        = "sre@acme.example"
purpose      = "For whoever is on call"
allow        = [{ target = "orders", actions = ["read", "write"], locations = ["*"] }]

[mission.nobody]
agents       = ["two"]
on_behalf_of = ["others"]
owner        = "sre@acme.example"
purpose      = "For nobody"
allow        = [{ target = "orders", actions = ["read"], locations = ["*"] }]

[target.orders]
kind    = "api_key"
ceiling = { actions = ["*"], locations = ["*"] }

[target.stock]
kind    = "api_key"
ceiling = { actions = ["*"], locations = ["*"] }
labels  = { env = "prod" }
"#;

fn house(policy: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dayfly.toml"), HOUSE).unwrap();
    if !policy.is_empty() {
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("policies/org.cedar"), policy).unwrap();
    }
    folder
}

async fn ask(folder: &tempfile::TempDir, more: &[&str]) -> Done {
    let config = folder.path().to_str().unwrap();
    dayfly(&[&["access", "--config", config], more].concat(), &[], "").await
}

async fn rows(folder: &tempfile::TempDir, more: &[&str]) -> Vec<Value> {
    let told = ask(folder, &[&["-o", "json"], more].concat()).await.json();
    told.as_array().unwrap().clone()
}

/// `agent mission target`, of each row.
fn names(rows: &[Value]) -> BTreeSet<String> {
    let name = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap();
        format!("{} {} {}", text("agent"), text("mission"), text("target"))
    };
    rows.iter().map(name).collect()
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_labelled_otherwise_or_for_nobody_is_left_out_and_told_on_demand() {
    let folder = house("");
    let reached = [
        "one sell orders",
        "one sell stock",
        "one labelled stock",
        "two sell orders",
        "two sell stock",
        "two people orders",
    ];
    assert_eq!(names(&rows(&folder, &[]).await), set(&reached));
    let all = rows(&folder, &["--all"]).await;
    for (row, why) in [
        ("gone sell orders", "the last day of gone was 2020-01-01"),
        ("gone sell stock", "the last day of gone was 2020-01-01"),
        ("one over orders", "the last day of over was 2020-01-01"),
        (
            "two labelled stock",
            "agent.labels.team must be `a`, and there is no such label",
        ),
        (
            "two nobody orders",
            "no group of people that it is for reaches any of it",
        ),
    ] {
        let found = all
            .iter()
            .find(|one| names(&[(*one).clone()]) == set(&[row]));
        let never = &found.unwrap_or_else(|| panic!("{row}"))["never"];
        assert_eq!(never.as_array().unwrap().len(), 1, "{row}: {never}");
        assert_eq!(never[0], why, "{row}");
    }
    assert_eq!(all.len(), reached.len() + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_about_one_target_or_one_agent_is_told_of_no_other() {
    let folder = house("");
    let orders = ["one sell orders", "two sell orders", "two people orders"];
    assert_eq!(
        names(&rows(&folder, &["--target", "orders"]).await),
        set(&orders)
    );
    let one = ["one sell orders", "one sell stock", "one labelled stock"];
    assert_eq!(names(&rows(&folder, &["--agent", "one"]).await), set(&one));
    let both = rows(&folder, &["--agent", "one", "--target", "orders"]).await;
    assert_eq!(names(&both), set(&["one sell orders"]));
    let labelled = rows(&folder, &["--label", "env=prod", "--agent", "two"]).await;
    assert_eq!(names(&labelled), set(&["two sell stock"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn for_whom_in_person_and_what_it_hangs_on_is_told_in_both_formats() {
    let folder = house("");
    let two = rows(&folder, &["--agent", "two"]).await;
    let people = two.iter().find(|row| row["mission"] == "people").unwrap();
    let groups = people["on_behalf_of"].as_array().unwrap();
    assert_eq!(groups.len(), 1, "others reach nothing of it: {people}");
    assert_eq!(groups[0]["group"], "oncall");
    assert_eq!(groups[0]["issuer"], "corp");
    assert_eq!(groups[0]["within"][0]["actions"][0], "read");
    assert_eq!(people["in_person"], true);
    let sell = two.iter().find(|row| row["mission"] == "sell").unwrap();
    assert_eq!(sell["tether"][0], "pipeline");
    assert!(sell.get("on_behalf_of").is_none() && sell.get("in_person").is_none());
    let text = ask(&folder, &["--agent", "two"]).await.is(0).out.clone();
    for words in [
        "for people of oncall (within: read",
        "or in person",
        "while pipeline lasts",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_forbids_whatever_is_asked_is_not_reached() {
    let all = names(&rows(&house(""), &[]).await);
    let without = |part: &str| -> BTreeSet<String> {
        let left = all.iter().filter(|row| !row.contains(part));
        left.cloned().collect()
    };
    for (policy, left) in [
        ("forbid (principal, action, resource);", BTreeSet::new()),
        (
            "forbid (principal == Dayfly::Agent::\"one\", action, resource);",
            without("one "),
        ),
        (
            "forbid (principal, action, resource == Dayfly::Target::\"orders\");",
            without(" orders"),
        ),
        (
            "forbid (principal, action, resource) when { resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\" };",
            without(" stock"),
        ),
        (
            "forbid (principal, action, resource) when { context.mission.name == \"sell\" };",
            without(" sell "),
        ),
        // A request decides, not the configuration.
        (
            "forbid (principal, action, resource) when { context.ttl > 1 };",
            all.clone(),
        ),
        (
            "forbid (principal, action, resource) unless { context has task };",
            all.clone(),
        ),
    ] {
        assert_eq!(names(&rows(&house(policy), &[]).await), left, "{policy}");
    }
    let reason = "@id(\"freeze\") @reason(\"until monday\")\nforbid (principal, action, resource);";
    let text = ask(&house(reason), &["--all"]).await.is(0).out.clone();
    let told = "never: forbidden by policies/org.cedar#freeze (until monday)";
    assert!(text.contains(told), "{text}");
}
