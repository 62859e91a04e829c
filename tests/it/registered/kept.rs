//! The record of the store: another one is never believed, and none is ever begun anew.

use super::{MISSIONS, ask, definition, memory, put, registered, remove, setup, start, token, two};
use crate::support::broker::{Setup, TestBroker};
use crate::support::process::{secret_file, until};
use crate::support::world::{assert_refused, key};
use dayfly::broker::{Operator, Reason, Role};
use dayfly::cli::compose::Composed;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ids::ShardId;
use dayfly::secret::{Sealer, Secret};
use dayfly::store::{Key, Store, Transaction, Write};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn record() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"registered/agents".to_vec(),
    }
}

pub(super) async fn read(store: &Arc<dyn Store>) -> Vec<u8> {
    let found = store.get(&[record()]).await.unwrap().pop().unwrap();
    found.unwrap().value
}

pub(super) async fn write(store: &Arc<dyn Store>, value: Option<Vec<u8>>) {
    let write = match value {
        Some(value) => Write::Put {
            key: record(),
            value,
            expires_at: None,
        },
        None => Write::Delete(record()),
    };
    let deadline = SystemClock::new().now() + Duration::from_secs(30);
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(transaction).await.unwrap();
}

/// A broker that begins on this store, ready or not.
async fn begins(store: &Arc<dyn Store>, sealing: &[u8]) -> (Composed, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for byte in sealing {
        let name = format!("sealing-{byte}.key");
        let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [*byte; 32]);
        secret_file(&folder.path().join(&name), &key);
        keys.push(format!("\"file:{name}\""));
    }
    let keys = keys.join(", ");
    let text = format!(
        "[broker]\nurl = \"http://127.0.0.1:1\"\nstore = {{ embedded = \"x.redb\" }}\n\
         keys = {{ sealing = [{keys}] }}\n{MISSIONS}\n\
         [target.deploy-api]\nkind = \"access_token\"\n\
         ceiling = {{ actions = [\"deploy:*\"], locations = [\"https://deploy.example/*\"] }}\n"
    );
    let files = vec![("dayfly.toml".to_owned(), text)];
    let settings = dayfly::config::load_with(files, folder.path().to_owned())
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"));
    let clock = Arc::new(SystemClock::new());
    let composed = Composed::over(Arc::clone(store), &settings, clock, Vec::new());
    (composed.await.unwrap(), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_finds_another_record_refuses_until_the_one_that_is_named_is_there() {
    let (one, store) = start().await;
    let key = key();
    registered(&one, "night-worker", &definition(&key)).await;
    let older = read(&store).await;
    remove(&one, "night-worker").await;
    let good = read(&store).await;
    drop(one);
    let mut changed = good.clone();
    changed[40] ^= 1;
    for wrong in [Some(older), Some(changed), None] {
        write(&store, wrong.clone()).await;
        let (late, _folder) = begins(&store, &[7]).await;
        for _ in 0..50 {
            let why = late.broker.ready().await.unwrap_err().join("; ");
            if why.contains("registered agents") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let why = late.broker.ready().await.unwrap_err().join("; ");
        assert!(why.contains("registered agents"), "{why}");
        let by = Operator {
            subject: None,
            name: "octavia".to_owned(),
            role: Role::Admin,
            break_glass: false,
        };
        let request = json!({ "agent": definition(&key), "reason": "a test says so" });
        let request = serde_json::from_value(request).unwrap();
        let refused = late.broker.register(&by, "other".parse().unwrap(), request);
        assert_eq!(
            refused.await.unwrap_err().reason,
            Reason::StaleConfiguration,
            "nothing begins anew"
        );
        // Whoever had it puts it back, and nothing was wrong with this replica.
        write(&store, Some(good.clone())).await;
        until("it is ready", || async {
            late.broker.ready().await.is_ok()
        })
        .await;
        assert_eq!(late.broker.agents().await.unwrap().items.len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_failover_lost_is_put_back_by_whoever_holds_it() {
    let (one, other, store) = two().await;
    let key = key();
    registered(&one, "night-worker", &definition(&key)).await;
    until("the other has it", || async {
        ask(&other, "night-worker", &key).await.status == 200
    })
    .await;
    let good = read(&store).await;
    write(&store, None).await;
    until("it is there again", || async {
        store
            .get(&[record()])
            .await
            .unwrap()
            .pop()
            .unwrap()
            .is_some()
    })
    .await;
    assert_eq!(read(&store).await, good);
    // What an agent that was removed stood in is not put back over what counts.
    remove(&one, "night-worker").await;
    let counts = read(&store).await;
    write(&store, Some(good)).await;
    until("what counts is there again", || async {
        read(&store).await == counts
    })
    .await;
    let refused = ask(&one, "night-worker", &key).await;
    assert_refused(&refused, Reason::InvalidClient, "removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_last_copy_of_a_record_that_the_store_lost() {
    let (one, store) = start().await;
    let key = key();
    registered(&one, "night-worker", &definition(&key)).await;
    token(&one, "night-worker", &key).await;
    let good = read(&store).await;
    write(&store, None).await;
    let settings = super::apart::settings(&one, MISSIONS);
    one.composed.reload(&settings).await.unwrap();
    token(&one, "night-worker", &key).await;
    until("it is there again", || async {
        let found = store.get(&[record()]).await.unwrap().pop().unwrap();
        found.is_some_and(|found| found.value == good)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealing_key_that_is_to_go_is_not_needed_for_the_record_any_more() {
    let store = memory();
    let one = TestBroker::with(setup(&store)).await;
    let key = key();
    registered(&one, "night-worker", &definition(&key)).await;
    let before = read(&store).await;
    drop(one);
    // The new one first, and the old one for as long as something is under it.
    let _other = begins(&store, &[9, 7]).await;
    until("it is sealed anew", || async {
        read(&store).await != before
    })
    .await;
    let sealer = |byte: u8| {
        let key = Secret::new(vec![byte; 32]);
        Sealer::new(&[key]).unwrap()
    };
    let now = read(&store).await;
    let purpose = "registered agents";
    assert!(sealer(9).without_mac(purpose, &now).is_some());
    assert!(sealer(7).without_mac(purpose, &now).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_read_with_whoever_is_registered_and_whom_they_do_not_let_be_gets_nothing() {
    let store = memory();
    let published = Setup {
        broker: "config = \"published\"".to_owned(),
        ..setup(&store)
    };
    let one = TestBroker::with(published).await;
    let key = key();
    registered(&one, "night-worker", &definition(&key)).await;
    let longer = one.common.replace("ttl = \"10m\"", "ttl = \"9m\"");
    assert_eq!(one.publish(&longer).await.status, 200);
    token(&one, "night-worker", &key).await;
    let off = one.common.replace(
        "agents           = []\nallow_registered = true",
        "agents = [\"deployer\"]",
    );
    assert_ne!(off, one.common);
    assert_eq!(one.publish(&off).await.status, 200);
    let refused = ask(&one, "night-worker", &key).await;
    assert_refused(&refused, Reason::InvalidClient, "no mission lets it join");
    let shown = one.admin("GET", "/agents/night-worker", None).await.body;
    assert_eq!(shown["state"], "inert", "{shown}");
    let code = &shown["registered"]["problems"][0]["code"];
    assert_eq!(code, "unknown_mission", "{shown}");
    let answer = put(&one, "other", &definition(&super::key())).await;
    assert_refused(&answer, Reason::AgentRefused, "nobody may be");
    one.issue().await;
    assert_eq!(one.publish(&one.common).await.status, 200);
    token(&one, "night-worker", &key).await;
}
