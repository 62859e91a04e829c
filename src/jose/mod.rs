//! JOSE, strictly: one rule per `typ`, the algorithm fixed by the caller and by the key.
//! The only room that names josekit.
//!
//! In: the text of a token and the keys that may have signed it. Out: [`Verified`] claims, or a
//! [`JoseError`] with a stable code. Also our own keys ([`Keyring`], [`SigningKey`]) and other
//! people's ([`KeySet`], [`RemoteKeys`], [`TrustBundle`]). RFC 7515, 7517, 7519, 7638, 8037, 8725.

mod bundle;
pub mod claims;
mod compact;
mod envelope;
mod json;
mod keyring;
mod keys;
mod remote;
mod signing;

pub use bundle::{TrustBundle, TrustBundleError};
pub use compact::{Compact, JoseError, MAX_TRIED_KEYS, TypRule, Verified, unverified_issuer};
pub use json::{JsonError, parse_object};
pub use keyring::{
    KeyState, KeyStatus, Keyring, KeyringError, KeyringSettings, Purpose, RotationReport,
    UnknownPurpose,
};
pub use keys::{KeyError, KeySet, KeySetError, MAX_KEYS, VerifyingKey};
pub use remote::{
    KeyClient, Reach, Refused, RemoteBundle, RemoteKeys, RemoteKeysError, RemoteKeysSettings,
};
pub use signing::{SigningError, SigningKey};

use std::fmt;
use std::time::Duration;

/// How far two clocks may be apart. One constant, also in the lifetime of replay marks.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// Signature algorithms Dayfly accepts or makes. Everything else is refused by not being here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `EdDSA` and `Ed25519` (RFC 9864) alike.
    Ed25519,
    Es256,
    Es384,
    Ps256,
    Rs256,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [
        Self::Ed25519,
        Self::Es256,
        Self::Es384,
        Self::Ps256,
        Self::Rs256,
    ];

    /// The name that we write into a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }

    /// Names are case-sensitive (RFC 7515 4.1.1); `none` and the HS family are not here.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.spelling(name).is_some())
    }

    /// The name as a header spells it, if it is one of this algorithm.
    fn spelling(self, name: &str) -> Option<&'static str> {
        match (self, name) {
            (Self::Ed25519, "Ed25519") => Some("Ed25519"),
            _ if name == self.name() => Some(self.name()),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Unpadded base64url, the only base64 of JOSE.
fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Only the one canonical spelling: no padding, no other alphabet, no stray trailing bits.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    // SECURITY: this engine refuses trailing bits; a second spelling of one signature or payload
    // would be a second token to whoever compares text.
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .ok()
}

#[cfg(test)]
mod tests;
