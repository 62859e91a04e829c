//! One configuration for all replicas: published whole, in force from one position of the log on, and
//! never by halves.

mod processes;
mod recovered;
mod refused;
mod replicas;

use crate::support::broker::{Answer, Setup, TestBroker, sha256, unique};
use crate::support::issuer::Issuer;
use crate::support::process::until;
use dayfly::broker::Reason;
use dayfly::clock::{Clock, SystemClock};
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Store, Transaction, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PUBLISHED: &str = "config = \"published\"";

fn setup(store: &Arc<dyn Store>) -> Setup {
    Setup {
        store: Some(Arc::clone(store)),
        broker: PUBLISHED.to_owned(),
        ..Setup::default()
    }
}

/// A broker whose configuration is published.
async fn start() -> (TestBroker, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    (TestBroker::with(setup(&store)).await, store)
}

/// Another replica of the same installation.
async fn beside(broker: &TestBroker, store: &Arc<dyn Store>, more: Setup) -> TestBroker {
    TestBroker::with(Setup {
        issuer: Some(broker.issuer.clone()),
        key: Some(broker.key.clone()),
        public_url: Some(broker.url.clone()),
        store: Some(Arc::clone(store)),
        broker: PUBLISHED.to_owned(),
        ..more
    })
    .await
}

/// The same with another lifetime, so that what is issued tells what decided.
fn with_ttl(broker: &TestBroker, ttl: &str) -> String {
    let text = broker
        .common
        .replace("ttl = \"10m\"", &format!("ttl = \"{ttl}\""));
    assert_ne!(text, broker.common);
    text
}

async fn published(broker: &TestBroker, text: &str) -> Value {
    let answer = broker.publish(text).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

async fn config(broker: &TestBroker) -> Value {
    broker.admin("GET", "/config", None).await.body
}

/// Hash and lifetime, in minutes, of a new lease.
async fn decided(broker: &TestBroker) -> (String, u64) {
    let issued = broker.issue().await;
    let id = issued["lease_id"].as_str().unwrap();
    let lease = broker
        .admin("GET", &format!("/leases/{id}"), None)
        .await
        .body;
    let hash = lease["config_hash"].as_str().unwrap().to_owned();
    (hash, minutes(&issued))
}

/// As it was configured: a part of a second may be gone.
fn minutes(issued: &Value) -> u64 {
    issued["expires_in"].as_u64().unwrap().div_ceil(60)
}

fn record() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"config/published".to_vec(),
    }
}

async fn write(store: &Arc<dyn Store>, write: Write) {
    let deadline = SystemClock::new().now() + Duration::from_secs(30);
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(transaction).await.unwrap();
}

async fn read(store: &Arc<dyn Store>) -> Option<Vec<u8>> {
    let found = store.get(&[record()]).await.unwrap().pop().unwrap();
    found.map(|record| record.value)
}

async fn put(store: &Arc<dyn Store>, value: Vec<u8>) {
    let put = Write::Put {
        key: record(),
        value,
        expires_at: None,
    };
    write(store, put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_decides_at_once_and_is_in_every_lease_and_the_audit_says_who_and_what_before() {
    let (broker, _) = start().await;
    let (old, lifetime) = decided(&broker).await;
    assert_eq!(lifetime, 10);
    assert_eq!(config(&broker).await["revision"], 0);
    let answer = published(&broker, &with_ttl(&broker, "4m")).await;
    assert_eq!(
        (&answer["revision"], &answer["before"]),
        (&json!(2), &json!(old))
    );
    let new = answer["hash"].as_str().unwrap();
    assert_eq!(decided(&broker).await, (new.to_owned(), 4));
    let view = config(&broker).await;
    assert_eq!(
        (&view["hash"], &view["revision"]),
        (&json!(new), &json!(2)),
        "{view}"
    );
    let page = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let entries = page["items"].as_array().unwrap();
    let loaded: Vec<_> = entries
        .iter()
        .filter(|e| e["event"] == "config_loaded")
        .collect();
    // The first one is its folder's, at its start.
    assert_eq!(loaded.len(), 2, "{page}");
    let entry = loaded[1];
    assert_eq!(entry["operator"], "development-operator", "{entry}");
    assert_eq!(
        (&entry["config_hash"], &entry["reason"]),
        (&json!(new), &json!("CHG-17"))
    );
    assert_eq!(entry["detail"]["before"], json!(old), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_is_to_publish_the_older_folder() {
    let (broker, _) = start().await;
    let first = published(&broker, &with_ttl(&broker, "4m")).await;
    let second = published(&broker, &with_ttl(&broker, "5m")).await;
    let third = published(&broker, &with_ttl(&broker, "4m")).await;
    assert_eq!(third["hash"], first["hash"]);
    assert_eq!(third["before"], second["hash"]);
    assert_eq!(
        third["revision"], 4,
        "it counts on: the folder was the first"
    );
    assert_eq!(decided(&broker).await.1, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_starts_later_has_what_was_published_and_not_its_folder() {
    let (broker, store) = start().await;
    let answer = published(&broker, &with_ttl(&broker, "4m")).await;
    let later = beside(&broker, &store, Setup::default()).await;
    let hash = answer["hash"].as_str().unwrap().to_owned();
    assert_eq!(decided(&later).await, (hash, 4));
    // And both go on together.
    let answer = published(&later, &with_ttl(&broker, "5m")).await;
    let hash = answer["hash"].as_str().unwrap().to_owned();
    until("the other has it", || async {
        config(&broker).await["hash"] == json!(hash)
    })
    .await;
    assert_eq!(decided(&broker).await, (hash, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_the_store_puts_no_configuration_in_place() {
    let (broker, store) = start().await;
    published(&broker, &with_ttl(&broker, "4m")).await;
    let older = read(&store).await.unwrap();
    let answer = published(&broker, &with_ttl(&broker, "5m")).await;
    let good = read(&store).await.unwrap();
    let hash = answer["hash"].as_str().unwrap().to_owned();

    // One bit of what it allows.
    let text = b"deploy:write";
    let at = good
        .windows(text.len())
        .position(|part| part == text)
        .unwrap();
    let mut changed = good.clone();
    changed[at] ^= 1;
    let (url, issuer) = (broker.url.clone(), broker.issuer.clone());
    let alone = Stopped {
        url,
        issuer,
        key: broker.key.clone(),
    };
    drop(broker);
    tokio::time::sleep(Duration::from_millis(100)).await;
    put(&store, changed).await;
    assert!(alone.says(&store).await.contains("was changed"));
    // An older one, whole and well authenticated.
    put(&store, older).await;
    assert!(alone.says(&store).await.contains("the log wants"));
    // None at all.
    write(&store, Write::Delete(record())).await;
    assert!(alone.says(&store).await.contains("not in the store"));
    put(&store, good).await;
    let again = TestBroker::with(alone.setup(&store)).await;
    assert_eq!(decided(&again).await, (hash, 5));
}

/// What a replica that was stopped is started with again.
struct Stopped {
    url: String,
    issuer: Arc<Issuer>,
    key: dayfly::jose::SigningKey,
}

impl Stopped {
    fn setup(&self, store: &Arc<dyn Store>) -> Setup {
        Setup {
            issuer: Some(self.issuer.clone()),
            key: Some(self.key.clone()),
            public_url: Some(self.url.clone()),
            ..setup(store)
        }
    }

    async fn says(&self, store: &Arc<dyn Store>) -> String {
        let setup = self.setup(store);
        let started = tokio::spawn(async move { drop(TestBroker::with(setup).await) }).await;
        let panic = started.expect_err("it must not start").into_panic();
        panic.downcast_ref::<String>().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_url_does_not_take_it_over() {
    let (broker, store) = start().await;
    published(&broker, &with_ttl(&broker, "4m")).await;
    let mut other = Stopped {
        url: "http://127.0.0.1:1".to_owned(),
        issuer: broker.issuer.clone(),
        key: broker.key.clone(),
    };
    assert!(other.says(&store).await.contains("it is for"));
    other.url.clone_from(&broker.url);
    assert_eq!(TestBroker::with(other.setup(&store)).await.url, broker.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_failover_lost_is_put_back_by_who_holds_it() {
    let (broker, store) = start().await;
    published(&broker, &with_ttl(&broker, "4m")).await;
    let older = read(&store).await.unwrap();
    published(&broker, &with_ttl(&broker, "5m")).await;
    let good = read(&store).await.unwrap();
    write(&store, Write::Delete(record())).await;
    until("it is back", || async {
        read(&store).await.as_ref() == Some(&good)
    })
    .await;
    put(&store, older).await;
    until("it is back", || async {
        read(&store).await.as_ref() == Some(&good)
    })
    .await;
    put(&store, b"what nobody signed".to_vec()).await;
    until("it is back", || async {
        read(&store).await.as_ref() == Some(&good)
    })
    .await;
}

/// Wall time is the machine's; the time since boot is, too, and what a test adds.
#[derive(Debug, Default)]
struct Boot(AtomicU64);

impl Clock for Boot {
    fn now(&self) -> time::OffsetDateTime {
        SystemClock::new().now()
    }

    fn since_boot(&self) -> Duration {
        SystemClock::new().since_boot() + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// `broker`'s configuration, with a secret that lies beside the first replica alone.
fn with_secret(broker: &TestBroker) -> String {
    let name = "gateway.secret";
    std::fs::write(broker.folder.path().join(name), unique()).unwrap();
    let more = "\n[resource_server.gateway]\nsecret = \"file:gateway.secret\"\naudiences = [\"deploy-api\"]\n";
    with_ttl(broker, "4m") + more
}

fn lift() -> Value {
    json!({ "selector": { "task": "a task" }, "reason": "a test says so" })
}

/// No operator is given anything here, and all could be elsewhere.
async fn assert_gives_nothing(broker: &TestBroker) {
    let publication = Some(broker.publication());
    let invitation = Some(json!({ "note": "a test" }));
    for (path, body) in [
        ("/lifts", Some(lift())),
        ("/config", publication),
        ("/agents/deployer/invitations", invitation),
        ("/keys/rotate", Some(json!({ "purpose": "checkpoint" }))),
    ] {
        let answer = broker.admin("POST", path, body).await;
        let told = (answer.status, answer.error());
        assert_eq!(told, (503, "temporarily_unavailable"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_take_it_over_keeps_all_it_had_says_so_and_in_the_end_mints_nothing()
{
    let (broker, store) = start().await;
    let clock = Arc::new(Boot::default());
    let more = Setup {
        clock: clock.clone(),
        ..Setup::default()
    };
    let poor = beside(&broker, &store, more).await;
    let (old, _) = decided(&poor).await;
    let answer = published(&broker, &with_secret(&broker)).await;
    let new = answer["hash"].as_str().unwrap().to_owned();
    assert_eq!(decided(&broker).await, (new.clone(), 4));
    until("it says so", || async {
        config(&poor).await["behind"].is_string()
    })
    .await;
    let why = config(&poor).await["behind"].as_str().unwrap().to_owned();
    assert!(why.contains("gateway.secret"), "{why}");
    assert_eq!(poor.composed.broker.ready().await, Err(vec![why]));
    // Whole: what it had, and nothing of the new one.
    assert_eq!(decided(&poor).await, (old, 10));
    let token = poor.issue().await["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    clock.0.store(31, Ordering::SeqCst);
    let refused = || async {
        let answer = poor.exchange(&poor.good_form()).await;
        (
            answer.status,
            answer.reason().to_owned(),
            answer.error().to_owned(),
        )
    };
    let told = (503, String::new(), "temporarily_unavailable".to_owned());
    until("it mints nothing more", || async {
        refused().await == told
    })
    .await;
    until("it vouches and revokes all the same", || async {
        poor.introspect(&token).await.status == 200
    })
    .await;
    assert!(poor.is_active(&token).await);
    let answer: Answer = poor.revoke(json!({ "task": unique() })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // What it had says who may, and is not in force.
    assert_gives_nothing(&poor).await;
    // Nor does anything turn by itself by what it had.
    let governed = poor.composed.broker.govern().await.unwrap_err();
    assert_eq!(governed.reason, Reason::StaleConfiguration);
    let lifted = broker.admin("POST", "/lifts", Some(lift())).await;
    assert_ne!(lifted.status, 503, "{}", lifted.body);
    // What it lacked comes, and it is one of them.
    std::fs::write(poor.folder.path().join("gateway.secret"), unique()).unwrap();
    until("it has it", || async {
        config(&poor).await["hash"] == json!(new)
    })
    .await;
    assert_eq!(decided(&poor).await, (new, 4));
    assert_eq!(poor.composed.broker.ready().await, Ok(()));
    assert_eq!(Reason::StaleConfiguration.code(), "stale_configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reads_secrets_again_and_leaves_what_was_published() {
    let (broker, _) = start().await;
    published(&broker, &with_ttl(&broker, "4m")).await;
    let secret = broker.folder.path().join("server.secret");
    std::fs::write(secret, "another-secret-of-the-server").unwrap();
    let files = vec![("test.toml".to_owned(), broker_file(&broker))];
    let settings = dayfly::config::load_with(files, broker.folder.path().to_owned())
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"));
    let token = broker.issue().await["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(broker.is_active(&token).await);
    broker.composed.reload(&settings).await.unwrap();
    assert_eq!(
        broker.introspect(&token).await.status,
        401,
        "the old secret is gone"
    );
    assert_eq!(decided(&broker).await.1, 4);
}

/// `[broker]` alone, as a replica's folder has it once everything else is published.
fn broker_file(broker: &TestBroker) -> String {
    format!(
        "[broker]\nurl = \"{}\"\n{PUBLISHED}\nstore = {{ embedded = \"unused.redb\" }}\n\
         keys = {{ sealing = [\"file:sealing.key\"] }}\naudit = {{ path = \"audit\" }}\n",
        broker.url
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_is_the_files_and_of_no_replica() {
    let (one, _) = start().await;
    let text = with_ttl(&one, "4m");
    let hash = published(&one, &text).await["hash"].clone();
    let again = published(&one, &text).await["hash"].clone();
    assert_eq!(hash, again);
    let other = published(&one, &(text + "\n# a remark\n")).await["hash"].clone();
    assert_ne!(hash, other, "every byte counts");
    assert_eq!(hash.as_str().unwrap().len(), 2 * sha256(b"").len());
}
