//! Redis fails while credentials are minted and revoked. Whatever happens to it: no acknowledged
//! revocation is lost, no dead token is vouched for after the bound, minting resumes by itself.

use crate::support::network::Network;
use crate::support::process::{Installation, Process, secret_file, until};
use crate::support::redis::{Cluster, RedisServer, Watched};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long a token may be vouched for after its revocation was acknowledged.
const BOUND: Duration = Duration::from_secs(1);

/// Mints and revokes without a pause, and asks about what it revoked.
struct Load {
    installation: Arc<Installation>,
    process: Arc<Process>,
    /// Was told of nothing, and is asked about everything.
    other: Arc<Process>,
    stop: Arc<AtomicBool>,
    known: Arc<Known>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Known {
    minted: AtomicUsize,
    alive: Mutex<Vec<String>>,
    /// With the moment at which their end was acknowledged.
    dead: Mutex<Vec<(String, Instant)>>,
}

fn token(issued: &Value) -> String {
    issued["access_token"].as_str().unwrap().to_owned()
}

impl Load {
    fn start(installation: Arc<Installation>, [process, other]: [Process; 2]) -> Self {
        let mut load = Self {
            installation,
            process: Arc::new(process),
            other: Arc::new(other),
            stop: Arc::default(),
            known: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..2 {
            load.tasks.push(tokio::spawn(mint_and_revoke(
                load.installation.clone(),
                load.process.clone(),
                load.stop.clone(),
                load.known.clone(),
            )));
        }
        for asked in [&load.process, &load.other] {
            load.tasks.push(tokio::spawn(ask(
                load.installation.clone(),
                asked.clone(),
                load.stop.clone(),
                load.known.clone(),
            )));
        }
        load
    }

    fn minted(&self) -> usize {
        self.known.minted.load(Ordering::SeqCst)
    }

    async fn until_minted(&self, more: usize) {
        let before = self.minted();
        let begun = Instant::now();
        while self.minted() < before + more {
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "minting does not resume:\n{}",
                self.process.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it. Everything that was told is still so, with whoever told it dead and gone.
    async fn finish(self, alive_too: bool) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        Arc::try_unwrap(self.process).unwrap().kill();
        let other = &self.other;
        until("readiness", || other.is_ready()).await;
        let dead = self.known.dead.lock().unwrap().clone();
        assert!(!dead.is_empty());
        for (token, _) in &dead {
            assert!(!self.installation.is_active(other, token).await);
        }
        let alive = self.known.alive.lock().unwrap().clone();
        for token in alive.iter().filter(|_| alive_too) {
            assert!(self.installation.is_active(other, token).await);
        }
    }
}

async fn mint_and_revoke(
    installation: Arc<Installation>,
    process: Arc<Process>,
    stop: Arc<AtomicBool>,
    known: Arc<Known>,
) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let form = installation.good_form();
        let answer = installation.exchange(&process, &form).await.unwrap();
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{}", answer.body);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        known.minted.fetch_add(1, Ordering::SeqCst);
        let token = token(&answer.body);
        if number % 2 == 0 {
            known.alive.lock().unwrap().push(token);
            continue;
        }
        let selector = json!({ "lease": answer.body["lease_id"] });
        let answer = installation.revoke(&process, selector).await.unwrap();
        if answer.status == 200 {
            known.dead.lock().unwrap().push((token, Instant::now()));
        }
    }
}

async fn ask(
    installation: Arc<Installation>,
    process: Arc<Process>,
    stop: Arc<AtomicBool>,
    known: Arc<Known>,
) {
    while !stop.load(Ordering::SeqCst) {
        let latest: Vec<_> = {
            let dead = known.dead.lock().unwrap();
            dead.iter().rev().take(8).cloned().collect()
        };
        for (token, since) in latest {
            let asked_after = since.elapsed();
            let answer = installation.introspect(&process, &token).await;
            assert!(
                answer.status != 200 || answer.body["active"] == false || asked_after < BOUND,
                "dead for {asked_after:?} and vouched for"
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two brokers: one is told of everything, and the other one is asked.
async fn on(installation: &Installation, url: &str, min_replicas: u32) -> [Process; 2] {
    secret_file(&installation.folder.path().join("redis.url"), url);
    let store = format!(r#"{{ redis = "file:../redis.url", min_replicas = {min_replicas} }}"#);
    let one = installation.replica("one", &store, "");
    let other = installation.replica("other", &store, "");
    let (one, other) = tokio::join!(one.serve(), other.serve());
    [one, other]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_is_replaced_by_sentinels_under_load() {
    let Some(watched) = Watched::start().unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &watched.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    watched.servers[0].freeze();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.until_minted(20).await;
    // It wakes up and takes itself for the primary.
    watched.servers[0].thaw();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.until_minted(20).await;
    load.finish(true).await;
}

/// A slot of this server that holds something.
async fn slot_with_keys(server: &RedisServer) -> u16 {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key: Vec<u8> = redis::cmd("RANDOMKEY")
        .query_async(&mut connection)
        .await
        .unwrap();
    let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).to_owned();
    slot.query_async(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_each_node_once_and_moves_a_slot_loses_nothing() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &cluster.url(), 0).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    let slot = slot_with_keys(&cluster.servers[0]).await;
    cluster.move_slot(slot, 0, 1).await;
    load.until_minted(20).await;
    for lost in 0..cluster.servers.len() {
        cluster.servers[lost].kill();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.servers[lost].run().unwrap();
        load.until_minted(20).await;
    }
    load.finish(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_comes_back_with_all_it_acknowledged() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut redis) = RedisServer::start(&durable).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &redis.url(), 0).await;
    let load = Load::start(installation, brokers);
    for _ in 0..2 {
        load.until_minted(20).await;
        redis.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.run().unwrap();
    }
    load.until_minted(20).await;
    load.finish(true).await;
}

/// Snapshots only: what came after the last one is gone. The broker that was told of the revocations
/// still knows them, and tells the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_from_a_snapshot_is_told_what_it_forgot() {
    let Some(mut redis) = RedisServer::start(&["--save", "3600 1"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &redis.url(), 0).await;
    let load = Load::start(installation, brokers);
    load.until_minted(10).await;
    assert!(redis.command("SAVE").unwrap().starts_with("+OK"));
    load.until_minted(20).await;
    redis.kill();
    redis.run().unwrap();
    load.until_minted(20).await;
    load.finish(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_cut_off_vouches_for_nothing() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let network = Network::to(redis.port()).await;
    let installation = Installation::start().await;
    let far = installation.on_redis("far", &network.url, "").serve().await;
    let near = installation
        .on_redis("near", &redis.url(), "")
        .serve()
        .await;
    let issued = token(&installation.issue(&far).await);
    assert!(installation.is_active(&near, &issued).await);
    network.cut_for_good();
    let everything = json!({ "agent": "deployer" });
    let answer = installation.revoke(&near, everything).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let revoked = Instant::now();
    while revoked.elapsed() < BOUND * 3 {
        let asked_after = revoked.elapsed();
        let answer = installation.introspect(&far, &issued).await;
        let vouched = answer.status == 200 && answer.body["active"] == true;
        assert!(!vouched || asked_after < BOUND, "{asked_after:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(installation.introspect(&far, &issued).await.status, 503);
    network.mend();
    until("an answer", || async {
        let answer = installation.introspect(&far, &issued).await;
        assert_ne!(answer.body["active"], true);
        answer.status == 200
    })
    .await;
}
