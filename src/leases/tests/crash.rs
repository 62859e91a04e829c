//! The process dies at every commit of a lease's life, before it and after it. Whatever works
//! downstream has an open lease, at every moment, and in the end nothing works.

use super::bench::{Bench, Downstream, store};
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::{Advanced, Death};
use crate::leases::{Filter, LeaseError, Leases, Standing, State};
use std::sync::Arc;
use std::time::Duration;

/// Issue, use, end: as far as it gets.
async fn live_a_life(bench: &Bench, ending: bool) -> Result<(), LeaseError> {
    let lease = bench.issue(&bench.grant()).await?.lease;
    if ending {
        bench
            .leases
            .release(&lease, &bench.fences, "deployer", bench.now())
            .await?;
    } else {
        let agent = crate::fences::Dimension::new(DimensionKind::Agent, "deployer");
        let fence = crate::fences::tests::new(crate::fences::FenceKind::Kill, agent);
        bench.fences.raise(fence, bench.now()).await?;
    }
    bench.sweeper.run_once(bench.now()).await?;
    Ok(())
}

async fn everything_that_works_is_tracked(bench: &Bench, moment: &str) {
    let open = bench
        .leases
        .list(&Filter::default(), None, 100)
        .await
        .unwrap()
        .leases;
    for id in bench.downstream.live() {
        assert!(
            open.iter().any(|lease| lease.id == id),
            "{moment}: {id} works and is not tracked"
        );
    }
}

async fn die_at(commit: i64, death: Death, named: bool, ending: bool) {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, named);
    let clock = Advanced::new();
    let first = Bench::on(
        Arc::clone(&shared),
        Arc::clone(&downstream),
        Arc::clone(&clock),
    )
    .await;
    first.line.die_at(commit, death);
    let _ = live_a_life(&first, ending).await;

    let second = Bench::on(shared, downstream, clock).await;
    let moment = format!("commit {commit} {death:?} named {named} release {ending}");
    everything_that_works_is_tracked(&second, &moment).await;
    let mut lost = false;
    for _ in 0..3 {
        second.later(36);
        second.fences.follow(Duration::ZERO).await.unwrap();
        second.sweep().await;
        everything_that_works_is_tracked(&second, &moment).await;
    }
    let open = second.leases.list(&Filter::default(), None, 100).await;
    let (now, view) = (second.now(), second.fences.fresh().unwrap());
    for lease in open.unwrap().leases {
        // Soon, not when it has run out.
        let standing = Leases::standing(&lease, &view, now);
        assert!(
            lease.state != State::Active || standing == Standing::Live,
            "{moment}: {standing:?} and not marked"
        );
        lost |= lease.state == State::Unclaimed;
        assert!(
            named || lease.state == State::Unclaimed || lease.state == State::Active,
            "{moment}: {:?}",
            lease.state
        );
    }
    // In the end: closed, and dead unless nobody could name it.
    for _ in 0..3 {
        second.later(1900);
        second.sweep().await;
        second.sweep().await;
    }
    let open = second.leases.list(&Filter::default(), None, 100).await;
    assert!(open.unwrap().leases.is_empty(), "{moment}");
    assert!(
        lost || second.downstream.live().is_empty(),
        "{moment}: still works"
    );
}

async fn die_everywhere(named: bool, ending: bool) {
    let whole = Bench::new(RevocationClass::Native, named).await;
    live_a_life(&whole, ending).await.unwrap();
    let commits = whole.line.commits();
    assert!(commits > 5, "{commits}: there is little to disturb");
    for commit in 1..=commits {
        for death in [Death::Before, Death::After] {
            die_at(commit, death, named, ending).await;
        }
    }
}

#[tokio::test]
async fn dying_at_any_commit_of_a_released_lease_leaves_nothing_untracked() {
    die_everywhere(true, true).await;
}

#[tokio::test]
async fn dying_at_any_commit_of_a_killed_lease_leaves_nothing_untracked() {
    die_everywhere(true, false).await;
}

#[tokio::test]
async fn dying_at_any_commit_leaves_nothing_untracked_where_nothing_can_be_named() {
    die_everywhere(false, true).await;
    die_everywhere(false, false).await;
}
