use super::session::run;
use super::*;
use crate::clock::Clock;
use crate::clock::SystemClock;
use crate::store::Fault;
use crate::store::Guard;
use crate::store::Write;
use crate::store::conformance;

#[path = "../../../tests/it/support/redis.rs"]
pub(crate) mod support;
#[path = "../../../tests/it/support/network.rs"]
mod network;

use support::RedisServer;

const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

macro_rules! server {
    ($arguments:expr) => {
        match RedisServer::start($arguments).unwrap() {
            Some(server) => server,
            None => return,
        }
    };
}

mod cluster;
mod faults;
mod kinds;
mod clearing;
mod lagging;
mod needed;
mod refusing;
mod sentinel;
mod thawed;
mod tls;
mod user;

fn settings(server: &RedisServer) -> RedisSettings {
    RedisSettings::new(Secret::new(server.url()))
}

async fn open(server: &RedisServer) -> Redis {
    Redis::connect(settings(server)).await.unwrap()
}

fn shard(number: usize) -> ShardId {
    ShardId::all().nth(number).unwrap()
}

fn key(name: &[u8]) -> Key {
    Key {
        shard: shard(3),
        name: name.to_vec(),
    }
}

const LOG_NAME: &str = "log";

fn log() -> Log {
    Log {
        shard: shard(3),
        name: LOG_NAME,
    }
}

fn write(name: &[u8]) -> Transaction {
    let deadline = SystemClock::new().now() + Duration::from_secs(20);
    Transaction::new(shard(3), deadline)
        .guard(Guard::Absent(key(name)))
        .write(Write::Put {
            key: key(name),
            value: b"value".to_vec(),
            expires_at: None,
        })
        .write(Write::Append {
            log: log(),
            value: name.to_vec(),
        })
}

/// What would keep it from starting.
async fn unfit(store: &Redis) -> Vec<String> {
    let found = store.check().await.unwrap().into_iter();
    found
        .filter(|finding| !finding.fault.is_advice())
        .map(|finding| finding.to_string())
        .collect()
}

fn is_applied(outcome: &Result<Outcome, StoreError>) -> bool {
    matches!(outcome, Ok(Outcome::Applied { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds() {
    let server = server!(AOF);
    conformance::exercise(Arc::new(open(&server).await))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds_with_a_replica() {
    let server = server!(AOF);
    let port = server.port().to_string();
    let _replica = server!(&["--replicaof", "127.0.0.1", &port]);
    server.until_followed_by(1).unwrap();
    let mut settings = settings(&server);
    settings.min_replicas = 1;
    let store = Arc::new(Redis::connect(settings).await.unwrap());
    assert_eq!(unfit(&store).await, [""; 0]);
    conformance::exercise(store).await.unwrap();
}

#[tokio::test]
async fn a_flushed_script_is_loaded_again() {
    let server = server!(&[]);
    let store = open(&server).await;
    for name in [b"a", b"b"] {
        server.command("SCRIPT FLUSH").unwrap();
        assert!(is_applied(&store.commit(write(name)).await));
        server.command("SCRIPT FLUSH").unwrap();
        let tail = store
            .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
            .await;
        assert!(matches!(tail, Ok(Tail::Entries { .. })));
    }
}

#[tokio::test]
async fn killed_connections_are_made_anew() {
    let server = server!(&[]);
    let store = open(&server).await;
    for name in [b"a", b"b", b"c"] {
        assert!(is_applied(&store.commit(write(name)).await));
        assert!(store.get(&[key(name)]).await.unwrap()[0].is_some());
        let tail = store
            .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
            .await;
        assert!(matches!(tail, Ok(Tail::Entries { .. })));
        server.command("CLIENT KILL TYPE normal").unwrap();
    }
}

#[tokio::test]
async fn a_restart_keeps_what_was_acknowledged_and_needs_no_restart_of_ours() {
    let mut server = server!(AOF);
    let store = open(&server).await;
    assert!(is_applied(&store.commit(write(b"before")).await));
    server.kill();
    let down = store.commit(write(b"down")).await;
    assert!(
        matches!(down, Err(StoreError::Unavailable(_) | StoreError::Unknown)),
        "{down:?}"
    );
    server.run().unwrap();
    for _ in 0..50 {
        if is_applied(&store.commit(write(b"after")).await) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found = store
        .get(&[key(b"before"), key(b"down"), key(b"after")])
        .await
        .unwrap();
    let there: Vec<_> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true]);
}

#[tokio::test]
async fn an_emptied_store_is_refused_and_not_begun_anew() {
    let server = server!(&[]);
    let store = open(&server).await;
    assert!(is_applied(&store.commit(write(b"a")).await));
    server.command("FLUSHALL").unwrap();
    let lost = |error| matches!(error, StoreError::Lost(3));
    assert!(lost(store.commit(write(b"b")).await.unwrap_err()));
    assert!(lost(store.get(&[key(b"a")]).await.unwrap_err()));
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    assert!(lost(tail.unwrap_err()));
    assert_eq!(store.generation(shard(3)).await.unwrap(), None);
    // Another process finds a new store; ours still refuses it.
    let other = open(&server).await;
    assert!(is_applied(&other.commit(write(b"c")).await));
    assert!(lost(store.commit(write(b"d")).await.unwrap_err()));
}

#[tokio::test]
async fn a_lost_shard_is_refused_until_it_is_recovered() {
    let server = server!(&[]);
    let before = open(&server).await.generation(shard(3)).await.unwrap();
    server.command("DEL {d3}b").unwrap();
    let store = open(&server).await;
    assert!(matches!(
        store.commit(write(b"a")).await,
        Err(StoreError::Lost(3))
    ));
    let other = Transaction::new(shard(4), SystemClock::new().now() + Duration::from_secs(5));
    assert!(
        is_applied(&store.commit(other).await),
        "another shard goes on"
    );
    assert_eq!(
        Redis::recover(&settings(&server)).await.unwrap(),
        [shard(3)]
    );
    let store = open(&server).await;
    assert!(is_applied(&store.commit(write(b"a")).await));
    assert_ne!(store.generation(shard(3)).await.unwrap(), before);
}

#[tokio::test]
async fn a_store_without_its_manifest_is_refused() {
    let server = server!(&[]);
    drop(open(&server).await);
    server.command("DEL {d255}m").unwrap();
    assert!(matches!(
        Redis::connect(settings(&server)).await.unwrap_err(),
        StoreError::Lost(255)
    ));
    assert_eq!(Redis::recover(&settings(&server)).await.unwrap(), []);
    assert!(is_applied(&open(&server).await.commit(write(b"a")).await));
}

#[tokio::test]
async fn a_redis_of_another_layout_is_not_opened_and_not_recovered() {
    let server = server!(&[]);
    drop(open(&server).await);
    // Another number of shards, say.
    server.command("APPEND {d255}m x").unwrap();
    for refused in [
        Redis::connect(settings(&server)).await.unwrap_err(),
        Redis::recover(&settings(&server)).await.unwrap_err(),
    ] {
        let said = refused.to_string();
        assert!(said.contains("of another version"), "{said}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_sending_again_applies_once() {
    let server = server!(&[]);
    let mut settings = settings(&server);
    settings.response_timeout = Duration::from_millis(100);
    settings.retry_budget = Duration::from_millis(300);
    let store = Redis::connect(settings).await.unwrap();
    assert!(is_applied(&store.commit(write(b"warm")).await));
    let port = server.port();
    let sleeping = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"DEBUG SLEEP 1.5\r\n").unwrap();
        let _ = stream.read(&mut [0; 16]).unwrap();
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let transaction = write(b"slow");
    let outcome = store.commit(transaction.clone()).await;
    assert!(matches!(outcome, Err(StoreError::Unknown)), "{outcome:?}");
    sleeping.join().unwrap();
    let mut outcome = store.commit(transaction.clone()).await;
    for _ in 0..20 {
        if is_applied(&outcome) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        outcome = store.commit(transaction.clone()).await;
    }
    assert!(is_applied(&outcome), "{outcome:?}");
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    let Ok(Tail::Entries { entries, .. }) = tail else {
        panic!("{tail:?}");
    };
    let slow = entries.iter().filter(|e| e.value == b"slow").count();
    assert_eq!(slow, 1);
}

/// The first answer was lost; of the second sending the server says that it was not applied.
#[tokio::test]
async fn what_may_have_been_written_is_unknown_whatever_is_said_of_it_when_it_is_sent_again() {
    for then in [
        "ACL SETUSER default -evalsha",
        "CONFIG SET min-replicas-to-write 1",
    ] {
        let server = server!(&[]);
        let mut settings = settings(&server);
        settings.response_timeout = Duration::from_millis(100);
        settings.retry_budget = Duration::from_secs(3);
        let store = Redis::connect(settings).await.unwrap();
        assert!(is_applied(&store.commit(write(b"warm")).await));
        let port = server.port();
        let sleeping = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let sleep = format!("DEBUG SLEEP 1\r\n{then}\r\n");
            stream.write_all(sleep.as_bytes()).unwrap();
            let _ = stream.read(&mut [0; 16]).unwrap();
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let outcome = store.commit(write(b"slow")).await;
        assert!(
            matches!(outcome, Err(StoreError::Unknown)),
            "{then}: {outcome:?}"
        );
        sleeping.join().unwrap();
        // Of what was sent once it is known.
        let outcome = store.commit(write(b"after")).await;
        let is_told = !matches!(outcome, Ok(_) | Err(StoreError::Unknown));
        assert!(is_told, "{then}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_commit_without_its_replicas_is_told_apart() {
    let server = server!(&[]);
    let mut settings = settings(&server);
    settings.min_replicas = 1;
    settings.replica_timeout = Duration::from_millis(100);
    let store = Redis::connect(settings).await.unwrap();
    let transaction = write(b"a");
    let first = store.commit(transaction.clone()).await.unwrap();
    assert!(matches!(&first, Outcome::Unreplicated { appended } if appended.len() == 1));
    assert_eq!(store.commit(transaction).await.unwrap(), first);
    assert!(is_applied(&store.commit(write(b"b").local()).await));
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    let Err(StoreError::Unproved { read, .. }) = tail else {
        panic!("{tail:?}");
    };
    assert!(matches!(*read, Tail::Entries { entries, .. } if entries.len() == 2));
    let problems = unfit(&store).await;
    assert!(problems.iter().any(|p| p.contains("min_replicas")));
    assert!(problems.iter().any(|p| p.contains("appendonly yes")));
    // Nor is it believed that everything is lost: it may be this server that is.
    server.command("FLUSHALL").unwrap();
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    assert!(matches!(tail, Err(StoreError::Unavailable(_))), "{tail:?}");
}

#[tokio::test]
async fn a_replica_is_no_store() {
    let server = server!(&["--replicaof", "127.0.0.1", "1"]);
    let error = Redis::connect(settings(&server)).await.unwrap_err();
    assert!(error.to_string().contains("point it at the primary"));
}

#[tokio::test]
async fn a_demoted_primary_is_left_by_whoever_reads_too() {
    let log = log();
    for first in ["tail", "commit"] {
        let server = server!(&[]);
        let store = open(&server).await;
        let tail = async || {
            let read = store.tail(&log, Position::ORIGIN, 9, Duration::ZERO);
            read.await.map(drop)
        };
        let commit = async |name: &[u8]| store.commit(write(name)).await.map(drop);
        commit(b"a").await.unwrap();
        assert!(store.get(&[key(b"a")]).await.unwrap()[0].is_some());
        tail().await.unwrap();
        server.command("REPLICAOF 127.0.0.1 1").unwrap();
        // It still has it all, and says none of it: it may have been undone since.
        for round in 0..3 {
            let noticed = match first {
                "tail" => tail().await,
                _ => commit(b"b").await,
            };
            let read = store.get(&[key(b"a")]).await.map(drop);
            let index = Index {
                shard: shard(3),
                name: "index".into(),
            };
            let ranged = store.range(&index, 0..=9, 9).await.map(drop);
            for answer in [noticed, read, ranged, tail().await, commit(b"b").await] {
                assert!(
                    matches!(answer, Err(StoreError::Unavailable(_))),
                    "{first} {round}: {answer:?}"
                );
            }
        }
        server.command("REPLICAOF NO ONE").unwrap();
        let begun = tokio::time::Instant::now();
        while commit(b"c").await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(store.get(&[key(b"b")]).await.unwrap(), [None]);
        tail().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_of_another_kind_is_noticed_before_anything_is_written() {
    let server = server!(&[]);
    let store = open(&server).await;
    for (name, spoil) in [
        ("record", "LPUSH {d3}rrecord x"),
        ("log", "SET {d3}llog x"),
        ("ends", "SET {d3}hlog x"),
        ("entries", "XADD {d3}llog 7-0 a b"),
    ] {
        server.command("DEL {d3}rrecord {d3}llog {d3}hlog").unwrap();
        server.command(spoil).unwrap();
        let mut transaction = write(b"record");
        transaction.guards.clear();
        transaction.writes.insert(
            0,
            Write::Put {
                key: key(b"other"),
                value: Vec::new(),
                expires_at: None,
            },
        );
        let outcome = store.commit(transaction).await;
        assert!(
            matches!(outcome, Err(StoreError::Corrupt(_))),
            "{name}: {outcome:?}"
        );
        assert_eq!(store.get(&[key(b"other")]).await.unwrap(), [None], "{name}");
    }
}

#[tokio::test]
async fn minting_stops_before_revoking_does() {
    let server = server!(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]);
    let store = open(&server).await;
    let mut full = None;
    for number in 0..200_u32 {
        let mut transaction = write(&number.to_be_bytes());
        if let Some(Write::Put { value, .. }) = transaction.writes.first_mut() {
            *value = vec![0; 100_000];
        }
        if let Err(error) = store.commit(transaction).await {
            full = Some(error);
            break;
        }
        store.inner.look_after().await;
    }
    assert!(matches!(full, Some(StoreError::Full)), "{full:?}");
    assert!(is_applied(&store.commit(write(b"revoke").revoking()).await));
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    assert!(matches!(tail, Ok(Tail::Entries { .. })));
}

#[tokio::test]
async fn a_late_first_sending_is_not_applied_after_the_second_conflicted() {
    let server = server!(&[]);
    let store = open(&server).await;
    assert!(is_applied(&store.commit(write(b"a")).await));
    let transaction = write(b"a");
    let generation = store.inner.births.of(shard(3)).unwrap();
    let node = store.inner.nodes.of(shard(3)).unwrap();
    let (_, mut connection) = node.readers.get(&node.connector).await.unwrap();
    let mut send = async |again| {
        let call = script::commit(&transaction, generation, again);
        let answer = run(&mut connection, &script::COMMIT, &call).await.unwrap();
        script::read_commit(answer, shard(3)).unwrap()
    };
    assert_eq!(send(true).await, Outcome::Conflict { guard: 0 });
    server.command("DEL {d3}ra").unwrap();
    assert_eq!(send(false).await, Outcome::Conflict { guard: 0 });
}

#[tokio::test]
async fn no_error_shows_the_password() {
    for url in [
        "redis://user:hunter2@127.0.0.1:1",
        "redis://user:hunter2@",
        "rediss://user:hunter2@127.0.0.1:1",
        "rediss://user:hunter2@127.0.0.1:1/#insecure",
        "redis+sentinel://user:hunter2@127.0.0.1:1/main",
        "redis+sentinel://127.0.0.1:1/main?sentinel_password=hunter2",
        "redis+cluster://user:hunter2@127.0.0.1:1",
        "hunter2",
    ] {
        let settings = RedisSettings::new(Secret::new(url.to_owned()));
        let shown = format!("{settings:?}");
        let error = Redis::connect(settings).await.unwrap_err();
        let error = format!("{error} {error:?} {shown}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
