use super::bench::{Bench, Downstream, store};
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::Advanced;
use crate::leases::{Leases, Standing, State, Why};

#[tokio::test]
async fn a_released_lease_is_dead_at_once_for_who_holds_only_an_old_record_of_it() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let lease = bench.issued().await;
    bench
        .leases
        .release(&lease, &bench.fences, "deployer", bench.now())
        .await
        .unwrap();
    let view = bench.fences.fresh().unwrap();
    assert!(matches!(
        Leases::standing(&lease, &view, bench.now()),
        Standing::Fenced(_)
    ));
    let stored = bench.again(&lease).await;
    assert_eq!(stored.state, State::Released);
    assert_eq!(stored.closing.as_ref().unwrap().why, Why::Released);
    assert_eq!(stored.closing.as_ref().unwrap().by, "deployer");
}

/// The record may be of this history and the fence of one that is no more, or of one not read yet.
#[tokio::test]
async fn a_record_that_says_released_is_no_fence() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Broker, true);
    let clock = Advanced::new();
    let one = Bench::on(shared.clone(), downstream.clone(), clock.clone()).await;
    let other = Bench::on(shared, downstream, clock).await;
    let lease = one.issued().await;
    let release = async |bench: &Bench| {
        let now = bench.now();
        let raised = bench.leases.release(&lease, &bench.fences, "deployer", now);
        raised.await.unwrap()
    };
    assert!(release(&one).await.is_some());
    assert!(release(&one).await.is_none(), "it stands");
    assert_eq!(other.again(&lease).await.state, State::Released);
    assert!(release(&other).await.is_some(), "it has read of none");
    assert!(release(&other).await.is_none(), "it stands");
}

#[tokio::test]
async fn release_and_revoke_stay_apart_whoever_writes_the_record() {
    for sweep_writes_it in [false, true] {
        for released in [false, true] {
            let bench = Bench::new(RevocationClass::Native, true).await;
            let lease = bench.issued().await;
            if sweep_writes_it {
                // The process dies with the fence raised and the record not written.
                bench
                    .line
                    .die_at(2, crate::fences::tests::fixture::Death::Before);
            }
            let now = bench.now();
            let by = ("ops@acme.example", "leaked");
            if released {
                bench
                    .leases
                    .release(&lease, &bench.fences, "deployer", now)
                    .await
                    .unwrap();
            } else {
                bench
                    .leases
                    .revoke(&lease, &bench.fences, by, now)
                    .await
                    .unwrap();
            }
            bench.line.mend();
            bench.sweep().await;
            bench.sweep().await;
            let stored = bench.again(&lease).await;
            assert_eq!(
                stored.state,
                if released {
                    State::Released
                } else {
                    State::Revoked
                }
            );
            assert!(bench.downstream.live().is_empty());
            if !released {
                assert_eq!(stored.closing.as_ref().unwrap().reason, "leaked");
                assert_eq!(stored.closing.as_ref().unwrap().by, "ops@acme.example");
            }
        }
    }
}

#[tokio::test]
async fn revoked_is_said_only_when_the_downstream_confirmed() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    let by = ("ops@acme.example", "leaked");
    bench
        .leases
        .revoke(&lease, &bench.fences, by, bench.now())
        .await
        .unwrap();
    assert_eq!(bench.again(&lease).await.state, State::Revoking);
    assert_eq!(bench.downstream.live().len(), 1);
    let state = bench.sweeper.end_now(&lease.id, bench.now()).await.unwrap();
    assert_eq!(state, Some(State::Revoked));
    assert!(bench.downstream.live().is_empty());
}

#[tokio::test]
async fn an_expired_lease_stands_for_nothing_even_before_the_sweep() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let lease = bench.issued().await;
    let view = bench.fences.fresh().unwrap();
    let last = lease.expires_at - std::time::Duration::from_millis(1);
    assert_eq!(Leases::standing(&lease, &view, last), Standing::Live);
    assert_eq!(
        Leases::standing(&lease, &view, lease.expires_at),
        Standing::Expired
    );
}

#[tokio::test]
async fn killing_one_agent_leaves_the_others_alone() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let (one, other) = (
        bench.issue(&bench.granted("one")).await.unwrap().lease,
        bench.issue(&bench.granted("other")).await.unwrap().lease,
    );
    bench.kill(DimensionKind::Agent, "one").await;
    assert_eq!(bench.sweep().await.matched, 1);
    assert_eq!(bench.again(&one).await.state, State::Revoked);
    assert_eq!(
        bench.again(&one).await.closing.as_ref().unwrap().why,
        Why::Fenced
    );
    assert_eq!(bench.again(&other).await.state, State::Active);
}

#[tokio::test]
async fn the_first_reason_to_die_is_kept() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    bench
        .leases
        .release(&lease, &bench.fences, "deployer", bench.now())
        .await
        .unwrap();
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Released);
}

#[tokio::test]
async fn ending_what_is_over_fills_no_log() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    for first in [true, false, false] {
        let raised = bench
            .leases
            .release(&lease, &bench.fences, "deployer", bench.now())
            .await
            .unwrap();
        assert_eq!(raised.is_some(), first);
    }
    assert_eq!(bench.fences.fresh().unwrap().position().sequence, 1);
}
