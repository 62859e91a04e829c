//! A broker that dies between its export and the store, another one that takes over, and the files of both. And
//! what becomes of a store on which somebody wrote.

use crate::cli::dayfly;
use crate::support::process::{Installation, Process, Replica, now, until};
use crate::support::redis::RedisServer;
use dayfly::audit::{Report, verify};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ids::ShardId;
use dayfly::steps::Step;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Outcome, Store as _, Transaction, Write};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Two {
    installation: Arc<Installation>,
    one: Replica,
    other: Replica,
    redis: RedisServer,
}

impl Two {
    async fn start() -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
        let installation = Installation::start().await;
        let one = installation.on_redis("one", &redis.url(), "");
        let other = installation.on_redis("other", &redis.url(), "");
        Some(Self {
            installation,
            one,
            other,
            redis,
        })
    }

    /// The exports of both, as somebody gathers them.
    fn gathered(&self) -> PathBuf {
        let folder = self.installation.folder.path().join("exports");
        std::fs::create_dir_all(&folder).unwrap();
        for (replica, name) in [(&self.one, "one.jsonl"), (&self.other, "other.jsonl")] {
            let export = replica.folder.join("audit.jsonl");
            if export.exists() {
                std::fs::copy(export, folder.join(name)).unwrap();
            }
        }
        folder
    }

    fn report(&self) -> Report {
        verify(&self.gathered(), &|_| true).unwrap()
    }

    /// With the keys of whoever runs.
    async fn verified(&self, at: &Process) -> (i32, Value) {
        let keys = self.installation.folder.path().join("jwks.json");
        let asked = self.installation.http.get(format!("{}/jwks", at.base));
        let text = asked.send().await.unwrap().text().await.unwrap();
        std::fs::write(&keys, text).unwrap();
        let (folder, keys) = (self.gathered(), keys.display().to_string());
        let folder = folder.to_str().unwrap();
        let arguments = ["audit", "verify", folder, "--keys", &keys, "-o", "json"];
        let done = dayfly(&arguments, &[], "").await;
        (done.code, serde_json::from_str(&done.out).unwrap())
    }
}

async fn recover(replica: &Replica, more: &[&str]) -> crate::cli::Done {
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

/// Whether the file has an entry about this lease.
fn tells_of(path: &Path, lease: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains(lease))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_from_a_broker_that_died_before_the_store_knew_leaves_sound_exports() {
    let Some(two) = Two::start().await else {
        return;
    };
    let installation = &two.installation;
    let mut dies = two.one.spawn_mortal(0);
    dies.until_ready().await;
    installation.issue(&dies).await;
    until("a checkpoint", || async { two.report().checkpoints > 1 }).await;
    std::fs::write(two.one.folder.join("die-at"), Step::Exported.name()).unwrap();
    let mut last = None;
    while let Ok(answer) = installation
        .exchange(&dies, &installation.good_form())
        .await
    {
        assert_eq!(answer.status, 200, "{}", answer.body);
        last = Some(answer.body);
    }
    let status = dies.ended().await;
    assert_eq!(status.signal(), Some(9), "{status}\n{}", dies.log());
    std::fs::remove_file(two.one.folder.join("die-at")).unwrap();

    let begun = now();
    let lives = two.other.serve().await;
    let fresh = installation.issue(&lives).await;
    let lease = fresh["lease_id"].as_str().unwrap();
    let export = two.other.folder.join("audit.jsonl");
    until("it seals", || async { tells_of(&export, lease) }).await;
    assert!(now() - begun < 60);
    until("its checkpoint", || async { two.report().unsealed == 0 }).await;
    let (code, report) = two.verified(&lives).await;
    assert_eq!(
        (code, &report["sound"]),
        (0, &Value::Bool(true)),
        "{report}"
    );
    let superseded = report["superseded"].as_array().unwrap();
    assert_eq!(superseded.len(), 1, "{report}");
    assert!(superseded[0]["entries"].as_u64().unwrap() > 0, "{report}");
    assert!(
        superseded[0]["by"]
            .as_str()
            .unwrap()
            .ends_with("other.jsonl")
    );
    // The one that died comes back and seals again.
    drop(last);
    let again = two.one.serve().await;
    lives.signal(Signal::TERM);
    let mut lives = lives;
    assert!(lives.ended().await.success(), "{}", lives.log());
    let later = installation.issue(&again).await;
    let export = two.one.folder.join("audit.jsonl");
    let lease = later["lease_id"].as_str().unwrap();
    until("it seals", || async { tells_of(&export, lease) }).await;
    until("its checkpoint", || async { two.report().unsealed == 0 }).await;
    let (code, report) = two.verified(&again).await;
    assert_eq!(
        (code, &report["sound"]),
        (0, &Value::Bool(true)),
        "{report}"
    );
    // An entry changed in what was never sealed shows all the same.
    let path = two.one.folder.join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let report = two.report();
    let closed = usize::try_from(report.superseded[0].line).unwrap();
    let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
    let mut before = lines.iter_mut().take(closed).rev();
    let entry = before
        .find(|line| line.contains("\"kind\":\"entry\""))
        .unwrap();
    *entry = entry.replace("\"event\":", "\"Event\":");
    std::fs::write(&path, lines.concat()).unwrap();
    let (code, report) = two.verified(&again).await;
    assert_eq!(
        (code, &report["sound"]),
        (1, &Value::Bool(false)),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recovered_while_a_broker_runs() {
    let Some(two) = Two::start().await else {
        return;
    };
    let process = two.one.serve().await;
    two.installation.issue(&process).await;
    until("it seals", || async { two.report().checkpoints > 1 }).await;
    let refused = recover(&two.other, &[]).await;
    assert!(
        refused.is(1).err.contains("a broker is running"),
        "{refused:?}"
    );
    // Killed: it is waited for until nobody can have the claim any more.
    process.kill();
    let done = recover(&two.one, &[]).await.json();
    assert_eq!(done["lost_entries"], 0, "{done}");
    assert!(two.redis.command("PING").unwrap().starts_with("+PONG"));
}

/// Something that no broker wrote, in the store of one that is stopped.
async fn spoil(replica: &Replica, name: &str, value: Vec<u8>) {
    let store = Embedded::open(&replica.folder.join("dayfly.redb")).unwrap();
    let shard = ShardId::INSTALLATION;
    let name = name.as_bytes().to_vec();
    let deadline = SystemClock::new().now() + Duration::from_secs(30);
    let put = Write::Put {
        key: Key { shard, name },
        value,
        expires_at: None,
    };
    let spoilt = store.commit(Transaction::new(shard, deadline).write(put));
    assert!(matches!(spoilt.await.unwrap(), Outcome::Applied { .. }));
}

async fn stopped(mut process: Process) {
    process.signal(Signal::TERM);
    let status = process.ended().await;
    assert!(status.success(), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_broker_wrote_is_given_up_by_who_says_so_and_all_that_stood_stands() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let ended = installation.issue(&process).await;
    let token = ended["access_token"].as_str().unwrap();
    let mission = json!({ "mission": "deploy-checkout" });
    let revoked = installation.revoke(&process, mission).await.unwrap();
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    stopped(process).await;
    let flag = "--without-unreadable";
    for (name, found) in [
        ("audit/sealed", "without_unreadable"),
        ("fences/snapshot", "fence_log_anew"),
    ] {
        spoil(&replica, name, [2; 100].to_vec()).await;
        let mut process = replica.spawn();
        process.until_log_says(flag).await;
        assert!(!process.is_ready().await, "{}", process.log());
        process.signal(Signal::KILL);
        process.ended().await;
        drop(process);
        let refused = recover(&replica, &[]).await;
        assert!(refused.is(1).err.contains(flag), "{refused:?}");
        let done = recover(&replica, &[flag]).await.json();
        assert_eq!(done[found], true, "{done}");
        assert_eq!(done["lost_entries"], 0, "{done}");
        // Twice is once.
        let done = recover(&replica, &[flag]).await.json();
        assert_eq!(done["fences"], 0, "{done}");

        let process = replica.serve().await;
        let form = installation.good_form();
        let held = installation.exchange(&process, &form).await.unwrap();
        assert_eq!(held.reason(), "held", "{}", held.body);
        assert!(!installation.is_active(&process, token).await);
        stopped(process).await;
        let report = verify(&replica.folder.join("audit.jsonl"), &|_| true).unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
}
