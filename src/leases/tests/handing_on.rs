//! The end of a lease that was handed on, and of what came of it.

use super::bench::Bench;
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::leases::{Lease, LeaseError, State, Why};
use crate::policy::Grant;

/// A lease that was handed on from another, to an agent on another shard.
async fn child(bench: &Bench, parent: &Lease, agent: &str) -> Lease {
    let view = bench.fences.fresh().unwrap();
    let handed = parent.as_parent([1; 32], &view, bench.now());
    assert_eq!(handed.ended(), None);
    assert!(bench.leases.hand_on(&parent.id, bench.now()).await.unwrap());
    let grant = Grant::for_tests()
        .agent(agent)
        .position(view.position())
        .now(bench.now())
        .child_of(&handed)
        .build();
    bench.issue(&grant).await.unwrap().lease
}

#[tokio::test]
async fn what_was_handed_on_is_ended_downstream_with_its_parent() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let parent = bench.issued().await;
    let other = bench.issued().await;
    let one = child(&bench, &parent, "agent-1").await;
    let two = child(&bench, &one, "agent-2").await;
    assert_eq!(bench.sweep().await.matched, 0);
    let by = parent.agent.as_str();
    let released = bench
        .leases
        .release(&parent, &bench.fences, by, bench.now());
    released.await.unwrap();
    bench.sweep().await;
    assert_eq!(bench.downstream.live(), [other.id]);
    for lease in [&parent, &one, &two] {
        assert_eq!(bench.again(lease).await.state, State::Released);
    }
    assert_eq!(bench.sweep().await, crate::leases::Swept::default());
}

#[tokio::test]
async fn a_revoked_parent_is_revoked_and_its_children_are_fenced() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let parent = bench.issued().await;
    let one = child(&bench, &parent, "agent-1").await;
    bench
        .kill(DimensionKind::Lease, &parent.id.to_string())
        .await;
    bench.sweep().await;
    let why = |lease: Lease| lease.closing.clone().unwrap().why;
    assert_eq!(why(bench.again(&parent).await), Why::Revoked);
    assert_eq!(why(bench.again(&one).await), Why::Fenced);
}

#[tokio::test]
async fn a_child_that_comes_after_the_match_is_refused() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let parent = bench.issued().await;
    let early = child(&bench, &parent, "agent-1").await;
    let handed = {
        let view = bench.fences.fresh().unwrap();
        let handed = parent.as_parent([1; 32], &view, bench.now());
        Grant::for_tests()
            .agent("agent-2")
            .position(view.position())
            .now(bench.now())
            .child_of(&handed)
            .build()
    };
    bench
        .kill(DimensionKind::Lease, &parent.id.to_string())
        .await;
    bench.sweep().await;
    assert!(!bench.leases.hand_on(&parent.id, bench.now()).await.unwrap());
    assert!(matches!(
        bench.issue(&handed).await,
        Err(LeaseError::DecideAgain)
    ));
    assert!(!bench.again(&early).await.state.is_open());
    assert!(bench.downstream.live().is_empty());
}

#[tokio::test]
async fn a_parent_is_dead_as_soon_as_anything_it_hangs_on_is() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let parent = bench.issued().await;
    let ended = |bench: &Bench| {
        let view = bench.fences.fresh().unwrap();
        let handed = parent.as_parent([1; 32], &view, bench.now());
        handed.ended().map(str::to_owned)
    };
    assert_eq!(ended(&bench), None);
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    assert_eq!(ended(&bench).as_deref(), Some("a test"));
    let bench = Bench::new(RevocationClass::Native, true).await;
    let old = bench.issued().await;
    bench.later(901);
    let view = bench.fences.fresh().unwrap();
    let handed = old.as_parent([1; 32], &view, bench.now());
    assert_eq!(handed.ended(), Some("expired"));
}
