//! The store is lost, and what was published with it.

use super::processes::Fleet;
use crate::cli::{Done, dayfly};
use crate::support::process::Process;
use dayfly::secret::Secret;
use dayfly::store::redis::{Redis, RedisSettings};
use dayfly::store::{Store, Write};
use rustix::process::Signal;
use serde_json::json;
use std::sync::Arc;

/// Everything is exported.
async fn stop(mut process: Process) {
    process.signal(Signal::TERM);
    let status = process.ended().await;
    assert!(status.success(), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_in_force_again_or_given_up_by_who_says_so() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let replica = &fleet.replicas[0];
    let folder = replica.folder.to_str().unwrap();
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

    let forget = || async {
        let url = Secret::new(fleet.redis.url());
        let store = Redis::connect(RedisSettings::new(url)).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        super::write(&store, Write::Delete(super::record())).await;
    };
    let lose = || {
        let answer = fleet.redis.command("FLUSHALL").unwrap();
        assert!(answer.starts_with("+OK"));
    };
    let recover = |more: &'static [&'static str]| async move {
        let arguments = [
            "recover",
            "--config",
            folder,
            "--i-understand",
            "-o",
            "json",
        ];
        let done: Done = dayfly(&[&arguments, more].concat(), &[], "").await;
        done
    };
    let refused = || async {
        let done = recover(&[]).await;
        assert!(done.is(1).err.contains(&hash), "{done:?}");
        let mut process = replica.spawn();
        assert!(!process.ended().await.success());
    };
    // The record alone: the log names what is not there.
    forget().await;
    refused().await;
    lose();
    // The folder that it was set up with is none that can be published, and an older one is not the last.
    refused().await;
    let broker = std::fs::read_to_string(fleet.folder.join("broker.toml")).unwrap();
    for other in ["dayfly.toml", "more.toml"] {
        std::fs::remove_file(replica.folder.join(other)).unwrap();
    }
    std::fs::write(replica.folder.join("broker.toml"), broker).unwrap();
    let common = replica.folder.join("common.toml");
    std::fs::write(&common, &older).unwrap();
    refused().await;
    std::fs::write(&common, &newest).unwrap();
    let done = recover(&[]).await.json();
    assert_eq!(done["published"], last["revision"], "{done}");
    // Its folder is not what decides then.
    std::fs::write(&common, &older).unwrap();
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await, (hash.clone(), 5));
    stop(one).await;
    forget().await;
    std::fs::write(&common, &older).unwrap();
    refused().await;
    std::fs::write(&common, &newest).unwrap();
    let done = recover(&[]).await.json();
    assert_eq!(done["published"], last["revision"], "{done}");
    let done = recover(&[]).await.json();
    assert_eq!(done.get("published"), None, "nothing is to do: {done}");
    std::fs::write(&common, &older).unwrap();
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await, (hash.clone(), 5));
    let told = fleet.audit(&one).await;
    assert_eq!(told.matches("\"recovered\"").count(), 2, "{told}");
    stop(one).await;
    forget().await;
    let done = recover(&["--without-published"]).await.json();
    assert_eq!(done.get("published"), None, "{done}");
    std::fs::write(&common, &newest).unwrap();
    let one = replica.serve().await;
    assert_eq!(fleet.publish(&one, &[]).await.json()["hash"], hash);
    stop(one).await;
    std::fs::write(&common, &older).unwrap();

    lose();
    refused().await;
    let done = recover(&["--without-published"]).await.json();
    assert_eq!(done.get("published"), None, "{done}");
    let one = replica.serve().await;
    assert_eq!(fleet.decided(&one).await.1, 4);
    let view = fleet.config(&one).await;
    assert_eq!(view["revision"], json!(0), "{view}");
    assert_eq!(view["published"]["hash"], json!(hash), "it is known");
}
