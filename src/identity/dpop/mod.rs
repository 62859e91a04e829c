//! A DPoP proof: whoever sends this one request holds this key (RFC 9449 section 4).
//!
//! In: the header as it came, and which door it came to. Out: the key, and the mark that spends the
//! proof. The key in the header proves nothing but itself: whose it is, `intent` and `possession` ask.

mod nonce;
mod url;

pub use nonce::Nonces;

use super::workload::{bounded, sha256};
use super::{Confirmation, Identity, IdentityError};
use crate::jose::claims::{instant, text};
use crate::jose::{Algorithm, Compact, JoseError, LEEWAY, TypRule};
use crate::replay::{self, ReplayMark};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::time::Duration;
use time::OffsetDateTime;

/// An RSA key of 4096 bits and its signature take less than half of it.
const MAX_BYTES: usize = 8 * 1024;

const TYP: &str = replay::DPOP_PROOF;

/// How old a proof may be, [`LEEWAY`] aside: it is made for one request, and sent at once.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The `DPoP` header of a request, and what the proof in it must speak of. Filled by the door.
#[derive(Debug, Clone)]
pub struct DpopProof {
    pub unverified: Secret<String>,
    /// Of the request.
    pub method: String,
    /// The public URL of the door, from the configuration.
    // SECURITY: never from `Host` or a forwarded header: whoever sends the proof writes those.
    pub url: String,
    /// The access token that it was presented with, where we are the resource.
    pub access_token: Option<Secret<String>>,
}

/// A key whose holder sent this request, and what that spends. Only this room makes one.
#[derive(Debug, Clone)]
pub struct ProvedKey {
    pub(in crate::identity) confirmation: Confirmation,
    pub(in crate::identity) replay: ReplayMark,
}

impl ProvedKey {
    pub fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }
    pub fn replay(&self) -> &ReplayMark {
        &self.replay
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopFault {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("`htm` is not the method of this request")]
    Method,
    #[error("`htu` is not the public URL of this door")]
    Url,
    #[error("`jti` must be a string of 1 to 256 characters")]
    TokenId,
    #[error("`ath` is not the SHA-256 of the access token beside it")]
    TokenHash,
    #[error("its `nonce` is not a current one of this broker")]
    Nonce,
}

impl DpopFault {
    /// Which part of the proof, for whoever has to make another.
    pub fn at(self) -> &'static str {
        match self {
            Self::Jose(JoseError::ClaimMissing(name) | JoseError::ClaimMalformed(name)) => {
                match name {
                    "htm" => "DPoP.htm",
                    "htu" => "DPoP.htu",
                    "iat" => "DPoP.iat",
                    _ => "DPoP",
                }
            }
            Self::Jose(JoseError::Expired | JoseError::NotYetValid) => "DPoP.iat",
            Self::Jose(_) => "DPoP",
            Self::Method => "DPoP.htm",
            Self::Url => "DPoP.htu",
            Self::TokenId => "DPoP.jti",
            Self::TokenHash => "DPoP.ath",
            Self::Nonce => "DPoP.nonce",
        }
    }
}

impl Identity {
    /// Checks a proof by itself.
    pub fn prove(
        &self,
        proof: &DpopProof,
        now: OffsetDateTime,
    ) -> Result<ProvedKey, IdentityError> {
        verify(proof, self.nonces.as_ref(), now).map_err(IdentityError::InvalidProof)
    }

    /// The nonce that proofs should carry from now on, where they must carry one.
    pub fn nonce(&self, now: OffsetDateTime) -> Option<String> {
        self.nonces.as_ref()?.current(now)
    }
}

pub(crate) fn verify(
    proof: &DpopProof,
    nonces: Option<&Nonces>,
    now: OffsetDateTime,
) -> Result<ProvedKey, DpopFault> {
    let text = proof.unverified.expose();
    let compact = Compact::parse(text, MAX_BYTES, &TypRule::ExactlyWithKey(TYP))?;
    let key = compact.embedded_key().cloned();
    let key = key.ok_or(JoseError::HeaderMember("jwk"))?;
    let verified = compact.verify(&[&key], &Algorithm::ALL)?;
    let claims = verified.claims();
    check_request(claims, proof)?;
    let ends = ends(claims, now)?;
    let jti = bounded(claims, "jti", 256).map_err(|()| DpopFault::TokenId)?;
    let jti = jti.ok_or(DpopFault::TokenId)?;
    check_token_hash(claims, proof)?;
    // Last: whoever is sent back for a nonce has everything else right.
    if let Some(nonces) = nonces {
        let nonce = claims.get("nonce").and_then(Value::as_str);
        if !nonce.is_some_and(|nonce| nonces.accepts(nonce, now)) {
            return Err(DpopFault::Nonce);
        }
    }
    // RFC 9449 section 11.1: a `jti` is the key's own, so two keys cannot spend each other's.
    let replay = replay::mark(
        TYP,
        key.thumbprint(),
        Some(jti),
        verified.signing_input(),
        ends,
    );
    Ok(ProvedKey {
        confirmation: Confirmation::Jkt(key.thumbprint().to_owned()),
        replay,
    })
}

/// A proof is for one method at one door.
fn check_request(claims: &Map<String, Value>, proof: &DpopProof) -> Result<(), DpopFault> {
    if text(claims, "htm")? != proof.method {
        return Err(DpopFault::Method);
    }
    if !url::same(text(claims, "htu")?, &proof.url) {
        return Err(DpopFault::Url);
    }
    Ok(())
}

/// When it is too old. `exp` and `nbf` are nobody's duty; whoever sets them means them.
fn ends(claims: &Map<String, Value>, now: OffsetDateTime) -> Result<OffsetDateTime, JoseError> {
    let issued_at = instant(claims, "iat")?.ok_or(JoseError::ClaimMissing("iat"))?;
    let (expires_at, not_before) = (instant(claims, "exp")?, instant(claims, "nbf")?);
    let ends = issued_at + MAX_AGE;
    if now >= expires_at.unwrap_or(ends).min(ends) + LEEWAY {
        return Err(JoseError::Expired);
    }
    if not_before.unwrap_or(issued_at).max(issued_at) > now + LEEWAY {
        return Err(JoseError::NotYetValid);
    }
    Ok(ends)
}

/// RFC 9449 section 4.3, check 12: only where an access token comes with the proof.
fn check_token_hash(claims: &Map<String, Value>, proof: &DpopProof) -> Result<(), DpopFault> {
    let Some(token) = &proof.access_token else {
        return Ok(());
    };
    let hash = URL_SAFE_NO_PAD.encode(sha256(token.expose()));
    if claims.get("ath").and_then(Value::as_str) != Some(hash.as_str()) {
        return Err(DpopFault::TokenHash);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
