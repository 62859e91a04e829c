use super::bench::{Bench, Downstream, store};
use crate::clock::Clock;
use crate::connectors::{Connector, ConnectorError, RevocationClass};
use crate::fences::tests::fixture::Advanced;
use crate::fences::{DimensionKind, EndedBy};
use crate::leases::{AtRest, Lease, LeaseError, Leases, Standing, State, TOLERANCE, keys};
use crate::policy::Grant;
use crate::replay::ReplayMark;
use crate::secret::Secret;
use crate::store::{Key, Store, Transaction, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn mark(byte: u8) -> ReplayMark {
    ReplayMark {
        kind: "intent+jwt".to_owned(),
        hash: [byte; 32],
        keep_until: Advanced::new().now() + Duration::from_secs(7200),
    }
}

#[tokio::test]
async fn a_local_mint_is_one_commit() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let lease = bench.issued().await;
    assert_eq!(bench.line.commits(), 1);
    let stored = bench.again(&lease).await;
    assert_eq!(stored, lease);
    assert_eq!(stored.state, State::Active);
    let view = bench.fences.fresh().unwrap();
    assert_eq!(
        Leases::standing(&stored, &view, bench.now()),
        Standing::Live
    );
}

#[tokio::test]
async fn a_lease_is_there_before_the_downstream_is_asked() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let grant = bench.grant();
    let promises = bench.downstream.promises;
    let draft = bench.leases.draft(&grant, &promises, bench.now());
    let reserved = bench
        .leases
        .reserve(draft, &grant, bench.now())
        .await
        .unwrap();
    let stored = bench.again(reserved.lease()).await;
    assert_eq!(stored.state, State::Reserved);
    let view = bench.fences.fresh().unwrap();
    assert_ne!(
        Leases::standing(&stored, &view, bench.now()),
        Standing::Live
    );
}

#[tokio::test]
async fn a_downstream_mint_cannot_be_issued_without_a_reservation() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let grant = bench.grant();
    let draft = bench
        .leases
        .draft(&grant, &bench.downstream.promises, bench.now());
    let minted = bench
        .downstream
        .mint(&grant, draft.context(bench.now()))
        .await
        .unwrap();
    let refused = bench.leases.issue(draft, &grant, minted, bench.now()).await;
    assert!(matches!(refused, Err(LeaseError::NotLocal(_))));
}

#[tokio::test]
async fn an_intent_is_spent_once_whatever_instance_sends_it() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let grant = |instance: &str| {
        Grant::for_tests()
            .agent("deployer")
            .instance(instance)
            .replay(vec![mark(1), mark(2)])
            .build()
    };
    bench.issue(&grant("one")).await.unwrap();
    for instance in ["one", "two", "three"] {
        let again = bench.issue(&grant(instance)).await;
        assert!(matches!(again, Err(LeaseError::Replayed(_))), "{instance}");
    }
}

#[tokio::test]
async fn a_refused_reservation_spends_nothing() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let grant = |limit: u64| {
        Grant::for_tests()
            .agent("deployer")
            .replay(vec![mark(3)])
            .max_active(limit)
            .build()
    };
    let refused = bench.issue(&grant(0)).await;
    assert!(matches!(refused, Err(LeaseError::TooMany(0))));
    bench.issue(&grant(1)).await.unwrap();
}

/// Fields have no names in a record: what is left out at its end moves none of the others.
#[tokio::test]
async fn a_lease_that_counts_for_its_instance_is_read_as_it_was_written() {
    for class in [RevocationClass::Broker, RevocationClass::Native] {
        let bench = Bench::new(class, true).await;
        for most in [None, Some(1)] {
            let grant = Grant::for_tests().agent("deployer").instance("a");
            let lease = bench.issue(&grant.max_of_instance(most).build()).await;
            let lease = lease.unwrap().lease;
            assert_eq!(lease.status.is_some(), class == RevocationClass::Broker);
            assert_eq!(lease.of_instance, most.is_some());
            assert_eq!(bench.again(&lease).await, lease);
        }
        let another = |name: &str| {
            let grant = Grant::for_tests().agent("deployer").instance(name);
            grant.max_of_instance(Some(1)).build()
        };
        let refused = bench.issue(&another("a")).await;
        assert!(matches!(refused, Err(LeaseError::TooManyOfInstance(1))));
        bench.issue(&another("b")).await.unwrap();
    }
}

#[tokio::test]
async fn an_agent_holds_as_many_leases_as_it_may_and_no_more() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let grant = |instance: &str| {
        Grant::for_tests()
            .agent("deployer")
            .instance(instance)
            .max_active(2)
            .build()
    };
    let first = bench.issue(&grant("a")).await.unwrap().lease;
    bench.issue(&grant("b")).await.unwrap();
    assert!(matches!(
        bench.issue(&grant("c")).await,
        Err(LeaseError::TooMany(2))
    ));
    bench.issue(&bench.granted("another")).await.unwrap();
    bench
        .leases
        .release(&first, &bench.fences, "deployer", bench.now())
        .await
        .unwrap();
    let position = bench.fences.fresh().unwrap().position();
    let next = Grant::for_tests()
        .agent("deployer")
        .max_active(2)
        .position(position);
    bench.issue(&next.clone().build()).await.unwrap();
    // It counts as long as it lives, and up to a thirty-second of that longer.
    bench.later(899);
    assert!(matches!(
        bench.issue(&next.clone().build()).await,
        Err(LeaseError::TooMany(2))
    ));
    bench.later(1 + 900 / 32 + 1);
    bench.issue(&next.build()).await.unwrap();
}

#[tokio::test]
async fn a_decision_older_than_the_sweep_is_refused() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let old = bench.grant();
    bench.kill(DimensionKind::Mission, "another").await;
    bench.sweep().await;
    assert!(matches!(
        bench.issue(&old).await,
        Err(LeaseError::DecideAgain)
    ));
    bench.issue(&bench.grant()).await.unwrap();
}

#[tokio::test]
async fn a_fence_between_the_decision_and_the_sweep_ends_what_was_reserved() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let old = bench.grant();
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    // The sweep has not come by yet: the reservation stands, the credential does not go out.
    let refused = bench.issue(&old).await;
    let Err(LeaseError::Fenced(lease)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(bench.again(&lease).await.state, State::Revoking);
    assert_eq!(bench.downstream.live().len(), 1);
    let state = bench.sweeper.end_now(&lease.id, bench.now()).await;
    assert_eq!(state.unwrap(), Some(State::Revoked));
    assert!(bench.downstream.live().is_empty());
}

#[tokio::test]
async fn a_fence_between_reserve_and_activate_is_found_by_activate_or_by_the_sweep() {
    for swept_first in [false, true] {
        let bench = Bench::new(RevocationClass::Native, false).await;
        let grant = bench.grant();
        let now = bench.now();
        let draft = bench.leases.draft(&grant, &bench.downstream.promises, now);
        let reserved = bench.leases.reserve(draft, &grant, now).await.unwrap();
        let lease = reserved.lease().clone();
        let minted = bench
            .downstream
            .mint(&grant, reserved.context(now))
            .await
            .unwrap();
        let before = bench.fences.fresh().unwrap();
        bench.kill(DimensionKind::Target, "orders-api").await;
        // Even with a view that does not have the fence, the sweep's mark is seen.
        let view = if swept_first {
            assert_eq!(bench.sweep().await.matched, 1);
            before
        } else {
            bench.fences.fresh().unwrap()
        };
        let refused = bench.leases.activate(reserved, minted, &view, now).await;
        assert!(matches!(refused, Err(LeaseError::Fenced(_))), "{refused:?}");
        bench.sweep().await;
        assert!(bench.downstream.live().is_empty());
        assert_eq!(bench.again(&lease).await.state, State::Revoked);
    }
}

#[tokio::test]
async fn a_credential_that_comes_after_its_reservation_was_given_up_is_recorded_and_ended() {
    for named in [false, true] {
        let bench = Bench::new(RevocationClass::Native, named).await;
        let grant = bench.grant();
        let now = bench.now();
        let draft = bench.leases.draft(&grant, &bench.downstream.promises, now);
        let reserved = bench.leases.reserve(draft, &grant, now).await.unwrap();
        let lease = reserved.lease().clone();
        bench.later(71);
        bench.sweep().await;
        bench.sweep().await;
        let given_up = bench.again(&lease).await.state;
        assert_eq!(
            given_up,
            if named {
                State::Revoked
            } else {
                State::Unclaimed
            }
        );
        let minted = bench
            .downstream
            .mint(&grant, reserved.context(now))
            .await
            .unwrap();
        let view = bench.fences.fresh().unwrap();
        let refused = bench
            .leases
            .activate(reserved, minted, &view, bench.now())
            .await;
        assert!(matches!(refused, Err(LeaseError::Fenced(_))));
        bench.sweep().await;
        assert!(bench.downstream.live().is_empty());
        assert_eq!(bench.again(&lease).await.state, State::Revoked);
    }
}

#[tokio::test]
async fn a_refused_mint_closes_the_reservation() {
    let bench = Bench::new(RevocationClass::Native, false).await;
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    let Err(LeaseError::Closed(id)) = bench.issue(&bench.grant()).await else {
        panic!("minted");
    };
    let lease = bench.leases.get(&id).await.unwrap().unwrap();
    assert_eq!(lease.state, State::NeverMinted);
    assert!(lease.closing.as_ref().unwrap().closed.is_some());
}

#[tokio::test]
async fn a_lost_answer_that_cannot_be_named_stays_open_until_it_cannot_live() {
    let bench = Bench::new(RevocationClass::Native, false).await;
    bench.downstream.loses_answers.store(true, Ordering::SeqCst);
    let Err(LeaseError::Closed(id)) = bench.issue(&bench.grant()).await else {
        panic!("minted");
    };
    let state = || async { bench.leases.get(&id).await.unwrap().unwrap().state };
    assert_eq!(state().await, State::Unclaimed);
    bench.later(3600);
    bench.sweep().await;
    assert_eq!(state().await, State::Unclaimed);
    bench.later(10 + TOLERANCE.as_secs() + 1);
    assert_eq!(bench.sweep().await.lapsed, 1);
    assert_eq!(state().await, State::Lapsed);
}

#[tokio::test]
async fn a_lost_answer_that_can_be_named_is_ended_and_not_believed_dead_too_early() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    bench.downstream.loses_answers.store(true, Ordering::SeqCst);
    let Err(LeaseError::Closed(id)) = bench.issue(&bench.grant()).await else {
        panic!("minted");
    };
    bench.sweep().await;
    assert!(bench.downstream.live().is_empty());
    let lease = bench.leases.get(&id).await.unwrap().unwrap();
    assert_eq!(
        lease.state,
        State::Revoking,
        "a mint may still be on its way"
    );
    bench.later(71);
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Revoked);
}

#[tokio::test]
async fn what_is_not_replicated_is_not_handed_out() {
    for class in [RevocationClass::Broker, RevocationClass::Native] {
        let bench = Bench::new(class, true).await;
        bench.line.unreplicated.store(1, Ordering::SeqCst);
        let refused = bench.issue(&bench.grant()).await;
        assert!(matches!(refused, Err(LeaseError::Unreplicated)));
        assert!(bench.downstream.live().is_empty());
        let open = bench
            .leases
            .list(&crate::leases::Filter::default(), None, 10)
            .await
            .unwrap();
        assert!(open.leases.is_empty());
    }
}

#[tokio::test]
async fn a_credential_whose_activation_is_not_replicated_is_withheld_and_ended() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let (grant, now) = (bench.grant(), bench.now());
    let draft = bench.leases.draft(&grant, &bench.downstream.promises, now);
    let reserved = bench.leases.reserve(draft, &grant, now).await.unwrap();
    let lease = reserved.lease().clone();
    let minted = bench.downstream.mint(&grant, reserved.context(now)).await;
    let view = bench.fences.fresh().unwrap();
    bench.line.unreplicated.store(1, Ordering::SeqCst);
    let refused = bench
        .leases
        .activate(reserved, minted.unwrap(), &view, now)
        .await;
    assert!(matches!(refused, Err(LeaseError::Unreplicated)));
    let withheld = bench.again(&lease).await;
    assert_eq!(withheld.state, State::Revoking);
    let why = withheld.closing.as_ref().unwrap().why;
    assert_eq!(why, crate::leases::Why::NeverHandedOut);
    assert_eq!(bench.downstream.live(), [lease.id]);
    bench.sweep().await;
    assert!(bench.downstream.live().is_empty());
}

#[tokio::test]
async fn a_lost_answer_of_the_store_reserves_once() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    bench.line.lose_answers.store(2, Ordering::SeqCst);
    let grant = Grant::for_tests().replay(vec![mark(9)]).build();
    bench.issue(&grant).await.unwrap();
}

#[tokio::test]
async fn a_record_that_was_changed_or_moved_is_not_a_lease() {
    let store = store();
    let downstream = Downstream::new(RevocationClass::Broker, true);
    let bench = Bench::on(Arc::clone(&store), downstream, Advanced::new()).await;
    let (one, other) = (bench.issued().await, bench.issued().await);
    let key = keys::lease(&one.id);
    let record = store.get(std::slice::from_ref(&key)).await.unwrap();
    let good = record.into_iter().next().flatten().unwrap().value;
    for place in [0, 31, 32, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        overwrite(store.as_ref(), &key, bad).await;
        let read = bench.leases.get(&one.id).await;
        assert!(matches!(read, Err(LeaseError::Forged(_))), "byte {place}");
    }
    overwrite(store.as_ref(), &keys::lease(&other.id), good.clone()).await;
    let read = bench.leases.get(&other.id).await;
    assert!(matches!(read, Err(LeaseError::Forged(_))));
}

#[tokio::test]
async fn what_leases_have_in_common_is_theirs_alone() {
    let store = store();
    let downstream = Downstream::new(RevocationClass::Broker, true);
    let clock = Advanced::new();
    let bench = Bench::on(Arc::clone(&store), Arc::clone(&downstream), clock.clone()).await;
    let place = |lease: &Lease| keys::common(lease.id.shard(), &lease.common().unwrap().half());
    let stored = async |key: Key| {
        let records = store.get(std::slice::from_ref(&key)).await.unwrap();
        records.into_iter().next().flatten().unwrap().value
    };
    let issue = async |task: &str, target: &str| {
        let grant = Grant::for_tests().target(target).task(task).build();
        bench.issue(&grant).await.unwrap().lease
    };
    let one = issue("one", "orders-api").await;
    let like = issue("another", "orders-api").await;
    let other = issue("one", "billing-api").await;
    assert_eq!(place(&one), place(&like), "once for both");
    assert_ne!(place(&one), place(&other));

    // A replica that has read nothing yet.
    let read = async |lease: &Lease| {
        let fresh = Bench::on(Arc::clone(&store), Arc::clone(&downstream), clock.clone()).await;
        fresh.leases.get(&lease.id).await.map(Option::unwrap)
    };
    assert_eq!(read(&one).await.unwrap().record(), one.record());
    let (ours, theirs) = (stored(place(&one)).await, stored(place(&other)).await);
    // What is in common, replaced by another lease's and changed in each byte of it.
    overwrite(store.as_ref(), &place(&one), theirs).await;
    assert!(matches!(read(&one).await, Err(LeaseError::Forged(_))));
    for at in [0, ours.len() / 2, ours.len() - 1] {
        let mut bad = ours.clone();
        bad[at] ^= 1;
        overwrite(store.as_ref(), &place(&one), bad).await;
        assert!(matches!(read(&one).await, Err(LeaseError::Forged(_))));
        assert!(matches!(read(&like).await, Err(LeaseError::Forged(_))));
    }
    overwrite(store.as_ref(), &place(&one), ours).await;
    assert_eq!(read(&one).await.unwrap().record(), one.record());
    // A record that names what another lease has in common with others.
    let mut bad = stored(keys::lease(&one.id)).await;
    bad[16..32].copy_from_slice(&other.common().unwrap().half());
    overwrite(store.as_ref(), &keys::lease(&one.id), bad).await;
    assert!(matches!(read(&one).await, Err(LeaseError::Forged(_))));
    // And the others are read as before.
    assert_eq!(read(&like).await.unwrap().record(), like.record());
}

#[tokio::test]
async fn what_leases_have_in_common_outlasts_the_last_of_them() {
    let store = store();
    let downstream = Downstream::new(RevocationClass::Broker, true);
    let bench = Bench::on(Arc::clone(&store), downstream, Advanced::new()).await;
    let (one, other) = (bench.issued().await, bench.issued().await);
    let key = keys::common(one.id.shard(), &one.common().unwrap().half());
    for lease in [&one, &other] {
        bench
            .leases
            .release(lease, &bench.fences, "deployer", bench.now())
            .await
            .unwrap();
        let found = store.get(std::slice::from_ref(&key)).await.unwrap();
        assert!(found[0].is_some(), "closed leases are still looked up");
        assert_eq!(bench.again(lease).await.state, State::Released);
    }
    // Once more than it was opened, and a week and more is over: nothing is left of it.
    let unshared =
        Transaction::new(key.shard, bench.now() + Duration::from_secs(10)).write(Write::Unshare {
            key: key.clone(),
            until: bench.now() - Duration::from_secs(1),
        });
    store.commit(unshared).await.unwrap();
    let found = store.get(std::slice::from_ref(&key)).await.unwrap();
    assert!(found[0].is_none(), "nobody shared it any more");
    // The next of its kind writes it again.
    let next = bench.issued().await;
    assert_eq!(bench.again(&next).await.record(), next.record());
    let found = store.get(std::slice::from_ref(&key)).await.unwrap();
    assert!(found[0].is_some());
}

async fn overwrite(store: &dyn Store, key: &Key, value: Vec<u8>) {
    let deadline = Advanced::new().now() + Duration::from_secs(10);
    let transaction = Transaction::new(key.shard, deadline).write(Write::Put {
        key: key.clone(),
        value,
        expires_at: None,
    });
    store.commit(transaction).await.unwrap();
}

#[tokio::test]
async fn a_lease_carries_every_dimension_it_can_be_ended_by() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let lease = bench.issued().await;
    for (kind, value) in [
        (DimensionKind::Lease, lease.id.to_string()),
        (DimensionKind::Agent, "deployer".to_owned()),
        (DimensionKind::SigningKey, "key-1".to_owned()),
        (DimensionKind::All, String::new()),
    ] {
        let bench = Bench::new(RevocationClass::Broker, true).await;
        bench.kill(kind, &value).await;
        let view = bench.fences.fresh().unwrap();
        let standing = Leases::standing(&lease, &view, bench.now());
        assert!(
            matches!(standing, Standing::Fenced(EndedBy::Fence(_))),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn no_lease_outlives_its_grant_its_target_or_the_day() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let now = bench.now();
    let week = Grant::for_tests()
        .ttl(Duration::from_secs(7 * 86400))
        .build();
    let mut promises = bench.downstream.promises;
    let hour = bench.leases.draft(&week, &promises, now).expires_at();
    assert!(hour <= now + Duration::from_secs(3600));
    promises.max_ttl = Duration::from_secs(30 * 86400);
    let day = bench.leases.draft(&week, &promises, now).expires_at();
    assert!(day <= now + Duration::from_secs(86400));
}

#[tokio::test]
async fn what_was_known_beforehand_is_kept_and_is_no_answer() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let (grant, now) = (bench.grant(), bench.now());
    let draft = bench.leases.draft(&grant, &bench.downstream.promises, now);
    let known = Secret::new(b"on this server".to_vec());
    let draft = draft.knowing(Some(known.clone()));
    let reserved = bench.leases.reserve(draft, &grant, now).await.unwrap();
    let told = reserved.context(now).beforehand.unwrap();
    assert_eq!(told.expose(), known.expose());
    let lease = bench.again(reserved.lease()).await;
    let kept = bench.leases.handle(&lease).unwrap().unwrap();
    assert_eq!(kept.expose(), known.expose());
    // Whoever takes it for the handle of what was made cannot read it.
    let sealed = lease.handle.as_ref().unwrap();
    let as_handle = bench.leases.sealer().open(lease.id.as_bytes(), sealed);
    assert!(as_handle.is_err());

    let lost = ConnectorError::Unknown(String::new());
    let state = bench.leases.fail(reserved, &lost, now).await.unwrap();
    assert_eq!(state, State::Revoking);
    // "There is nothing" is said and not believed while the mint may be on its way.
    for _ in 0..6 {
        bench.sweep().await;
        bench.later(10);
    }
    assert!(bench.downstream.ends.load(Ordering::SeqCst) > 0);
    assert_eq!(bench.again(&lease).await.state, State::Revoking);
    bench.later(TOLERANCE.as_secs());
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Revoked);
}

#[tokio::test]
async fn a_failed_mint_says_which_failures_can_have_made_something() {
    for (error, state) in [
        (ConnectorError::Refused(String::new()), State::NeverMinted),
        (
            ConnectorError::Unavailable(String::new()),
            State::NeverMinted,
        ),
        (ConnectorError::Replaced(String::new()), State::NeverMinted),
        (
            ConnectorError::Inexpressible(String::new()),
            State::NeverMinted,
        ),
        (ConnectorError::Unknown(String::new()), State::Unclaimed),
    ] {
        let bench = Bench::new(RevocationClass::Native, false).await;
        let grant = bench.grant();
        let draft = bench
            .leases
            .draft(&grant, &bench.downstream.promises, bench.now());
        let reserved = bench
            .leases
            .reserve(draft, &grant, bench.now())
            .await
            .unwrap();
        let after = bench
            .leases
            .fail(reserved, &error, bench.now())
            .await
            .unwrap();
        assert_eq!(after, state);
    }
}

/// `DAYFLY_BLESS=1 cargo test --lib the_fuzzers` writes it.
#[tokio::test]
async fn the_fuzzers_seed_is_a_lease_as_it_is_written_today() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/lease/active");
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    if std::env::var_os("DAYFLY_BLESS").is_some() {
        let at_rest = AtRest::of(lease.record());
        std::fs::write(path, rmp_serde::to_vec(&at_rest).unwrap()).unwrap();
    }
    let seed = std::fs::read(path).unwrap();
    let at_rest = rmp_serde::from_slice::<AtRest>(&seed).unwrap();
    assert_eq!(rmp_serde::to_vec(&at_rest).unwrap(), seed);
    let record = at_rest.record(&lease.id).unwrap();
    assert_eq!(record.names.len(), lease.names.len());
}
