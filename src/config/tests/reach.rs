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
    let found = ["no_mission", "never_matches"];
    assert_eq!(with("\"target.labels.env\" = \"test\""), found);
    assert_eq!(with("\"agent.labels.team\" = \"a\""), found);
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

#[test]
fn a_mission_that_nobody_may_sign_for_is_found() {
    let with = |more: &str| codes(&(spoiled("ttl     = \"10m\"", "signer = \"approver\"") + more));
    let issuer = |class: &str, scope: &str| {
        format!(
            "[intent_issuer.desk]\nissuer = \"https://desk.acme.example\"\nclass = \"{class}\"\n{scope}\n\
             keys = {{ keys = [{{ kty = \"OKP\", crv = \"Ed25519\", x = \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\" }}] }}\n"
        )
    };
    let found = ["no_mission", "no_signer"];
    assert_eq!(with(""), found);
    assert_eq!(
        with(&issuer("approver", "agents = [\"deployer\"]")),
        [""; 0]
    );
    assert_eq!(
        with(&issuer("approver", "missions = [\"deploy\"]")),
        [""; 0]
    );
    assert_eq!(
        with(&issuer("orchestrator", "agents = [\"deployer\"]")),
        found
    );
    let other = "[agent.other]\nowner = \"a@b\"\npurpose = \"Works\"\nends = 2027-03-01\n\
                 identity = { github = \"acme/shop\", repository_id = 8 }\n\
                 [mission.other]\nagents = [\"other\"]\nowner = \"a@b\"\npurpose = \"Works\"\n\
                 allow = [{ target = \"api\", actions = [\"@write\"], locations = [\"https://api.acme.example/shop\"] }]\n";
    for scope in ["agents = [\"other\"]", "missions = [\"other\"]"] {
        let of_another = issuer("approver", scope) + other;
        assert_eq!(with(&of_another), found, "{scope}");
    }
}

#[test]
fn a_mission_that_too_few_may_approve_is_found() {
    let operators = "[operators]\nissuer = \"https://login.acme.example\"\naudience = \"dayfly\"\n\
                     roles = [{ role = \"reviewer\", claims = { groups = \"sre\" } }]\n";
    let with = |terms: &str, more: &str| {
        let line = format!("ttl     = \"10m\"\napproval = {terms}");
        codes(&(spoiled("ttl     = \"10m\"", &line) + more))
    };
    let found = ["no_approver"];
    assert_eq!(with("{}", ""), found, "no operators");
    assert_eq!(with("{}", operators), [""; 0]);
    assert_eq!(
        with("{ by = [\"team@acme.example\"] }", operators),
        found,
        "its owner alone"
    );
    let two = "{ count = 2, by = [\"team@acme.example\", \"ann\"] }";
    assert_eq!(with(two, operators), found, "one of two is its owner");
    let two = "{ count = 2, by = [\"team@acme.example\", \"ann\", \"bob\"] }";
    assert_eq!(with(two, operators), [""; 0]);
}

#[test]
fn an_agent_that_lacks_a_label_which_another_has_is_found() {
    let two = |labels: &str| {
        let other = format!(
            "[agent.other]\nowner = \"a@b\"\npurpose = \"Works\"\nends = 2027-03-01\n\
             identity = {{ github = \"acme/shop\", repository_id = 8 }}\n{labels}\n"
        );
        found(
            &(spoiled(
                "ttl     = \"10m\"",
                "require = { \"agent.labels.team\" = \"a\" }",
            )
            .replace(
                "agents  = [\"deployer\"]",
                "agents = [\"deployer\", \"other\"]",
            )
            .replace(
                "ends     = 2027-03-01",
                "ends = 2027-03-01\nlabels = { team = \"a\" }",
            ) + &other),
        )
    };
    assert_eq!(two("labels = { team = \"a\" }"), []);
    let lacking = two("labels = { team = \"b\" }");
    let told: Vec<_> = lacking.iter().map(|(code, _)| *code).collect();
    assert_eq!(told, ["never_matches", "no_mission"], "{lacking:?}");
    assert!(
        lacking.iter().all(|(_, why)| why.contains("`agent.other`")),
        "{lacking:?}"
    );
}

#[test]
fn a_grant_that_no_group_of_people_reaches_is_found() {
    let with = |ceilings: [&str; 2]| {
        let people = |name: &str, actions: &str| {
            format!(
                "[people.{name}]\nissuer = \"corp\"\nclaims = {{ groups = \"{name}\" }}\n\
                 ceiling = [{{ target = \"api\", actions = [\"{actions}\"], locations = [\"*\"] }}]\n"
            )
        };
        codes(
            &(spoiled("ttl     = \"10m\"", "on_behalf_of = [\"one\", \"two\"]")
                + "[issuer.corp]\nurl = \"https://login.acme.example\"\naudience = \"dayfly\"\npeople = true\n"
                + &people("one", ceilings[0])
                + &people("two", ceilings[1])),
        )
    };
    assert_eq!(with(["releases:*", "users:*"]), [""; 0]);
    assert_eq!(
        with(["users:*", "users:read"]),
        ["no_mission", "unreachable"]
    );
}

#[test]
fn a_set_that_nothing_names_and_a_restriction_that_denies_nothing_are_found() {
    let unused = found(&spoiled(
        "sets    = {",
        "sets    = { spare = [\"releases:read\"],",
    ));
    assert_eq!(unused.len(), 1, "{unused:?}");
    assert_eq!(unused[0].0, "unused_set");
    assert!(
        unused[0].1.contains("`@spare` of `target.api`"),
        "{unused:?}"
    );
    // In a ceiling it is of use, too.
    let in_ceiling = spoiled("sets    = {", "sets    = { spare = [\"releases:read\"],").replace(
        "ends     = 2027-03-01",
        "ends = 2027-03-01\nceiling = [{ target = \"api\", actions = [\"@spare\", \"@write\"], locations = [\"*\"] }]",
    );
    assert_eq!(codes(&in_ceiling), [""; 0]);
    let denying = |what: &str| {
        codes(&format!(
            "{GOOD}\n[[response]]\non = \"exceeds_mission\"\ndo = [\"restrict\"]\nrestrict = {{ target = \"api\", {what} }}\n"
        ))
    };
    assert_eq!(denying("deny = [\"releases:write\"]"), [""; 0]);
    assert_eq!(denying("deny = [\"users:*\"]"), ["never_matches"]);
    let elsewhere = "deny = [\"releases:*\"], locations = [\"https://other.example/\"]";
    assert_eq!(denying(elsewhere), ["never_matches"]);
}
