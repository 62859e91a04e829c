//! What the configuration says about issuers and clients, and what it may not say.

use crate::ids::{AgentId, IssuerId};
use crate::jose::{Algorithm, KeySet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

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
    /// Each token once only. Off for platforms that re-send theirs (Kubernetes, GitLab, SPIRE).
    pub single_use: bool,
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

/// Where an issuer's keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `<url>/.well-known/openid-configuration`, then its `jwks_uri`.
    Discovery,
    JwksUrl(String),
    Fixed(KeySet),
}

/// An agent that authenticates with its own key (`private_key_jwt`). Its client id is its name,
/// its [`super::Caller::issuer`] is `client`.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub agent: AgentId,
    pub keys: KeySet,
    /// Also accept the token endpoint's URL as `aud` (RFC 7523 before 7523bis). Logged.
    pub legacy_audience: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    #[error("issuer `{issuer}`: {fault}")]
    Issuer { issuer: IssuerId, fault: String },
    #[error("two issuers have the url `{0}`: keep one, and tell its agents apart by claims")]
    SameUrl(String),
    #[error("client `{0}` is configured twice")]
    SameClient(AgentId),
    #[error("client `{0}` has no key: it could never authenticate")]
    NoKey(AgentId),
    #[error("`{0}` cannot be the broker's issuer URL: it must be https, without query or fragment")]
    BrokerUrl(String),
}
