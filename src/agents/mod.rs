//! In standing? In: a caller and its intent. Out: an [`AdmittedAgent`], or one answer for all.

use crate::authority::Authority;
use crate::identity::Caller;
use crate::ids::{AgentId, IssuerId, TargetId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use time::Date;

/// `[agent.NAME]`.
#[derive(Debug, Clone)]
pub struct Agent {
    pub id: AgentId,
    pub owner: String,
    pub backup_owner: Option<String>,
    pub purpose: String,
    /// Last day it gets anything, UTC.
    pub ends: Date,
    pub identities: Vec<IdentityMatch>,
    /// RFC 7638 thumbprints of keys registered for signing intents.
    pub intent_keys: Vec<String>,
    /// Absent: the grants of its missions.
    pub ceiling: Option<BTreeMap<TargetId, Authority>>,
    pub limits: Limits,
    pub labels: BTreeMap<String, String>,
}

/// Matches callers to an agent: every condition must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityMatch {
    pub issuer: IssuerId,
    pub subject: Option<String>,
    /// Verified claims that must be present with exactly this value.
    pub claims: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Live leases at once.
    pub active: u64,
    /// Exchanges per minute.
    pub per_minute: u32,
}

/// An agent in standing, with the caller that proved to be it. Only this room makes one.
#[derive(Debug, Clone)]
pub struct AdmittedAgent {
    pub(in crate::agents) agent: Arc<Agent>,
    pub(in crate::agents) caller: Arc<Caller>,
}

impl AdmittedAgent {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}
