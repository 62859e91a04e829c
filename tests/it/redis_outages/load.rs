//! Credentials are minted and revoked without a pause, at two brokers, and both are asked about what is dead.

use crate::support::process::{Installation, PATIENCE as START, Process, secret_file, until};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long a token may be vouched for after its revocation was acknowledged.
pub const BOUND: Duration = Duration::from_secs(1);
/// How long any answer may take, whatever the store does: an exchange is a few calls of 2 s at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many are kept alive while new ones are minted.
const STOCK: usize = 30;

/// Mints and revokes without a pause, and asks about what it revoked.
pub struct Load {
    installation: Arc<Installation>,
    /// What a third broker is started with.
    store: String,
    process: Arc<Process>,
    /// Is told of few ends, and is asked about everything.
    other: Arc<Process>,
    stop: Arc<AtomicBool>,
    known: Arc<Known>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Known {
    minted: AtomicUsize,
    /// Ends that the other broker acknowledged.
    ended_elsewhere: AtomicUsize,
    alive: Mutex<Vec<Alive>>,
    /// With the moment at which their end was acknowledged.
    dead: Mutex<Vec<(String, Instant)>>,
    /// Asked at the one and not said to be dead there, because it said nothing.
    refused: AtomicUsize,
}

struct Alive {
    token: String,
    lease: Value,
    since: Instant,
}

pub fn token(issued: &Value) -> String {
    issued["access_token"].as_str().unwrap().to_owned()
}

/// What a task of the load has.
#[derive(Clone)]
struct At {
    installation: Arc<Installation>,
    process: Arc<Process>,
    stop: Arc<AtomicBool>,
    known: Arc<Known>,
}

/// Two brokers, and the store that they are on.
pub struct Brokers {
    pub processes: [Process; 2],
    pub store: String,
}

/// What was told to somebody, who goes by it.
pub struct Told {
    installation: Arc<Installation>,
    store: String,
    pub dead: Vec<String>,
    pub alive: Vec<String>,
}

impl Told {
    pub async fn holds_at(&self, process: &Process) {
        assert!(!self.dead.is_empty(), "nothing was ended");
        assert!(!self.alive.is_empty(), "nothing has lived through it");
        for token in &self.dead {
            let active = self.is_active(process, token).await;
            assert!(!active, "its end was acknowledged and is lost");
        }
        for token in &self.alive {
            let active = self.is_active(process, token).await;
            assert!(active, "it was issued and is lost");
        }
    }

    /// On a busy machine a view may be too old for a moment: then it says "later".
    async fn is_active(&self, process: &Process, token: &str) -> bool {
        let begun = Instant::now();
        loop {
            let answer = self.installation.introspect(process, token).await;
            if answer.status == 200 {
                return answer.body["active"] == true;
            }
            assert_eq!(answer.status, 503, "{}", answer.body);
            assert!(begun.elapsed() < START, "{}", process.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One that knows nothing but the store: nobody who knew more runs any more.
    pub async fn holds_at_a_stranger(&self) -> Process {
        let stranger = stranger(&self.installation, &self.store).await;
        self.holds_at(&stranger).await;
        stranger
    }
}

/// It may be refused for as long as replicas are missing, or those that run have not sealed anew what is there.
pub async fn stranger(installation: &Installation, store: &str) -> Process {
    let replica = installation.replica("stranger", store, "");
    let begun = Instant::now();
    loop {
        let mut process = replica.spawn();
        while !process.has_ended() {
            if process.is_ready().await {
                return process;
            }
            assert!(begun.elapsed() < START, "{}", process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() < START, "{}", process.log());
    }
}

impl Load {
    pub fn start(installation: Arc<Installation>, brokers: Brokers) -> Self {
        let [process, other] = brokers.processes;
        let mut load = Self {
            installation,
            store: brokers.store,
            process: Arc::new(process),
            other: Arc::new(other),
            stop: Arc::default(),
            known: Arc::default(),
            tasks: Vec::new(),
        };
        let at = |process: &Arc<Process>| At {
            installation: load.installation.clone(),
            process: process.clone(),
            stop: load.stop.clone(),
            known: load.known.clone(),
        };
        let (here, there) = (at(&load.process), at(&load.other));
        load.tasks = vec![
            tokio::spawn(mint_and_revoke(here.clone())),
            tokio::spawn(mint_and_revoke(here.clone())),
            tokio::spawn(end_elsewhere(there.clone())),
            tokio::spawn(ask(here)),
            tokio::spawn(ask(there)),
        ];
        load
    }

    fn minted(&self) -> usize {
        self.known.minted.load(Ordering::SeqCst)
    }

    pub async fn until_minted(&self, more: usize) {
        self.until_more("minting does not resume", more, || self.minted())
            .await;
    }

    /// Until there is enough to be ended elsewhere while nothing is minted.
    pub async fn until_there_is_a_stock(&self) {
        let alive = || self.known.alive.lock().unwrap().len();
        let missing = (STOCK + 1).saturating_sub(alive());
        self.until_more("there is no stock", missing, alive).await;
    }

    /// Ends that were acknowledged by the broker that mints nothing.
    pub async fn until_ended_elsewhere(&self, more: usize) {
        let ended = || self.known.ended_elsewhere.load(Ordering::SeqCst);
        self.until_more("nothing is ended elsewhere", more, ended)
            .await;
    }

    /// Answers of the broker that mints, about what is dead, that said "later".
    pub async fn until_refused(&self, more: usize) {
        let refused = || self.known.refused.load(Ordering::SeqCst);
        self.until_more("it vouches on", more, refused).await;
    }

    /// Ends what the load did not mint, at the broker that mints.
    pub async fn end(&self, issued: &Value) {
        until("it is ended", || async {
            let selector = json!({ "lease": issued["lease_id"] });
            let answer = self.installation.revoke(&self.process, selector).await;
            answer.unwrap().status == 200
        })
        .await;
    }

    async fn until_more(&self, what: &str, more: usize, count: impl Fn() -> usize) {
        let before = count();
        let begun = Instant::now();
        while count() < before + more {
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "{what}:\n{}\n\n{}",
                self.process.log(),
                self.other.log()
            );
            for task in &self.tasks {
                assert!(!task.is_finished(), "a part of the load has failed");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks once for the end of what the load did not mint. Whether it was acknowledged.
    pub async fn try_to_end(&self, issued: &Value) -> bool {
        let selector = json!({ "lease": issued["lease_id"] });
        let answer = self.installation.revoke(&self.process, selector).await;
        let acknowledged = answer.unwrap().status == 200;
        if acknowledged {
            let dead = (token(issued), Instant::now());
            self.known.dead.lock().unwrap().push(dead);
        }
        acknowledged
    }

    /// Minted before the load, and to be ended while it runs, or not.
    pub async fn issue(&self) -> Value {
        self.installation.issue(&self.process).await
    }

    /// Ends it, and whoever told most. Everything that was told is still so at the other one. What was minted
    /// before that moment is alive.
    pub async fn stop(mut self, alive_before: Instant) -> (Process, Told) {
        self.stop.store(true, Ordering::SeqCst);
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
        let told = self.told(alive_before);
        Arc::try_unwrap(self.process).unwrap().kill();
        let other = Arc::try_unwrap(self.other).unwrap();
        until("readiness", || other.is_ready()).await;
        told.holds_at(&other).await;
        (other, told)
    }

    /// The same, with the other one killed as well: a third one has nothing but the store.
    pub async fn finish(self) {
        let (other, told) = self.stop(Instant::now()).await;
        other.kill();
        told.holds_at_a_stranger().await;
    }

    /// Kills everybody who knows anything, in the middle of it.
    pub async fn abandon(self) -> Told {
        for task in &self.tasks {
            task.abort();
        }
        for process in [&self.process, &self.other] {
            process.signal(rustix::process::Signal::KILL);
        }
        self.told(Instant::now())
    }

    fn told(&self, alive_before: Instant) -> Told {
        let dead = self.known.dead.lock().unwrap().clone();
        let alive = self.known.alive.lock().unwrap();
        let alive = alive.iter().filter(|one| one.since < alive_before);
        Told {
            installation: self.installation.clone(),
            store: self.store.clone(),
            dead: dead.into_iter().map(|(token, _)| token).collect(),
            alive: alive.map(|one| one.token.clone()).collect(),
        }
    }
}

fn assert_in_time(begun: Instant, what: &str) {
    let taken = begun.elapsed();
    assert!(taken < PATIENCE, "{what} took {taken:?}");
}

async fn mint_and_revoke(at: At) {
    let At {
        installation,
        process,
        stop,
        known,
    } = at;
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let form = installation.good_form();
        let begun = Instant::now();
        let answer = installation.exchange(&process, &form).await.unwrap();
        assert_in_time(begun, "an exchange");
        if answer.status != 200 {
            // What it was decided on was lost and put back meanwhile; nothing was handed out.
            let meanwhile = answer.body["dayfly_reason"] == "revoked_meanwhile";
            assert!(answer.status == 503 || meanwhile, "{}", answer.body);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        known.minted.fetch_add(1, Ordering::SeqCst);
        let (token, lease) = (token(&answer.body), answer.body["lease_id"].clone());
        if number % 2 == 0 {
            known.alive.lock().unwrap().push(Alive {
                token,
                lease,
                since: Instant::now(),
            });
            continue;
        }
        let begun = Instant::now();
        let selector = json!({ "lease": lease });
        let answer = installation.revoke(&process, selector).await.unwrap();
        assert_in_time(begun, "a revocation");
        if answer.status == 200 {
            known.dead.lock().unwrap().push((token, Instant::now()));
        }
    }
}

/// Ends what was minted a moment ago at a broker that did not mint it.
async fn end_elsewhere(at: At) {
    let At {
        installation,
        process,
        stop,
        known,
    } = at;
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let latest = {
            let mut alive = known.alive.lock().unwrap();
            // There is a stock for when nothing is minted, and some are left alone even then.
            let last = alive.last().map(|one| one.since.elapsed());
            let nothing_new = last.is_some_and(|age| age > Duration::from_millis(500));
            let left_alone = if nothing_new { 4 } else { STOCK };
            (alive.len() > left_alone).then(|| alive.pop()).flatten()
        };
        let Some(Alive { token, lease, .. }) = latest else {
            continue;
        };
        let begun = Instant::now();
        let selector = json!({ "lease": lease });
        let answer = installation.revoke(&process, selector).await.unwrap();
        assert_in_time(begun, "a revocation");
        if answer.status == 200 {
            known.dead.lock().unwrap().push((token, Instant::now()));
            known.ended_elsewhere.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn ask(at: At) {
    let At {
        installation,
        process,
        stop,
        known,
    } = at;
    while !stop.load(Ordering::SeqCst) {
        let latest: Vec<_> = {
            let dead = known.dead.lock().unwrap();
            dead.iter().rev().take(8).cloned().collect()
        };
        // What lives is asked about as well: then it is known there, and the store is not needed to vouch for it.
        let living: Vec<_> = {
            let alive = known.alive.lock().unwrap();
            let latest = alive.iter().rev().take(8);
            latest.map(|one| one.token.clone()).collect()
        };
        for token in living {
            let begun = Instant::now();
            installation.introspect(&process, &token).await;
            assert_in_time(begun, "an introspection");
        }
        for (token, since) in latest {
            let asked_after = since.elapsed();
            let begun = Instant::now();
            let answer = installation.introspect(&process, &token).await;
            assert_in_time(begun, "an introspection");
            assert!(
                answer.status != 200 || answer.body["active"] == false || asked_after < BOUND,
                "dead for {asked_after:?} and vouched for"
            );
            if answer.status != 200 {
                known.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two brokers: one is told of almost everything, and the other one is asked.
pub async fn on(installation: &Installation, url: &str, min_replicas: u32) -> Brokers {
    on_each(installation, [url, url], min_replicas).await
}

/// The same with a way to the store for each.
pub async fn on_each(installation: &Installation, urls: [&str; 2], min_replicas: u32) -> Brokers {
    let stores = [("one", urls[0]), ("other", urls[1])].map(|(name, url)| {
        let file = format!("{name}.url");
        secret_file(&installation.folder.path().join(&file), url);
        format!(r#"{{ redis = "file:../{file}", min_replicas = {min_replicas} }}"#)
    });
    let one = installation.replica("one", &stores[0], "");
    let other = installation.replica("other", &stores[1], "");
    let (one, other) = tokio::join!(one.serve(), other.serve());
    let [_, store] = stores;
    Brokers {
        processes: [one, other],
        store,
    }
}
