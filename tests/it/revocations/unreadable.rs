//! What is remembered of one revocation is damaged: the others are told of all the same.

use super::receipts::{asked, until_confirmed};
use crate::support::broker::{Setup, TestBroker};
use crate::support::process::until;
use dayfly::clock::{Clock, SystemClock};
use dayfly::ids::{LeaseId, ShardId, draw_uuid};
use dayfly::store::embedded::Embedded;
use dayfly::store::{Index, Key, MAX_RANK, Outcome, Store, Transaction, Write};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

pub fn store() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory().unwrap())
}

pub async fn over(store: Arc<dyn Store>) -> TestBroker {
    let setup = Setup {
        store: Some(store),
        ..Setup::default()
    };
    TestBroker::with(setup).await
}

/// A record that says nothing, and its place in an index.
pub async fn write(store: &dyn Store, name: Vec<u8>, (index, member): (Index, Vec<u8>), rank: i64) {
    let (shard, key) = (
        index.shard,
        Key {
            shard: index.shard,
            name,
        },
    );
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    let transaction = Transaction::new(shard, deadline)
        .write(Write::Put {
            key,
            value: b"{".to_vec(),
            expires_at: None,
        })
        .write(Write::Rank {
            index,
            member,
            rank,
        });
    let done = store.commit(transaction).await.unwrap();
    assert!(matches!(done, Outcome::Applied { .. }), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_cannot_be_read_hides_none_behind_it() {
    let store = store();
    let broker = over(store.clone()).await;
    let waiting = Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("revocations"),
    };
    let id = draw_uuid();
    let name = [b"revocation/".as_slice(), id.as_bytes()].concat();
    let first = (waiting.clone(), id.as_bytes().to_vec());
    write(store.as_ref(), name, first, -MAX_RANK).await;
    broker.issue().await;
    assert_eq!(
        broker.revoke(json!({ "agent": "deployer" })).await.status,
        200
    );
    broker.is_confirmed("agent", "deployer", 1).await;
    // It is kept, behind the others: somebody may read it again.
    let left = store
        .range(&waiting, -MAX_RANK..=MAX_RANK, 10)
        .await
        .unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].member, id.as_bytes());
    assert!(left[0].rank > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_cannot_be_read_keeps_nobody_from_hearing_that_targets_are_overdue() {
    let store = store();
    let broker = over(store.clone()).await;
    let shard = ShardId::all().next().unwrap();
    let targets = ["a-target-of-old", "another"];
    for target in targets {
        let lease = LeaseId::draw(shard);
        let name = [b"lease/".as_slice(), lease.as_bytes()].concat();
        let member = [lease.as_bytes().as_slice(), target.as_bytes()].concat();
        let ending = Index {
            shard,
            name: Cow::Borrowed("lease-ending"),
        };
        // By the millisecond, and eleven bits more.
        let since = SystemClock::new().now() - Duration::from_secs(600);
        let rank = (since.unix_timestamp() * 1000) << 11;
        write(store.as_ref(), name, (ending, member), rank).await;
    }
    let told = async || {
        let all = broker.audited("revocation_overdue").await;
        let mut of: Vec<Value> = all.iter().map(|entry| entry["target"].clone()).collect();
        of.sort_by_key(Value::to_string);
        of
    };
    until("both are told of", || async { told().await.len() >= 2 }).await;
    // Once for as long as it lasts.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(told().await, targets);
}

/// It may be what was ended, and its credential may work.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_confirmed_while_a_lease_cannot_be_read_that_may_be_one_of_those() {
    let store = store();
    let broker = over(store.clone()).await;
    let lease = LeaseId::draw(ShardId::all().next().unwrap());
    let due = Index {
        shard: lease.shard(),
        name: Cow::Borrowed("lease-due"),
    };
    let name = [b"lease/".as_slice(), lease.as_bytes()].concat();
    // Due only in an hour: by the millisecond, and eleven bits more.
    let at = SystemClock::new().now() + Duration::from_secs(3600);
    let rank = (at.unix_timestamp() * 1000) << 11;
    let place = (due.clone(), lease.as_bytes().to_vec());
    write(store.as_ref(), name.clone(), place, rank).await;

    broker.issue().await;
    let of_all = broker.revoke(json!({ "mission": "deploy-checkout" })).await;
    let of_it = broker.revoke(json!({ "lease": lease })).await;
    for answer in [&of_all, &of_it] {
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    tokio::time::sleep(Duration::from_millis(4500)).await;
    for answer in [&of_all, &of_it] {
        let now = asked(&broker, &answer.body).await;
        assert_eq!(now["state"], "revoking", "{now}");
        assert_eq!(
            (&now["unreadable"], &now["outstanding"]),
            (&json!(1), &json!(0))
        );
    }
    let told = broker.audited("revocation_confirmed").await;
    assert!(told.is_empty(), "{told:?}");

    let key = Key {
        shard: lease.shard(),
        name,
    };
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    let gone = Transaction::new(lease.shard(), deadline)
        .write(Write::Delete(key))
        .write(Write::Unrank {
            index: due,
            member: lease.as_bytes().to_vec(),
        });
    store.commit(gone).await.unwrap();
    until_confirmed(&broker, &of_all.body).await;
    until_confirmed(&broker, &of_it.body).await;
    broker.is_confirmed("mission", "deploy-checkout", 1).await;
}
