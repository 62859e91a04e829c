//! What of the log a replica keeps, and what never goes back.

use super::fixture::Line;
use super::{NOW, agent, fence, follow, new, replica, store};
use crate::clock::{Clock, SystemClock};
use crate::fences::view::{WHOLE, WHOLE_FOR};
use crate::fences::{Dimension, DimensionKind, FenceKind, Fences, View, snapshot};
use crate::secret::{Sealer, Secret};
use crate::store::{Position, Store};
use std::sync::Arc;
use std::time::Duration;

/// More ends of single leases than are kept whole, and by more than a block.
fn many() -> View {
    View::of((0..WHOLE + 2000).map(|number| {
        let lease = Dimension::new(DimensionKind::Lease, number.to_string());
        fence(FenceKind::Kill, lease)
    }))
}

#[test]
fn of_what_is_old_and_lies_far_back_only_the_place_is_known() {
    let mut view = many();
    let head = view.position();
    let then = NOW + WHOLE_FOR + Duration::from_secs(1);
    view.forget_entries(then, head.sequence);
    assert!(view.entry_at(1).is_none());
    assert!(view.since(0).is_none(), "not all of them are known");
    assert!(view.knows(Position::ORIGIN) && view.knows(head));
    let of_one = Dimension::new(DimensionKind::Lease, "0").hash();
    assert!(view.ended_by(&[of_one], Position::ORIGIN).is_some());
    let last = head.sequence - WHOLE;
    assert_eq!(view.since(last).unwrap().len() as u64, WHOLE);
}

#[test]
fn what_is_young_or_what_a_failover_can_lose_is_kept_whole() {
    let view = many();
    let head = view.position().sequence;
    let old = NOW + WHOLE_FOR + Duration::from_secs(1);
    for (now, replicated) in [(NOW + WHOLE_FOR, head), (old, 0), (old, 1023)] {
        let mut kept = view.clone();
        kept.forget_entries(now, replicated);
        assert!(kept.since(0).is_some(), "{now} {replicated}");
    }
    let mut kept = view;
    kept.forget_entries(old, 1024);
    assert!(kept.entry_at(1024).is_none() && kept.entry_at(1025).is_some());
}

#[tokio::test]
async fn what_was_loaded_late_does_not_take_the_place_of_what_was_read_since() {
    let line = Line::to(store());
    let fences = replica(&line);
    follow(&fences).await;
    let late = View::clone(&fences.last());
    let now = SystemClock::new().now();
    let raised = fences.raise(new(FenceKind::Kill, agent("a")), now).await;
    fences.take_loaded(late).unwrap();
    assert_eq!(fences.fresh().unwrap().position(), raised.unwrap().position);
}

#[tokio::test]
async fn a_snapshot_is_not_written_over_by_one_that_is_older() {
    let line = Line::to(store());
    let key = |key: u8| Secret::new(vec![key; 32]);
    let first = replica(&line);
    follow(&first).await;
    let now = SystemClock::new().now();
    let end = |name| new(FenceKind::Kill, agent(name));
    first.raise(end("a"), now).await.unwrap();
    first.store_snapshot_now().await;
    // Both find that it has to be stored under their first key, and one of them sleeps.
    let renewing = || {
        let store = Arc::clone(&line) as Arc<dyn Store>;
        let sealer = Sealer::new(&[key(8), key(7)]).unwrap();
        let clock = Arc::new(SystemClock::new());
        Fences::idle(store, sealer, clock, Duration::from_secs(1))
    };
    let (asleep, awake) = (renewing(), renewing());
    follow(&asleep).await;
    follow(&awake).await;
    assert!(asleep.is_to_renew() && awake.is_to_renew());
    let further = awake.raise(end("b"), now).await.unwrap().position;
    awake.store_snapshot_now().await;
    asleep.store_snapshot_now().await;
    let stored = snapshot::load(&renewing()).await.unwrap();
    assert_eq!(stored.position(), further);
}
