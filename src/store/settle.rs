//! Sends a commit until its outcome is known.

use super::{Outcome, Store, StoreError, Transaction};
use std::time::Duration;

const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
    Duration::from_millis(500),
];

/// Sends the same transaction again while its outcome is unknown: a commit that finds its own id
/// was applied before, so this is safe. What is still unknown at the end is answered as unknown.
pub async fn settle(store: &dyn Store, transaction: Transaction) -> Result<Outcome, StoreError> {
    let mut unknown = false;
    for pause in PAUSES {
        match store.commit(transaction.clone()).await {
            Err(StoreError::Unknown) => unknown = true,
            // INVARIANT: that it cannot be sent now says nothing of what it did before.
            Err(_) if unknown => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
    }
    match store.commit(transaction).await {
        Err(_) if unknown => Err(StoreError::Unknown),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests;
