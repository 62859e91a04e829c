use super::bench::{Bench, Downstream, store};
use crate::connectors::{Connector, RevocationClass};
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::Advanced;
use crate::leases::{Issued, Lease, LeaseError, keys, status};
use crate::store::{Guard, MAX_RANK, Store, Transaction, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn bench() -> Bench {
    Bench::new(RevocationClass::Broker, true).await
}

/// Indices of the list that this lease is in.
async fn ended(bench: &Bench, lease: &Lease) -> Vec<u32> {
    let told = bench.sweeper.status(lease.id.shard(), bench.now()).await;
    told.unwrap().unwrap().0.ended().to_vec()
}

async fn as_of(bench: &Bench, lease: &Lease) -> Option<Duration> {
    let told = bench.sweeper.status(lease.id.shard(), bench.now()).await;
    told.unwrap().map(|(_, as_of)| as_of)
}

async fn issue_at(bench: &Bench, index: u32) -> Result<Issued, LeaseError> {
    let (grant, now) = (bench.grant(), bench.now());
    let promises = bench.downstream.promises;
    let mut draft = bench.leases.draft(&grant, &promises, now);
    draft.status = Some(index);
    let minted = bench.downstream.mint(&grant, draft.context(now)).await;
    bench
        .leases
        .issue(draft, &grant, minted.unwrap(), now)
        .await
}

#[tokio::test]
async fn an_ended_lease_is_in_its_list_and_a_live_one_is_not() {
    let bench = bench().await;
    let (dead, live) = (bench.issued().await, bench.issued().await);
    bench.sweep().await;
    assert_eq!(ended(&bench, &dead).await, Vec::<u32>::new());
    bench.kill(DimensionKind::Lease, &dead.id.to_string()).await;
    bench.sweep().await;
    assert_eq!(ended(&bench, &live).await, [dead.status.unwrap()]);
}

#[tokio::test]
async fn one_fence_sets_the_bit_of_everything_that_it_ends() {
    let bench = bench().await;
    let mut leases = Vec::new();
    for number in 0..40 {
        let grant = bench.granted(&format!("agent-{number}"));
        leases.push(bench.issue(&grant).await.unwrap().lease);
    }
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    bench.sweep().await;
    for lease in leases {
        let index = lease.status.unwrap();
        assert!(ended(&bench, &lease).await.contains(&index));
    }
}

#[tokio::test]
async fn a_release_sets_the_bit_before_any_sweep() {
    let bench = bench().await;
    let lease = bench.issued().await;
    bench.sweep().await;
    let raised = bench
        .leases
        .release(&lease, &bench.fences, "deployer", bench.now())
        .await;
    raised.unwrap().unwrap();
    assert_eq!(ended(&bench, &lease).await, [lease.status.unwrap()]);
}

#[tokio::test]
async fn a_list_says_nothing_before_the_first_sweep() {
    let bench = bench().await;
    let lease = bench.issued().await;
    assert_eq!(as_of(&bench, &lease).await, None);
}

#[tokio::test]
async fn a_list_is_dated_before_every_fence_that_was_not_followed() {
    let bench = bench().await;
    let lease = bench.issued().await;
    bench.sweep().await;
    let before = as_of(&bench, &lease).await.unwrap();
    bench.later(10);
    bench.kill(DimensionKind::Agent, "deployer").await;
    assert_eq!(ended(&bench, &lease).await, Vec::<u32>::new());
    assert_eq!(as_of(&bench, &lease).await, Some(before));
    bench.sweep().await;
    assert_eq!(ended(&bench, &lease).await, [lease.status.unwrap()]);
    let after = as_of(&bench, &lease).await.unwrap();
    assert!(after >= before + Duration::from_secs(10));
}

#[tokio::test]
async fn a_list_is_not_dated_anew_while_another_replica_is_at_its_shard() {
    let shared = store();
    let clock = Advanced::new();
    let downstream = Downstream::new(RevocationClass::Broker, true);
    let one = Bench::on(shared.clone(), downstream.clone(), clock.clone()).await;
    let two = Bench::on(shared, downstream, clock).await;
    let lease = one.issued().await;
    one.sweep().await;
    two.sweep().await;
    let before = as_of(&two, &lease).await.unwrap();
    // The first one dies between its claim on a shard and the shard's leases.
    one.kill(DimensionKind::Agent, "deployer").await;
    one.later(1);
    one.line
        .die_at(2, crate::fences::tests::fixture::Death::Before);
    one.fences.follow(Duration::ZERO).await.unwrap();
    let swept = one.sweeper.run_once(one.now()).await;
    assert!(swept.is_err());
    two.sweep().await;
    let claimed = lease.id.shard();
    let mut dated = 0;
    for shard in crate::ids::ShardId::all() {
        let told = two.sweeper.status(shard, two.now()).await.unwrap();
        let (bits, as_of) = told.unwrap();
        // Either it has followed the fence, or it does not say that it has.
        let holds = shard != claimed || bits.ended() == [lease.status.unwrap()];
        assert!(holds || as_of == before, "{shard:?}");
        dated += usize::from(as_of > before);
    }
    assert!((1..64).contains(&dated), "{dated} shards were matched");
}

#[tokio::test]
async fn an_index_belongs_to_one_lease_at_a_time() {
    let bench = bench().await;
    let first = issue_at(&bench, 7).await.unwrap().lease;
    assert_eq!(first.status, Some(7));
    let second = issue_at(&bench, 7).await;
    assert!(matches!(second, Err(LeaseError::IndexTaken)));
    issue_at(&bench, 8).await.unwrap();
}

#[tokio::test]
async fn an_index_is_not_free_when_its_lease_is_ended() {
    let bench = bench().await;
    let first = issue_at(&bench, 7).await.unwrap().lease;
    bench
        .kill(DimensionKind::Lease, &first.id.to_string())
        .await;
    bench.sweep().await;
    assert!(matches!(
        issue_at(&bench, 7).await,
        Err(LeaseError::IndexTaken)
    ));
}

#[tokio::test]
async fn an_index_is_taken_for_five_minutes_past_its_tokens_end() {
    let bench = bench().await;
    let lease = issue_at(&bench, 7).await.unwrap().lease;
    let (shard, key) = (lease.id.shard(), keys::status(lease.id.shard(), 7));
    let taken = status::take(Transaction::new(shard, bench.now()), lease.record());
    assert_eq!(taken.guards, [Guard::Unnoted(key.clone())]);
    assert_eq!(
        taken.writes,
        [Write::Note {
            key,
            value: Vec::new(),
            until: lease.expires_at + Duration::from_secs(300),
        }]
    );
}

/// Clearing what the former holder of an index left must not clear what its next one leaves.
#[tokio::test]
async fn two_holders_of_one_index_are_two_members() {
    let bench = bench().await;
    let ids = [bench.issued().await.id, bench.issued().await.id];
    assert_ne!(
        keys::status_member(7, &ids[0]),
        keys::status_member(7, &ids[1])
    );
}

#[tokio::test]
async fn what_died_of_age_is_in_no_list() {
    let bench = bench().await;
    let lease = bench.issued().await;
    let life = (lease.expires_at - lease.created).unsigned_abs().as_secs();
    bench.later(life);
    bench.sweep().await;
    assert_eq!(ended(&bench, &lease).await, Vec::<u32>::new());
}

#[tokio::test]
async fn a_bit_stands_for_the_tokens_leeway_and_is_forgotten_after_it() {
    let bench = bench().await;
    let lease = bench.issued().await;
    bench
        .kill(DimensionKind::Lease, &lease.id.to_string())
        .await;
    bench.sweep().await;
    let life = (lease.expires_at - lease.created).unsigned_abs().as_secs();
    bench.later(life + 59);
    assert_eq!(ended(&bench, &lease).await, [lease.status.unwrap()]);
    bench.later(2);
    assert_eq!(ended(&bench, &lease).await, Vec::<u32>::new());
    // One shard in a round.
    for _ in 0..64 {
        bench.sweep().await;
    }
    let index = keys::status_ended(lease.id.shard());
    let kept = bench.line.range(&index, -MAX_RANK..=MAX_RANK, 10).await;
    assert_eq!(kept.unwrap(), []);
}

#[tokio::test]
async fn an_end_that_was_not_replicated_is_not_taken_for_followed() {
    let bench = bench().await;
    let lease = bench.issued().await;
    bench.sweep().await;
    let before = as_of(&bench, &lease).await.unwrap();
    bench
        .kill(DimensionKind::Lease, &lease.id.to_string())
        .await;
    bench.later(1);
    bench.fences.follow(Duration::ZERO).await.unwrap();
    bench.line.unreplicated.store(1, Ordering::SeqCst);
    let swept = bench.sweeper.run_once(bench.now()).await;
    assert!(matches!(swept, Err(LeaseError::Unreplicated)));
    assert_eq!(as_of(&bench, &lease).await, Some(before));
    bench.sweep().await;
    assert!(as_of(&bench, &lease).await.unwrap() > before);
    assert_eq!(ended(&bench, &lease).await, [lease.status.unwrap()]);
}

#[tokio::test]
async fn a_lease_whose_issue_was_not_replicated_is_in_the_list() {
    let bench = bench().await;
    bench.sweep().await;
    bench.line.unreplicated.store(1, Ordering::SeqCst);
    let refused = issue_at(&bench, 9).await;
    assert!(matches!(refused, Err(LeaseError::Unreplicated)));
    let another = bench.issued().await;
    assert_eq!(ended(&bench, &another).await, [9]);
}

#[tokio::test]
async fn what_has_no_index_is_in_no_list() {
    let mut downstream = Arc::try_unwrap(Downstream::new(RevocationClass::Broker, true)).unwrap();
    downstream.promises.status_list = false;
    let bench = Bench::on(store(), Arc::new(downstream), Advanced::new()).await;
    let lease = bench.issued().await;
    assert_eq!(lease.status, None);
    bench
        .kill(DimensionKind::Lease, &lease.id.to_string())
        .await;
    bench.sweep().await;
    assert_eq!(ended(&bench, &lease).await, Vec::<u32>::new());
}
