//! The handle of a lease: what the answer carries as `access_token` where the credential itself is
//! not one bearer string. Good for `/introspect` and `/revoke`, opens nothing downstream.

use super::opaque;
use crate::ids::LeaseId;
use crate::secret::Secret;

const PREFIX: &str = "dayflyh_";

pub fn mint(lease: &LeaseId) -> Secret<String> {
    opaque::draw(PREFIX, lease)
}

/// The lease that a well-formed handle names. Whether we made it, the lease's SHA-256 says.
pub fn parse(text: &str) -> Option<LeaseId> {
    opaque::parse(PREFIX, text)
}
