//! Leases whose platform can be asked whether what they hang on is over.

use super::bench::Bench;
use crate::connectors::{Connector as _, RevocationClass};
use crate::fences::DimensionKind;
use crate::identity::Facts;
use crate::ids::LeaseId;
use crate::leases::look::PAGE;
use crate::leases::{Issued, ReadTo};
use crate::policy::Grant;
use serde_json::json;
use std::time::Duration;

fn facts() -> Facts {
    let facts = json!({ "pipeline.run_id": 77, "pipeline.repository": "acme/checkout" });
    facts.as_object().unwrap().clone().into_iter().collect()
}

/// All of the lease's shard that were made from a moment on.
async fn watched(bench: &Bench, like: &LeaseId, from: ReadTo) -> Vec<LeaseId> {
    let page = bench.leases.watched(like.shard(), &from, |_| false).await;
    let page = page.unwrap();
    assert!(page.next.is_none());
    let read: Vec<_> = page.leases.iter().map(|lease| lease.id).collect();
    assert_eq!(read, page.found);
    for lease in page.leases {
        assert_eq!(lease.asked_by, facts());
    }
    read
}

async fn issued(bench: &Bench) -> LeaseId {
    let (grant, now) = (bench.grant(), bench.now());
    let draft = bench.leases.draft(&grant, &bench.downstream.promises, now);
    let draft = draft.asked_by(facts());
    let reserved = bench.leases.reserve(draft, &grant, now).await.unwrap();
    let id = reserved.lease().id;
    assert!(watched(bench, &id, ReadTo::default()).await.contains(&id));
    let minted = bench.downstream.mint(&grant, reserved.context(now)).await;
    let view = bench.fences.fresh().unwrap();
    let activated = bench.leases.activate(reserved, minted.unwrap(), &view, now);
    let Issued { lease, .. } = activated.await.unwrap();
    assert_eq!(bench.again(&lease).await.asked_by, facts());
    id
}

#[tokio::test]
async fn a_lease_is_watched_for_as_long_as_it_lives_and_keeps_what_it_is_asked_about_by() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let other = bench.issued().await;
    assert!(other.asked_by.is_empty());
    let first = issued(&bench).await;
    bench.later(5);
    let between = bench.now();
    let second = issued(&bench).await;
    let all = ReadTo::default;
    assert_eq!(watched(&bench, &first, all()).await, [first, second]);
    let since = ReadTo::at(between - Duration::from_secs(1));
    assert_eq!(watched(&bench, &first, since).await, [second]);
    let from = all();
    let page = bench
        .leases
        .watched(first.shard(), &from, |id| *id == first);
    let page = page.await.unwrap();
    assert_eq!(page.found, [first, second]);
    assert_eq!(page.leases.len(), 1, "what is skipped is not read");
    bench.kill(DimensionKind::Lease, &first.to_string()).await;
    bench.sweep().await;
    assert_eq!(watched(&bench, &first, all()).await, [second]);
    bench.later(100_000);
    bench.sweep().await;
    assert!(watched(&bench, &first, all()).await.is_empty(), "expired");
}

#[tokio::test]
async fn what_is_watched_is_read_on_page_by_page_to_its_end() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let mut made = Vec::new();
    for _ in 0..2 * PAGE + 3 {
        let now = bench.now();
        let grant = Grant::for_tests().agent("deployer").max_active(1000);
        let grant = grant.now(now).build();
        let draft = bench.leases.draft(&grant, &bench.downstream.promises, now);
        let draft = draft.asked_by(facts());
        let reserved = bench.leases.reserve(draft, &grant, now).await.unwrap();
        made.push(reserved.lease().id);
    }
    let (mut after, mut pages, mut read) = (ReadTo::default(), 0, Vec::new());
    loop {
        let page = bench.leases.watched(made[0].shard(), &after, |_| false);
        let page = page.await.unwrap();
        pages += 1;
        read.extend(page.leases.iter().map(|lease| lease.id));
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(pages, 3);
    // Of one millisecond in no order of their own.
    read.sort();
    made.sort();
    assert_eq!(read, made);
}
