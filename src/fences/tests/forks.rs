use super::fixture::Line;
use super::{agent, fence, follow, new, replica, store};
use crate::clock::{Clock, SystemClock};
use crate::fences::{EndedBy, Fence, FenceError, FenceKind, Fences, entry, log, snapshot};
use crate::ids::ShardId;
use crate::secret::{Sealer, Secret};
use crate::store::{Position, Store, Tail, Transaction, Write};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

async fn entries(store: &dyn Store) -> Vec<Vec<u8>> {
    match store
        .tail(&log(), Position::ORIGIN, 1000, Duration::ZERO)
        .await
        .unwrap()
    {
        Tail::Entries { entries, .. } => entries.into_iter().map(|entry| entry.value).collect(),
        other => panic!("{other:?}"),
    }
}

/// What is left after a failover that kept only the first entries.
async fn survivor(of: &dyn Store, keeping: usize) -> Arc<dyn Store> {
    let survivor = store();
    for value in entries(of).await.into_iter().take(keeping) {
        let deadline = now() + Duration::from_secs(10);
        let transaction = Transaction::new(ShardId::INSTALLATION, deadline)
            .write(Write::Append { log: log(), value });
        survivor.commit(transaction).await.unwrap();
    }
    survivor
}

async fn raise(fences: &Fences, kind: FenceKind, name: &str) -> Position {
    fences
        .raise(new(kind, agent(name)), now())
        .await
        .unwrap()
        .position
}

async fn six_fences(line: &Arc<Line>) -> (Fences, Vec<Position>) {
    let fences = replica(line);
    follow(&fences).await;
    let mut positions = vec![Position::ORIGIN];
    for name in ["a", "b", "c", "d", "e", "f"] {
        positions.push(raise(&fences, FenceKind::Hold, name).await);
    }
    (fences, positions)
}

#[tokio::test]
async fn what_a_failover_lost_is_put_back_with_the_very_same_links() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (fences, positions) = six_fences(&line).await;
    let rest = survivor(old.as_ref(), 2).await;
    line.point_to(Arc::clone(&rest));
    follow(&fences).await;
    assert!(
        fences.fresh().is_err(),
        "stale until it has read on after mending"
    );
    follow(&fences).await;
    let view = fences.fresh().unwrap();
    for position in positions {
        assert!(view.knows(position));
    }
    assert_eq!(entries(rest.as_ref()).await, entries(old.as_ref()).await);
    // The audit tells it again, since it lost the same; not what it has.
    let page = crate::audit::page(rest.as_ref(), ShardId::INSTALLATION, Position::ORIGIN).await;
    let told: Vec<_> = page
        .unwrap()
        .entries
        .into_iter()
        .flat_map(|told| told.1)
        .collect();
    let values: Vec<_> = told
        .iter()
        .map(|entry| entry.detail["value"].as_str().unwrap())
        .collect();
    assert_eq!(values, ["c", "d", "e", "f"]);
    assert!(told.iter().all(|entry| entry.detail["put_back"] == true));
}

#[tokio::test]
async fn what_was_written_meanwhile_stays_and_what_was_lost_follows_it() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (fences, positions) = six_fences(&line).await;
    let rest = survivor(old.as_ref(), 4).await;
    let other = replica(&Line::to(Arc::clone(&rest)));
    follow(&other).await;
    let theirs = raise(&other, FenceKind::Hold, "z").await;
    line.point_to(Arc::clone(&rest));
    follow(&fences).await;
    follow(&fences).await;
    follow(&other).await;
    for replica in [&fences, &other] {
        let view = replica.fresh().unwrap();
        assert_eq!(view.position().sequence, 7);
        assert!(view.knows(positions[4]) && view.knows(theirs));
        // Decided on what the failover lost: dead, although the fences themselves are back.
        assert_eq!(
            view.ended_by(&[agent("unrelated").hash()], positions[5]),
            Some(EndedBy::Lost)
        );
        for name in ["a", "d", "e", "f", "z"] {
            assert!(view.held(&[agent(name).hash()]).is_some(), "{name}");
        }
    }
    assert_eq!(
        fences.fresh().unwrap().position(),
        other.fresh().unwrap().position()
    );
}

#[tokio::test]
async fn two_replicas_that_mend_the_same_loss_put_it_back_once() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (first, _) = six_fences(&line).await;
    let second = replica(&line);
    follow(&second).await;
    let rest = survivor(old.as_ref(), 1).await;
    line.point_to(Arc::clone(&rest));
    // Whoever comes second may find the log moved under it and start over.
    let _ = tokio::join!(first.follow(Duration::ZERO), second.follow(Duration::ZERO));
    for _ in 0..3 {
        let _ = first.follow(Duration::ZERO).await;
        let _ = second.follow(Duration::ZERO).await;
    }
    assert_eq!(entries(rest.as_ref()).await, entries(old.as_ref()).await);
    assert_eq!(
        first.fresh().unwrap().position(),
        second.fresh().unwrap().position()
    );
}

#[tokio::test]
async fn what_was_lost_is_put_back_though_somebody_elses_entry_has_its_id() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let fences = replica(&line);
    follow(&fences).await;
    let hold = new(FenceKind::Hold, agent("a"));
    let hold = fences.raise(hold, now()).await.unwrap().fence;
    let rest = survivor(old.as_ref(), 0).await;
    let stranger = Sealer::new(&[Secret::new(vec![66; 32])]).unwrap();
    let forged = Fence {
        id: hold.id,
        ..fence(FenceKind::Kill, agent("nobody"))
    };
    let value = entry::wrap(&stranger, &forged).unwrap();
    let transaction = Transaction::new(ShardId::INSTALLATION, now() + Duration::from_secs(10))
        .write(Write::Append { log: log(), value });
    rest.commit(transaction).await.unwrap();
    line.point_to(Arc::clone(&rest));
    follow(&fences).await;
    follow(&fences).await;
    assert_eq!(entries(rest.as_ref()).await.len(), 2);
    let another = replica(&line);
    follow(&another).await;
    for fences in [&fences, &another] {
        let held = fences.last().held(&[agent("a").hash()]);
        assert_eq!(held.unwrap().fence_id, hold.id);
    }
}

#[tokio::test]
async fn a_lift_that_was_lost_is_put_back_in_its_place() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let fences = replica(&line);
    follow(&fences).await;
    raise(&fences, FenceKind::Hold, "a").await;
    raise(&fences, FenceKind::Lift, "a").await;
    let rest = survivor(old.as_ref(), 0).await;
    line.point_to(rest);
    follow(&fences).await;
    follow(&fences).await;
    let view = fences.fresh().unwrap();
    assert_eq!(view.position().sequence, 2);
    assert!(view.held(&[agent("a").hash()]).is_none());
}

#[tokio::test]
async fn a_fence_that_no_replica_holds_any_more_is_never_passed_over() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (fences, _) = six_fences(&line).await;
    snapshot::keep(&fences).await.unwrap();
    // Started from the snapshot: it knows what stands, but not the bytes to put back.
    let started = replica(&line);
    follow(&started).await;
    line.point_to(survivor(old.as_ref(), 3).await);
    for _ in 0..3 {
        let went = started.follow(Duration::ZERO).await;
        assert!(matches!(went, Err(FenceError::LostForGood(_))), "{went:?}");
        assert!(started.fresh().is_err());
    }
    // A replica that does hold them mends it for both.
    follow(&fences).await;
    follow(&fences).await;
    follow(&started).await;
    assert!(started.fresh().is_ok());
}

#[tokio::test]
async fn a_fence_raised_before_the_loss_was_noticed_is_in_force_all_the_same() {
    for kept in [0, 3, 5] {
        let old = store();
        let line = Line::to(Arc::clone(&old));
        let (fences, _) = six_fences(&line).await;
        line.point_to(survivor(old.as_ref(), kept).await);
        let raised = raise(&fences, FenceKind::Hold, "new").await;
        for _ in 0..2 {
            if let Ok(view) = fences.fresh() {
                assert!(view.knows(raised), "kept {kept}");
                assert!(view.held(&[agent("new").hash()]).is_some());
                assert!(view.held(&[agent("f").hash()]).is_some());
            }
            follow(&fences).await;
        }
        assert!(fences.fresh().is_ok());
    }
}

/// Another history went on and was trimmed past the place where the two parted.
#[tokio::test]
async fn a_log_that_was_trimmed_past_the_fork_is_not_mended_by_guessing() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (fences, _) = six_fences(&line).await;
    let rest = survivor(old.as_ref(), 2).await;
    let other = replica(&Line::to(Arc::clone(&rest)));
    follow(&other).await;
    for name in ["t", "u", "v", "w", "x", "y", "z"] {
        raise(&other, FenceKind::Hold, name).await;
    }
    let deadline = now() + Duration::from_secs(10);
    let through = 4;
    let trim = Write::Trim {
        log: log(),
        through,
    };
    let trim = Transaction::new(ShardId::INSTALLATION, deadline).write(trim);
    rest.commit(trim).await.unwrap();
    let kept = |tail: Tail| match tail {
        Tail::Trimmed { oldest } => oldest,
        other => panic!("{other:?}"),
    };
    let tail = rest.tail(&log(), Position::ORIGIN, 9, Duration::ZERO).await;
    let oldest = kept(tail.unwrap());
    assert_eq!(oldest.sequence, through);
    let written = async || match rest.tail(&log(), oldest, 100, Duration::ZERO).await {
        Ok(Tail::Entries { entries, head, .. }) => (entries.len(), head),
        other => panic!("{other:?}"),
    };
    let before = written().await;

    line.point_to(Arc::clone(&rest));
    for _ in 0..3 {
        let went = fences.follow(Duration::ZERO).await;
        assert!(
            matches!(went, Err(FenceError::LostForGood(at)) if at == through),
            "{went:?}"
        );
        assert!(fences.fresh().is_err());
    }
    assert_eq!(written().await, before, "nothing may be put behind it");
}

/// The new primary has no replica yet, so nothing that it says is proved.
#[tokio::test]
async fn what_is_raised_at_a_successor_that_nobody_acknowledges_is_in_force_beside_what_it_lost() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (one, two) = (replica(&line), replica(&line));
    follow(&one).await;
    follow(&two).await;
    line.unproved
        .store(true, std::sync::atomic::Ordering::SeqCst);
    raise(&one, FenceKind::Hold, "lost").await;
    two.follow(Duration::ZERO).await.unwrap_err();
    let heir = survivor(old.as_ref(), 0).await;
    line.point_to(heir);
    let raised = raise(&two, FenceKind::Kill, "b").await;
    assert!(two.last().knows(raised));
    assert!(two.last().held(&[agent("lost").hash()]).is_some());
    assert!(two.fresh().is_err(), "nothing is proved");
    assert!(two.proved().is_err());
    one.follow(Duration::ZERO).await.unwrap_err();
    one.follow(Duration::ZERO).await.unwrap_err();
    assert!(one.last().knows(raised));
    line.unproved
        .store(false, std::sync::atomic::Ordering::SeqCst);
    for fences in [&one, &two] {
        follow(fences).await;
        let view = fences.proved().unwrap();
        assert!(view.held(&[agent("lost").hash()]).is_some());
        assert!(view.knows(raised));
    }
    assert_eq!(one.last().position(), two.last().position());
}

/// Fresh, and what is on top of it may be lost.
#[tokio::test]
async fn a_fresh_view_is_not_proved_while_nobody_acknowledged_its_end() {
    let line = Line::to(store());
    let (one, two) = (replica(&line), replica(&line));
    follow(&one).await;
    follow(&two).await;
    raise(&one, FenceKind::Hold, "a").await;
    assert!(one.proved().is_ok(), "its commit was acknowledged");
    follow(&two).await;
    line.unproved
        .store(true, std::sync::atomic::Ordering::SeqCst);
    line.unreplicated
        .store(1, std::sync::atomic::Ordering::SeqCst);
    raise(&one, FenceKind::Hold, "b").await;
    assert!(one.fresh().is_ok());
    assert!(one.proved().is_err());
    // Nor is it what the next one starts from.
    one.renew();
    assert!(!snapshot::is_due(&one));
    two.follow(Duration::ZERO).await.unwrap_err();
    assert_eq!(two.fresh().unwrap().position().sequence, 2);
    assert!(two.proved().is_err());
    line.unproved
        .store(false, std::sync::atomic::Ordering::SeqCst);
    for fences in [&one, &two] {
        follow(fences).await;
        assert!(fences.proved().is_ok());
    }
    assert!(snapshot::is_due(&one));
}

#[tokio::test]
async fn what_nobody_of_ours_has_written_is_put_back_once_too() {
    let old = store();
    let line = Line::to(Arc::clone(&old));
    let (one, two) = (replica(&line), replica(&line));
    let stranger = Sealer::new(&[Secret::new(vec![9; 32])]).unwrap();
    let forged = entry::wrap(&stranger, &fence(FenceKind::Kill, agent("a"))).unwrap();
    let deadline = now() + Duration::from_secs(10);
    let write = Write::Append {
        log: log(),
        value: forged.clone(),
    };
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    old.commit(transaction).await.unwrap();
    follow(&one).await;
    follow(&two).await;
    let heir = survivor(old.as_ref(), 0).await;
    line.point_to(Arc::clone(&heir));
    let third = replica(&line);
    follow(&third).await;
    raise(&third, FenceKind::Hold, "b").await;
    for fences in [&one, &two, &third] {
        follow(fences).await;
    }
    let there = entries(heir.as_ref()).await;
    assert_eq!(there.iter().filter(|entry| **entry == forged).count(), 1);
}
