//! Two replicas on one Redis: what one of them is told, the other one acts on.

use crate::support::process::{Installation, Process};
use crate::support::redis::RedisServer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

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
