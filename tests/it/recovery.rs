//! The store is lost, or put back to an older day. What the exported audit still has is made good:
//! nothing that was ended comes back, and nothing that lives downstream is forgotten.

mod expiry;
mod exports;
mod killed;

use crate::cli::{Done, dayfly};
use crate::postgres::mission;
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::process::{Installation, Process, Replica, secret_file, until};
use crate::support::redis::RedisServer;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct World {
    installation: Arc<Installation>,
    replica: Replica,
    server: Postgres,
}

impl World {
    fn form(&self) -> Vec<(String, String)> {
        let detail = json!({
            "type": "postgres_login", "identifier": "orders-db",
            "actions": ["select"], "locations": ["public.orders"],
        });
        self.installation.form_with_mission("read-orders", &detail)
    }

    /// A login, and whether it exists.
    async fn login(&self, at: &Process) -> Value {
        // A busy machine may be too late with its view: then nothing was made.
        for _ in 0..20 {
            let answer = self.installation.exchange(at, &self.form()).await.unwrap();
            if answer.status != 503 {
                assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no login is made:\n{}", at.log());
    }

    async fn exists(&self, login: &Value) -> bool {
        let role = login["lease_id"].as_str().unwrap();
        let query = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'");
        self.server.ask(&query).await == 1
    }

    async fn revoked(&self, at: &Process, selector: Value) {
        let answer = self.installation.revoke(at, selector).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Stopped in order: everything is exported.
    async fn stop(&self, mut process: Process) {
        process.signal(Signal::TERM);
        let status = process.ended().await;
        assert!(status.success(), "{}", process.log());
    }

    async fn keys(&self, at: &Process, name: &str) -> String {
        let path = self.replica.folder.join(name);
        let answer = self.installation.http.get(format!("{}/jwks", at.base));
        let text = answer.send().await.unwrap().text().await.unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn checkpoints(&self) -> u64 {
        let export = self.replica.folder.join("audit.jsonl");
        let report = dayfly::audit::verify(&export, &|_| true);
        report.map_or(0, |report| report.checkpoints)
    }

    async fn refuses_to_start(&self) {
        let mut process = self.replica.spawn();
        assert!(!process.ended().await.success());
        assert!(
            process.log().contains("dayfly recover"),
            "{}",
            process.log()
        );
    }

    async fn recover(&self) -> Value {
        let done = recover(&self.replica, &[]).await;
        serde_json::from_str(&done.is(0).out).unwrap()
    }

    async fn verified(&self, keys: &[&str]) -> Value {
        let export = self.replica.folder.join("audit.jsonl");
        let mut arguments = vec!["audit", "verify", export.to_str().unwrap(), "-o", "json"];
        for file in keys {
            arguments.extend(["--keys", file]);
        }
        let done = dayfly(&arguments, &[], "").await;
        serde_json::from_str(&done.is(0).out).unwrap()
    }
}

async fn recover(replica: &Replica, more: &[&str]) -> Done {
    let folder = replica.folder.to_str().unwrap();
    let arguments = ["recover", "--config", folder, "--i-understand"];
    let arguments = [&arguments[..], &["-o", "json"], more].concat();
    dayfly(&arguments, &[], "").await
}

/// On a Redis, with a PostgreSQL that makes logins. `None`: one of them is not here.
async fn on_redis() -> Option<(RedisServer, World)> {
    let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
    let server = Postgres::start().await?;
    let installation = Installation::start().await;
    let more = mission(&server, &server.ca.display().to_string());
    let replica = installation.on_redis("one", &redis.url(), &more);
    secret_file(&replica.folder.join("orders-db.password"), PASSWORD);
    let world = World {
        installation,
        replica,
        server,
    };
    Some((redis, world))
}

fn token(issued: &Value) -> &str {
    issued["access_token"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_total_loss_what_stood_stands_and_what_lives_downstream_is_ended() {
    let Some((redis, world)) = on_redis().await else {
        return;
    };
    let installation = world.installation.clone();
    let process = world.replica.serve().await;
    let local = installation.issue(&process).await;
    let (living, ended) = (world.login(&process).await, world.login(&process).await);
    let selector = json!({ "lease": ended["lease_id"] });
    world.revoked(&process, selector).await;
    until("its end", || async { !world.exists(&ended).await }).await;
    world
        .revoked(&process, json!({ "mission": "deploy-checkout" }))
        .await;
    world.revoked(&process, json!({ "task": "a task" })).await;
    let lift = json!({ "selector": { "task": "a task" }, "reason": "it was a test" });
    let lifted = installation.admin(&process, "POST", "/lifts", Some(lift));
    assert_eq!(lifted.await.unwrap().status, 200);
    let before = world.keys(&process, "before.json").await;
    world.stop(process).await;

    assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
    world.refuses_to_start().await;
    assert!(world.exists(&living).await);
    let done = world.recover().await;
    assert_eq!(done["leases_to_end"], 1, "{done}");
    assert_eq!(done["leases_by_hand"], json!([]));
    assert!(done["lost_entries"].as_u64().unwrap() > 5, "{done}");

    let process = world.replica.serve().await;
    until("the end of what lived", || async {
        !world.exists(&living).await
    })
    .await;
    assert!(!installation.is_active(&process, token(&local)).await);
    let held = installation
        .exchange(&process, &installation.good_form())
        .await
        .unwrap();
    assert_eq!(held.reason(), "held", "{}", held.body);
    let fresh = world.login(&process).await;
    assert!(world.exists(&fresh).await);
    let shown = installation
        .lease(&process, living["lease_id"].as_str().unwrap())
        .await;
    assert_eq!(shown["agent"], "deployer", "{shown}");
    let after = world.keys(&process, "after.json").await;
    world.stop(process).await;
    // Nothing more is to do, and the export says where the gap is.
    assert_eq!(world.recover().await["lost_entries"], 0);
    let report = world.verified(&[&before, &after]).await;
    assert_eq!(report["sound"], true, "{report}");
    assert!(!report["breaks"].as_array().unwrap().is_empty(), "{report}");
}

/// Where the store lies, and how an older copy of it is put back.
enum Kept {
    File,
    /// With its append-only file.
    Redis(RedisServer),
    /// Only what a snapshot has.
    Snapshot(RedisServer),
}

impl Kept {
    fn back_up(&self, file: &Path) -> TempDir {
        match self {
            Self::File => {
                let backup = tempfile::tempdir().unwrap();
                std::fs::copy(file, backup.path().join("copy")).unwrap();
                backup
            }
            Self::Redis(redis) | Self::Snapshot(redis) => {
                assert_eq!(redis.command("SAVE").unwrap(), "+OK\r\n");
                redis.backup().unwrap()
            }
        }
    }

    fn put_back(&mut self, file: &Path, backup: &TempDir) {
        match self {
            Self::File => drop(std::fs::copy(backup.path().join("copy"), file).unwrap()),
            Self::Redis(redis) => redis.put_back(backup.path()).unwrap(),
            Self::Snapshot(redis) => redis.put_snapshot_back(backup.path()).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_revives_nothing_that_was_ended_and_kills_nothing_that_lives() {
    put_back_to_an_older_day(Kept::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_put_back_revives_nothing_that_was_ended_and_kills_nothing_that_lives() {
    let durable = ["--appendonly", "yes"];
    let ways: [fn(RedisServer) -> Kept; 2] = [Kept::Redis, Kept::Snapshot];
    for kept in ways {
        let Some(redis) = RedisServer::start(&durable).unwrap() else {
            return;
        };
        put_back_to_an_older_day(kept(redis)).await;
    }
}

async fn put_back_to_an_older_day(mut kept: Kept) {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let installation = Installation::start().await;
    let more = mission(&server, &server.ca.display().to_string());
    let replica = match &kept {
        Kept::File => installation.embedded(&more),
        Kept::Redis(redis) | Kept::Snapshot(redis) => {
            installation.on_redis("one", &redis.url(), &more)
        }
    };
    secret_file(&replica.folder.join("orders-db.password"), PASSWORD);
    let world = World {
        installation: installation.clone(),
        replica,
        server,
    };
    let process = world.replica.serve().await;
    let (lives, dies) = (
        installation.issue(&process).await,
        installation.issue(&process).await,
    );
    let login = world.login(&process).await;
    world.stop(process).await;
    let store = world.replica.folder.join("dayfly.redb");
    let backup = kept.back_up(&store);

    let process = world.replica.serve().await;
    let selector = json!({ "lease": dies["lease_id"] });
    let sealed = world.checkpoints();
    world.revoked(&process, selector).await;
    // A store that is a single checkpoint behind is what a crash leaves, and starts.
    until("a checkpoint", || async { world.checkpoints() > sealed }).await;
    let later = installation.issue(&process).await;
    let later_login = world.login(&process).await;
    world
        .revoked(&process, json!({ "target": "nowhere" }))
        .await;
    let keys = world.keys(&process, "keys.json").await;
    world.stop(process).await;

    kept.put_back(&store, &backup);
    world.refuses_to_start().await;
    let done = world.recover().await;
    assert_eq!(done["fences"], 2, "{done}");
    assert_eq!(done["leases_to_end"], 1, "{done}");
    let process = world.replica.serve().await;
    assert!(installation.is_active(&process, token(&lives)).await);
    assert!(!installation.is_active(&process, token(&dies)).await);
    assert!(!installation.is_active(&process, token(&later)).await);
    until("the end of what the backup does not know", || async {
        !world.exists(&later_login).await
    })
    .await;
    assert!(world.exists(&login).await);
    world.stop(process).await;
    let report = world.verified(&[&keys]).await;
    assert_eq!(report["sound"], true, "{report}");
    assert!(!report["breaks"].as_array().unwrap().is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_no_compromised_key_back() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let installation = Installation::start().await;
    let world = World {
        replica: installation.embedded(""),
        installation: installation.clone(),
        server,
    };
    let process = world.replica.serve().await;
    let stolen = installation.issue(&process).await;
    world.stop(process).await;
    let store = world.replica.folder.join("dayfly.redb");
    let backup = world.replica.folder.join("backup.redb");
    std::fs::copy(&store, &backup).unwrap();

    let process = world.replica.serve().await;
    let rotate = json!({ "purpose": "access_token", "compromised": true });
    let rotated = installation.admin(&process, "POST", "/keys/rotate", Some(rotate));
    let rotated = rotated.await.unwrap();
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let removed = rotated.body["removed"].clone();
    // More than a crash would leave.
    installation.issue(&process).await;
    world.stop(process).await;

    std::fs::copy(&backup, &store).unwrap();
    world.refuses_to_start().await;
    let done = world.recover().await;
    assert_eq!(done["keys_removed"], removed, "{done}");
    let process = world.replica.serve().await;
    assert!(!installation.is_active(&process, token(&stolen)).await);
    let path = world.keys(&process, "after.json").await;
    let published = std::fs::read_to_string(path).unwrap();
    assert!(!published.contains(removed[0].as_str().unwrap()));
    installation.issue(&process).await;
    world.stop(process).await;
}
