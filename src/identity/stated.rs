//! A caller that nobody proved, for `explain`, `simulate` and the policy tests of `check`.

use super::{AuthenticatedClient, Caller, ClientCertificate, Confirmation, Facts, Person, Proof};
use crate::ids::{AgentId, IssuerId};
use crate::jose::KeySet;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
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
            proved_key: None,
            token_sha256: [0; 32],
            expires_at: now.saturating_add(Duration::minutes(5)),
            client: None,
            beside: None,
            instance: None,
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

    /// The same as if the request had proved this key.
    #[must_use]
    pub(crate) fn stated_as_proving(mut self, key: Option<Confirmation>) -> Self {
        self.proved_key = key;
        self
    }

    /// Whoever would send an intent beside this token, or as this client: for `intent verify`.
    pub(crate) fn stated_with_token(token_sha256: [u8; 32], now: OffsetDateTime) -> Self {
        let (issuer, claims) = (IssuerId::client(), Map::new());
        let caller = Self::stated(
            issuer,
            String::new(),
            String::new(),
            claims,
            Facts::new(),
            now,
        );
        Self {
            token_sha256,
            ..caller
        }
    }

    /// Whoever would show this certificate to authenticate.
    pub(crate) fn stated_with_certificate(shown: &ClientCertificate, now: OffsetDateTime) -> Self {
        Self {
            proof: Proof::ClientCertificate,
            proved_key: Some(shown.confirmation()),
            ..Self::stated_with_token(shown.sha256(), now)
        }
    }

    pub(crate) fn stated_as_client(agent: AgentId, keys: KeySet, now: OffsetDateTime) -> Self {
        let keys = Arc::new(keys);
        Self {
            proof: Proof::ClientAssertion,
            client: Some(AuthenticatedClient { agent, keys }),
            ..Self::stated_with_token([0; 32], now)
        }
    }
}

impl Person {
    /// What policy would see if the issuer of people signed exactly this.
    // SECURITY: nothing was verified; see `Caller::stated`.
    pub(crate) fn stated(
        issuer: IssuerId,
        claims: Map<String, Value>,
        now: OffsetDateTime,
    ) -> Self {
        let url = issuer.to_string();
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or("someone");
        let subject = subject.to_owned();
        Self {
            token: Caller::stated(issuer, url, subject, claims, Facts::new(), now),
            agents_issuer: String::new(),
            sign_in: false,
        }
    }
}
