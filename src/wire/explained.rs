//! `POST /admin/v1/explain`: why something was, or would be, granted or refused.

use crate::authority::AuthorizationDetail;
use crate::ids::{AgentId, IssuerId, MissionId};
use crate::intent::SignerClass;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What is to be explained. Which of them it is, the name of its first member says.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ExplainQuestion {
    Refusal(ExplainRefusal),
    Recorded(ExplainRecorded),
    Stated(Box<ExplainRequest>),
}

/// One that the audit in the store still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRefusal {
    /// The `refusal_id` that the caller was told.
    pub refusal: uuid::Uuid,
}

/// One that an export has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRecorded {
    /// The whole `entry` of the export's line.
    pub recorded: Map<String, Value>,
}

impl<'de> Deserialize<'de> for ExplainQuestion {
    // Not left to `untagged`, which says of a mistake only that nothing fits.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = Map::deserialize(deserializer)?;
        let (is_refusal, is_recorded) = (
            members.contains_key("refusal"),
            members.contains_key("recorded"),
        );
        let all = Value::Object(members);
        let read = if is_refusal {
            serde_json::from_value(all).map(Self::Refusal)
        } else if is_recorded {
            serde_json::from_value(all).map(Self::Recorded)
        } else {
            serde_json::from_value(all).map(Self::Stated)
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// A request as its claims, without signatures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    pub agent: AgentId,
    #[serde(default)]
    pub mission: Option<MissionId>,
    pub authorization_details: Vec<AuthorizationDetail>,
    /// What stands beside the intent and narrows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
    #[serde(default)]
    pub signer: Option<SignerClass>,
    /// Who proves the agent, by its name in the configuration. Absent: the first that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerId>,
    /// The request proves a key of its own (DPoP).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The person that the agent would serve.
    #[serde(default)]
    pub on_behalf_of: Option<StatedPerson>,
}

/// A person as the claims of a token that nobody signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatedPerson {
    /// By its name in the configuration.
    pub issuer: IssuerId,
    pub claims: Map<String, Value>,
    /// The person runs the agent.
    #[serde(default)]
    pub in_person: bool,
}

/// Why a request was or would be granted or refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainAnswer {
    pub granted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// One sentence for a person.
    pub summary: String,
    pub checks: Vec<ExplainedCheck>,
    /// Where another mission comes nearer to granting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearestMission>,
    /// Of a recorded refusal: what it was refused as then. The checks are today's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<RefusedThen>,
}

/// As the audit has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedThen {
    pub reason: String,
    pub why: String,
    /// RFC 3339.
    pub when: String,
    /// Another configuration decided then.
    pub other_configuration: bool,
}

/// The mission to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NearestMission {
    pub mission: MissionId,
    /// `false`: it allows what was asked, to other agents.
    pub lists_agent: bool,
    /// The first of its conditions that fails. Absent: it would grant it, if it were named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<ExplainedCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedCheck {
    pub name: String,
    pub passed: bool,
    pub detail: String,
}
