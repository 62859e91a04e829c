//! Cluster: every shard is in one slot, wherever that slot is right now.

use super::super::cluster::slot;
use super::support::Cluster;
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

fn settings_of(cluster: &Cluster) -> RedisSettings {
    RedisSettings {
        retry_budget: Duration::from_millis(500),
        response_timeout: Duration::from_millis(300),
        ..RedisSettings::new(Secret::new(cluster.url()))
    }
}

fn owner(shard: ShardId) -> usize {
    Cluster::owner(slot(shard))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds_on_a_cluster() {
    let Some(cluster) = Cluster::start(3).await else {
        return;
    };
    let single = RedisSettings::new(Secret::new(cluster.servers[0].url()));
    let error = Redis::connect(single).await.unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::OtherKind, "{error}");
    let store = Arc::new(Redis::connect(settings_of(&cluster)).await.unwrap());
    assert_eq!(unfit(&store).await, [""; 0]);
    conformance::exercise(store).await.unwrap();
    // All three of them have some.
    for server in &cluster.servers {
        assert_ne!(server.command("DBSIZE").unwrap(), ":0\r\n");
    }
}

#[tokio::test]
async fn a_single_server_is_no_cluster() {
    let server = server!(&[]);
    let url = server.url().replace("redis:", "redis+cluster:");
    let error = Redis::connect(RedisSettings::new(Secret::new(url)))
        .await
        .unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::OtherKind, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_under_load_and_nothing_is_lost_or_done_twice() {
    let Some(cluster) = Cluster::start(3).await else {
        return;
    };
    let store = Arc::new(Redis::connect(settings_of(&cluster)).await.unwrap());
    let (from, slot) = (owner(shard(3)), slot(shard(3)));
    let to = (from + 1) % 3;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let (mut applied, mut refused, mut slowest) = (Vec::new(), 0, Duration::ZERO);
            for number in 0_u32.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let begun = Instant::now();
                let name = number.to_be_bytes().to_vec();
                match store.commit(write(&name)).await {
                    Ok(Outcome::Applied { .. }) => applied.push(name),
                    Err(StoreError::Unavailable(_) | StoreError::Unknown) => refused += 1,
                    other => panic!("{other:?}"),
                }
                slowest = slowest.max(begun.elapsed());
            }
            (applied, refused, slowest)
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.move_slot(slot, from, to).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = store.commit(write(b"moved")).await;
    assert!(is_applied(&before), "{before:?}");
    stop.store(true, Ordering::SeqCst);
    let (mut applied, refused, slowest) = load.await.unwrap();
    assert!(refused > 0, "the move was never noticed");
    assert!(slowest < Duration::from_millis(2500), "{slowest:?}");
    applied.push(b"moved".to_vec());
    let keys: Vec<_> = applied.iter().map(|name| key(name)).collect();
    let found = store.get(&keys).await.unwrap();
    assert!(found.iter().all(Option::is_some));
    let tail = store
        .tail(&log(), Position::ORIGIN, 100_000, Duration::ZERO)
        .await;
    let Ok(Tail::Entries { entries, .. }) = tail else {
        panic!("{tail:?}");
    };
    for name in &applied {
        let times = entries.iter().filter(|entry| entry.value == *name).count();
        assert_eq!(times, 1, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_takes_its_shards_with_it_and_no_others() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let store = Redis::connect(settings_of(&cluster)).await.unwrap();
    assert!(is_applied(&store.commit(write(b"before")).await));
    let lost = owner(shard(3));
    let elsewhere = shards().find(|other| owner(*other) != lost);
    cluster.servers[lost].kill();
    let begun = Instant::now();
    assert!(!is_applied(&store.commit(write(b"down")).await));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let deadline = SystemClock::new().now() + Duration::from_secs(20);
    let other = Transaction::new(elsewhere.unwrap(), deadline);
    assert!(
        is_applied(&store.commit(other).await),
        "another node goes on"
    );
    cluster.servers[lost].run().unwrap();
    let begun = Instant::now();
    while !is_applied(
        &store
            .commit(write(&begun.elapsed().as_micros().to_be_bytes()))
            .await,
    ) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(store.get(&[key(b"before")]).await.unwrap()[0].is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_the_shards_of_a_lost_node_with_what_was_acknowledged() {
    let Some(mut cluster) = Cluster::start(6).await else {
        return;
    };
    for primary in 0..3 {
        let follow = format!("CLUSTER REPLICATE {}", cluster.id(primary));
        let replica = &cluster.servers[primary + 3];
        assert_eq!(replica.command(&follow).unwrap(), "+OK\r\n");
        cluster.servers[primary].until_followed_by(1).unwrap();
    }
    let settings = RedisSettings {
        min_replicas: 1,
        replica_timeout: Duration::from_millis(100),
        ..settings_of(&cluster)
    };
    let store = Redis::connect(settings).await.unwrap();
    assert_eq!(unfit(&store).await, [""; 0]);
    let mut acknowledged = Vec::new();
    for name in [b"a", b"b", b"c"] {
        assert!(is_applied(&store.commit(write(name)).await));
        acknowledged.push(key(name));
    }
    let lost = owner(shard(3));
    cluster.servers[lost].kill();
    // Alone it goes on, and acknowledges nothing.
    let begun = Instant::now();
    loop {
        match store.commit(write(&later(begun))).await {
            Ok(Outcome::Unreplicated { .. }) => break,
            Err(StoreError::Unavailable(_) | StoreError::Unknown) => {}
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    assert!(matches!(tail, Err(StoreError::Unproved { .. })), "{tail:?}");
    let found = store.get(&acknowledged).await.unwrap();
    assert!(found.iter().all(Option::is_some), "{found:?}");
    // Whoever was lost comes back and follows.
    cluster.servers[lost].run().unwrap();
    while !is_applied(&store.commit(write(&later(begun))).await) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found = store.get(&acknowledged).await.unwrap();
    assert!(found.iter().all(Option::is_some), "{found:?}");
    while !unfit(&store).await.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A name that no earlier one has.
fn later(begun: Instant) -> [u8; 16] {
    begun.elapsed().as_nanos().to_be_bytes()
}

/// Each of them looks where the shard is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_delays_nobody_beyond_the_budget_however_many_ask() {
    let Some(cluster) = Cluster::start(3).await else {
        return;
    };
    let settings = settings_of(&cluster);
    let store = Arc::new(Redis::connect(settings.clone()).await.unwrap());
    assert!(is_applied(&store.commit(write(b"before")).await));
    // The one that is asked before the others.
    let hangs = (0..3).min_by_key(|&node| cluster.servers[node].port());
    let hangs = hangs.unwrap();
    let there = shards().find(|one| owner(*one) == hangs).unwrap();
    cluster.servers[hangs].freeze();
    let calls = (0..48).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let deadline = SystemClock::new().now() + Duration::from_secs(20);
            let outcome = store.commit(Transaction::new(there, deadline)).await;
            assert!(!is_applied(&outcome), "{outcome:?}");
            begun.elapsed()
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut slowest = Duration::ZERO;
    for call in calls {
        slowest = slowest.max(call.await.unwrap());
    }
    cluster.servers[hangs].thaw();
    assert!(slowest < settings.retry_budget * 3, "{slowest:?}");
}
