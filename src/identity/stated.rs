//! A caller that nobody proved, for `explain`, `simulate` and the policy tests of `check`.

use super::{Caller, Confirmation, Facts, Proof};
use crate::ids::IssuerId;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};

impl Caller {
    /// What policy would see if a platform proved exactly this.
    // SECURITY: nothing was verified. It carries no replay mark, and the corridor never calls it:
    // what it leads to is an explanation, never a credential.
    pub(crate) fn stated(
        issuer: IssuerId,
        issuer_url: String,
        subject: String,
        claims: Map<String, Value>,
        facts: Facts,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            issuer,
            issuer_url,
            subject,
            proof: Proof::WorkloadToken,
            issuer_key: String::new(),
            claims,
            facts,
            barred: BTreeMap::new(),
            bound_key: None,
            token_sha256: [0; 32],
            expires_at: now.saturating_add(Duration::minutes(5)),
            client: None,
            beside: None,
            named_client: None,
            replay: Vec::new(),
        }
    }

    /// The same as if the proof had been bound to this.
    #[must_use]
    pub(crate) fn stated_as_bound(mut self, to: Option<Confirmation>) -> Self {
        self.bound_key = to;
        self
    }
}
