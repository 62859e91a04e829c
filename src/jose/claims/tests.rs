use super::*;
use proptest::prelude::*;
use serde_json::json;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const HOUR: Duration = Duration::from_secs(3600);

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Seconds from [`NOW`].
fn at(seconds: i64) -> i64 {
    NOW.unix_timestamp() + seconds
}

fn check(value: Value) -> Result<Times, JoseError> {
    times(&map(value), NOW, HOUR)
}

#[test]
fn a_token_has_times() {
    let found = check(json!({"iat": at(-10), "nbf": at(-20), "exp": at(300)})).unwrap();
    assert_eq!(found.issued_at.unix_timestamp(), at(-10));
    assert_eq!(found.expires_at.unix_timestamp(), at(300));
    let found = check(json!({"nbf": at(-20), "exp": at(300)})).unwrap();
    assert_eq!(found.issued_at.unix_timestamp(), at(-20));
    assert_eq!(check(json!({"exp": at(300)})).unwrap().issued_at, NOW);
}

#[test]
fn exp_is_required() {
    assert_eq!(
        check(json!({"iat": at(0)})),
        Err(JoseError::ClaimMissing("exp"))
    );
}

#[test]
fn times_are_finite_numbers() {
    for bad in [
        json!("1"),
        json!(null),
        json!([1]),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
    ] {
        for name in ["exp", "nbf", "iat"] {
            let mut claims = map(json!({"exp": at(300), "iat": at(0), "nbf": at(0)}));
            claims.insert(name.to_owned(), bad.clone());
            let refused = times(&claims, NOW, HOUR).unwrap_err();
            let expected = match name {
                "exp" => JoseError::ClaimMalformed("exp"),
                "nbf" => JoseError::ClaimMalformed("nbf"),
                _ => JoseError::ClaimMalformed("iat"),
            };
            assert_eq!(refused, expected, "{bad}");
        }
    }
    let halves = check(json!({"iat": at(0) as f64 + 0.5, "exp": at(300) as f64 + 0.9})).unwrap();
    assert_eq!(halves.expires_at.unix_timestamp(), at(300));
}

#[test]
fn clocks_may_differ_by_the_leeway_and_no_more() {
    assert!(check(json!({"exp": at(-59), "iat": at(-100)})).is_ok());
    assert_eq!(
        check(json!({"exp": at(-60), "iat": at(-100)})),
        Err(JoseError::Expired)
    );
    for name in ["nbf", "iat"] {
        assert!(check(json!({"exp": at(300), name: at(60)})).is_ok());
        assert_eq!(
            check(json!({"exp": at(300), name: at(61)})),
            Err(JoseError::NotYetValid)
        );
    }
}

#[test]
fn a_token_must_not_live_too_long() {
    assert!(check(json!({"iat": at(0), "exp": at(3600)})).is_ok());
    assert_eq!(
        check(json!({"iat": at(0), "exp": at(3601)})),
        Err(JoseError::LivesTooLong)
    );
    assert_eq!(
        check(json!({"exp": at(3601)})),
        Err(JoseError::LivesTooLong)
    );
    // An old `iat` does not hide a far `exp`.
    assert_eq!(
        check(json!({"iat": at(-3600), "exp": at(1)})),
        Err(JoseError::LivesTooLong)
    );
}

#[test]
fn a_token_ends_after_it_begins() {
    let malformed = Err(JoseError::ClaimMalformed("exp"));
    assert_eq!(check(json!({"iat": at(10), "exp": at(10)})), malformed);
    assert_eq!(check(json!({"nbf": at(10), "exp": at(5)})), malformed);
}

#[test]
fn text_is_text_and_not_empty() {
    let claims = map(json!({"iss": "a", "sub": "", "jti": 1}));
    assert_eq!(text(&claims, "iss"), Ok("a"));
    assert_eq!(text(&claims, "sub"), Err(JoseError::ClaimMalformed("sub")));
    assert_eq!(text(&claims, "jti"), Err(JoseError::ClaimMalformed("jti")));
    assert_eq!(text(&claims, "x"), Err(JoseError::ClaimMissing("x")));
    assert_eq!(optional_text(&claims, "x"), Ok(None));
    assert_eq!(
        optional_text(&claims, "jti"),
        Err(JoseError::ClaimMalformed("jti"))
    );
}

#[test]
fn an_audience_is_a_text_or_a_list_of_texts() {
    let of = |aud: Value| audiences(&map(json!({ "aud": aud }))).map(|list| list.join(" "));
    assert_eq!(of(json!("a")), Ok("a".to_owned()));
    assert_eq!(of(json!(["a", "b"])), Ok("a b".to_owned()));
    for bad in [
        json!(""),
        json!([]),
        json!(["a", 1]),
        json!([""]),
        json!(1),
        json!({"a": 1}),
    ] {
        assert_eq!(of(bad), Err(JoseError::ClaimMalformed("aud")));
    }
    assert_eq!(audiences(&Map::new()), Err(JoseError::ClaimMissing("aud")));
    assert_eq!(sole_audience(&map(json!({"aud": ["a"]}))), Ok("a"));
    let two = map(json!({"aud": ["a", "a"]}));
    assert_eq!(sole_audience(&two), Err(JoseError::ClaimMalformed("aud")));
}

proptest! {
    #[test]
    fn no_number_makes_it_panic(exp in any::<f64>(), iat in any::<i64>(), nbf in any::<u64>()) {
        let claims = map(json!({"exp": exp, "iat": iat, "nbf": nbf}));
        let _ = times(&claims, NOW, HOUR);
        let _ = times(&claims, OffsetDateTime::UNIX_EPOCH, Duration::MAX);
    }

    #[test]
    fn what_passes_is_alive(exp in -200_i64..5000, iat in -5000_i64..200) {
        if let Ok(found) = check(json!({"exp": at(exp), "iat": at(iat)})) {
            prop_assert!(found.expires_at + LEEWAY > NOW && found.issued_at <= NOW + LEEWAY);
            prop_assert!(found.expires_at - found.issued_at <= HOUR);
        }
    }
}
