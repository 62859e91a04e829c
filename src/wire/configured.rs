//! One configuration for all replicas, as it crosses the wire.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /admin/v1/config`: the files that are common to all replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// `*.toml` and `policies/*.cedar`. None of them holds `[broker]`.
    pub files: Vec<ConfigFile>,
    /// The key sets and certificates that they name with `file:`.
    #[serde(default)]
    pub attached: Vec<ConfigFile>,
    pub reason: String,
    /// Only if this is still the number of what is in force (`number` of `GET`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Though whoever publishes it could not publish the next one.
    #[serde(default)]
    pub even_without_me: bool,
}

/// A file by its path within the configuration folder. All of them are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    pub name: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishAnswer {
    /// Its number: they only go up.
    pub revision: u64,
    pub hash: String,
    /// Of the configuration before.
    pub before: String,
    /// Where on the fence log it begins to decide.
    pub position: u64,
    /// `false`: in force, and not yet acknowledged by enough replicas of the store.
    pub replicated: bool,
}

/// `GET /admin/v1/config`: what decides at this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    pub hash: String,
    /// 0: the replica's own folder.
    pub revision: u64,
    /// The number of what was said last to be in force, for `after`.
    pub number: u64,
    /// The last publication on the log, whether this replica takes part or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedView>,
    /// Why this replica decides by another one than was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedView {
    pub revision: u64,
    pub hash: String,
}
