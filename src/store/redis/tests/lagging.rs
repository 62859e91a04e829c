//! A replica that is connected and hears nothing: what it has not acknowledged nobody has.

use super::*;

struct Pair {
    primary: RedisServer,
    replica: RedisServer,
    settings: RedisSettings,
}

impl Pair {
    fn start() -> Option<Self> {
        let primary = RedisServer::start(AOF).unwrap()?;
        let port = primary.port().to_string();
        let follows = ["--replicaof", "127.0.0.1", &port];
        let replica = RedisServer::start(&follows).unwrap()?;
        primary.until_followed_by(1).unwrap();
        let mut settings = settings(&primary);
        settings.min_replicas = 1;
        settings.replica_timeout = Duration::from_millis(200);
        Some(Self {
            primary,
            replica,
            settings,
        })
    }

    async fn open(&self) -> Redis {
        Redis::connect(self.settings.clone()).await.unwrap()
    }

    /// It is stopped where it is, and the primary counts it for a replica all the same.
    async fn stop(&self) {
        // It tells once a second how far it is; before that, something would be open by itself.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        self.replica.freeze();
        let told = self.primary.command("INFO replication").unwrap();
        assert!(told.contains("state=online"), "{told}");
    }
}

/// A busy machine has its replica hear the first one late.
async fn until_heard(store: &Redis) {
    let first = write(b"before");
    for _ in 0..50 {
        if is_applied(&store.commit(first.clone()).await) {
            return;
        }
    }
    panic!("the replica never hears anything");
}

fn is_unreplicated(outcome: &Result<Outcome, StoreError>) -> bool {
    matches!(outcome, Ok(Outcome::Unreplicated { .. }))
}

#[tokio::test]
async fn a_commit_that_a_connected_replica_has_not_heard_is_unreplicated() {
    let Some(pair) = Pair::start() else { return };
    let store = pair.open().await;
    until_heard(&store).await;
    pair.stop().await;
    let transaction = write(b"lost");
    let outcome = store.commit(transaction.clone()).await;
    assert!(is_unreplicated(&outcome), "{outcome:?}");
    assert!(is_applied(&store.commit(write(b"local").local()).await));
    pair.replica.thaw();
    let outcome = store.commit(transaction).await;
    assert!(is_applied(&outcome), "{outcome:?}");
}

/// Whoever sends it again did not write it.
#[tokio::test]
async fn a_commit_that_is_sent_again_waits_for_its_first_writing() {
    let Some(pair) = Pair::start() else { return };
    let (store, other) = (pair.open().await, pair.open().await);
    pair.stop().await;
    let transaction = write(b"lost");
    let outcome = store.commit(transaction.clone()).await;
    assert!(is_unreplicated(&outcome), "{outcome:?}");
    let again = other.commit(transaction.clone()).await;
    assert!(is_unreplicated(&again), "{again:?}");
    pair.replica.thaw();
    let again = other.commit(transaction).await;
    assert!(is_applied(&again), "{again:?}");
}

#[tokio::test]
async fn a_look_at_a_log_that_a_connected_replica_has_not_heard_proves_nothing() {
    let Some(pair) = Pair::start() else { return };
    let (store, other) = (pair.open().await, pair.open().await);
    // All that was written is acknowledged, and nothing is written but the heartbeat.
    until_heard(&store).await;
    pair.stop().await;
    for store in [&store, &other] {
        let told = store
            .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
            .await;
        assert!(matches!(told, Err(StoreError::Unproved { .. })), "{told:?}");
    }
    pair.replica.thaw();
    let told = other
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    assert!(matches!(told, Ok(Tail::Entries { .. })), "{told:?}");
}
