//! Private keys: ours in the [`super::Keyring`], an agent's own, a GitHub App's.
//!
//! In: a fresh key, PEM, PKCS#8 or a private JWK. Out: compact JWS of one algorithm. OpenSSL (by
//! josekit) only reads and generates keys; ring signs.

use super::envelope::{self, Pair, RingKey};
use super::keys::Material;
use super::{Algorithm, VerifyingKey, decode, parse_object};
use crate::secret::Secret;
use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
use josekit::jwk::alg::ed::{EdCurve, EdKeyPair};
use josekit::jwk::alg::rsa::RsaKeyPair;
use josekit::jwk::{Jwk, KeyPair};
use josekit::jws::JwsHeader;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use zeroize::Zeroizing;

const RSA_BITS: u32 = 2048;

#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum SigningError {
    #[error(
        "not a private key in PEM (PKCS#8, `RSA PRIVATE KEY` or `EC PRIVATE KEY`) without a password"
    )]
    Pem,
    #[error("not a private key in PKCS#8")]
    Pkcs8,
    #[error("not a private JWK: the member `{0}` is missing or malformed")]
    Member(&'static str),
    #[error("the private key is not one of Ed25519, P-256, P-384 or RSA with 2048 to 4096 bits")]
    Unsupported,
    #[error("the private and the public half of the key do not belong together")]
    Inconsistent,
    #[error("a key cannot be generated on this machine")]
    Generate,
    #[error("claims must be a JSON object")]
    Claims,
    #[error("signing failed")]
    Sign,
}

/// A private key and the one algorithm it signs with. `Debug` shows the public half.
#[derive(Debug, Clone)]
pub struct SigningKey {
    pub(super) pair: Pair,
    public: VerifyingKey,
    jwk: Secret<String>,
}

impl SigningKey {
    /// RSA keys have 2048 bits and take up to a second: keep that off the request path.
    pub fn generate(algorithm: Algorithm) -> Result<Self, SigningError> {
        let generate = |_| SigningError::Generate;
        let jwk = match algorithm {
            Algorithm::Ed25519 => EdKeyPair::generate(EdCurve::Ed25519)
                .map_err(generate)?
                .to_jwk_key_pair(),
            Algorithm::Es256 => EcKeyPair::generate(EcCurve::P256)
                .map_err(generate)?
                .to_jwk_key_pair(),
            Algorithm::Es384 => EcKeyPair::generate(EcCurve::P384)
                .map_err(generate)?
                .to_jwk_key_pair(),
            Algorithm::Rs256 | Algorithm::Ps256 => RsaKeyPair::generate(RSA_BITS)
                .map_err(generate)?
                .to_jwk_key_pair(),
        };
        Self::from_library(jwk, Some(algorithm))
    }

    pub fn from_pem(pem: &str) -> Result<Self, SigningError> {
        let jwk = RsaKeyPair::from_pem(pem)
            .map(|pair| pair.to_jwk_key_pair())
            .or_else(|_| EcKeyPair::from_pem(pem, None).map(|pair| pair.to_jwk_key_pair()))
            .or_else(|_| EdKeyPair::from_pem(pem).map(|pair| pair.to_jwk_key_pair()));
        match jwk {
            Ok(jwk) => Self::from_library(jwk, None),
            Err(_) => Self::from_pkcs8(&pem_body(pem).ok_or(SigningError::Pem)?)
                .map_err(|_| SigningError::Pem),
        }
    }

    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SigningError> {
        let older = ed25519_without_public_half(der);
        let der = older.as_deref().map_or(der, |der| der.as_slice());
        let jwk = EcKeyPair::from_der(der, None)
            .map(|pair| pair.to_jwk_key_pair())
            .or_else(|_| EdKeyPair::from_der(der).map(|pair| pair.to_jwk_key_pair()))
            .or_else(|_| RsaKeyPair::from_der(der).map(|pair| pair.to_jwk_key_pair()))
            .map_err(|_| SigningError::Pkcs8)?;
        Self::from_library(jwk, None)
    }

    /// A JWK with both halves. Its `alg` decides between RS256 (the default) and PS256.
    pub fn from_jwk(jwk: &Value) -> Result<Self, SigningError> {
        let map = jwk.as_object().ok_or(SigningError::Member("kty"))?;
        let named = match map.get("alg") {
            None => None,
            Some(Value::String(name)) => {
                Some(Algorithm::parse(name).ok_or(SigningError::Unsupported)?)
            }
            Some(_) => return Err(SigningError::Member("alg")),
        };
        let public = VerifyingKey::from_jwk_as(&public_half(map), named)
            .map_err(|_| SigningError::Unsupported)?;
        Self::assemble(map, public)
    }

    /// A key as [`Self::to_private_jwk`] writes it.
    pub fn from_private_jwk(text: &Secret<String>) -> Result<Self, SigningError> {
        let map =
            parse_object(text.expose().as_bytes()).map_err(|_| SigningError::Member("kty"))?;
        Self::from_jwk(&Value::Object(map))
    }

    fn from_library(jwk: Jwk, algorithm: Option<Algorithm>) -> Result<Self, SigningError> {
        let mut map: Map<String, Value> = jwk.into();
        if let Some(algorithm) = algorithm {
            map.insert("alg".to_owned(), json!(algorithm.name()));
        }
        Self::from_jwk(&Value::Object(map))
    }

    /// ring compares the halves as it takes them.
    fn assemble(map: &Map<String, Value>, public: VerifyingKey) -> Result<Self, SigningError> {
        let secret = |name: &'static str| -> Result<Zeroizing<Vec<u8>>, SigningError> {
            map.get(name)
                .and_then(Value::as_str)
                .and_then(decode)
                .map(Zeroizing::new)
                .ok_or(SigningError::Member(name))
        };
        let inconsistent = |_| SigningError::Inconsistent;
        let key = match public.material() {
            Material::Point(point) => {
                let curve = if public.algorithm() == Algorithm::Es384 {
                    &signature::ECDSA_P384_SHA384_FIXED_SIGNING
                } else {
                    &signature::ECDSA_P256_SHA256_FIXED_SIGNING
                };
                let random = ring::rand::SystemRandom::new();
                EcdsaKeyPair::from_private_key_and_public_key(curve, &secret("d")?, point, &random)
                    .map(|pair| RingKey::Ec(Arc::new(pair)))
                    .map_err(inconsistent)?
            }
            Material::Ed25519(x) => Ed25519KeyPair::from_seed_and_public_key(&secret("d")?, x)
                .map(|pair| RingKey::Ed(Arc::new(pair)))
                .map_err(inconsistent)?,
            Material::Rsa { n, e } => signature::RsaKeyPair::from_components(&KeyPairComponents {
                public_key: PublicKeyComponents { n, e },
                d: &**secret("d")?,
                p: &**secret("p")?,
                q: &**secret("q")?,
                dP: &**secret("dp")?,
                dQ: &**secret("dq")?,
                qInv: &**secret("qi")?,
            })
            .map(|pair| RingKey::Rsa(Arc::new(pair)))
            .map_err(inconsistent)?,
        };
        let mut kept = public_half(map);
        if let Value::Object(all) = &mut kept {
            for name in SECRET_MEMBERS {
                if let Some(value) = map.get(name) {
                    all.insert(name.to_owned(), value.clone());
                }
            }
            all.insert("alg".to_owned(), json!(public.algorithm().name()));
        }
        Ok(Self {
            pair: Pair {
                algorithm: public.algorithm(),
                key,
            },
            public,
            jwk: Secret::new(kept.to_string()),
        })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.pair.algorithm
    }

    pub fn thumbprint(&self) -> &str {
        self.public.thumbprint()
    }

    pub fn verifying(&self) -> &VerifyingKey {
        &self.public
    }

    /// With `alg` and `use`; `kid` if the key came with one.
    pub fn public_jwk(&self) -> Value {
        self.public.to_jwk()
    }

    /// Both halves, as JSON. The caller keeps it from everyone else.
    pub fn to_private_jwk(&self) -> Secret<String> {
        self.jwk.clone()
    }

    /// The same key, called by its thumbprint.
    #[must_use]
    pub fn named_by_thumbprint(mut self) -> Self {
        self.public = self.public.named_by_thumbprint();
        self
    }

    /// A compact JWS. `embed_key` puts the public key into the header (`dpop+jwt`).
    pub fn sign(
        &self,
        typ: &str,
        kid: Option<&str>,
        claims: &impl Serialize,
        embed_key: bool,
    ) -> Result<String, SigningError> {
        let claims = serde_json::to_value(claims).map_err(|_| SigningError::Claims)?;
        if !claims.is_object() {
            return Err(SigningError::Claims);
        }
        let mut header = JwsHeader::new();
        header.set_token_type(typ);
        if let Some(kid) = kid {
            header.set_key_id(kid);
        }
        if embed_key {
            let jwk = super::keys::required_members(self.public.material());
            header
                .set_claim("jwk", Some(jwk))
                .map_err(|_| SigningError::Sign)?;
        }
        envelope::seal(claims.to_string().as_bytes(), &header, &self.pair).ok_or(SigningError::Sign)
    }
}

fn pem_body(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    use base64::Engine as _;
    let (_, body) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (body, _) = body.split_once("-----END PRIVATE KEY-----")?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    let der = base64::engine::general_purpose::STANDARD.decode(body.as_bytes());
    der.ok().map(Zeroizing::new)
}

/// ring, and what is built on it, writes Ed25519 keys in version 2 of PKCS#8 (RFC 5958), which josekit
/// does not read: the same key in version 1.
fn ed25519_without_public_half(der: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const ALGORITHM_AND_SEED: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let rest = der.get(2..)?.strip_prefix(&[2, 1, 1])?;
    let seed = rest.strip_prefix(ALGORITHM_AND_SEED)?.get(..32)?;
    let front: &[u8] = &[0x30, 0x2e, 2, 1, 0];
    Some(Zeroizing::new([front, ALGORITHM_AND_SEED, seed].concat()))
}

const SECRET_MEMBERS: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];

/// Only what identifies a public key; a private JWK's `use`, `key_ops` and the like speak of signing.
fn public_half(map: &Map<String, Value>) -> Value {
    ["kty", "crv", "x", "y", "n", "e", "kid"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), map.get(name)?.clone())))
        .collect::<Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests;
