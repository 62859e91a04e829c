//! What is ended, and what is not said, on a view that is not fresh.

use super::bench::{Bench, Downstream, store};
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::{Advanced, Death};
use crate::ids::ShardId;
use crate::leases::{Lease, LeaseError, State, Swept, keys};
use crate::policy::Grant;
use crate::store::Store;
use crate::store::embedded::Embedded;
use std::sync::Arc;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(10);

async fn bench(class: RevocationClass) -> Bench {
    let downstream = Downstream::new(class, true);
    Bench::bounded(store(), downstream, Advanced::new(), BOUND).await
}

/// One that has not heard anything for longer than it may.
fn goes_stale(bench: &Bench) {
    bench.later(BOUND.as_secs() + 1);
    bench.fences.fresh().unwrap_err();
}

/// A round on the view that there is.
async fn round(bench: &Bench) -> Swept {
    bench.sweeper.run_once(bench.now()).await.unwrap()
}

async fn revoke(bench: &Bench, lease: &Lease) {
    let id = lease.id.to_string();
    bench.kill(DimensionKind::Lease, &id).await;
}

async fn swept(bench: &Bench, shard: ShardId) -> u64 {
    let found = bench.leases.store.get(&[keys::swept(shard)]).await.unwrap();
    let record = found[0].as_ref().unwrap();
    u64::from_be_bytes(record.value.as_slice().try_into().unwrap())
}

#[tokio::test]
async fn what_a_fence_covers_is_ended_although_the_view_is_not_fresh() {
    for one_lease in [false, true] {
        let bench = bench(RevocationClass::Native).await;
        let (covered, other) = (bench.issued().await, bench.granted("another"));
        let other = bench.issue(&other).await.unwrap().lease;
        bench.sweep().await;
        goes_stale(&bench);
        if one_lease {
            revoke(&bench, &covered).await;
        } else {
            bench.kill(DimensionKind::Agent, "deployer").await;
        }
        assert_eq!(round(&bench).await.matched, 1);
        assert_eq!(bench.downstream.live(), [other.id]);
        assert_eq!(bench.again(&covered).await.state, State::Revoked);
        // And it is not gone through again and again.
        let read = || bench.line.members.load(std::sync::atomic::Ordering::SeqCst);
        let before = read();
        assert_eq!(round(&bench).await, Swept::default());
        assert_eq!(read(), before, "every lease was read once more");
        // A later fence is followed, too.
        bench.kill(DimensionKind::Agent, "another").await;
        assert_eq!(round(&bench).await.matched, 1);
        assert_eq!(bench.downstream.live(), []);
    }
}

#[tokio::test]
async fn what_was_handed_on_is_ended_although_the_view_is_not_fresh() {
    for class in [RevocationClass::Native, RevocationClass::Broker] {
        let bench = bench(RevocationClass::Native).await;
        // The parent may be a token that nobody but the broker has to know of.
        let local = Downstream::new(class, true);
        let first = Bench::bounded(
            Arc::clone(&bench.leases.store),
            local,
            Arc::clone(&bench.clock),
            BOUND,
        );
        let parent = first.await.issued().await;
        let view = bench.fences.fresh().unwrap();
        let handed = parent.as_parent([1; 32], &view, bench.now());
        assert!(bench.leases.hand_on(&parent.id, bench.now()).await.unwrap());
        let grant = Grant::for_tests()
            .agent("another")
            .position(view.position())
            .now(bench.now())
            .child_of(&handed)
            .build();
        let child = bench.issue(&grant).await.unwrap().lease;
        bench.sweep().await;
        goes_stale(&bench);
        revoke(&bench, &parent).await;
        round(&bench).await;
        assert_eq!(bench.again(&child).await.state, State::Revoked, "{class:?}");
        assert!(!bench.downstream.live().contains(&child.id));
    }
}

/// A failover lost the last fence, and what was decided since then was decided on another one in its place.
#[tokio::test]
async fn a_view_in_doubt_ends_nothing_that_was_decided_beyond_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("store"), folder.path().join("heir"));
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let on = |store| Bench::bounded(store, downstream.clone(), clock.clone(), BOUND);
    let one = on(Arc::new(Embedded::open(&file).unwrap()) as Arc<dyn Store>).await;
    let covered = one.issued().await;
    one.sweep().await;
    std::fs::copy(&file, &copy).unwrap();
    one.kill(DimensionKind::Agent, "deployer").await;

    let heir = Arc::new(Embedded::open(&copy).unwrap()) as Arc<dyn Store>;
    let two = on(Arc::clone(&heir)).await;
    two.kill(DimensionKind::Mission, "another").await;
    let newer = two.issue(&two.granted("another")).await.unwrap().lease;
    one.line.point_to(heir);
    goes_stale(&one);
    assert_eq!(round(&one).await.matched, 1);
    assert_eq!(one.again(&covered).await.state, State::Revoked);
    assert_eq!(downstream.live(), [newer.id]);
    assert_eq!(one.again(&newer).await.state, State::Active);

    // The fence is put back, and still covers nothing of the other one.
    one.sweep().await;
    one.sweep().await;
    assert_eq!(downstream.live(), [newer.id]);
    assert_eq!(two.sweep().await.matched, 0);
    assert!(two.fences.last().position() == one.fences.last().position());
}

#[tokio::test]
async fn what_was_matched_in_doubt_is_matched_again_and_only_then_told() {
    let bench = bench(RevocationClass::Broker).await;
    let lease = bench.issued().await;
    let shard = lease.id.shard();
    bench.sweep().await;
    let list = async || {
        let told = bench.sweeper.status(shard, bench.now()).await;
        let (bits, as_of) = told.unwrap().unwrap();
        (bits.ended().to_vec(), as_of)
    };
    let before = list().await;
    goes_stale(&bench);
    bench.kill(DimensionKind::Agent, "deployer").await;
    // It is dead by the fence; its mark must be on replicas, which may be what is away.
    assert_eq!(round(&bench).await.matched, 0);
    assert_eq!(list().await, before);
    assert_eq!(bench.sweep().await.matched, 1);
    let (ended, as_of) = list().await;
    assert_eq!(ended, [lease.status.unwrap()]);
    assert!(as_of > before.1);
}

#[tokio::test]
async fn what_was_decided_before_a_fence_is_not_added_behind_a_match_in_doubt() {
    let bench = bench(RevocationClass::Native).await;
    bench.issued().await;
    bench.sweep().await;
    let grant = bench.grant();
    let draft = bench
        .leases
        .draft(&grant, &bench.downstream.promises, bench.now());
    goes_stale(&bench);
    bench.kill(DimensionKind::Agent, "deployer").await;
    round(&bench).await;
    let late = bench.leases.reserve(draft, &grant, bench.now()).await;
    assert!(matches!(late, Err(LeaseError::DecideAgain)), "{late:?}");
}

/// Another replica had read further, and died between its claim and the leases.
#[tokio::test]
async fn in_doubt_the_mark_of_a_shard_only_moves_on() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let on = || Bench::bounded(shared.clone(), downstream.clone(), clock.clone(), BOUND);
    let (one, two) = (on().await, on().await);
    let lease = one.issued().await;
    one.sweep().await;
    one.kill(DimensionKind::Agent, "deployer").await;
    two.kill(DimensionKind::Mission, "another").await;
    let before = ShardId::all().take_while(|shard| *shard != lease.id.shard());
    let claim = 2 * i64::try_from(before.count()).unwrap() + 1;
    two.line.die_at(claim, Death::After);
    two.sweeper.run_once(two.now()).await.unwrap_err();
    let furthest = two.fences.last().position().sequence;
    assert_eq!(swept(&one, lease.id.shard()).await, furthest);
    one.later(61);
    one.fences.fresh().unwrap_err();
    assert_eq!(round(&one).await.matched, 1);
    assert_eq!(swept(&one, lease.id.shard()).await, furthest);
    assert_eq!(one.again(&lease).await.state, State::Revoked);
}

/// A receipt may lean on the mark. Whoever has a proved view that is a little older waits for a newer one.
#[tokio::test]
async fn a_mark_that_was_moved_in_doubt_is_moved_back_on_a_proof_alone() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let on = || Bench::bounded(shared.clone(), downstream.clone(), clock.clone(), BOUND);
    let (one, two) = (on().await, on().await);
    let lease = one.issued().await;
    one.sweep().await;
    goes_stale(&one);
    two.fences.follow(Duration::ZERO).await.unwrap();
    one.kill(DimensionKind::Agent, "deployer").await;
    assert_eq!(round(&one).await.matched, 1);
    let furthest = one.fences.last().position().sequence;
    assert_eq!(swept(&one, lease.id.shard()).await, furthest);
    assert!(two.fences.fresh().unwrap().position().sequence < furthest);
    let follows = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for shard in ShardId::all() {
            assert_eq!(swept(&one, shard).await, furthest);
        }
        two.fences.follow(Duration::ZERO).await.unwrap();
    };
    let (swept_by_two, ()) = tokio::join!(two.sweeper.run_once(two.now()), follows);
    swept_by_two.unwrap();
    for shard in ShardId::all() {
        assert_eq!(swept(&one, shard).await, furthest);
    }
}

/// One holds a fence that the log of the other one has lost, and cannot read that log.
#[tokio::test]
async fn who_is_in_doubt_and_who_is_not_do_not_write_over_each_other_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("store"), folder.path().join("heir"));
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let on = |store| {
        Bench::bounded(
            store,
            downstream.clone(),
            clock.clone(),
            Duration::from_secs(3),
        )
    };
    let one = on(Arc::new(Embedded::open(&file).unwrap()) as Arc<dyn Store>).await;
    let lease = one.issued().await;
    one.sweep().await;
    std::fs::copy(&file, &copy).unwrap();
    one.kill(DimensionKind::Agent, "deployer").await;
    let heir = Arc::new(Embedded::open(&copy).unwrap()) as Arc<dyn Store>;
    let two = on(Arc::clone(&heir)).await;
    one.line.point_to(heir);
    one.later(4);
    let before = one.line.commits();
    for _ in 0..3 {
        round(&one).await;
        two.fences.follow(Duration::ZERO).await.unwrap();
        let follows = async {
            loop {
                two.fences.follow(Duration::ZERO).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            matched = two.sweeper.match_fences(two.now()) => drop(matched.unwrap()),
            () = follows => {}
        }
    }
    assert_eq!(one.again(&lease).await.state, State::Revoked);
    // Each shard once, and the lease.
    let written = one.line.commits() - before;
    assert!(written <= 2 * 65, "{written}");
    // And once more where so much time has gone by.
    one.later(61);
    let before = one.line.commits();
    round(&one).await;
    assert!(one.line.commits() - before >= 64);
}

/// The fence, the marks and the claims that say so are lost together.
#[tokio::test]
async fn marks_that_a_failover_loses_are_written_again_at_once() {
    for one_lease in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (file, copy) = (folder.path().join("store"), folder.path().join("heir"));
        let downstream = Downstream::new(RevocationClass::Native, true);
        let store = Arc::new(Embedded::open(&file).unwrap()) as Arc<dyn Store>;
        let bench = Bench::bounded(store, downstream, Advanced::new(), BOUND).await;
        let lease = bench.issued().await;
        bench.sweep().await;
        std::fs::copy(&file, &copy).unwrap();
        goes_stale(&bench);
        if one_lease {
            revoke(&bench, &lease).await;
        }
        bench.kill(DimensionKind::Agent, "deployer").await;
        round(&bench).await;
        assert_eq!(bench.again(&lease).await.state, State::Revoked);
        let heir = Arc::new(Embedded::open(&copy).unwrap()) as Arc<dyn Store>;
        bench.line.point_to(heir);
        assert_eq!(bench.again(&lease).await.state, State::Active);
        round(&bench).await;
        assert_eq!(bench.again(&lease).await.state, State::Revoked);
    }
}

/// It was reserved at whoever has taken over, and what is asked still is the one that was there before.
#[tokio::test]
async fn a_lease_that_an_unproved_store_does_not_have_stays_owed_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("store"), folder.path().join("old"));
    let downstream = Downstream::new(RevocationClass::Native, true);
    let store = Arc::new(Embedded::open(&file).unwrap()) as Arc<dyn Store>;
    let bench = Bench::bounded(Arc::clone(&store), downstream, Advanced::new(), BOUND).await;
    std::fs::copy(&file, &copy).unwrap();
    let lease = bench.issued().await;
    bench.sweep().await;
    goes_stale(&bench);
    revoke(&bench, &lease).await;
    let old = Arc::new(Embedded::open(&copy).unwrap()) as Arc<dyn Store>;
    bench.line.point_to(old);
    assert_eq!(round(&bench).await.matched, 0);
    bench.line.point_to(store);
    assert_eq!(round(&bench).await.matched, 1);
    assert_eq!(bench.downstream.live(), []);
}

/// Nothing is known: nothing is ended, and nothing is written.
#[tokio::test]
async fn who_has_read_no_fence_yet_ends_nothing() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let one = Bench::on(shared.clone(), downstream.clone(), Advanced::new()).await;
    one.issued().await;
    let sealer = crate::secret::Sealer::new(&[crate::secret::Secret::new(vec![7; 32])]).unwrap();
    let (store, time) = (Arc::clone(&one.leases.store), Arc::clone(&one.clock));
    let fences = crate::fences::Fences::idle(store, sealer, time, BOUND);
    let sweeper =
        crate::leases::Sweeper::new(one.leases.clone(), Arc::new(fences), Arc::new(|_| None));
    let before = one.line.commits();
    let matched = sweeper.match_fences(one.now()).await;
    assert!(matches!(matched, Err(LeaseError::Stale(_))));
    assert_eq!(one.line.commits(), before);
    assert_eq!(downstream.live().len(), 1);
}
