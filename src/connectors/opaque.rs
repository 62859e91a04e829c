//! Opaque strings that name their lease: a prefix, the lease id, 256 random bits, a checksum.
//!
//! One word of letters, digits and `_`, so that a double click selects it whole and a secret
//! scanner can match it: `dayflyh?_dfl[a-z2-7]{26}[0-9A-Za-z]{49}`. The checksum lets a scanner,
//! and our own doors, reject a typo or a look-alike without a store; it proves nothing else.

use crate::ids;
use crate::ids::LeaseId;
use crate::secret::Secret;
use zeroize::Zeroize;

/// Enough base62 digits for 256 bits.
const RANDOM_DIGITS: usize = 43;
/// Enough base62 digits for 32 bits.
const CHECKSUM_DIGITS: usize = 6;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A fresh string of this prefix for this lease.
pub(super) fn draw(prefix: &str, lease: &LeaseId) -> Secret<String> {
    let mut random: [u8; 32] = ids::random();
    let mut text = format!("{prefix}{lease}");
    push_base62(&mut text, &mut random, RANDOM_DIGITS);
    let mut checksum = crc32fast::hash(text.as_bytes()).to_be_bytes();
    push_base62(&mut text, &mut checksum, CHECKSUM_DIGITS);
    random.zeroize();
    Secret::new(text)
}

/// The lease that a string of this prefix names, if it is well formed and its checksum holds.
///
/// Says nothing about whether we ever made it: that is for the lease's SHA-256 to say.
pub(super) fn parse(prefix: &str, text: &str) -> Option<LeaseId> {
    let rest = text.strip_prefix(prefix)?;
    if rest.len() != LeaseId::TEXT_LENGTH + RANDOM_DIGITS + CHECKSUM_DIGITS {
        return None;
    }
    let (lease, digits) = rest.split_at_checked(LeaseId::TEXT_LENGTH)?;
    if !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let (body, checksum) = text.split_at_checked(text.len().checked_sub(CHECKSUM_DIGITS)?)?;
    let mut expected = String::new();
    let mut bytes = crc32fast::hash(body.as_bytes()).to_be_bytes();
    push_base62(&mut expected, &mut bytes, CHECKSUM_DIGITS);
    if checksum != expected {
        return None;
    }
    lease.parse().ok()
}

/// Appends a big-endian number in exactly `digits` digits; the number is divided down to zero.
fn push_base62(text: &mut String, number: &mut [u8], digits: usize) {
    let mut reversed = Vec::with_capacity(digits);
    for _ in 0..digits {
        let mut remainder = 0_u16;
        for byte in number.iter_mut() {
            let current = (remainder << 8) | u16::from(*byte);
            *byte = u8::try_from(current / 62).unwrap_or(u8::MAX);
            remainder = current % 62;
        }
        reversed.push(DIGITS.get(usize::from(remainder)).copied().unwrap_or(b'0'));
    }
    text.extend(reversed.iter().rev().map(|digit| char::from(*digit)));
    reversed.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use proptest::prelude::*;

    fn lease() -> LeaseId {
        LeaseId::draw(ShardId::all().next().unwrap())
    }

    #[test]
    fn what_was_drawn_names_its_lease() {
        let lease = lease();
        let text = draw("dayfly_", &lease);
        assert_eq!(text.expose().len(), 85);
        assert!(
            text.expose()
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_')
        );
        assert_eq!(parse("dayfly_", text.expose()), Some(lease));
    }

    #[test]
    fn two_strings_for_one_lease_differ() {
        let lease = lease();
        assert_ne!(
            draw("dayfly_", &lease).expose(),
            draw("dayfly_", &lease).expose()
        );
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = draw("dayfly_", &lease()).expose().clone();
        for place in 0..text.len() {
            for other in ["a", "B", "7", "_", "é"] {
                let mut changed = text.clone();
                changed.replace_range(place..=place, other);
                if changed != text {
                    assert_eq!(parse("dayfly_", &changed), None, "{changed}");
                }
            }
        }
    }

    #[test]
    fn what_is_cut_or_longer_is_refused() {
        let text = draw("dayfly_", &lease()).expose().clone();
        for length in 0..text.len() {
            let cut: String = text.chars().take(length).collect();
            assert_eq!(parse("dayfly_", &cut), None);
        }
        assert_eq!(parse("dayfly_", &format!("{text}0")), None);
    }

    #[test]
    fn one_kind_is_not_taken_for_another() {
        let lease = lease();
        assert_eq!(parse("dayflyh_", draw("dayfly_", &lease).expose()), None);
        assert_eq!(parse("dayfly_", draw("dayflyh_", &lease).expose()), None);
    }

    #[test]
    fn base62_of_known_numbers() {
        for (number, digits, text) in [
            ([0_u8, 0, 0, 0], 6, "000000"),
            ([0, 0, 0, 61], 2, "0z"),
            ([0, 0, 0, 62], 2, "10"),
            ([255, 255, 255, 255], 6, "4gfFC3"),
        ] {
            let mut out = String::new();
            push_base62(&mut out, &mut number.clone(), digits);
            assert_eq!(out, text);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_parse_panic(text in "\\PC{0,120}") {
            prop_assert_eq!(parse("dayfly_", &text), None);
            prop_assert_eq!(parse("", &text), None);
        }
    }
}
