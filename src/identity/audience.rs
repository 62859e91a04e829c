//! For whom a workload token was issued, and the key it may be bound to.

use super::{Confirmation, TokenFault};
use serde_json::{Map, Value};

const KEY_SUFFIX: &str = "#jkt=";

/// The bound key, if one of the token's audiences is one of `accepted`. Other audiences beside it
/// are the platform's business.
pub(super) fn bound_key(
    claims: &Map<String, Value>,
    accepted: &[String],
) -> Result<Option<Confirmation>, TokenFault> {
    let mut matched = false;
    let mut keys: Vec<Confirmation> = Vec::new();
    for audience in audiences(claims).ok_or(TokenFault::Audience)? {
        let (name, key) = split(audience);
        if accepted.iter().any(|one| one == name) {
            matched = true;
            keys.extend(key.map(|key| Confirmation::Jkt(key.to_owned())));
        }
    }
    if !matched {
        return Err(TokenFault::Audience);
    }
    if let Some(confirmation) = claims.get("cnf") {
        keys.push(Confirmation::read(confirmation).ok_or(TokenFault::BoundKey)?);
    }
    keys.dedup();
    match keys.as_slice() {
        [] => Ok(None),
        [key] if key.is_well_formed() => Ok(Some(key.clone())),
        _ => Err(TokenFault::BoundKey),
    }
}

/// What RFC 7523 section 3 lets a JWT name in the issuer's place.
pub(super) fn token_endpoint(broker_url: &str) -> String {
    format!("{}/token", broker_url.trim_end_matches('/'))
}

/// The audiences of a token that are ours, as they stand in it.
pub(super) fn accepted<'a>(claims: &'a Map<String, Value>, accepted: &[String]) -> Vec<&'a str> {
    let ours = |audience: &&str| accepted.iter().any(|one| one == split(audience).0);
    audiences(claims)
        .unwrap_or_default()
        .into_iter()
        .filter(ours)
        .collect()
}

fn split(audience: &str) -> (&str, Option<&str>) {
    match audience.rsplit_once(KEY_SUFFIX) {
        Some((name, key)) => (name, Some(key)),
        None => (audience, None),
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
