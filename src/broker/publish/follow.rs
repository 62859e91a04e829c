//! Takes over what others published, and says so where it cannot.

use super::{Publishing, Purpose, SLOT, State, Stored};
use crate::broker::Broker;
use crate::fences::Named;
use crate::telemetry::metric;
use std::sync::Arc;
use std::time::Duration;

/// How often a replica that is behind tries again, and one that is not looks whether the record is there.
const AGAIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: u32 = 5;

/// Follows the log in the background for as long as the broker is held.
pub fn start(broker: &Arc<Broker>) {
    let mut moved = broker.fences.moved();
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        let mut round: u32 = 0;
        loop {
            let Some(broker) = broker.upgrade() else {
                return;
            };
            let look = round.is_multiple_of(LOOK_EVERY);
            if let Some(publishing) = &broker.publishing {
                broker.take_over(publishing).await;
                if look {
                    broker.keep_record(publishing).await;
                }
            }
            broker.follow_registered().await;
            if look {
                broker.keep_registered().await;
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
    /// What the log names and this replica does not decide by yet.
    fn wanted(&self) -> Option<Named> {
        let wanted = self.fences.last().configured()?.record()?;
        self.bundle.load().is_before(&wanted).then_some(wanted)
    }

    /// INVARIANT: whole or not at all, and what decided before goes on until then.
    async fn take_over(&self, publishing: &Publishing) {
        if self.wanted().is_none() {
            return;
        }
        let _turn = publishing.turn.lock().await;
        // Whoever had the turn may have taken it over.
        let Some(wanted) = self.wanted() else {
            return;
        };
        let taken = self.taken_over(publishing, &wanted).await;
        if let Err(why) = taken {
            let before = publishing.state.borrow().behind.clone();
            if before.as_ref().is_none_or(|(_, known)| *known != why) {
                tracing::error!(
                    kept = self.config_hash(),
                    wanted = wanted.sha256,
                    "the published configuration cannot be taken over, and the one before is kept: {why}"
                );
            }
            let since = before.map_or_else(|| self.clock.since_boot(), |(since, _)| since);
            let behind = Some((since, why));
            publishing.state.send_replace(State { behind });
            count(self.bundle.load().revision, true);
        }
    }

    async fn taken_over(&self, publishing: &Publishing, wanted: &Named) -> Result<(), String> {
        let stored = Stored::load(self.store.as_ref(), &self.sealer, wanted).await?;
        if stored.url != self.url {
            return Err(format!("it is for `{}`", stored.url));
        }
        let files = Arc::new(stored.files.clone());
        let built = publishing.build()(files, Purpose::TakingOver).await;
        let mut bundle = built.map_err(|unfit| unfit.to_string())?;
        if bundle.hash != wanted.sha256 {
            return Err(
                "this version of dayfly reads its files as another configuration".to_owned(),
            );
        }
        let leavers = self.hold_leavers(&bundle).await;
        leavers.map_err(|refusal| refusal.detail)?;
        bundle.revision = wanted.number;
        self.swap(publishing, bundle, stored).await;
        Ok(())
    }

    /// A failover may lose the record; the log is put back by who holds it, and so is this.
    async fn keep_record(&self, publishing: &Publishing) {
        let Some(held) = publishing.held() else {
            return;
        };
        if self.fences.last().published() != Some(held.named()) {
            return;
        }
        let Ok(record) = held.record() else {
            return;
        };
        let kept = SLOT.keep(
            (self.store.as_ref(), &self.sealer),
            &record,
            self.clock.now(),
        );
        if let Err(error) = kept.await {
            tracing::warn!(%error, "the published configuration was not put back; it is tried again");
        }
    }
}
