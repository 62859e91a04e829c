//! What waits for people, and what they said.

use crate::authority::AuthorizationDetail;
use crate::ids::{AgentId, MissionId, TargetId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// It waits.
    Pending,
    /// Enough people have said yes.
    Approved,
    /// Somebody said no, or took a yes back: what was issued on it is ended.
    Denied,
}

/// A request that people approve: exactly what a credential would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    /// Made of what is asked, and another one when the same is asked anew.
    pub id: String,
    pub state: ApprovalState,
    pub agent: AgentId,
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub mission: MissionId,
    pub target: TargetId,
    /// RFC 9396: what would be granted, after every narrowing. `max_ttl`: seconds one credential would live.
    pub authorization_details: Vec<AuthorizationDetail>,
    pub audience: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Whom the agent acts for, from the one it began with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_behalf_of: Vec<String>,
    /// A person runs the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_person: bool,
    /// What ends it when it ends: kind and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hangs_on: Vec<String>,
    /// Good only with the key that the request proves.
    pub bound: bool,
    /// What the agent says it is for. Nobody has verified it.
    pub goal: String,
    /// What was verified about the request when it was asked. A mission may `require` it, each time anew.
    pub facts: Map<String, Value>,
    /// Who proved the agent, and its name there.
    pub issuer: String,
    pub subject: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub asked_at: OffsetDateTime,
    /// How many people have to say yes.
    pub needed: u32,
    /// Who may; empty: whoever may review.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    pub votes: Vec<Vote>,
    /// What people said no to and the same agent asked for before, of the same mission on the same target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied_before: Vec<String>,
    /// Until then it waits, or is good; then it is forgotten.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub until: OffsetDateTime,
}

/// What one person said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vote {
    pub by: String,
    pub verdict: Verdict,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Approve,
    /// Of what was approved, too: it ends what was issued on it.
    Deny,
}

/// `POST /admin/v1/approvals/{id}/approve` and `/deny`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VoteRequest {
    /// At most 500 characters. It is in the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
