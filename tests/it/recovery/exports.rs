//! Everything was lost, and what was exported lies with several replicas.

use super::{World, on_redis, recover};
use crate::support::postgres::PASSWORD;
use crate::support::process::{Process, Replica, secret_file, until};
use crate::support::redis::RedisServer;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What two replicas sealed, one after the other, and a login that each of them alone tells of.
struct Two {
    redis: RedisServer,
    world: World,
    other: Replica,
    logins: [Value; 2],
}

fn tells(replica: &Replica, login: &Value) -> bool {
    let text = std::fs::read_to_string(replica.folder.join("audit.jsonl")).unwrap_or_default();
    text.contains(login["lease_id"].as_str().unwrap())
}

/// Until the replica that runs has exported it.
async fn told(replica: &Replica, login: &Value) {
    until("it is exported", || async { tells(replica, login) }).await;
    // And sealed.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

impl Two {
    async fn start() -> Option<Self> {
        let (redis, world) = on_redis().await?;
        let more = std::fs::read_to_string(world.replica.folder.join("more.toml")).unwrap();
        let other = world.installation.on_redis("two", &redis.url(), &more);
        secret_file(&other.folder.join("orders-db.password"), PASSWORD);
        let one = world.replica.serve().await;
        let first = world.login(&one).await;
        told(&world.replica, &first).await;
        world.stop(one).await;
        let two: Process = other.serve().await;
        let second = world.login(&two).await;
        told(&other, &second).await;
        two.kill();
        assert!(!tells(&other, &first) && !tells(&world.replica, &second));
        assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
        Some(Self {
            redis,
            world,
            other,
            logins: [first, second],
        })
    }

    fn copy(&self, from: &Replica, name: &str, to: &Path) {
        for (file, ending) in [("audit.jsonl", "jsonl"), ("audit.seen", "seen")] {
            let file = from.folder.join(file);
            if file.exists() {
                std::fs::copy(file, to.join(format!("{name}.{ending}"))).unwrap();
            }
        }
    }

    /// Recovered from a folder, until it is not refused as long as the one that was killed counts as running.
    async fn recovered(&self, more: &[&str]) -> Value {
        let done = recover(&self.world.replica, more).await;
        serde_json::from_str(&done.is(0).out).unwrap()
    }

    async fn end(&self, ended: &[&Value], alive: &[&Value]) {
        let process = self.other.serve().await;
        for login in ended {
            until("its end", || async { !self.world.exists(login).await }).await;
        }
        for login in alive {
            assert!(self.world.exists(login).await, "{login}");
        }
        drop(process);
        assert!(self.redis.command("PING").unwrap().starts_with("+PONG"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_replicas_exported_is_made_good_from_all_of_it() {
    let Some(two) = Two::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let empty = recover(&two.world.replica, &["--export", path]).await;
    assert!(empty.err.contains("holds no export"), "{}", empty.err);
    // What the other one sealed is missing: refused, and nothing is changed.
    two.copy(&two.other, "two", folder.path());
    let refused = recover(&two.world.replica, &["--export", path]).await;
    assert_ne!(refused.code, 0);
    assert!(
        refused.err.contains("are in no export here"),
        "{}",
        refused.err
    );
    two.copy(&two.world.replica, "one", folder.path());
    let done = two.recovered(&["--export", path]).await;
    assert_eq!(done["leases_to_end"], 2, "{done}");
    let [first, second] = &two.logins;
    two.end(&[first, second], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_export_has_is_given_up_by_who_says_so_and_the_audit_says_what_it_was() {
    let Some(two) = Two::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    two.copy(&two.other, "two", folder.path());
    let path = folder.path().to_str().unwrap();
    let done = two.recovered(&["--export", path, "--incomplete"]).await;
    assert_eq!(done["leases_to_end"], 1, "{done}");
    assert_eq!(done["leases_by_hand"], json!([]));
    let process = two.other.serve().await;
    let audit = two
        .world
        .installation
        .admin(&process, "GET", "/audit?limit=1000", None);
    let audit = audit.await.unwrap().body;
    let entries = audit["items"].as_array().unwrap().iter();
    let said = entries
        .filter(|entry| entry["reason"] == "recovered")
        .collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "{audit}");
    let missing = said[0]["detail"]["missing_checkpoints"].as_array().unwrap();
    assert!(
        missing[0].as_str().unwrap().starts_with("1-"),
        "{missing:?}"
    );
    process.kill();
    let [first, second] = &two.logins;
    // Nobody knows of it: that is what was accepted.
    two.end(&[second], &[first]).await;
}
