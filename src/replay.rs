//! Each (kind, issuer, jti) once.

use time::OffsetDateTime;

/// Spends a one-use token when the lease is reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayMark {
    /// SHA-256 over (kind, issuer, jti) or, without a jti, over the signing input.
    pub hash: [u8; 32],
    /// Until when the mark must live: exp + leeway + 1 h.
    pub keep_until: OffsetDateTime,
}
