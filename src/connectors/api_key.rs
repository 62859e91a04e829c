//! An opaque key: `dayfly_...`. The broker keeps its SHA-256 only and answers for it at
//! `/introspect`, so that it dies the moment its lease does.

use super::opaque;
use crate::ids::LeaseId;

const PREFIX: &str = "dayfly_";

/// The lease that a well-formed key names. Whether we made it, the lease's SHA-256 says.
pub fn parse(text: &str) -> Option<LeaseId> {
    opaque::parse(PREFIX, text)
}
