//! Who? In: what the door was presented with. Out: a [`Caller`], or why not.

mod stated;

use crate::ids::{AgentId, IssuerId};
use crate::jose::{Algorithm, KeySet};
use crate::replay::ReplayMark;
use crate::secret::Secret;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;

/// A token as it came in, with the type its sender gave it (RFC 8693 section 3). Unverified.
#[derive(Debug, Clone)]
pub struct PresentedToken {
    pub unverified: Secret<String>,
    pub token_type: TokenType,
}

/// RFC 8693 section 3, the part that Dayfly accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    Jwt,
    IdToken,
    AccessToken,
    /// Transaction Tokens' `self_signed`: an alias for `intent`.
    SelfSigned,
}

/// How the client says who it is (RFC 6749 section 2.3, RFC 7521 section 4.2). At most one.
#[derive(Debug, Clone, Default)]
pub enum ClientAuthentication {
    #[default]
    None,
    /// The raw user and password of the `Authorization` header. Some clients form-encode them
    /// first, some do not: both readings are tried.
    Basic { id: String, secret: Secret<String> },
    /// `client_assertion` of type `...:jwt-bearer`.
    Assertion(Secret<String>),
}

/// Everything a request offers as proof of who sent it. Unverified.
#[derive(Debug, Clone, Default)]
pub struct Presented {
    pub subject_token: Option<PresentedToken>,
    pub client: ClientAuthentication,
    pub client_id: Option<String>,
}

/// A value of a verified fact or claim.
pub type Facts = BTreeMap<String, Value>;

/// What proved the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A token issued by the platform the caller runs on.
    WorkloadToken,
    /// `private_key_jwt` with a key registered for the agent.
    ClientAssertion,
}

/// A verified bootstrap identity. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(in crate::identity) issuer: IssuerId,
    pub(in crate::identity) issuer_url: String,
    pub(in crate::identity) subject: String,
    pub(in crate::identity) proof: Proof,
    /// The id of the key that signed the proof.
    pub(in crate::identity) issuer_key: String,
    pub(in crate::identity) claims: Map<String, Value>,
    pub(in crate::identity) facts: Facts,
    /// RFC 7638 thumbprint of the key the proof is bound to (`cnf.jkt`, `aud = ...#jkt=...`).
    pub(in crate::identity) bound_key: Option<String>,
    pub(in crate::identity) token_sha256: [u8; 32],
    pub(in crate::identity) expires_at: OffsetDateTime,
    /// Set where the proof may be used once only.
    pub(in crate::identity) replay: Option<ReplayMark>,
}

impl Caller {
    pub fn issuer(&self) -> &IssuerId {
        &self.issuer
    }
    pub fn issuer_url(&self) -> &str {
        &self.issuer_url
    }
    pub fn subject(&self) -> &str {
        &self.subject
    }
    pub fn proof(&self) -> Proof {
        self.proof
    }
    pub fn issuer_key(&self) -> &str {
        &self.issuer_key
    }
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
    /// Facts that the platform's own signature proves, by their configured names.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    pub fn bound_key(&self) -> Option<&str> {
        self.bound_key.as_deref()
    }
    pub fn token_sha256(&self) -> &[u8; 32] {
        &self.token_sha256
    }
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }
    pub fn replay(&self) -> Option<&ReplayMark> {
        self.replay.as_ref()
    }
}

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
    /// Fact name -> claim name (dots walk into objects), e.g. `pipeline.run_id` -> `run_id`.
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
/// its [`Caller::issuer`] is `client`.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub agent: AgentId,
    pub keys: KeySet,
    /// Also accept the token endpoint's URL as `aud` (RFC 7523 before 7523bis). Logged.
    pub legacy_audience: bool,
}
