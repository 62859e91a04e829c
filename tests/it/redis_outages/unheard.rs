//! What no replica has heard dies with its primary, and with everybody who knew it. So it is acknowledged to nobody:
//! a broker that is started behind that, and knows nothing but the store, finds all that was.

use super::load::{Load, on};
use super::replicas::{fences, until_replaced};
use crate::support::process::{Installation, until};
use crate::support::redis::{Cluster, Watched, free_port};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// How long the load goes on while no replica hears anything: less than sentinels wait before they mend it.
const UNHEARD: Duration = Duration::from_millis(1200);

/// Minted before, to be ended while nobody hears it.
async fn held(load: &Load) -> Vec<Value> {
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(load.issue().await);
    }
    held
}

/// Whether some of these ends was not acknowledged, while nobody heard it.
async fn some_is_refused(load: &Load, held: &[Value]) -> bool {
    let begun = Instant::now();
    let mut refused = false;
    for issued in held {
        if begun.elapsed() < UNHEARD {
            refused |= !load.try_to_end(issued).await;
        }
    }
    tokio::time::sleep(UNHEARD.saturating_sub(begun.elapsed())).await;
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_of_sentinels_throws_away_was_acknowledged_to_nobody() {
    let Some(watched) = Watched::start().unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &watched.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    let held = held(&load).await;
    watched.deafen(free_port().unwrap()).unwrap();
    let refused = some_is_refused(&load, &held).await;
    watched.servers[0].freeze();
    let told = load.abandon().await;
    until("a replica takes over", || async {
        watched.heir().is_some()
    })
    .await;
    told.holds_at_a_stranger().await;
    assert!(refused, "nobody had heard of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_of_a_cluster_throws_away_was_acknowledged_to_nobody() {
    let Some(mut cluster) = Cluster::with_replicas(1).await else {
        return;
    };
    let lost = fences(&cluster).await;
    let replica = lost + 3;
    let installation = Installation::start().await;
    let brokers = on(&installation, &cluster.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    let held = held(&load).await;
    cluster.servers[replica].freeze();
    let refused = some_is_refused(&load, &held).await;
    // With what lay in its socket, and was never read.
    cluster.servers[replica].kill();
    cluster.servers[lost].freeze();
    let told = load.abandon().await;
    cluster.servers[replica].run().unwrap();
    until_replaced(&cluster, lost).await;
    // It comes back, and follows: so there is one that must acknowledge.
    cluster.servers[lost].thaw();
    told.holds_at_a_stranger().await;
    assert!(refused, "nobody had heard of it");
}
