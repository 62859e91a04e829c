//! The one way in for a token: a compact JWS, checked before any key is touched.
//!
//! In: text, a size limit and the caller's [`TypRule`]. Out: [`Compact`], whose claims are not yet
//! to be believed; then, with the caller's keys and algorithms, [`Verified`]. RFC 7515, 7519, 8725.

use super::{Algorithm, JsonError, KeyError, VerifyingKey, decode, envelope, parse_object};
use serde_json::{Map, Value};

/// At most this many keys are tried for one token: verifying costs us more than sending does.
pub const MAX_TRIED_KEYS: usize = 4;
const MAX_HEADER_BYTES: usize = 4096;
const MAX_KID_BYTES: usize = 512;

/// Header members that change what is signed or where keys come from.
/// SECURITY: a key that the token itself brings or points to proves nothing.
const REFUSED_MEMBERS: [&str; 6] = ["crit", "b64", "jku", "x5u", "x5c", "zip"];

/// Why a token is refused. Carries no part of the token.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum JoseError {
    #[error("the token is longer than {0} bytes")]
    TooLong(usize),
    #[error("not a compact JWS: three non-empty base64url parts joined by dots")]
    NotCompact,
    #[error("a part of the token is not canonical base64url without padding")]
    NotCanonical,
    #[error("the header is {0}")]
    Header(JsonError),
    #[error("the payload is {0}")]
    Payload(JsonError),
    #[error("the algorithm is missing or not one that is ever accepted")]
    AlgorithmUnknown,
    #[error("the algorithm is not accepted here")]
    AlgorithmRefused,
    #[error("the header member `{0}` is refused")]
    HeaderMember(&'static str),
    #[error("the `typ` is not the one expected here")]
    Typ,
    #[error("the `kid` must be text of at most {MAX_KID_BYTES} bytes without control characters")]
    Kid,
    #[error("the key in the header is refused: {0}")]
    EmbeddedKey(KeyError),
    #[error("no key fits the token's `kid` and algorithm")]
    NoKey,
    #[error("the signature does not hold")]
    Signature,
    #[error("the claim `{0}` is missing")]
    ClaimMissing(&'static str),
    #[error("the claim `{0}` has the wrong type or an impossible value")]
    ClaimMalformed(&'static str),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token lives longer than is accepted here")]
    LivesTooLong,
}

impl JoseError {
    /// Stable; for metrics and the audit.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "token_too_long",
            Self::NotCompact => "not_compact_jws",
            Self::NotCanonical => "not_canonical_base64url",
            Self::Header(JsonError::Duplicate) | Self::Payload(JsonError::Duplicate) => {
                "duplicate_member"
            }
            Self::Header(JsonError::TooDeep) | Self::Payload(JsonError::TooDeep) => "json_too_deep",
            Self::Header(JsonError::NotAnObject) => "header_malformed",
            Self::Payload(JsonError::NotAnObject) => "payload_malformed",
            Self::AlgorithmUnknown => "algorithm_unknown",
            Self::AlgorithmRefused => "algorithm_refused",
            Self::HeaderMember(_) => "header_member_refused",
            Self::Typ => "typ_refused",
            Self::Kid => "kid_malformed",
            Self::EmbeddedKey(_) => "embedded_key_refused",
            Self::NoKey => "no_key",
            Self::Signature => "signature_invalid",
            Self::ClaimMissing(_) => "claim_missing",
            Self::ClaimMalformed(_) => "claim_malformed",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::LivesTooLong => "token_lives_too_long",
        }
    }
}

/// What `typ` a validator accepts. Media types compare without case, `application/` is implied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypRule {
    Exactly(&'static str),
    /// No `typ`, or one of these. Only where a standard leaves `typ` open.
    AbsentOr(&'static [&'static str]),
    /// Exactly this, and the header holds the public key that signs (`dpop+jwt`).
    ExactlyWithKey(&'static str),
}

impl TypRule {
    fn accepts(self, typ: Option<&str>) -> bool {
        match (self, typ) {
            (Self::Exactly(expected) | Self::ExactlyWithKey(expected), Some(typ)) => {
                same_media_type(expected, typ)
            }
            (Self::Exactly(_) | Self::ExactlyWithKey(_), None) => false,
            (Self::AbsentOr(_), None) => true,
            (Self::AbsentOr(expected), Some(typ)) => {
                expected.iter().any(|e| same_media_type(e, typ))
            }
        }
    }
}

fn same_media_type(expected: &str, actual: &str) -> bool {
    const IMPLIED: &str = "application/";
    let short = match actual.split_at_checked(IMPLIED.len()) {
        Some((front, rest)) if front.eq_ignore_ascii_case(IMPLIED) => rest,
        _ => actual,
    };
    short.eq_ignore_ascii_case(expected)
}

/// A well-formed token whose signature has not been checked.
#[derive(Debug, Clone)]
pub struct Compact {
    text: String,
    signed_length: usize,
    algorithm: Algorithm,
    algorithm_name: &'static str,
    kid: Option<String>,
    typ: Option<String>,
    embedded_key: Option<VerifyingKey>,
    claims: Map<String, Value>,
}

impl Compact {
    /// Refuses whatever is not exactly one compact JWS of the expected `typ` with a JSON object
    /// in it. Touches no key.
    pub fn parse(text: &str, max_bytes: usize, typ: &TypRule) -> Result<Self, JoseError> {
        if text.len() > max_bytes {
            return Err(JoseError::TooLong(max_bytes));
        }
        let (header, payload, signature) = parts(text)?;
        if header.len() > MAX_HEADER_BYTES {
            return Err(JoseError::TooLong(MAX_HEADER_BYTES));
        }
        let header_bytes = decode(header).ok_or(JoseError::NotCanonical)?;
        let payload_bytes = decode(payload).ok_or(JoseError::NotCanonical)?;
        decode(signature).ok_or(JoseError::NotCanonical)?;
        let signed_length = header.len() + 1 + payload.len();

        let header = parse_object(&header_bytes).map_err(JoseError::Header)?;
        let (algorithm, algorithm_name) = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::ALL
                .into_iter()
                .find_map(|algorithm| Some((algorithm, algorithm.spelling(name)?))),
            _ => None,
        }
        .ok_or(JoseError::AlgorithmUnknown)?;
        for member in REFUSED_MEMBERS {
            if header.contains_key(member) {
                return Err(JoseError::HeaderMember(member));
            }
        }
        let found = optional_text(&header, "typ").ok_or(JoseError::Typ)?;
        if !typ.accepts(found) {
            return Err(JoseError::Typ);
        }
        let kid = optional_text(&header, "kid").ok_or(JoseError::Kid)?;
        if kid.is_some_and(|kid| kid.len() > MAX_KID_BYTES || kid.chars().any(char::is_control)) {
            return Err(JoseError::Kid);
        }
        Ok(Self {
            algorithm,
            algorithm_name,
            kid: kid.map(str::to_owned),
            typ: found.map(str::to_owned),
            embedded_key: embedded_key(&header, *typ, algorithm)?,
            claims: parse_object(&payload_bytes).map_err(JoseError::Payload)?,
            text: text.to_owned(),
            signed_length,
        })
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub fn alg(&self) -> Algorithm {
        self.algorithm
    }

    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// The public key in the header; present exactly under [`TypRule::ExactlyWithKey`].
    pub fn embedded_key(&self) -> Option<&VerifyingKey> {
        self.embedded_key.as_ref()
    }

    /// For finding the issuer, and for nothing else.
    pub fn unverified_claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The bytes under the signature. An ECDSA signature has a second valid spelling, so what must
    /// be unique is named by these bytes and not by the whole token.
    pub fn signing_input(&self) -> &[u8] {
        self.text
            .as_bytes()
            .get(..self.signed_length)
            .unwrap_or_default()
    }

    /// Tries at most [`MAX_TRIED_KEYS`] of `keys`, those of the token's algorithm, which must be
    /// one of `allowed`.
    pub fn verify(
        self,
        keys: &[&VerifyingKey],
        allowed: &[Algorithm],
    ) -> Result<Verified, JoseError> {
        if !allowed.contains(&self.algorithm) {
            return Err(JoseError::AlgorithmRefused);
        }
        let mut fitting = keys
            .iter()
            .filter(|key| key.algorithm() == self.algorithm)
            .take(MAX_TRIED_KEYS)
            .peekable();
        if fitting.peek().is_none() {
            return Err(JoseError::NoKey);
        }
        let key = fitting
            .find(|key| envelope::holds(&self.text, self.algorithm_name, key))
            .ok_or(JoseError::Signature)?;
        Ok(Verified {
            key: (*key).clone(),
            token: self,
        })
    }
}

/// What a token says of its issuer, whatever it calls itself. Only to choose who has to verify it.
pub fn unverified_issuer(text: &str, max_bytes: usize) -> Option<String> {
    if text.len() > max_bytes {
        return None;
    }
    let (_, payload, _) = parts(text).ok()?;
    let claims = parse_object(&decode(payload)?).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// A token whose signature holds under one of the caller's keys. Times, audience and issuer are
/// still to be checked: see [`super::claims`].
#[derive(Debug, Clone)]
pub struct Verified {
    token: Compact,
    key: VerifyingKey,
}

impl Verified {
    pub fn claims(&self) -> &Map<String, Value> {
        &self.token.claims
    }

    pub fn into_claims(self) -> Map<String, Value> {
        self.token.claims
    }

    /// The key that verified it.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    pub fn kid(&self) -> Option<&str> {
        self.token.kid()
    }

    pub fn typ(&self) -> Option<&str> {
        self.token.typ()
    }

    pub fn signing_input(&self) -> &[u8] {
        self.token.signing_input()
    }
}

fn parts(text: &str) -> Result<(&str, &str, &str), JoseError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !text.bytes().all(allowed) {
        return Err(JoseError::NotCompact);
    }
    let mut pieces = text.split('.');
    match (pieces.next(), pieces.next(), pieces.next(), pieces.next()) {
        (Some(header), Some(payload), Some(signature), None)
            if !header.is_empty() && !payload.is_empty() && !signature.is_empty() =>
        {
            Ok((header, payload, signature))
        }
        _ => Err(JoseError::NotCompact),
    }
}

/// `None`: present and not text.
fn optional_text<'a>(map: &'a Map<String, Value>, name: &str) -> Option<Option<&'a str>> {
    match map.get(name) {
        None => Some(None),
        Some(Value::String(text)) => Some(Some(text)),
        Some(_) => None,
    }
}

fn embedded_key(
    header: &Map<String, Value>,
    rule: TypRule,
    algorithm: Algorithm,
) -> Result<Option<VerifyingKey>, JoseError> {
    match (rule, header.get("jwk")) {
        (TypRule::ExactlyWithKey(_), Some(jwk)) => {
            let key =
                VerifyingKey::from_jwk_as(jwk, Some(algorithm)).map_err(JoseError::EmbeddedKey)?;
            Ok(Some(key))
        }
        (TypRule::ExactlyWithKey(_), None) | (_, Some(_)) => Err(JoseError::HeaderMember("jwk")),
        (_, None) => Ok(None),
    }
}
