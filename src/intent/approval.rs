//! What people said yes to, as the broker itself keeps it: beside what others prove, its own word.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// People have approved something. Policy compares it with what is asked: it is good for nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub id: String,
    /// SHA-256 of what they were shown of the authority, hexadecimal.
    pub of: String,
    /// The operators who said so, by name.
    pub by: Vec<String>,
    /// The last yes that was needed.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// Seconds that one credential may live: what they were shown.
    pub max_ttl: u64,
}
