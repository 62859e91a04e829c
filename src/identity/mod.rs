//! Who? In: what the door was presented with. Out: a [`Caller`], or why not.
//!
//! Each kind of proof has a validator of its own: [`workload`] verifies a token that the
//! platform issued (issuers are data, [`presets`] know the common ones), [`spiffe`] an SVID of a
//! trust domain, [`client`] `private_key_jwt` (RFC 7523 with the audience rule of 7523bis), [`mtls`]
//! a client certificate, [`aws`] has STS judge a request that was signed for it. Where a platform
//! has the last word on its own tokens, [`review`] asks for it. Keys of one issuer are never tried on
//! a token of another; nothing in a token chooses where keys come from. [`assertion`] sends the
//! assertion of a `jwt-bearer` grant to the one that it belongs to.
//! Beside any, [`dpop`] verifies that the sender holds a key; by itself that is nobody's identity.

mod assertion;
mod audience;
pub mod aws;
mod cache;
mod certificate;
pub mod claims;
mod client;
pub mod dpop;
pub mod enrolment;
mod fault;
mod keys;
mod mtls;
pub mod person;
mod possession;
pub mod presets;
pub mod review;
mod settings;
mod spiffe;
mod workload;

pub use audience::{is_thumbprint, sole as sole_audience};
pub use cache::VERIFIED_KEPT;
pub use certificate::{CertificateFault, ClientCertificate};
pub use dpop::{DpopFault, DpopProof, Nonces};
pub use enrolment::{EnrolError, EnrolledKey, Enrolment, Instance};
pub use fault::{AssertionFault, ClientFault, IdentityError, TokenFault};
pub use keys::IssuerKeys;
pub use person::Person;
pub use possession::{Confirmation, NotShown, shown};
pub use settings::{
    BundleSource, CertificateName, CertificateRule, CertificateSettings, ClientSettings,
    IssuerSettings, KeySource, PinSettings, Recognised, ReviewSettings, SettingsError,
    TrustDomainSettings, is_brokers_own,
};
pub use spiffe::{FACTS as SPIFFE_FACTS, SpiffeId, is_trust_domain};

mod stated;

use crate::ids::{AgentId, IssuerId};
use crate::jose::{KeyClient, KeySet};
use crate::replay::ReplayMark;
use crate::secret::Secret;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use time::OffsetDateTime;

/// A token as it came in, with the type its sender gave it (RFC 8693 section 3). Unverified.
#[derive(Debug, Clone)]
pub struct PresentedToken {
    pub unverified: Secret<String>,
    pub token_type: TokenType,
}

/// RFC 8693 section 3, the part that Dayfly accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    Jwt,
    IdToken,
    AccessToken,
    /// Transaction Tokens' `self_signed`: an alias for the `intent` parameter, never a proof.
    SelfSigned,
    /// The `assertion` of a `jwt-bearer` grant (RFC 7523 section 2.1). No name on the wire asks for it.
    Assertion,
    /// Our own: a request to AWS STS that its sender signed (see [`aws`]).
    AwsSignedRequest,
}

impl TokenType {
    /// From `urn:ietf:params:oauth:token-type:...`, or [`aws::TOKEN_TYPE`].
    pub fn parse(urn: &str) -> Option<Self> {
        if urn == aws::TOKEN_TYPE {
            return Some(Self::AwsSignedRequest);
        }
        match urn.strip_prefix("urn:ietf:params:oauth:token-type:")? {
            "jwt" => Some(Self::Jwt),
            "id_token" => Some(Self::IdToken),
            "access_token" => Some(Self::AccessToken),
            "self_signed" => Some(Self::SelfSigned),
            _ => None,
        }
    }
}

/// The user and the password of an `Authorization: Basic` header, as sent. Some clients form-encode
/// them first, some do not.
#[derive(Debug, Clone)]
pub struct Basic {
    pub id: String,
    pub secret: Secret<String>,
}

/// Everything a request offers as proof of who sent it. Unverified.
#[derive(Debug, Clone, Default)]
pub struct Presented {
    pub subject_token: Option<PresentedToken>,
    /// RFC 8693 section 2.1: who acts, where the subject is someone else.
    pub actor_token: Option<PresentedToken>,
    pub basic: Option<Basic>,
    /// `client_assertion` of type `...:jwt-bearer` (RFC 7521 section 4.2).
    pub client_assertion: Option<Secret<String>>,
    /// `client_assertion` of type `...:jwt-spiffe`: a JWT-SVID. Never beside the other.
    pub client_svid: Option<Secret<String>>,
    pub client_id: Option<String>,
    /// The `DPoP` header (RFC 9449). Proves a key, and nobody's identity.
    pub dpop: Option<DpopProof>,
    /// What the TLS handshake showed, or a trusted proxy says that one did.
    pub certificate: Option<ClientCertificate>,
}

impl Presented {
    /// The subject token, where it is one: not the alias of the intent.
    fn proof_token(&self) -> Option<&PresentedToken> {
        self.subject_token
            .as_ref()
            .filter(|token| token.token_type != TokenType::SelfSigned)
    }

    /// The intent, where it was sent as a `self_signed` subject token.
    pub fn unverified_self_signed(&self) -> Option<&Secret<String>> {
        self.subject_token
            .as_ref()
            .filter(|token| token.token_type == TokenType::SelfSigned)
            .map(|token| &token.unverified)
    }
}

/// Verified facts by their configured names.
pub type Facts = BTreeMap<String, Value>;

/// What proved the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A token issued by the platform the caller runs on.
    WorkloadToken,
    /// `private_key_jwt` with a key registered for the agent.
    ClientAssertion,
    /// A request that AWS STS says is signed by the caller's credentials.
    SignedRequest,
    /// A person's sign-in, bound to a key of the person's machine.
    Person,
    /// A certificate registered for the agent, by name or by itself (RFC 8705).
    ClientCertificate,
    /// An X.509-SVID of the workload.
    Svid,
}

/// A verified bootstrap identity. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(in crate::identity) issuer: IssuerId,
    pub(in crate::identity) issuer_url: String,
    pub(in crate::identity) subject: String,
    pub(in crate::identity) proof: Proof,
    pub(in crate::identity) issuer_key: String,
    pub(in crate::identity) claims: Map<String, Value>,
    pub(in crate::identity) facts: Facts,
    pub(in crate::identity) barred: BTreeMap<String, Value>,
    pub(in crate::identity) bound_key: Option<Confirmation>,
    pub(in crate::identity) proved_key: Option<Confirmation>,
    pub(in crate::identity) token_sha256: [u8; 32],
    pub(in crate::identity) expires_at: OffsetDateTime,
    pub(in crate::identity) client: Option<AuthenticatedClient>,
    pub(in crate::identity) beside: Option<Box<Caller>>,
    pub(in crate::identity) instance: Option<Instance>,
    pub(in crate::identity) named_client: Option<String>,
    pub(in crate::identity) replay: Vec<ReplayMark>,
}

/// Who signed the client assertion of this request.
#[derive(Debug, Clone)]
pub(in crate::identity) struct AuthenticatedClient {
    agent: AgentId,
    keys: Arc<KeySet>,
}

impl Caller {
    /// The issuer's name in the configuration; `client` for [`Proof::ClientAssertion`].
    pub fn issuer(&self) -> &IssuerId {
        &self.issuer
    }
    /// The broker's own URL for [`Proof::ClientAssertion`]: it is the broker who registered the key.
    pub fn issuer_url(&self) -> &str {
        &self.issuer_url
    }
    pub fn subject(&self) -> &str {
        &self.subject
    }
    pub fn proof(&self) -> Proof {
        self.proof
    }
    /// RFC 7638 thumbprint of the key that signed the proof. Not its `kid`: two issuers may both
    /// call theirs `1`. For [`Proof::SignedRequest`] the id of the access key, which AWS draws.
    pub fn issuer_key(&self) -> &str {
        &self.issuer_key
    }
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
    /// A verified claim by its dotted path (see [`claims::find`]).
    pub fn claim(&self, path: &str) -> Option<&Value> {
        claims::find(&self.claims, path)
    }
    /// Facts that the platform's own signature proves, by their configured names.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    /// Claims with a value that the issuer's settings refuse. Whoever is matched by them must name
    /// each with exactly this value.
    pub fn barred(&self) -> &BTreeMap<String, Value> {
        &self.barred
    }
    /// What the proof is bound to (`cnf`, `aud = ...#jkt=...`). The proof alone does not show
    /// possession of it.
    pub fn bound_key(&self) -> Option<&Confirmation> {
        self.bound_key.as_ref()
    }
    /// What the request itself showed possession of (a DPoP proof). The credential is bound to it.
    pub fn proved_key(&self) -> Option<&Confirmation> {
        self.proved_key.as_ref()
    }
    pub fn token_sha256(&self) -> &[u8; 32] {
        &self.token_sha256
    }
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }
    /// The registered client that signed this request's assertion: the agent must be this one.
    pub fn client(&self) -> Option<&AgentId> {
        self.client.as_ref().map(|client| &client.agent)
    }
    /// The keys registered for [`Caller::client`].
    pub fn client_keys(&self) -> Option<&KeySet> {
        self.client.as_ref().map(|client| client.keys.as_ref())
    }
    /// The workload whose SVID authenticated the client beside a subject token: it must be the same
    /// agent's.
    pub fn beside(&self) -> Option<&Caller> {
        self.beside.as_deref()
    }
    /// Which pod or job it is, where that one is held to the first key that it signs with.
    pub fn instance(&self) -> Option<&Instance> {
        self.instance.as_ref()
    }
    /// The `client_id` parameter, where it was sent without a client assertion. A statement, not a
    /// proof: it can only turn a request down.
    pub fn named_client(&self) -> Option<&str> {
        self.named_client.as_deref()
    }
    /// SPIFFE client authentication: a `client_id` that is a SPIFFE ID must be this workload's. Any
    /// other is an agent's name, which the registry compares.
    fn name_client(&mut self, client_id: Option<&str>) -> Result<(), IdentityError> {
        match client_id {
            Some(named) if spiffe::is_spiffe(named) => {
                if named != self.subject {
                    return Err(IdentityError::InvalidClient(ClientFault::OtherClient));
                }
            }
            named => self.named_client = named.map(str::to_owned),
        }
        Ok(())
    }
    /// What this request spends when its lease is reserved.
    pub fn replay(&self) -> &[ReplayMark] {
        &self.replay
    }
}

/// Verifies what the door was presented with. Immutable: a reload builds another one, and with it
/// an empty cache.
#[derive(Debug)]
pub struct Identity {
    broker_url: String,
    issuers: Arc<HashMap<String, workload::Issuer>>,
    trust_domains: Arc<HashMap<String, spiffe::TrustDomain>>,
    sts: Arc<Vec<aws::Sts>>,
    clients: HashMap<String, client::Client>,
    enrolment: Option<Arc<Enrolment>>,
    certificates: Arc<HashMap<String, mtls::Certificates>>,
    cache: Arc<cache::Verified>,
    nonces: Option<Nonces>,
}

impl Identity {
    /// `fetcher` fetches the keys of every issuer whose keys are not fixed, and decides how far
    /// beyond the public internet it may go for them.
    pub fn new(
        issuers: Vec<IssuerSettings>,
        clients: Vec<ClientSettings>,
        broker_url: String,
        fetcher: &KeyClient,
    ) -> Result<Self, SettingsError> {
        let recognised = Recognised {
            issuers,
            clients,
            ..Recognised::default()
        };
        Self::of(recognised, broker_url, fetcher)
    }

    /// The same with every kind of proof.
    pub fn of(
        recognised: Recognised,
        broker_url: String,
        fetcher: &KeyClient,
    ) -> Result<Self, SettingsError> {
        settings::check(&recognised, &broker_url)?;
        let mut issuers = HashMap::new();
        let mut sts = Vec::new();
        for settings in recognised.issuers {
            if !settings.sts.is_empty() {
                sts.push(aws::Sts::new(settings, fetcher)?);
                continue;
            }
            let url = settings.url.clone();
            issuers.insert(url, workload::Issuer::new(settings, &broker_url, fetcher)?);
        }
        let mut trust_domains = HashMap::new();
        for settings in recognised.trust_domains {
            let name = settings.domain.clone();
            trust_domains.insert(name, spiffe::TrustDomain::new(settings, fetcher)?);
        }
        let clients = recognised
            .clients
            .into_iter()
            .map(client::Client::new)
            .map(|client| (client.id().to_owned(), client))
            .collect();
        let mut certificates: HashMap<String, mtls::Certificates> = HashMap::new();
        for settings in recognised.certificates {
            let name = settings.agent.to_string();
            certificates.entry(name).or_default().add(settings)?;
        }
        Ok(Self {
            broker_url,
            issuers: Arc::new(issuers),
            trust_domains: Arc::new(trust_domains),
            sts: Arc::new(sts),
            clients,
            enrolment: None,
            certificates: Arc::new(certificates),
            cache: Arc::new(cache::Verified::new()),
            nonces: None,
        })
    }

    /// From now on every DPoP proof must carry one of these.
    #[must_use]
    pub fn demanding(mut self, nonces: Option<Nonces>) -> Self {
        self.nonces = nonces;
        self
    }

    /// With the keys that machines enrolled, for the clients that may have such keys.
    #[must_use]
    pub fn with_enrolment(mut self, enrolment: Arc<Enrolment>) -> Self {
        self.enrolment = Some(enrolment);
        self
    }

    /// Whether the configuration lets this agent's machines enrol keys of their own.
    pub fn enrols(&self, agent: &AgentId) -> bool {
        self.enrolment.is_some()
            && self
                .clients
                .get(agent.as_str())
                .is_some_and(client::Client::enrols)
    }

    /// The subject token, if there is one, says who the caller is; a client assertion beside it
    /// authenticates the client, which must turn out to be the same agent (`agents` decides that).
    /// Whatever was presented must be good: a bad proof never falls back to a lesser one.
    pub async fn verify(
        &self,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        if let Some(basic) = &presented.basic {
            // An empty secret identifies and proves nothing (oauthlib sends one beside every
            // assertion). A real one must not be taken for authentication that succeeded.
            if !basic.secret.expose().is_empty() {
                return Err(IdentityError::InvalidClient(ClientFault::SharedSecret));
            }
        }
        let proved = self.proved(presented, now)?;
        let caller = self.identify(presented, now).await?;
        Ok(caller.with(proved, presented.certificate.as_ref()))
    }

    /// The key of the DPoP proof, where one was sent.
    fn proved(
        &self,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Option<dpop::ProvedKey>, IdentityError> {
        let proof = presented.dpop.as_ref();
        proof.map(|proof| self.prove(proof, now)).transpose()
    }

    /// Who, by the token or the assertion.
    async fn identify(
        &self,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let client = self.authenticated(presented, now).await?;
        let Some(token) = presented.proof_token() else {
            return client.ok_or(IdentityError::Missing);
        };
        let mut caller = match token.token_type {
            TokenType::Assertion => self.granted_by(token, presented, now).await?,
            TokenType::AwsSignedRequest => self.signed_request(token, now).await?,
            _ => self.workload(token, now).await?,
        };
        // SECURITY: whoever can sign in is not thereby an agent.
        if caller.proof == Proof::Person {
            return Err(IdentityError::InvalidToken(TokenFault::Person));
        }
        if let Some(client) = &client {
            caller.proved_key.clone_from(&client.proved_key);
        }
        match client {
            // SECURITY: two agents that both sign for themselves are two callers.
            Some(other)
                if caller.client.is_some()
                    && other.client.is_some()
                    && caller.subject != other.subject =>
            {
                return Err(IdentityError::InvalidClient(ClientFault::OtherClient));
            }
            Some(client) if client.client.is_some() => {
                caller.client = client.client;
                caller.replay.extend(client.replay);
            }
            Some(client) => {
                caller.named_client.clone_from(&client.named_client);
                caller.replay.extend(client.replay.clone());
                caller.beside = Some(Box::new(client));
            }
            None if caller.client.is_some() => {}
            None => caller.name_client(presented.client_id.as_deref())?,
        }
        Ok(caller)
    }

    /// How clients may authenticate: values of `token_endpoint_auth_methods_supported`.
    pub fn methods(&self, with_certificates: bool) -> Vec<&'static str> {
        let mut methods = vec!["private_key_jwt"];
        methods.extend(self.certificate_methods(with_certificates));
        if !self.trust_domains.is_empty() {
            methods.push("spiffe_jwt");
            methods.extend(with_certificates.then_some("spiffe_x509"));
        }
        methods.push("none");
        methods
    }

    /// Client authentication, whatever else is presented.
    async fn authenticated(
        &self,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Option<Caller>, IdentityError> {
        let named = presented.client_id.as_deref();
        if let Some(assertion) = &presented.client_assertion {
            return self.client(assertion, presented, now).await.map(Some);
        }
        if let Some(svid) = &presented.client_svid {
            let mut caller = self.svid_assertion(svid, now).await?;
            caller.name_client(named)?;
            return Ok(Some(caller));
        }
        // RFC 8705 section 3: beside an assertion, a certificate authenticates nobody; a credential
        // may be bound to it.
        if let Some(certificate) = &presented.certificate {
            return self.by_certificate(certificate, presented, now).await;
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
#[path = "../../tests/it/support/certificates.rs"]
pub(crate) mod certificates;
#[cfg(test)]
#[path = "../../tests/it/support/tokens.rs"]
pub(crate) mod tokens;
