//! Client authentication with a certificate (RFC 8705 section 2): one that a CA issued to a registered
//! name, or one that is registered itself. And the choice of what a certificate is shown for.

use super::certificate::{CertificateFault, ClientCertificate, Leaf, Name, Roots};
use super::settings::{CertificateName, CertificateRule, CertificateSettings, SettingsError};
use super::spiffe::is_spiffe;
use super::{
    AuthenticatedClient, Caller, ClientFault, Confirmation, Facts, Identity, IdentityError,
    Presented, Proof, dpop,
};
use crate::ids::{AgentId, IssuerId};
use crate::jose::KeySet;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

fn methods<'a>(
    known: impl Iterator<Item = &'a Certificates> + Clone,
) -> impl Iterator<Item = &'static str> {
    let any = |wanted: fn(&Rule) -> bool| known.clone().any(|own| own.rules.iter().any(wanted));
    let issued = any(|rule| matches!(rule, Rule::Issued { .. }));
    let registered = any(|rule| matches!(rule, Rule::Registered(_)));
    let issued = issued.then_some("tls_client_auth");
    let registered = registered.then_some("self_signed_tls_client_auth");
    issued.into_iter().chain(registered)
}

/// The certificates of one agent; any of them will do.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Rule {
    Issued {
        roots: Roots,
        name: CertificateName,
    },
    /// `x5t#S256` of the certificate itself.
    Registered(Vec<String>),
}

impl Certificates {
    pub(super) fn add(&mut self, settings: CertificateSettings) -> Result<(), SettingsError> {
        self.rules.push(match settings.rule {
            CertificateRule::Issued { roots, name } => Rule::Issued {
                roots: Roots::new(&roots).map_err(|fault| SettingsError::Certificate {
                    agent: settings.agent,
                    fault,
                })?,
                name,
            },
            CertificateRule::Registered(certificates) => Rule::Registered(certificates),
        });
        Ok(())
    }

    /// The key that vouches for the certificate; the fault of the first rule where none accepts it.
    fn accept(
        &self,
        certificate: &ClientCertificate,
        leaf: &Leaf,
        now: OffsetDateTime,
    ) -> Result<String, CertificateFault> {
        let mut first = None;
        for rule in &self.rules {
            match rule.accept(certificate, leaf, now) {
                Ok(key) => return Ok(key),
                Err(fault) => drop(first.get_or_insert(fault)),
            }
        }
        Err(first.unwrap_or(CertificateFault::Unregistered))
    }
}

impl Rule {
    fn accept(
        &self,
        certificate: &ClientCertificate,
        leaf: &Leaf,
        now: OffsetDateTime,
    ) -> Result<String, CertificateFault> {
        match self {
            Self::Issued { roots, name } => {
                let key = certificate.issued_under(roots, now)?;
                if leaf.key_usage.is_some_and(|usage| !usage.digital_signature) {
                    return Err(CertificateFault::KeyUsage);
                }
                if has(leaf, name) {
                    Ok(key)
                } else {
                    Err(CertificateFault::Name)
                }
            }
            // Section 2.2: nobody vouches for it but its registration, so no chain is looked at.
            Self::Registered(thumbprints) => {
                if !thumbprints.contains(&certificate.thumbprint()) {
                    return Err(CertificateFault::Unregistered);
                }
                if !leaf.holds_at(now) {
                    return Err(CertificateFault::Expired);
                }
                Ok(leaf.key_sha256.clone())
            }
        }
    }
}

fn has(leaf: &Leaf, name: &CertificateName) -> bool {
    match name {
        CertificateName::SubjectDn(name) => leaf.subject.as_ref() == Some(name),
        CertificateName::Dns(name) => leaf.has(&Name::Dns(name.clone())),
        CertificateName::Uri(uri) => leaf.has(&Name::Uri(uri.clone())),
        CertificateName::Ip(address) => leaf.has(&Name::Ip(*address)),
        CertificateName::Email(address) => leaf.has(&Name::Email(address.clone())),
    }
}

impl Caller {
    /// The same with what the request proved beside: bound to that key, and the proof is spent.
    pub(super) fn with(
        mut self,
        proved: Option<dpop::ProvedKey>,
        certificate: Option<&ClientCertificate>,
    ) -> Self {
        if let Some(proved) = proved {
            self.proved_key = Some(proved.confirmation);
            self.replay.push(proved.replay);
        }
        let bound = self.bound_key.clone();
        self.show(bound.as_ref(), certificate);
        self
    }

    /// What is bound to a certificate goes with exactly that one (RFC 8705 section 3). Whoever shows it
    /// for that gets nothing that is worth more: what is issued is bound to it, too.
    pub fn show(&mut self, bound: Option<&Confirmation>, certificate: Option<&ClientCertificate>) {
        let shown = certificate.map(ClientCertificate::confirmation);
        if self.proved_key.is_none() && shown.is_some() && shown.as_ref() == bound {
            self.proved_key = shown;
        }
    }

    /// Whatever it authenticates with, what it gets is bound to the certificate that it shows (RFC 8705
    /// section 3.4).
    pub fn bind_certificate(
        &mut self,
        certificate: Option<&ClientCertificate>,
    ) -> Result<(), IdentityError> {
        let certificate = certificate.map(ClientCertificate::confirmation);
        let shown = certificate.ok_or(IdentityError::InvalidClient(ClientFault::NoCertificate))?;
        match &self.proved_key {
            Some(other) if *other != shown => {
                Err(IdentityError::InvalidClient(ClientFault::TwoBindings))
            }
            _ => {
                self.proved_key = Some(shown);
                Ok(())
            }
        }
    }
}

impl Identity {
    /// The methods of RFC 8705 section 2 that some client is registered for; none where nobody can
    /// show a certificate.
    pub fn certificate_methods(&self, taken: bool) -> Vec<&'static str> {
        if taken {
            methods(self.certificates.values()).collect()
        } else {
            Vec::new()
        }
    }

    /// Whether a certificate is shown that its client is known by. Good or bad is for
    /// [`Identity::verify`] to say.
    pub fn knows_certificate_of(&self, presented: &Presented) -> bool {
        let named = presented.client_id.as_deref();
        let by_name =
            named.is_some_and(|name| self.certificates.contains_key(name) || is_spiffe(name));
        let is_svid =
            |shown: &ClientCertificate| shown.leaf().is_ok_and(|leaf| self.is_x509_svid(&leaf));
        presented
            .certificate
            .as_ref()
            .is_some_and(|shown| by_name || is_svid(shown))
    }

    /// Who the certificate authenticates. `None`: it was not shown for that, as on a connection of a
    /// service mesh beside a platform's token, or only for a credential to be bound to it.
    pub(super) async fn by_certificate(
        &self,
        certificate: &ClientCertificate,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Option<Caller>, IdentityError> {
        let is_alone = presented.proof_token().is_none();
        let named = presented.client_id.as_deref();
        if let Some(name) = named
            && let Some(known) = self.certificates.get(name)
        {
            return self.registered(certificate, (name, known), now).map(Some);
        }
        let names_workload = named.is_some_and(is_spiffe);
        if !is_alone && !names_workload {
            return Ok(None);
        }
        let refused = |fault| IdentityError::InvalidClient(ClientFault::Certificate(fault));
        let leaf = certificate.leaf().map_err(refused)?;
        if !names_workload && !self.is_x509_svid(&leaf) {
            // RFC 8705 section 2: client_id is required, whatever the certificate's names are.
            return Err(match named {
                Some(_) => IdentityError::InvalidClient(ClientFault::UnknownClient),
                None => refused(CertificateFault::NoClientId),
            });
        }
        let mut caller = self.x509_svid(certificate, now).await?;
        caller.name_client(named)?;
        Ok(Some(caller))
    }

    fn registered(
        &self,
        certificate: &ClientCertificate,
        (name, known): (&str, &Certificates),
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let refused = |fault| IdentityError::InvalidClient(ClientFault::Certificate(fault));
        let leaf = certificate.leaf().map_err(refused)?;
        let issuer_key = known.accept(certificate, &leaf, now).map_err(refused)?;
        let agent: AgentId = name
            .parse()
            .map_err(|_| IdentityError::InvalidClient(ClientFault::UnknownClient))?;
        Ok(Caller {
            issuer: IssuerId::client(),
            issuer_url: self.broker_url.clone(),
            subject: name.to_owned(),
            proof: Proof::ClientCertificate,
            issuer_key,
            claims: Map::from_iter([
                ("iss".to_owned(), Value::from(name)),
                ("sub".to_owned(), Value::from(name)),
            ]),
            facts: Facts::new(),
            barred: BTreeMap::new(),
            // The handshake showed it; a DPoP proof may still be what the credential is bound to.
            bound_key: None,
            proved_key: Some(certificate.confirmation()),
            token_sha256: certificate.sha256(),
            expires_at: leaf.not_after,
            client: Some(AuthenticatedClient {
                keys: self
                    .clients
                    .get(name)
                    .map_or_else(|| Arc::new(KeySet::default()), |client| client.keys()),
                agent,
            }),
            beside: None,
            instance: None,
            named_client: None,
            replay: Vec::new(),
        })
    }
}
