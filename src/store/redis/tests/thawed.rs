//! A primary is paused, replaced by its sentinels, and wakes up; who stayed connected writes on.

use super::network::Network;
use super::support::{Watched, sentinel_url};
use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Default)]
struct Counted {
    acknowledged: std::sync::Mutex<Vec<Vec<u8>>>,
    unreplicated: AtomicU64,
    refused: AtomicU64,
}

fn spawn(
    store: &Arc<Redis>,
    name: &str,
    stop: &Arc<AtomicBool>,
) -> (Arc<Counted>, Vec<tokio::task::JoinHandle<()>>) {
    let counted = Arc::new(Counted::default());
    let tasks = (0..24).map(|task| {
        let (store, stop, counted) = (store.clone(), stop.clone(), counted.clone());
        let name = name.to_owned();
        tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let name = format!("{name} {task} {number}").into_bytes();
                match store.commit(write(&name)).await {
                    Ok(Outcome::Applied { .. }) => counted.acknowledged.lock().unwrap().push(name),
                    Ok(_) => drop(counted.unreplicated.fetch_add(1, Ordering::SeqCst)),
                    Err(_) => {
                        counted.refused.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        })
    });
    let tasks = tasks.collect();
    (counted, tasks)
}

async fn rest(stop: &AtomicBool, tasks: Vec<tokio::task::JoinHandle<()>>) {
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    stop.store(false, Ordering::SeqCst);
}

/// The sentinels make a replica of it.
async fn until_told(old: &RedisServer) {
    let begun = tokio::time::Instant::now();
    let told = || old.command("INFO replication").unwrap();
    while !told().contains("role:slave") {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it is never told"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// As soon as one replica is promoted: until the sentinels turn it round, the other one still follows the old primary,
/// and would acknowledge what it takes. So one that acknowledges is too few where there are two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_primary_takes_behind_its_replacement_is_acknowledged() {
    stays_connected(2, |heir| heir.is_primary()).await;
}

/// One acknowledgement is enough from the moment at which the others follow the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_primary_without_replicas_takes_is_acknowledged() {
    stays_connected(1, |heir| {
        let told = heir.command("INFO replication").unwrap_or_default();
        told.contains("state=online")
    })
    .await;
}

/// By an address that is fixed, and by sentinels that are cut off. Run it with `--nocapture` to see the numbers.
async fn stays_connected(min_replicas: u32, is_time_to_wake_up: impl Fn(&RedisServer) -> bool) {
    let Some(watched) = Watched::start().unwrap() else {
        return;
    };
    let old = &watched.servers[0];
    let mut networks = Vec::new();
    for sentinel in &watched.sentinels {
        networks.push(Network::to(sentinel.port()).await);
    }
    let ports = networks
        .iter()
        .map(|one| one.url.rsplit(':').next().unwrap().parse().unwrap());
    let ports: Vec<u16> = ports.collect();
    let stop = Arc::new(AtomicBool::new(false));
    let mut stores = Vec::new();
    for (name, url) in [("fixed", old.url()), ("cut off", sentinel_url(&ports))] {
        let settings = RedisSettings {
            min_replicas,
            replica_timeout: Duration::from_millis(50),
            ..RedisSettings::new(Secret::new(url))
        };
        stores.push((name, Arc::new(Redis::connect(settings).await.unwrap())));
    }
    let mut before = Vec::new();
    for (name, store) in &stores {
        let (counted, tasks) = spawn(store, &format!("before {name}"), &stop);
        tokio::time::sleep(Duration::from_millis(300)).await;
        rest(&stop, tasks).await;
        before.append(&mut counted.acknowledged.lock().unwrap());
    }
    networks.iter().for_each(Network::cut_for_good);
    old.freeze();
    let begun = tokio::time::Instant::now();
    while !watched.heir().is_some_and(&is_time_to_wake_up) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no failover");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    old.thaw();
    let mut written = Vec::new();
    for (name, store) in &stores {
        let (counted, tasks) = spawn(store, name, &stop);
        written.push((*name, counted, tasks));
    }
    until_told(old).await;
    stop.store(true, Ordering::SeqCst);
    let mut told = vec![("before", before)];
    for (name, counted, tasks) in written {
        for task in tasks {
            task.await.unwrap();
        }
        let unreplicated = counted.unreplicated.load(Ordering::SeqCst);
        let refused = counted.refused.load(Ordering::SeqCst);
        let acknowledged = std::mem::take(&mut *counted.acknowledged.lock().unwrap());
        assert!(unreplicated > 0, "{name} was not connected");
        println!(
            "{name}: {unreplicated} taken by it and not acknowledged, {refused} refused, {} acknowledged",
            acknowledged.len()
        );
        told.push((name, acknowledged));
    }
    let settings = RedisSettings {
        min_replicas,
        ..RedisSettings::new(Secret::new(watched.url()))
    };
    let store = Redis::connect(settings).await.unwrap();
    for (name, told) in told {
        let keys: Vec<_> = told.iter().map(|name| key(name)).collect();
        let found = store.get(&keys).await.unwrap();
        let lost = found.iter().filter(|one| one.is_none()).count();
        println!("{name}: {} acknowledged, {lost} lost", found.len());
        assert_eq!(lost, 0, "{name}");
    }
}
