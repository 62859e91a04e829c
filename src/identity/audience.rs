//! For whom a workload token was issued, and the key it may be bound to.

use super::TokenFault;
use serde_json::{Map, Value};

const KEY_SUFFIX: &str = "#jkt=";

/// The bound key, if one of the token's audiences is one of `accepted`. Other audiences beside it
/// are the platform's business.
pub(super) fn bound_key(
    claims: &Map<String, Value>,
    accepted: &[String],
) -> Result<Option<String>, TokenFault> {
    let mut matched = false;
    let mut keys: Vec<&str> = Vec::new();
    for audience in audiences(claims).ok_or(TokenFault::Audience)? {
        let (name, key) = match audience.rsplit_once(KEY_SUFFIX) {
            Some((name, key)) => (name, Some(key)),
            None => (audience, None),
        };
        if accepted.iter().any(|one| one == name) {
            matched = true;
            keys.extend(key);
        }
    }
    if !matched {
        return Err(TokenFault::Audience);
    }
    if let Some(confirmation) = claims.get("cnf") {
        let key = confirmation.get("jkt").and_then(Value::as_str);
        // SECURITY: a confirmation that is not understood (`x5t#S256`, `jwk`) is not ignored, or a
        // bound token would pass as a bearer one.
        keys.push(key.ok_or(TokenFault::BoundKey)?);
    }
    keys.dedup();
    match keys.as_slice() {
        [] => Ok(None),
        [key] if is_thumbprint(key) => Ok(Some((*key).to_owned())),
        _ => Err(TokenFault::BoundKey),
    }
}

/// The only member of `aud`, be it a string or a list of one (RFC 7523bis).
pub fn sole(claims: &Map<String, Value>) -> Option<&str> {
    match audiences(claims)?.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

fn audiences(claims: &Map<String, Value>) -> Option<Vec<&str>> {
    match claims.get("aud")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(many) => many.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// SHA-256 in base64url without padding.
pub fn is_thumbprint(text: &str) -> bool {
    text.len() == 43
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
