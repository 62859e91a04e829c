//! What a failover takes back of a lease whose end everybody has heard of.

use super::{Op, World, mint_at, on_redis};
use crate::connectors::RevocationClass;
use std::sync::atomic::Ordering;

/// By its own dimension, at the first replica.
fn end_of_the_first() -> Op {
    Op::End {
        at: 0,
        which: 0,
        selector: 0,
        hold: false,
    }
}

async fn play(world: &mut World, ops: &[Op]) {
    for op in ops {
        world.play(op).await;
        world.agrees().await;
    }
}

#[tokio::test]
async fn an_end_that_was_found_written_twice_is_in_the_list_after_a_failover_that_lost_it() {
    let Some(place) = on_redis() else {
        return;
    };
    let mut world = World::new((RevocationClass::Broker, true), place).await;
    let sweep = Op::Sweep { at: 0 };
    play(&mut world, &[mint_at(0), sweep.clone(), Op::Apart]).await;
    // The first time it writes the end, the second time it finds it.
    let lost = [end_of_the_first(), sweep.clone(), sweep.clone()];
    play(&mut world, &lost).await;
    play(&mut world, &[Op::Failover(None), sweep.clone(), sweep]).await;
    let lease = world.known[0].lease.clone();
    let bench = &world.replicas[0];
    let list = bench.sweeper.status(lease.id.shard(), bench.now()).await;
    let (bits, _) = list.unwrap().unwrap();
    assert_eq!(bits.ended(), [lease.status.unwrap()]);
    world.is_over().await;
}

#[tokio::test]
async fn a_downstream_is_told_of_an_end_whose_mark_a_failover_lost() {
    let Some(place) = on_redis() else {
        return;
    };
    let mut world = World::new((RevocationClass::Native, true), place).await;
    play(&mut world, &[mint_at(0), Op::Apart, end_of_the_first()]).await;
    let away = |world: &World, away| {
        world.downstream.out_of_order.store(away, Ordering::SeqCst);
    };
    away(&world, true);
    play(&mut world, &[Op::Sweep { at: 0 }, Op::Failover(None)]).await;
    away(&world, false);
    assert_eq!(world.downstream.live().len(), 1);
    // Long before its time is up.
    let later = [Op::Later(10), Op::Sweep { at: 0 }];
    play(&mut world, &[later.clone(), later].concat()).await;
    assert_eq!(world.downstream.live(), []);
    world.is_over().await;
}

#[tokio::test]
async fn nothing_is_handed_on_from_a_lease_whose_mark_a_failover_would_lose() {
    let Some(place) = on_redis() else {
        return;
    };
    let mut world = World::new((RevocationClass::Native, true), place).await;
    play(&mut world, &[mint_at(0), Op::Apart]).await;
    let (bench, id) = (&world.replicas[0], world.known[0].lease.id);
    // The second time it finds what the first one wrote.
    for _ in 0..2 {
        let handed = bench.leases.hand_on(&id, bench.now()).await;
        assert!(handed.is_err(), "{handed:?}");
    }
    play(&mut world, &[Op::Together]).await;
    let bench = &world.replicas[0];
    // A replica that is busy acknowledges late.
    let mut handed = Ok(false);
    for _ in 0..50 {
        handed = bench.leases.hand_on(&id, bench.now()).await;
        if handed.is_ok() {
            break;
        }
    }
    assert!(handed.unwrap());
    world.is_over().await;
}
