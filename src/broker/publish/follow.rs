//! Takes over what others published, and says so where it cannot.

use super::{Build, Publishing, SLOT, State, Stored, made_of};
use crate::broker::{Broker, Bundle};
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
        while let Some(wanted) = self.wanted() {
            let build = publishing.build();
            // Before the turn: what is slow to read or to make keeps nothing else waiting.
            let made = self.made(&*build, &wanted).await;
            let _turn = publishing.turn.lock().await;
            // INVARIANT: with this replica's own part as it is now, and only what is still wanted: whoever had the
            // turn meanwhile may have swapped this in, or something later.
            if self.wanted().as_ref() != Some(&wanted) || !Arc::ptr_eq(&build, &publishing.build())
            {
                continue;
            }
            let taken = match made {
                Ok((bundle, stored)) => self.taken_over(publishing, bundle, stored).await,
                Err(why) => Err(why),
            };
            if let Err(why) = taken {
                self.stay_behind(publishing, &wanted, why);
            }
            return;
        }
    }

    fn stay_behind(&self, publishing: &Publishing, wanted: &Named, why: String) {
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

    async fn made(&self, build: &Build, wanted: &Named) -> Result<(Bundle, Stored), String> {
        let stored = Stored::load(self.store.as_ref(), &self.sealer, wanted).await?;
        if stored.url != self.url {
            return Err(format!("it is for `{}`", stored.url));
        }
        let bundle = made_of(build, &stored).await?;
        if bundle.hash != wanted.sha256 {
            return Err(
                "this version of dayfly reads its files as another configuration".to_owned(),
            );
        }
        Ok((bundle, stored))
    }

    async fn taken_over(
        &self,
        publishing: &Publishing,
        bundle: Bundle,
        stored: Stored,
    ) -> Result<(), String> {
        let leavers = self.hold_leavers(&bundle).await;
        leavers.map_err(|refusal| refusal.detail)?;
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
