use super::*;
use crate::jose::{Compact, JoseError, SigningKey, TypRule};

fn ec() -> Value {
    SigningKey::generate(Algorithm::Es256).unwrap().public_jwk()
}

fn rsa() -> Value {
    // RFC 7638 3.1, whose thumbprint is given there.
    json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29"
    })
}

fn with(mut jwk: Value, name: &str, value: impl Into<Value>) -> Value {
    jwk[name] = value.into();
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

fn refused(jwk: &Value) -> KeyError {
    VerifyingKey::from_jwk(jwk).unwrap_err()
}

fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn thumbprints_are_those_of_rfc_7638_and_rfc_8037() {
    let key = VerifyingKey::from_jwk(&rsa()).unwrap();
    assert_eq!(
        key.thumbprint(),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
    let ed = json!({
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    });
    let key = VerifyingKey::from_jwk(&ed).unwrap();
    assert_eq!(
        key.thumbprint(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
}

#[test]
fn a_thumbprint_depends_on_the_key_alone() {
    let key = VerifyingKey::from_jwk(&ec()).unwrap();
    let renamed = VerifyingKey::from_jwk(&with(key.to_jwk(), "kid", "other")).unwrap();
    assert_eq!(key.thumbprint(), renamed.thumbprint());
    assert_ne!(
        key.thumbprint(),
        VerifyingKey::from_jwk(&ec()).unwrap().thumbprint()
    );
    assert_eq!(VerifyingKey::from_jwk(&renamed.to_jwk()).unwrap(), renamed);
}

#[test]
fn private_and_symmetric_keys_are_refused() {
    for name in PRIVATE_MEMBERS {
        assert_eq!(
            refused(&with(ec(), name, "AA")),
            KeyError::Private,
            "{name}"
        );
        // Whatever its type.
        assert_eq!(
            refused(&with(ec(), name, Value::Null)),
            KeyError::Private,
            "{name}"
        );
    }
    assert_eq!(refused(&json!({"kty": "oct"})), KeyError::Private);
}

#[test]
fn every_required_member_is_needed_and_canonical() {
    for name in ["crv", "x", "y"] {
        assert_eq!(refused(&without(ec(), name)), KeyError::Member(name));
        assert_eq!(refused(&with(ec(), name, 1)), KeyError::Member(name));
    }
    for name in ["n", "e"] {
        assert_eq!(refused(&without(rsa(), name)), KeyError::Member(name));
        assert_eq!(refused(&with(rsa(), name, "")), KeyError::Member(name));
        let padded = format!("{}=", rsa()[name].as_str().unwrap());
        assert_eq!(refused(&with(rsa(), name, padded)), KeyError::Member(name));
        // A leading zero octet would be a second spelling.
        let mut bytes = vec![0];
        bytes.extend(decode(rsa()[name].as_str().unwrap()).unwrap());
        assert_eq!(
            refused(&with(rsa(), name, encode(&bytes))),
            KeyError::Member(name)
        );
    }
    assert_eq!(refused(&without(ec(), "kty")), KeyError::Member("kty"));
    for length in [31, 33] {
        let bad = encode(&vec![7; length]);
        assert_eq!(
            refused(&with(ec(), "x", bad.as_str())),
            KeyError::Member("x")
        );
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": bad});
        assert_eq!(refused(&ed), KeyError::Member("x"));
    }
    assert_eq!(refused(&json!([])), KeyError::Malformed);
    assert_eq!(refused(&with(ec(), "kid", 1)), KeyError::Member("kid"));
}

#[test]
fn rsa_keys_have_2048_to_4096_bits_and_an_ordinary_exponent() {
    let sized = |bits: usize| {
        let mut n = vec![0xff; bits.div_ceil(8)];
        n[0] >>= n.len() * 8 - bits;
        VerifyingKey::from_jwk(&with(rsa(), "n", encode(&n))).map(|_| ())
    };
    for bits in [512, 1024, 2047, 4097, 8192] {
        assert_eq!(sized(bits), Err(KeyError::RsaSize), "{bits}");
    }
    for bits in [2048, 3072, 4096] {
        assert_eq!(sized(bits), Ok(()), "{bits}");
    }
    for e in [&[1][..], &[3], &[1, 0, 0], &[0xff; 5], &[0xff; 40]] {
        assert_eq!(refused(&with(rsa(), "e", encode(e))), KeyError::Member("e"));
    }
}

#[test]
fn an_algorithm_must_be_the_keys_own() {
    for (jwk, alg) in [
        (ec(), "ES384"),
        (ec(), "RS256"),
        (rsa(), "ES256"),
        (rsa(), "RS512"),
        (rsa(), "HS256"),
        (rsa(), "none"),
    ] {
        assert_eq!(
            refused(&with(jwk, "alg", alg)),
            KeyError::AlgorithmMismatch,
            "{alg}"
        );
    }
    let default = VerifyingKey::from_jwk(&without(rsa(), "alg")).unwrap();
    assert_eq!(default.algorithm(), Algorithm::Rs256);
    let pss = VerifyingKey::from_jwk(&with(rsa(), "alg", "PS256")).unwrap();
    assert_eq!(pss.algorithm(), Algorithm::Ps256);
}

#[test]
fn keys_for_other_purposes_are_skipped() {
    let not_for_us = [
        with(ec(), "use", "enc"),
        with(ec(), "key_ops", json!(["encrypt"])),
        with(ec(), "crv", "P-521"),
        with(ec(), "crv", "secp256k1"),
        json!({"kty": "OKP", "crv": "X25519", "x": encode(&[1; 32])}),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
        with(rsa(), "alg", "RSA-OAEP"),
        with(rsa(), "n", encode(&[0xff; 128])),
    ];
    for jwk in &not_for_us {
        assert_eq!(set(std::slice::from_ref(jwk)), Err(KeySetError::Empty));
        assert_eq!(set(&[jwk.clone(), ec()]).unwrap().keys().len(), 1);
    }
    let verify = with(ec(), "key_ops", json!(["verify"]));
    assert_eq!(
        set(&[verify, with(ec(), "use", "sig")])
            .unwrap()
            .keys()
            .len(),
        2
    );
}

#[test]
fn one_bad_key_spoils_the_set() {
    for (jwk, error) in [
        (with(ec(), "d", "AA"), KeyError::Private),
        (json!({"kty": "oct", "k": "AA"}), KeyError::Private),
        (without(ec(), "y"), KeyError::Member("y")),
        (json!("key"), KeyError::Malformed),
    ] {
        assert_eq!(set(&[ec(), jwk]), Err(KeySetError::Key { place: 1, error }));
    }
}

#[test]
fn a_set_is_an_object_with_a_list_of_at_most_32_keys() {
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[],"keys":[]}"#,
        "nonsense",
    ] {
        assert_eq!(
            KeySet::parse(bad.as_bytes()),
            Err(KeySetError::Malformed),
            "{bad}"
        );
    }
    assert_eq!(set(&[]), Err(KeySetError::Empty));
    let many: Vec<_> = (0..33).map(|_| ec()).collect();
    assert_eq!(set(&many), Err(KeySetError::TooMany));
    assert_eq!(set(&many[1..]).unwrap().keys().len(), 32);
    // Also where most of them would be skipped.
    let skipped = vec![with(ec(), "use", "enc"); 33];
    assert_eq!(set(&skipped), Err(KeySetError::TooMany));
}

#[test]
fn two_keys_with_one_name_are_refused_and_one_key_twice_is_not() {
    let one = with(ec(), "kid", "a");
    assert_eq!(
        set(&[one.clone(), with(ec(), "kid", "a")]),
        Err(KeySetError::DuplicateKid)
    );
    assert_eq!(set(&[one.clone(), one.clone()]).unwrap().keys().len(), 1);
    assert_eq!(
        set(&[one.clone(), with(ec(), "kid", "b")])
            .unwrap()
            .keys()
            .len(),
        2
    );
    assert_eq!(
        set(&[one, with(rsa(), "kid", "a")]).unwrap().keys().len(),
        2
    );
}

#[test]
fn candidates_are_few_of_the_algorithm_and_of_the_name() {
    let named: Vec<_> = ["a", "b"].map(|kid| with(ec(), "kid", kid)).into();
    let all = set(&[named, vec![rsa()]].concat()).unwrap();
    let kids = |kid, algorithm| -> Vec<_> {
        all.candidates(kid, algorithm)
            .iter()
            .map(|key| key.kid().unwrap())
            .collect()
    };
    assert_eq!(kids(Some("a"), Algorithm::Es256), ["a"]);
    assert_eq!(kids(None, Algorithm::Es256), ["a", "b"]);
    assert!(kids(Some("a"), Algorithm::Rs256).is_empty());
    assert!(kids(Some("A"), Algorithm::Es256).is_empty());
    assert!(kids(Some("../a"), Algorithm::Es256).is_empty());
    let thumbprint = all.keys()[1].thumbprint().to_owned();
    assert_eq!(kids(Some(&thumbprint), Algorithm::Es256), ["b"]);
    assert!(all.knows("a") && all.knows(&thumbprint) && !all.knows("c"));

    let unnamed: Vec<_> = (0..6).map(|_| ec()).collect();
    let all = set(&unnamed).unwrap();
    assert_eq!(all.candidates(None, Algorithm::Es256).len(), MAX_TRIED_KEYS);
    assert_eq!(
        all.candidates(Some("x"), Algorithm::Es256).len(),
        MAX_TRIED_KEYS
    );
}

#[test]
fn a_point_off_the_curve_verifies_nothing() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let token = key.sign("JWT", None, &json!({}), false).unwrap();
    let mut y = decode(key.public_jwk()["y"].as_str().unwrap()).unwrap();
    y[31] ^= 1;
    let off = VerifyingKey::from_jwk(&with(key.public_jwk(), "y", encode(&y))).unwrap();
    let parsed = Compact::parse(&token, 8192, &TypRule::Exactly("JWT")).unwrap();
    let refused = parsed.verify(&[&off], &Algorithm::ALL).unwrap_err();
    assert_eq!(refused, JoseError::Signature);
}
