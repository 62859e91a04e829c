//! Trust bundles, and certificates that anybody may show.

use crate::identity::{CertificateName, CertificateRule, ClientCertificate};
use crate::jose::{MAX_KEYS, TrustBundle};

pub fn bundle(bytes: &[u8]) {
    let Ok(bundle) = TrustBundle::parse(bytes) else {
        return;
    };
    assert!(bundle.jwt().keys().len() + bundle.x509().len() <= MAX_KEYS);
    assert!(bundle.jwt().keys().iter().all(|key| key.kid().is_some()));
    for der in bundle.x509() {
        certificate(der);
    }
}

/// As a client's, and as an authority's.
pub fn certificate(bytes: &[u8]) {
    if let Some(shown) = ClientCertificate::new(vec![bytes.to_vec()]) {
        assert!(shown.confirmation().is_well_formed());
    }
    let rule = CertificateRule::Issued {
        roots: vec![bytes.to_vec()],
        name: CertificateName::SubjectDn(String::new()),
    };
    // Whatever it says, it says the same again.
    assert!(rule.check() == rule.check());
}
