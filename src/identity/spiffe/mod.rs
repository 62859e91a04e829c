//! SPIFFE: workloads of a configured trust domain, by JWT-SVID and by X.509-SVID ([`x509`]).
//!
//! In: a token and the bundle of the one trust domain that it names. Out: a [`Caller`] whose subject
//! is its SPIFFE ID. Nothing of another trust domain, and no key of a bundle that is there for
//! certificates, is ever tried. JWT-SVID sections 2 to 4; OAuth SPIFFE client authentication.

mod id;
mod x509;

pub use id::{SpiffeId, is_trust_domain};

pub(super) use id::is_spiffe;

use super::settings::{BundleSource, SettingsError, TrustDomainSettings};
use super::workload::{bounded, sha256};
use super::{
    Caller, ClientFault, Facts, Identity, IdentityError, PresentedToken, Proof, TokenFault,
    TokenType, audience,
};
use crate::jose::claims::times;
use crate::jose::{
    Algorithm, Compact, JoseError, KeyClient, RemoteBundle, RemoteKeysError, TypRule, Verified,
};
use crate::replay;
use crate::secret::Secret;
use serde_json::Value;
use std::collections::BTreeMap;
use time::OffsetDateTime;

const MAX_BYTES: usize = 16 * 1024;

const TYP: TypRule = TypRule::AbsentOr(&["JWT", "JOSE"]);

/// JWT-SVID section 2.1, as far as we verify them; EdDSA is not among them.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Ps256,
    Algorithm::Rs256,
];

#[derive(Debug)]
pub(super) struct TrustDomain {
    settings: TrustDomainSettings,
    bundle: RemoteBundle,
}

/// What a JWT-SVID is presented as: it decides whom it must have been issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use<'a> {
    /// For one of the trust domain's audiences.
    SubjectToken,
    /// For the broker of this URL and for nobody else (RFC 7523bis).
    ClientAssertion(&'a str),
}

impl Identity {
    /// The trust domain of a token that no configured issuer signed, if its subject is a SPIFFE ID.
    pub(super) fn trust_domain_of(&self, compact: &Compact) -> Option<&TrustDomain> {
        let subject = compact.unverified_claims().get("sub")?.as_str()?;
        self.trust_domains
            .get(SpiffeId::parse(subject)?.trust_domain())
    }

    /// `client_assertion` of type `...:jwt-spiffe`. Who the client is, the registry says: it knows
    /// whose SPIFFE ID it is.
    pub(super) async fn svid_assertion(
        &self,
        assertion: &Secret<String>,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let invalid = |fault: ClientFault| IdentityError::InvalidClient(fault);
        let text = assertion.expose();
        let compact =
            Compact::parse(text, MAX_BYTES, &TYP).map_err(|error| invalid(error.into()))?;
        let domain = self
            .trust_domain_of(&compact)
            .ok_or_else(|| invalid(ClientFault::TrustDomain))?;
        let used = Use::ClientAssertion(&self.broker_url);
        domain
            .verify(compact, used, sha256(text), now)
            .await
            .map_err(|error| match error {
                IdentityError::InvalidToken(fault) => invalid(ClientFault::Svid(fault)),
                other => other,
            })
    }
}

impl TrustDomain {
    pub(super) fn new(
        settings: TrustDomainSettings,
        fetcher: &KeyClient,
    ) -> Result<Self, SettingsError> {
        let wrong = |fault: String| SettingsError::Issuer {
            issuer: settings.id.clone(),
            fault,
        };
        let bundle = match &settings.bundle {
            BundleSource::File(path) => RemoteBundle::file(fetcher.clone(), path.clone()),
            BundleSource::Endpoint { url, ca: None } => {
                RemoteBundle::endpoint(fetcher.clone(), url)
            }
            BundleSource::Endpoint {
                url,
                ca: Some(roots),
            } => {
                let client = fetcher.trusting_only(roots);
                let client = client.map_err(|error| wrong(error.to_string()))?;
                RemoteBundle::endpoint(client, url)
            }
        };
        bundle
            .check_address()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { settings, bundle })
    }

    /// Its name, and whether its bundle can be had.
    pub(super) async fn reach(&self, now: OffsetDateTime) -> (String, Result<(), RemoteKeysError>) {
        let bundle = self.bundle.current(None, now).await.map(drop);
        (self.settings.id.to_string(), bundle)
    }

    pub(super) async fn subject_token(
        &self,
        compact: Compact,
        token: &PresentedToken,
        token_sha256: [u8; 32],
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        // SECURITY: an SVID is no OAuth access token; whoever says so means another token.
        if token.token_type == TokenType::AccessToken {
            return Err(IdentityError::InvalidToken(JoseError::Typ.into()));
        }
        self.verify(compact, Use::SubjectToken, token_sha256, now)
            .await
    }

    async fn verify(
        &self,
        compact: Compact,
        used: Use<'_>,
        token_sha256: [u8; 32],
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let algorithm = compact.alg();
        if !ALGORITHMS.contains(&algorithm) {
            return Err(fault(JoseError::AlgorithmRefused));
        }
        let bundle = self
            .bundle
            .current(compact.kid(), now)
            .await
            .map_err(|source| IdentityError::Unavailable {
                issuer: self.settings.id.clone(),
                source,
            })?;
        // SECURITY: only keys that the bundle has for JWT-SVIDs; an X.509 CA's key verifies no token.
        let candidates = bundle.jwt().candidates(compact.kid(), algorithm);
        if candidates.is_empty() {
            return Err(IdentityError::InvalidToken(TokenFault::UnknownKey));
        }
        let verified = compact.verify(&candidates, &ALGORITHMS).map_err(fault)?;
        self.caller(&verified, used, token_sha256, now)
            .map_err(IdentityError::InvalidToken)
    }

    fn caller(
        &self,
        verified: &Verified,
        used: Use<'_>,
        token_sha256: [u8; 32],
        now: OffsetDateTime,
    ) -> Result<Caller, TokenFault> {
        let settings = &self.settings;
        let claims = verified.claims();
        let times = times(claims, now, settings.max_lifetime)?;
        let bound_key = match used {
            Use::SubjectToken => audience::bound_key(claims, &settings.audiences)?,
            Use::ClientAssertion(url) if audience::sole(claims) == Some(url) => {
                audience::bound_key(claims, &[url.to_owned()])?
            }
            Use::ClientAssertion(_) => return Err(TokenFault::Audience),
        };
        let subject = claims.get("sub").and_then(Value::as_str);
        let id = subject
            .and_then(SpiffeId::parse)
            .filter(|id| id.trust_domain() == settings.domain)
            .ok_or(TokenFault::Subject)?;
        let jti = bounded(claims, "jti", 256).map_err(|()| TokenFault::TokenId)?;
        let replay = settings.single_use.then(|| {
            replay::mark(
                replay::SUBJECT_TOKEN,
                &settings.url(),
                jti,
                verified.signing_input(),
                times.expires_at,
            )
        });
        Ok(Caller {
            issuer: settings.id.clone(),
            issuer_url: settings.url(),
            subject: id.as_str().to_owned(),
            proof: Proof::WorkloadToken,
            issuer_key: verified.key().thumbprint().to_owned(),
            facts: facts(id),
            barred: BTreeMap::new(),
            claims: claims.clone(),
            bound_key,
            proved_key: None,
            token_sha256,
            expires_at: times.expires_at,
            client: None,
            beside: None,
            instance: None,
            named_client: None,
            replay: replay.into_iter().collect(),
        })
    }
}

/// Facts of every workload of a trust domain.
pub const FACTS: [&str; 2] = ["spiffe.id", "spiffe.trust_domain"];

fn facts(id: SpiffeId<'_>) -> Facts {
    FACTS
        .into_iter()
        .zip([id.as_str(), id.trust_domain()])
        .map(|(fact, value)| (fact.to_owned(), Value::from(value)))
        .collect()
}

fn fault(error: JoseError) -> IdentityError {
    IdentityError::InvalidToken(error.into())
}
