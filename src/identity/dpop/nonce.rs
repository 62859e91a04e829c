//! Nonces for DPoP proofs (RFC 9449 section 8), kept nowhere: a minute's number and a MAC over it.
//!
//! Every replica with the same sealing keys makes the same nonce and accepts the others', and a
//! restart changes nothing. Without one a proof could be made long before it is used.

use crate::secret::Sealer;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;

const PURPOSE: &str = "dpop nonce";

/// A new nonce begins with each of these many seconds.
const STEP: i64 = 60;
/// One is accepted for this many steps after its own: four to five minutes in all.
const STEPS: i64 = 4;
/// Another replica's clock may be ahead of ours.
const AHEAD: i64 = 1;

#[derive(Debug, Clone)]
pub struct Nonces {
    sealer: Sealer,
    /// The broker's URL: two brokers under one sealing key do not take each other's.
    broker_url: String,
}

impl Nonces {
    pub fn new(sealer: Sealer, broker_url: String) -> Self {
        Self { sealer, broker_url }
    }

    /// `None` cannot happen: a sealer has a key.
    pub(super) fn current(&self, now: OffsetDateTime) -> Option<String> {
        let step = step(now).to_be_bytes();
        let mac = self.sealer.mac(PURPOSE, &self.message(&step)).ok()?;
        Some(URL_SAFE_NO_PAD.encode([step.as_slice(), mac.as_slice()].concat()))
    }

    pub(super) fn accepts(&self, nonce: &str, now: OffsetDateTime) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(nonce) else {
            return false;
        };
        let Some((made, mac)) = bytes.split_first_chunk::<8>() else {
            return false;
        };
        let age = step(now).saturating_sub(i64::from_be_bytes(*made));
        (-AHEAD..=STEPS).contains(&age) && self.sealer.mac_holds(PURPOSE, &self.message(made), mac)
    }

    fn message(&self, step: &[u8; 8]) -> Vec<u8> {
        [step.as_slice(), self.broker_url.as_bytes()].concat()
    }
}

fn step(now: OffsetDateTime) -> i64 {
    now.unix_timestamp().div_euclid(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const BROKER: &str = "https://broker.example";

    fn nonces(keys: &[u8]) -> Nonces {
        let keys: Vec<_> = keys.iter().map(|key| Secret::new(vec![*key; 32])).collect();
        Nonces::new(Sealer::new(&keys).unwrap(), BROKER.to_owned())
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_249_980 + seconds).unwrap()
    }

    #[test]
    fn a_nonce_lasts_some_minutes_and_one_of_a_clock_that_is_ahead_is_taken() {
        let nonces = nonces(&[1]);
        let nonce = nonces.current(at(0)).unwrap();
        assert_eq!(nonces.current(at(59)).unwrap(), nonce);
        assert_ne!(nonces.current(at(60)).unwrap(), nonce);
        for (seconds, good) in [
            (-61, false),
            (-60, true),
            (0, true),
            (299, true),
            (300, false),
        ] {
            assert_eq!(nonces.accepts(&nonce, at(seconds)), good, "{seconds}");
        }
    }

    #[test]
    fn a_replica_with_the_same_keys_takes_it_in_whatever_order_it_has_them() {
        let nonce = nonces(&[1]).current(at(0)).unwrap();
        assert!(nonces(&[2, 1]).accepts(&nonce, at(0)));
        assert!(!nonces(&[2]).accepts(&nonce, at(0)));
    }

    #[test]
    fn what_was_not_made_here_is_no_nonce() {
        let nonces = nonces(&[1]);
        let good = URL_SAFE_NO_PAD
            .decode(nonces.current(at(0)).unwrap())
            .unwrap();
        for place in 0..good.len() {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            let nonce = URL_SAFE_NO_PAD.encode(&bytes);
            assert!(!nonces.accepts(&nonce, at(0)), "byte {place}");
            let cut = URL_SAFE_NO_PAD.encode(&good[..place]);
            assert!(!nonces.accepts(&cut, at(0)), "cut at {place}");
        }
        let mut other = nonces.clone();
        other.broker_url.push('/');
        assert!(!nonces.accepts(&other.current(at(0)).unwrap(), at(0)));
        for text in ["", "a", "not base64!"] {
            assert!(!nonces.accepts(text, at(0)), "{text}");
        }
    }
}
