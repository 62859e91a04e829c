//! Introspection remembers the lease of a live credential, and never what it is worth.

use crate::support::broker::{Setup, TestBroker, form};
use crate::support::time::Manual;
use async_trait::async_trait;
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Record, Store, StoreError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The embedded store, which counts reads of leases and may have lost them all.
#[derive(Debug)]
struct Counting {
    store: Embedded,
    reads: AtomicUsize,
    lost: AtomicBool,
}

impl Counting {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Embedded::in_memory().unwrap(),
            reads: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        })
    }

    /// Reads of one lease by its id, since the last call.
    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl dayfly::store::Over for Counting {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let lease = |key: &Key| key.name.starts_with(b"lease/") && keys.len() == 1;
        if keys.iter().any(lease) {
            self.reads.fetch_add(1, Ordering::SeqCst);
            if self.lost.load(Ordering::SeqCst) {
                return Ok(vec![None]);
            }
        }
        self.store.get(keys).await
    }
}

async fn over(store: Arc<Counting>) -> TestBroker {
    TestBroker::with(Setup {
        store: Some(store),
        ..Setup::default()
    })
    .await
}

fn token(issued: &Value) -> String {
    issued["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_token_is_read_from_the_store_once_and_an_unknown_one_each_time() {
    let store = Counting::new();
    let broker = over(store.clone()).await;
    let token = token(&broker.issue().await);
    store.reads();
    for _ in 0..10 {
        assert!(broker.is_active(&token).await);
    }
    assert_eq!(store.reads(), 1);
    // Nobody fills the memory with what is not alive: it is looked up, if it could be ours at all.
    let changed = format!(
        "dayflyh_{}",
        dayfly::ids::LeaseId::draw(ShardId::INSTALLATION)
    );
    for token in ["x", changed.as_str()] {
        assert!(!broker.is_active(token).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_token_is_dead_with_the_answer_of_whatever_ends_it() {
    let broker = over(Counting::new()).await;
    let kill =
        |selector: Value| json!({ "selector": selector, "reason": "a test", "kill_only": true });
    for selector in [
        json!({ "agent": "deployer" }),
        json!({ "mission": "deploy-checkout" }),
        json!({ "target": "deploy-api" }),
        json!("all"),
    ] {
        let token = token(&broker.issue().await);
        assert!(broker.is_active(&token).await);
        let body = Some(kill(selector.clone()));
        assert_eq!(broker.admin("POST", "/revocations", body).await.status, 200);
        assert!(!broker.is_active(&token).await, "{selector}");
    }
    let issued = broker.issue().await;
    assert!(broker.is_active(&token(&issued)).await);
    broker.revoke(json!({ "lease": issued["lease_id"] })).await;
    assert!(!broker.is_active(&token(&issued)).await, "revoked");

    let released = token(&broker.issue().await);
    assert!(broker.is_active(&released).await);
    broker.post("/revoke", &form(&[("token", &released)])).await;
    assert!(!broker.is_active(&released).await, "released");

    let restricted = token(&broker.issue().await);
    assert!(broker.is_active(&restricted).await);
    let body = json!({
        "target": "deploy-api", "actions": ["deploy:write"], "reason": "a test", "end_leases": true,
    });
    broker.admin("POST", "/restrictions", Some(body)).await;
    assert!(!broker.is_active(&restricted).await, "restricted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_token_is_dead_with_the_key_that_signed_it() {
    let broker = over(Counting::new()).await;
    let token = token(&broker.issue().await);
    assert!(broker.is_active(&token).await);
    let body = json!({ "purpose": "access_token", "compromised": true });
    let rotated = broker.admin("POST", "/keys/rotate", Some(body)).await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    assert!(!broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_token_expires_to_the_second() {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    let token = token(&broker.issue().await);
    clock.advance(Duration::from_secs(10 * 60 - 2));
    assert!(broker.is_active(&token).await);
    clock.advance(Duration::from_secs(2));
    assert!(!broker.is_active(&token).await);
}

/// What was killed at another replica is dead here within the bound of the view.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_replica_remembers_is_killed_at_another() {
    let store = Counting::new();
    let first = over(store.clone()).await;
    let second = TestBroker::with(Setup {
        store: Some(store),
        public_url: Some(first.url.clone()),
        issuer: Some(first.issuer.clone()),
        key: Some(first.key.clone()),
        ..Setup::default()
    })
    .await;
    let token = token(&first.issue().await);
    assert!(second.is_active(&token).await);
    first.revoke(json!({ "agent": "deployer" })).await;
    let begun = tokio::time::Instant::now();
    while second.is_active(&token).await {
        assert!(begun.elapsed() < Duration::from_millis(1500));
    }
}

/// Another audience is another question.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_remembered_for_one_resource_server_is_told_to_no_other() {
    let broker = TestBroker::with(Setup {
        more: "[resource_server.other]\nsecret = \"file:server.secret\"\naudiences = [\"elsewhere\"]\n"
            .to_owned(),
        ..Setup::default()
    })
    .await;
    let token = token(&broker.issue().await);
    assert!(broker.is_active(&token).await);
    let request = broker.http.post(format!("{}/introspect", broker.url));
    let request = request
        .basic_auth("other", Some(crate::support::broker::SERVER_SECRET))
        .form(&[("token", &token)]);
    let told: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(told, json!({ "active": false }));
}

/// State loss kills tokens. The fences tell of a lost fence log; of a lost lease, the next look.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_the_store_lost_is_dead_after_ten_seconds() {
    let store = Counting::new();
    let broker = over(store.clone()).await;
    let token = token(&broker.issue().await);
    assert!(broker.is_active(&token).await);
    store.lost.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    // Asking does not lengthen it.
    while broker.is_active(&token).await {
        assert!(begun.elapsed() < Duration::from_secs(13));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
