//! The document is judged by an evaluator of IAM's documented rules that shares no code with what
//! wrote it: an explicit deny wins, then an allow, else implicitly denied.

use super::*;
use crate::authority::Permission;
use proptest::prelude::*;
use serde_json::Value;
use time::macros::datetime;

const ENDS: OffsetDateTime = datetime!(2026-11-21 10:15:00.9 UTC);
const BEFORE: &str = "2026-11-21T10:14:59Z";
const AFTER: &str = "2026-11-21T10:15:00Z";

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Verdict {
    Allowed,
    /// By nothing: an allow elsewhere would do.
    Silent,
    /// By name: no allow elsewhere helps.
    Denied,
}

fn judge(policy: &str, action: &str, resource: &str, now: &str) -> Verdict {
    let policy: Value = serde_json::from_str(policy).unwrap();
    let mut verdict = Verdict::Silent;
    for statement in policy["Statement"].as_array().unwrap() {
        if applies(statement, action, resource, now) {
            match statement["Effect"].as_str().unwrap() {
                "Deny" => return Verdict::Denied,
                "Allow" => verdict = Verdict::Allowed,
                other => panic!("{other}"),
            }
        }
    }
    verdict
}

fn applies(statement: &Value, action: &str, resource: &str, now: &str) -> bool {
    let members = statement.as_object().unwrap();
    let mut sides = (0, 0);
    let mut holds = true;
    for (name, value) in members {
        holds &= match name.as_str() {
            "Effect" => true,
            "Action" | "NotAction" => {
                sides.0 += 1;
                any(value, &action.to_lowercase(), true) == (name == "Action")
            }
            "Resource" | "NotResource" => {
                sides.1 += 1;
                any(value, resource, false) == (name == "Resource")
            }
            "Condition" => condition(value, now),
            other => panic!("IAM knows no {other}"),
        };
    }
    assert_eq!(sides, (1, 1), "one of each kind, or IAM refuses it");
    holds
}

fn condition(value: &Value, now: &str) -> bool {
    value.as_object().unwrap().iter().all(|(operator, keys)| {
        let bound = keys["aws:CurrentTime"].as_str().unwrap();
        match operator.as_str() {
            "DateLessThan" => now < bound,
            "DateGreaterThanEquals" => now >= bound,
            other => panic!("{other}"),
        }
    })
}

fn any(patterns: &Value, text: &str, lower: bool) -> bool {
    let one = |pattern: &str| {
        let pattern = if lower {
            pattern.to_lowercase()
        } else {
            pattern.to_owned()
        };
        glob(pattern.as_bytes(), text.as_bytes())
    };
    match patterns {
        Value::String(pattern) => one(pattern),
        Value::Array(list) => list.iter().any(|pattern| one(pattern.as_str().unwrap())),
        other => panic!("{other}"),
    }
}

/// Slow and plain.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((letter, rest)) => text.first() == Some(letter) && glob(rest, &text[1..]),
    }
}

fn authority(permissions: &[(&[&str], &[&str])]) -> Authority {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let permissions = permissions.iter().map(|(actions, locations)| Permission {
        actions: owned(actions),
        locations: owned(locations),
    });
    Authority(permissions.collect())
}

fn granted(authority: &Authority, action: &str, resource: &str) -> bool {
    authority.0.iter().any(|permission| {
        let action = action.to_lowercase();
        permission
            .actions
            .iter()
            .any(|pattern| glob(pattern.to_lowercase().as_bytes(), action.as_bytes()))
            && permission
                .locations
                .iter()
                .any(|pattern| glob(pattern.as_bytes(), resource.as_bytes()))
    })
}

const SERVICE: &str = "arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout";
const TASKS: &str = "arn:aws:ecs:eu-west-1:111122223333:task/prod/*";
const BUCKET: &str = "arn:aws:s3:::releases";

#[test]
fn the_document_of_one_permission() {
    let policy = session_policy(&authority(&[(&["ecs:UpdateService"], &[SERVICE])]), ENDS).unwrap();
    assert_eq!(policy.denials_left_out, 0);
    assert_eq!(
        policy.text,
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{}{}{}{}]}}"#,
            format_args!(
                r#"{{"Effect":"Allow","Action":"ecs:UpdateService","Resource":"{SERVICE}","Condition":{{"DateLessThan":{{"aws:CurrentTime":"2026-11-21T10:15:00Z"}}}}}},"#
            ),
            r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateGreaterThanEquals":{"aws:CurrentTime":"2026-11-21T10:15:00Z"}}},"#,
            r#"{"Effect":"Deny","NotAction":"ecs:UpdateService","Resource":"*"},"#,
            format_args!(r#"{{"Effect":"Deny","Action":"*","NotResource":"{SERVICE}"}}"#),
        )
    );
}

#[test]
fn exactly_the_granted_pairs_are_allowed() {
    let authority = authority(&[
        (&["ecs:UpdateService", "ecs:Describe*"], &[SERVICE]),
        (&["ecs:StopTask"], &[TASKS]),
        (&["s3:GetObject"], &["arn:aws:s3:::releases/*"]),
        (&["s3:ListBucket"], &[BUCKET]),
        (&["ecs:ListClusters"], &["*"]),
    ]);
    let policy = session_policy(&authority, ENDS).unwrap().text;
    use Verdict::{Allowed, Denied};
    for (action, resource, verdict) in [
        ("ecs:UpdateService", SERVICE, Allowed),
        ("ECS:updateservice", SERVICE, Allowed),
        ("ecs:DescribeServices", SERVICE, Allowed),
        (
            "ecs:StopTask",
            "arn:aws:ecs:eu-west-1:111122223333:task/prod/1",
            Allowed,
        ),
        ("s3:GetObject", "arn:aws:s3:::releases/a/b", Allowed),
        ("s3:ListBucket", BUCKET, Allowed),
        ("ecs:ListClusters", "*", Allowed),
        // Another's action, another's location.
        ("ecs:StopTask", SERVICE, Denied),
        (
            "ecs:UpdateService",
            "arn:aws:ecs:eu-west-1:111122223333:task/prod/1",
            Denied,
        ),
        ("s3:GetObject", BUCKET, Denied),
        ("s3:ListBucket", "arn:aws:s3:::releases/a", Denied),
        // Nobody's.
        ("ecs:DeleteService", SERVICE, Denied),
        ("s3:PutObject", "arn:aws:s3:::releases/a", Denied),
        ("s3:GetObject", "arn:aws:s3:::secrets/a", Denied),
        ("iam:CreateUser", "*", Denied),
        (
            "ecs:UpdateService",
            "arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout2",
            Denied,
        ),
    ] {
        assert_eq!(
            judge(&policy, action, resource, BEFORE),
            verdict,
            "{action} {resource}"
        );
        assert_eq!(
            judge(&policy, action, resource, AFTER),
            Denied,
            "late: {action}"
        );
    }
}

#[test]
fn overlapping_actions_keep_each_others_locations() {
    let authority = authority(&[
        (&["s3:Get*"], &["arn:aws:s3:::open/*"]),
        (&["s3:GetObject"], &["arn:aws:s3:::closed/*"]),
    ]);
    let policy = session_policy(&authority, ENDS).unwrap().text;
    use Verdict::{Allowed, Denied, Silent};
    for (action, resource, verdict) in [
        ("s3:GetObject", "arn:aws:s3:::closed/a", Allowed),
        ("s3:GetObject", "arn:aws:s3:::open/a", Allowed),
        ("s3:GetObjectAcl", "arn:aws:s3:::open/a", Allowed),
        // The stated gap: not allowed, and not denied by name either.
        ("s3:GetObjectAcl", "arn:aws:s3:::closed/a", Silent),
        ("s3:GetObjectAcl", "arn:aws:s3:::other/a", Denied),
    ] {
        assert_eq!(
            judge(&policy, action, resource, BEFORE),
            verdict,
            "{action} {resource}"
        );
    }
}

#[test]
fn what_is_said_twice_is_written_once() {
    let twice = authority(&[
        (
            &["s3:GetObject", "s3:Get*", "s3:getobject"],
            &[BUCKET, BUCKET],
        ),
        (&["s3:Get*"], &["arn:aws:s3:::rel*"]),
    ]);
    let once = authority(&[(&["s3:Get*"], &["arn:aws:s3:::rel*"])]);
    assert_eq!(
        session_policy(&twice, ENDS).unwrap(),
        session_policy(&once, ENDS).unwrap()
    );
}

#[test]
fn the_whole_of_a_service_leaves_nothing_to_deny_but_time() {
    let policy = session_policy(&authority(&[(&["*"], &["*"])]), ENDS).unwrap();
    assert_eq!(
        judge(&policy.text, "iam:CreateUser", "*", BEFORE),
        Verdict::Allowed
    );
    assert_eq!(
        judge(&policy.text, "iam:CreateUser", "*", AFTER),
        Verdict::Denied
    );
}

#[test]
fn what_iam_reads_otherwise_is_refused() {
    for action in [
        "",
        "s3",
        "s3:",
        ":Get",
        "s3:Get?",
        "s3:Get${a}",
        "s3:Gét",
        "s3:Get Object",
        "s*:Get",
        "s3:a\"b",
    ] {
        let asked = authority(&[(&[action], &[BUCKET])]);
        assert_eq!(
            session_policy(&asked, ENDS),
            Err(Inexpressible::Action(action.to_owned())),
        );
    }
    for location in [
        "",
        "releases",
        "arn:aws:s3",
        "arn:aws:s3:::a?",
        "arn:aws:s3:::${aws:username}",
        "arn:aws:s3:::ä",
        "arn:aws:s3:::a b",
        "arn:aws:s3:::a\"",
        "arn:aws:s3:::a\\",
    ] {
        let asked = authority(&[(&["s3:GetObject"], &[location])]);
        assert_eq!(
            session_policy(&asked, ENDS),
            Err(Inexpressible::Location(location.to_owned())),
        );
    }
}

#[test]
fn a_grant_of_nothing_has_no_policy() {
    for nothing in [
        authority(&[]),
        authority(&[(&[], &[BUCKET])]),
        authority(&[(&["s3:GetObject"], &[])]),
        authority(&[(&["s3:GetObject"], &[BUCKET]), (&["s3:PutObject"], &[])]),
    ] {
        assert_eq!(session_policy(&nothing, ENDS), Err(Inexpressible::Empty));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_never_cut() {
    let locations: Vec<String> = (0..60)
        .map(|number| format!("arn:aws:s3:::a-bucket-with-a-rather-long-name-{number:03}/*"))
        .collect();
    let asked = Authority(vec![Permission {
        actions: vec!["s3:GetObject".to_owned()],
        locations,
    }]);
    assert!(matches!(
        session_policy(&asked, ENDS),
        Err(Inexpressible::TooLong(length)) if length > MOST_CHARACTERS
    ));
}

#[test]
fn denials_give_way_to_what_is_allowed() {
    let locations: Vec<String> = (0..22)
        .map(|number| format!("arn:aws:s3:::a-bucket-with-a-rather-long-name-{number:03}/*"))
        .collect();
    let asked = Authority(vec![Permission {
        actions: vec!["s3:GetObject".to_owned()],
        locations: locations.clone(),
    }]);
    let policy = session_policy(&asked, ENDS).unwrap();
    assert_eq!(policy.denials_left_out, 1);
    assert!(policy.text.len() <= MOST_CHARACTERS);
    for location in &locations {
        assert_eq!(
            judge(&policy.text, "s3:GetObject", location, BEFORE),
            Verdict::Allowed
        );
    }
    let elsewhere = "arn:aws:s3:::elsewhere/a";
    assert_eq!(
        judge(&policy.text, "s3:GetObject", elsewhere, BEFORE),
        Verdict::Silent
    );
    assert_eq!(
        judge(&policy.text, "s3:PutObject", elsewhere, BEFORE),
        Verdict::Denied
    );
}

fn permission() -> impl Strategy<Value = Permission> {
    let action = prop_oneof![
        4 => "(s3|ecs):[GP]et(\\*|Object|Acl)?",
        1 => "(s3|ecs):(\\*[ab]\\*|\\*)",
        1 => Just("*".to_owned()),
    ];
    let location = prop_oneof![
        4 => "arn:aws:(s3|ecs):::[ab](/[ab]|/\\*|\\*)?",
        1 => Just("*".to_owned()),
    ];
    (
        proptest::collection::vec(action, 1..4),
        proptest::collection::vec(location, 1..4),
    )
        .prop_map(|(actions, locations)| Permission { actions, locations })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_policy_allows_a_pair_exactly_where_the_grant_does(
        permissions in proptest::collection::vec(permission(), 1..5),
        probes in proptest::collection::vec(
            ("(s3|ecs):[GP]et(Object|Acl|a|b)?", "arn:aws:(s3|ecs):::[ab](/[ab]|b)?"), 24),
    ) {
        let authority = Authority(permissions);
        match session_policy(&authority, ENDS) {
            Ok(policy) => {
                prop_assert!(policy.text.len() <= MOST_CHARACTERS);
                prop_assert!(policy.text.is_ascii());
                for (action, resource) in &probes {
                    let verdict = judge(&policy.text, action, resource, BEFORE);
                    prop_assert_eq!(
                        verdict == Verdict::Allowed,
                        granted(&authority, action, resource),
                        "{} {} {}", policy.text, action, resource
                    );
                    prop_assert_eq!(judge(&policy.text, action, resource, AFTER), Verdict::Denied);
                }
            }
            Err(Inexpressible::TooLong(_)) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn nothing_asked_makes_it_panic_or_leave_ascii(
        action in "\\PC{0,12}", location in "\\PC{0,24}",
    ) {
        let asked = authority(&[(&[action.as_str()], &[location.as_str()])]);
        if let Ok(policy) = session_policy(&asked, ENDS) {
            prop_assert!(policy.text.is_ascii());
            prop_assert!(serde_json::from_str::<Value>(&policy.text).is_ok());
        }
    }
}
