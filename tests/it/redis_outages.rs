//! Redis fails while credentials are minted and revoked. Whatever happens to it: no acknowledged
//! revocation is lost, no dead token is vouched for after the bound, minting resumes by itself.

mod backups;
mod links;
mod load;
mod replicas;
mod sentinels;
mod thawed;
mod unheard;
mod valkey;
mod versions;

use crate::support::network::Network;
use crate::support::process::Installation;
use crate::support::process::until;
use crate::support::redis::{Cluster, RedisServer, Watched};
use load::{BOUND, Load, on, token};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// The primary is replaced, wakes up and takes itself for the primary; brokers mint before and after.
async fn freeze_and_thaw(watched: &Watched, load: &Load) {
    watched.servers[0].freeze();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.until_minted(20).await;
    watched.servers[0].thaw();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.until_minted(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_is_replaced_by_sentinels_under_load() {
    let Some(watched) = Watched::start().unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &watched.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    freeze_and_thaw(&watched, &load).await;
    load.finish().await;
}

/// A slot of this server that holds something.
async fn slot_with_keys(server: &RedisServer) -> u16 {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key: Vec<u8> = redis::cmd("RANDOMKEY")
        .query_async(&mut connection)
        .await
        .unwrap();
    let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).to_owned();
    slot.query_async(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_each_node_once_and_moves_a_slot_loses_nothing() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &cluster.url(), 0).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    let slot = slot_with_keys(&cluster.servers[0]).await;
    cluster.move_slot(slot, 0, 1).await;
    load.until_minted(20).await;
    for lost in 0..cluster.servers.len() {
        cluster.servers[lost].kill();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.servers[lost].run().unwrap();
        load.until_minted(20).await;
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_while_a_node_of_a_cluster_is_away_is_confirmed_once_it_is_back() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let installation = Installation::start().await;
    let [one, other] = on(&installation, &cluster.url(), 0).await.processes;
    installation.issue(&one).await;
    let lost = (replicas::fences(&cluster).await + 1) % 3;
    cluster.servers[lost].kill();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mission = json!({ "mission": "deploy-checkout" });
    let answer = installation.revoke(&one, mission).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["state"], "revoking");
    assert!(answer.body.get("leases").is_none(), "{}", answer.body);
    let path = format!("/revocations/{}", answer.body["id"].as_str().unwrap());
    cluster.servers[lost].run().unwrap();
    // Another one knows no more than what was written down.
    one.kill();
    until("confirmed", || async {
        let asked = installation.admin(&other, "GET", &path, None).await;
        asked.is_ok_and(|told| told.body["state"] == "confirmed")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_comes_back_with_all_it_acknowledged() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut redis) = RedisServer::start(&durable).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &redis.url(), 0).await;
    let load = Load::start(installation, brokers);
    for _ in 0..2 {
        load.until_minted(20).await;
        redis.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.run().unwrap();
    }
    load.until_minted(20).await;
    // Once more, and nobody is left who knew.
    redis.kill();
    let told = load.abandon().await;
    redis.run().unwrap();
    told.holds_at_a_stranger().await;
}

/// Snapshots only: what came after the last one is gone. The broker that was told of the revocations
/// still knows them, and tells the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_from_a_snapshot_is_told_what_it_forgot() {
    let Some(mut redis) = RedisServer::start(&["--save", "3600 1"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &redis.url(), 0).await;
    let load = Load::start(installation, brokers);
    load.until_minted(10).await;
    let saved = Instant::now();
    assert!(redis.command("SAVE").unwrap().starts_with("+OK"));
    load.until_minted(20).await;
    redis.kill();
    redis.run().unwrap();
    load.until_minted(20).await;
    // It is told while whoever knows it runs, and a third one learns it from the store.
    let (_other, told) = load.stop(saved).await;
    told.holds_at_a_stranger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_cut_off_vouches_for_nothing() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let network = Network::to(redis.port()).await;
    let installation = Installation::start().await;
    let far = installation.on_redis("far", &network.url, "").serve().await;
    let near = installation
        .on_redis("near", &redis.url(), "")
        .serve()
        .await;
    let issued = token(&installation.issue(&far).await);
    assert!(installation.is_active(&near, &issued).await);
    network.cut_for_good();
    let everything = json!({ "agent": "deployer" });
    let answer = installation.revoke(&near, everything).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let revoked = Instant::now();
    while revoked.elapsed() < BOUND * 3 {
        let asked_after = revoked.elapsed();
        let answer = installation.introspect(&far, &issued).await;
        let vouched = answer.status == 200 && answer.body["active"] == true;
        assert!(!vouched || asked_after < BOUND, "{asked_after:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(installation.introspect(&far, &issued).await.status, 503);
    network.mend();
    until("an answer", || async {
        let answer = installation.introspect(&far, &issued).await;
        assert_ne!(answer.body["active"], true);
        answer.status == 200
    })
    .await;
}
