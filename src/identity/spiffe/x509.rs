//! X.509-SVIDs: a client certificate whose one URI is the SPIFFE ID of a workload. X.509-SVID
//! sections 3 to 5; OAuth SPIFFE client authentication.

use super::{SpiffeId, TrustDomain, facts};
use crate::identity::certificate::{CertificateFault, ClientCertificate, Leaf, Roots};
use crate::identity::{Caller, ClientFault, Identity, IdentityError, Proof};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use time::OffsetDateTime;

impl Identity {
    /// The trust domain is the one that the certificate's own name says: its roots are the only ones
    /// that may vouch for it.
    pub(in crate::identity) async fn x509_svid(
        &self,
        certificate: &ClientCertificate,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let leaf = certificate.leaf().map_err(refused)?;
        let id = spiffe_id(&leaf).map_err(refused)?;
        let domain = self
            .trust_domains
            .get(id.trust_domain())
            .ok_or_else(|| refused(CertificateFault::TrustDomain))?;
        domain.x509_svid(certificate, (&leaf, id), now).await
    }

    /// Whether a certificate says that it is a workload's of a configured trust domain.
    pub(in crate::identity) fn is_x509_svid(&self, leaf: &Leaf) -> bool {
        let known = |id: SpiffeId<'_>| self.trust_domains.contains_key(id.trust_domain());
        spiffe_id(leaf).is_ok_and(known)
    }
}

impl TrustDomain {
    async fn x509_svid(
        &self,
        certificate: &ClientCertificate,
        (leaf, id): (&Leaf, SpiffeId<'_>),
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let settings = &self.settings;
        check_usage(leaf).map_err(refused)?;
        let bundle =
            self.bundle
                .current(None, now)
                .await
                .map_err(|source| IdentityError::Unavailable {
                    issuer: settings.id.clone(),
                    source,
                })?;
        // SECURITY: the roots of this trust domain alone, never another's and never the system's.
        let issuer_key = Roots::new(bundle.x509())
            .and_then(|roots| certificate.issued_under(&roots, now))
            .map_err(refused)?;
        Ok(Caller {
            issuer: settings.id.clone(),
            issuer_url: settings.url(),
            subject: id.as_str().to_owned(),
            proof: Proof::Svid,
            issuer_key,
            facts: facts(id),
            barred: BTreeMap::new(),
            claims: Map::from_iter([("sub".to_owned(), Value::from(id.as_str()))]),
            // The handshake showed it; a DPoP proof may still be what the credential is bound to.
            bound_key: None,
            proved_key: Some(certificate.confirmation()),
            token_sha256: certificate.sha256(),
            expires_at: leaf.not_after,
            client: None,
            beside: None,
            instance: None,
            named_client: None,
            replay: Vec::new(),
        })
    }
}

/// Exactly one URI, and that a workload's id: a second one would be a second identity.
fn spiffe_id(leaf: &Leaf) -> Result<SpiffeId<'_>, CertificateFault> {
    match leaf.uris().as_slice() {
        [uri] => SpiffeId::parse(uri).ok_or(CertificateFault::SpiffeId),
        _ => Err(CertificateFault::SpiffeId),
    }
}

/// X.509-SVID section 4.3 and 5.2: a leaf signs handshakes and nothing else.
fn check_usage(leaf: &Leaf) -> Result<(), CertificateFault> {
    if leaf.is_authority {
        return Err(CertificateFault::IsAuthority);
    }
    match leaf.key_usage {
        Some(usage) if usage.digital_signature && !usage.cert_sign && !usage.crl_sign => Ok(()),
        _ => Err(CertificateFault::KeyUsage),
    }
}

fn refused(fault: CertificateFault) -> IdentityError {
    IdentityError::InvalidClient(ClientFault::Certificate(fault))
}
