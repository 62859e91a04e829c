//! Each (kind, issuer, jti) once.
//!
//! In: what a one-use token is called, or the bytes that it signs. Out: a [`ReplayMark`] that the
//! reserving commit writes under the guard that it is absent. RFC 7523 3, RFC 9449 11.1.

use crate::jose::LEEWAY;
use time::OffsetDateTime;

/// What clocks may differ by beyond the leeway (the store's, another replica's) before a mark
/// could be gone while its token still passes.
const MARGIN: time::Duration = time::Duration::HOUR;

/// Spends a one-use token when the lease is reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayMark {
    /// What it spends, so that whoever comes second can be told what to renew.
    pub kind: String,
    /// SHA-256 over (kind, issuer, jti) or, without a jti, over the signing input.
    pub hash: [u8; 32],
    /// Until when the mark must live: exp + leeway + 1 h.
    pub keep_until: OffsetDateTime,
}

/// The kinds of [`ReplayMark`] that are told apart in a refusal; every other is an intent.
pub const SUBJECT_TOKEN: &str = "subject-token";
pub const CLIENT_ASSERTION: &str = "client-assertion";
pub const DPOP_PROOF: &str = "dpop+jwt";

/// `kind` keeps the validators apart (`intent+jwt`, `dpop+jwt`, ...). Pass `jti` only when the
/// signature over it has been verified and the issuer promises that it is unique.
pub fn mark(
    kind: &str,
    issuer: &str,
    jti: Option<&str>,
    signing_input: &[u8],
    expires_at: OffsetDateTime,
) -> ReplayMark {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let (named, name) = match jti {
        Some(jti) => (b"jti".as_slice(), jti.as_bytes()),
        // SECURITY: never over the signature: ECDSA's (r, s) also holds as (r, n - s).
        None => (b"signing input".as_slice(), signing_input),
    };
    for part in [kind.as_bytes(), issuer.as_bytes(), named, name] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.iter_mut()
        .zip(context.finish().as_ref())
        .for_each(|(to, from)| *to = *from);
    ReplayMark {
        kind: kind.to_owned(),
        hash,
        keep_until: expires_at.saturating_add(MARGIN + LEEWAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const EXPIRES: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn hash(kind: &str, issuer: &str, jti: Option<&str>, input: &str) -> [u8; 32] {
        mark(kind, issuer, jti, input.as_bytes(), EXPIRES).hash
    }

    #[test]
    fn a_mark_outlives_its_token_by_leeway_and_margin() {
        let mark = mark("intent+jwt", "i", Some("1"), b"", EXPIRES);
        assert_eq!(mark.keep_until, EXPIRES + LEEWAY + MARGIN);
    }

    #[test]
    fn kind_issuer_and_name_each_make_another_mark() {
        let base = hash("intent+jwt", "i", Some("1"), "x");
        assert_eq!(base, hash("intent+jwt", "i", Some("1"), "y"));
        for other in [
            hash("dpop+jwt", "i", Some("1"), "x"),
            hash("intent+jwt", "j", Some("1"), "x"),
            hash("intent+jwt", "i", Some("2"), "x"),
            hash("intent+jwt", "i", None, "1"),
        ] {
            assert_ne!(base, other);
        }
    }

    proptest! {
        #[test]
        fn parts_cannot_run_into_each_other(a in ".{0,8}", b in ".{0,8}", c in ".{0,8}", d in ".{0,8}") {
            prop_assume!((&a, &b) != (&c, &d));
            prop_assert_ne!(hash(&a, &b, None, ""), hash(&c, &d, None, ""));
            prop_assert_ne!(hash("k", &a, Some(&b), ""), hash("k", &c, Some(&d), ""));
        }
    }
}
