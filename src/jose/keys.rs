//! Public keys: parsed strictly, named by their thumbprint, each good for exactly one algorithm.
//!
//! In: a JWK or a JWK set. Out: [`VerifyingKey`]s. What can never verify for us (encryption keys,
//! other curves) is skipped; what should not have been published (private members, symmetric keys)
//! or cannot be told apart (duplicate ids) spoils the set. RFC 7517, 7518 6, 7638, 8037.

use super::{Algorithm, MAX_TRIED_KEYS, decode, encode, parse_object};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// More keys than any issuer needs; a bound on what a lying one can make us hold.
pub const MAX_KEYS: usize = 32;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("not a JWK: a JSON object with text members is expected")]
    Malformed,
    #[error("the member `{0}` is missing or malformed")]
    Member(&'static str),
    #[error("it holds private or symmetric key material; publish public keys only")]
    Private,
    #[error("RSA keys must have 2048 to 4096 bits")]
    RsaSize,
    #[error("this key type, curve or algorithm is not supported")]
    Unsupported,
    #[error("it is not a key for signatures (`use` or `key_ops`)")]
    NotForSignatures,
    #[error("its `alg` is not the algorithm of this key")]
    AlgorithmMismatch,
}

impl KeyError {
    /// Good keys for other purposes, as opposed to broken ones.
    pub(super) fn is_only_not_for_us(self) -> bool {
        matches!(
            self,
            Self::Unsupported | Self::NotForSignatures | Self::AlgorithmMismatch | Self::RsaSize
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// An uncompressed point, 0x04 and both coordinates.
    Point(Vec<u8>),
    Ed25519(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// A public key and the one algorithm it verifies. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey(Arc<Parts>);

#[derive(Debug, PartialEq, Eq)]
struct Parts {
    kid: Option<String>,
    algorithm: Algorithm,
    thumbprint: String,
    material: Material,
}

impl VerifyingKey {
    /// An RSA key without `alg` is an RS256 key; every other type has one algorithm anyway.
    pub fn from_jwk(jwk: &Value) -> Result<Self, KeyError> {
        Self::from_jwk_as(jwk, None)
    }

    /// As [`Self::from_jwk`], where something outside the key fixes the algorithm.
    pub(super) fn from_jwk_as(jwk: &Value, algorithm: Option<Algorithm>) -> Result<Self, KeyError> {
        let map = jwk.as_object().ok_or(KeyError::Malformed)?;
        let kty = text(map, "kty")?.ok_or(KeyError::Member("kty"))?;
        // SECURITY: a private or symmetric key in a public place is burnt; never verify with it.
        if kty == "oct" || PRIVATE_MEMBERS.iter().any(|name| map.contains_key(*name)) {
            return Err(KeyError::Private);
        }
        check_use(map)?;
        let (material, fitting) = material(map, kty)?;
        let algorithm = choose(text(map, "alg")?, algorithm, fitting)?;
        let kid = text(map, "kid")?.filter(|kid| !kid.is_empty());
        Ok(Self::new(kid.map(str::to_owned), algorithm, material))
    }

    pub(super) fn new(kid: Option<String>, algorithm: Algorithm, material: Material) -> Self {
        Self(Arc::new(Parts {
            kid,
            algorithm,
            thumbprint: thumbprint(&material),
            material,
        }))
    }

    pub fn kid(&self) -> Option<&str> {
        self.0.kid.as_deref()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// RFC 7638 with SHA-256, base64url: the name of a key that nobody can choose.
    pub fn thumbprint(&self) -> &str {
        &self.0.thumbprint
    }

    /// The same key, called by its thumbprint, whatever its owner calls it.
    #[must_use]
    pub fn named_by_thumbprint(&self) -> Self {
        let kid = self.thumbprint().to_owned();
        Self::new(Some(kid), self.algorithm(), self.material().clone())
    }

    pub(super) fn material(&self) -> &Material {
        &self.0.material
    }

    /// The public JWK with `kid`, `alg` and `use`.
    pub fn to_jwk(&self) -> Value {
        let mut jwk = required_members(&self.0.material);
        if let Value::Object(map) = &mut jwk {
            map.insert("alg".to_owned(), json!(self.0.algorithm.name()));
            map.insert("use".to_owned(), json!("sig"));
            if let Some(kid) = &self.0.kid {
                map.insert("kid".to_owned(), json!(kid));
            }
        }
        jwk
    }
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum KeySetError {
    #[error("not a JWK set: a JSON object with a list `keys` is expected, no name twice")]
    Malformed,
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    #[error("key {place}: {error}")]
    Key { place: usize, error: KeyError },
    #[error("two different keys have the same `kid` and algorithm")]
    DuplicateKid,
    #[error("no key in it verifies signatures that are accepted here")]
    Empty,
}

/// A parsed, bounded JWK set of one issuer. Sets are never merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

impl KeySet {
    pub fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        let set = parse_object(bytes).map_err(|_| KeySetError::Malformed)?;
        let Some(Value::Array(list)) = set.get("keys") else {
            return Err(KeySetError::Malformed);
        };
        if list.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut keys = Vec::with_capacity(list.len());
        for (place, jwk) in list.iter().enumerate() {
            match VerifyingKey::from_jwk(jwk) {
                Ok(key) => keys.push(key),
                Err(error) if error.is_only_not_for_us() => {}
                Err(error) => return Err(KeySetError::Key { place, error }),
            }
        }
        Self::new(keys)
    }

    /// The same key twice counts once; two keys that a header could not tell apart are refused.
    pub fn new(list: Vec<VerifyingKey>) -> Result<Self, KeySetError> {
        let mut keys: Vec<VerifyingKey> = Vec::with_capacity(list.len());
        for key in list {
            if keys.contains(&key) {
                continue;
            }
            if keys.iter().any(|other| {
                other.kid().is_some()
                    && other.kid() == key.kid()
                    && other.algorithm() == key.algorithm()
            }) {
                return Err(KeySetError::DuplicateKid);
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeySetError::Empty),
            1..=MAX_KEYS => Ok(Self { keys }),
            _ => Err(KeySetError::TooMany),
        }
    }

    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether some key would be tried for this `kid`.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.is_called(kid))
    }

    /// At most four keys of this algorithm: those with this `kid` (or thumbprint), else those
    /// without any `kid`; without a `kid` in the token, any.
    pub fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<&VerifyingKey> {
        let fitting = || self.keys.iter().filter(|key| key.algorithm() == algorithm);
        let Some(kid) = kid else {
            return fitting().take(MAX_TRIED_KEYS).collect();
        };
        let called: Vec<_> = fitting()
            .filter(|key| key.is_called(kid))
            .take(MAX_TRIED_KEYS)
            .collect();
        if !called.is_empty() {
            return called;
        }
        fitting()
            .filter(|key| key.kid().is_none())
            .take(MAX_TRIED_KEYS)
            .collect()
    }

    pub fn by_thumbprint(&self, thumbprint: &str) -> Option<&VerifyingKey> {
        self.keys.iter().find(|key| key.thumbprint() == thumbprint)
    }

    /// The set as it is published.
    pub fn to_jwks(&self) -> Value {
        let keys: Vec<Value> = self.keys.iter().map(VerifyingKey::to_jwk).collect();
        json!({ "keys": keys })
    }
}

impl VerifyingKey {
    fn is_called(&self, kid: &str) -> bool {
        self.0.kid.as_deref() == Some(kid) || self.0.thumbprint == kid
    }
}

/// `Ok(None)`: absent. Anything but text is malformed.
fn text<'a>(map: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, KeyError> {
    match map.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeyError::Member(name)),
    }
}

fn bytes(map: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    text(map, name)?
        .and_then(decode)
        .filter(|bytes| !bytes.is_empty())
        .ok_or(KeyError::Member(name))
}

fn exactly(
    map: &Map<String, Value>,
    name: &'static str,
    length: usize,
) -> Result<Vec<u8>, KeyError> {
    let bytes = bytes(map, name)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(KeyError::Member(name))
    }
}

fn check_use(map: &Map<String, Value>) -> Result<(), KeyError> {
    if text(map, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(KeyError::NotForSignatures);
    }
    match map.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(list)) if list.iter().any(|op| op == "verify") => Ok(()),
        Some(Value::Array(_)) => Err(KeyError::NotForSignatures),
        Some(_) => Err(KeyError::Member("key_ops")),
    }
}

/// The key's numbers and the algorithms such a key can have, the default one first.
fn material(
    map: &Map<String, Value>,
    kty: &str,
) -> Result<(Material, &'static [Algorithm]), KeyError> {
    match kty {
        "EC" => {
            let (length, algorithms): (_, &'static [Algorithm]) = match text(map, "crv")? {
                Some("P-256") => (32, &[Algorithm::Es256]),
                Some("P-384") => (48, &[Algorithm::Es384]),
                Some(_) => return Err(KeyError::Unsupported),
                None => return Err(KeyError::Member("crv")),
            };
            // Whether the point is on the curve is checked with each signature, by ring.
            let mut point = vec![4];
            point.extend(exactly(map, "x", length)?);
            point.extend(exactly(map, "y", length)?);
            Ok((Material::Point(point), algorithms))
        }
        "OKP" => match text(map, "crv")? {
            Some("Ed25519") => {
                let x = exactly(map, "x", 32)?;
                Ok((Material::Ed25519(x), &[Algorithm::Ed25519]))
            }
            Some(_) => Err(KeyError::Unsupported),
            None => Err(KeyError::Member("crv")),
        },
        "RSA" => {
            let n = bytes(map, "n")?;
            let e = bytes(map, "e")?;
            // SECURITY: one spelling of a number, or one key would have two thumbprints.
            for (name, number) in [("n", &n), ("e", &e)] {
                if number.first() == Some(&0) {
                    return Err(KeyError::Member(name));
                }
            }
            if !RSA_BITS.contains(&bits(&n)) {
                return Err(KeyError::RsaSize);
            }
            // 65537 and up (as ring's own rule for keys of this size), odd, at most 33 bits.
            let exponent = e.iter().fold(0_u64, |all, byte| {
                all.saturating_mul(256).saturating_add(u64::from(*byte))
            });
            if exponent % 2 == 0 || !(65_537..1 << 33).contains(&exponent) {
                return Err(KeyError::Member("e"));
            }
            Ok((
                Material::Rsa { n, e },
                &[Algorithm::Rs256, Algorithm::Ps256],
            ))
        }
        _ => Err(KeyError::Unsupported),
    }
}

fn bits(number: &[u8]) -> usize {
    let leading = number
        .first()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    number.len() * 8 - leading
}

/// INVARIANT: a key verifies exactly one algorithm. What the key says and what its surroundings
/// say must agree.
fn choose(
    named: Option<&str>,
    wanted: Option<Algorithm>,
    fitting: &[Algorithm],
) -> Result<Algorithm, KeyError> {
    let named = match named {
        Some(name) => Some(Algorithm::parse(name).ok_or(KeyError::AlgorithmMismatch)?),
        None => None,
    };
    if named.is_some() && wanted.is_some() && named != wanted {
        return Err(KeyError::AlgorithmMismatch);
    }
    match named.or(wanted) {
        Some(algorithm) if fitting.contains(&algorithm) => Ok(algorithm),
        Some(_) => Err(KeyError::AlgorithmMismatch),
        None => fitting.first().copied().ok_or(KeyError::Unsupported),
    }
}

/// INVARIANT: written in the order of their names, which is what RFC 7638 hashes.
pub(super) fn required_members(material: &Material) -> Value {
    match material {
        Material::Point(point) => {
            let both = point.get(1..).unwrap_or_default();
            let (x, y) = both.split_at_checked(both.len() / 2).unwrap_or_default();
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            json!({ "crv": curve, "kty": "EC", "x": encode(x), "y": encode(y) })
        }
        Material::Ed25519(x) => json!({ "crv": "Ed25519", "kty": "OKP", "x": encode(x) }),
        Material::Rsa { n, e } => json!({ "e": encode(e), "kty": "RSA", "n": encode(n) }),
    }
}

fn thumbprint(material: &Material) -> String {
    let text = required_members(material).to_string();
    encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests;
