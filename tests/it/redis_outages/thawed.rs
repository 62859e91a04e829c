//! A primary is paused, replaced by its sentinels, and wakes up. Until they tell it otherwise it takes itself for
//! the primary, and whoever stayed connected writes to it. Everything that it acknowledges is lost.

use super::load::{stranger, token};
use crate::support::network::Network;
use crate::support::process::{Installation, Process, secret_file, until};
use crate::support::redis::{RedisServer, Watched, sentinel_url};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// What whoever writes does now.
const WRITE: u8 = 0;
const REST: u8 = 1;
const STOP: u8 = 2;

/// A client as most are: it counts what was acknowledged.
async fn plain(server: u16, phase: Arc<AtomicU8>) -> usize {
    let client = redis::Client::open(format!("redis://127.0.0.1:{server}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (mut acknowledged, mut woken) = (0, false);
    loop {
        match phase.load(Ordering::SeqCst) {
            STOP => return acknowledged,
            REST => {
                woken = true;
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            _ if !woken => {
                let set: Result<(), _> = redis::cmd("SET")
                    .arg("connected")
                    .arg(1)
                    .query_async(&mut connection)
                    .await;
                set.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            _ => {}
        }
        let set: Result<(), _> = redis::cmd("SET")
            .arg(format!("plain:{acknowledged}"))
            .arg(1)
            .query_async(&mut connection)
            .await;
        match set {
            Ok(()) => acknowledged += 1,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// What a broker answered to revocations.
#[derive(Default)]
struct Written {
    before: Vec<String>,
    /// Behind the pause.
    acknowledged: Vec<String>,
    not_yet_replicated: usize,
    refused: usize,
}

async fn revoke(
    installation: Arc<Installation>,
    process: Arc<Process>,
    mut issued: Vec<Value>,
    phase: Arc<AtomicU8>,
) -> Written {
    let mut written = Written::default();
    let mut woken = false;
    while let Some(next) = issued.pop() {
        match phase.load(Ordering::SeqCst) {
            STOP => break,
            REST => {
                woken = true;
                issued.push(next);
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            _ => {}
        }
        let selector = json!({ "lease": next["lease_id"] });
        let answer = installation.revoke(&process, selector).await.unwrap();
        match answer.status {
            200 if woken => written.acknowledged.push(token(&next)),
            200 => written.before.push(token(&next)),
            202 => written.not_yet_replicated += 1,
            503 => written.refused += 1,
            other => panic!("{other}: {}", answer.body),
        }
        if answer.status != 200 {
            issued.insert(0, next);
        } else if !woken {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    written
}

fn named_by(sentinels: &[RedisServer]) -> Vec<String> {
    let asked = sentinels.iter().map(|one| {
        let told = one.command("SENTINEL GET-MASTER-ADDR-BY-NAME main");
        told.unwrap_or_default()
    });
    asked.collect()
}

/// A broker, what it issued, and the task that revokes it there.
type Writer = (
    &'static str,
    Arc<Process>,
    Vec<String>,
    tokio::task::JoinHandle<Written>,
);

async fn writers(
    installation: &Arc<Installation>,
    ways: [(&'static str, String); 2],
    phase: &Arc<AtomicU8>,
) -> Vec<Writer> {
    let mut writing = Vec::new();
    for (name, url) in ways {
        let folder = name.replace(' ', "-");
        let file = format!("{folder}.url");
        secret_file(&installation.folder.path().join(&file), &url);
        let store = format!(r#"{{ redis = "file:../{file}", min_replicas = 1 }}"#);
        let replica = installation.replica(&folder, &store, "");
        let process = Arc::new(replica.serve().await);
        let mut issued = Vec::new();
        for _ in 0..60 {
            issued.push(installation.issue(&process).await);
        }
        let all: Vec<_> = issued.iter().map(token).collect();
        let task = revoke(installation.clone(), process.clone(), issued, phase.clone());
        writing.push((name, process, all, tokio::spawn(task)));
    }
    writing
}

#[expect(
    clippy::print_stdout,
    reason = "the page on storage quotes these figures"
)]
async fn nothing_is_lost(
    installation: &Installation,
    stranger: &Process,
    name: &str,
    (issued, written): (&[String], &Written),
) {
    let mut lost = 0;
    for token in written.before.iter().chain(&written.acknowledged) {
        lost += usize::from(installation.is_active(stranger, token).await);
    }
    println!(
        "a broker, {name}: {} acknowledged before and {} behind the pause, of which {lost} are lost; \
         {} answered not_yet_replicated, {} refused",
        written.before.len(),
        written.acknowledged.len(),
        written.not_yet_replicated,
        written.refused
    );
    assert_eq!(lost, 0, "{name}");
    assert!(!written.before.is_empty(), "{name}");
    let refused = written.not_yet_replicated + written.refused;
    assert!(refused > 0, "{name} wrote nothing");
    let alive = issued
        .iter()
        .filter(|token| !written.before.contains(token));
    let alive = alive.filter(|token| !written.acknowledged.contains(token));
    assert!(alive.count() > 0, "{name}: all was acknowledged");
}

/// `cargo test --test it a_client_that_stays_connected -- --nocapture` prints what was counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stays_connected_to_a_primary_that_was_replaced_is_acknowledged_nothing() {
    let Some(watched) = Watched::start().unwrap() else {
        return;
    };
    let old = &watched.servers[0];
    let installation = Installation::start().await;
    let mut cut_off = Vec::new();
    for sentinel in &watched.sentinels {
        cut_off.push(Network::to(sentinel.port()).await);
    }
    let ports: Vec<u16> = cut_off
        .iter()
        .map(|one| one.url.rsplit(':').next().unwrap().parse().unwrap())
        .collect();
    let phase = Arc::new(AtomicU8::new(WRITE));
    let ways = [("fixed", old.url()), ("cut off", sentinel_url(&ports))];
    let writing = writers(&installation, ways, &phase).await;
    let plain = tokio::spawn(plain(old.port(), phase.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;

    phase.store(REST, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    cut_off.iter().for_each(Network::cut_for_good);
    old.freeze();
    let port = old.port().to_string();
    until("another one is named by all, and followed", || async {
        let named = named_by(&watched.sentinels);
        let told = watched.heir().map(|heir| heir.command("INFO replication"));
        let followed = told.is_some_and(|told| told.unwrap_or_default().contains("state=online"));
        followed
            && named
                .iter()
                .all(|one| one.contains("127.0.0.1") && !one.contains(&port))
    })
    .await;
    phase.store(WRITE, Ordering::SeqCst);
    old.thaw();
    until("it is told", || async {
        old.command("INFO replication")
            .unwrap()
            .contains("role:slave")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    phase.store(STOP, Ordering::SeqCst);

    // Nobody who knows anything is left.
    let plain = plain.await.unwrap();
    let mut all = Vec::new();
    for (name, process, issued, task) in writing {
        all.push((name, issued, task.await.unwrap()));
        process.signal(rustix::process::Signal::KILL);
    }
    let heir = watched.heir().unwrap();
    let survive = heir
        .command("EVAL \"return #redis.call('KEYS','plain:*')\" 0")
        .unwrap();
    println!(
        "a plain client: {plain} acknowledged, of which {} survive",
        survive.trim()
    );
    assert!(plain > 0, "the primary took itself for none");
    assert_eq!(survive, ":0\r\n");

    let file = installation.folder.path().join("stranger.url");
    secret_file(&file, &watched.url());
    let store = r#"{ redis = "file:../stranger.url", min_replicas = 1 }"#;
    let stranger = stranger(&installation, store).await;
    for (name, issued, written) in all {
        nothing_is_lost(&installation, &stranger, name, (&issued, &written)).await;
    }
}
