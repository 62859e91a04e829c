//! What a proof, an intent or a credential is bound to: RFC 7800 `cnf`, in the two kinds that a
//! request can show possession of.

use super::audience::is_thumbprint;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Serialises as the `cnf` claim itself: `{"jkt": "..."}` or `{"x5t#S256": "..."}`, closed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Confirmation {
    /// RFC 7638 SHA-256 thumbprint of a key (RFC 9449 section 6.1).
    #[serde(rename = "jkt")]
    Jkt(String),
    /// SHA-256 of a certificate in DER, base64url (RFC 8705 section 3.1).
    #[serde(rename = "x5t#S256")]
    X5t(String),
}

impl Confirmation {
    /// From a `cnf` claim that others made. `None`: nothing in it that is understood, or more than
    /// one thing that is. Other members beside it are not ours to judge (RFC 7800 section 3.1).
    pub fn read(claim: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let found = match (claim.get("jkt"), claim.get("x5t#S256")) {
            (Some(key), None) => Self::Jkt(text(key)?),
            (None, Some(certificate)) => Self::X5t(text(certificate)?),
            // SECURITY: a confirmation that is not understood (`jwk`, `kid`) is not ignored, or a
            // bound token would pass as a bearer one.
            _ => return None,
        };
        found.is_well_formed().then_some(found)
    }

    pub fn is_well_formed(&self) -> bool {
        let (Self::Jkt(hash) | Self::X5t(hash)) = self;
        is_thumbprint(hash)
    }

    /// The key's thumbprint, where it is a key.
    pub fn jkt(&self) -> Option<&str> {
        match self {
            Self::Jkt(thumbprint) => Some(thumbprint),
            Self::X5t(_) => None,
        }
    }
}

/// SECURITY: what is bound to a key is worth nothing without that key: not as a bearer token, and not
/// with another key. To be asked of whatever is presented and carries `cnf`: a subject token, a parent,
/// an operator's token. What is bound to nothing needs nothing shown.
pub fn shown(bound: Option<&Confirmation>, proved: Option<&Confirmation>) -> Result<(), NotShown> {
    match (bound, proved) {
        (Some(bound), proved) if proved != Some(bound) => Err(NotShown),
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is bound to a key or certificate whose possession this request does not show")]
pub struct NotShown;

/// As the claim is written: `jkt=...`, `x5t#S256=...`.
impl fmt::Display for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jkt(thumbprint) => write!(f, "jkt={thumbprint}"),
            Self::X5t(hash) => write!(f, "x5t#S256={hash}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_confirmation_is_written_as_the_claim_and_read_back() {
        let hash = "0".repeat(43);
        for (confirmation, claim) in [
            (Confirmation::Jkt(hash.clone()), json!({ "jkt": hash })),
            (Confirmation::X5t(hash.clone()), json!({ "x5t#S256": hash })),
        ] {
            assert_eq!(json!(confirmation), claim);
            assert_eq!(Confirmation::read(&claim), Some(confirmation.clone()));
            let stored = rmp_serde::to_vec_named(&confirmation).unwrap();
            let read: Confirmation = rmp_serde::from_slice(&stored).unwrap();
            assert_eq!(read, confirmation);
        }
    }

    #[test]
    fn what_is_bound_goes_with_its_own_key_only() {
        let key = Confirmation::Jkt("0".repeat(43));
        let other = Confirmation::Jkt("1".repeat(43));
        let certificate = Confirmation::X5t("0".repeat(43));
        assert_eq!(shown(None, None), Ok(()));
        assert_eq!(shown(None, Some(&key)), Ok(()));
        assert_eq!(shown(Some(&key), Some(&key)), Ok(()));
        assert_eq!(shown(Some(&key), None), Err(NotShown));
        assert_eq!(shown(Some(&key), Some(&other)), Err(NotShown));
        assert_eq!(shown(Some(&key), Some(&certificate)), Err(NotShown));
    }

    #[test]
    fn a_confirmation_that_is_unclear_is_none() {
        let hash = "0".repeat(43);
        for claim in [
            json!(null),
            json!(hash),
            json!({}),
            json!({ "jwk": {} }),
            json!({ "jkt": "short" }),
            json!({ "jkt": 1 }),
            json!({ "x5t#S256": "short" }),
            json!({ "jkt": hash, "x5t#S256": hash }),
        ] {
            assert_eq!(Confirmation::read(&claim), None, "{claim}");
        }
    }
}
