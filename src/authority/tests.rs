use super::*;
use proptest::prelude::*;

mod arns;
mod details;
mod exact;
mod lists;
mod sql;

fn authority(permissions: &[(&[&str], &[&str])]) -> Authority {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Authority(
        permissions
            .iter()
            .map(|(actions, locations)| Permission {
                actions: owned(actions),
                locations: owned(locations),
            })
            .collect(),
    )
}

fn aws(ceiling: (&str, &str), asked: (&str, &str)) -> bool {
    Vocabulary::Aws
        .covers(
            &authority(&[(&[ceiling.0], &[ceiling.1])]),
            &authority(&[(&[asked.0], &[asked.1])]),
        )
        .unwrap()
}

fn scopes(ceiling: (&str, &[&str]), asked: (&str, &[&str])) -> bool {
    Vocabulary::Scopes
        .covers(
            &authority(&[(&[ceiling.0], ceiling.1)]),
            &authority(&[(&[asked.0], asked.1)]),
        )
        .unwrap()
}

fn undecidable(vocabulary: Vocabulary, action: &str, locations: &[&str]) -> bool {
    let asked = authority(&[(&[action], locations)]);
    let anything = authority(&[(&["*"], &["*"])]);
    let checked = vocabulary.check(&asked).is_err();
    assert_eq!(checked, vocabulary.covers(&anything, &asked).is_err());
    assert_eq!(checked, vocabulary.covers(&asked, &anything).is_err());
    checked
}

/// Every word over the alphabet, up to the length.
fn words(alphabet: &[char], longest: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..longest {
        let to = all.len();
        for at in from..to {
            for letter in alphabet {
                all.push(format!("{}{letter}", all[at]));
            }
        }
        from = to;
    }
    all
}

/// What a pattern means, written as differently from `glob` as possible.
fn matches(pattern: &[u8], word: &[u8]) -> bool {
    match pattern.split_first() {
        None => word.is_empty(),
        Some((b'*', rest)) => (0..=word.len()).any(|skip| matches(rest, &word[skip..])),
        Some((letter, rest)) => word.first() == Some(letter) && matches(rest, &word[1..]),
    }
}

#[test]
fn containment_of_patterns_is_what_enumeration_says() {
    // `c` is in no pattern: the letter that tells `a*` from the list of words someone thought of.
    let patterns = words(&['a', 'b', '*'], 4);
    let words = words(&['a', 'b', 'c'], 5);
    let language: Vec<Vec<bool>> = patterns
        .iter()
        .map(|p| {
            words
                .iter()
                .map(|w| matches(p.as_bytes(), w.as_bytes()))
                .collect()
        })
        .collect();
    for (ceiling, wide) in patterns.iter().zip(&language) {
        for (asked, narrow) in patterns.iter().zip(&language) {
            let contained = narrow.iter().zip(wide).all(|(n, w)| !n || *w);
            assert_eq!(
                glob::covers(ceiling, asked),
                contained,
                "{asked} in {ceiling}"
            );
            let meets = narrow.iter().zip(wide).any(|(n, w)| *n && *w);
            // A common word can be longer than any that was written down, never the reverse.
            assert!(
                !meets || glob::overlap(ceiling, asked),
                "{asked} meets {ceiling}"
            );
            if ceiling.len() + asked.len() <= 5 {
                assert_eq!(
                    glob::overlap(ceiling, asked),
                    meets,
                    "{asked} meets {ceiling}"
                );
            }
        }
    }
}

#[test]
fn an_action_and_a_location_must_be_found_in_one_permission() {
    let ceiling = authority(&[
        (
            &["ecs:UpdateService"],
            &["arn:aws:ecs:eu-west-1:1:service/x"],
        ),
        (
            &["ecs:DeleteService"],
            &["arn:aws:ecs:eu-west-1:1:service/y"],
        ),
    ]);
    let across = authority(&[(
        &["ecs:UpdateService"],
        &["arn:aws:ecs:eu-west-1:1:service/y"],
    )]);
    let outside = Vocabulary::Aws.outside(&ceiling, &across).unwrap().unwrap();
    assert_eq!(outside.place, "[0].locations[0]");
    let both = Authority(ceiling.0.clone());
    assert!(Vocabulary::Aws.covers(&ceiling, &both).unwrap());
}

#[test]
fn what_lies_outside_is_named() {
    let ceiling = authority(&[(&["ecs:*"], &["arn:aws:ecs:*:1:*"])]);
    let asked = authority(&[
        (&["ecs:RunTask"], &["arn:aws:ecs:eu-west-1:1:task/a"]),
        (
            &["ecs:RunTask", "iam:CreateUser"],
            &["arn:aws:ecs:eu-west-1:1:task/a"],
        ),
    ]);
    let outside = Vocabulary::Aws.outside(&ceiling, &asked).unwrap().unwrap();
    assert_eq!(outside.place, "[1].actions[1]");
    assert_eq!(outside.action, "iam:CreateUser");
    assert_eq!(
        outside.location.as_deref(),
        Some("arn:aws:ecs:eu-west-1:1:task/a")
    );
}

#[test]
fn nothing_asked_is_covered_and_a_permission_without_actions_is_not_comparable() {
    let ceiling = authority(&[(&["read"], &[])]);
    assert!(
        Vocabulary::Scopes
            .covers(&ceiling, &Authority::default())
            .unwrap()
    );
    let idle = authority(&[(&[], &[])]);
    assert!(Vocabulary::Scopes.covers(&ceiling, &idle).is_err());
    assert!(
        !Vocabulary::Scopes
            .covers(&Authority::default(), &ceiling)
            .unwrap()
    );
}

#[test]
fn iam_actions_compare_without_case() {
    let on = "arn:aws:ecs:eu-west-1:1:service/x";
    assert!(aws(("ecs:UpdateService", on), ("ECS:updateservice", on)));
    assert!(aws(("ecs:Update*", on), ("ecs:UPDATESERVICE", on)));
    assert!(aws(("ecs:*", on), ("ecs:Describe*", on)));
    assert!(aws(("*", on), ("ecs:*", on)));
    assert!(!aws(("ecs:Describe*", on), ("ecs:*", on)));
    assert!(!aws(("ecs:*", on), ("*", on)));
    assert!(!aws(("ecs:*", on), ("ec2:RunInstances", on)));
}

#[test]
fn a_ceilings_star_never_crosses_a_colon_of_an_arn() {
    let on = |location| ("ecs:RunTask", location);
    let ceiling = on("arn:aws:ecs:*:1:task/a");
    assert!(aws(ceiling, on("arn:aws:ecs:eu-west-1:1:task/a")));
    // Read as plain text, `*` would take up `eu-west-1:2:x`.
    assert!(!aws(ceiling, on("arn:aws:ecs:eu-west-1:2:x:1:task/a")));
    assert!(!aws(
        on("arn:aws:ecs:*:*:a"),
        on("arn:aws:ecs:eu-west-1:2:x:a")
    ));
}

#[test]
fn a_star_asked_in_the_first_five_fields_needs_a_field_left_open() {
    let on = |location| ("ecs:RunTask", location);
    assert!(aws(
        on("arn:aws:ecs:*:1:task/*"),
        on("arn:aws:ecs:eu-west-1:1:task/a")
    ));
    assert!(aws(
        on("arn:aws:ecs:*:1:task/*"),
        on("arn:aws:ecs:*:1:task/a")
    ));
    assert!(aws(
        on("arn:aws:ecs:*:1:task/*"),
        on("arn:aws:ecs:eu-*:1:task/a")
    ));
    assert!(aws(
        on("arn:aws:ecs:eu-*:1:task/*"),
        on("arn:aws:ecs:eu-west-1:1:task/a")
    ));
    assert!(!aws(
        on("arn:aws:ecs:eu-*:1:task/*"),
        on("arn:aws:ecs:eu-*:1:task/a")
    ));
    assert!(!aws(
        on("arn:aws:ecs:eu-west-1:1:task/*"),
        on("arn:aws:ecs:*:1:task/a")
    ));
    assert!(!aws(
        on("arn:aws:ecs:*:1:task/*"),
        on("arn:aws:ecs:eu-west-1:2:task/a")
    ));
    assert!(!aws(
        on("arn:aws:ecs:*:1:task/*"),
        on("arn:aws:ecs:eu-west-1:2:1:task/a")
    ));
    assert!(aws(
        on("arn:aws:ecs:**:1:task/*"),
        on("arn:aws:ecs:*:1:task/a")
    ));
}

#[test]
fn the_last_field_of_an_arn_is_the_rest_of_the_text() {
    let on = |location| ("logs:PutLogEvents", location);
    let group = "arn:aws:logs:eu-west-1:1:log-group:/app:*";
    assert!(aws(
        on(group),
        on("arn:aws:logs:eu-west-1:1:log-group:/app:log-stream:a")
    ));
    assert!(!aws(
        on(group),
        on("arn:aws:logs:eu-west-1:1:log-group:/db:log-stream:a")
    ));
    assert!(!aws(
        on(group),
        on("arn:aws:logs:eu-west-1:1:LOG-GROUP:/app:x")
    ));
}

#[test]
fn a_bare_star_is_everything_and_covered_by_itself_alone() {
    let on = |location| ("s3:GetObject", location);
    assert!(aws(on("*"), on("*")));
    assert!(aws(on("*"), on("arn:aws:s3:::b/k")));
    assert!(!aws(on("arn:*:*:*:*:*"), on("*")));
}

#[test]
fn what_iam_reads_as_more_than_text_is_refused() {
    let on = "arn:aws:s3:::b/k";
    for action in [
        "s3", "s3:", ":Get", "*:Get", "s*:Get", "s3:Get?", "s3:${a}", "s3:Gét", "s3:Get ", "",
        "s3:a:b",
    ] {
        assert!(undecidable(Vocabulary::Aws, action, &[on]), "{action}");
    }
    for location in [
        "",
        "s3",
        "arn:aws:s3:::",
        "arn:aws:s3::bucket",
        "arn:*",
        "Arn:aws:s3:::b",
        "arn::s3:::b",
        "*:aws:s3:::b",
        "arn:aws:s3:::b/?",
        "arn:aws:s3:::${aws:username}",
        "arn:aws:s3:::bü",
        "arn:aws:s3:::b\n",
        "arn:aws:s3:::b\u{7f}",
        "arn:aws:s3:e u::b",
        "arn:aws:s3:::b\u{0}",
    ] {
        assert!(
            undecidable(Vocabulary::Aws, "s3:GetObject", &[location]),
            "{location:?}"
        );
    }
    assert!(undecidable(Vocabulary::Aws, "s3:GetObject", &[]));
    assert!(!undecidable(
        Vocabulary::Aws,
        "s3:GetObject",
        &["arn:aws:s3:::b/a key:$LATEST"]
    ));
}

#[test]
fn scopes_are_exact_and_only_a_star_widens() {
    assert!(scopes(("orders:read", &[]), ("orders:read", &[])));
    assert!(scopes(("orders:*", &[]), ("orders:read", &[])));
    assert!(!scopes(("orders:read", &[]), ("Orders:read", &[])));
    assert!(!scopes(("orders:read", &[]), ("orders:*", &[])));
    for scope in ["", "a b", "a\"b", "a\\b", "ä", "a\u{7f}"] {
        assert!(undecidable(Vocabulary::Scopes, scope, &[]), "{scope:?}");
    }
}

#[test]
fn no_locations_is_a_place_of_its_own() {
    let here: &[&str] = &["https://api.example/a"];
    assert!(scopes(("read", &["*"]), ("read", &[])));
    assert!(scopes(("read", &["*"]), ("read", here)));
    assert!(!scopes(("read", here), ("read", &[])));
    assert!(!scopes(("read", &[]), ("read", here)));
    assert!(!scopes(("read", &[]), ("read", &["*"])));
}

#[test]
fn a_resource_matches_as_it_is_written() {
    let on = |c: &str, a: &str| scopes(("read", &[c]), ("read", &[a]));
    assert!(on(
        "https://api.example/v1/*",
        "https://api.example/v1/orders"
    ));
    assert!(on(
        "https://api.example/v1/*",
        "https://api.example/v1/*/items"
    ));
    assert!(on(
        "https://api.example/v1?a=b",
        "https://api.example/v1?a=b"
    ));
    assert!(on("urn:acme:orders", "urn:acme:orders"));
    for (ceiling, asked) in [
        ("https://api.example/v1/*", "https://api.example/v2/orders"),
        ("https://api.example/*", "https://api.example.evil/x"),
        ("https://api.example/*", "https://api.example:8443/x"),
        ("https://api.example/*", "http://api.example/x"),
        (
            "https://api.example/v1/*",
            "https://api.example/v1/a?admin=1",
        ),
        ("https://api.example/v1", "https://api.example/v1/"),
        ("urn:acme:orders", "urn:acme:orders:1"),
    ] {
        assert!(!on(ceiling, asked), "{asked} in {ceiling}");
    }
}

#[test]
fn a_resource_that_others_might_read_differently_is_refused() {
    for location in [
        "api.example/v1",
        "https://",
        "https:///x",
        "https://u@api.example/",
        "https://u:p@api.example/",
        "https://api.example/#f",
        "https://*.example/",
        "https://api.example*/x",
        "https://api.example/?*",
        "https://api.example/a/../b",
        "https://api.example/.",
        "https://api.example/%2e%2e/b",
        "https://api.example/a%2Fb",
        "https://api.example/a%5cb",
        "https://api.example/%zz",
        "https://api.example/%0a",
        "https://api.example/a\\b",
        "https://api.example/a b",
        "https://api.example/ü",
        "urn:*",
        "urn:",
        "1a:b",
        "",
    ] {
        assert!(
            undecidable(Vocabulary::Scopes, "read", &[location]),
            "{location:?}"
        );
    }
}

#[test]
fn narrowing_by_scope_keeps_each_action_where_it_was() {
    let own = authority(&[
        (&["orders:*"], &["https://api.example/orders"]),
        (
            &["stock:read", "stock:write"],
            &["https://api.example/stock"],
        ),
    ]);
    let wanted = ["stock:read".to_owned(), "orders:read".to_owned()];
    let narrow = Vocabulary::Scopes.narrow(&own, &wanted).unwrap().unwrap();
    let expected = authority(&[
        (&["orders:read"], &["https://api.example/orders"]),
        (&["stock:read"], &["https://api.example/stock"]),
    ]);
    assert_eq!(narrow, expected);
    let more = ["admin".to_owned()];
    let outside = Vocabulary::Scopes.narrow(&own, &more).unwrap().unwrap_err();
    assert_eq!(outside.place, "[0]");
}

#[test]
fn a_scope_lists_each_action_once() {
    let own = authority(&[(&["b", "a"], &["*"]), (&["a", "c"], &["*"])]);
    assert_eq!(own.scope().as_deref(), Some("b a c"));
}

#[test]
fn actions_on_different_locations_have_no_scope() {
    let own = authority(&[
        (&["a"], &["https://x.example"]),
        (&["b"], &["https://y.example"]),
    ]);
    assert_eq!(own.scope(), None);
}

fn aws_action() -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), "(ecs|s3|ECS):[abA*]{1,3}",]
}

fn arn() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("*".to_owned()),
        5 => "arn:(aws|\\*):(ecs|s3|\\*):(|eu|e\\*|\\*):(|1|\\*):[ab:*]{1,4}",
    ]
}

fn scope() -> impl Strategy<Value = String> {
    "[ab:*]{1,4}"
}

fn uri() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("*".to_owned()),
        1 => Just("urn:a:b".to_owned()),
        5 => "https://(a|b)(/[ab*]{0,3}){0,2}(\\?q)?",
    ]
}

fn permissions(
    action: impl Strategy<Value = String>,
    location: impl Strategy<Value = String>,
    least: usize,
) -> impl Strategy<Value = Authority> {
    let permission = (
        prop::collection::vec(action, 1..3),
        prop::collection::vec(location, least..3),
    )
        .prop_map(|(actions, locations)| Permission { actions, locations });
    prop::collection::vec(permission, 1..3).prop_map(Authority)
}

fn any_aws() -> impl Strategy<Value = Authority> {
    permissions(aws_action(), arn(), 1)
}

fn any_scopes() -> impl Strategy<Value = Authority> {
    permissions(scope(), uri(), 0)
}

/// A pair without a pattern that the authority stands for: each `*` becomes `with`.
fn concrete(authority: &Authority, with: &str) -> Authority {
    let first = authority.0.first().unwrap();
    let fill = |text: &String| text.replace('*', with);
    let action = match first.actions[0].as_str() {
        "*" => "ecs:a".to_owned(),
        text => fill(&text.to_owned()),
    };
    let locations = match first.locations.first().map(String::as_str) {
        None => Vec::new(),
        Some("*") => vec!["arn:aws:ecs:eu:1:x".to_owned()],
        Some(text) => vec![fill(&text.to_owned())],
    };
    Authority(vec![Permission {
        actions: vec![action],
        locations,
    }])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn scopes_contain_themselves(a in any_scopes()) {
        prop_assert!(Vocabulary::Scopes.covers(&a, &a).unwrap());
        prop_assert!(Vocabulary::Scopes.overlap(&a, &a).unwrap());
    }

    #[test]
    fn aws_authority_without_half_open_fields_contains_itself(a in any_aws()) {
        let mut a = a;
        for location in a.0.iter_mut().flat_map(|p| &mut p.locations) {
            *location = location.replace("e*", "*");
        }
        prop_assert!(Vocabulary::Aws.covers(&a, &a).unwrap());
    }

    #[test]
    fn containment_is_transitive(a in any_aws(), b in any_aws(), c in any_aws()) {
        let covers = |x: &Authority, y: &Authority| Vocabulary::Aws.covers(x, y).unwrap();
        if covers(&a, &b) && covers(&b, &c) {
            prop_assert!(covers(&a, &c));
        }
    }

    #[test]
    fn containment_of_scopes_is_transitive(a in any_scopes(), b in any_scopes(), c in any_scopes()) {
        let covers = |x: &Authority, y: &Authority| Vocabulary::Scopes.covers(x, y).unwrap();
        if covers(&a, &b) && covers(&b, &c) {
            prop_assert!(covers(&a, &c));
        }
    }

    #[test]
    fn whatever_a_covered_pattern_stands_for_is_covered(
        ceiling in any_aws(), asked in any_aws(), with in "[ab]{1,2}",
    ) {
        let pair = concrete(&asked, &with);
        if Vocabulary::Aws.covers(&ceiling, &asked).unwrap()
            && Vocabulary::Aws.covers(&asked, &pair) == Ok(true)
        {
            prop_assert!(Vocabulary::Aws.covers(&ceiling, &pair).unwrap());
            prop_assert!(Vocabulary::Aws.overlap(&ceiling, &asked).unwrap());
        }
    }

    #[test]
    fn whatever_a_covered_scope_stands_for_is_covered(
        ceiling in any_scopes(), asked in any_scopes(), with in "[ab]{0,2}",
    ) {
        let pair = concrete(&asked, &with);
        if Vocabulary::Scopes.covers(&ceiling, &asked).unwrap()
            && Vocabulary::Scopes.covers(&asked, &pair) == Ok(true)
        {
            prop_assert!(Vocabulary::Scopes.covers(&ceiling, &pair).unwrap());
            prop_assert!(Vocabulary::Scopes.overlap(&ceiling, &asked).unwrap());
        }
    }

    #[test]
    fn no_text_makes_comparing_panic(action in ".{0,12}", location in ".{0,24}", other in ".{0,24}") {
        let a = authority(&[(&[action.as_str()], &[location.as_str()])]);
        let b = authority(&[(&[action.as_str()], &[other.as_str()])]);
        for vocabulary in [
            Vocabulary::Aws,
            Vocabulary::Scopes,
            Vocabulary::Sql,
            Vocabulary::Github,
            Vocabulary::Kubernetes,
        ] {
            let _ = vocabulary.covers(&a, &b);
            let _ = vocabulary.overlap(&a, &b);
        }
    }

    #[test]
    fn narrowing_never_widens(own in any_scopes(), wanted in prop::collection::vec(scope(), 1..3)) {
        if let Ok(narrow) = Vocabulary::Scopes.narrow(&own, &wanted).unwrap() {
            prop_assert!(Vocabulary::Scopes.covers(&own, &narrow).unwrap());
        }
    }
}
