//! Two replicas on one Redis: what one of them is told, the other one acts on. And one Redis that
//! takes over from another: what was acknowledged is still so.

use crate::support::process::{Installation, Process, secret_file, until};
use crate::support::redis::RedisServer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// How long a replica may vouch for what another one has revoked.
const BOUND: Duration = Duration::from_secs(1);

struct Pair {
    installation: Arc<Installation>,
    one: Process,
    other: Process,
    _redis: RedisServer,
}

impl Pair {
    async fn start() -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
        let installation = Installation::start().await;
        let one = installation.on_redis("one", &redis.url(), "");
        let other = installation.on_redis("other", &redis.url(), "");
        // Both at once: a store is born once, whoever comes first.
        let (one, other) = tokio::join!(one.serve(), other.serve());
        Some(Self {
            installation,
            one,
            other,
            _redis: redis,
        })
    }

    async fn revoke_on_one(&self, selector: Value) {
        let answer = self.installation.revoke(&self.one, selector).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Waits until the other one says that it is dead. It may not take longer than the bound.
    async fn dies_on_the_other(&self, token: &str) {
        let begun = tokio::time::Instant::now();
        while self.installation.is_active(&self.other, token).await {
            assert!(
                begun.elapsed() < BOUND,
                "revoked, and active on another replica"
            );
        }
    }
}

fn token(issued: &Value) -> &str {
    issued["access_token"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_on_one_replica_is_dead_on_the_other() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let installation = &pair.installation;
    let here = installation.issue(&pair.one).await;
    let there = installation.issue(&pair.other).await;
    let kept = installation.issue(&pair.one).await;
    for issued in [&here, &there, &kept] {
        assert!(installation.is_active(&pair.one, token(issued)).await);
        assert!(installation.is_active(&pair.other, token(issued)).await);
    }
    for issued in [&here, &there] {
        pair.revoke_on_one(json!({ "lease": issued["lease_id"] }))
            .await;
        assert!(!installation.is_active(&pair.one, token(issued)).await);
        pair.dies_on_the_other(token(issued)).await;
    }
    assert!(installation.is_active(&pair.one, token(&kept)).await);
    assert!(installation.is_active(&pair.other, token(&kept)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_is_sent_to_both_replicas_at_once_is_granted_once() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let installation = &pair.installation;
    for _ in 0..20 {
        let form = installation.good_form();
        let (here, there) = tokio::join!(
            installation.exchange(&pair.one, &form),
            installation.exchange(&pair.other, &form)
        );
        let (here, there) = (here.unwrap(), there.unwrap());
        let (granted, refused) = if here.status == 200 {
            (here, there)
        } else {
            (there, here)
        };
        assert_eq!(granted.status, 200, "{}", granted.body);
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.reason(), "intent_spent");
    }
    let leases = installation.open_leases(&pair.one, "deploy-api").await;
    assert_eq!(leases.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_suspended_on_one_replica_gets_nothing_from_the_other() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let installation = &pair.installation;
    let held = installation.issue(&pair.other).await;
    pair.revoke_on_one(json!({ "agent": "deployer" })).await;
    pair.dies_on_the_other(token(&held)).await;
    let answer = installation
        .exchange(&pair.other, &installation.good_form())
        .await
        .unwrap();
    assert_eq!(answer.status, 400, "{}", answer.body);
    // What was refused is told to operators, not to whoever asks.
    assert_eq!(answer.reason(), "");
    let answer = installation
        .admin(&pair.other, "GET", "/agents/deployer", None)
        .await
        .unwrap();
    assert_eq!(answer.body["state"], "suspended", "{}", answer.body);

    let lifted = json!({ "selector": { "agent": "deployer" }, "reason": "it was a test" });
    let answer = installation
        .admin(&pair.other, "POST", "/lifts", Some(lifted))
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let fresh = installation.issue(&pair.other).await;
    assert!(installation.is_active(&pair.other, token(&fresh)).await);
    assert!(!installation.is_active(&pair.other, token(&held)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_rotated_on_one_replica_verify_on_the_other() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let installation = &pair.installation;
    let rotate = async |compromised: bool| {
        let body = json!({ "purpose": "access_token", "compromised": compromised });
        let answer = installation
            .admin(&pair.one, "POST", "/keys/rotate", Some(body))
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };

    // As planned: the new key is published and does not sign yet, the old one goes on.
    let old = installation.issue(&pair.one).await;
    rotate(false).await;
    for at in [&pair.one, &pair.other] {
        assert!(installation.is_active(at, token(&old)).await);
        let fresh = installation.issue(at).await;
        assert!(installation.is_active(&pair.one, token(&fresh)).await);
        assert!(installation.is_active(&pair.other, token(&fresh)).await);
    }

    // Compromised: what the old key signed is dead on both, what the new one signs is alive on both.
    let answer = rotate(true).await;
    assert_ne!(answer["removed"], json!([]));
    assert!(!installation.is_active(&pair.one, token(&old)).await);
    pair.dies_on_the_other(token(&old)).await;
    let fresh = installation.issue(&pair.one).await;
    let begun = tokio::time::Instant::now();
    while !installation.is_active(&pair.other, token(&fresh)).await {
        assert!(
            begun.elapsed() < BOUND,
            "the other replica does not know the new key"
        );
    }
    let there = installation.issue(&pair.other).await;
    assert!(installation.is_active(&pair.one, token(&there)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_issued_is_known_to_the_other_after_the_first_is_gone() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let installation = pair.installation.clone();
    let dead = installation.issue(&pair.one).await;
    let alive = installation.issue(&pair.one).await;
    pair.revoke_on_one(json!({ "lease": dead["lease_id"] }))
        .await;
    let Pair {
        one,
        other,
        _redis: redis,
        ..
    } = pair;
    one.kill();
    assert!(installation.is_active(&other, token(&alive)).await);
    let begun = tokio::time::Instant::now();
    while installation.is_active(&other, token(&dead)).await {
        assert!(begun.elapsed() < BOUND);
    }
    let answer = installation
        .revoke(&other, json!({ "lease": alive["lease_id"] }))
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!installation.is_active(&other, token(&alive)).await);
    drop(redis);
}

/// An address that leads to whichever Redis is the primary.
pub struct Switch {
    pub url: String,
    pub port: Arc<AtomicU16>,
    server: tokio::task::JoinHandle<()>,
}

impl Switch {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let port = Arc::new(AtomicU16::new(port));
        let current = port.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let port = current.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                        drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                    }
                });
            }
        });
        Self { url, port, server }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn redis_that_follows(port: u16) -> RedisServer {
    let port = port.to_string();
    let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    let follow = ["--replicaof", "127.0.0.1", &port];
    RedisServer::start(&[arguments.as_slice(), follow.as_slice()].concat())
        .unwrap()
        .unwrap()
}

pub async fn until_followed(primary: &RedisServer, by: usize) {
    until("replication", || async {
        let told = primary.command("INFO replication").unwrap_or_default();
        told.matches("state=online").count() == by
    })
    .await;
}

/// How much of the primary's history it has.
fn offset(redis: &RedisServer) -> u64 {
    let told = redis.command("INFO replication").unwrap();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("slave_repl_offset:"));
    line.unwrap().trim().parse().unwrap()
}

/// From here on none of them hears its primary.
fn deafen(followers: &[RedisServer]) {
    let nowhere = crate::support::process::free_port();
    for follower in followers {
        let told = follower.command(&format!("REPLICAOF 127.0.0.1 {nowhere}"));
        assert!(told.unwrap().starts_with("+OK"));
    }
}

/// What is answered to the revocation of what was issued.
async fn revoked(installation: &Installation, process: &Process, issued: &Value) -> u16 {
    let selector = json!({ "lease": issued["lease_id"] });
    let answer = installation.revoke(process, selector).await;
    answer.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_of_redis_nothing_that_was_acknowledged_is_forgotten() {
    let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    let Some(mut primary) = RedisServer::start(&arguments).unwrap() else {
        return;
    };
    let followers = [
        redis_that_follows(primary.port()),
        redis_that_follows(primary.port()),
    ];
    until_followed(&primary, 2).await;
    let switch = Switch::to(primary.port()).await;
    let installation = Installation::start().await;
    secret_file(&installation.folder.path().join("redis.url"), &switch.url);
    let store = r#"{ redis = "file:../redis.url", min_replicas = 1 }"#;
    let process = installation.replica("one", store, "").serve().await;
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    let spent = installation.good_form();
    let answer = installation.exchange(&process, &spent).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    for number in 0..20 {
        let issued = installation.issue(&process).await;
        if number % 2 == 0 {
            alive.push(issued);
            continue;
        }
        assert_eq!(revoked(&installation, &process, &issued).await, 200);
        dead.push(issued);
    }
    let unheard = [
        installation.issue(&process).await,
        installation.issue(&process).await,
    ];
    // Nobody follows any more: what is told from here on is lost with the primary.
    deafen(&followers);
    let mut later = Vec::new();
    for issued in unheard {
        let status = revoked(&installation, &process, &issued).await;
        later.push(status);
        if status == 200 {
            dead.push(issued);
        }
    }
    primary.kill();
    let answer = installation
        .exchange(&process, &installation.good_form())
        .await
        .unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    // Whoever acknowledged is gone as well, and puts nothing back.
    process.kill();

    // Whoever has more of the history takes over, as Sentinel would have it.
    let [one, other] = &followers;
    let (heir, left) = if offset(one) >= offset(other) {
        (one, other)
    } else {
        (other, one)
    };
    assert!(heir.command("REPLICAOF NO ONE").unwrap().starts_with("+OK"));
    switch.port.store(heir.port(), Ordering::SeqCst);
    let follow = format!("REPLICAOF 127.0.0.1 {}", heir.port());
    assert!(left.command(&follow).unwrap().starts_with("+OK"));
    until_followed(heir, 1).await;
    // It was told of nothing: what it knows it has from the store.
    let process = installation.replica("other", store, "").serve().await;
    for issued in &alive {
        assert!(installation.is_active(&process, token(issued)).await);
    }
    for issued in &dead {
        assert!(!installation.is_active(&process, token(issued)).await);
    }
    let answer = installation.exchange(&process, &spent).await.unwrap();
    assert_eq!(answer.reason(), "intent_spent", "{}", answer.body);
    let fresh = installation.issue(&process).await;
    assert!(installation.is_active(&process, token(&fresh)).await);
    assert_eq!(later, [202, 202], "nobody had heard of it");

    // Alone it acknowledges nothing to anybody.
    left.freeze();
    let answer = installation
        .exchange(&process, &installation.good_form())
        .await
        .unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
}
