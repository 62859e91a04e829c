//! What happened, to the metrics and the audit. Decisions about a verified caller are entries;
//! anonymous refusals are counted, and one entry a second says how many there were, so that nobody can
//! fill the store that revocation needs.

use super::{Broker, Bundle, Reason, Refusal};
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
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use time::{Duration, OffsetDateTime};

/// Refusals of one agent, or of one person who runs it, that are audited one by one, per minute; more
/// are counted.
const AUDITED_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();

/// How often what was only counted is written down: one entry, whatever the number.
const SUMMARY_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Issuer and subject of a person who runs an agent.
type Runner = (IssuerId, String);

#[derive(Debug)]
pub(in crate::broker) struct Recorder {
    store: Arc<dyn Store>,
    quota: DefaultKeyedRateLimiter<(AgentId, Option<Runner>)>,
    /// Refusals that are in no entry of their own, since the last summary.
    counted: Mutex<BTreeMap<Reason, u64>>,
}

/// Writes down in the background what was only counted, for as long as the broker is held.
pub fn start(broker: &Arc<Broker>) {
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SUMMARY_EVERY).await;
            let Some(broker) = broker.upgrade() else {
                return;
            };
            broker.summarize_refusals().await;
        }
    });
}

impl Broker {
    /// One entry for all refusals that have none. Where it cannot be written they are kept for the next one.
    pub async fn summarize_refusals(&self) {
        if let Err(error) = self.record.summarize(self.clock.now()).await {
            tracing::warn!(%error, "refusals that were counted are not in the audit yet; tried again");
        }
    }
}

impl Recorder {
    pub(in crate::broker) fn new(store: Arc<dyn Store>) -> Self {
        let quota = RateLimiter::keyed(Quota::per_minute(AUDITED_PER_MINUTE));
        let counted = Mutex::default();
        Self {
            store,
            quota,
            counted,
        }
    }

    /// A refusal that gets no entry of its own: nobody was verified, or too many come.
    pub(in crate::broker) fn count(&self, reason: Reason) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.entry(reason).or_default() += 1;
    }

    async fn summarize(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let counted = {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *counted)
        };
        if counted.is_empty() {
            return Ok(());
        }
        let by_reason: Map<String, Value> = counted
            .iter()
            .map(|(reason, number)| (reason.code().to_owned(), json!(number)))
            .collect();
        let all: u64 = counted.values().sum();
        let entry = Entry::new(Event::RefusedSummary, now)
            .with("refusals", all)
            .with("by_reason", by_reason);
        let written = self.append(entry, ShardId::INSTALLATION, now).await;
        if written.is_err() {
            let mut since = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            for (reason, number) in counted {
                *since.entry(reason).or_default() += number;
            }
        }
        written
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
            self.count(refusal.reason);
            return;
        }
        let mut entry = Entry::new(Event::Refused, now)
            .agent(agent.as_str())
            .reason(refusal.reason.code())
            .caller(caller.issuer_url(), caller.subject())
            .intent_hash(intent.sha256())
            .token_hash(caller.token_sha256())
            .config_hash(bundle.hash.as_str());
        let mut tell = |name: &str, value: Value| {
            entry.detail.insert(name.to_owned(), value);
        };
        tell("refusal_id", json!(refusal.id));
        tell("why", json!(refusal.detail));
        tell("at", json!(refusal.at));
        let response = refusal.pending().and_then(|one| one.by_response.as_ref());
        if let Some(response) = response {
            tell("by_response", json!(response));
        }
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
