use super::super::tests::{BROKER, Bench, NOW, at, proof, subject};
use super::super::tokens::Signer;
use super::*;
use crate::jose::KeyError;
use crate::secret::Sealer;
use proptest::prelude::*;
use serde_json::json;

/// A proof that is good in every way; each test spoils one thing of it.
struct Desk {
    key: Signer,
    nonces: Nonces,
}

impl Desk {
    fn new() -> Self {
        let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
        Self {
            key: Signer::es256("k"),
            nonces: Nonces::new(sealer, BROKER.to_owned()),
        }
    }

    fn claims(&self) -> Value {
        json!({
            "jti": "proof-1", "htm": "POST", "htu": format!("{BROKER}/token"), "iat": NOW,
            "nonce": self.nonces.current(at(0)).unwrap(),
        })
    }

    fn verify(&self, text: &str) -> Result<ProvedKey, DpopFault> {
        self.verify_at(text, 0)
    }

    fn verify_at(&self, text: &str, seconds: i64) -> Result<ProvedKey, DpopFault> {
        verify(&proof(text), Some(&self.nonces), at(seconds))
    }

    /// `null` takes the claim out.
    fn spoiled(&self, name: &str, value: Value) -> Result<ProvedKey, DpopFault> {
        let mut claims = self.claims();
        claims[name] = value;
        if claims[name].is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
        self.verify(&self.key.dpop(&claims))
    }

    fn headed(&self, name: &str, value: Value) -> Result<ProvedKey, DpopFault> {
        let mut header = json!({"typ": "dpop+jwt", "kid": null, "jwk": self.key.bare_jwk()});
        header[name] = value;
        self.verify(&self.key.sign(&header, &self.claims()))
    }
}

fn jose(error: JoseError) -> DpopFault {
    DpopFault::Jose(error)
}

#[test]
fn a_good_proof_proves_its_key() {
    for key in [Signer::es256("k"), Signer::rs256("k")] {
        let desk = Desk { key, ..Desk::new() };
        let proved = desk.verify(&desk.key.dpop(&desk.claims())).unwrap();
        assert_eq!(
            proved.confirmation(),
            &Confirmation::Jkt(desk.key.thumbprint())
        );
        assert_eq!(proved.replay().kind, replay::DPOP_PROOF);
    }
}

#[test]
fn a_header_that_is_not_a_proofs_is_refused() {
    let desk = Desk::new();
    for typ in [
        json!(null),
        json!("JWT"),
        json!("intent+jwt"),
        json!("at+jwt"),
    ] {
        assert_eq!(desk.headed("typ", typ).unwrap_err(), jose(JoseError::Typ));
    }
    for alg in ["none", "HS256", "ES256K"] {
        let fault = desk.headed("alg", json!(alg)).unwrap_err();
        assert_eq!(fault, jose(JoseError::AlgorithmUnknown), "{alg}");
    }
    for name in ["jku", "x5u", "x5c", "crit", "b64", "zip"] {
        let fault = desk
            .headed(name, json!(["https://keys.example"]))
            .unwrap_err();
        assert_eq!(fault, jose(JoseError::HeaderMember(name)));
    }
    let fault = desk.headed("jwk", Value::Null).unwrap_err();
    assert_eq!(fault, jose(JoseError::HeaderMember("jwk")));
    // Another algorithm than the key's.
    let fault = desk.headed("alg", json!("RS256")).unwrap_err();
    let mismatch = KeyError::AlgorithmMismatch;
    assert_eq!(fault, jose(JoseError::EmbeddedKey(mismatch)));
}

#[test]
fn a_key_with_anything_private_in_it_is_refused() {
    let desk = Desk::new();
    for (name, value) in [
        ("d", json!("AAAA")),
        ("k", json!("AAAA")),
        ("kty", json!("oct")),
    ] {
        let mut jwk = desk.key.bare_jwk();
        jwk[name] = value;
        let fault = desk.headed("jwk", jwk).unwrap_err();
        assert_eq!(fault, jose(JoseError::EmbeddedKey(KeyError::Private)));
    }
}

#[test]
fn a_signature_of_another_key_or_over_other_bytes_does_not_hold() {
    let desk = Desk::new();
    let jwk = Signer::es256("other").bare_jwk();
    let fault = desk.headed("jwk", jwk).unwrap_err();
    assert_eq!(fault, jose(JoseError::Signature));

    let good = desk.key.dpop(&desk.claims());
    let mut claims = desk.claims();
    claims["jti"] = json!("proof-2");
    let other = desk.key.dpop(&claims);
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    let fault = desk.verify(&format!("{signed}.{signature}")).unwrap_err();
    assert_eq!(fault, jose(JoseError::Signature));
}

#[test]
fn what_is_not_one_compact_jws_is_refused() {
    let desk = Desk::new();
    let good = desk.key.dpop(&desk.claims());
    for text in [
        String::new(),
        "a.b.c".to_owned(),
        format!("{good}, {good}"),
        format!("{good}={}", ""),
        format!("{good}.x"),
    ] {
        assert!(desk.verify(&text).is_err(), "{text}");
    }
    let fault = desk.verify(&"a".repeat(MAX_BYTES + 1)).unwrap_err();
    assert_eq!(fault, jose(JoseError::TooLong(MAX_BYTES)));
    let twice = desk.claims().to_string().replacen('{', r#"{"jti":"x","#, 1);
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": desk.key.bare_jwk()});
    let fault = desk.verify(&desk.key.sign_raw(&header.to_string(), &twice));
    let duplicate = crate::jose::JsonError::Duplicate;
    assert_eq!(fault.unwrap_err(), jose(JoseError::Payload(duplicate)));
}

#[test]
fn a_proof_is_for_one_method_at_one_door() {
    let desk = Desk::new();
    for htm in ["GET", "post", "POST "] {
        let fault = desk.spoiled("htm", json!(htm)).unwrap_err();
        assert_eq!(fault, DpopFault::Method, "{htm}");
    }
    for htu in [
        "https://other.acme.example/token".to_owned(),
        "http://broker.acme.example/token".to_owned(),
        format!("{BROKER}:8443/token"),
        format!("{BROKER}/revoke"),
        format!("{BROKER}/token/"),
        "/token".to_owned(),
    ] {
        let fault = desk.spoiled("htu", json!(htu)).unwrap_err();
        assert_eq!(fault, DpopFault::Url, "{htu}");
    }
    for (name, at) in [("htm", "DPoP.htm"), ("htu", "DPoP.htu")] {
        let fault = desk.spoiled(name, Value::Null).unwrap_err();
        assert_eq!(fault, jose(JoseError::ClaimMissing(name)));
        assert_eq!(fault.at(), at);
        let fault = desk.spoiled(name, json!(7)).unwrap_err();
        assert_eq!(fault, jose(JoseError::ClaimMalformed(name)));
    }
    let htu = json!(format!("{BROKER}/token?query#fragment"));
    assert!(desk.spoiled("htu", htu).is_ok());
}

#[test]
fn a_proof_is_made_when_it_is_used() {
    let desk = Desk::new();
    let text = desk.key.dpop(&desk.claims());
    for (seconds, fault) in [
        (-61, Some(JoseError::NotYetValid)),
        (-60, None),
        (0, None),
        (119, None),
        (120, Some(JoseError::Expired)),
    ] {
        let outcome = desk.verify_at(&text, seconds).err();
        assert_eq!(outcome, fault.map(DpopFault::Jose), "{seconds}");
    }
    // Nobody has to say until when; whoever does is taken at their word.
    for (name, value, fault) in [
        ("exp", NOW - 59, None),
        ("exp", NOW - 60, Some(JoseError::Expired)),
        ("nbf", NOW + 60, None),
        ("nbf", NOW + 61, Some(JoseError::NotYetValid)),
    ] {
        let outcome = desk.spoiled(name, json!(value)).err();
        assert_eq!(outcome, fault.map(DpopFault::Jose), "{name}");
        let fault = desk.spoiled(name, json!("soon")).unwrap_err();
        assert_eq!(fault, jose(JoseError::ClaimMalformed(name)));
    }
    let fault = desk.spoiled("iat", Value::Null).unwrap_err();
    assert_eq!(fault, jose(JoseError::ClaimMissing("iat")));
    for iat in [json!(NOW.to_string()), json!(-1), json!(1e300)] {
        let fault = desk.spoiled("iat", iat).unwrap_err();
        assert_eq!(fault, jose(JoseError::ClaimMalformed("iat")));
    }
}

#[test]
fn a_proof_has_a_name_of_its_own() {
    let desk = Desk::new();
    for jti in [
        json!(null),
        json!(""),
        json!(7),
        json!("a".repeat(257)),
        json!("a\nb"),
    ] {
        let fault = desk.spoiled("jti", jti.clone()).unwrap_err();
        assert_eq!(fault, DpopFault::TokenId, "{jti}");
    }
    assert!(desk.spoiled("jti", json!("a".repeat(256))).is_ok());
    // The same proof has the same mark; another jti or another key has another one.
    let mark = |desk: &Desk, jti: &str| {
        let proved = desk.spoiled("jti", json!(jti)).unwrap();
        proved.replay().hash
    };
    assert_eq!(mark(&desk, "a"), mark(&desk, "a"));
    assert_ne!(mark(&desk, "a"), mark(&desk, "b"));
    assert_ne!(mark(&desk, "a"), mark(&Desk::new(), "a"));
}

#[test]
fn a_mark_outlives_every_use_of_its_proof() {
    let desk = Desk::new();
    let text = desk.key.dpop(&desk.claims());
    let mark = desk.verify(&text).unwrap().replay;
    let last = (0..).find(|s| desk.verify_at(&text, *s).is_err()).unwrap();
    assert!(mark.keep_until > at(last));
}

#[test]
fn a_nonce_is_there_ours_and_in_time() {
    let desk = Desk::new();
    let sealer = Sealer::new(&[Secret::new(vec![8; 32])]).unwrap();
    let foreign = Nonces::new(sealer, BROKER.to_owned());
    for nonce in [
        json!(null),
        json!(""),
        json!(7),
        json!("nonce"),
        json!(foreign.current(at(0)).unwrap()),
        json!(desk.nonces.current(at(-400)).unwrap()),
    ] {
        let fault = desk.spoiled("nonce", nonce.clone()).unwrap_err();
        assert_eq!(fault, DpopFault::Nonce, "{nonce}");
    }
    // Where none is demanded, none is looked at.
    let mut claims = desk.claims();
    claims["nonce"] = json!("somebody else's");
    let text = desk.key.dpop(&claims);
    assert!(verify(&proof(&text), None, at(0)).is_ok());
}

#[test]
fn beside_an_access_token_the_proof_names_it() {
    let desk = Desk::new();
    let hash = |token: &str| json!(URL_SAFE_NO_PAD.encode(sha256(token)));
    let with = |ath: Value| {
        let mut claims = desk.claims();
        claims["ath"] = ath;
        let mut proof = proof(&desk.key.dpop(&claims));
        proof.access_token = Some(Secret::new("the token".to_owned()));
        verify(&proof, Some(&desk.nonces), at(0))
    };
    assert!(with(hash("the token")).is_ok());
    for ath in [
        json!(null),
        json!(7),
        json!(""),
        hash("another"),
        hash("the token "),
    ] {
        assert_eq!(
            with(ath.clone()).unwrap_err(),
            DpopFault::TokenHash,
            "{ath}"
        );
    }
}

#[tokio::test]
async fn a_proof_is_verified_with_whatever_else_is_presented() {
    let bench = Bench::new();
    let desk = Desk::new();
    let token = bench
        .platform
        .sign(&json!({}), &super::super::tests::github());
    let mut presented = subject(&token);
    presented.dpop = Some(proof(&desk.key.dpop(&desk.claims())));
    let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
    let key = Confirmation::Jkt(desk.key.thumbprint());
    assert_eq!(caller.proved_key(), Some(&key));
    assert_eq!(caller.replay().len(), 1);
    // A remembered token remembers nobody's proof.
    let caller = bench.token(&token).await.unwrap();
    assert_eq!((caller.proved_key(), caller.replay().len()), (None, 0));
    // A bad one never falls back to the good token beside it.
    presented.dpop = Some(proof("a.b.c"));
    let result = bench.identity.verify(&presented, at(0)).await;
    assert!(matches!(result, Err(IdentityError::InvalidProof(_))));
    // By itself it is nobody.
    presented.subject_token = None;
    presented.dpop = Some(proof(&desk.key.dpop(&desk.claims())));
    let result = bench.identity.verify(&presented, at(0)).await;
    assert!(matches!(result, Err(IdentityError::Missing)));
}

proptest! {
    #[test]
    fn no_byte_of_a_proof_can_be_changed(place in 0_usize..10_000, flip in 1_u8..255) {
        let desk = Desk::new();
        let mut text = desk.key.dpop(&desk.claims()).into_bytes();
        let place = place % text.len();
        text[place] ^= flip;
        if let Ok(text) = String::from_utf8(text) {
            prop_assert!(desk.verify(&text).is_err());
        }
    }
}
