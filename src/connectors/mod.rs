//! Mint and end. In: a grant and the lease reserved for it. Out: [`Minted`], or why nothing was (or
//! may have been) made.
//!
//! One file per kind of downstream. Each states its [`Promises`] and is held to them twice: by one
//! conformance suite, and at run time by [`Connectors`], which checks every mint against them.

mod access_token;
pub mod api_key;
mod aws;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use aws::pattern as aws_pattern;
mod breaker;
#[cfg(test)]
mod conformance;
pub mod handle;
mod opaque;
mod postgres;
mod registry;

pub use access_token::status_list_uri;
pub use registry::{Connectors, ConnectorsError, Setup};

use crate::authority::Vocabulary;
use crate::ids::LeaseId;
use crate::policy::{Binding, Grant};
use crate::secret::Secret;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;

/// How a credential can be ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocationClass {
    /// The broker's word decides at use time.
    Broker,
    /// The downstream ends this one credential and confirms.
    Native,
    /// A deny rule for this one session is put downstream.
    Deny,
    /// Cannot be ended; the lifetime is capped hard.
    Expiry,
}

impl RevocationClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Native => "native",
            Self::Deny => "deny",
            Self::Expiry => "expiry",
        }
    }
}

/// RFC 8693 section 3: usable as a bearer token, whatever it looks like inside.
pub const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Our own: temporary AWS credentials, in the answer's `credential`.
pub const AWS_SESSION_TYPE: &str = "urn:dayfly:params:token-type:aws-session";

/// Our own: the login of a PostgreSQL role, in the answer's `credential`.
pub const POSTGRES_LOGIN_TYPE: &str = "urn:dayfly:params:token-type:postgres-login";

/// What a connector can be held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    pub class: RevocationClass,
    /// Worst case from "revoke" to dead; `None`: not before the credential expires.
    pub dead_within: Option<Duration>,
    /// Mints without a downstream call: reserve and activate are one commit.
    pub local: bool,
    /// The lease id names the credential downstream, so an orphan can be ended unseen.
    pub named_by_lease: bool,
    /// Past its expiry nothing is left of it. Not so where a session outlives its login.
    pub expires_by_itself: bool,
    /// What it mints points to its place in a status list.
    pub status_list: bool,
    /// `authorization_details[].type`.
    pub detail_type: &'static str,
}

/// What `end` needs later and the lease keeps sealed.
pub type Handle = Secret<Vec<u8>>;

/// A fresh credential, on its way to the one who asked.
#[derive(Debug)]
pub struct Minted {
    /// The bearer string, where the credential is one. Else the answer's `access_token` is a
    /// [`handle`] of the lease, and its `token_type` is `N_A`.
    pub token: Option<Secret<String>>,
    /// Where it is not: its fields as a JSON object, secret values included.
    pub credential: Option<Secret<String>>,
    /// [`ACCESS_TOKEN_TYPE`], [`AWS_SESSION_TYPE`] or [`POSTGRES_LOGIN_TYPE`].
    pub issued_token_type: &'static str,
    pub handle: Option<Handle>,
    /// Public names it is seen by downstream (AKIA key id, session name), for `dayfly find`.
    pub names: Vec<String>,
    /// The downstream's own expiry: never later than the grant allows.
    pub expires_at: OffsetDateTime,
    /// SHA-256 of `token`, where there is one; the string itself is never kept.
    pub token_sha256: Option<[u8; 32]>,
    /// The id of the key that signed it, where we signed.
    pub signing_key: Option<String>,
}

/// What `end` found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The downstream confirmed: no access left.
    Dead,
    /// No access left, rubbish remains to be collected.
    DeadUncollected,
    /// It cannot be ended and lives until it expires.
    LivesUntilExpiry,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Nothing was made; the same request will fail again.
    #[error("the target refused: {0}")]
    Refused(String),
    /// Nothing was made; later may go better.
    #[error("the target cannot be reached: {0}")]
    Unavailable(String),
    /// Nothing was made: it answered, and is another one than the lease was reserved for. Asked again, it is known.
    #[error("the target was replaced: {0}")]
    Replaced(String),
    /// The answer was lost: a credential may exist that nobody holds.
    #[error("the target's answer was lost: {0}")]
    Unknown(String),
    /// The grant cannot be expressed downstream without widening it.
    #[error("the grant cannot be put in the target's terms: {0}")]
    Inexpressible(String),
}

/// Everything a connector is told about the lease it mints for.
#[derive(Debug, Clone, Copy)]
pub struct MintContext<'a> {
    pub lease: &'a LeaseId,
    /// When the lease ends, whatever the downstream says.
    pub expires_at: OffsetDateTime,
    /// No mint is sent after this.
    pub mint_by: OffsetDateTime,
    pub now: OffsetDateTime,
    /// Its index in the status list of the lease's shard, where the connector promises one.
    pub status: Option<u32>,
    /// What the lease was reserved with: the connector's own [`Connector::beforehand`].
    pub beforehand: Option<&'a Handle>,
}

/// The connection part of `[target.NAME]`, by `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConnectorSettings {
    /// RFC 9068 JWT signed by the broker.
    AccessToken {
        /// Whether tokens carry a place in a status list, for APIs that do not introspect.
        #[serde(default)]
        status_list: bool,
    },
    /// Opaque key with a checksum, stored hashed.
    ApiKey {},
    Aws(AwsSettings),
    Postgres(PostgresSettings),
}

/// What is wrong with one key of a target's settings, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {why}")]
pub struct SettingProblem {
    pub key: &'static str,
    pub why: &'static str,
}

impl ConnectorSettings {
    /// What is wrong, as far as it shows without asking the downstream. Empty: nothing.
    pub fn problems(&self) -> Vec<SettingProblem> {
        match self {
            Self::AccessToken { .. } | Self::ApiKey {} => Vec::new(),
            Self::Aws(aws) => aws.problems(),
            Self::Postgres(postgres) => postgres.problems(),
        }
    }

    /// What authority on this target is written in.
    pub fn vocabulary(&self) -> Vocabulary {
        match self {
            Self::AccessToken { .. } | Self::ApiKey {} => Vocabulary::Scopes,
            Self::Aws(_) => Vocabulary::Aws,
            Self::Postgres(_) => Vocabulary::Sql,
        }
    }

    /// Whether what it mints can be bound to a key that the request proved.
    pub fn binding(&self) -> Binding {
        match self {
            // The key of an opaque one is told where everything about it is told: at introspection.
            Self::AccessToken { .. } | Self::ApiKey {} => Binding::Bound,
            Self::Aws(_) | Self::Postgres(_) => Binding::Fields,
        }
    }

    /// Whether the target trusts tokens that the broker signs for it alone.
    pub fn is_federated(&self) -> bool {
        matches!(self, Self::Aws(aws) if aws.method == AwsMethod::WebIdentity)
    }

    /// The same as the built connector's, without building it: what `dayfly check` and policy
    /// know of a target. `fence_view_max_age` is the installation's bound on a broker-side death.
    pub fn promises(&self, fence_view_max_age: Duration) -> Promises {
        match self {
            Self::AccessToken { status_list } => Promises {
                status_list: *status_list,
                ..broker_side(fence_view_max_age, "access_token")
            },
            Self::ApiKey {} => broker_side(fence_view_max_age, "api_key"),
            Self::Aws(_) => Promises {
                // INVARIANT: below the 900 s that STS issues at least. The session policy ends the
                // authority on the second, whatever the session's own expiry says.
                min_ttl: Duration::from_secs(60),
                max_ttl: LONGEST,
                class: RevocationClass::Expiry,
                dead_within: None,
                local: false,
                named_by_lease: true,
                expires_by_itself: true,
                status_list: false,
                detail_type: "aws_session",
            },
            Self::Postgres(_) => Promises {
                min_ttl: Duration::from_secs(30),
                max_ttl: LONGEST,
                class: RevocationClass::Native,
                dead_within: Some(Duration::from_secs(10)),
                local: false,
                named_by_lease: true,
                // `VALID UNTIL` stops logins; an open session goes on.
                expires_by_itself: false,
                status_list: false,
                detail_type: "postgres_login",
            },
        }
    }
}

/// No connector promises a longer life than this.
const LONGEST: Duration = Duration::from_secs(3600);

fn broker_side(fence_view_max_age: Duration, detail_type: &'static str) -> Promises {
    Promises {
        min_ttl: Duration::from_secs(1),
        max_ttl: LONGEST,
        class: RevocationClass::Broker,
        dead_within: Some(fence_view_max_age),
        local: true,
        named_by_lease: true,
        expires_by_itself: true,
        status_list: false,
        detail_type,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsSettings {
    /// The role's ARN.
    pub role: String,
    /// STS region, e.g. `eu-west-1`.
    #[serde(default = "default_region")]
    pub region: String,
    /// Another STS endpoint: VPC endpoints, tests.
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub method: AwsMethod,
    #[serde(default)]
    pub external_id: Option<String>,
    /// Secret references (`env:`, `file:`, `cmd:`) for `assume_role`; absent: the ambient chain.
    #[serde(default)]
    pub access_key_id: Option<String>,
    #[serde(default)]
    pub secret_access_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AwsMethod {
    /// AssumeRoleWithWebIdentity with the broker's own federation token: no AWS key at rest.
    #[default]
    WebIdentity,
    AssumeRole,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// As the broker and the holder of a login reach it: one, or all that may be the primary, with commas between.
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
    pub database: String,
    /// The broker's own role: CREATEROLE, member of `pg_signal_backend`, and what it is to grant
    /// held WITH GRANT OPTION.
    pub username: String,
    /// A secret reference (`env:`, `file:`, `cmd:`).
    pub password: String,
    /// The certificates that the server's is checked against, as a reference to PEM. Absent: no
    /// TLS, which only a server on loopback may go without.
    #[serde(default)]
    pub ca: Option<String>,
    /// Sessions that one login may have at once.
    #[serde(default = "default_connections")]
    pub connections: u16,
    /// Servers that are no more, by their system identifiers: what was made there is dead.
    #[serde(default)]
    pub gone: Vec<String>,
}

fn sha256(text: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

fn default_port() -> u16 {
    5432
}

fn default_connections() -> u16 {
    4
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync {
    fn promises(&self) -> Promises;

    /// What `end` will need and is known before anything is made: which server it will be made on. Kept with the
    /// reservation, so that it is there where the mint's answer is lost. Nothing is made by asking.
    async fn beforehand(&self) -> Result<Option<Handle>, ConnectorError> {
        Ok(None)
    }

    async fn mint(&self, grant: &Grant, context: MintContext<'_>)
    -> Result<Minted, ConnectorError>;

    /// Idempotent; ending what is gone succeeds. Works from the lease id alone wherever the
    /// downstream can be named by it. Where no mint was answered, the handle is that of `beforehand`.
    async fn end(&self, lease: &LeaseId, handle: Option<&Handle>) -> Result<Ended, ConnectorError>;

    /// Is the downstream there, and are we allowed what we need? Names what to change.
    async fn check(&self) -> Result<(), ConnectorError>;
}
