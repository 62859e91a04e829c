//! A log that is of no use any more, and what stood on it: by its snapshot, and by the audit's word.

use super::fixture::Line;
use super::{agent, follow, new, replica, store};
use crate::audit::{self, Entry};
use crate::clock::{Clock, SystemClock};
use crate::fences::{EndedBy, FenceError, FenceKind, Fences, again, log};
use crate::ids::ShardId;
use crate::store::{Key, Position, Store, Tail, Transaction, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;

fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

fn snapshot() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"fences/snapshot".to_vec(),
    }
}

async fn put(store: &dyn Store, write: Write) {
    let deadline = now() + Duration::from_secs(10);
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(transaction).await.unwrap();
}

async fn put_snapshot(store: &dyn Store, value: Vec<u8>) {
    let (key, expires_at) = (snapshot(), None);
    let write = Write::Put {
        key,
        value,
        expires_at,
    };
    put(store, write).await;
}

/// Its first entries, and the snapshot of all of them.
async fn cut(of: &dyn Store, keeping: usize) -> Arc<dyn Store> {
    let rest = store();
    let tail = of.tail(&log(), Position::ORIGIN, 100, Duration::ZERO).await;
    let Tail::Entries { entries, .. } = tail.unwrap() else {
        panic!("nothing is trimmed yet");
    };
    for entry in entries.into_iter().take(keeping) {
        let (log, value) = (log(), entry.value);
        put(rest.as_ref(), Write::Append { log, value }).await;
    }
    let record = of.get(&[snapshot()]).await.unwrap().pop().unwrap();
    put_snapshot(rest.as_ref(), record.unwrap().value).await;
    rest
}

/// Six suspensions, their places, and the store with a snapshot of them.
async fn six() -> (Arc<dyn Store>, Vec<Position>) {
    let whole = store();
    let fences = replica(&Line::to(Arc::clone(&whole)));
    follow(&fences).await;
    let mut places = vec![Position::ORIGIN];
    for name in ["a", "b", "c", "d", "e", "f"] {
        let fence = new(FenceKind::Hold, agent(name));
        places.push(fences.raise(fence, now()).await.unwrap().position);
    }
    fences.store_snapshot_now().await;
    (whole, places)
}

fn of(store: &Arc<dyn Store>) -> Fences {
    replica(&Line::to(Arc::clone(store)))
}

async fn lost_for_good(store: &Arc<dyn Store>) -> Fences {
    let fences = of(store);
    let found = fences.follow(Duration::ZERO).await;
    assert!(
        matches!(found, Err(FenceError::LostForGood(_))),
        "{found:?}"
    );
    fences
}

/// All six are held, here and for whoever starts.
async fn holds_all(fences: &Fences, store: &Arc<dyn Store>) {
    let other = of(store);
    for fences in [fences, &other] {
        follow(fences).await;
        let view = fences.fresh().unwrap();
        for name in ["a", "b", "c", "d", "e", "f"] {
            assert!(view.held(&[agent(name).hash()]).is_some(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_log_that_ends_before_its_snapshot_begins_anew_with_all_that_stood() {
    let (whole, places) = six().await;
    let rest = cut(whole.as_ref(), 2).await;
    let fences = lost_for_good(&rest).await;
    fences.begin_anew(false, now()).await.unwrap();
    holds_all(&fences, &rest).await;
    let view = fences.fresh().unwrap();
    // What was decided on what is left is ended by what came later; on the rest, it is dead.
    let ended = |name: &str, at: Position| view.ended_by(&[agent(name).hash()], at);
    assert!(matches!(ended("f", places[2]), Some(EndedBy::Fence(_))));
    assert_eq!(ended("nobody", places[2]), None);
    // Further on than the log has come again: nobody vouches for it.
    assert_eq!(ended("nobody", places[4]), Some(EndedBy::Ahead));
    assert_eq!(ended("nobody", places[3]), Some(EndedBy::Lost));
    assert_eq!(
        ended("f", view.position()),
        None,
        "that is what a hold is for"
    );
}

#[tokio::test]
async fn a_log_that_is_gone_begins_anew_with_all_that_stood() {
    let (whole, places) = six().await;
    let rest = cut(whole.as_ref(), 0).await;
    let fences = lost_for_good(&rest).await;
    fences.begin_anew(false, now()).await.unwrap();
    holds_all(&fences, &rest).await;
    let view = fences.fresh().unwrap();
    assert_eq!(view.ended_by(&[], places[1]), Some(EndedBy::Lost));
}

#[tokio::test]
async fn a_snapshot_that_is_not_ours_is_given_up_by_who_says_so() {
    let (whole, places) = six().await;
    put_snapshot(whole.as_ref(), [2; 100].to_vec()).await;
    let fences = of(&whole);
    let found = fences.follow(Duration::ZERO).await;
    assert!(
        matches!(found, Err(FenceError::ForgedSnapshot)),
        "{found:?}"
    );
    let refused = fences.begin_anew(false, now()).await;
    assert!(matches!(refused, Err(FenceError::ForgedSnapshot)));
    fences.begin_anew(true, now()).await.unwrap();
    holds_all(&fences, &whole).await;
    let view = fences.fresh().unwrap();
    assert_eq!(view.ended_by(&[], places[3]), None, "the log is whole");
}

#[tokio::test]
async fn what_was_trimmed_behind_a_snapshot_that_is_gone_is_dead() {
    let (whole, places) = six().await;
    let (log, through) = (log(), 3);
    put(whole.as_ref(), Write::Trim { log, through }).await;
    put(whole.as_ref(), Write::Delete(snapshot())).await;
    let fences = lost_for_good(&whole).await;
    fences.begin_anew(false, now()).await.unwrap();
    follow(&fences).await;
    let view = fences.fresh().unwrap();
    assert_eq!(view.ended_by(&[], places[2]), Some(EndedBy::Lost));
    assert_eq!(view.ended_by(&[], places[4]), None);
    assert!(view.held(&[agent("d").hash()]).is_some());
    assert!(
        view.held(&[agent("c").hash()]).is_none(),
        "only the audit knows"
    );
}

#[tokio::test]
async fn a_log_without_what_is_sealed_is_not_started_on() {
    let (whole, places) = six().await;
    // The store was asked, and then it was another one.
    let rest = cut(whole.as_ref(), 2).await;
    put(rest.as_ref(), Write::Delete(snapshot())).await;
    let fences = of(&rest).sealed_at(Some(places[5]));
    for _ in 0..3 {
        drop(fences.follow(Duration::ZERO).await);
        assert!(fences.fresh().is_err());
    }
    let found = of(&rest)
        .sealed_at(Some(places[5]))
        .follow(Duration::ZERO)
        .await;
    assert!(
        matches!(found, Err(FenceError::LostForGood(5))),
        "{found:?}"
    );
    let fences = of(&rest).sealed_at(Some(places[2]));
    follow(&fences).await;
    assert!(fences.fresh().is_ok());
}

/// What it read first nobody acknowledged.
#[tokio::test]
async fn a_log_without_what_is_sealed_is_not_gone_on_with_either() {
    let (whole, places) = six().await;
    let rest = cut(whole.as_ref(), 2).await;
    put(rest.as_ref(), Write::Delete(snapshot())).await;
    let line = Line::to(rest);
    let fences = of(&(Arc::clone(&line) as Arc<dyn Store>)).sealed_at(Some(places[5]));
    line.unproved.store(true, Ordering::SeqCst);
    fences.follow(Duration::ZERO).await.unwrap_err();
    assert_eq!(fences.last().position().sequence, 2);
    line.unproved.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        let found = fences.follow(Duration::ZERO).await;
        assert!(
            matches!(found, Err(FenceError::LostForGood(5))),
            "{found:?}"
        );
        assert!(fences.fresh().is_err());
    }
}

/// What the audit says of everything here.
async fn told(store: &dyn Store) -> Vec<Entry> {
    let page = audit::page(store, ShardId::INSTALLATION, Position::ORIGIN).await;
    let entries = page.unwrap().entries.into_iter();
    entries.filter_map(|(_, entry)| entry).collect()
}

/// As a recovery does it; how many it raised.
async fn made_good(fences: &Fences, told: &[Entry]) -> usize {
    let mut raised = 0;
    for fence in again(told, now()) {
        if !fences.last().has(&fence) {
            fences.raise(fence, now()).await.unwrap();
            raised += 1;
        }
    }
    raised
}

#[tokio::test]
async fn what_is_raised_again_is_the_same_and_is_raised_once() {
    let whole = store();
    let fences = of(&whole);
    follow(&fences).await;
    let mut ids = Vec::new();
    for (kind, name) in [
        (FenceKind::Hold, "a"),
        (FenceKind::Kill, "b"),
        (FenceKind::Kill, "b"),
    ] {
        let raised = fences.raise(new(kind, agent(name)), now()).await.unwrap();
        ids.push(raised.fence.id);
    }
    let before = told(whole.as_ref()).await;
    let empty = store();
    let fences = of(&empty);
    follow(&fences).await;
    assert_eq!(made_good(&fences, &before).await, 3);
    assert_eq!(made_good(&fences, &before).await, 0);
    assert_eq!(fences.last().holds()[0].fence_id, ids[0]);
    let on_log: Vec<_> = fences.last().since(0).unwrap();
    let on_log: Vec<_> = on_log.iter().map(|fence| fence.id).collect();
    assert_eq!(on_log, ids);
    // Whoever lifts it lifts the one that was, for whoever recovers next.
    let lift = new(FenceKind::Lift, agent("a"));
    fences.raise(lift, now()).await.unwrap();
    let after = told(empty.as_ref()).await;
    let third = of(&store());
    follow(&third).await;
    let all = [before, after].concat();
    assert_eq!(made_good(&third, &all).await, 3);
    assert!(third.last().holds().is_empty());
}
