//! More is asked of a broker than it can do: some are told to come later, and what ends things, what asks
//! whether they have ended, and what the broker itself reads do not wait for them.

use crate::support::network::Network;
use crate::support::process::{Installation, Process, secret_file};
use crate::support::redis::RedisServer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Exchanges that may be under way at once, and whoever wants one.
const ROOM: usize = 4;
const CROWD: usize = 12;
/// How old a view may be there.
const BOUND: Duration = Duration::from_secs(6);

#[derive(Default)]
struct Flood {
    over: AtomicBool,
    later: AtomicUsize,
    granted: Mutex<BTreeSet<String>>,
}

impl Flood {
    async fn ask(&self, installation: &Installation, at: &Process) {
        while !self.over.load(Ordering::SeqCst) {
            let form = installation.good_form();
            let answer = installation.exchange(at, &form).await.unwrap();
            if answer.status == 200 {
                let lease = answer.body["lease_id"].as_str().unwrap().to_owned();
                self.granted.lock().unwrap().insert(lease);
                continue;
            }
            assert_eq!(
                (answer.status, answer.error()),
                (503, "temporarily_unavailable"),
                "{}",
                answer.body
            );
            assert!(answer.headers.contains_key("retry-after"));
            self.later.fetch_add(1, Ordering::SeqCst);
            // More patient than it was told to be impatient: the machine is ours, too.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    fn counts(&self) -> (usize, usize) {
        let granted = self.granted.lock().unwrap().len();
        (granted, self.later.load(Ordering::SeqCst))
    }

    /// So many more of both.
    async fn goes_on(&self, by: usize) {
        let before = self.counts();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let now = self.counts();
            if now.0 >= before.0 + by && now.1 >= before.1 + by {
                return;
            }
            assert!(Instant::now() < until, "{before:?}, {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_told_later_and_no_revocation_no_introspection_and_no_view_waits_for_it() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let network = Network::to(redis.port()).await;
    let store = format!(
        "{{ redis = \"file:redis.url\", fence_view_max_age = \"{}s\" }}",
        BOUND.as_secs()
    );
    let flooded = installation.replica("flooded", &store, "");
    secret_file(&flooded.folder.join("redis.url"), &network.url);
    let burst = "requests_burst = 100000";
    flooded.edit(burst, &format!("{burst}, concurrency = {ROOM}"));
    let flooded = Arc::new(flooded.serve().await);
    let calm = installation
        .on_redis("calm", &redis.url(), "")
        .serve()
        .await;
    let mut issued = Vec::new();
    for _ in 0..3 {
        issued.push(installation.issue(&flooded).await);
    }
    let token = |of: &Value| of["access_token"].as_str().unwrap().to_owned();
    let [kept, here, there] = issued.as_slice() else {
        unreachable!()
    };

    // A store that takes its time, so that whoever has room keeps it for a while.
    network.delay(100);
    let flood = Arc::new(Flood::default());
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let (flood, installation) = (flood.clone(), installation.clone());
            let flooded = flooded.clone();
            tokio::spawn(async move { flood.ask(&installation, &flooded).await })
        })
        .collect();
    flood.goes_on(5).await;

    // It reads on all the while, or it would vouch for nothing once its view is older than the bound.
    let begun = Instant::now();
    while begun.elapsed() < BOUND + Duration::from_secs(2) {
        let asked = Instant::now();
        assert!(installation.is_active(&flooded, &token(kept)).await);
        assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = Instant::now();
    let ended = json!({ "lease": here["lease_id"] });
    let ended = installation.revoke(&flooded, ended).await.unwrap();
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
    assert!(!installation.is_active(&flooded, &token(here)).await);
    // What is ended elsewhere is heard of.
    let ended = json!({ "lease": there["lease_id"] });
    let ended = installation.revoke(&calm, ended).await.unwrap();
    assert_eq!(ended.status, 200, "{}", ended.body);
    let told = Instant::now();
    while installation.is_active(&flooded, &token(there)).await {
        assert!(told.elapsed() < BOUND, "{:?}", told.elapsed());
    }
    assert!(flooded.is_ready().await);
    flood.goes_on(5).await;

    flood.over.store(true, Ordering::SeqCst);
    for one in crowd {
        one.await.unwrap();
    }
    network.delay(0);
    // Whoever was told "later" was given nothing, and whoever was given something has it on record.
    let open = installation.open_leases(&flooded, "deploy-api").await;
    let alive = open.iter().filter(|lease| lease["alive"] == true);
    let alive: BTreeSet<_> = alive
        .map(|lease| lease["id"].as_str().unwrap().to_owned())
        .collect();
    let mut granted = flood.granted.lock().unwrap().clone();
    granted.insert(kept["lease_id"].as_str().unwrap().to_owned());
    assert_eq!(alive, granted);
}
