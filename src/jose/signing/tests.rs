use super::*;
use crate::jose::{Compact, TypRule};

fn holds(key: &SigningKey) -> bool {
    let token = key.sign("JWT", None, &json!({"a": 1}), false).unwrap();
    let parsed = Compact::parse(&token, 8192, &TypRule::Exactly("JWT")).unwrap();
    parsed.verify(&[key.verifying()], &Algorithm::ALL).is_ok()
}

#[test]
fn a_private_jwk_survives_the_trip() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let again = SigningKey::from_private_jwk(&key.to_private_jwk()).unwrap();
        assert_eq!(again.algorithm(), algorithm);
        assert_eq!(again.thumbprint(), key.thumbprint());
        assert_eq!(again.public_jwk(), key.public_jwk());
        assert!(holds(&again));
    }
}

#[test]
fn pem_of_every_kind_is_read() {
    let rsa = RsaKeyPair::generate(2048).unwrap();
    let ec = EcKeyPair::generate(EcCurve::P256).unwrap();
    let p384 = EcKeyPair::generate(EcCurve::P384).unwrap();
    let ed = EdKeyPair::generate(EdCurve::Ed25519).unwrap();
    for (pem, algorithm) in [
        (rsa.to_pem_private_key(), Algorithm::Rs256),
        (rsa.to_traditional_pem_private_key(), Algorithm::Rs256),
        (ec.to_pem_private_key(), Algorithm::Es256),
        (ec.to_traditional_pem_private_key(), Algorithm::Es256),
        (p384.to_pem_private_key(), Algorithm::Es384),
        (ed.to_pem_private_key(), Algorithm::Ed25519),
    ] {
        let key = SigningKey::from_pem(std::str::from_utf8(&pem).unwrap()).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(holds(&key));
    }
    for (pem, algorithm) in [
        (rsa.to_pem_private_key(), Algorithm::Rs256),
        (ec.to_pem_private_key(), Algorithm::Es256),
        (ed.to_pem_private_key(), Algorithm::Ed25519),
    ] {
        let der = pem_body(std::str::from_utf8(&pem).unwrap()).unwrap();
        let key = SigningKey::from_pkcs8(&der).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(holds(&key));
    }
}

#[test]
fn rings_own_pkcs8_is_read() {
    let random = ring::rand::SystemRandom::new();
    let curve = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let ec = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
    let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    for (der, algorithm) in [(ec, Algorithm::Es256), (ed, Algorithm::Ed25519)] {
        use base64::Engine as _;
        let key = SigningKey::from_pkcs8(der.as_ref()).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(holds(&key));
        let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        assert_eq!(
            SigningKey::from_pem(&pem).unwrap().thumbprint(),
            key.thumbprint()
        );
    }
}

#[test]
fn what_is_no_usable_key_is_named_so() {
    assert_eq!(SigningKey::from_pem("").unwrap_err(), SigningError::Pem);
    let public = RsaKeyPair::generate(2048).unwrap().to_pem_public_key();
    let public = std::str::from_utf8(&public).unwrap();
    assert_eq!(SigningKey::from_pem(public).unwrap_err(), SigningError::Pem);
    assert_eq!(
        SigningKey::from_pkcs8(b"nonsense").unwrap_err(),
        SigningError::Pkcs8
    );
    let p521 = EcKeyPair::generate(EcCurve::P521)
        .unwrap()
        .to_pem_private_key();
    let p521 = std::str::from_utf8(&p521).unwrap();
    assert_eq!(
        SigningKey::from_pem(p521).unwrap_err(),
        SigningError::Unsupported
    );
    let weak = RsaKeyPair::generate(1024).unwrap().to_pem_private_key();
    let weak = std::str::from_utf8(&weak).unwrap();
    assert_eq!(
        SigningKey::from_pem(weak).unwrap_err(),
        SigningError::Unsupported
    );
}

#[test]
fn the_halves_must_belong_together_and_be_there() {
    for algorithm in [Algorithm::Es256, Algorithm::Ed25519, Algorithm::Rs256] {
        let read = |key: &SigningKey| -> Value {
            serde_json::from_str(key.to_private_jwk().expose()).unwrap()
        };
        let one = read(&SigningKey::generate(algorithm).unwrap());
        let other = read(&SigningKey::generate(algorithm).unwrap());
        let names: &[&str] = if algorithm == Algorithm::Rs256 {
            &["p", "q", "qi"]
        } else {
            &["d"]
        };
        for name in names {
            let mut mixed = one.clone();
            mixed[*name] = other[*name].clone();
            assert_eq!(
                SigningKey::from_jwk(&mixed).unwrap_err(),
                SigningError::Inconsistent
            );
        }
        let mut public = one.clone();
        public.as_object_mut().unwrap().remove("d");
        assert_eq!(
            SigningKey::from_jwk(&public).unwrap_err(),
            SigningError::Member("d")
        );
    }
    let mut wrong = SigningKey::generate(Algorithm::Es256).unwrap().public_jwk();
    wrong["alg"] = json!("HS256");
    assert_eq!(
        SigningKey::from_jwk(&wrong).unwrap_err(),
        SigningError::Unsupported
    );
}

#[test]
fn claims_are_an_object() {
    let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
    for bad in [json!([]), json!("a"), json!(1), Value::Null] {
        assert_eq!(
            key.sign("JWT", None, &bad, false).unwrap_err(),
            SigningError::Claims
        );
    }
}

#[test]
fn a_key_can_be_called_by_its_thumbprint() {
    let key = SigningKey::generate(Algorithm::Ed25519)
        .unwrap()
        .named_by_thumbprint();
    assert_eq!(key.public_jwk()["kid"], key.thumbprint());
}
