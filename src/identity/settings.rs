//! What the configuration says about issuers and clients, and what it may not say.

use crate::ids::{AgentId, IssuerId};
use crate::jose::{Algorithm, KeySet};
use crate::secret::Renewed;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::certificate::{CertificateFault, Roots};
use super::presets;
use super::spiffe::is_trust_domain;

/// `[issuer.NAME]`: platforms differ in data, not in code.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    pub id: IssuerId,
    /// Compared byte for byte with the token's `iss` and with the discovery document.
    pub url: String,
    /// Any one of them must be in the token's `aud`; a suffix `#jkt=THUMBPRINT` binds a key.
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    /// Its keys may also be fetched from a private network. Never from a link-local address.
    pub private_network: bool,
    /// PEM certificates that vouch for where its keys are fetched, in the place of the system's.
    pub ca: Option<Vec<u8>>,
    /// How long the last keys that were fetched serve while none can be fetched.
    pub keys_max_age: Duration,
    /// Who is asked whether a token with a good signature still stands, if anybody is.
    pub review: Option<ReviewSettings>,
    /// Endpoints of AWS STS. Where there are any, the issuer has no tokens and no keys: its proofs are
    /// signed requests, and STS says who signed them.
    pub sts: Vec<String>,
    /// Each token once only. Off for platforms that re-send theirs (Kubernetes, GitLab, SPIRE).
    pub single_use: bool,
    /// What tells its workloads' instances apart, where each is held to the first key that it signs with.
    pub pin: Option<PinSettings>,
    /// Its tokens are people's, whom agents may serve, and never an agent's.
    pub people: bool,
    /// Longest accepted exp - iat.
    pub max_lifetime: Duration,
    /// Fact name -> claim path (see [`super::claims::find`]), e.g. `pipeline.run_id` -> `run_id`.
    /// A path that starts with `=` is the value itself: `pipeline.provider` -> `=github`.
    pub facts: BTreeMap<String, String>,
    /// Claims that must be present with one of these values. A multi-tenant issuer needs one.
    pub tenant: BTreeMap<String, Vec<Value>>,
    /// Claim values that are refused unless an agent's identity names them, e.g. GitHub's
    /// `event_name = pull_request_target`.
    pub refused: BTreeMap<String, Vec<Value>>,
}

/// `instance`, `pin_kept`: for platforms whose tokens cannot name a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinSettings {
    /// The claim that one instance has and no other ever will: a pod's uid, a job's id.
    pub claim: String,
    /// How long a key is held to its instance after it was last seen; never less than its token lives.
    pub kept: Duration,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `<url>/.well-known/openid-configuration`, then its `jwks_uri`.
    Discovery,
    JwksUrl(String),
    Fixed(KeySet),
}

/// `token_review`: the cluster is asked about each token that its keys signed.
#[derive(Debug, Clone)]
pub struct ReviewSettings {
    /// Of the API server.
    pub url: String,
    /// A PEM file: whoever vouches for the API server. Absent: the system's roots.
    pub ca: Option<PathBuf>,
    /// The broker's own token, which may create TokenReviews and nothing else.
    pub token: Renewed,
}

/// `[trust_domain.NAME]`: whose SPIFFE IDs count.
#[derive(Debug, Clone)]
pub struct TrustDomainSettings {
    /// The table's name; [`super::Caller::issuer`] of its workloads.
    pub id: IssuerId,
    /// `acme.test`.
    pub domain: String,
    pub bundle: BundleSource,
    /// Any one of them must be in the `aud` of a JWT-SVID that is a subject token.
    pub audiences: Vec<String>,
    /// Each JWT-SVID once only. Off by default: SPIRE's workload API hands out the same one again.
    pub single_use: bool,
    /// Longest accepted exp - iat of a JWT-SVID.
    pub max_lifetime: Duration,
}

impl TrustDomainSettings {
    /// `spiffe://acme.test`: how issuers are named where there is a URL.
    pub fn url(&self) -> String {
        format!("spiffe://{}", self.domain)
    }
}

/// Where a trust domain's bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    /// Kept up to date by somebody else, such as SPIRE's agent or `spiffe-helper`.
    File(PathBuf),
    /// A SPIFFE bundle endpoint of the profile `https_web`.
    Endpoint {
        url: String,
        /// PEM certificates that vouch for the endpoint in the place of the system's.
        ca: Option<Vec<u8>>,
    },
}

/// An agent that authenticates with its own key (`private_key_jwt`). Its client id is its name,
/// its [`super::Caller::issuer`] is `client`.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub agent: AgentId,
    pub keys: KeySet,
    /// Also accept the token endpoint's URL as `aud` (RFC 7523 before 7523bis). Logged.
    pub legacy_audience: bool,
    /// Its machines may enrol keys of their own; then `keys` may be empty.
    pub enrol: bool,
}

/// An agent that authenticates with a certificate (RFC 8705 section 2). Its client id is its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSettings {
    pub agent: AgentId,
    pub rule: CertificateRule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateRule {
    /// `tls_client_auth`: one of these authorities (DER) issued it to this name.
    Issued {
        roots: Vec<Vec<u8>>,
        name: CertificateName,
    },
    /// `self_signed_tls_client_auth`: it is one of these, by `x5t#S256`.
    Registered(Vec<String>),
}

impl CertificateRule {
    /// Whether its authorities can vouch for anybody.
    pub fn check(&self) -> Result<(), CertificateFault> {
        match self {
            Self::Issued { roots, .. } => Roots::new(roots).map(drop),
            Self::Registered(_) => Ok(()),
        }
    }
}

/// RFC 8705 section 2.1.2: exactly one of them identifies the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// RFC 4514, as `openssl x509 -subject -nameopt RFC2253` prints it.
    SubjectDn(String),
    Dns(String),
    Uri(String),
    Ip(IpAddr),
    Email(String),
}

/// Everyone an [`super::Identity`] may recognise.
#[derive(Debug, Clone, Default)]
pub struct Recognised {
    pub issuers: Vec<IssuerSettings>,
    pub trust_domains: Vec<TrustDomainSettings>,
    pub clients: Vec<ClientSettings>,
    pub certificates: Vec<CertificateSettings>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    #[error("issuer `{issuer}`: {fault}")]
    Issuer { issuer: IssuerId, fault: String },
    #[error("two issuers have the url `{0}`: keep one, and tell its agents apart by claims")]
    SameUrl(String),
    #[error(
        "two issuers ask the STS endpoint `{0}`: keep one, and tell its agents apart by claims"
    )]
    SameEndpoint(String),
    #[error("client `{0}` is configured twice")]
    SameClient(AgentId),
    #[error("client `{0}` has no key: it could never authenticate")]
    NoKey(AgentId),
    #[error("a CA certificate of client `{agent}` cannot be used: {fault}")]
    Certificate {
        agent: AgentId,
        fault: CertificateFault,
    },
    #[error(
        "`{0}` cannot be the broker's issuer URL: it must be https (http only on loopback), without query or fragment"
    )]
    BrokerUrl(String),
}

pub(super) fn check(recognised: &Recognised, broker_url: &str) -> Result<(), SettingsError> {
    let Recognised {
        issuers,
        trust_domains,
        clients,
        certificates: _,
    } = recognised;
    if !is_issuer_url(broker_url) {
        return Err(SettingsError::BrokerUrl(broker_url.to_owned()));
    }
    let mut names = BTreeSet::new();
    let mut domains = BTreeSet::new();
    for domain in trust_domains {
        check_trust_domain(domain).map_err(|fault| SettingsError::Issuer {
            issuer: domain.id.clone(),
            fault,
        })?;
        if !domains.insert(&domain.domain) {
            return Err(SettingsError::SameUrl(domain.url()));
        }
        names.insert(&domain.id);
    }
    let mut urls = BTreeSet::new();
    let mut endpoints = BTreeSet::new();
    for issuer in issuers {
        if names.contains(&issuer.id) {
            return Err(SettingsError::Issuer {
                issuer: issuer.id.clone(),
                fault: "a trust domain has the same name".to_owned(),
            });
        }
        check_issuer(issuer, broker_url).map_err(|fault| SettingsError::Issuer {
            issuer: issuer.id.clone(),
            fault,
        })?;
        if !urls.insert(&issuer.url) {
            return Err(SettingsError::SameUrl(issuer.url.clone()));
        }
        if let Some(again) = issuer
            .sts
            .iter()
            .find(|one| !endpoints.insert(one.as_str()))
        {
            return Err(SettingsError::SameEndpoint(again.clone()));
        }
    }
    let mut agents = BTreeSet::new();
    for client in clients {
        if client.keys.keys().is_empty() && !client.enrol {
            return Err(SettingsError::NoKey(client.agent.clone()));
        }
        if !agents.insert(&client.agent) {
            return Err(SettingsError::SameClient(client.agent.clone()));
        }
    }
    Ok(())
}

fn check_trust_domain(domain: &TrustDomainSettings) -> Result<(), String> {
    if domain.id == IssuerId::client() {
        return Err("the name `client` belongs to agents with keys of their own".to_owned());
    }
    if !is_trust_domain(&domain.domain) {
        return Err(format!("`{}` is no trust domain", domain.domain));
    }
    check_audiences(&domain.audiences)?;
    if domain.max_lifetime.is_zero() {
        return Err("`max_lifetime` is zero".to_owned());
    }
    Ok(())
}

fn check_audiences(audiences: &[String]) -> Result<(), String> {
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err(
            "`audience` is empty: tokens meant for someone else would be accepted".to_owned(),
        );
    }
    if let Some(audience) = audiences.iter().find(|one| one.contains("#jkt=")) {
        return Err(format!(
            "audience `{audience}`: the caller appends `#jkt=`, the configuration does not"
        ));
    }
    Ok(())
}

fn check_issuer(issuer: &IssuerSettings, broker_url: &str) -> Result<(), String> {
    if is_brokers_own(&issuer.url, broker_url) {
        return Err("`url` is the broker's own: it vouches for nobody".to_owned());
    }
    // A person's token serves several agents, and what is spent is known to one of them alone.
    if issuer.people && issuer.single_use {
        return Err("`single_use` does not go with `people`".to_owned());
    }
    // A person's key is the one of the sign-in, and a signed request names its own.
    if issuer.pin.is_some() && (issuer.people || !issuer.sts.is_empty()) {
        return Err("`pin` is for workloads' tokens".to_owned());
    }
    if issuer.id == IssuerId::client() {
        return Err("the name `client` belongs to agents with keys of their own".to_owned());
    }
    // Where the keys are fixed nothing is fetched, and `iss` may be any string.
    if !matches!(issuer.keys, KeySource::Fixed(_)) && !is_issuer_url(&issuer.url) {
        return Err("`url` must be https, without query or fragment".to_owned());
    }
    if issuer.url.is_empty() {
        return Err("`url` is empty".to_owned());
    }
    check_audiences(&issuer.audiences)?;
    check_endpoints(&issuer.sts)?;
    if issuer.algorithms.is_empty() && issuer.sts.is_empty() {
        return Err("`algorithms` is empty".to_owned());
    }
    if let Some(review) = &issuer.review
        && !is_issuer_url(&review.url)
    {
        return Err("`token_review.url` must be https, without query or fragment".to_owned());
    }
    if issuer.max_lifetime.is_zero() {
        return Err("`max_lifetime` is zero".to_owned());
    }
    if let Some((claim, _)) = issuer.tenant.iter().find(|(_, values)| values.is_empty()) {
        return Err(format!("tenant claim `{claim}` has no value"));
    }
    // SECURITY: on a shared issuer anyone in the world has a token with a good signature.
    if let Some(wanted) = presets::tenant_claims(&issuer.url)
        && !wanted
            .iter()
            .any(|claim| issuer.tenant.contains_key(*claim))
    {
        return Err(format!(
            "anyone can get a token of this issuer: set `tenant` to one of {}",
            wanted.join(", ")
        ));
    }
    Ok(())
}

/// SECURITY: whoever answers there says who a caller is.
fn check_endpoints(endpoints: &[String]) -> Result<(), String> {
    match endpoints
        .iter()
        .find(|url| !is_issuer_url(url) || has_path(url))
    {
        Some(url) => Err(format!(
            "endpoint `{url}` must be https, without a path or a query"
        )),
        None => Ok(()),
    }
}

fn has_path(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.path() != "/")
}

/// Whether a token of this issuer is one that the broker made.
///
/// SECURITY: what the broker issued itself is a credential that can be handed on, within its own
/// bounds. As a proof of identity it would shed them.
pub fn is_brokers_own(issuer: &str, broker_url: &str) -> bool {
    let rest = issuer.strip_prefix(broker_url);
    rest.is_some_and(|rest| rest.is_empty() || rest == "/" || rest.starts_with("/federation/"))
}

/// `http` is for a broker or an issuer on this very machine. Whether anything may be fetched from
/// there is the key client's decision.
fn is_issuer_url(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else {
        return false;
    };
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && (url.scheme() == "https" || (url.scheme() == "http" && loopback))
}
