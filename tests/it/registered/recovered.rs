//! The store is put back to an older day, or lost: who is registered is as the last change left it.

use super::{MISSIONS, definition};
use crate::cli::{Done, dayfly};
use crate::support::broker::Answer;
use crate::support::process::{Installation, Process, Replica};
use crate::support::world::key;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ids::ShardId;
use dayfly::jose::SigningKey;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Store, Transaction, Write};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct House {
    installation: Arc<Installation>,
    replica: Replica,
}

impl House {
    fn file(&self, name: &str) -> PathBuf {
        self.replica.folder.join(name)
    }

    /// Everything is exported.
    async fn stop(&self, mut process: Process) {
        process.signal(Signal::TERM);
        let status = process.ended().await;
        assert!(status.success(), "{}", process.log());
    }

    async fn register(&self, at: &Process, name: &str, key: &SigningKey) -> Value {
        let body = json!({ "agent": definition(key), "reason": "a test says so" });
        let path = format!("/agents/{name}");
        let answer = self.installation.admin(at, "PUT", &path, Some(body));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    async fn remove(&self, at: &Process, name: &str) {
        let path = format!("/agents/{name}");
        let answer = self.installation.admin(at, "DELETE", &path, None);
        assert_eq!(answer.await.unwrap().status, 200);
    }

    async fn ask(&self, at: &Process, name: &str, key: &SigningKey) -> Answer {
        let detail = json!({
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:read"], "locations": ["https://deploy.example/night"],
        });
        let form = self
            .installation
            .client_form((name, key), "tidy", None, &detail);
        self.installation.exchange(at, &form).await.unwrap()
    }

    async fn recover(&self, more: &[&str]) -> Done {
        let folder = self.replica.folder.to_str().unwrap();
        let arguments = ["recover", "--config", folder, "--i-understand"];
        let arguments = [&arguments[..], &["-o", "json"], more].concat();
        dayfly(&arguments, &[], "").await
    }

    async fn lose_the_record(&self) {
        let store = Embedded::open(&self.file("dayfly.redb")).unwrap();
        let record = Key {
            shard: ShardId::INSTALLATION,
            name: b"registered/agents".to_vec(),
        };
        let deadline = SystemClock::new().now() + Duration::from_secs(30);
        let transaction = Transaction::new(ShardId::INSTALLATION, deadline);
        let transaction = transaction.write(Write::Delete(record));
        store.commit(transaction).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_was_removed_is_back_and_whoever_was_registered_is() {
    let installation = Installation::start().await;
    let replica = installation.embedded(MISSIONS);
    let house = House {
        installation,
        replica,
    };
    let (store, older) = (house.file("dayfly.redb"), house.file("older.redb"));
    let (night, day) = (key(), key());
    let process = house.replica.serve().await;
    house.register(&process, "night-worker", &night).await;
    let issued = house.ask(&process, "night-worker", &night).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    let held = issued.body["access_token"].as_str().unwrap().to_owned();
    house.stop(process).await;
    std::fs::copy(&store, &older).unwrap();
    let process = house.replica.serve().await;
    house.remove(&process, "night-worker").await;
    house.register(&process, "day-worker", &day).await;
    house.stop(process).await;

    // Put back to when one was not removed yet, and lost altogether.
    for lost in ["older", "all"] {
        match lost {
            "older" => drop(std::fs::copy(&older, &store).unwrap()),
            _ => std::fs::remove_file(&store).unwrap(),
        }
        let mut refused = house.replica.spawn();
        assert!(!refused.ended().await.success());
        let done = house.recover(&[]).await.json();
        assert_eq!(done["registered"], 3, "{lost}: {done}");
        let process = house.replica.serve().await;
        let removed = house.ask(&process, "night-worker", &night).await;
        assert_eq!(removed.status, 401, "{lost}: {}", removed.body);
        assert!(!house.installation.is_active(&process, &held).await);
        let there = house.ask(&process, "day-worker", &day).await;
        assert_eq!(there.status, 200, "{lost}: {}", there.body);
        house.stop(process).await;
    }

    // Nobody has the record any more, though the log is whole.
    house.lose_the_record().await;
    let process = house.replica.spawn();
    process
        .until_log_says("the registered agents cannot be")
        .await;
    let refused = house.ask(&process, "day-worker", &day).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    house.stop(process).await;
    // The audit tells all of them: nobody is given up.
    let done = house.recover(&["--without-registered"]).await.json();
    assert_eq!(done["registered"], 3, "{done}");
    let process = house.replica.serve().await;
    let there = house.ask(&process, "day-worker", &day).await;
    assert_eq!(there.status, 200, "{}", there.body);
    let removed = house.ask(&process, "night-worker", &night).await;
    assert_eq!(removed.status, 401, "{}", removed.body);
    let receipt = house.register(&process, "night-worker", &night).await;
    assert_eq!(receipt["number"], 4);
    house.stop(process).await;
}
