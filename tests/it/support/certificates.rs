//! Certificates as authorities issue them: a chain and its key, good in every way until a test changes
//! one thing.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "shared by several test crates, none of which uses all of it; what cannot be made fails the test"
)]

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

pub type Change<'a> = &'a dyn Fn(&mut CertificateParams);

/// Changes nothing.
pub const AS_IT_IS: Change<'static> = &|_| {};

pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate, then those above it without the root.
    chain: Vec<Vec<u8>>,
    /// The root above it.
    pub root: Vec<u8>,
    pub root_pem: String,
}

/// A leaf with what its holder shows beside it.
pub struct Issued {
    /// DER, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PEM, the leaf first.
    pub pem: String,
    pub key_pem: String,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

impl Authority {
    pub fn root(name: &str) -> Self {
        Self::root_with(name, AS_IT_IS)
    }

    pub fn root_with(name: &str, change: Change<'_>) -> Self {
        let mut params = authority_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            chain: Vec::new(),
            root: certificate.der().to_vec(),
            root_pem: certificate.pem(),
        }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str, change: Change<'_>) -> Self {
        let mut params = authority_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        let own = std::iter::once(certificate.der().to_vec());
        Self {
            params,
            key,
            chain: own.chain(self.chain.clone()).collect(),
            root: self.root.clone(),
            root_pem: self.root_pem.clone(),
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// For a workload, as SPIRE makes it.
    pub fn svid(&self, id: &str, change: Change<'_>) -> Issued {
        self.issue(vec![uri(id)], change)
    }

    pub fn issue(&self, names: Vec<SanType>, change: Change<'_>) -> Issued {
        let params = leaf_params(names, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        let own = std::iter::once(certificate.der().to_vec());
        Issued::new(own.chain(self.chain.clone()).collect(), &key)
    }
}

/// Signed by its own key.
pub fn self_signed(names: Vec<SanType>, change: Change<'_>) -> Issued {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf_params(names, change).self_signed(&key).unwrap();
    Issued::new(vec![certificate.der().to_vec()], &key)
}

fn leaf_params(names: Vec<SanType>, change: Change<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("leaf");
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut params);
    params
}

impl Issued {
    fn new(chain: Vec<Vec<u8>>, key: &KeyPair) -> Self {
        Self {
            pem: chain.iter().map(|der| pem(der)).collect(),
            key_pem: key.serialize_pem(),
            chain,
        }
    }

    /// `x5t#S256`.
    pub fn thumbprint(&self) -> String {
        use base64::Engine as _;
        let leaf = self.chain.first().unwrap();
        let hash = ring::digest::digest(&ring::digest::SHA256, leaf);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.as_ref())
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
