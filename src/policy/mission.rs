//! What the configuration says of missions and targets.

use super::{ApprovalTerms, People};
use crate::agents::Terms;
use crate::authority::{Authority, Vocabulary};
use crate::ids::{AgentId, MissionId, TargetId};
use crate::intent::SignerClass;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use time::{Date, OffsetDateTime};

/// `[mission.NAME]`: the approved purpose.
#[derive(Debug, Clone)]
pub struct Mission {
    pub id: MissionId,
    /// The mission's owner admits agents, never the agent's owner.
    pub agents: Vec<AgentId>,
    /// Agents that are registered through the interface may join it.
    pub allow_registered: bool,
    /// People that its agents serve. Empty: the agents act for themselves.
    pub on_behalf_of: Vec<People>,
    /// Those people may run the agents themselves.
    pub in_person: bool,
    /// Agents that its leases may be handed on to.
    pub delegates_to: Vec<AgentId>,
    pub owner: String,
    pub purpose: String,
    pub ends: Option<Date>,
    /// Sets (`@name`) are expanded.
    pub allow: BTreeMap<TargetId, Authority>,
    /// Verified facts that must hold with this value; absent means refused.
    pub require: BTreeMap<String, Value>,
    /// A Cedar condition, for what `require` cannot say.
    pub when: Option<String>,
    /// Whether `require` and `when` decide already.
    pub mode: Mode,
    pub ttl: Duration,
    /// Names of the facts whose end ends the lease, e.g. `pipeline`.
    pub tether: Vec<String>,
    /// The class of signer it needs. `Platform` also accepts an intent that the agent signed.
    pub signer: SignerClass,
    /// Live leases of one agent at once. Required where `signer` is `Platform`.
    pub max_active: Option<u64>,
    /// People say yes to what is asked before it is issued.
    pub approval: Option<ApprovalTerms>,
    pub terms: Terms,
    pub drift: Drift,
    pub labels: BTreeMap<String, String>,
}

/// When asking for more than the mission allows is more than a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// This often by one agent.
    pub count: u32,
    pub within: Duration,
    /// The agent is suspended; otherwise somebody is told.
    pub suspends: bool,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            count: 10,
            within: Duration::from_secs(60 * 60),
            suspends: false,
        }
    }
}

/// Whether a mission's `require` and `when` refuse, or are only written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Written down, up to and including this day (UTC). See [`Mission::observes`].
    Observe { until: Date },
}

/// An observation is for finding out, not for staying.
pub const LONGEST_OBSERVATION: time::Duration = time::Duration::days(14);

impl Mission {
    /// The class that it asks for. One that is content with the platform's token is also content
    /// with the agent's own signature, which says more; no other class stands in for one.
    pub fn accepts(&self, signer: SignerClass) -> bool {
        let stronger = self.signer == SignerClass::Platform && signer == SignerClass::Agent;
        self.signer == signer || stronger
    }

    /// Whether it only observes now.
    // SECURITY: a day too far ahead counts as none, so that no slip of a pen relaxes a mission for
    // longer than it may.
    pub fn observes(&self, now: OffsetDateTime) -> bool {
        let today = now.to_offset(time::UtcOffset::UTC).date();
        matches!(self.mode, Mode::Observe { until }
            if until >= today && until - today <= LONGEST_OBSERVATION)
    }
}

/// What policy knows of `[target.NAME]`; the connection is the connector's.
#[derive(Debug, Clone)]
pub struct Target {
    pub id: TargetId,
    pub vocabulary: Vocabulary,
    /// `authorization_details[].type`, as its connector promises it.
    pub detail_type: &'static str,
    pub ceiling: Authority,
    /// URLs that mean this target (MCP clients send only `resource`).
    pub resources: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// How long a credential that must be dead may take to be, before somebody is told.
    pub revocation_alarm: Duration,
    /// Revocation class, as policy sees it: `broker`, `native`, `deny`, `expiry`.
    pub class: &'static str,
    pub binding: Binding,
    /// Accepts intents signed by a platform although it is labelled `env = prod`.
    pub allow_platform_signer: bool,
}

/// Whether a credential can be bound to a key that the request proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// A token that carries its key, or whose key the broker tells at introspection (`cnf`).
    Bound,
    /// A set of fields (`token_type: N_A`) that nobody takes for a bound token.
    Fields,
    /// One string that is good in anybody's hands.
    Bearer,
}

impl Target {
    /// `env = "prod"` or `"production"`.
    pub fn is_production(&self) -> bool {
        self.labels
            .get("env")
            .is_some_and(|env| matches!(env.to_ascii_lowercase().as_str(), "prod" | "production"))
    }
}
