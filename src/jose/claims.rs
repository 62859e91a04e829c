//! Reading claims: each function refuses what is missing or of the wrong type.
//!
//! In: verified claims. Out: text, audiences, times. RFC 7519 4.1.

use super::{JoseError, LEEWAY};
use serde_json::{Map, Value};
use std::time::Duration;
use time::OffsetDateTime;

/// When a token was made and until when it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// `iat`, else `nbf`, else the moment of checking.
    pub issued_at: OffsetDateTime,
    /// `exp` as written, without leeway.
    pub expires_at: OffsetDateTime,
}

/// `exp` is required; `nbf` and `iat` are checked where present; a token that would live longer
/// than `max_lifetime` is refused whatever its signer says.
pub fn times(
    claims: &Map<String, Value>,
    now: OffsetDateTime,
    max_lifetime: Duration,
) -> Result<Times, JoseError> {
    let expires_at = instant(claims, "exp")?.ok_or(JoseError::ClaimMissing("exp"))?;
    let not_before = instant(claims, "nbf")?;
    let issued_at = instant(claims, "iat")?;
    if now >= expires_at + LEEWAY {
        return Err(JoseError::Expired);
    }
    if [not_before, issued_at]
        .into_iter()
        .flatten()
        .any(|start| start > now + LEEWAY)
    {
        return Err(JoseError::NotYetValid);
    }
    let start = issued_at.or(not_before).unwrap_or(now);
    if issued_at
        .or(not_before)
        .is_some_and(|start| expires_at <= start)
    {
        return Err(JoseError::ClaimMalformed("exp"));
    }
    if expires_at - start > max_lifetime {
        return Err(JoseError::LivesTooLong);
    }
    Ok(Times {
        issued_at: start,
        expires_at,
    })
}

/// A NumericDate, which is a finite number and never text; `None` when absent. Fractions are cut.
pub fn instant(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<OffsetDateTime>, JoseError> {
    // The year 5138: far enough for any honest token, and sums with a leeway cannot overflow.
    const LAST: i64 = 100_000_000_000;
    let malformed = JoseError::ClaimMalformed(name);
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let Value::Number(number) = value else {
        return Err(malformed);
    };
    let seconds = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(real)) if (0.0..=LAST as f64).contains(&real) => real.floor() as i64,
        _ => return Err(malformed),
    };
    if !(0..=LAST).contains(&seconds) {
        return Err(malformed);
    }
    OffsetDateTime::from_unix_timestamp(seconds)
        .map(Some)
        .map_err(|_| malformed)
}

/// Required, non-empty text.
pub fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, JoseError> {
    optional_text(claims, name)?.ok_or(JoseError::ClaimMissing(name))
}

/// Text when present; empty text counts as malformed.
pub fn optional_text<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, JoseError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(JoseError::ClaimMalformed(name)),
    }
}

/// `aud`, which is required: one text or a list of texts.
pub fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, JoseError> {
    const NAME: &str = "aud";
    match claims.get(NAME) {
        None => Err(JoseError::ClaimMissing(NAME)),
        Some(Value::String(one)) if !one.is_empty() => Ok(vec![one]),
        Some(Value::Array(list)) if !list.is_empty() => list
            .iter()
            .map(|item| match item {
                Value::String(one) if !one.is_empty() => Ok(one.as_str()),
                _ => Err(JoseError::ClaimMalformed(NAME)),
            })
            .collect(),
        Some(_) => Err(JoseError::ClaimMalformed(NAME)),
    }
}

/// The only audience; a token for two is a token that the other may replay here.
pub fn sole_audience(claims: &Map<String, Value>) -> Result<&str, JoseError> {
    match audiences(claims)?.as_slice() {
        [one] => Ok(one),
        _ => Err(JoseError::ClaimMalformed("aud")),
    }
}

#[cfg(test)]
mod tests;
