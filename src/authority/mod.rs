//! What can be asked for, and what contains what.
//!
//! An [`Authority`] is a list of [`Permission`]s on one target; `covers` compares two of them in
//! the target's own [`Vocabulary`]. Exact and total: what cannot be decided is [`Undecidable`],
//! and undecidable means refused.

use serde::{Deserialize, Serialize};

/// One member of `authorization_details` (RFC 9396 section 2), closed: unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationDetail {
    /// The vocabulary: `aws_session`, `access_token`, `api_key`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The target.
    pub identifier: String,
    pub actions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<u32>,
}

/// Every action on every location. `*` matches any run of characters within the bounds that the
/// vocabulary sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    pub actions: Vec<String>,
    #[serde(default)]
    pub locations: Vec<String>,
}

/// What may be done on one target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Authority(pub Vec<Permission>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Undecidable {
    /// `place` is a JSON path within the authority, e.g. `[0].locations[1]`.
    #[error("`{pattern}` ({place}) cannot be compared: {why}")]
    Pattern {
        place: String,
        pattern: String,
        why: &'static str,
    },
}

/// Whose semantics authority is compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vocabulary {
    /// IAM actions and ARNs.
    Aws,
    /// OAuth scopes and resource URIs.
    Scopes,
}
