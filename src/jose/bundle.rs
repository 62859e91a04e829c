//! A SPIFFE trust bundle: the keys and the roots of one trust domain, in one JWK set.
//!
//! In: the document. Out: a [`TrustBundle`] whose JWT keys and X.509 roots are never mixed: an entry
//! counts for the one `use` that it states and for nothing else. SPIFFE Trust Domain and Bundle
//! sections 4.1 and 4.2, JWT-SVID section 6, X.509-SVID section 6.

use super::keys::{KeyError, MAX_KEYS, VerifyingKey};
use super::{KeySet, KeySetError, parse_object};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::time::Duration;

/// Longer than any root with a 4096-bit key.
const MAX_CERTIFICATE: usize = 16 * 1024;

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum TrustBundleError {
    #[error("not a trust bundle: a JSON object with a list `keys` is expected, no name twice")]
    Malformed,
    #[error("`{0}` must be a whole number")]
    Number(&'static str),
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    #[error("key {place}: {error}")]
    Key { place: usize, error: KeyError },
    #[error("key {0}: a JWT-SVID key must have a `kid`")]
    NoKid(usize),
    #[error("key {0}: `x5c` must hold exactly one certificate, in base64")]
    Certificate(usize),
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

/// An empty one is a trust domain that has withdrawn every key: nobody of it gets in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    jwt: KeySet,
    x509: Vec<Vec<u8>>,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
}

impl TrustBundle {
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustBundleError> {
        let document = parse_object(bytes).map_err(|_| TrustBundleError::Malformed)?;
        let Some(Value::Array(entries)) = document.get("keys") else {
            return Err(TrustBundleError::Malformed);
        };
        if entries.len() > MAX_KEYS {
            return Err(TrustBundleError::TooMany);
        }
        let (mut jwt, mut x509) = (Vec::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            let entry = entry.as_object().ok_or(TrustBundleError::Malformed)?;
            // SECURITY: an entry counts for the `use` it states. A CA's key never verifies a token,
            // and what states nothing that we know is ignored.
            match entry.get("use").and_then(Value::as_str) {
                Some("jwt-svid") => jwt.extend(jwt_key(entry, place)?),
                Some("x509-svid") => x509.push(root(entry, place)?),
                _ => {}
            }
        }
        let jwt = if jwt.is_empty() {
            KeySet::default()
        } else {
            KeySet::new(jwt)?
        };
        Ok(Self {
            jwt,
            x509,
            sequence: number(&document, "spiffe_sequence")?,
            refresh_hint: number(&document, "spiffe_refresh_hint")?.map(Duration::from_secs),
        })
    }

    /// The keys that sign JWT-SVIDs.
    pub fn jwt(&self) -> &KeySet {
        &self.jwt
    }

    /// The CA certificates that X.509-SVIDs chain up to, in DER.
    pub fn x509(&self) -> &[Vec<u8>] {
        &self.x509
    }

    /// Grows with each change.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }
}

/// `None` for a key that can never verify for us, such as one on another curve.
fn jwt_key(
    entry: &Map<String, Value>,
    place: usize,
) -> Result<Option<VerifyingKey>, TrustBundleError> {
    let mut jwk = entry.clone();
    jwk.remove("use");
    match VerifyingKey::from_jwk(&Value::Object(jwk)) {
        Ok(key) if key.kid().is_none() => Err(TrustBundleError::NoKid(place)),
        Ok(key) => Ok(Some(key)),
        Err(error) if error.is_only_not_for_us() => Ok(None),
        Err(error) => Err(TrustBundleError::Key { place, error }),
    }
}

fn root(entry: &Map<String, Value>, place: usize) -> Result<Vec<u8>, TrustBundleError> {
    let malformed = TrustBundleError::Certificate(place);
    let Some([Value::String(text)]) = entry
        .get("x5c")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    else {
        return Err(malformed);
    };
    // RFC 7517 section 4.7: base64 with padding, not base64url.
    match STANDARD.decode(text) {
        Ok(der) if !der.is_empty() && der.len() <= MAX_CERTIFICATE => Ok(der),
        _ => Err(malformed),
    }
}

fn number(
    document: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<u64>, TrustBundleError> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or(TrustBundleError::Number(name)),
    }
}

#[cfg(test)]
mod tests;
