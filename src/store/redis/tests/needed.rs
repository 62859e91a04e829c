//! How many must acknowledge: each that may be promoted, as sentinels and clusters say, and no other stands in for it.

use super::super::cluster::slot;
use super::support::{Cluster, Watched};
use super::*;
use tokio::time::Instant;

/// Behind sentinels or a cluster; one acknowledgement would be enough for `min_replicas`.
async fn connect(url: String) -> Redis {
    let settings = RedisSettings {
        min_replicas: 1,
        replica_timeout: Duration::from_millis(300),
        ..RedisSettings::new(Secret::new(url))
    };
    Redis::connect(settings).await.unwrap()
}

/// Called down so late that there is time to look.
fn watched() -> Option<Watched> {
    let watched = Watched::start().unwrap()?;
    for sentinel in &watched.sentinels {
        let late = sentinel.command("SENTINEL SET main down-after-milliseconds 5000");
        assert_eq!(late.unwrap(), "+OK\r\n");
    }
    Some(watched)
}

/// Of shard 3, which all is written to.
fn needed(store: &Redis) -> u64 {
    let node = store.inner.nodes.of(shard(3)).unwrap();
    let place = node.connector.place().unwrap();
    let needed = node.connector.replicas.needed(&place);
    needed.map_or(0, |needed| needed.count())
}

async fn until_needed(store: &Redis, count: u64) {
    let begun = Instant::now();
    while needed(store) != count {
        let seen = needed(store);
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{seen} are needed"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn commit(store: &Redis, name: &str) -> Outcome {
    store.commit(write(name.as_bytes())).await.unwrap()
}

fn is_unreplicated(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unreplicated { .. })
}

async fn until_applied(store: &Redis, name: &str) {
    let begun = Instant::now();
    for number in 0.. {
        let outcome = commit(store, &format!("{name} {number}")).await;
        if !is_unreplicated(&outcome) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "never acknowledged"
        );
    }
}

/// A look at a log is proven fresh by the same ones.
async fn is_fresh(store: &Redis) -> bool {
    let log = log();
    let tail = store.tail(&log, Position::ORIGIN, 9, Duration::ZERO);
    tail.await.is_ok()
}

async fn faults(store: &Redis) -> Vec<Fault> {
    let found = store.check().await.unwrap().into_iter();
    found.map(|finding| finding.fault).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_is_waited_for_until_it_is_called_down_and_again_when_it_is_back() {
    let Some(mut watched) = watched() else {
        return;
    };
    let store = connect(watched.url()).await;
    assert_eq!(unfit(&store).await, [""; 0]);
    assert_eq!(needed(&store), 2);
    assert!(!is_unreplicated(&commit(&store, "both").await));
    watched.servers[2].kill();
    assert!(is_unreplicated(&commit(&store, "one").await));
    assert!(!is_fresh(&store).await);
    assert!(faults(&store).await.contains(&Fault::TooFewReplicas));
    until_applied(&store, "alone").await;
    assert!(is_fresh(&store).await);
    assert_eq!(needed(&store), 1);
    assert_eq!(unfit(&store).await, [""; 0]);
    watched.servers[2].run().unwrap();
    until_needed(&store, 2).await;
    until_applied(&store, "both again").await;
    watched.servers[2].freeze();
    assert!(is_unreplicated(&commit(&store, "paused").await));
    until_applied(&store, "alone again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_priority_0_is_not_waited_for_and_stands_in_for_nobody() {
    let Some(watched) = watched() else {
        return;
    };
    let store = connect(watched.url()).await;
    let [_, replica, copy] = watched.servers.as_slice() else {
        panic!("three servers");
    };
    let set = copy.command("CONFIG SET replica-priority 0").unwrap();
    assert_eq!(set, "+OK\r\n");
    until_needed(&store, 1).await;
    // `min_replicas` is no matter of advice where somebody says who may be promoted.
    assert!(!faults(&store).await.contains(&Fault::MinReplicasLow));
    assert!(!is_unreplicated(&commit(&store, "both").await));
    copy.freeze();
    for number in 0..5 {
        let outcome = commit(&store, &format!("without the copy {number}")).await;
        assert!(!is_unreplicated(&outcome), "{number}");
    }
    assert!(is_fresh(&store).await);
    copy.thaw();
    // It hears all, and acknowledges: that is one, and not the one.
    until_applied(&store, "both again").await;
    replica.freeze();
    let outcome = commit(&store, "the copy alone").await;
    assert!(is_unreplicated(&outcome), "{outcome:?}");
    assert!(!is_fresh(&store).await);
    replica.thaw();
    until_applied(&store, "and again").await;
    // Nor is the one that counts waited for any less because the copy was faster.
    replica.freeze();
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        replica.thaw();
    };
    let (outcome, ()) = tokio::join!(commit(&store, "a little later"), late);
    assert!(!is_unreplicated(&outcome), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_of_a_node_of_a_cluster_is_waited_for_until_it_is_called_failing() {
    let Some(cluster) = Cluster::with_replicas(2).await else {
        return;
    };
    let store = connect(cluster.url()).await;
    let node = Cluster::owner(slot(shard(3)));
    until_needed(&store, 2).await;
    assert_eq!(unfit(&store).await, [""; 0]);
    assert!(!is_unreplicated(&commit(&store, "both").await));
    let paused = cluster.replicas_of(node).next().unwrap();
    paused.freeze();
    assert!(is_unreplicated(&commit(&store, "one").await));
    assert!(!is_fresh(&store).await);
    until_applied(&store, "alone").await;
    assert_eq!(needed(&store), 1);
    paused.thaw();
    until_needed(&store, 2).await;
    until_applied(&store, "both again").await;
}

/// The other replica was paused with it, and follows it still when both wake up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_a_cluster_replaces_a_node_that_wakes_up_with_one_of_its_replicas() {
    let Some(cluster) = Cluster::with_replicas(2).await else {
        return;
    };
    let store = Arc::new(connect(cluster.url()).await);
    until_needed(&store, 2).await;
    let node = Cluster::owner(slot(shard(3)));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers = (0..8).map(|writer| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
                let name = format!("{writer} {number}").into_bytes();
                match store.commit(write(&name)).await {
                    Ok(Outcome::Applied { .. }) => acknowledged.push(key(&name)),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let paused = cluster.replicas_of(node).next().unwrap();
    paused.freeze();
    cluster.servers[node].freeze();
    let begun = Instant::now();
    while !cluster
        .replicas_of(node)
        .skip(1)
        .any(RedisServer::is_primary)
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "no failover");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.servers[node].thaw();
    paused.thaw();
    tokio::time::sleep(Duration::from_secs(2)).await;
    until_applied(&store, "after").await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let found = store.get(&acknowledged).await.unwrap();
    let lost = found.iter().filter(|one| one.is_none()).count();
    assert_eq!(lost, 0, "of {}", found.len());
    assert!(!found.is_empty());
}
