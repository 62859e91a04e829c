//! What goes on beside the requests for as long as a broker is held, and by whose clock.

use super::super::output::Failure;
use crate::broker::{
    Broker, GOVERNED_EVERY, facts, overdue, publish, receipts, record, respond, watched,
};
use crate::clock::Clock;
use crate::fences::Fences;
use crate::jose::Keyring;
use crate::store::{InStoreTime, Store};
use std::sync::Arc;
use std::time::Duration;

/// Until it could be done once.
const BEGUN_EVERY: Duration = Duration::from_millis(20);

/// How often this replica looks at its signing keys.
pub const KEYS_EVERY: Duration = Duration::from_secs(20);
const KEYS_AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// The store with deadlines by this replica's clock; that clock, never later than the store's; the store's.
pub(super) async fn in_store_time(
    store: Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<dyn Store>, Arc<dyn Clock>, Arc<dyn Clock>), Failure> {
    let timed = InStoreTime::over(store, clock.clone()).await;
    let timed = Arc::new(timed.map_err(|error| Failure::failed(error.to_string()))?);
    let (no_later, there) = (timed.clone().no_later(), timed.clone().there());
    Ok((timed, no_later, there))
}

/// What is done beside the requests.
pub(super) fn keep_going(broker: &Arc<Broker>, alone: bool, clock: &Arc<dyn Clock>) {
    keep_governed(broker, alone);
    respond::start(broker, clock.clone());
    facts::start(broker);
    watched::start(broker, alone);
    publish::start(broker);
    receipts::start(broker);
    overdue::start(broker);
    record::start(broker);
}

/// Every replica looks; whoever is first acts.
fn keep_governed(broker: &Arc<Broker>, alone: bool) {
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        let mut rest = GOVERNED_EVERY;
        while let Some(broker) = broker.upgrade() {
            if broker.begin(alone).await.is_ok() {
                break;
            }
            drop(broker);
            tokio::time::sleep(BEGUN_EVERY).await;
        }
        loop {
            tokio::time::sleep(rest).await;
            let Some(broker) = broker.upgrade() else {
                return;
            };
            let began = tokio::time::Instant::now();
            let round = broker.govern().await;
            // However many there are, looking after them is a twentieth of the time.
            rest = GOVERNED_EVERY.max(began.elapsed() * 20);
            if let Err(refusal) = round {
                tracing::warn!(
                    why = refusal.detail,
                    "governance: the round was not finished; trying again"
                );
            }
        }
    });
}

/// Rotation counts on every replica looking at the keys at least once a minute. A key that another
/// replica removed as compromised is on the fence log: after a fence the keys are looked at soon,
/// or this replica would go on signing with it and would not know its successor. By the store's clock,
/// which all replicas share.
pub(super) fn keep_fresh(keyring: &Arc<Keyring>, fences: &Fences, clock: Arc<dyn Clock>) {
    let keyring = Arc::downgrade(keyring);
    let mut fenced = fences.moved();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(KEYS_AT_MOST_EVERY).await;
            let woken = tokio::time::timeout(KEYS_EVERY, fenced.changed()).await;
            if matches!(woken, Ok(Err(_))) {
                return;
            }
            let Some(keyring) = keyring.upgrade() else {
                return;
            };
            let now = clock.now();
            if let Err(error) = keyring.refresh(now).await {
                tracing::warn!(%error, "the signing keys could not be looked at; trying again");
                continue;
            }
            for purpose in keyring.due(now) {
                if let Err(error) = keyring.rotate(&purpose, now, false).await {
                    tracing::warn!(%error, %purpose, "a key that is due was not rotated; trying again");
                }
            }
        }
    });
}
