//! A cluster whose nodes have replicas, and `min_replicas = 1`: one of them takes over under the brokers.

use super::load::{Load, on, token};
use crate::support::process::{Installation, until};
use crate::support::redis::{Cluster, RedisServer};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Of shard 255: without its node nothing is minted anywhere.
pub async fn fences(cluster: &Cluster) -> usize {
    let told = cluster.servers[0].command("CLUSTER KEYSLOT {d255}b");
    let told = told.unwrap();
    Cluster::owner(told.trim_start_matches(':').trim().parse().unwrap())
}

/// One of those that followed it has its place, and the other one follows it.
pub async fn until_replaced(cluster: &Cluster, lost: usize) {
    until("a replica takes over", || async {
        cluster.replicas_of(lost).any(RedisServer::is_primary)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_is_killed_and_its_replica_has_all_that_was_acknowledged() {
    let Some(mut cluster) = Cluster::with_replicas(2).await else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &cluster.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    for lost in 0..3 {
        cluster.servers[lost].kill();
        until_replaced(&cluster, lost).await;
        load.until_minted(20).await;
        // It follows whoever has its place now.
        cluster.servers[lost].run().unwrap();
        until("it follows", || async {
            !cluster.servers[lost].is_primary()
        })
        .await;
        load.until_minted(5).await;
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_that_was_only_paused_is_not_believed_when_it_wakes_up() {
    let Some(cluster) = Cluster::with_replicas(2).await else {
        return;
    };
    let lost = fences(&cluster).await;
    let installation = Installation::start().await;
    let brokers = on(&installation, &cluster.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    cluster.servers[lost].freeze();
    until_replaced(&cluster, lost).await;
    load.until_minted(20).await;
    cluster.servers[lost].thaw();
    load.until_minted(40).await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_replica_of_a_node_has_is_not_acknowledged_on_a_cluster_either() {
    let Some(cluster) = Cluster::with_replicas(1).await else {
        return;
    };
    let node = fences(&cluster).await;
    let installation = Installation::start().await;
    let [one, other] = on(&installation, &cluster.url(), 1).await.processes;
    let issued = installation.issue(&one).await;
    let held = token(&issued);
    assert!(installation.is_active(&other, &held).await);
    cluster.replicas_of(node).for_each(RedisServer::freeze);
    let selector = json!({ "lease": issued["lease_id"] });
    let answer = installation.revoke(&one, selector.clone()).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["state"], "not_yet_replicated");
    let refused = installation.exchange(&one, &installation.good_form()).await;
    assert_eq!(refused.unwrap().status, 503);
    // Whoever said so knows it still, and has a replica hear it.
    cluster.replicas_of(node).for_each(RedisServer::thaw);
    let path = format!("/revocations/{}", answer.body["id"].as_str().unwrap());
    until("confirmed", || async {
        let told = installation.admin(&one, "GET", &path, None).await.unwrap();
        told.body["state"] == "confirmed"
    })
    .await;
    one.kill();
    until("readiness", || other.is_ready()).await;
    let begun = Instant::now();
    while installation.is_active(&other, &held).await {
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
