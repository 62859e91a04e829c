use super::super::AuthorizationDetail;

const GOOD: &str = r#"[{"type":"aws_session","identifier":"aws-prod","actions":["ecs:RunTask"],
    "locations":["arn:aws:ecs:eu-west-1:1:task/a"],"max_ttl":900}]"#;

/// The place that is blamed.
fn blamed(text: &str) -> String {
    AuthorizationDetail::parse_list(text).unwrap_err().at
}

/// `GOOD` with one thing spoiled.
fn spoiled(part: &str, with: &str) -> String {
    assert!(GOOD.contains(part), "{part}");
    blamed(&GOOD.replace(part, with))
}

#[test]
fn a_good_list_reads_back_as_it_was() {
    let list = AuthorizationDetail::parse_list(GOOD).unwrap();
    assert_eq!(list.len(), 1);
    let text = serde_json::to_string(&list).unwrap();
    assert_eq!(AuthorizationDetail::parse_list(&text).unwrap(), list);
    let value = serde_json::from_str(&text).unwrap();
    assert_eq!(AuthorizationDetail::from_value(&value).unwrap(), list);
}

#[test]
fn locations_and_lifetime_may_be_left_out() {
    let text = r#"[{"type":"api_key","identifier":"orders","actions":["read"]}]"#;
    let list = AuthorizationDetail::parse_list(text).unwrap();
    assert!(list[0].locations.is_empty());
    assert_eq!(list[0].max_ttl, None);
}

#[test]
fn an_unknown_field_is_refused_and_named() {
    let at = spoiled("\"max_ttl\":900", "\"privileges\":[\"root\"]");
    assert_eq!(at, "authorization_details[0].privileges");
    let at = spoiled("\"max_ttl\":900", "\"a\\nb\":1");
    assert_eq!(at, "authorization_details[0][\"a\\nb\"]");
}

#[test]
fn a_member_that_comes_twice_is_refused_and_named() {
    let at = spoiled("\"max_ttl\":900", "\"max_ttl\":900,\"max_ttl\":60");
    assert_eq!(at, "authorization_details[0].max_ttl");
    let at = spoiled("\"max_ttl\":900", "\"actions\":[\"*\"]");
    assert_eq!(at, "authorization_details[0].actions");
    let at = spoiled("\"max_ttl\":900", "\"x\":{\"y\":[{\"z\":1,\"z\":2}]}");
    assert_eq!(at, "authorization_details[0].x.y[0].z");
}

#[test]
fn a_missing_field_is_named() {
    for (part, at) in [
        ("\"type\":\"aws_session\",", "authorization_details[0].type"),
        (
            "\"identifier\":\"aws-prod\",",
            "authorization_details[0].identifier",
        ),
        (
            "\"actions\":[\"ecs:RunTask\"],",
            "authorization_details[0].actions",
        ),
    ] {
        assert_eq!(spoiled(part, ""), at);
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_named() {
    for (part, with, at) in [
        ("\"aws_session\"", "7", "authorization_details[0].type"),
        (
            "\"aws-prod\"",
            "\"\"",
            "authorization_details[0].identifier",
        ),
        (
            "[\"ecs:RunTask\"]",
            "\"ecs:RunTask\"",
            "authorization_details[0].actions",
        ),
        (
            "[\"ecs:RunTask\"]",
            "[]",
            "authorization_details[0].actions",
        ),
        (
            "[\"ecs:RunTask\"]",
            "[\"a\",null]",
            "authorization_details[0].actions[1]",
        ),
        ("900", "-1", "authorization_details[0].max_ttl"),
        ("900", "0", "authorization_details[0].max_ttl"),
        ("900", "1.5", "authorization_details[0].max_ttl"),
        ("900", "4294967296", "authorization_details[0].max_ttl"),
        ("900", "\"900\"", "authorization_details[0].max_ttl"),
    ] {
        assert_eq!(spoiled(part, with), at, "{with}");
    }
    for text in ["", "{}", "[", "[]", "null", "[1]x"] {
        assert_eq!(blamed(text), "authorization_details", "{text}");
    }
    assert_eq!(blamed("[1]"), "authorization_details[0]");
}

#[test]
fn everything_is_bounded() {
    let long = format!("\"{}\"", "a".repeat(513));
    let at = spoiled(
        "\"arn:aws:ecs:eu-west-1:1:task/a\"",
        &format!("\"x\",{long}"),
    );
    assert_eq!(at, "authorization_details[0].locations[1]");
    let many = format!("[{}]", vec!["\"a\""; 65].join(","));
    assert_eq!(
        spoiled("[\"ecs:RunTask\"]", &many),
        "authorization_details[0].actions"
    );
    let detail = GOOD.trim_start_matches('[').trim_end_matches(']');
    let list = |n| format!("[{}]", vec![detail; n].join(","));
    assert!(AuthorizationDetail::parse_list(&list(16)).is_ok());
    assert_eq!(blamed(&list(17)), "authorization_details");
    assert_eq!(blamed(&"[".repeat(5000)), "authorization_details");
}
