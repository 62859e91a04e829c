//! The JSON that crosses the wire, shared by the doors and by the client. No logic.

mod approved;
mod configured;
mod explained;
mod governed;

pub use approved::{ApprovalState, ApprovalView, Verdict, Vote, VoteRequest};
pub use configured::{ConfigFile, ConfigView, PublishAnswer, PublishRequest, PublishedView};
pub use explained::{
    ExplainAnswer, ExplainQuestion, ExplainRecorded, ExplainRefusal, ExplainRequest,
    ExplainedCheck, NearestMission, RefusedThen, StatedPerson,
};
pub use governed::{
    AgentView, Attention, LastReview, MissionView, ReachPeople, ReachView, RegisteredView,
    RegistrationReceipt, RegistrationRequest, ReviewRequest, ReviewView, SightedAsk, SightingView,
    Subject,
};

use crate::authority::AuthorizationDetail;
use crate::connectors::RevocationClass;
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use time::OffsetDateTime;

pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
pub const CLIENT_CREDENTIALS: &str = "client_credentials";
pub const ASSERTION_JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
pub const ASSERTION_JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// RFC 8693 section 2.2.1, with RFC 9396 section 7 and what Dayfly adds.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenResponse {
    pub access_token: String,
    pub issued_token_type: String,
    /// `Bearer`, `DPoP` or `N_A`.
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    pub authorization_details: Vec<AuthorizationDetail>,
    pub lease_id: LeaseId,
    pub mission: MissionId,
    pub revocation: Revocation,
    /// The structured secret, where the credential is not one bearer string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Value>,
}

/// SECURITY: without the credential, which is what most of it is.
impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("lease_id", &self.lease_id)
            .field("mission", &self.mission)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// What "revoked" means for this credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revocation {
    pub class: RevocationClass,
    /// Worst-case seconds from revoke to dead.
    pub within_seconds: u64,
}

/// RFC 6749 section 5.2, with what Dayfly adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    pub error: String,
    pub error_description: String,
    /// The stable reason code. Exact only once caller, agent and its own mission are established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dayfly_reason: Option<String>,
    /// Which part of the request, e.g. `authorization_details[0].locations[1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    pub refusal_id: String,
    pub retry: Retry,
    /// What waits for people: the id that they approve it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferral_code: Option<String>,
    /// Seconds between two tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u64>,
    /// Seconds that it still waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// What is wrong with a configuration that was not published, as `dayfly check -o json` has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Value>,
}

/// What the caller should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same request will never work.
    Never,
    /// Ask for less.
    Narrow,
    /// With a fresh token, assertion or intent.
    Refresh,
    /// The same request, after `Retry-After` seconds.
    After,
    /// The same request, every `interval` seconds, while people decide.
    Approve,
}

/// RFC 7662 section 2.2. Inactive: `active` and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Introspection {
    pub active: bool,
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

/// What a revocation covers. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Selector {
    Lease(LeaseId),
    Agent(AgentId),
    Mission(MissionId),
    Target(TargetId),
    Owner(String),
    Issuer(String),
    Subject {
        issuer: String,
        subject: String,
    },
    Task(String),
    /// One of several of an agent's processes, as its requests named it.
    Instance {
        agent: AgentId,
        instance: String,
    },
    Delegation(LeaseId),
    /// `kind` as in `pipeline`; `issuer` is the one that proved it.
    Context {
        issuer: String,
        kind: String,
        id: String,
    },
    Label {
        name: String,
        value: String,
    },
    SigningKey(String),
    /// A key that vouched for requests, by its RFC 7638 thumbprint: an issuer's, an agent's, an
    /// intent issuer's, an authority's.
    IssuerKey(String),
    All,
}

/// `POST /admin/v1/revocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationRequest {
    pub selector: Selector,
    pub reason: String,
    /// End what is there and go on minting. Every selector but `lease` holds by default.
    #[serde(default)]
    pub kill_only: bool,
    /// An agent or a mission, for good: only an admin takes it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
}

/// `POST /admin/v1/lifts`: ends a hold. What was killed stays dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiftRequest {
    pub selector: Selector,
    pub reason: String,
}

/// `POST /admin/v1/restrictions`: takes something away on a target, from everybody, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestrictionRequest {
    pub target: TargetId,
    /// Actions in the target's own words; `*` stands for any run of characters.
    pub actions: Vec<String>,
    /// Everywhere, where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// When it lifts by itself. Absent: it stands until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u32>,
    pub reason: String,
    /// End the leases that could do any of it; otherwise they are listed and go on.
    #[serde(default)]
    pub end_leases: bool,
}

/// `POST /admin/v1/restrictions/{id}/lift`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestrictionLift {
    pub reason: String,
}

/// One restriction as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestrictionView {
    /// Absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<uuid::Uuid>,
    /// On which target something is denied to everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetId>,
    /// Or which agent a response keeps short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Seconds that what the agent gets may live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<u32>,
    /// People approve what the agent gets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    pub actions: Vec<String>,
    pub locations: Vec<String>,
    pub ends_leases: bool,
    pub reason: String,
    pub by: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: OffsetDateTime,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<OffsetDateTime>,
}

/// Answer of `POST /admin/v1/restrictions` and of its lift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestrictionReceipt {
    #[serde(flatten)]
    pub restriction: RestrictionView,
    pub state: RestrictionState,
    /// The live leases that could do any of it, a thousand at most.
    pub leases: Vec<LeaseView>,
    /// Nothing was left out of `leases`.
    pub all_listed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestrictionState {
    /// Nothing was done: this is what it would cover.
    DryRun,
    /// In force here, not yet acknowledged by enough replicas.
    NotYetReplicated,
    InForce,
    /// It is over; what it ended stays dead.
    Lifted,
}

/// `POST /admin/v1/leases/{id}/give-up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GiveUpRequest {
    /// Where somebody looked for the credential, and what was found.
    #[schemars(extend("pattern" = r"\S"))]
    pub reason: String,
}

/// Its answer: what stands, and who said it first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseGivenUp {
    pub lease: LeaseId,
    pub by: String,
    pub reason: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: OffsetDateTime,
    /// Whether it outlives a failover of the store. If not, it is to be said again.
    pub replicated: bool,
}

/// `POST /admin/v1/find`. In a body, because it may be a credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindRequest {
    pub query: String,
}

/// Answer of `POST /admin/v1/revocations` and `GET /admin/v1/revocations/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevocationReceipt {
    /// The fence's id. Absent in a dry run, and where no receipt could be written: it is in force, and nobody
    /// can be asked later what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<uuid::Uuid>,
    pub selector: Selector,
    /// Position on the fence log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    pub state: RevocationState,
    /// Whether new credentials for the selector are refused until lifted.
    pub holds: bool,
    /// Absent: it could not be counted now.
    #[serde(flatten)]
    pub covered: Option<Covered>,
}

/// What a revocation covers, as counted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Covered {
    /// Open leases covered, by how they can die.
    pub leases: BTreeMap<String, u64>,
    /// Downstream credentials not yet confirmed dead.
    pub outstanding: u64,
    /// Leases whose record cannot be read, where the selector may reach: as long as there are some, nothing is
    /// confirmed.
    #[serde(default)]
    pub unreadable: u64,
    /// More of the same, of which an operator has said that nobody waits for them any more.
    #[serde(default)]
    pub given_up: u64,
    pub agents: Vec<AgentId>,
    pub targets: Vec<TargetId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocationState {
    /// Nothing was done: this is the blast radius.
    DryRun,
    /// In force here, not yet acknowledged by enough replicas.
    NotYetReplicated,
    /// The hold is over; what it killed stays dead.
    Lifted,
    /// In force, and not everything is confirmed dead yet: a downstream is being ended, or what was decided just
    /// before may still come, or it cannot be counted now.
    Revoking,
    /// Every downstream confirmed, and nothing that was decided before can come any more.
    Confirmed,
    /// Dead at every broker; some credentials cannot be ended downstream and live until they expire.
    ConfirmedExceptExpiry,
}

/// One lease as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseView {
    pub id: LeaseId,
    pub state: String,
    /// Whether the broker would vouch for it now.
    pub alive: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_ended: Option<String>,
    pub agent: AgentId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub owner: String,
    pub mission: MissionId,
    pub target: TargetId,
    pub goal: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    pub issuer: String,
    pub subject: String,
    /// Whom the agent acts for, from the one it began with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_behalf_of: Vec<crate::intent::Principal>,
    /// The lease that it was handed on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<LeaseId>,
    pub authorization_details: Vec<AuthorizationDetail>,
    pub revocation: Revocation,
    pub names: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: OffsetDateTime,
    pub config_hash: String,
}

/// `POST /admin/v1/agents/{id}/invitations`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitationRequest {
    /// 900 where absent, a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_seconds: Option<u32>,
    /// Which machine it is for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvitationAnswer {
    pub agent: AgentId,
    /// Good once. Nobody can be told it again.
    pub join_token: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: OffsetDateTime,
}

/// SECURITY: without the token.
impl fmt::Debug for InvitationAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvitationAnswer")
            .field("agent", &self.agent)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Answer of `POST /enrol`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnrolAnswer {
    pub agent: AgentId,
    /// RFC 7638, SHA-256: the `kid` to send.
    pub thumbprint: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: OffsetDateTime,
}

/// One enrolled key as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnrolledKeyView {
    pub thumbprint: String,
    pub invited_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub enrolled_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: OffsetDateTime,
    /// Why a hold stands on it: then it proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// `POST /admin/v1/keys/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// `access_token`, `checkpoint`, `introspection`, `status_list`, or `federation/TARGET`.
    pub purpose: String,
    /// Removes the old key at once and ends every lease it signed.
    #[serde(default)]
    pub compromised: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotateAnswer {
    pub new_key: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub signs_from: OffsetDateTime,
    pub removed: Vec<String>,
    /// `false`: what the removed keys signed is dead here, and not yet on enough replicas of the store.
    pub replicated: bool,
}

/// `POST /admin/v1/contexts/end`: something outside is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndContextRequest {
    pub issuer: String,
    pub kind: String,
    pub id: String,
    #[serde(default)]
    pub reason: Option<String>,
}

/// A page of something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// More may follow: pass it as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
