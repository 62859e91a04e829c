//! What a machine sends to be enrolled: a compact JWS of `typ: enrolment+jwt`, signed by the new
//! key, which stands in the header. It shows possession, and is bound to one join token.

use crate::identity::sole_audience;
use crate::ids::AgentId;
use crate::jose::claims::times;
use crate::jose::{Compact, JoseError, TypRule, VerifyingKey};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use time::OffsetDateTime;

pub const TYP: &str = "enrolment+jwt";
/// Longest accepted exp - iat.
pub const MAX_LIFETIME: Duration = Duration::from_secs(300);
const MAX_BYTES: usize = 8 * 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofFault {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("a claim that it does not have, or one of the wrong kind: {0}")]
    Shape(String),
    #[error("`iss` and `sub` must both be the agent's name")]
    IssuerSubject,
    #[error("`aud` must be this broker's issuer URL and nothing else")]
    Audience,
    #[error("`iat` is missing")]
    IssuedAt,
    #[error("`join_token_hash` is not the SHA-256 of this request's join token")]
    OtherToken,
}

/// A machine that holds its key. Whether it may be the agent it says is not decided yet.
#[derive(Debug)]
pub struct Applicant {
    pub(super) agent: AgentId,
    pub(super) key: VerifyingKey,
}

impl Applicant {
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    iss: AgentId,
    sub: AgentId,
    #[serde(rename = "aud")]
    _aud: Value,
    #[serde(rename = "iat")]
    _iat: Value,
    #[serde(rename = "exp")]
    _exp: Value,
    join_token_hash: String,
}

/// As `join_token_hash` has it.
pub fn token_hash(token: &Secret<String>) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, token.expose().as_bytes()).as_ref())
}

/// Touches neither the store nor any other key than the one in the header.
pub fn verify(
    text: &str,
    token: &Secret<String>,
    broker_url: &str,
    now: OffsetDateTime,
) -> Result<Applicant, ProofFault> {
    let compact = Compact::parse(text, MAX_BYTES, &TypRule::ExactlyWithKey(TYP))?;
    let key = compact.embedded_key().cloned();
    let key = key.ok_or(JoseError::HeaderMember("jwk"))?;
    let algorithm = [compact.alg()];
    let verified = compact.verify(&[&key], &algorithm)?;
    let claims = verified.claims();
    if sole_audience(claims) != Some(broker_url) {
        return Err(ProofFault::Audience);
    }
    if !claims.contains_key("iat") {
        return Err(ProofFault::IssuedAt);
    }
    times(claims, now, MAX_LIFETIME)?;
    let members = Members::deserialize(Value::Object(claims.clone()))
        .map_err(|error| ProofFault::Shape(error.to_string()))?;
    if members.iss != members.sub {
        return Err(ProofFault::IssuerSubject);
    }
    // SECURITY: or a proof that was seen once could be sent with a token that was stolen.
    if members.join_token_hash != token_hash(token) {
        return Err(ProofFault::OtherToken);
    }
    Ok(Applicant {
        agent: members.sub,
        key,
    })
}
