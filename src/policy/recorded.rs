//! What was asked, as the audit keeps it: enough to decide the same question again.

mod served;

pub use served::{RecordedBehalf, RecordedParent};

use super::{Denied, Explanation, Policy, question};
use crate::agents::{AgentError, Registry};
use crate::audit::Entry;
use crate::authority::AuthorizationDetail;
use crate::fences::View;
use crate::identity::{Caller, Confirmation, Facts};
use crate::ids::{AgentId, IssuerId, MissionId};
use crate::intent::{Approval, Asked, Behalf, Intent, SignerClass, Stated};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// In the `detail` of each entry about a decision. Claims, facts and names; never a token. What
/// was said of the purpose (`goal`) stands beside it in the entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// That the request named.
    #[serde(default)]
    pub mission: Option<MissionId>,
    /// Signed.
    #[serde(default)]
    pub asked: Vec<AuthorizationDetail>,
    #[serde(default, skip_serializing_if = "Beside::is_empty")]
    pub beside: Beside,
    #[serde(default)]
    pub facts: Facts,
    #[serde(default = "agent")]
    pub signer: SignerClass,
    /// By its name in the configuration; absent in entries of older brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved: Option<Confirmation>,
    /// The proof or the intent named that key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub key_demanded: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub goal_ends: Option<OffsetDateTime>,
    /// The person, or the lease that was to be handed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<RecordedBehalf>,
    /// What people had said yes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// The issuer's URL and the subject, which stand in the entry itself: holds go by them, too.
    #[serde(skip)]
    caller: Option<(String, String)>,
}

/// What stood beside the intent, narrowing it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorization_details: Vec<AuthorizationDetail>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<MissionId>,
}

impl Beside {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn agent() -> SignerClass {
    SignerClass::Agent
}

impl Recorded {
    /// `policy`: the one that decides. Of a person it keeps what the policy asks of people.
    pub fn of(policy: &Policy, caller: &Caller, intent: &Intent) -> Self {
        let asked = intent.asked();
        Self {
            mission: intent.mission().cloned(),
            asked: intent.authorization_details().to_vec(),
            beside: Beside {
                authorization_details: asked.authorization_details.clone(),
                scope: asked.scope.clone(),
                targets: asked.targets.clone(),
                mission: asked.mission.clone(),
            },
            facts: intent.facts().clone(),
            signer: intent.signer(),
            issuer: Some(caller.issuer().clone()),
            proved: caller.proved_key().cloned(),
            key_demanded: question::key_demanded(caller, intent),
            task: intent.task().map(str::to_owned),
            instance: intent.instance().map(str::to_owned),
            goal_ends: intent.goal_ends(),
            on_behalf_of: RecordedBehalf::of(policy, caller, intent),
            approval: intent.approval().cloned(),
            caller: None,
        }
    }

    /// For the entry's `detail`.
    pub fn to_detail(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(detail)) => detail,
            _ => Map::new(),
        }
    }

    /// From an entry's `detail`. `None`: the entry is about something else, or an older broker kept too
    /// little of a delegation to decide it again.
    pub fn from_detail(detail: &Value) -> Option<Self> {
        detail.get("asked")?;
        serde_json::from_value(detail.clone()).ok()
    }

    /// The same, with what the entry itself says of the caller.
    pub fn from_entry(entry: &Entry) -> Option<Self> {
        let read = Self::from_detail(&Value::Object(entry.detail.clone()))?;
        let caller = entry.caller.as_ref();
        let caller = caller.map(|caller| (caller.issuer.clone(), caller.subject.clone()));
        Some(Self { caller, ..read })
    }

    fn intent(&self, now: OffsetDateTime) -> Intent {
        let Beside {
            authorization_details,
            scope,
            targets,
            mission,
        } = self.beside.clone();
        let stated = Stated {
            signer: self.signer,
            mission: self.mission.clone(),
            authorization_details: self.asked.clone(),
            asked: Asked {
                authorization_details,
                scope,
                targets,
                mission,
                ..Asked::default()
            },
            task: self.task.clone(),
            instance: self.instance.clone(),
            goal_ends: self.goal_ends,
            facts: self.facts.clone(),
            behalf: self
                .on_behalf_of
                .as_ref()
                .map_or(Behalf::Nobody, |served| served.behalf(now)),
            approval: self.approval.clone(),
        };
        Intent::restated(stated, now)
    }

    fn caller(&self, agent: &AgentId, now: OffsetDateTime) -> Caller {
        let issuer = self.issuer.clone().unwrap_or_else(IssuerId::client);
        let shown = self.caller.clone();
        let (url, subject) = shown.unwrap_or_else(|| (issuer.to_string(), agent.to_string()));
        let facts = self.facts.clone();
        Caller::stated(issuer, url, subject, Map::new(), facts, now)
            .stated_as_bound(self.proved.clone().filter(|_| self.key_demanded))
            .stated_as_proving(self.proved.clone())
    }
}

impl Policy {
    /// What this policy makes of a question that was put before, perhaps to another one. `Err`: the
    /// agent is unknown here, or not in standing.
    pub fn again(
        &self,
        agents: &Registry,
        agent: &AgentId,
        recorded: &Recorded,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<Explanation, AgentError> {
        let caller = recorded.caller(agent, now);
        let admitted = agents.stated_caller(agent, caller, view, now)?;
        Ok(self.explain(&admitted, &recorded.intent(now), view, now))
    }
}

/// As the audit tells what a mission let pass because it only observes.
pub fn observed(passed: &[Denied]) -> Value {
    let told = passed
        .iter()
        .map(|denied| serde_json::json!({ "reason": denied.reason.code(), "why": denied.detail }));
    told.collect()
}
