//! Whoever can write to the store, and has no sealing key.

use super::fixture::Line;
use super::fold::{add, add_by};
use super::{agent, follow, new, replica, sealer, store};
use crate::clock::{Clock, SystemClock};
use crate::fences::entry::{self, Author};
use crate::fences::{Dimension, Fence, FenceError, FenceKind, Fences, View, Weight, log};
use crate::ids::ShardId;
use crate::secret::{Sealer, Secret};
use crate::store::{Key, Store, Transaction, Write};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

/// Of today: replicas forget by their own clock what is over.
fn fence(kind: FenceKind, dimension: Dimension) -> Fence {
    let at = now();
    Fence {
        at,
        ..super::fence(kind, dimension)
    }
}

fn with(sealer: Sealer, line: &Arc<Line>) -> Fences {
    let clock = Arc::new(SystemClock::new());
    let store = Arc::clone(line) as Arc<dyn Store>;
    Fences::idle(store, sealer, clock, Duration::from_secs(1))
}

fn stranger() -> Sealer {
    Sealer::new(&[Secret::new(vec![66; 32])]).unwrap()
}

async fn write(store: &Arc<dyn Store>, write: Write) {
    let deadline = now() + Duration::from_secs(30);
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(transaction).await.unwrap();
}

async fn append(store: &Arc<dyn Store>, value: Vec<u8>) {
    write(store, Write::Append { log: log(), value }).await;
}

fn is_held(fences: &Fences, name: &str) -> bool {
    let view = fences.fresh().unwrap();
    view.held(&[agent(name).hash()]).is_some()
}

/// The store of a broker that holds `a`, with the hold as it stands on the log.
async fn held() -> (Arc<dyn Store>, Arc<Line>, Fences, Fence) {
    let store = store();
    let line = Line::to(Arc::clone(&store));
    let fences = replica(&line);
    follow(&fences).await;
    let raised = fences.raise(new(FenceKind::Hold, agent("a")), now()).await;
    (store, line, fences, raised.unwrap().fence)
}

#[tokio::test]
async fn what_no_broker_wrote_takes_away_and_gives_nothing_back() {
    let (store, line, fences, hold) = held().await;
    let lift = Fence {
        lifts: vec![hold.id],
        weight: Weight::Retirement,
        ..fence(FenceKind::Lift, agent("a"))
    };
    let before = fences.fresh().unwrap().position();
    for said in [
        lift,
        fence(FenceKind::Hold, agent("b")),
        fence(FenceKind::Kill, agent("c")),
    ] {
        append(&store, entry::wrap(&stranger(), &said).unwrap()).await;
    }
    follow(&fences).await;
    // One that starts now reads it the same way.
    let another = replica(&line);
    follow(&another).await;
    for fences in [&fences, &another] {
        assert!(is_held(fences, "a") && is_held(fences, "b"));
        let view = fences.fresh().unwrap();
        assert!(view.ended_by(&[agent("c").hash()], before).is_some());
    }
    // A broker's own word ends both.
    for name in ["a", "b"] {
        let lift = new(FenceKind::Lift, agent(name));
        fences.raise(lift, now()).await.unwrap();
        assert!(!is_held(&fences, name));
    }
}

#[tokio::test]
async fn an_old_lift_that_is_put_on_the_log_again_lifts_nothing() {
    let (store, _line, fences, _) = held().await;
    let lift = new(FenceKind::Lift, agent("a"));
    fences.raise(lift, now()).await.unwrap();
    let view = fences.fresh().unwrap();
    let old: Vec<_> = (1..=2)
        .map(|at| view.entry_at(at).unwrap().raw.clone())
        .collect();
    tokio::time::sleep(Duration::from_millis(3)).await;
    fences
        .raise(new(FenceKind::Hold, agent("a")), now())
        .await
        .unwrap();
    // The lift alone; the hold that it named, and the lift again.
    for place in [1, 0, 1] {
        append(&store, old[place].clone()).await;
        follow(&fences).await;
        assert!(is_held(&fences, "a"), "{place}");
    }
}

/// A hold that nobody of ours wrote, under the id of this one, later and as strong as can be.
fn forged(under: &Fence) -> Fence {
    Fence {
        at: under.at + Duration::from_secs(3600 * 24 * 365 * 70),
        weight: Weight::Retirement,
        reason: "forged".to_owned(),
        ..under.clone()
    }
}

#[tokio::test]
async fn a_forged_time_at_the_end_of_all_time_stops_nothing() {
    let (store, line, fences, _) = held().await;
    let last = time::PrimitiveDateTime::MAX.assume_utc();
    for (kind, name) in [(FenceKind::Hold, "b"), (FenceKind::Kill, "c")] {
        let forged = Fence {
            at: last,
            until: Some(last),
            ..fence(kind, agent(name))
        };
        append(&store, entry::wrap(&stranger(), &forged).unwrap()).await;
    }
    for fences in [&fences, &replica(&line)] {
        follow(fences).await;
        assert!(is_held(fences, "a") && is_held(fences, "b"));
    }
    fences.store_snapshot_now().await;
    let from_the_snapshot = replica(&line);
    follow(&from_the_snapshot).await;
    assert!(is_held(&from_the_snapshot, "b"));
}

#[test]
fn a_forged_hold_and_an_old_lift_end_no_real_one() {
    let old = fence(FenceKind::Hold, agent("a"));
    let lift = Fence {
        lifts: vec![old.id],
        weight: Weight::Retirement,
        ..fence(FenceKind::Lift, agent("a"))
    };
    let real = fence(FenceKind::Hold, agent("a"));
    let mut view = add(&View::origin(), &real);
    view = add_by(&view, &forged(&old), Author::Anybody);
    view = add_by(&view, &lift, Author::Ours);
    assert_eq!(view.held(&[agent("a").hash()]).unwrap().fence_id, real.id);
}

#[test]
fn a_forged_hold_hides_the_real_one_of_its_id_in_neither_order() {
    let real = fence(FenceKind::Hold, agent("a"));
    let forged = forged(&real);
    for order in [[&real, &forged], [&forged, &real]] {
        let author = |fence: &Fence| match fence == &real {
            true => Author::Ours,
            false => Author::Anybody,
        };
        let view = order.iter().fold(View::origin(), |view, fence| {
            add_by(&view, fence, author(fence))
        });
        let stands = view.holds_on(&agent("a"));
        assert_eq!(stands.len(), 1);
        assert_eq!(stands[0].reason, real.reason);
    }
}

#[test]
fn a_stronger_hold_of_old_takes_no_newer_one_along() {
    let retired = Fence {
        weight: Weight::Retirement,
        ..fence(FenceKind::Hold, agent("a"))
    };
    let taken_back = Fence {
        lifts: vec![retired.id],
        weight: Weight::Retirement,
        ..fence(FenceKind::Lift, agent("a"))
    };
    let later = |fence: Fence, seconds: u64| Fence {
        at: fence.at + Duration::from_secs(seconds),
        ..fence
    };
    let own = [agent("a").hash()];
    let newer = later(fence(FenceKind::Hold, agent("a")), 60);
    let newest = later(fence(FenceKind::Hold, agent("a")), 90);
    let view = add(&View::origin(), &newer);
    let view = add_by(&view, &retired, Author::Ours);
    let view = add(&view, &newest);
    assert_eq!(view.held(&own).unwrap().weight, Weight::Retirement);
    let view = add_by(&view, &taken_back, Author::Ours);
    assert_eq!(view.held(&own).unwrap().fence_id, newest.id);
}

#[test]
fn a_shorter_hold_takes_no_longer_ones_place() {
    let short = Fence {
        until: Some(super::NOW + Duration::from_secs(60)),
        at: super::NOW + Duration::from_secs(1),
        ..fence(FenceKind::Hold, agent("a"))
    };
    let view = add(&View::origin(), &fence(FenceKind::Hold, agent("a")));
    let mut view = add_by(&view, &short, Author::Anybody);
    view.drop_ended_holds(super::NOW + Duration::from_secs(61));
    assert!(view.held(&[agent("a").hash()]).is_some());
}

#[tokio::test]
async fn an_entry_of_another_format_stops_everything_and_says_what_to_do() {
    let (store, _line, fences, hold) = held().await;
    append(&store, rmp_serde::to_vec_named(&hold).unwrap()).await;
    let refused = fences.follow(Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, FenceError::OtherFormat(2)), "{refused}");
    assert!(refused.to_string().contains("docs/storage.md"));
}

#[tokio::test]
async fn a_snapshot_that_no_broker_wrote_is_not_believed() {
    let (store, line, fences, _) = held().await;
    fences.store_snapshot_now().await;
    let key = Key {
        shard: ShardId::INSTALLATION,
        name: b"fences/snapshot".to_vec(),
    };
    let found = store
        .get(std::slice::from_ref(&key))
        .await
        .unwrap()
        .remove(0);
    let (body, _) = entry::unwrap_snapshot(&sealer(), &found.unwrap().value)
        .map(|(body, author)| (body.to_vec(), author))
        .unwrap();
    let value = entry::wrap_snapshot(&stranger(), &body).unwrap();
    let put = |value| Write::Put {
        key: key.clone(),
        value,
        expires_at: None,
    };
    write(&store, put(value)).await;
    let refused = replica(&line).follow(Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, FenceError::ForgedSnapshot), "{refused}");
    write(&store, put(entry::wrap_snapshot(&sealer(), &body).unwrap())).await;
    let again = replica(&line);
    follow(&again).await;
    assert!(is_held(&again, "a"));
}

#[tokio::test]
async fn a_sealing_key_may_go_once_the_fold_is_stored_under_the_next() {
    let (_store, line, _, _) = held().await;
    let keys = |all: &[u8]| {
        let all: Vec<_> = all.iter().map(|key| Secret::new(vec![*key; 32])).collect();
        Sealer::new(&all).unwrap()
    };
    let both = with(keys(&[8, 7]), &line);
    follow(&both).await;
    assert!(is_held(&both, "a"));
    assert!(
        both.is_to_renew(),
        "a key that is to go wrote what is there"
    );
    both.raise(new(FenceKind::Lift, agent("a")), now())
        .await
        .unwrap();
    both.store_snapshot_now().await;
    assert!(!both.is_to_renew());
    let without = with(keys(&[8]), &line);
    follow(&without).await;
    assert!(!is_held(&without, "a"), "the lift is known");
    assert!(!without.is_to_renew());
}

#[test]
fn nobody_puts_a_lesser_restriction_in_the_place_of_one_that_stands() {
    use crate::authority::{Authority, Permission};
    use crate::fences::{Dimension, DimensionKind, Restriction};
    let denied = |actions: Vec<String>| Restriction {
        denied: Authority(vec![Permission {
            actions,
            locations: vec!["*".to_owned()],
        }]),
        ends_leases: true,
        longest: None,
        approval: false,
    };
    let target = Dimension::new(DimensionKind::Target, "orders");
    let real = Fence {
        restriction: Some(denied(vec!["orders:write".to_owned()])),
        ..fence(FenceKind::Restrict, target)
    };
    let lesser = Fence {
        restriction: Some(denied(Vec::new())),
        ..real.clone()
    };
    let view = add(&View::origin(), &real);
    let view = add_by(&view, &lesser, Author::Anybody);
    let stands: Vec<_> = view.denied_on("orders").collect();
    assert_eq!(stands.len(), 1);
    assert_eq!(stands[0].0, &real);
}
