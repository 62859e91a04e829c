use super::*;
use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::store::embedded::Embedded;
use crate::store::{Key, Write};
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A real store whose first answer is lost, and that cannot be reached so many times after that.
#[derive(Debug)]
struct Away {
    store: Embedded,
    times: usize,
    asked: AtomicUsize,
}

#[async_trait]
impl crate::store::Over for Away {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        match self.asked.fetch_add(1, Ordering::Relaxed) {
            0 => {
                self.store.commit(transaction).await?;
                Err(StoreError::Unknown)
            }
            asked if asked <= self.times => Err(StoreError::Unavailable("away".to_owned())),
            _ => self.store.commit(transaction).await,
        }
    }
}

async fn settled(times: usize) -> Result<Outcome, StoreError> {
    let store = Away {
        store: Embedded::in_memory().unwrap(),
        times,
        asked: AtomicUsize::new(0),
    };
    let shard = ShardId::INSTALLATION;
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    let name = b"a".to_vec();
    let transaction = Transaction::new(shard, deadline).write(Write::Put {
        key: Key { shard, name },
        value: Vec::new(),
        expires_at: None,
    });
    settle(&store, transaction).await
}

#[tokio::test]
async fn what_was_lost_is_asked_for_until_there_is_an_answer() {
    let outcome = settled(2).await;
    assert!(
        matches!(outcome, Ok(Outcome::Applied { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_was_lost_is_not_called_refused_by_a_store_that_is_away() {
    let outcome = settled(100).await;
    assert!(matches!(outcome, Err(StoreError::Unknown)), "{outcome:?}");
}
