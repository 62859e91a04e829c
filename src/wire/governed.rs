//! Agents and missions as operators see and review them.

use crate::agents::governance::Decision;
use crate::authority::AuthorizationDetail;
use crate::ids::{AgentId, IssuerId, MissionId, TargetId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use time::OffsetDateTime;

/// What has an owner, an end and a review: an agent or a mission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Agent(AgentId),
    Mission(MissionId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => write!(f, "agent/{id}"),
            Self::Mission(id) => write!(f, "mission/{id}"),
        }
    }
}

/// One agent as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentView {
    pub id: AgentId,
    pub owner: String,
    pub purpose: String,
    pub ends: String,
    /// `active`, `under_review`, `suspended` or `retired`; `inert` where it is registered and its definition does
    /// not stand beside the files.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who said so: an operator, `source NAME`, `response NAME`, or `dayfly`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Where no operator did: what of the broker's own, such as `governance/dormant` or `response/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub missions: Vec<MissionId>,
    pub live_leases: u64,
    #[serde(flatten)]
    pub attention: Attention,
    /// Who can reach what; not in listings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<ReachView>,
    /// Where it is no file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<RegisteredView>,
}

/// How an agent was registered through the interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegisteredView {
    /// The number of the change that it came with.
    pub since: u64,
    /// The keys of `[agent.NAME]`, and `missions`.
    pub definition: Map<String, Value>,
    /// What is wrong with it beside the files as they are now: with any it gets nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Value>,
}

/// `PUT /admin/v1/agents/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrationRequest {
    /// The keys of `[agent.NAME]`, and `missions`. A date is text: `"2027-03-01"`.
    pub agent: Map<String, Value>,
    /// It is in the audit.
    pub reason: String,
    /// Only if this is still the number of the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// What a change of the registered agents came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationReceipt {
    pub id: AgentId,
    /// Of this change, for `after` of the next one: they only go up.
    pub number: u64,
    /// Whether what was given to this name before is dead.
    pub ended: bool,
    /// `false`: in force, and not yet acknowledged by enough replicas of the store.
    pub replicated: bool,
}

/// One mission as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MissionView {
    pub id: MissionId,
    pub owner: String,
    pub purpose: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// As an agent's.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub agents: Vec<AgentId>,
    #[serde(flatten)]
    pub attention: Attention,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<ReachView>,
}

/// When somebody looked at it, and must look again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attention {
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub next_review: OffsetDateTime,
    /// From then on it gets nothing new, unless it was reviewed.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub refused_from: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_review: Option<LastReview>,
    /// To the hour.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub last_used: Option<OffsetDateTime>,
    /// Unused until then, it is suspended.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub dormant_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastReview {
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: OffsetDateTime,
    pub by: String,
    pub decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What one mission lets one agent do on one target, and what of it was ever asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReachView {
    pub agent: AgentId,
    pub mission: MissionId,
    pub target: TargetId,
    /// How its credentials can be ended.
    pub revocation: String,
    pub may: Vec<AuthorizationDetail>,
    /// The agent's own ceiling, where it leaves only a part of that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<AuthorizationDetail>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Groups of people that it is for; only with one of them behind it, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_behalf_of: Vec<ReachPeople>,
    /// Those people may run the agent themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_person: bool,
    /// The facts whose end ends the lease.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tether: Vec<String>,
    /// How many people approve it each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<u32>,
    /// Why nothing comes of it, whatever is asked: by the configuration alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub last_used: Option<OffsetDateTime>,
    /// Actions that were asked for and granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// Actions of `may` that were never asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never_asked: Vec<String>,
}

/// A group of people that an agent may serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReachPeople {
    pub group: String,
    pub issuer: IssuerId,
    /// The group's ceiling, where it leaves only a part of `may`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<AuthorizationDetail>,
}

/// One line of `GET /admin/v1/reviews`: an agent or a mission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReviewView {
    /// `due`: within the time in which it is announced; `overdue`; `later`.
    pub when: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<MissionView>,
}

/// `POST /admin/v1/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviewRequest {
    pub subject: Subject,
    pub decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Somebody with a valid proof whom no agent is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SightingView {
    pub id: String,
    /// By its name in the configuration.
    pub issuer: IssuerId,
    pub issuer_url: String,
    pub subject: String,
    /// Of the proof, verified.
    pub claims: Map<String, Value>,
    /// Beside the intent, signed by nobody that counts.
    pub asked: Vec<SightedAsk>,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub first_seen: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_seen: OffsetDateTime,
    /// At most once a minute is counted.
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SightedAsk {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<MissionId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
}
