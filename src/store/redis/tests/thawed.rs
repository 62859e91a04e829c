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

/// The widest moment: one replica is promoted, and until the sentinels turn it round, which they cannot here, the other
/// one follows the old primary, and acknowledges what it takes. `min_replicas` is 1, and the sentinels list two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_primary_takes_behind_its_replacement_is_acknowledged() {
    let Some(drill) = Drill::start([("fixed", 2), ("cut off", 1), ("asking", 1)]).await else {
        return;
    };
    let old = &drill.watched.servers[0];
    let before = drill.write_for("before", Duration::from_millis(300)).await;
    drill.networks.iter().for_each(Network::cut_for_good);
    old.freeze();
    drill.until("a failover", RedisServer::is_primary).await;
    drill.watched.sentinels.iter().for_each(RedisServer::freeze);
    old.thaw();
    let heir = drill.watched.heir().unwrap();
    let mut others = drill.watched.servers.iter().skip(1);
    let left = others.find(|one| one.port() != heir.port()).unwrap();
    // It may have been turned round already.
    let follow = format!("REPLICAOF 127.0.0.1 {}", old.port());
    assert!(left.command(&follow).unwrap().starts_with("+OK"));
    old.until_followed_by(1).unwrap();
    let behind = drill.write_for("behind", Duration::from_secs(2)).await;
    assert!(old.is_primary());
    old.until_followed_by(1).unwrap();
    for (name, written) in &behind {
        assert!(written.unreplicated > 0, "{name} was not connected");
        assert!(written.acknowledged.is_empty(), "{name}");
    }
    // What was acknowledged before is there, whatever the sentinels do next.
    drill
        .nothing_is_lost(before, drill.watched.heir().unwrap().url())
        .await;
}

/// The same without a hand on the sentinels, and whoever can ask them goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_sentinels_replace_a_primary_that_wakes_up() {
    let ways = [("fixed", 2), ("cut off", 1), ("asking", 1)];
    let Some(drill) = Drill::start(ways).await else {
        return;
    };
    wakes_up(drill, RedisServer::is_primary).await;
}

/// By an address that leads to one server one acknowledgement is enough from the moment at which the others follow the
/// new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_primary_without_replicas_takes_is_acknowledged() {
    let ways = [("fixed", 1), ("cut off", 1), ("asking", 1)];
    let Some(drill) = Drill::start(ways).await else {
        return;
    };
    let is_followed = |heir: &RedisServer| {
        let told = heir.command("INFO replication").unwrap_or_default();
        told.contains("state=online")
    };
    wakes_up(drill, is_followed).await;
}

async fn wakes_up(drill: Drill, is_time: impl Fn(&RedisServer) -> bool) {
    let old = &drill.watched.servers[0];
    let mut told = drill.write_for("before", Duration::from_millis(300)).await;
    drill.networks.iter().for_each(Network::cut_for_good);
    old.freeze();
    drill.until("a failover", is_time).await;
    old.thaw();
    let writing = drill.spawn("behind");
    drill.until_told().await;
    let behind = drill.rest(writing).await;
    for (name, written) in &behind {
        assert!(
            *name == "asking" || written.unreplicated > 0,
            "{name} was not connected"
        );
    }
    told.extend(behind);
    // Whoever asks has the new primary acknowledge again, and waits for the old one no longer than it is up.
    let (_, asking) = drill
        .stores
        .iter()
        .find(|(name, _)| *name == "asking")
        .unwrap();
    let begun = tokio::time::Instant::now();
    let after = write(b"after");
    while !is_applied(&asking.commit(after.clone()).await) {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    drill.nothing_is_lost(told, drill.watched.url()).await;
}

/// What one way of writing was answered.
#[derive(Default)]
struct Written {
    acknowledged: Vec<Vec<u8>>,
    unreplicated: u64,
    refused: u64,
}

/// Sentinels and what they watch, and stores that stay connected: by an address that is fixed, by sentinels that are cut
/// off, and by sentinels that can be asked.
struct Drill {
    watched: Watched,
    networks: Vec<Network>,
    stores: Vec<(&'static str, Arc<Redis>)>,
    stop: Arc<AtomicBool>,
}

type Writing = Vec<(&'static str, Arc<Counted>, Vec<tokio::task::JoinHandle<()>>)>;

impl Drill {
    async fn start(ways: [(&'static str, u32); 3]) -> Option<Self> {
        let watched = Watched::start().unwrap()?;
        let mut networks = Vec::new();
        for sentinel in &watched.sentinels {
            networks.push(Network::to(sentinel.port()).await);
        }
        let ports = networks
            .iter()
            .map(|one| one.url.rsplit(':').next().unwrap().parse().unwrap());
        let ports: Vec<u16> = ports.collect();
        let mut stores = Vec::new();
        for (name, min_replicas) in ways {
            let url = match name {
                "fixed" => watched.servers[0].url(),
                "cut off" => sentinel_url(&ports),
                _ => watched.url(),
            };
            let settings = RedisSettings {
                min_replicas,
                replica_timeout: Duration::from_millis(50),
                ..RedisSettings::new(Secret::new(url))
            };
            stores.push((name, Arc::new(Redis::connect(settings).await.unwrap())));
        }
        Some(Self {
            watched,
            networks,
            stores,
            stop: Arc::default(),
        })
    }

    fn spawn(&self, when: &str) -> Writing {
        let stores = self.stores.iter().map(|(name, store)| {
            let (counted, tasks) = spawn(store, &format!("{when} {name}"), &self.stop);
            (*name, counted, tasks)
        });
        stores.collect()
    }

    async fn rest(&self, writing: Writing) -> Vec<(&'static str, Written)> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for (name, counted, tasks) in writing {
            for task in tasks {
                task.await.unwrap();
            }
            let written = Written {
                acknowledged: std::mem::take(&mut *counted.acknowledged.lock().unwrap()),
                unreplicated: counted.unreplicated.load(Ordering::SeqCst),
                refused: counted.refused.load(Ordering::SeqCst),
            };
            println!(
                "{name}: {} acknowledged, {} taken and not acknowledged, {} refused",
                written.acknowledged.len(),
                written.unreplicated,
                written.refused
            );
            all.push((name, written));
        }
        self.stop.store(false, Ordering::SeqCst);
        all
    }

    async fn write_for(&self, when: &str, long: Duration) -> Vec<(&'static str, Written)> {
        let writing = self.spawn(when);
        tokio::time::sleep(long).await;
        self.rest(writing).await
    }

    async fn until(&self, what: &str, is_time: impl Fn(&RedisServer) -> bool) {
        let begun = tokio::time::Instant::now();
        while !self.watched.heir().is_some_and(&is_time) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The sentinels make a replica of the old primary.
    async fn until_told(&self) {
        let begun = tokio::time::Instant::now();
        let told = || self.watched.servers[0].command("INFO replication").unwrap();
        while !told().contains("role:slave") {
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "it is never told"
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Whoever knows nothing but the store finds all that was acknowledged.
    async fn nothing_is_lost(&self, told: Vec<(&'static str, Written)>, url: String) {
        let settings = RedisSettings {
            min_replicas: 1,
            ..RedisSettings::new(Secret::new(url))
        };
        let store = Redis::connect(settings).await.unwrap();
        let mut acknowledged = 0;
        for (name, written) in told {
            let keys: Vec<_> = written.acknowledged.iter().map(|name| key(name)).collect();
            let found = store.get(&keys).await.unwrap();
            let lost = found.iter().filter(|one| one.is_none()).count();
            println!("{name}: {} acknowledged, {lost} lost", found.len());
            assert_eq!(lost, 0, "{name}");
            acknowledged += found.len();
        }
        assert!(acknowledged > 0);
    }
}
