//! What must never be seen: redacted in memory, sealed at rest.

use crate::ids;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;
use std::sync::Arc;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A value that no log, error or answer can show by accident: no `Display`, no `Serialize`, a
/// redacted `Debug`, wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Every call is a place to look at in review.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<String> for Secret<String> {
    fn from(value: String) -> Self {
        Self(value)
    }
}

/// A secret that its platform renews: read again while it is used.
#[derive(Clone)]
pub struct Renewed(Arc<Read>);

type Read = dyn Fn() -> Result<Secret<String>, String> + Send + Sync;

impl Renewed {
    pub fn new(read: impl Fn() -> Result<Secret<String>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// On a thread that may wait for a file or a command.
    pub async fn read(&self) -> Result<Secret<String>, String> {
        let read = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || read())
            .await
            .map_err(|_| "reading a secret was ended".to_owned())?
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewed")
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    #[error("the sealing keys are empty: name at least one")]
    NoKey,
    #[error("a sealing key must be 32 bytes")]
    KeyLength,
    #[error("sealed with key `{0}`, which is not among the sealing keys")]
    UnknownKey(String),
    #[error("a sealed record does not open: it was changed, moved, or sealed with another key")]
    Unopenable,
}

/// The ordered list of sealing keys: the first seals, every one opens.
#[derive(Clone)]
pub struct Sealer {
    keys: Vec<(String, Secret<[u8; 32]>)>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|(id, _)| id))
            .finish()
    }
}

const BLOB_VERSION: u8 = 1;
const KEY_ID_LENGTH: usize = 8;
pub const MAC_LENGTH: usize = 32;

impl Sealer {
    /// Key ids are derived from the keys, so that a blob says which key opens it.
    pub fn new(keys: &[Secret<Vec<u8>>]) -> Result<Self, SealError> {
        let mut list = Vec::with_capacity(keys.len());
        for key in keys {
            let bytes: [u8; 32] = key
                .expose()
                .as_slice()
                .try_into()
                .map_err(|_| SealError::KeyLength)?;
            list.push((key_id(&bytes), Secret::new(bytes)));
        }
        if list.is_empty() {
            return Err(SealError::NoKey);
        }
        Ok(Self { keys: list })
    }

    /// A blob that opens only with the same `owner` (for a lease: its id), so that two sealed
    /// records cannot be swapped.
    pub fn seal(&self, owner: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let (id, key) = self.keys.first().ok_or(SealError::NoKey)?;
        let nonce: [u8; NONCE_LEN] = ids::random();
        let mut body = plain.to_vec();
        record_key(key, &nonce, owner)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner),
                &mut body,
            )
            .map_err(|_| SealError::Unopenable)?;
        let mut blob = Vec::with_capacity(1 + KEY_ID_LENGTH + NONCE_LEN + body.len());
        blob.push(BLOB_VERSION);
        blob.extend_from_slice(id.as_bytes());
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(&body);
        Ok(blob)
    }

    pub fn open(&self, owner: &[u8], blob: &[u8]) -> Result<Secret<Vec<u8>>, SealError> {
        let (version, rest) = blob.split_first().ok_or(SealError::Unopenable)?;
        if *version != BLOB_VERSION {
            return Err(SealError::Unopenable);
        }
        let (id, rest) = rest
            .split_at_checked(KEY_ID_LENGTH)
            .ok_or(SealError::Unopenable)?;
        let (nonce, body) = rest
            .split_at_checked(NONCE_LEN)
            .ok_or(SealError::Unopenable)?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| SealError::Unopenable)?;
        let (_, key) = self
            .keys
            .iter()
            .find(|(name, _)| name.as_bytes() == id)
            .ok_or_else(|| SealError::UnknownKey(String::from_utf8_lossy(id).into_owned()))?;
        let mut body = body.to_vec();
        let plain = record_key(key, &nonce, owner)?
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner),
                &mut body,
            )
            .map_err(|_| SealError::Unopenable)?
            .to_vec();
        Ok(Secret::new(plain))
    }

    /// A MAC under a key of its own, for records that must not be forged by whoever can write to
    /// the store.
    pub fn mac(&self, purpose: &str, message: &[u8]) -> Result<[u8; 32], SealError> {
        let (_, key) = self.keys.first().ok_or(SealError::NoKey)?;
        Ok(mac_with(key, purpose, message))
    }

    /// Whether the first of the sealing keys made this MAC.
    fn mac_is_first(&self, purpose: &str, message: &[u8], mac: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.keys
            .first()
            .is_some_and(|(_, key)| mac_with(key, purpose, message).as_slice().ct_eq(mac).into())
    }

    /// The message behind its MAC, as it is kept at rest.
    pub fn with_mac(&self, purpose: &str, message: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok([self.mac(purpose, message)?.as_slice(), message].concat())
    }

    /// The message, where one of the sealing keys made its MAC; `true`: the first of them.
    pub fn without_mac<'a>(&self, purpose: &str, bytes: &'a [u8]) -> Option<(&'a [u8], bool)> {
        let (mac, message) = bytes.split_at_checked(MAC_LENGTH)?;
        let holds = self.mac_holds(purpose, message, mac);
        holds.then(|| (message, self.mac_is_first(purpose, message, mac)))
    }

    /// The first half of a MAC (HMAC-SHA-256-128, RFC 4868 2.3), where there are millions of them.
    pub fn short_mac(&self, purpose: &str, message: &[u8]) -> Result<[u8; 16], SealError> {
        let mac = self.mac(purpose, message)?;
        let (half, _) = mac.split_first_chunk().ok_or(SealError::NoKey)?;
        Ok(*half)
    }

    /// Whether any of the sealing keys made this half of a MAC.
    pub fn short_mac_holds(&self, purpose: &str, message: &[u8], half: &[u8; 16]) -> bool {
        use subtle::ConstantTimeEq;
        self.keys.iter().any(|(_, key)| {
            let mac = mac_with(key, purpose, message);
            mac.split_first_chunk::<16>()
                .is_some_and(|(ours, _)| ours.ct_eq(half).into())
        })
    }

    /// Whether any of the sealing keys made this MAC.
    pub fn mac_holds(&self, purpose: &str, message: &[u8], mac: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.keys
            .iter()
            .any(|(_, key)| mac_with(key, purpose, message).as_slice().ct_eq(mac).into())
    }
}

fn key_id(key: &[u8; 32]) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        &[b"dayfly key id".as_slice(), key].concat(),
    );
    digest
        .as_ref()
        .iter()
        .take(KEY_ID_LENGTH / 2)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// A key for this record alone (HKDF), so that a nonce never repeats under one key.
fn record_key(
    key: &Secret<[u8; 32]>,
    nonce: &[u8; NONCE_LEN],
    owner: &[u8],
) -> Result<LessSafeKey, SealError> {
    let salt = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, nonce);
    let pseudo_random = salt.extract(key.expose());
    let info = [b"dayfly record".as_slice(), owner];
    let output = pseudo_random
        .expand(&info, &AES_256_GCM)
        .map_err(|_| SealError::Unopenable)?;
    Ok(LessSafeKey::new(UnboundKey::from(output)))
}

fn mac_with(key: &Secret<[u8; 32]>, purpose: &str, message: &[u8]) -> [u8; 32] {
    let derived = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.expose()),
        &[b"dayfly mac ".as_slice(), purpose.as_bytes()].concat(),
    );
    let tag = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, derived.as_ref()),
        message,
    );
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(tag.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(seed: u8) -> Sealer {
        Sealer::new(&[Secret::new(vec![seed; 32])]).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner_alone() {
        let sealer = sealer(1);
        let blob = sealer.seal(b"lease-a", b"token").unwrap();
        assert_eq!(sealer.open(b"lease-a", &blob).unwrap().expose(), b"token");
        assert_eq!(
            sealer.open(b"lease-b", &blob).unwrap_err(),
            SealError::Unopenable
        );
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let sealer = sealer(1);
        let blob = sealer.seal(b"o", b"token").unwrap();
        for place in 0..blob.len() {
            let mut changed = blob.clone();
            changed[place] ^= 1;
            assert!(sealer.open(b"o", &changed).is_err(), "byte {place}");
        }
        for length in 0..blob.len() {
            assert!(sealer.open(b"o", &blob[..length]).is_err());
        }
    }

    #[test]
    fn an_old_sealing_key_still_opens_and_a_missing_one_is_named() {
        let blob = sealer(1).seal(b"o", b"token").unwrap();
        let both = Sealer::new(&[Secret::new(vec![2; 32]), Secret::new(vec![1; 32])]).unwrap();
        assert_eq!(both.open(b"o", &blob).unwrap().expose(), b"token");
        assert!(matches!(
            sealer(2).open(b"o", &blob),
            Err(SealError::UnknownKey(_))
        ));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", Secret::new("hunter2".to_owned())),
            "[secret]"
        );
        assert!(!format!("{:?}", sealer(7)).contains('7'.to_string().repeat(8).as_str()));
    }

    #[test]
    fn a_mac_is_bound_to_its_purpose() {
        let sealer = sealer(1);
        let mac = sealer.mac("lease", b"m").unwrap();
        assert!(sealer.mac_holds("lease", b"m", &mac));
        assert!(!sealer.mac_holds("manifest", b"m", &mac));
        assert!(!sealer.mac_holds("lease", b"n", &mac));
    }

    #[test]
    fn half_a_mac_is_bound_to_its_purpose_and_to_every_bit() {
        let sealer = sealer(1);
        let half = sealer.short_mac("lease", b"m").unwrap();
        assert_eq!(half, sealer.mac("lease", b"m").unwrap()[..16]);
        assert!(sealer.short_mac_holds("lease", b"m", &half));
        assert!(!sealer.short_mac_holds("manifest", b"m", &half));
        assert!(!sealer.short_mac_holds("lease", b"n", &half));
        for bit in 0..128 {
            let mut changed = half;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!sealer.short_mac_holds("lease", b"m", &changed));
        }
    }
}
