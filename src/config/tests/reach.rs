//! What nobody could ever get.

use super::*;

/// Codes and help of what `check` finds.
fn found(text: &str) -> Vec<(&'static str, String)> {
    let report = checked(text);
    let problems = report.problems.0.into_iter();
    problems
        .map(|problem| (problem.code.as_str(), problem.message))
        .collect()
}

fn codes(text: &str) -> Vec<&'static str> {
    found(text).into_iter().map(|(code, _)| code).collect()
}

const CEILING: &str =
    "ceiling = [{ target = \"api\", actions = [\"releases:*\"], locations = [\"*\"] }]";

/// `GOOD` with a mission that observes, for an agent with a ceiling.
fn observing(until: &str) -> String {
    spoiled(
        "ttl     = \"10m\"",
        &format!("mode = \"observe\"\nobserve_until = {until}"),
    )
    .replace(
        "ends     = 2027-03-01",
        &format!("ends = 2027-03-01\n{CEILING}"),
    )
}

#[test]
fn a_mission_observes_for_bounded_agents_and_for_two_weeks() {
    let good = observing("2026-12-05");
    assert_eq!(codes(&good), [""; 0]);
    let until = time::macros::date!(2026 - 12 - 05);
    let mode = crate::policy::Mode::Observe { until };
    assert_eq!(settings(&good).missions[0].mode, mode);
    assert_eq!(codes(&observing("2026-12-06")), ["observe_too_long"]);
    assert_eq!(codes(&observing("2026-11-20")), ["ended"]);
    assert_eq!(codes(&good.replace(CEILING, "")), ["observe_unbounded"]);
    let other = CEILING.replace("\"api\"", "\"other\"");
    let target = "[target.other]\nkind = \"api_key\"\nceiling = { actions = [\"*\"], locations = [\"*\"] }\n";
    let elsewhere = format!("{}\n{target}", good.replace(CEILING, &other));
    assert!(codes(&elsewhere).contains(&"observe_unbounded"));
}

#[test]
fn observing_is_asked_for_in_full_or_not_at_all() {
    let with = |keys: &str| codes(&spoiled("ttl     = \"10m\"", keys));
    assert_eq!(with("mode = \"enforce\""), [""; 0]);
    assert_eq!(with("mode = \"observe\""), ["missing_key"]);
    assert_eq!(with("observe_until = 2026-12-01"), ["bad_value"]);
    assert_eq!(with("mode = \"watch\""), ["bad_value"]);
}

#[test]
fn a_fact_that_no_issuer_of_the_agent_proves_is_found() {
    let with = |keys: &str| found(&spoiled("ttl     = \"10m\"", keys));
    assert_eq!(
        with("require = { \"pipeline.environment\" = \"production\" }"),
        []
    );
    assert_eq!(with("tether = [\"pipeline\"]"), []);
    let misspelt = with("require = { \"pipeline.enviroment\" = \"production\" }");
    let told: Vec<_> = misspelt.iter().map(|(code, _)| *code).collect();
    assert_eq!(told, ["no_mission", "unproved_fact"]);
    assert!(
        misspelt[1].1.contains("pipeline.enviroment"),
        "{misspelt:?}"
    );
    let tether = with("tether = [\"ticket\"]");
    assert_eq!(tether[1].0, "unproved_fact");
    // An issuer of the configuration's own may prove it.
    let own = spoiled("ttl     = \"10m\"", "tether = [\"ticket\"]")
        + "[issuer.github]\nfacts = { \"ticket.id\" = \"ticket\" }\n";
    assert_eq!(codes(&own), [""; 0]);
}

#[test]
fn a_label_that_neither_agent_nor_target_has_is_found() {
    let with = |require: &str| {
        codes(&spoiled(
            "ttl     = \"10m\"",
            &format!("require = {{ {require} }}"),
        ))
    };
    assert_eq!(with("\"target.labels.env\" = \"prod\""), [""; 0]);
    assert_eq!(with("\"target.labels.env\" = \"test\""), ["never_matches"]);
    assert_eq!(with("\"agent.labels.team\" = \"a\""), ["never_matches"]);
}

#[test]
fn a_ceiling_that_leaves_nothing_is_found_and_so_is_an_agent_without_use() {
    let ceiling = |actions: &str| {
        spoiled(
            "ends     = 2027-03-01",
            &format!(
                "ends = 2027-03-01\nceiling = [{{ target = \"api\", actions = [{actions}], locations = [\"*\"] }}]"
            ),
        )
    };
    assert_eq!(codes(&ceiling("\"releases:*\"")), [""; 0]);
    assert_eq!(codes(&ceiling("\"releases:read\"")), ["wider_than_agent"]);
    assert_eq!(
        codes(&ceiling("\"users:*\"")),
        ["no_mission", "unreachable"]
    );
    let over = spoiled("ttl     = \"10m\"", "ends = 2026-11-20");
    assert_eq!(codes(&over), ["no_mission", "ended"]);
}

#[test]
fn an_arn_that_is_nowhere_and_an_identity_that_its_issuer_refuses_are_found() {
    let aws = |arn: &str| {
        codes(&format!(
            "{GOOD}\n[target.aws]\nkind = \"aws\"\nrole = \"arn:aws:iam::111122223333:role/deploy\"\n\
             ceiling = {{ actions = [\"s3:*\"], locations = [\"*\"] }}\n\
             [mission.store]\nagents = [\"deployer\"]\nowner = \"a@b\"\npurpose = \"Stores\"\n\
             allow = [{{ target = \"aws\", actions = [\"s3:GetObject\"], locations = [\"{arn}\"] }}]\n"
        ))
    };
    for arn in [
        "arn:aws:s3:::bucket/*",
        "arn:aws-cn:s3:*:111122223333:x",
        "arn:aws:s3:*:1111*:x",
    ] {
        assert_eq!(aws(arn), [""; 0], "{arn}");
    }
    for arn in [
        "arn:aws:s3:::/x",
        "arn:azure:s3:::x",
        "arn:aws:s3:*:11112222333:x",
        "arn:aws:s3:*:acme:x",
    ] {
        let expected: &[&str] = if arn.ends_with("::/x") {
            &[]
        } else {
            &["never_matches"]
        };
        assert_eq!(aws(arn), expected, "{arn}");
    }
    let tenant = format!("{GOOD}\n[issuer.github]\ntenant = {{ repository_id = [\"8\"] }}\n");
    assert_eq!(codes(&tenant), ["never_matches"]);
    assert_eq!(codes(&tenant.replace("\"8\"", "7")), [""; 0]);
}
