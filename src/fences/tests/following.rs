use super::fixture::{Advanced, Line};
use super::{agent, follow, new, replica, sealer, store};
use crate::clock::Clock;
use crate::fences::follow::PAGE;
use crate::fences::{FenceKind, Fences, Stale, log, snapshot};
use crate::store::{Position, Store, Tail};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;

fn now() -> OffsetDateTime {
    Advanced::new().now()
}

#[tokio::test]
async fn nothing_is_decided_before_the_head_was_reached() {
    let fences = replica(&Line::to(store()));
    assert_eq!(fences.fresh().unwrap_err(), Stale);
    follow(&fences).await;
    assert_eq!(fences.fresh().unwrap().position(), Position::ORIGIN);
}

#[tokio::test]
async fn a_fence_is_in_force_here_before_it_is_answered_and_elsewhere_after_a_cycle() {
    let line = Line::to(store());
    let (here, there) = (replica(&line), replica(&line));
    follow(&here).await;
    follow(&there).await;
    let raised = here
        .raise(new(FenceKind::Hold, agent("a")), now())
        .await
        .unwrap();
    assert!(raised.replicated);
    let dimensions = [agent("a").hash()];
    let held = here.fresh().unwrap().held(&dimensions).unwrap();
    assert_eq!(held.fence_id, raised.fence.id);
    assert!(there.fresh().unwrap().held(&dimensions).is_none());
    follow(&there).await;
    assert!(there.fresh().unwrap().held(&dimensions).is_some());
    assert_eq!(there.fresh().unwrap().position(), raised.position);
}

#[tokio::test]
async fn a_fence_raised_behind_others_that_were_not_read_yet_is_in_force_too() {
    let line = Line::to(store());
    let (here, there) = (replica(&line), replica(&line));
    follow(&here).await;
    follow(&there).await;
    for number in 0..5 {
        here.raise(new(FenceKind::Kill, agent(&number.to_string())), now())
            .await
            .unwrap();
    }
    there
        .raise(new(FenceKind::Hold, agent("a")), now())
        .await
        .unwrap();
    let view = there.fresh().unwrap();
    assert_eq!(view.position().sequence, 6);
    assert!(view.held(&[agent("a").hash()]).is_some());
}

#[tokio::test]
async fn past_the_bound_there_is_no_view_until_the_store_answers_again() {
    let line = Line::to(store());
    let clock = Advanced::new();
    let fences = Fences::idle(
        Arc::clone(&line) as Arc<dyn Store>,
        sealer(),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Duration::from_secs(60),
    );
    follow(&fences).await;
    clock.advance(Duration::from_secs(50));
    assert!(fences.fresh().is_ok());
    line.cut();
    assert!(fences.follow(Duration::ZERO).await.is_err());
    clock.advance(Duration::from_secs(20));
    assert_eq!(fences.fresh().unwrap_err(), Stale);
    line.mend();
    follow(&fences).await;
    assert!(fences.fresh().is_ok());
}

/// Too few replicas of the store acknowledge: a failover may take back what is read now.
#[tokio::test]
async fn what_nobody_acknowledged_is_in_force_and_proves_nothing() {
    let line = Line::to(store());
    let clock = Advanced::new();
    let replica = || {
        let store = Arc::clone(&line) as Arc<dyn Store>;
        let clock = Arc::clone(&clock) as Arc<dyn Clock>;
        Fences::idle(store, sealer(), clock, Duration::from_secs(60))
    };
    let (one, two, fresh) = (replica(), replica(), replica());
    follow(&one).await;
    follow(&two).await;
    clock.advance(Duration::from_secs(50));
    line.unproved.store(true, Ordering::SeqCst);
    let raise = async |fences: &Fences, name: &str| {
        let kill = new(FenceKind::Kill, agent(name));
        fences.raise(kill, now()).await.unwrap().position
    };
    let first = raise(&one, "a").await;
    // Behind one that it has not read.
    let second = raise(&two, "b").await;
    assert!(two.last().knows(first) && two.last().knows(second));
    assert!(one.follow(Duration::ZERO).await.is_err());
    assert!(one.last().knows(second));
    // One that starts now, too.
    assert!(fresh.follow(Duration::ZERO).await.is_err());
    assert!(fresh.last().knows(second));
    assert_eq!(fresh.fresh().unwrap_err(), Stale);
    // What was proved before is as old as it was.
    clock.advance(Duration::from_secs(11));
    assert_eq!(one.fresh().unwrap_err(), Stale);
    assert_eq!(two.fresh().unwrap_err(), Stale);
    line.unproved.store(false, Ordering::SeqCst);
    for fences in [&one, &two, &fresh] {
        follow(fences).await;
        assert_eq!(fences.fresh().unwrap().position(), second);
    }
}

#[tokio::test]
async fn who_has_not_read_to_the_head_proves_nothing() {
    let line = Line::to(store());
    let clock = Advanced::new();
    let replica = || {
        let store = Arc::clone(&line) as Arc<dyn Store>;
        let clock = Arc::clone(&clock) as Arc<dyn Clock>;
        Fences::idle(store, sealer(), clock, Duration::from_secs(60))
    };
    let (ahead, behind) = (replica(), replica());
    follow(&ahead).await;
    follow(&behind).await;
    let page = u64::try_from(PAGE).unwrap();
    for number in 0..=page {
        let kill = new(FenceKind::Kill, agent(&number.to_string()));
        ahead.raise(kill, now()).await.unwrap();
    }
    clock.advance(Duration::from_secs(61));
    follow(&behind).await;
    assert_eq!(behind.last().position().sequence, page);
    assert_eq!(behind.fresh().unwrap_err(), Stale);
    follow(&behind).await;
    assert_eq!(behind.fresh().unwrap().position().sequence, page + 1);
}

/// A hold ends, and a kill is forgotten, when its time has come by both clocks.
#[tokio::test]
async fn what_has_an_end_ends_by_the_slower_of_two_clocks() {
    let hour = Duration::from_secs(3600);
    for (ours_ahead, store_ahead, is_over) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, true),
    ] {
        let line = Line::to(store());
        let clock = Advanced::new();
        let store = Arc::clone(&line) as Arc<dyn Store>;
        let own = Arc::clone(&clock) as Arc<dyn Clock>;
        let fences = Fences::idle(store, sealer(), own, Duration::from_secs(60));
        follow(&fences).await;
        let hold = new(FenceKind::Hold, agent("a")).until(now() + hour / 2);
        fences.raise(hold, now()).await.unwrap();
        if ours_ahead {
            clock.advance(hour);
        }
        if store_ahead {
            let ahead = hour.as_millis().try_into().unwrap();
            line.ahead_ms.store(ahead, Ordering::SeqCst);
        }
        follow(&fences).await;
        let held = fences.fresh().unwrap().held(&[agent("a").hash()]);
        assert_eq!(held.is_none(), is_over, "{ours_ahead} {store_ahead}");
    }
}

#[tokio::test]
async fn freshness_counts_from_sending_not_from_the_answer() {
    let line = Line::to(store());
    let clock = Advanced::new();
    let fences = Arc::new(Fences::idle(
        Arc::clone(&line) as Arc<dyn Store>,
        sealer(),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Duration::from_secs(60),
    ));
    follow(&fences).await;
    let following = tokio::spawn({
        let fences = Arc::clone(&fences);
        async move { fences.follow(Duration::from_millis(300)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    clock.advance(Duration::from_secs(61));
    following.await.unwrap().unwrap();
    assert_eq!(fences.fresh().unwrap_err(), Stale);
}

/// A year behind.
#[derive(Debug)]
struct Behind;

impl Clock for Behind {
    fn now(&self) -> OffsetDateTime {
        now() - Duration::from_secs(365 * 24 * 3600)
    }

    fn since_boot(&self) -> Duration {
        Advanced::new().since_boot()
    }
}

#[tokio::test]
async fn a_kill_by_a_clock_that_is_behind_is_not_forgotten_at_once() {
    let store = store();
    let bound = Duration::from_secs(60);
    let behind = Fences::idle(Arc::clone(&store), sealer(), Arc::new(Behind), bound);
    follow(&behind).await;
    assert!(behind.in_time().is_err());
    let mut kill = new(FenceKind::Kill, agent("a"));
    kill.until = Some(Behind.now() + Duration::from_secs(900));
    // What a commit's deadline is made of, the store of a broker says in its own time.
    let raised = behind.raise(kill, now()).await.unwrap();
    let until = raised.fence.until.unwrap();
    assert!(until > now(), "{until}");
}

#[tokio::test]
async fn a_lost_answer_does_not_raise_twice() {
    let line = Line::to(store());
    let fences = replica(&line);
    follow(&fences).await;
    line.lose_answers.store(2, Ordering::SeqCst);
    let raised = fences
        .raise(new(FenceKind::Kill, agent("a")), now())
        .await
        .unwrap();
    assert_eq!(raised.position.sequence, 1);
    follow(&fences).await;
    assert_eq!(fences.fresh().unwrap().position().sequence, 1);
}

#[tokio::test]
async fn an_unreplicated_fence_is_in_force_and_says_so() {
    let line = Line::to(store());
    let fences = replica(&line);
    follow(&fences).await;
    line.unreplicated.store(1, Ordering::SeqCst);
    let raised = fences
        .raise(new(FenceKind::Hold, agent("a")), now())
        .await
        .unwrap();
    assert!(!raised.replicated);
    assert!(fences.fresh().unwrap().held(&[agent("a").hash()]).is_some());
}

#[tokio::test]
async fn a_replica_waits_for_what_another_has_decided_on() {
    let line = Line::to(store());
    let clock: Arc<dyn Clock> = Advanced::new();
    let behind = Fences::start(
        Arc::clone(&line) as Arc<dyn Store>,
        sealer(),
        clock,
        Duration::from_secs(1),
    );
    let ahead = replica(&line);
    follow(&ahead).await;
    let raised = ahead
        .raise(new(FenceKind::Kill, agent("a")), now())
        .await
        .unwrap();
    let view = behind.reach(raised.position.sequence).await.unwrap();
    assert!(view.knows(raised.position));
    assert_eq!(behind.reach(99).await.unwrap_err(), Stale);
}

#[tokio::test]
async fn following_in_the_background_goes_on_after_the_store_was_away() {
    let line = Line::to(store());
    let clock: Arc<dyn Clock> = Advanced::new();
    let fences = Fences::start(
        Arc::clone(&line) as Arc<dyn Store>,
        sealer(),
        clock,
        Duration::from_millis(400),
    );
    fences.reach(0).await.unwrap();
    line.cut();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(fences.fresh().is_err());
    line.mend();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(fences.fresh().is_ok());
}

#[tokio::test]
async fn a_start_is_a_snapshot_and_a_tail() {
    let line = Line::to(store());
    let fences = replica(&line);
    follow(&fences).await;
    for number in 0..40 {
        let kind = if number % 2 == 0 {
            FenceKind::Kill
        } else {
            FenceKind::Hold
        };
        fences
            .raise(new(kind, agent(&number.to_string())), now())
            .await
            .unwrap();
    }
    snapshot::keep(&fences).await.unwrap();
    fences
        .raise(new(FenceKind::Lift, agent("1")), now())
        .await
        .unwrap();
    let started = replica(&line);
    follow(&started).await;
    let (old, new) = (fences.fresh().unwrap(), started.fresh().unwrap());
    assert_eq!(new.position(), old.position());
    assert_eq!(new.holds(), old.holds());
    assert_eq!(new.since(0), None, "the entries themselves were not read");
    assert_eq!(new.since(40).unwrap().len(), 1);
    for number in 0..40 {
        let dimensions = [agent(&number.to_string()).hash()];
        for sequence in 0..=41 {
            let link = old.link_at(sequence).unwrap();
            let position = Position { sequence, link };
            assert_eq!(
                new.ended_by(&dimensions, position),
                old.ended_by(&dimensions, position)
            );
        }
    }
}

/// A fold forgets whole blocks of so many positions.
const BLOCK: u64 = 1024;

#[tokio::test]
async fn what_no_living_lease_was_decided_on_is_trimmed_and_whoever_slept_through_it_starts_anew() {
    let line = Line::to(store());
    let clock = Advanced::new();
    let awake = || {
        let store = Arc::clone(&line) as Arc<dyn Store>;
        let clock = Arc::clone(&clock) as Arc<dyn Clock>;
        Fences::idle(store, sealer(), clock, Duration::from_secs(60))
    };
    let (fences, sleeper) = (awake(), awake());
    follow(&fences).await;
    let raise = async |kind: FenceKind, name: &str| {
        fences
            .raise(new(kind, agent(name)), clock.now())
            .await
            .unwrap()
    };
    raise(FenceKind::Hold, "held").await;
    raise(FenceKind::Hold, "lifted").await;
    raise(FenceKind::Lift, "lifted").await;
    follow(&sleeper).await;
    assert_eq!(sleeper.fresh().unwrap().position().sequence, 3);
    for number in 4..=BLOCK {
        raise(FenceKind::Kill, &number.to_string()).await;
    }
    let slept_less = awake();
    follow(&slept_less).await;
    raise(FenceKind::Kill, "in the next block").await;
    assert_eq!(
        fences.last().base,
        Position::ORIGIN,
        "a lease may have been decided on any of them"
    );
    // A day later than any lease lives.
    let day = Duration::from_secs(26 * 3600);
    clock.advance(day);
    line.ahead_ms
        .store(day.as_millis().try_into().unwrap(), Ordering::SeqCst);
    follow(&fences).await;
    raise(FenceKind::Kill, "later").await;
    snapshot::keep(&fences).await.unwrap();
    let base = fences.last().base;
    assert_eq!(base.sequence, BLOCK);
    let slept = sleeper.last().position();
    let tail = line.tail(&log(), slept, 5, Duration::ZERO).await.unwrap();
    assert!(
        matches!(tail, Tail::Trimmed { oldest } if oldest.sequence > slept.sequence),
        "{tail:?}"
    );
    let tail = line.tail(&log(), base, 5, Duration::ZERO).await.unwrap();
    assert!(
        matches!(&tail, Tail::Entries { entries, .. } if entries.len() == 2),
        "what is kept is read on: {tail:?}"
    );
    let head = fences.fresh().unwrap();
    for (who, replica) in [
        ("slept for long", sleeper),
        ("slept for less", slept_less),
        ("was not there", awake()),
    ] {
        assert!(who == "was not there" || replica.last().position() != head.position());
        follow(&replica).await;
        let view = replica.fresh().unwrap();
        assert_eq!(view.position(), head.position(), "{who}");
        assert_eq!(view.holds(), head.holds(), "{who}");
        assert!(view.held(&[agent("held").hash()]).is_some(), "{who}");
        assert!(view.held(&[agent("lifted").hash()]).is_none(), "{who}");
        let killed = [agent("later").hash()];
        assert!(view.ended_by(&killed, base).is_some(), "{who}");
    }
}
