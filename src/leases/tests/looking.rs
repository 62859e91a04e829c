use super::bench::Bench;
use crate::connectors::RevocationClass;
use crate::fences::{Dimension, DimensionKind};
use crate::leases::{Cursor, Filter, State};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_lease_is_found_by_everything_that_it_is_seen_by() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let issued = bench.issue(&bench.grant()).await.unwrap();
    let id = issued.lease.id;
    let token = issued.minted.token.unwrap().expose().clone();
    let hash: String = issued
        .lease
        .token_sha256
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for query in [
        id.to_string(),
        format!(" {token} "),
        hash,
        format!("AKIA{id}"),
    ] {
        let found = bench.leases.find(&query).await.unwrap();
        assert_eq!(found.unwrap().id, id, "{query}");
    }
    for query in ["", "AKIA", &"0".repeat(64), "dfl", "token-of-"] {
        assert_eq!(bench.leases.find(query).await.unwrap(), None, "{query}");
    }
}

#[tokio::test]
async fn a_listing_in_pages_shows_each_lease_once() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let mut all = BTreeSet::new();
    for number in 0..30 {
        let grant = bench.granted(&format!("agent-{}", number % 5));
        all.insert(bench.issue(&grant).await.unwrap().lease.id);
    }
    for limit in [1, 7, 30, 1000] {
        let mut seen = Vec::new();
        let mut cursor: Option<Cursor> = None;
        loop {
            let page = bench
                .leases
                .list(&Filter::default(), cursor.as_ref(), limit)
                .await
                .unwrap();
            assert!(page.leases.len() <= limit);
            seen.extend(page.leases.iter().map(|lease| lease.id));
            let Some(next) = page.next else { break };
            cursor = Some(next.to_string().parse().unwrap());
        }
        assert_eq!(seen.len(), 30, "limit {limit}");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

#[tokio::test]
async fn a_filter_shows_what_fits_it_all() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    let mine = bench.issue(&bench.granted("mine")).await.unwrap().lease;
    bench.issue(&bench.granted("other")).await.unwrap();
    let filter = Filter {
        agent: Some("mine".parse().unwrap()),
        state: Some(State::Active),
        ..Filter::default()
    };
    let page = bench.leases.list(&filter, None, 10).await.unwrap();
    assert_eq!(page.leases.len(), 1);
    let none = Filter {
        owner: Some("nobody@acme.example".to_owned()),
        ..filter.clone()
    };
    let page = bench.leases.list(&none, None, 10).await.unwrap();
    assert!(page.leases.is_empty());
    bench
        .leases
        .release(&mine, &bench.fences, "mine", bench.now())
        .await
        .unwrap();
    let page = bench.leases.list(&filter, None, 10).await.unwrap();
    assert!(page.leases.is_empty());
    let closed = Filter {
        closed: true,
        ..Filter::default()
    };
    let page = bench.leases.list(&closed, None, 10).await.unwrap();
    assert_eq!(page.leases.len(), 1);
    assert_eq!(page.leases[0].state, State::Released);
}

#[tokio::test]
async fn the_blast_radius_is_what_the_fence_then_hits() {
    let bench = Bench::new(RevocationClass::Broker, true).await;
    for number in 0..9 {
        let grant = bench.granted(&format!("agent-{}", number % 3));
        bench.issue(&grant).await.unwrap();
    }
    let one = bench.issue(&bench.granted("single")).await.unwrap().lease;
    for (dimension, leases, agents) in [
        (Dimension::new(DimensionKind::Agent, "agent-1"), 3, 1),
        (Dimension::new(DimensionKind::Agent, "unknown"), 0, 0),
        (
            Dimension::new(DimensionKind::Lease, one.id.to_string()),
            1,
            1,
        ),
        (
            Dimension::new(DimensionKind::Mission, "deploy-checkout"),
            10,
            4,
        ),
        (Dimension::all(), 10, 4),
    ] {
        let blast = bench.leases.count_matching(&dimension).await.unwrap();
        assert_eq!(
            (blast.leases, blast.agents.len()),
            (leases, agents),
            "{dimension:?}"
        );
    }
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    assert_eq!(bench.sweep().await.matched, 10);
    let after = bench.leases.count_matching(&Dimension::all()).await;
    assert_eq!(after.unwrap().leases, 0);
}
