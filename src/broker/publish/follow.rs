//! Takes over what others published, and says so where it cannot.

use super::{Publishing, Purpose, State, Stored, record};
use crate::broker::Broker;
use crate::fences::Published;
use crate::ids::ShardId;
use crate::store::{Guard, Transaction, Write};
use crate::telemetry::metric;
use std::sync::Arc;
use std::time::Duration;

/// How often a replica that is behind tries again, and one that is not looks whether the record is there.
const AGAIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: u32 = 5;
const DEADLINE: Duration = Duration::from_secs(10);

/// Follows the log in the background for as long as the broker is held.
pub fn start(broker: &Arc<Broker>) {
    if broker.publishing.is_none() {
        return;
    }
    let mut moved = broker.fences.moved();
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        let mut round: u32 = 0;
        loop {
            let Some(broker) = broker.upgrade() else {
                return;
            };
            let Some(publishing) = &broker.publishing else {
                return;
            };
            broker.take_over(publishing).await;
            if round.is_multiple_of(LOOK_EVERY) {
                broker.keep_record(publishing).await;
            }
            round = round.wrapping_add(1);
            drop(broker);
            if matches!(
                tokio::time::timeout(AGAIN, moved.changed()).await,
                Ok(Err(_))
            ) {
                return;
            }
        }
    });
}

/// For alarms: which publication decides here, and whether another one should.
pub(super) fn count(revision: u64, behind: bool) {
    #[expect(clippy::cast_precision_loss, reason = "nobody publishes that often")]
    metrics::gauge!(metric::CONFIG_REVISION).set(revision as f64);
    metrics::gauge!(metric::CONFIG_BEHIND).set(if behind { 1.0 } else { 0.0 });
}

impl Broker {
    /// INVARIANT: whole or not at all, and what decided before goes on until then.
    async fn take_over(&self, publishing: &Publishing) {
        let Some(wanted) = self.fences.last().published() else {
            return;
        };
        let held = publishing.held();
        if held.is_some_and(|held| held.is(&wanted)) {
            return;
        }
        let _turn = publishing.turn.lock().await;
        // Whoever had the turn may have taken it over.
        let Some(wanted) = self.fences.last().published() else {
            return;
        };
        if publishing.held().is_some_and(|held| held.is(&wanted)) {
            return;
        }
        let taken = self.taken_over(publishing, &wanted).await;
        if let Err(why) = taken {
            let before = publishing.state.borrow().behind.clone();
            if before.as_ref().is_none_or(|(_, known)| *known != why) {
                tracing::error!(
                    kept = self.config_hash(),
                    wanted = wanted.hash,
                    "the published configuration cannot be taken over, and the one before is kept: {why}"
                );
            }
            let since = before.map_or_else(|| self.clock.since_boot(), |(since, _)| since);
            publishing.state.send_modify(|state| {
                *state = State {
                    revision: state.revision,
                    behind: Some((since, why)),
                }
            });
            count(self.bundle.load().revision, true);
        }
    }

    async fn taken_over(&self, publishing: &Publishing, wanted: &Published) -> Result<(), String> {
        let stored = Stored::load(self.store.as_ref(), &publishing.sealer, wanted).await?;
        if stored.url != self.url {
            return Err(format!("it is for `{}`", stored.url));
        }
        let files = Arc::new(stored.files.clone());
        let built = (publishing.build)(files, Purpose::TakingOver).await;
        let mut bundle = built.map_err(|unfit| unfit.to_string())?;
        if bundle.hash != wanted.hash {
            return Err(
                "this version of dayfly reads its files as another configuration".to_owned(),
            );
        }
        let leavers = self.hold_leavers(&bundle).await;
        leavers.map_err(|refusal| refusal.detail)?;
        bundle.revision = wanted.revision;
        self.swap(publishing, bundle, stored);
        Ok(())
    }

    /// A failover may lose the record; the log is put back by who holds it, and so is this.
    async fn keep_record(&self, publishing: &Publishing) {
        let (Some(held), Some(wanted)) = (publishing.held(), self.fences.last().published()) else {
            return;
        };
        if !held.is(&wanted) {
            return;
        }
        let Ok(found) = record::read(self.store.as_ref()).await else {
            return;
        };
        let stored = found.as_ref();
        let stored = stored.and_then(|found| Stored::open(&publishing.sealer, &found.value).ok());
        // What is newer than the log is being written just now.
        if stored.is_some_and(|stored| stored.is(&wanted) || stored.revision > wanted.revision) {
            return;
        }
        let guard = match found {
            Some(found) => Guard::Unchanged(record::key(), found.version),
            None => Guard::Absent(record::key()),
        };
        let Ok(value) = held.seal(&publishing.sealer) else {
            return;
        };
        let put = Write::Put {
            key: record::key(),
            value,
            expires_at: None,
        };
        let transaction = Transaction::new(ShardId::INSTALLATION, self.clock.now() + DEADLINE);
        let transaction = transaction.revoking().guard(guard).write(put);
        tracing::warn!(
            revision = held.revision,
            "the store lost the published configuration; putting back what this replica holds"
        );
        if let Err(error) = self.store.commit(transaction).await {
            tracing::warn!(%error, "the published configuration was not put back; it is tried again");
        }
    }
}
