//! Signatures under anything: what no honest signer would put its name to.

use super::broker::b64;
use dayfly::jose::{Algorithm, SigningKey};
use josekit::jwk::alg::ec::EcKeyPair;
use josekit::jwk::alg::rsa::RsaKeyPair;
use josekit::jwk::{Jwk, KeyPair};
use josekit::jws::{ES256, JwsSigner, RS256};
use serde_json::Value;

/// Signs exactly these bytes with a good key.
pub fn sign_raw(key: &SigningKey, header: &str, claims: &[u8]) -> String {
    let input = format!("{}.{}", b64(header.as_bytes()), b64(claims));
    let signature = signature(key, input.as_bytes());
    format!("{input}.{}", b64(&signature))
}

/// As [`sign_raw`], the header and the claims as JSON.
pub fn sign(key: &SigningKey, header: &Value, claims: &Value) -> String {
    sign_raw(key, &header.to_string(), claims.to_string().as_bytes())
}

pub fn signature(key: &SigningKey, input: &[u8]) -> Vec<u8> {
    let jwk = Jwk::from_bytes(key.to_private_jwk().expose().as_bytes()).unwrap();
    let signer: Box<dyn JwsSigner> = match key.algorithm() {
        Algorithm::Es256 => Box::new(ES256.signer_from_jwk(&jwk).unwrap()),
        Algorithm::Rs256 => Box::new(RS256.signer_from_jwk(&jwk).unwrap()),
        other => panic!("no forger for {}", other.name()),
    };
    signer.sign(input).unwrap()
}

/// The public key in every form in which a careless verifier may hold it.
pub fn public_key_as_bytes(key: &SigningKey) -> Vec<(&'static str, Vec<u8>)> {
    let jwk = Jwk::from_bytes(key.to_private_jwk().expose().as_bytes()).unwrap();
    let pair: Box<dyn KeyPair> = match key.algorithm() {
        Algorithm::Rs256 => Box::new(RsaKeyPair::from_jwk(&jwk).unwrap()),
        _ => Box::new(EcKeyPair::from_jwk(&jwk).unwrap()),
    };
    let pem = pair.to_pem_public_key();
    let trimmed = pem.trim_ascii_end().to_vec();
    let public = key.public_jwk();
    let set = serde_json::json!({ "keys": [public] });
    vec![
        ("PEM", pem),
        ("PEM without its last line end", trimmed),
        ("DER", pair.to_der_public_key()),
        ("JWK", public.to_string().into_bytes()),
        ("JWK set", set.to_string().into_bytes()),
        ("thumbprint", key.thumbprint().as_bytes().to_vec()),
        (
            "kid",
            key.verifying()
                .kid()
                .unwrap_or_default()
                .as_bytes()
                .to_vec(),
        ),
        ("empty text", Vec::new()),
    ]
}

/// HMAC with the public key as the secret: what a verifier that lets the token choose would take.
pub fn sign_with_public_key(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let input = format!(
        "{}.{}",
        b64(header.to_string().as_bytes()),
        b64(claims.to_string().as_bytes())
    );
    let secret = key.public_jwk().to_string();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&secret, input.as_bytes());
    format!("{input}.{}", b64(tag.as_ref()))
}

/// The same JWS with one bit of its signature changed.
pub fn flipped(jws: &str) -> String {
    let (signed, signature) = jws.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    format!("{signed}.{other}{}", &signature[1..])
}

/// One member of the claims changed; `null` takes it out.
pub fn spoiled(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}
