use super::*;
use crate::clock::SystemClock;
use crate::store::Key;
use crate::store::embedded::Embedded;
use std::sync::Mutex;

/// A real store whose shards are on nodes with clocks of their own.
#[derive(Debug)]
struct Apart {
    store: Embedded,
    ahead: Mutex<HashMap<ShardId, time::Duration>>,
    sent: Mutex<Vec<Transaction>>,
}

impl Apart {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Embedded::in_memory().unwrap(),
            ahead: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    fn set(&self, shard: ShardId, seconds: i64) {
        let ahead = time::Duration::seconds(seconds);
        self.ahead.lock().unwrap().insert(shard, ahead);
    }

    fn ahead(&self, shard: ShardId) -> time::Duration {
        let ahead = self.ahead.lock().unwrap();
        ahead.get(&shard).copied().unwrap_or_default()
    }

    async fn timed(self: &Arc<Self>) -> Arc<InStoreTime> {
        let clock = Arc::new(SystemClock::new());
        let timed = InStoreTime::over(Arc::clone(self) as Arc<dyn Store>, clock).await;
        Arc::new(timed.unwrap())
    }
}

#[async_trait]
impl crate::store::Over for Apart {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        self.sent.lock().unwrap().push(transaction.clone());
        transaction.deadline -= self.ahead(transaction.shard);
        self.store.commit(transaction).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let mut tail = self.store.tail(log, after, limit, wait).await?;
        if let Tail::Entries { store_now, .. } = &mut tail {
            *store_now += self.ahead(log.shard);
        }
        Ok(tail)
    }
}

fn shard(number: usize) -> ShardId {
    ShardId::all().nth(number).unwrap()
}

fn soon(shard: ShardId) -> Transaction {
    Transaction::new(shard, SystemClock::new().now() + Duration::from_secs(45))
}

fn applied() -> Outcome {
    Outcome::Applied {
        appended: Vec::new(),
    }
}

#[tokio::test]
async fn each_node_of_a_cluster_has_a_clock_of_its_own() {
    let store = Apart::new();
    store.set(shard(1), 600);
    store.set(shard(2), -600);
    let timed = store.timed().await;
    for at in [shard(1), shard(2), shard(3), ShardId::INSTALLATION] {
        assert_eq!(timed.commit(soon(at)).await.unwrap(), applied(), "{at:?}");
        // Not by being generous: there is a deadline still.
        let mut late = soon(at);
        late.deadline -= Duration::from_secs(60);
        store.sent.lock().unwrap().clear();
        assert_eq!(
            timed.commit(late).await.unwrap(),
            Outcome::TooLate,
            "{at:?}"
        );
        assert_eq!(store.sent.lock().unwrap().len(), 1, "the clock is known");
    }
    // Nor does a look at one of them say anything about the others.
    timed.look(shard(2)).await.unwrap();
    assert_eq!(timed.commit(soon(shard(1))).await.unwrap(), applied());
}

#[tokio::test]
async fn a_node_with_another_clock_takes_over_and_no_commit_is_too_late_for_it() {
    let store = Apart::new();
    let timed = store.timed().await;
    store.set(shard(1), 600);
    assert_eq!(timed.commit(soon(shard(1))).await.unwrap(), applied());
    store.sent.lock().unwrap().clear();
    assert_eq!(timed.commit(soon(shard(1))).await.unwrap(), applied());
    assert_eq!(store.sent.lock().unwrap().len(), 1, "known from then on");
}

#[tokio::test]
async fn nothing_is_over_by_a_clock_that_is_ahead_nor_kept_by_one_node_that_is_behind() {
    let (now, store) = (SystemClock::new().now(), Apart::new());
    store.set(shard(1), 600);
    store.set(shard(2), -600);
    store.set(ShardId::INSTALLATION, 60);
    let timed = store.timed().await;
    let no_later = timed.clone().no_later().now() - now;
    assert!(no_later.whole_seconds().abs() < 5, "{no_later}");
    let there = timed.there().now() - now;
    assert!((there.whole_seconds() - 60).abs() < 5, "{there}");

    // This replica is ahead of all of them but one.
    ShardId::all().for_each(|shard| store.set(shard, -3600));
    store.set(shard(1), 0);
    store.set(ShardId::INSTALLATION, -3600);
    let timed = store.timed().await;
    let no_later = timed.no_later().now() - now;
    assert!((no_later.whole_seconds() + 3600).abs() < 5, "{no_later}");

    // The one that the fences are read from is behind, and alone with that; then this replica is.
    for (others, installation) in [(0, -3600), (3600, 3600)] {
        ShardId::all().for_each(|shard| store.set(shard, others));
        store.set(ShardId::INSTALLATION, installation);
        let timed = store.timed().await;
        let no_later = timed.no_later().now() - now;
        assert!(no_later.whole_seconds().abs() < 5, "{others}: {no_later}");
    }
}

#[tokio::test]
async fn what_is_shared_outlasts_a_clock_that_is_behind() {
    for ahead in [7200, -7200] {
        let store = Apart::new();
        store.set(ShardId::INSTALLATION, ahead);
        ShardId::all().for_each(|shard| store.set(shard, ahead));
        let timed = store.timed().await;
        let week = SystemClock::new().now() + Duration::from_secs(7 * 24 * 3600);
        let transaction = soon(shard(1)).write(Write::Unshare {
            key: Key {
                shard: shard(1),
                name: b"shared".to_vec(),
            },
            until: week,
        });
        timed.commit(transaction).await.unwrap();
        let sent = store.sent.lock().unwrap().pop().unwrap();
        let Some(Write::Unshare { until, .. }) = sent.writes.first() else {
            panic!("{sent:?}");
        };
        let later = (*until - week).whole_seconds();
        assert!((later - ahead.max(0)).abs() < 5, "{later}");
    }
}
