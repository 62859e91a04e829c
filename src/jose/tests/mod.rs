//! Each rule of the one way in, spoilt alone.

mod vectors;

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

const LIMIT: usize = 8192;
const JWT: TypRule = TypRule::Exactly("JWT");
const ALL: &[Algorithm] = &Algorithm::ALL;

static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::generate(Algorithm::Es256).unwrap());

/// A token with exactly this header and payload, whatever they are, and a good signature.
fn raw(key: &SigningKey, header: &str, payload: &[u8]) -> String {
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload));
    let signature = key.pair.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", encode(&signature))
}

fn good() -> String {
    raw(&KEY, r#"{"alg":"ES256","typ":"JWT"}"#, br#"{"iss":"me"}"#)
}

fn parse(text: &str) -> Result<Compact, JoseError> {
    Compact::parse(text, LIMIT, &JWT)
}

fn verify(text: &str) -> Result<Verified, JoseError> {
    parse(text)?.verify(&[KEY.verifying()], ALL)
}

fn header(extra: &str) -> Result<Compact, JoseError> {
    parse(&raw(
        &KEY,
        &format!(r#"{{"alg":"ES256","typ":"JWT"{extra}}}"#),
        b"{}",
    ))
}

fn payload(text: &str) -> Result<Compact, JoseError> {
    parse(&raw(
        &KEY,
        r#"{"alg":"ES256","typ":"JWT"}"#,
        text.as_bytes(),
    ))
}

#[test]
fn every_algorithm_signs_and_verifies() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let token = key
            .sign("JWT", Some("k"), &json!({"iss": "me"}), false)
            .unwrap();
        let parsed = parse(&token).unwrap();
        assert_eq!((parsed.alg(), parsed.kid()), (algorithm, Some("k")));
        let verified = parsed.verify(&[key.verifying()], &[algorithm]).unwrap();
        assert_eq!(verified.claims()["iss"], "me");
        assert_eq!(verified.key().thumbprint(), key.thumbprint());
        assert_eq!(
            verified.signing_input(),
            token.rsplit_once('.').unwrap().0.as_bytes()
        );
    }
}

#[test]
fn ed25519_has_two_names_and_no_other_algorithm_has() {
    let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
    for name in ["EdDSA", "Ed25519"] {
        let token = raw(&key, &format!(r#"{{"alg":"{name}","typ":"JWT"}}"#), b"{}");
        assert!(
            parse(&token)
                .unwrap()
                .verify(&[key.verifying()], ALL)
                .is_ok()
        );
    }
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
    }
    for name in [
        "none", "None", "", "HS256", "HS384", "HS512", "es256", "ES512", "RS1", "eddsa", "Ed448",
    ] {
        assert_eq!(Algorithm::parse(name), None, "{name}");
    }
}

#[test]
fn only_the_compact_form_is_read() {
    let token = good();
    assert!(verify(&token).is_ok());
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b".into(),
        format!("{token}."),
        format!("{token}.a"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}="),
        token.replace('.', ":"),
        token.replacen('.', "..", 1),
        format!("{token}\0"),
        json!({"protected": "e30", "payload": "e30", "signature": "AA"}).to_string(),
        token.rsplit_once('.').unwrap().0.to_owned() + ".",
    ] {
        assert_eq!(parse(&bad).unwrap_err(), JoseError::NotCompact, "{bad:?}");
    }
}

#[test]
fn a_token_may_be_as_long_as_its_limit_and_no_longer() {
    let token = good();
    assert!(Compact::parse(&token, token.len(), &JWT).is_ok());
    let refused = Compact::parse(&token, token.len() - 1, &JWT).unwrap_err();
    assert_eq!(refused, JoseError::TooLong(token.len() - 1));
    let long = format!(r#","x":"{}""#, "a".repeat(4000));
    assert!(matches!(header(&long), Err(JoseError::TooLong(4096))));
}

#[test]
fn base64url_has_one_spelling() {
    let token = good();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    // 64 bytes leave four unused bits in the last letter: another letter, the same bytes.
    let (front, last) = signature.split_at(signature.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    let other = alphabet.chars().nth(place + 1).unwrap();
    let respelt = format!("{signed}.{front}{other}");
    assert_eq!(parse(&respelt).unwrap_err(), JoseError::NotCanonical);
    for (part, bad) in [
        ("header", "A.e30.AA"),
        ("payload", "e30.A.AA"),
        ("sig", "e30.e30.A"),
    ] {
        assert_eq!(parse(bad).unwrap_err(), JoseError::NotCanonical, "{part}");
    }
}

#[test]
fn no_member_may_occur_twice_at_any_depth() {
    let duplicate_header = Err(JoseError::Header(JsonError::Duplicate));
    for extra in [
        r#","alg":"ES256""#,
        r#","a":1,"a":1"#,
        r#","a":{"b":1,"b":1}"#,
    ] {
        assert_eq!(header(extra).map(|_| ()), duplicate_header, "{extra}");
    }
    // Escaped, a name is the same name.
    assert_eq!(
        header(r#","\u0061lg":"none""#).map(|_| ()),
        duplicate_header
    );
    for text in [
        r#"{"a":1,"a":2}"#,
        r#"{"a":{"b":1,"b":1}}"#,
        r#"{"a":[{"b":1,"b":1}]}"#,
        r#"{"a":1,"\u0061":1}"#,
    ] {
        let refused = payload(text).unwrap_err();
        assert_eq!(refused, JoseError::Payload(JsonError::Duplicate), "{text}");
        assert_eq!(refused.code(), "duplicate_member");
    }
    assert!(payload(r#"{"a":{"b":1},"b":{"a":1}}"#).is_ok());
}

#[test]
fn nesting_ends_somewhere() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        payload(&format!(r#"{{"a":{open}{close}}}"#)).map(|_| ())
    };
    assert_eq!(nested(15), Ok(()));
    assert_eq!(nested(16), Err(JoseError::Payload(JsonError::TooDeep)));
    assert_eq!(nested(2000), Err(JoseError::Payload(JsonError::TooDeep)));
}

#[test]
fn header_and_payload_are_objects_with_nothing_behind() {
    for text in [
        "[]",
        "1",
        "\"a\"",
        "null",
        "",
        "{}{}",
        "{} x",
        "{",
        "{\"a\":1,}",
        "\u{feff}{}",
    ] {
        let token = raw(&KEY, r#"{"alg":"ES256","typ":"JWT"}"#, text.as_bytes());
        // Without a payload there is no middle part at all.
        let expected = if text.is_empty() {
            JoseError::NotCompact
        } else {
            JoseError::Payload(JsonError::NotAnObject)
        };
        assert_eq!(parse(&token).unwrap_err(), expected, "{text:?}");
        let token = raw(&KEY, text, b"{}");
        let expected = if text.is_empty() {
            JoseError::NotCompact
        } else {
            JoseError::Header(JsonError::NotAnObject)
        };
        assert_eq!(parse(&token).unwrap_err(), expected, "{text:?}");
    }
    let token = raw(&KEY, r#"{"alg":"ES256","typ":"JWT"}"#, b"{\"a\":\"\xff\"}");
    assert_eq!(
        parse(&token).unwrap_err(),
        JoseError::Payload(JsonError::NotAnObject)
    );
    assert!(payload(r#"{"a":1e999}"#).is_err());
    assert!(payload(r#"{"a":NaN}"#).is_err());
}

#[test]
fn the_algorithm_must_be_one_of_ours() {
    for alg in [
        r#""none""#,
        r#""HS256""#,
        r#""ES512""#,
        r#""es256""#,
        "1",
        "null",
        r#"["ES256"]"#,
    ] {
        let token = raw(&KEY, &format!(r#"{{"alg":{alg},"typ":"JWT"}}"#), b"{}");
        assert_eq!(
            parse(&token).unwrap_err(),
            JoseError::AlgorithmUnknown,
            "{alg}"
        );
    }
    let token = raw(&KEY, r#"{"typ":"JWT"}"#, b"{}");
    assert_eq!(parse(&token).unwrap_err(), JoseError::AlgorithmUnknown);
}

#[test]
fn what_changes_the_meaning_of_a_token_is_refused() {
    for (name, value) in [
        ("crit", r#"["exp"]"#),
        ("crit", "[]"),
        ("b64", "false"),
        ("b64", "true"),
        ("jku", r#""https://evil.example""#),
        ("x5u", r#""https://evil.example""#),
        ("x5c", r#"["AA"]"#),
        ("zip", r#""DEF""#),
        ("jwk", "{}"),
    ] {
        let refused = header(&format!(r#","{name}":{value}"#)).unwrap_err();
        assert_eq!(refused, JoseError::HeaderMember(name));
    }
    // A thumbprint only names a key, and an unknown member means nothing (RFC 7515 4).
    assert!(header(r#","x5t":"AA","whatever":1"#).is_ok());
}

#[test]
fn typ_is_compared_as_a_media_type() {
    let with = |typ: &str, rule: &TypRule| {
        let token = raw(&KEY, &format!(r#"{{"alg":"ES256"{typ}}}"#), b"{}");
        Compact::parse(&token, LIMIT, rule).map(|_| ())
    };
    let exact = TypRule::Exactly("intent+jwt");
    for typ in [
        "intent+jwt",
        "INTENT+JWT",
        "application/intent+jwt",
        "Application/Intent+JWT",
    ] {
        assert_eq!(with(&format!(r#","typ":"{typ}""#), &exact), Ok(()), "{typ}");
    }
    for typ in [
        "",
        r#","typ":"JWT""#,
        r#","typ":"at+jwt""#,
        r#","typ":"application/application/intent+jwt""#,
        r#","typ":"text/intent+jwt""#,
        r#","typ":" intent+jwt""#,
        r#","typ":"intent+jwt;a=b""#,
        r#","typ":"""#,
        r#","typ":null"#,
        r#","typ":["intent+jwt"]"#,
    ] {
        assert_eq!(with(typ, &exact), Err(JoseError::Typ), "{typ}");
    }
    let open = TypRule::AbsentOr(&["JWT", "client-authentication+jwt"]);
    for typ in [
        "",
        r#","typ":"jwt""#,
        r#","typ":"client-authentication+jwt""#,
    ] {
        assert_eq!(with(typ, &open), Ok(()), "{typ}");
    }
    assert_eq!(with(r#","typ":"intent+jwt""#, &open), Err(JoseError::Typ));
    assert_eq!(with(r#","typ":null"#, &open), Err(JoseError::Typ));
}

#[test]
fn a_kid_is_short_plain_text() {
    assert_eq!(
        header(r#","kid":"a b/../é""#).unwrap().kid(),
        Some("a b/../é")
    );
    for kid in [
        "1",
        "null",
        r#""a\nb""#,
        r#""\u0000""#,
        &format!("\"{}\"", "k".repeat(513)),
    ] {
        assert_eq!(
            header(&format!(r#","kid":{kid}"#)).unwrap_err(),
            JoseError::Kid
        );
    }
}

#[test]
fn a_key_in_the_header_is_taken_only_where_the_rule_wants_one() {
    let rule = TypRule::ExactlyWithKey("dpop+jwt");
    let token = KEY.sign("dpop+jwt", None, &json!({}), true).unwrap();
    let proof = Compact::parse(&token, LIMIT, &rule).unwrap();
    let key = proof.embedded_key().unwrap().clone();
    assert_eq!(key.thumbprint(), KEY.thumbprint());
    assert!(proof.verify(&[&key], ALL).is_ok());

    let elsewhere = Compact::parse(&token, LIMIT, &TypRule::Exactly("dpop+jwt")).unwrap_err();
    assert_eq!(elsewhere, JoseError::HeaderMember("jwk"));
    let without = KEY.sign("dpop+jwt", None, &json!({}), false).unwrap();
    let refused = Compact::parse(&without, LIMIT, &rule).unwrap_err();
    assert_eq!(refused, JoseError::HeaderMember("jwk"));

    let with = |jwk: &str| {
        let header = format!(r#"{{"alg":"ES256","typ":"dpop+jwt","jwk":{jwk}}}"#);
        Compact::parse(&raw(&KEY, &header, b"{}"), LIMIT, &rule).unwrap_err()
    };
    let private = KEY.to_private_jwk();
    assert_eq!(
        with(private.expose()),
        JoseError::EmbeddedKey(KeyError::Private)
    );
    let symmetric = r#"{"kty":"oct","k":"AA"}"#;
    assert_eq!(with(symmetric), JoseError::EmbeddedKey(KeyError::Private));
    let other = SigningKey::generate(Algorithm::Ed25519)
        .unwrap()
        .public_jwk();
    let mismatch = JoseError::EmbeddedKey(KeyError::AlgorithmMismatch);
    assert_eq!(with(&other.to_string()), mismatch);
}

#[test]
fn the_caller_fixes_the_algorithms_and_the_key_its_own() {
    let parsed = parse(&good()).unwrap();
    let refused = parsed
        .clone()
        .verify(&[KEY.verifying()], &[Algorithm::Rs256]);
    assert_eq!(refused.unwrap_err(), JoseError::AlgorithmRefused);
    assert_eq!(
        parsed.clone().verify(&[KEY.verifying()], &[]).unwrap_err(),
        JoseError::AlgorithmRefused
    );
    assert_eq!(parsed.verify(&[], ALL).unwrap_err(), JoseError::NoKey);

    // One RSA key, two algorithms: it verifies the one it is for.
    let key = SigningKey::generate(Algorithm::Ps256).unwrap();
    let token = key.sign("JWT", None, &json!({}), false).unwrap();
    let mut jwk = key.public_jwk();
    jwk["alg"] = json!("RS256");
    let as_rs256 = VerifyingKey::from_jwk(&jwk).unwrap();
    let refused = parse(&token).unwrap().verify(&[&as_rs256], ALL);
    assert_eq!(refused.unwrap_err(), JoseError::NoKey);
}

#[test]
fn another_key_does_not_verify_and_at_most_four_are_tried() {
    let others: Vec<_> = (0..4)
        .map(|_| SigningKey::generate(Algorithm::Es256).unwrap())
        .collect();
    let mut keys: Vec<_> = others.iter().map(SigningKey::verifying).collect();
    let parsed = parse(&good()).unwrap();
    assert_eq!(
        parsed.clone().verify(&keys, ALL).unwrap_err(),
        JoseError::Signature
    );
    keys.push(KEY.verifying());
    assert_eq!(
        parsed.clone().verify(&keys, ALL).unwrap_err(),
        JoseError::Signature
    );
    keys.remove(0);
    assert_eq!(parsed.verify(&keys, ALL).unwrap().key(), KEY.verifying());
}

#[test]
fn codes_are_stable_words() {
    assert_eq!(JoseError::NotCompact.code(), "not_compact_jws");
    assert_eq!(JoseError::Signature.code(), "signature_invalid");
    assert_eq!(JoseError::Expired.code(), "token_expired");
}

#[test]
fn private_halves_show_nowhere() {
    for algorithm in [Algorithm::Ed25519, Algorithm::Es256, Algorithm::Rs256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let private: Value = serde_json::from_str(key.to_private_jwk().expose()).unwrap();
        let secret = private["d"].as_str().unwrap();
        let bytes: String = decode(secret)
            .unwrap()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let shown = format!("{key:?}");
        assert!(!shown.contains(secret) && !shown.contains(&bytes));
        assert!(key.public_jwk().get("d").is_none());
    }
}

proptest! {
    #[test]
    fn any_single_changed_character_is_refused(place in 0_usize..1000, with in "[ -~]") {
        static TOKEN: LazyLock<String> = LazyLock::new(good);
        let place = place % TOKEN.len();
        prop_assume!(TOKEN.as_bytes()[place] != with.as_bytes()[0]);
        let mut changed = TOKEN.clone();
        changed.replace_range(place..=place, &with);
        prop_assert!(verify(&changed).is_err());
    }

    #[test]
    fn whatever_comes_is_answered_without_a_panic(text in "\\PC{0,200}", shape in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}") {
        prop_assert!(verify(&text).is_err());
        prop_assert!(verify(&shape).is_err());
    }

    #[test]
    fn any_json_object_is_read_as_serde_json_reads_it(value in object()) {
        let text = value.to_string();
        let read = parse_object(text.as_bytes()).unwrap();
        prop_assert_eq!(Value::Object(read), value);
    }
}

/// Some JSON object, not too deep.
fn object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let any = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(".{0,4}", any, 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}
