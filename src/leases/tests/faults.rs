//! One node, one shard or one lease that is out of order: the others are ended all the same.

use super::bench::{Bench, Downstream};
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::{Advanced, heir_of};
use crate::ids::{ShardId, TargetId};
use crate::leases::{Lease, LeaseError, keys};
use crate::policy::Grant;
use crate::store::embedded::Embedded;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Leases of agents that lie on as many shards.
async fn scattered(bench: &Bench, number: usize) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    for agent in 0.. {
        let grant = bench.granted(&format!("agent-{agent}"));
        let lease = bench.issue(&grant).await.unwrap().lease;
        if leases
            .iter()
            .all(|known| known.id.shard() != lease.id.shard())
        {
            leases.push(lease);
        }
        if leases.len() == number {
            break;
        }
    }
    leases
}

/// As many of one agent as no limit of its own would allow.
async fn of_one_agent(bench: &Bench, number: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    for _ in 0..number {
        let position = bench.fences.fresh().unwrap().position();
        let grant = Grant::for_tests().agent("deployer").max_active(1000);
        let grant = grant.position(position).now(bench.now()).build();
        leases.push(bench.issue(&grant).await.unwrap().lease);
    }
    leases
}

fn lose(bench: &Bench, shard: ShardId) {
    bench.line.lost.lock().unwrap().insert(shard);
}

fn is_back(bench: &Bench) {
    bench.line.lost.lock().unwrap().clear();
}

async fn revoke(bench: &Bench, lease: &Lease) {
    let id = lease.id.to_string();
    bench.kill(DimensionKind::Lease, &id).await;
}

/// A round that says what is wrong.
async fn fails(bench: &Bench) -> LeaseError {
    bench.fences.follow(Duration::ZERO).await.unwrap();
    bench.sweeper.run_once(bench.now()).await.unwrap_err()
}

/// Since when a shard's list is true, and what is in it.
async fn list(bench: &Bench, shard: ShardId) -> (Vec<u32>, Duration) {
    let told = bench.sweeper.status(shard, bench.now()).await;
    let (bits, as_of) = told.unwrap().unwrap();
    (bits.ended().to_vec(), as_of)
}

#[tokio::test]
async fn a_shard_that_is_gone_keeps_no_other_from_being_matched() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let leases = scattered(&bench, 5).await;
    lose(&bench, leases[2].id.shard());
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    fails(&bench).await;
    let left = bench.downstream.live();
    assert!(left.contains(&leases[2].id));
    assert!(left.iter().all(|id| id.shard() == leases[2].id.shard()));
    is_back(&bench);
    bench.later(301);
    bench.sweep().await;
    assert_eq!(bench.downstream.live(), []);
}

#[tokio::test]
async fn a_lease_that_cannot_be_reached_holds_up_no_later_end() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let leases = scattered(&bench, 3).await;
    lose(&bench, leases[0].id.shard());
    for lease in &leases {
        revoke(&bench, lease).await;
    }
    fails(&bench).await;
    let works = |lease: &Lease| bench.downstream.live().contains(&lease.id);
    assert!(works(&leases[0]) && !works(&leases[1]) && !works(&leases[2]));
    // Nothing new on the log reminds of it.
    is_back(&bench);
    bench.sweep().await;
    assert!(!works(&leases[0]));
}

#[tokio::test]
async fn a_list_waits_for_its_own_shard_alone() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let leases = scattered(&bench, 2).await;
    let [gone, there] = [&leases[0], &leases[1]].map(|lease| lease.id.shard());
    bench.sweep().await;
    let before = list(&bench, gone).await.1;
    bench.later(1);
    lose(&bench, gone);
    for lease in &leases {
        revoke(&bench, lease).await;
    }
    fails(&bench).await;
    let (ended, as_of) = list(&bench, there).await;
    assert_eq!(ended, [leases[1].status.unwrap()]);
    assert!(as_of > before);
    is_back(&bench);
    assert_eq!(list(&bench, gone).await, (Vec::new(), before));
    bench.sweep().await;
    let (ended, as_of) = list(&bench, gone).await;
    assert_eq!(ended, [leases[0].status.unwrap()]);
    assert!(as_of > before);
}

#[tokio::test]
async fn what_was_handed_on_from_a_lease_that_cannot_be_read_is_ended() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let leases = scattered(&bench, 2).await;
    let parent = &leases[0];
    let view = bench.fences.fresh().unwrap();
    let handed = parent.as_parent([1; 32], &view, bench.now());
    assert!(bench.leases.hand_on(&parent.id, bench.now()).await.unwrap());
    let grant = Grant::for_tests()
        .agent(leases[1].agent.as_str())
        .position(view.position())
        .now(bench.now())
        .child_of(&handed)
        .build();
    let child = bench.issue(&grant).await.unwrap().lease;
    bench.sweep().await;
    lose(&bench, parent.id.shard());
    revoke(&bench, parent).await;
    fails(&bench).await;
    let live = bench.downstream.live();
    assert!(live.contains(&parent.id) && !live.contains(&child.id));
}

#[tokio::test]
async fn a_lease_that_cannot_be_written_keeps_none_beside_it_alive() {
    for by_its_own in [false, true] {
        let bench = Bench::new(RevocationClass::Native, true).await;
        let leases = of_one_agent(&bench, 40).await;
        let spoilt = keys::lease(&leases[7].id);
        *bench.line.spoilt.lock().unwrap() = Some(spoilt);
        if by_its_own {
            for lease in &leases {
                revoke(&bench, lease).await;
            }
        } else {
            bench.kill(DimensionKind::Agent, "deployer").await;
        }
        fails(&bench).await;
        assert_eq!(bench.downstream.live(), [leases[7].id]);
        *bench.line.spoilt.lock().unwrap() = None;
        bench.sweep().await;
        assert_eq!(bench.downstream.live(), []);
    }
}

#[tokio::test]
async fn a_shard_is_not_called_matched_by_who_never_had_the_marks() {
    // What was lost of the first reading the second one may find; what was lost of that nobody would.
    for (lost, then) in [(1, None), (2, None), (3, None), (4, None), (2, Some(2))] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store");
        let store = Arc::new(Embedded::open(&file).unwrap());
        let downstream = Downstream::new(RevocationClass::Native, true);
        let bench = Bench::on(store, downstream, Advanced::new()).await;
        let leases = of_one_agent(&bench, 40).await;
        bench.sweep().await;
        bench.kill(DimensionKind::Agent, "deployer").await;
        // All that is written of the other shards comes before or behind: only of this one are there marks.
        let shard = leases[0].id.shard();
        let before = ShardId::all().take_while(|other| *other != shard).count();
        let lost = 2 * i64::try_from(before).unwrap() + lost;
        let heir = heir_of(&file);
        let losses = [(lost, file)].into_iter();
        let losses = losses.chain(then.map(|then| (then, heir)));
        bench.line.loses.lock().unwrap().extend(losses);
        bench.downstream.out_of_order.store(true, Ordering::SeqCst);
        bench.fences.follow(Duration::ZERO).await.unwrap();
        drop(bench.sweeper.run_once(bench.now()).await);
        assert!(bench.line.loses.lock().unwrap().is_empty());
        bench.downstream.out_of_order.store(false, Ordering::SeqCst);
        for _ in 0..4 {
            bench.later(20);
            drop(bench.sweeper.run_once(bench.now()).await);
        }
        assert_eq!(bench.downstream.live(), [], "{lost}");
    }
}

#[tokio::test]
async fn an_end_is_not_called_followed_by_who_never_had_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    let store = Arc::new(Embedded::open(&file).unwrap());
    let downstream = Downstream::new(RevocationClass::Native, true);
    let bench = Bench::on(store, downstream, Advanced::new()).await;
    let lease = bench.issued().await;
    bench.sweep().await;
    revoke(&bench, &lease).await;
    // The mark is written, and whoever answers from then on has never heard of it.
    bench.line.loses.lock().unwrap().push_back((1, file));
    bench.fences.follow(Duration::ZERO).await.unwrap();
    drop(bench.sweeper.run_once(bench.now()).await);
    assert!(bench.line.loses.lock().unwrap().is_empty());
    assert_eq!(bench.downstream.live(), [lease.id]);
    for _ in 0..3 {
        bench.later(20);
        bench.sweep().await;
    }
    assert_eq!(bench.downstream.live(), []);
    assert!(!bench.again(&lease).await.state.is_open());
}

fn target() -> TargetId {
    "orders-api".parse().unwrap()
}

fn out_of_order(bench: &Bench, is: bool) {
    bench.downstream.out_of_order.store(is, Ordering::SeqCst);
}

/// What must be dead is, and no alarm stands for want of an answer.
async fn nothing_is_left(bench: &Bench) {
    out_of_order(bench, false);
    bench.later(400);
    bench.sweep().await;
    bench.sweep().await;
    let backlogs = bench.sweeper.backlogs();
    assert!(backlogs.of.is_empty() && backlogs.whole, "{backlogs:?}");
}

#[tokio::test]
async fn a_shard_that_is_gone_hides_no_target_that_is_overdue_on_another() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let leases = scattered(&bench, 3).await;
    bench.sweep().await;
    lose(&bench, leases[0].id.shard());
    out_of_order(&bench, true);
    revoke(&bench, &leases[1]).await;
    fails(&bench).await;
    bench.later(130);
    fails(&bench).await;
    let since = bench.sweeper.backlog(&target()).unwrap();
    assert!(bench.now() - since >= Duration::from_secs(130));
    let backlogs = bench.sweeper.backlogs();
    assert_eq!(backlogs.of[&target()].lease, leases[1].id);
    assert!(
        !backlogs.whole,
        "an alarm may be raised, and none taken back"
    );
    is_back(&bench);
    nothing_is_left(&bench).await;
}

#[tokio::test]
async fn what_a_shard_had_to_end_before_it_was_gone_still_stops_its_target() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let leases = scattered(&bench, 2).await;
    out_of_order(&bench, true);
    revoke(&bench, &leases[0]).await;
    bench.sweep().await;
    let since = bench.sweeper.backlog(&target()).unwrap();
    lose(&bench, leases[0].id.shard());
    bench.later(130);
    fails(&bench).await;
    assert_eq!(bench.sweeper.backlog(&target()), Some(since));
    is_back(&bench);
    nothing_is_left(&bench).await;
}

/// What it cannot do about one lease keeps nobody from seeing what the shard has to end.
#[tokio::test]
async fn work_that_fails_in_a_shard_hides_nothing_of_it() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let leases = of_one_agent(&bench, 2).await;
    out_of_order(&bench, true);
    revoke(&bench, &leases[0]).await;
    bench.fences.follow(Duration::ZERO).await.unwrap();
    bench.line.lose_answers.store(i64::MAX, Ordering::SeqCst);
    drop(bench.sweeper.run_once(bench.now()).await);
    bench.line.lose_answers.store(0, Ordering::SeqCst);
    assert!(bench.sweeper.backlog(&target()).is_some());
    nothing_is_left(&bench).await;
}

#[tokio::test]
async fn who_has_just_started_knows_no_target_before_each_shard_was_read() {
    let one = Bench::new(RevocationClass::Native, true).await;
    let leases = scattered(&one, 2).await;
    out_of_order(&one, true);
    revoke(&one, &leases[0]).await;
    one.sweep().await;
    one.later(130);
    // Another process, which reads all but one shard.
    let store = Arc::clone(&one.leases.store);
    let two = Bench::on(store, one.downstream.clone(), one.clock.clone()).await;
    assert!(!two.sweeper.has_looked());
    lose(&two, leases[1].id.shard());
    assert!(two.sweeper.not_looked().is_some());
    two.sweeper.look_everywhere(two.now()).await;
    assert!(!two.sweeper.has_looked());
    let why = two.sweeper.not_looked().unwrap();
    let shard = leases[1].id.shard().number();
    let named = format!("index `lease-ending` of shard {shard}: ");
    assert!(why.contains(&named), "{why}");
    assert!(
        two.sweeper.backlog(&target()).is_some(),
        "as far as it was read"
    );
    is_back(&two);
    two.sweeper.look_everywhere(two.now()).await;
    assert!(two.sweeper.has_looked());
    assert_eq!(two.sweeper.not_looked(), None);
    // It has asked nobody for anything, and one that is gone later takes nothing of that back.
    let asked = two.downstream.ends.load(Ordering::SeqCst);
    assert_eq!(asked, 1);
    lose(&two, leases[1].id.shard());
    fails(&two).await;
    assert!(two.sweeper.has_looked());
    is_back(&two);
    nothing_is_left(&two).await;
}
