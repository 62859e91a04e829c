//! Going on where a stream broke off.

use super::{Stream, as_operator, as_server, names, start};
use crate::support::broker::{Setup, TestBroker};
use crate::support::world::key;
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Log, Store, Transaction, Write};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn from_each_event_on_the_rest_is_told_once_and_in_order() {
    let broker = start().await;
    let mut stream = Stream::open(as_server(&broker)).await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(broker.issue().await["lease_id"].clone());
    }
    for lease in &leases {
        broker.revoke(json!({ "lease": lease })).await;
    }
    let mut whole = Vec::new();
    while whole
        .iter()
        .filter(|told: &&super::Told| told.name == "revoked")
        .count()
        < leases.len()
    {
        whole.push(stream.next().await);
    }
    assert_eq!(
        whole.iter().filter(|told| told.name == "issued").count(),
        leases.len()
    );
    let ids: BTreeSet<_> = whole.iter().map(|told| &told.id).collect();
    assert_eq!(ids.len(), whole.len(), "each has an id of its own");
    for (place, last) in whole.iter().enumerate() {
        let mut stream = Stream::open(as_server(&broker).header("last-event-id", &last.id)).await;
        let mut rest = Vec::new();
        while rest.len() < whole.len() - place - 1 {
            rest.push(stream.next().await);
        }
        for lease in &leases {
            let of = |told: &[super::Told]| {
                let own = told.iter().filter(|told| told.is_about(lease));
                own.map(|told| (told.name.clone(), told.data.clone()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(of(&rest), of(&whole[place + 1..]), "after {place}");
        }
    }
}

/// An id says where to go on. Who asks decides what is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_id_shows_a_resource_server_its_own_alone() {
    let broker = start().await;
    let mut operator = Stream::open(as_operator(&broker, "")).await;
    broker.issue().await;
    let id = operator.next().await.id;
    let theirs = super::issue_key(&broker).await;
    let mine = broker.issue().await;
    let mut stream = Stream::open(as_server(&broker).header("last-event-id", id)).await;
    let told = stream.next().await;
    assert!(told.is_about(&mine["lease_id"]) && !told.is_about(&theirs["lease_id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_not_ours_begins_with_a_gap_and_the_oldest_there_is() {
    let broker = start().await;
    let lease = broker.issue().await["lease_id"].clone();
    let mut stream = Stream::open(as_operator(&broker, "")).await;
    broker.issue().await;
    let own = stream.next().await.id;
    let mut forged = own.clone();
    let at = forged.len() / 2;
    let other = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    for id in [forged.as_str(), "AAAA", "not an id", &"A".repeat(20_000)] {
        let mut stream = Stream::open(as_server(&broker).header("last-event-id", id)).await;
        let gap = stream.next().await;
        assert_eq!(
            (gap.name.as_str(), gap.data),
            ("gap", json!({ "why": "unknown_id" }))
        );
        let told = stream.until(|told| told.is_about(&lease)).await;
        assert_eq!(names(&told)[0], "issued");
    }
    let mut stream = Stream::open(as_server(&broker).header("last-event-id", "")).await;
    broker.issue().await;
    assert_eq!(stream.next().await.name, "issued", "no id is now");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_meanwhile_is_a_gap() {
    let store = Arc::new(Embedded::in_memory().unwrap());
    let more = super::servers(&key());
    let broker = TestBroker::with(Setup {
        store: Some(store.clone()),
        more: more.clone(),
        ..Setup::default()
    })
    .await;
    let mut stream = Stream::open(as_server(&broker)).await;
    let lease = broker.issue().await["lease_id"].clone();
    let id = stream.next().await.id;
    drop(stream);
    for _ in 0..3 {
        broker.issue().await;
    }
    let shard = lease
        .as_str()
        .unwrap()
        .parse::<dayfly::ids::LeaseId>()
        .unwrap()
        .shard();
    trim(store.as_ref(), shard, broker.composed.clock.now()).await;
    // A reader that begins now finds it gone.
    let again = super::beside(&broker, store, more).await;
    let mut stream = Stream::open(as_server(&again).header("last-event-id", id)).await;
    let gap = stream.next().await;
    assert_eq!(
        (gap.name.as_str(), gap.data),
        ("gap", json!({ "why": "lost" }))
    );
    let issued = again.issue().await;
    assert!(stream.next().await.is_about(&issued["lease_id"]));
}

/// Everything that the shard's audit holds now.
async fn trim(store: &dyn Store, shard: ShardId, now: time::OffsetDateTime) {
    let log = Log {
        shard,
        name: "audit",
    };
    let deadline = now + time::Duration::seconds(60);
    let trim = Write::Trim { log, through: 4 };
    let transaction = Transaction::new(shard, deadline).write(trim);
    store.commit(transaction).await.unwrap();
}
