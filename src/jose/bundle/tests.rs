use super::*;
use crate::jose::{Algorithm, SigningKey};
use serde_json::json;

fn jwt(kid: &str) -> Value {
    let mut jwk = SigningKey::generate(Algorithm::Es256).unwrap().public_jwk();
    jwk["use"] = json!("jwt-svid");
    jwk["kid"] = json!(kid);
    jwk
}

fn x509(der: &[u8]) -> Value {
    let mut jwk = jwt("ca");
    jwk["use"] = json!("x509-svid");
    jwk["x5c"] = json!([STANDARD.encode(der)]);
    jwk.as_object_mut().unwrap().remove("kid");
    jwk
}

fn parse(document: &Value) -> Result<TrustBundle, TrustBundleError> {
    TrustBundle::parse(document.to_string().as_bytes())
}

/// As SPIRE writes it: no `alg`, one entry of each kind.
#[test]
fn a_bundle_keeps_keys_and_roots_apart() {
    let mut signing = jwt("jwt-1");
    signing.as_object_mut().unwrap().remove("alg");
    let bundle = parse(&json!({
        "keys": [x509(b"root"), signing],
        "spiffe_sequence": 7,
        "spiffe_refresh_hint": 300,
    }))
    .unwrap();
    assert_eq!(bundle.jwt().keys().len(), 1);
    assert!(bundle.jwt().knows("jwt-1"));
    assert_eq!(bundle.x509(), [b"root".to_vec()]);
    assert_eq!(bundle.sequence(), Some(7));
    assert_eq!(bundle.refresh_hint(), Some(Duration::from_secs(300)));
}

#[test]
fn an_entry_of_no_use_or_another_counts_for_nothing() {
    for purpose in [
        json!(null),
        json!("sig"),
        json!("wit-svid"),
        json!(7),
        json!("JWT-SVID"),
    ] {
        let (mut key, mut root) = (jwt("jwt-1"), x509(b"root"));
        key["use"] = purpose.clone();
        root["use"] = purpose.clone();
        let bundle = parse(&json!({ "keys": [key, root] })).unwrap();
        assert_eq!(bundle, TrustBundle::default(), "{purpose}");
    }
}

#[test]
fn an_empty_bundle_withdraws_everything_and_is_no_mistake() {
    assert_eq!(parse(&json!({ "keys": [] })), Ok(TrustBundle::default()));
    for unclear in [
        json!({}),
        json!({ "keys": null }),
        json!([]),
        json!({ "keys": [7] }),
    ] {
        assert_eq!(
            parse(&unclear),
            Err(TrustBundleError::Malformed),
            "{unclear}"
        );
    }
    let twice = br#"{"keys":[],"keys":[]}"#;
    assert_eq!(TrustBundle::parse(twice), Err(TrustBundleError::Malformed));
}

#[test]
fn one_wrong_entry_spoils_the_bundle() {
    let spoil = |change: fn(&mut Value, &mut Value)| {
        let (mut key, mut root) = (jwt("jwt-1"), x509(b"root"));
        assert!(parse(&json!({ "keys": [key, root] })).is_ok());
        change(&mut key, &mut root);
        parse(&json!({ "keys": [key, root] })).unwrap_err()
    };
    let no_kid = spoil(|key, _| drop(key.as_object_mut().unwrap().remove("kid")));
    assert_eq!(no_kid, TrustBundleError::NoKid(0));
    let private = spoil(|key, _| key["d"] = json!("AA"));
    let error = KeyError::Private;
    assert_eq!(private, TrustBundleError::Key { place: 0, error });
    for x5c in [
        json!(null),
        json!([]),
        json!("cm9vdA=="),
        json!(["cm9vdA==", "cm9vdA=="]),
        json!(["cm9vdA"]),
        json!(["-_-_"]),
        json!([""]),
        json!([7]),
        json!([STANDARD.encode(vec![0; MAX_CERTIFICATE + 1])]),
    ] {
        let mut root = x509(b"root");
        root["x5c"] = x5c.clone();
        let refused = parse(&json!({ "keys": [root] }));
        assert_eq!(refused, Err(TrustBundleError::Certificate(0)), "{x5c}");
    }
    let same = json!({ "keys": [jwt("jwt-1"), jwt("jwt-1")] });
    let refused = Err(TrustBundleError::KeySet(KeySetError::DuplicateKid));
    assert_eq!(parse(&same), refused);
    let many: Vec<_> = (0..=MAX_KEYS).map(|_| x509(b"root")).collect();
    assert_eq!(
        parse(&json!({ "keys": many })),
        Err(TrustBundleError::TooMany)
    );
}

#[test]
fn a_number_is_a_whole_one() {
    for name in ["spiffe_sequence", "spiffe_refresh_hint"] {
        for wrong in [json!(-1), json!(1.5), json!("7"), json!([])] {
            let refused = parse(&json!({ "keys": [], name: wrong }));
            assert_eq!(refused, Err(TrustBundleError::Number(name)), "{wrong}");
        }
    }
}
