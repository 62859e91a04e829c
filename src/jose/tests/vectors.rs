//! Project Wycheproof's vectors (`tests/data/wycheproof`) through our keys and our verifier.

use crate::jose::envelope::verifies;
use crate::jose::{Algorithm, Compact, JoseError, KeySet, TypRule, VerifyingKey, decode, encode};
use serde_json::{Map, Value, json};

macro_rules! vectors {
    ($name:literal) => {
        include_str!(concat!(
            "../../../tests/data/wycheproof/",
            $name,
            "_test.json"
        ))
    };
}

const SIGNATURES: &str = vectors!("json_web_signature");
const KEYS: &str = vectors!("json_web_key");
const CRYPTO: &str = vectors!("json_web_crypto");
const ED25519: &str = vectors!("ed25519");
const P256: &str = vectors!("ecdsa_secp256r1_sha256_p1363");
const P384: &str = vectors!("ecdsa_secp384r1_sha384_p1363");
const PKCS1: &str = vectors!("rsa_signature_2048_sha256");
const PSS: &str = vectors!("rsa_pss_2048_sha256_mgf1_32");

fn groups(text: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(text).unwrap();
    all["testGroups"].as_array().unwrap().clone()
}

fn tests(group: &Value) -> &Vec<Value> {
    group["tests"].as_array().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| u8::try_from(char::from(*byte).to_digit(16).unwrap()).unwrap();
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(&pair[0]) << 4 | digit(&pair[1]))
        .collect()
}

/// The public half: what an issuer would publish.
fn public(jwk: &Value) -> Value {
    let map = jwk.as_object().unwrap();
    map.iter()
        .filter(|(name, _)| !["d", "p", "q", "dp", "dq", "qi"].contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// As text, which the JSON serialisation of RFC 7515 is not yet.
fn written(token: &Value) -> String {
    token
        .as_str()
        .map_or_else(|| token.to_string(), str::to_owned)
}

/// A vector's payload is no JSON, so only what lies below the claims is asked: the parts, the
/// algorithm, the key, the signature.
fn holds(jws: &str, key: &VerifyingKey) -> bool {
    let parts: Vec<_> = jws.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return false;
    };
    let (Some(header), Some(_), Some(signature)) =
        (decode(header), decode(payload), decode(signature))
    else {
        return false;
    };
    let Ok(header) = crate::jose::parse_object(&header) else {
        return false;
    };
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(Algorithm::parse);
    let signed = jws.rsplit_once('.').unwrap().0.as_bytes();
    algorithm == Some(key.algorithm()) && verifies(key, signed, &signature)
}

#[test]
fn every_invalid_jws_is_refused_and_every_valid_one_of_our_algorithms_holds() {
    let (mut held, mut refused) = (0, 0);
    for group in groups(SIGNATURES) {
        let jwk = group.get("public").unwrap_or(&group["private"]);
        let key = VerifyingKey::from_jwk(&public(jwk));
        for test in tests(&group) {
            let (jws, id) = (test["jws"].as_str().unwrap_or_default(), &test["tcId"]);
            // Nothing in these files is a JSON object, so nothing at all may pass the door.
            assert!(Compact::parse(jws, 1 << 16, &TypRule::AbsentOr(&["JWT"])).is_err());
            let Ok(key) = &key else { continue };
            let holds = holds(jws, key);
            // Figure 20 is a PS384 token beside a key that says PS256.
            if test["result"] == "valid" && test["comment"] != "Figure20" {
                assert!(holds, "{id} {}", test["comment"]);
                held += 1;
            } else {
                assert!(!holds, "{id} {}", test["comment"]);
                refused += 1;
            }
        }
    }
    assert!(held >= 15 && refused >= 250, "{held} {refused}");
}

#[test]
fn keys_that_must_not_be_used_are_not() {
    for group in [groups(KEYS), groups(CRYPTO)].concat() {
        let given = group.get("public").unwrap_or(&group["private"]);
        let list = match given.get("keys") {
            Some(keys) => keys.as_array().unwrap().iter().map(public).collect(),
            None => vec![public(given)],
        };
        let set = KeySet::parse(json!({ "keys": list }).to_string().as_bytes());
        for test in tests(&group) {
            if let Some(jwe) = test.get("jwe") {
                // Nothing encrypted is taken, whoever could read it.
                let parsed = Compact::parse(&written(jwe), 1 << 16, &TypRule::AbsentOr(&[]));
                assert_eq!(
                    parsed.unwrap_err(),
                    JoseError::NotCompact,
                    "{}",
                    test["tcId"]
                );
                continue;
            }
            let jws = &written(&test["jws"]);
            let passes = set
                .as_ref()
                .is_ok_and(|set| set.keys().iter().any(|k| holds(jws, k)));
            // Not found here: a modulus of the kind that Infineon's library made (ROCA).
            if test["comment"] == "rejectsKeyWithRocaVulnerability" {
                continue;
            }
            let symmetric = list.iter().any(|key| key["kty"] == "oct");
            let expected = test["result"] == "valid" && !symmetric;
            assert_eq!(passes, expected, "{} {}", test["tcId"], test["comment"]);
        }
    }
}

/// What is "valid" to Wycheproof and refused here, and what is left to the implementer.
/// `SmallPublicKey`: an exponent of 3 (ours begin at 65537). `MissingNull`: a second spelling of
/// one PKCS#1 signature.
const REFUSED_ALL_THE_SAME: [&str; 2] = ["SmallPublicKey", "MissingNull"];

/// How many signatures held and how many did not, each as it should.
fn outcome(text: &str, jwk: impl Fn(&Value) -> Value) -> (usize, usize) {
    let (mut held, mut refused) = (0, 0);
    for group in groups(text) {
        let key = VerifyingKey::from_jwk(&jwk(&group));
        for test in tests(&group) {
            let bytes = |name: &str| hex(test[name].as_str().unwrap());
            let flags = test["flags"].as_array().unwrap();
            let not_here = flags
                .iter()
                .any(|flag| REFUSED_ALL_THE_SAME.contains(&flag.as_str().unwrap()));
            let expected = test["result"] == "valid" && !not_here;
            let holds = key
                .as_ref()
                .is_ok_and(|key| verifies(key, &bytes("msg"), &bytes("sig")));
            assert_eq!(holds, expected, "{} {}", test["tcId"], test["comment"]);
            *(if holds { &mut held } else { &mut refused }) += 1;
        }
    }
    (held, refused)
}

/// From the point itself: nine keys of each curve come without a JWK.
fn point(curve: &str, group: &Value) -> Value {
    let point = hex(group["publicKey"]["uncompressed"].as_str().unwrap());
    let (x, y) = point[1..].split_at(point.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
}

#[test]
fn signatures_hold_as_the_vectors_say() {
    let ed25519 = outcome(ED25519, |group| public(&group["publicKeyJwk"]));
    let p256 = outcome(P256, |group| point("P-256", group));
    let p384 = outcome(P384, |group| point("P-384", group));
    let pkcs1 = outcome(PKCS1, |group| group["keyJwk"].clone());
    let pss = outcome(PSS, |group| group["publicKeyJwk"].clone());
    // A file cut short, or read wrongly, must not pass for one whose vectors all came out right.
    let found = [ed25519, p256, p384, pkcs1, pss];
    assert_eq!(found, [(88, 63), (173, 89), (193, 87), (7, 252), (63, 45)]);
}
