//! The store is lost, and what was published with it; or its record alone.

use super::processes::Fleet;
use crate::cli::{Done, dayfly};
use crate::support::process::{Process, Replica};
use dayfly::secret::Secret;
use dayfly::store::redis::{Redis, RedisSettings};
use dayfly::store::{Store, Write};
use rustix::process::Signal;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything is exported.
async fn stop(mut process: Process) {
    process.signal(Signal::TERM);
    let status = process.ended().await;
    assert!(status.success(), "{}", process.log());
}

async fn recover(replica: &Replica, more: &[&str]) -> Done {
    let folder = replica.folder.to_str().unwrap();
    let arguments = [
        "recover",
        "--config",
        folder,
        "--i-understand",
        "-o",
        "json",
    ];
    dayfly(&[&arguments, more].concat(), &[], "").await
}

/// It names what it wants, and nothing starts.
async fn refused(replica: &Replica, hash: &str) {
    let done = recover(replica, &[]).await;
    assert!(done.is(1).err.contains(hash), "{done:?}");
    let mut process = replica.spawn();
    assert!(!process.ended().await.success());
}

/// The folder of the replica is one that could be published, but for the file that this is.
fn of_the_same_files(fleet: &Fleet) -> PathBuf {
    let folder = &fleet.replicas[0].folder;
    let broker = std::fs::read_to_string(fleet.folder.join("broker.toml")).unwrap();
    for other in ["dayfly.toml", "more.toml"] {
        std::fs::remove_file(folder.join(other)).unwrap();
    }
    std::fs::write(folder.join("broker.toml"), broker).unwrap();
    folder.join("common.toml")
}

fn lose(fleet: &Fleet) {
    let answer = fleet.redis.command("FLUSHALL").unwrap();
    assert!(answer.starts_with("+OK"));
}

/// The log names what is not there.
async fn forget(fleet: &Fleet) {
    let url = Secret::new(fleet.redis.url());
    let store = Redis::connect(RedisSettings::new(url)).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    super::write(&store, Write::Delete(super::record())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_in_force_again_or_given_up_by_who_says_so() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let replica = &fleet.replicas[0];
    let one = replica.serve().await;
    fleet.ttl("4m");
    fleet.publish(&one, &[]).await.is(0);
    let older = std::fs::read_to_string(fleet.folder.join("common.toml")).unwrap();
    fleet.ttl("5m");
    let last = fleet.publish(&one, &[]).await.json();
    let newest = std::fs::read_to_string(fleet.folder.join("common.toml")).unwrap();
    let hash = last["hash"].as_str().unwrap().to_owned();
    assert_eq!(fleet.decided(&one).await, (hash.clone(), 5));
    stop(one).await;

    lose(&fleet);
    // The folder that it was set up with is none that can be published, and an older one is not the last.
    refused(replica, &hash).await;
    let common = of_the_same_files(&fleet);
    std::fs::write(&common, &older).unwrap();
    refused(replica, &hash).await;
    std::fs::write(&common, &newest).unwrap();
    let done = recover(replica, &[]).await.json();
    assert_eq!(done["published"], last["revision"], "{done}");
    // Its folder is not what decides then.
    std::fs::write(&common, &older).unwrap();
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await, (hash.clone(), 5));
    stop(one).await;

    lose(&fleet);
    refused(replica, &hash).await;
    let done = recover(replica, &["--without-published"]).await.json();
    assert_eq!(done.get("published"), None, "{done}");
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await.1, 4);
    let view = fleet.config(&one).await;
    assert_eq!(view["revision"], json!(0), "{view}");
    assert_eq!(view["published"]["hash"], json!(hash), "it is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_alone_was_lost_is_put_back_from_the_very_same_files_or_given_up() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let replica = &fleet.replicas[0];
    let one = replica.serve().await;
    fleet.ttl("5m");
    let last = fleet.publish(&one, &[]).await.json();
    let newest = std::fs::read_to_string(fleet.folder.join("common.toml")).unwrap();
    let hash = last["hash"].as_str().unwrap().to_owned();
    stop(one).await;
    let nothing = recover(replica, &[]).await.json();
    assert_eq!(nothing.get("published"), None, "{nothing}");

    forget(&fleet).await;
    refused(replica, &hash).await;
    let common = of_the_same_files(&fleet);
    let older = newest.replace("\"5m\"", "\"4m\"");
    std::fs::write(&common, &older).unwrap();
    refused(replica, &hash).await;
    std::fs::write(&common, &newest).unwrap();
    let done = recover(replica, &[]).await.json();
    assert_eq!(done["published"], last["revision"], "{done}");
    let done = recover(replica, &[]).await.json();
    assert_eq!(done.get("published"), None, "nothing is to do: {done}");
    std::fs::write(&common, &older).unwrap();
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await, (hash, 5));
    let told = fleet.audit(&one).await;
    assert_eq!(told.matches("\"recovered\"").count(), 1, "{told}");
    stop(one).await;

    forget(&fleet).await;
    let done = recover(replica, &["--without-published"]).await.json();
    assert_eq!(done.get("published"), None, "{done}");
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await.1, 4);
    stop(one).await;
}
