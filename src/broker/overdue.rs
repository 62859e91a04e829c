//! A credential that must be dead is not: past its target's bound somebody is told, once for as long as it
//! lasts. See `revocation_alarm` in `docs/configuration.md`.

use super::exchange::is_overdue;
use super::{Broker, Bundle, Refusal};
use crate::audit::{Entry, Event};
use crate::ids::{ShardId, TargetId};
use crate::leases::{State, Waiting};
use crate::store::{Guard, Key, Outcome, Transaction, Write, settle};
use crate::telemetry::metric;
use std::collections::BTreeSet;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

const EVERY: std::time::Duration = std::time::Duration::from_secs(5);
const DEADLINE: Duration = Duration::seconds(10);
/// Of a target that the configuration does not have any more.
const USUAL: std::time::Duration = std::time::Duration::from_secs(60);

/// Looks in the background for as long as the broker is held.
pub fn start(broker: &Arc<Broker>) {
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(broker) = broker.upgrade() else {
                return;
            };
            if let Err(refusal) = broker.watch_targets().await {
                let why = refusal.detail;
                tracing::warn!(why, "whether targets are overdue is not known; tried again");
            }
        }
    });
}

impl Broker {
    /// One look at every target: how many alarms were raised.
    pub async fn watch_targets(&self) -> Result<u64, Refusal> {
        // INVARIANT: without a whole picture nothing is taken back: an alarm that stands would be raised again.
        let Some(backlogs) = self.sweeper.backlogs() else {
            return Ok(0);
        };
        let now = self.clock.now();
        let bundle = self.bundle.load_full();
        let mut targets: BTreeSet<TargetId> = backlogs.keys().cloned().collect();
        targets.extend(bundle.policy.targets().map(|target| target.id.clone()));
        let targets = Vec::from_iter(targets);
        let keys: Vec<_> = targets.iter().map(key).collect();
        let mut raised = 0;
        for (target, found) in targets.iter().zip(self.store.get(&keys).await?) {
            let waiting = backlogs.get(target);
            let stops = waiting.is_some_and(|waiting| is_overdue(waiting.since, now));
            let shown = if stops { 1.0 } else { 0.0 };
            metrics::gauge!(metric::OVERDUE, "target" => target.to_string()).set(shown);
            let late = waiting.filter(|waiting| now - waiting.since > bound(&bundle, target));
            match (late, found) {
                (Some(waiting), None) => {
                    raised += u64::from(self.alarm(&bundle, target, waiting, now).await?);
                }
                (None, Some(alarm)) => {
                    let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
                        .revoking()
                        .guard(Guard::Unchanged(key(target), alarm.version))
                        .write(Write::Delete(key(target)));
                    settle(self.store.as_ref(), transaction).await?;
                    tracing::info!(%target, "what had to be dead is: the target is no longer overdue");
                }
                _ => {}
            }
        }
        Ok(raised)
    }

    async fn alarm(
        &self,
        bundle: &Bundle,
        target: &TargetId,
        waiting: &Waiting,
        now: OffsetDateTime,
    ) -> Result<bool, Refusal> {
        // The picture is of the last round: another replica may have ended it since.
        let lease = self.leases.get(&waiting.lease).await?;
        let Some(lease) = lease.filter(|lease| lease.state == State::Revoking) else {
            return Ok(false);
        };
        let number = waiting.number;
        let seconds = (now - waiting.since).whole_seconds();
        let bound = bound(bundle, target).as_secs();
        let why = format!(
            "{number} credentials of {target} must be dead and are not confirmed to be, the oldest for {seconds} s"
        );
        let entry = Entry::new(Event::RevocationOverdue, now)
            .agent(lease.agent.as_str())
            .mission(lease.mission.as_str())
            .target(target.as_str())
            .lease(lease.id.to_string())
            .reason(Event::RevocationOverdue.name())
            .with("waiting", number)
            .with("seconds", seconds)
            .with("bound", bound)
            .with("attempts", lease.attempts)
            .with("why", why.as_str());
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(Guard::Absent(key(target)))
            .write(Write::Put {
                key: key(target),
                value: lease.id.as_bytes().to_vec(),
                expires_at: None,
            })
            .write(entry.append(ShardId::INSTALLATION));
        let outcome = settle(self.store.as_ref(), transaction).await?;
        let first = matches!(
            outcome,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        );
        if first {
            tracing::error!(%target, lease = %lease.id, "ALARM: {why}");
            let kind = Event::RevocationOverdue.name();
            metrics::counter!(metric::ALARMS, "kind" => kind).increment(1);
        }
        Ok(first)
    }
}

fn bound(bundle: &Bundle, target: &TargetId) -> std::time::Duration {
    let known = bundle.policy.target(target);
    known.map_or(USUAL, |target| target.revocation_alarm)
}

/// There while an alarm stands.
fn key(target: &TargetId) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"overdue/", target.as_str().as_bytes()].concat(),
    }
}
