//! What happened, to the metrics and the audit. Decisions about a verified caller are entries;
//! anonymous refusals are counted, so that nobody can fill the store that revocation needs.

use super::{Bundle, Reason, Refusal};
use crate::audit::{Entry, Event};
use crate::fences::Fence;
use crate::identity::{Caller, Proof};
use crate::ids::{AgentId, IssuerId, ShardId};
use crate::intent::Intent;
use crate::leases::Lease;
use crate::policy::{Grant, Recorded};
use crate::store::{Outcome, Store, StoreError, Transaction};
use crate::telemetry::metric;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde_json::json;
use std::num::NonZeroU32;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// Refusals of one agent, or of one person who runs it, that are audited one by one, per minute; more
/// are counted.
const AUDITED_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();

/// Issuer and subject of a person who runs an agent.
type Runner = (IssuerId, String);

#[derive(Debug)]
pub(in crate::broker) struct Recorder {
    store: Arc<dyn Store>,
    quota: DefaultKeyedRateLimiter<(AgentId, Option<Runner>)>,
}

impl Recorder {
    pub(in crate::broker) fn new(store: Arc<dyn Store>) -> Self {
        let quota = RateLimiter::keyed(Quota::per_minute(AUDITED_PER_MINUTE));
        Self { store, quota }
    }

    /// Whether one more entry about this agent may be written now.
    pub(in crate::broker) fn within_quota(&self, agent: &AgentId) -> bool {
        self.quota.check_key(&(agent.clone(), None)).is_ok()
    }

    pub(in crate::broker) fn released(&self, lease: &Lease) {
        let target = lease.target.to_string();
        metrics::counter!(metric::RELEASES, "target" => target).increment(1);
    }

    /// What a mission let pass because it only observes. The audit has it in the entry of the lease.
    pub(in crate::broker) fn observed(&self, grant: &Grant) {
        for passed in grant.observed() {
            let labels = [
                ("mission", grant.mission().to_string()),
                ("reason", passed.reason.code().to_owned()),
            ];
            metrics::counter!(metric::OBSERVED, &labels).increment(1);
        }
    }

    pub(in crate::broker) fn fenced(&self, fence: &Fence) {
        let kind = fence.kind.as_str();
        metrics::counter!(metric::FENCES, "kind" => kind).increment(1);
    }

    /// A refusal that cannot be written down is still a refusal.
    pub(in crate::broker) async fn refused(
        &self,
        agent: &AgentId,
        caller: &Caller,
        intent: &Intent,
        refusal: &Refusal,
        (bundle, now): (&Bundle, OffsetDateTime),
    ) {
        // Where the store is the trouble, there is nowhere to write.
        let unwritable = matches!(
            refusal.reason,
            Reason::Internal | Reason::StoreUnavailable | Reason::StaleView
        );
        let person = caller.proof() == Proof::Person;
        let runner = person.then(|| (caller.issuer().clone(), caller.subject().to_owned()));
        if unwritable || self.quota.check_key(&(agent.clone(), runner)).is_err() {
            metrics::counter!(metric::UNAUDITED_REFUSALS).increment(1);
            return;
        }
        let mut entry = Entry::new(Event::Refused, now)
            .agent(agent.as_str())
            .reason(refusal.reason.code())
            .caller(caller.issuer_url(), caller.subject())
            .intent_hash(intent.sha256())
            .token_hash(caller.token_sha256())
            .config_hash(bundle.hash.as_str());
        let mut tell = |name: &str, value: serde_json::Value| {
            entry.detail.insert(name.to_owned(), value);
        };
        tell("refusal_id", json!(refusal.id));
        tell("why", json!(refusal.detail));
        tell("at", json!(refusal.at));
        tell("goal", json!(intent.goal()));
        tell("evidence", json!(intent.evidence()));
        entry
            .detail
            .extend(Recorded::of(&bundle.policy, caller, intent).to_detail());
        if let Err(error) = self.append(entry, ShardId::of(agent, None), now).await {
            tracing::error!(%error, "a refusal could not be audited");
        }
    }

    /// An entry that records nothing else in the same commit.
    pub(in crate::broker) async fn append(
        &self,
        entry: Entry,
        shard: ShardId,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let transaction = Transaction::new(shard, now + Duration::seconds(10))
            .local()
            .write(entry.append(shard));
        match self.store.commit(transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
            refused => Err(StoreError::Unavailable(format!(
                "the entry was refused: {refused:?}"
            ))),
        }
    }
}
