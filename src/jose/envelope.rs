//! ring under josekit's public traits: josekit reads and writes the envelope, ring does the
//! cryptography (faster, and no OpenSSL on the hot path).

use super::keys::Material;
use super::{Algorithm, VerifyingKey};
use josekit::JoseError as EnvelopeError;
use josekit::jws::{JwsAlgorithm, JwsHeader, JwsSigner, JwsVerifier};
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};
use std::sync::Arc;

/// Whether this compact JWS is signed by this key, its `alg` being spelled `name`. Everything
/// else about the token has been checked.
pub(super) fn holds(text: &str, name: &'static str, key: &VerifyingKey) -> bool {
    let verifier = RingVerifier {
        name: Name(name),
        key: key.clone(),
    };
    josekit::jws::deserialize_compact(text, &verifier).is_ok()
}

/// The mathematics alone.
pub(super) fn verifies(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    let verified = match (key.algorithm(), key.material()) {
        (Algorithm::Ed25519, Material::Ed25519(x)) => {
            UnparsedPublicKey::new(&signature::ED25519, x).verify(message, signature)
        }
        (Algorithm::Es256, Material::Point(point)) => {
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
        }
        (Algorithm::Es384, Material::Point(point)) => {
            UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                .verify(message, signature)
        }
        (Algorithm::Rs256, Material::Rsa { n, e }) => RsaPublicKeyComponents { n, e }.verify(
            &signature::RSA_PKCS1_2048_8192_SHA256,
            message,
            signature,
        ),
        (Algorithm::Ps256, Material::Rsa { n, e }) => RsaPublicKeyComponents { n, e }.verify(
            &signature::RSA_PSS_2048_8192_SHA256,
            message,
            signature,
        ),
        _ => Err(ring::error::Unspecified),
    };
    verified.is_ok()
}

/// `None` cannot happen with a key that ring has accepted, short of a lack of randomness.
pub(super) fn seal(payload: &[u8], header: &JwsHeader, pair: &Pair) -> Option<String> {
    let signer = RingSigner {
        name: Name(pair.algorithm.name()),
        pair: pair.clone(),
    };
    josekit::jws::serialize_compact(payload, header, &signer).ok()
}

#[derive(Debug, Clone, Copy)]
struct Name(&'static str);

impl JwsAlgorithm for Name {
    fn name(&self) -> &str {
        self.0
    }
    fn box_clone(&self) -> Box<dyn JwsAlgorithm> {
        Box::new(*self)
    }
}

#[derive(Debug, Clone)]
struct RingVerifier {
    name: Name,
    key: VerifyingKey,
}

impl JwsVerifier for RingVerifier {
    fn algorithm(&self) -> &dyn JwsAlgorithm {
        &self.name
    }

    /// The key was chosen by the caller; the envelope need not compare names again.
    fn key_id(&self) -> Option<&str> {
        None
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), EnvelopeError> {
        if verifies(&self.key, message, signature) {
            Ok(())
        } else {
            Err(EnvelopeError::InvalidSignature(std::fmt::Error.into()))
        }
    }

    fn box_clone(&self) -> Box<dyn JwsVerifier> {
        Box::new(self.clone())
    }
}

/// A private key as ring holds it, and the one algorithm it signs with.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) algorithm: Algorithm,
    pub(super) key: RingKey,
}

/// ring's own `Debug` of these shows public parts only.
#[derive(Debug, Clone)]
pub(super) enum RingKey {
    Ec(Arc<EcdsaKeyPair>),
    Ed(Arc<Ed25519KeyPair>),
    Rsa(Arc<RsaKeyPair>),
}

impl Pair {
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let signed = match &self.key {
            RingKey::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            RingKey::Ec(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec()),
            RingKey::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding =
                    if self.algorithm == Algorithm::Ps256 {
                        &signature::RSA_PSS_SHA256
                    } else {
                        &signature::RSA_PKCS1_SHA256
                    };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signature)
                    .map(|()| signature)
            }
        };
        signed.ok()
    }
}

#[derive(Debug, Clone)]
struct RingSigner {
    name: Name,
    pair: Pair,
}

impl JwsSigner for RingSigner {
    fn algorithm(&self) -> &dyn JwsAlgorithm {
        &self.name
    }

    fn key_id(&self) -> Option<&str> {
        None
    }

    fn signature_len(&self) -> usize {
        match &self.pair.key {
            RingKey::Ec(_) if self.pair.algorithm == Algorithm::Es384 => 96,
            RingKey::Ec(_) | RingKey::Ed(_) => 64,
            RingKey::Rsa(pair) => pair.public().modulus_len(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        self.pair
            .sign(message)
            .ok_or_else(|| EnvelopeError::InvalidSignature(std::fmt::Error.into()))
    }

    fn box_clone(&self) -> Box<dyn JwsSigner> {
        Box::new(self.clone())
    }
}
