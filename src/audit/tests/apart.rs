//! What keeps one shard, or one replica, from sealing, and nobody else.

use super::loss::state_of;
use super::{Place, now, read, seal, sealer, shard, sign, stage, start};
use crate::audit::state::State;
use crate::audit::{Cursor, Entry, Event, Sealing, log};
use crate::clock::SystemClock;
use crate::ids::ShardId;
use crate::store::{Log, Outcome, Over, Position, Store, StoreError, Tail, Transaction};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A node is away, with one shard.
#[derive(Debug)]
struct Away {
    below: Arc<dyn Store>,
    shard: ShardId,
    is_away: AtomicBool,
}

#[async_trait]
impl Over for Away {
    fn below(&self) -> &dyn Store {
        self.below.as_ref()
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        if log.shard == self.shard && self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("its node is away".to_owned()));
        }
        self.below.tail(log, after, limit, wait).await
    }
}

/// It takes nothing that is written to one shard.
#[derive(Debug)]
struct Unwritten {
    below: Arc<dyn Store>,
    shard: ShardId,
    is_unwritten: AtomicBool,
}

#[async_trait]
impl Over for Unwritten {
    fn below(&self) -> &dyn Store {
        self.below.as_ref()
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        if transaction.shard == self.shard && self.is_unwritten.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("its node is full".to_owned()));
        }
        self.below.commit(transaction).await
    }
}

fn away(place: &Place) -> Arc<Away> {
    Arc::new(Away {
        below: place.store.clone(),
        shard: shard(1),
        is_away: AtomicBool::new(true),
    })
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..150 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came to: {what}");
}

#[tokio::test]
async fn a_shard_that_cannot_be_read_keeps_no_other_one_from_being_sealed() {
    let place = Place::new();
    let store = away(&place);
    let sealing = Sealing::start(
        store.clone(),
        sealer(),
        Arc::new(SystemClock::new()),
        place.path("audit.jsonl"),
        Box::new(sign),
    );
    stage(place.store.as_ref(), 1, "away").await;
    stage(place.store.as_ref(), 2, "here").await;
    let sealed = async |number: usize| {
        let found = State::read(place.store.as_ref(), &sealer()).await.unwrap();
        found.is_some_and(|(state, _)| {
            state.chain.head(shard(number).number()).position.sequence == 1
        })
    };
    until("the other is sealed", async || sealed(2).await).await;
    until("it is said", async || sealing.fault().is_some()).await;
    let number = shard(1).number();
    let fault = sealing.fault().unwrap();
    assert!(
        fault.contains(&format!("shard {number} is not sealed")),
        "{fault}"
    );
    assert!(!sealed(1).await);

    store.is_away.store(false, Ordering::Relaxed);
    until("it is sealed, too", async || sealed(1).await).await;
    until("nothing is wrong", async || sealing.fault().is_none()).await;
    sealing.finish().await;
    let report = read(&place.path("audit.jsonl"));
    assert!(report.is_sound() && report.entries == 2, "{report:?}");
}

/// So many that most of them are let go of once they are sealed.
async fn stage_many(place: &Place, number: usize) {
    let mut transaction = Transaction::new(shard(number), now() + Duration::from_secs(10));
    for one in 0..600 {
        let entry = Entry::new(Event::Issued, now()).with("number", one);
        transaction = transaction.write(entry.append(shard(number)));
    }
    place.store.commit(transaction).await.unwrap();
}

#[tokio::test]
async fn a_shard_that_cannot_be_trimmed_keeps_no_other_one_from_being_trimmed() {
    let place = Place::new();
    for number in [1, 2] {
        stage_many(&place, number).await;
    }
    let store = Arc::new(Unwritten {
        below: place.store.clone(),
        shard: shard(1),
        is_unwritten: AtomicBool::new(true),
    });
    let sealing = Sealing::start(
        store.clone(),
        sealer(),
        Arc::new(SystemClock::new()),
        place.path("audit.jsonl"),
        Box::new(sign),
    );
    let is_trimmed = async |number: usize| {
        let log = log(shard(number));
        let tail = place
            .store
            .tail(&log, Position::ORIGIN, 1, Duration::ZERO)
            .await;
        matches!(tail.unwrap(), Tail::Trimmed { .. })
    };
    until("the other is trimmed", async || is_trimmed(2).await).await;
    stage(place.store.as_ref(), 3, "later").await;
    until("sealing goes on", async || {
        let state = state_of(place.store.as_ref()).await;
        state.chain.head(shard(3).number()).position.sequence == 1
    })
    .await;
    assert_eq!(sealing.fault(), None);
    assert!(!is_trimmed(1).await);

    store.is_unwritten.store(false, Ordering::Relaxed);
    stage(place.store.as_ref(), 3, "again").await;
    until("it is trimmed, too", async || is_trimmed(1).await).await;
    sealing.finish().await;
    let report = read(&place.path("audit.jsonl"));
    assert!(report.is_sound() && report.entries == 1202, "{report:?}");
}

#[tokio::test]
async fn responses_to_one_shard_wait_for_no_other_one() {
    let place = Place::new();
    let cursor = Cursor::load(place.store.as_ref()).await.unwrap();
    stage(place.store.as_ref(), 1, "away").await;
    stage(place.store.as_ref(), 2, "here").await;
    let store = away(&place);
    let agents = |entries: Vec<Entry>| -> Vec<String> {
        let agents = entries.into_iter().filter_map(|entry| entry.agent);
        agents.collect()
    };
    let read = cursor.read_on(store.as_ref()).await.unwrap();
    assert_eq!(agents(read.entries), ["here"]);
    store.is_away.store(false, Ordering::Relaxed);
    let read = read.cursor.read_on(store.as_ref()).await.unwrap();
    assert_eq!(agents(read.entries), ["away"]);
}

#[tokio::test]
async fn a_claim_of_a_clock_that_was_ahead_keeps_nobody_from_sealing() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    assert_eq!(seal(&place.store, &path).await, None);
    let (mut state, version) = State::read(place.store.as_ref(), &sealer())
        .await
        .unwrap()
        .unwrap();
    state.holder = "whoever was ahead".to_owned();
    state.until = now() + Duration::from_secs(3600);
    let ahead = state.write(&sealer(), Some(version), now()).unwrap();
    place.store.commit(ahead).await.unwrap();

    stage(place.store.as_ref(), 1, "one").await;
    let sealing = start(&place.store, &path);
    until("it is sealed", async || {
        let state = state_of(place.store.as_ref()).await;
        state.chain.head(shard(1).number()).position.sequence == 1
    })
    .await;
    sealing.finish().await;
    assert_eq!(sealing.fault(), None);
}
