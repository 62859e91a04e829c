//! A credential that must be dead is not: past its target's bound somebody is told, once for as long as it
//! lasts. See `revocation_alarm` in `docs/configuration.md`.

use super::exchange::is_overdue;
use super::{Broker, Bundle, Refusal};
use crate::audit::{Entry, Event};
use crate::ids::{ShardId, TargetId};
use crate::leases::{Backlogs, State, Waiting};
use crate::store::{Guard, Key, Outcome, Record, Transaction, Write, settle};
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
        let Backlogs { of, whole } = self.sweeper.backlogs();
        let now = self.clock.now();
        let bundle = self.bundle.load_full();
        let mut targets: BTreeSet<TargetId> = of.keys().cloned().collect();
        targets.extend(bundle.policy.targets().map(|target| target.id.clone()));
        let targets = Vec::from_iter(targets);
        let keys: Vec<_> = targets.iter().map(key).collect();
        let (mut raised, mut failed) = (0, None);
        for (target, found) in targets.iter().zip(self.store.get(&keys).await?) {
            let waiting = of.get(target);
            // INVARIANT: without a whole picture nothing is taken back: an alarm that stands would be raised again.
            if waiting.is_none() && found.is_some() && !whole {
                continue;
            }
            match self
                .watch_target((&bundle, target), waiting, found, now)
                .await
            {
                Ok(alarm) => raised += u64::from(alarm),
                // INVARIANT: what is wrong with one target keeps nobody from hearing of the next.
                Err(refusal) => failed = Some(refusal),
            }
        }
        failed.map_or(Ok(raised), Err)
    }

    /// Whether somebody was told.
    async fn watch_target(
        &self,
        (bundle, target): (&Bundle, &TargetId),
        waiting: Option<&Waiting>,
        found: Option<Record>,
        now: OffsetDateTime,
    ) -> Result<bool, Refusal> {
        let stops = waiting.is_some_and(|waiting| is_overdue(waiting.since, now));
        let shown = if stops { 1.0 } else { 0.0 };
        metrics::gauge!(metric::OVERDUE, "target" => target.to_string()).set(shown);
        let late = waiting.filter(|waiting| now - waiting.since > bound(bundle, target));
        match (late, found) {
            (Some(waiting), None) => self.alarm(bundle, target, waiting, now).await,
            (None, Some(alarm)) => {
                let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
                    .revoking()
                    .guard(Guard::Unchanged(key(target), alarm.version))
                    .write(Write::Delete(key(target)));
                settle(self.store.as_ref(), transaction).await?;
                tracing::info!(%target, "what had to be dead is: the target is no longer overdue");
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    async fn alarm(
        &self,
        bundle: &Bundle,
        target: &TargetId,
        waiting: &Waiting,
        now: OffsetDateTime,
    ) -> Result<bool, Refusal> {
        // The picture is of the last round: another replica may have ended it since.
        let lease = match self.leases.get(&waiting.lease).await {
            Ok(Some(lease)) if lease.state == State::Revoking => Some(lease),
            Ok(_) => return Ok(false),
            // Nothing can be known of it, and it holds up its target all the same.
            Err(error) if error.is_of_one_lease() => None,
            Err(error) => return Err(error.into()),
        };
        let number = waiting.number;
        let seconds = (now - waiting.since).whole_seconds();
        let bound = bound(bundle, target).as_secs();
        let why = format!(
            "{number} credentials of {target} must be dead and are not confirmed to be, the oldest for {seconds} s"
        );
        let mut entry = Entry::new(Event::RevocationOverdue, now)
            .target(target.as_str())
            .lease(waiting.lease.to_string())
            .reason(Event::RevocationOverdue.name())
            .with("waiting", number)
            .with("seconds", seconds)
            .with("bound", bound)
            .with("why", why.as_str());
        if let Some(lease) = lease {
            entry = entry
                .agent(lease.agent.as_str())
                .mission(lease.mission.as_str())
                .with("attempts", lease.attempts);
        }
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(Guard::Absent(key(target)))
            .write(Write::Put {
                key: key(target),
                value: waiting.lease.as_bytes().to_vec(),
                expires_at: None,
            })
            .write(entry.append(ShardId::INSTALLATION));
        let outcome = settle(self.store.as_ref(), transaction).await?;
        let first = matches!(
            outcome,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        );
        if first {
            tracing::error!(%target, lease = %waiting.lease, "ALARM: {why}");
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
