//! How far? In: an admitted agent and its intent. Out: a [`Grant`], or the one condition that failed.

use crate::authority::{Authority, Vocabulary};
use crate::fences::Dimension;
use crate::ids::{AgentId, MissionId, TargetId};
use crate::intent::SignerClass;
use crate::replay::ReplayMark;
use crate::store::Position;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use time::{Date, OffsetDateTime};

/// What the decision allows. Only policy can make one: minting without a decision does not compile.
#[derive(Debug, Clone)]
pub struct Grant {
    pub(in crate::policy) agent: AgentId,
    pub(in crate::policy) instance: Option<String>,
    pub(in crate::policy) owner: String,
    pub(in crate::policy) mission: MissionId,
    pub(in crate::policy) target: TargetId,
    /// `authorization_details[].type` of the target's vocabulary.
    pub(in crate::policy) detail_type: &'static str,
    pub(in crate::policy) authority: Authority,
    /// What the granted token is for: the `resource` asked, or the target's name.
    pub(in crate::policy) audience: String,
    pub(in crate::policy) ttl: Duration,
    pub(in crate::policy) issuer_url: String,
    pub(in crate::policy) subject: String,
    pub(in crate::policy) task: Option<String>,
    pub(in crate::policy) goal: String,
    pub(in crate::policy) signer: SignerClass,
    /// RFC 7638 thumbprint that the credential is bound to, where the request proved one.
    pub(in crate::policy) bound_key: Option<String>,
    /// Everything a fence can stand on that covers this lease (its own id is added by `leases`).
    pub(in crate::policy) dimensions: Vec<Dimension>,
    /// The view that the decision was made on.
    pub(in crate::policy) position: Position,
    /// Spent in the reserving commit.
    pub(in crate::policy) replay: Vec<ReplayMark>,
    /// Live leases that the agent may hold at once.
    pub(in crate::policy) max_active: u64,
    pub(in crate::policy) intent_sha256: [u8; 32],
    pub(in crate::policy) config_hash: String,
    /// What decided: the mission's permit.
    pub(in crate::policy) decided_by: Vec<String>,
    pub(in crate::policy) labels: BTreeMap<String, String>,
    pub(in crate::policy) decided_at: OffsetDateTime,
}

impl Grant {
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }
    pub fn owner(&self) -> &str {
        &self.owner
    }
    pub fn mission(&self) -> &MissionId {
        &self.mission
    }
    pub fn target(&self) -> &TargetId {
        &self.target
    }
    pub fn detail_type(&self) -> &'static str {
        self.detail_type
    }
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
    pub fn audience(&self) -> &str {
        &self.audience
    }
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
    pub fn issuer_url(&self) -> &str {
        &self.issuer_url
    }
    pub fn subject(&self) -> &str {
        &self.subject
    }
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }
    pub fn goal(&self) -> &str {
        &self.goal
    }
    pub fn signer(&self) -> SignerClass {
        self.signer
    }
    pub fn bound_key(&self) -> Option<&str> {
        self.bound_key.as_deref()
    }
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }
    pub fn position(&self) -> Position {
        self.position
    }
    pub fn replay(&self) -> &[ReplayMark] {
        &self.replay
    }
    pub fn max_active(&self) -> u64 {
        self.max_active
    }
    pub fn intent_sha256(&self) -> &[u8; 32] {
        &self.intent_sha256
    }
    pub fn config_hash(&self) -> &str {
        &self.config_hash
    }
    pub fn decided_by(&self) -> &[String] {
        &self.decided_by
    }
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
    pub fn decided_at(&self) -> OffsetDateTime {
        self.decided_at
    }
}

/// `[mission.NAME]`: the approved purpose.
#[derive(Debug, Clone)]
pub struct Mission {
    pub id: MissionId,
    /// The mission's owner admits agents, never the agent's owner.
    pub agents: Vec<AgentId>,
    pub owner: String,
    pub purpose: String,
    pub ends: Option<Date>,
    /// Sets (`@name`) are expanded.
    pub allow: BTreeMap<TargetId, Authority>,
    /// Verified facts that must hold with this value; absent means refused.
    pub require: BTreeMap<String, Value>,
    /// A Cedar condition, for what `require` cannot say.
    pub when: Option<String>,
    pub ttl: Duration,
    /// Names of the facts whose end ends the lease, e.g. `pipeline`.
    pub tether: Vec<String>,
    pub signer: SignerClass,
    pub labels: BTreeMap<String, String>,
}

/// What policy knows of `[target.NAME]`; the connection is the connector's.
#[derive(Debug, Clone)]
pub struct Target {
    pub id: TargetId,
    pub vocabulary: Vocabulary,
    pub ceiling: Authority,
    /// URLs that mean this target (MCP clients send only `resource`).
    pub resources: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// Revocation class, as policy sees it: `broker`, `native`, `deny`, `expiry`.
    pub class: &'static str,
    /// Accepts intents signed by a platform although it is labelled `env = prod`.
    pub allow_platform_signer: bool,
}
