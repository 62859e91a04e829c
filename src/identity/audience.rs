//! For whom a workload token was issued, and the key it may be bound to.

use serde_json::{Map, Value};

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
