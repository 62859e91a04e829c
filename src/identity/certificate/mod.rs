//! The certificate that a client showed in the TLS handshake, and who may vouch for it.
//!
//! In: a chain whose leaf's key was proved (by the handshake, or by a trusted proxy that says so).
//! Out: its names, and the key that issued it, where it chains up to one of the given roots and to
//! nothing else. No root of the system's is ever asked. RFC 5280 section 6, RFC 8705 section 3.1.

mod leaf;

pub(super) use leaf::{Leaf, Name};

use super::Confirmation;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// More than any honest chain has.
const MAX_CHAIN: usize = 8;
const MAX_BYTES: usize = 16 * 1024;

/// A chain as it was shown, the leaf first. Whoever made it holds the leaf's key; whether anybody
/// vouches for it is not known.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate(Arc<Chain>);

#[derive(PartialEq, Eq)]
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    sha256: [u8; 32],
}

/// What is public about it.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.thumbprint())
    }
}

impl ClientCertificate {
    /// DER, the leaf first. `None`: empty, or longer than any that is looked at.
    pub fn new(chain: Vec<Vec<u8>>) -> Option<Self> {
        let fits = |der: &Vec<u8>| (1..=MAX_BYTES).contains(&der.len());
        if chain.len() > MAX_CHAIN || !chain.iter().all(fits) {
            return None;
        }
        let mut sha256 = [0; 32];
        let hash = digest(&SHA256, chain.first()?);
        sha256
            .iter_mut()
            .zip(hash.as_ref())
            .for_each(|(to, from)| *to = *from);
        let certificates = chain.into_iter().map(CertificateDer::from).collect();
        Some(Self(Arc::new(Chain {
            certificates,
            sha256,
        })))
    }

    /// `x5t#S256`: SHA-256 of the leaf, base64url (RFC 8705 section 3.1).
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.sha256)
    }

    /// What a credential is bound to.
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::X5t(self.thumbprint())
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        self.0.sha256
    }

    pub(super) fn leaf(&self) -> Result<Leaf, CertificateFault> {
        let der = self.0.certificates.first();
        Leaf::parse(der.ok_or(CertificateFault::Malformed)?)
    }

    /// The key right above the leaf (SHA-256 of its public key), if the chain leads up to one of
    /// `roots`, every certificate of it holds at `now`, and the leaf may authenticate a client.
    pub(super) fn issued_under(
        &self,
        roots: &Roots,
        now: OffsetDateTime,
    ) -> Result<String, CertificateFault> {
        let (first, rest) = self
            .0
            .certificates
            .split_first()
            .ok_or(CertificateFault::Malformed)?;
        let leaf = webpki::EndEntityCert::try_from(first).map_err(fault)?;
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let path = leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &roots.anchors,
                rest,
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(fault)?;
        let mut issuer = None;
        for certificate in path.intermediate_certificates() {
            let authority = Leaf::parse(&certificate.der())?;
            // webpki goes by CA = TRUE alone (RFC 5280 section 6.1.4 n).
            if authority.key_usage.is_some_and(|usage| !usage.cert_sign) {
                return Err(CertificateFault::Authority);
            }
            issuer.get_or_insert(authority.key_sha256);
        }
        if !roots.holds(path.anchor(), now) {
            return Err(CertificateFault::Expired);
        }
        let root = || sha256_text(path.anchor().subject_public_key_info.as_ref());
        Ok(issuer.unwrap_or_else(root))
    }
}

/// Certificates that may vouch for others, as they were configured or published.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// Of each, from when until when it holds.
    validity: Vec<RangeInclusive<OffsetDateTime>>,
}

impl Roots {
    /// Only certificates of authorities: a leaf that stands among them vouches for nobody, itself
    /// included.
    pub(super) fn new(list: &[impl AsRef<[u8]>]) -> Result<Self, CertificateFault> {
        let (mut anchors, mut validity) = (Vec::new(), Vec::new());
        for der in list {
            let der = der.as_ref();
            let leaf = Leaf::parse(der)?;
            if !leaf.is_authority || leaf.key_usage.is_some_and(|usage| !usage.cert_sign) {
                return Err(CertificateFault::Authority);
            }
            let der = CertificateDer::from(der);
            let anchor = webpki::anchor_from_trusted_cert(&der).map_err(fault)?;
            anchors.push(anchor.to_owned());
            validity.push(leaf.not_before..=leaf.not_after);
        }
        Ok(Self { anchors, validity })
    }

    /// webpki trusts an anchor for ever. The same key may stand there twice, renewed.
    fn holds(&self, anchor: &TrustAnchor<'_>, now: OffsetDateTime) -> bool {
        let is_it = |own: &TrustAnchor<'_>| {
            own.subject == anchor.subject
                && own.subject_public_key_info == anchor.subject_public_key_info
        };
        let mut all = self.anchors.iter().zip(&self.validity);
        all.any(|(own, valid)| is_it(own) && valid.contains(&now))
    }
}

/// Why a certificate does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    #[error("it cannot be read, or says one thing twice")]
    Malformed,
    #[error("it is not valid at this time")]
    Expired,
    #[error("it does not chain up to a root that counts here")]
    Issuer,
    #[error("it is an authority's, not a client's")]
    IsAuthority,
    #[error("an issuer in its chain may not issue certificates")]
    Authority,
    #[error("its key usage must have digitalSignature, and neither keyCertSign nor cRLSign")]
    KeyUsage,
    #[error("its extended key usage leaves out clientAuth")]
    ExtendedKeyUsage,
    #[error("it must have exactly one URI as a name, the SPIFFE ID")]
    SpiffeId,
    #[error("its SPIFFE ID is of no configured trust domain")]
    TrustDomain,
    #[error("it has not the name that is registered for this client")]
    Name,
    #[error("it is none of those that are registered for this client")]
    Unregistered,
    #[error("no client_id names whose it is")]
    NoClientId,
}

fn fault(error: webpki::Error) -> CertificateFault {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } | E::CertNotValidYet { .. } | E::InvalidCertValidity => {
            CertificateFault::Expired
        }
        E::CaUsedAsEndEntity => CertificateFault::IsAuthority,
        E::EndEntityUsedAsCa | E::PathLenConstraintViolated => CertificateFault::Authority,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            CertificateFault::ExtendedKeyUsage
        }
        E::BadDer | E::BadDerTime | E::TrailingData(_) | E::MalformedExtensions => {
            CertificateFault::Malformed
        }
        _ => CertificateFault::Issuer,
    }
}

fn sha256_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes).as_ref())
}
