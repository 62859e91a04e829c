//! What of the log a replica keeps, and what never goes back.

use super::fixture::Line;
use super::{NOW, agent, fence, follow, new, replica, sealer, store};
use crate::clock::{Clock, SystemClock};
use crate::fences::view::{WHOLE, WHOLE_FOR};
use crate::fences::{Dimension, DimensionKind, FenceKind, Fences, View, snapshot};
use crate::secret::{Sealer, Secret};
use crate::store::{Log, Over, Position, Store, StoreError, Tail};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;

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

/// So many seconds after the fences were raised.
#[derive(Debug, Default)]
struct Later(AtomicU64);

impl Later {
    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Later {
    fn now(&self) -> OffsetDateTime {
        NOW + self.since_boot()
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// A store whose log is as long as a test says, and is on enough replicas or is not the same any more.
#[derive(Debug)]
struct Told {
    below: Arc<dyn Store>,
    head: Position,
    is_there: AtomicBool,
    clock: Arc<Later>,
}

#[async_trait]
impl Over for Told {
    fn below(&self) -> &dyn Store {
        self.below.as_ref()
    }

    async fn tail(&self, _: &Log, _: Position, _: usize, _: Duration) -> Result<Tail, StoreError> {
        if !self.is_there.load(Ordering::SeqCst) {
            return Ok(Tail::Forked { head: self.head });
        }
        Ok(Tail::Entries {
            entries: Vec::new(),
            head: self.head,
            store_now: self.clock.now(),
        })
    }
}

#[tokio::test]
async fn what_the_log_was_not_found_with_on_enough_replicas_is_kept_whole() {
    let (view, clock) = (many(), Arc::new(Later::default()));
    let store = Arc::new(Told {
        below: store(),
        head: view.position(),
        is_there: AtomicBool::new(true),
        clock: clock.clone(),
    });
    let (told, own) = (store.clone() as Arc<dyn Store>, clock.clone());
    let fences = Fences::idle(told, sealer(), own, Duration::from_secs(60));
    fences.take_loaded(view).unwrap();
    let is_whole = || fences.last().since(0).is_some();
    // All of it is old enough, and each minute it is looked for what nobody needs.
    clock.pass(WHOLE_FOR.as_secs() + 1);
    follow(&fences).await;
    assert!(is_whole(), "nothing was known to be replicated before");
    // It is not any more, says whoever has taken over.
    store.is_there.store(false, Ordering::SeqCst);
    drop(fences.follow(Duration::ZERO).await);
    store.is_there.store(true, Ordering::SeqCst);
    clock.pass(61);
    follow(&fences).await;
    assert!(is_whole(), "what a failover lost is put back from it");
    clock.pass(61);
    follow(&fences).await;
    assert!(!is_whole());
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
