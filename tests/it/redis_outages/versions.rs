//! Two versions of Dayfly on one store, as they are while replicas are upgraded one after another.

use super::load::{Load, on_each, token};
use crate::support::process::{Installation, now, until};
use crate::support::redis::RedisServer;
use dayfly::ids::ShardId;
use dayfly::secret::{MAC_LENGTH, Sealer, Secret};
use dayfly::store::redis::{Redis, RedisSettings};
use dayfly::store::{Log, Outcome, Position, Store, Tail, Transaction, Write};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A script as it is, and as another version has it: the text differs, and so does the hash that names it.
#[derive(Clone)]
struct Twice {
    ours: [Vec<u8>; 2],
    theirs: [Vec<u8>; 2],
}

fn scripts() -> [Twice; 2] {
    [
        include_str!("../../../src/store/redis/commit.lua"),
        include_str!("../../../src/store/redis/tail.lua"),
    ]
    .map(|text| {
        let named = |text: &str| {
            let hash = redis::Script::new(text).get_hash().to_owned();
            [text.as_bytes().to_vec(), hash.into_bytes()]
        };
        Twice {
            ours: named(text),
            theirs: named(&format!("{text}-- As another version has it.\n")),
        }
    })
}

/// Behind it a broker is of another version, as far as Redis can tell: what it sends has the other scripts.
struct OtherVersion {
    url: String,
    server: tokio::task::JoinHandle<()>,
}

impl OtherVersion {
    async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut near_in, mut near_out) = near.into_split();
                let (mut far_in, mut far_out) = far.into_split();
                tokio::spawn(async move {
                    let scripts = scripts();
                    let mut bytes = vec![0; 65536];
                    while let Ok(length @ 1..) = far_in.read(&mut bytes).await {
                        let mut answer = bytes[..length].to_vec();
                        learned(&scripts, &mut answer);
                        if near_out.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
                tokio::spawn(async move {
                    let scripts = scripts();
                    let mut waiting = Vec::new();
                    while let Ok(1..) = near_in.read_buf(&mut waiting).await {
                        while let Some((mut words, length)) = command(&waiting) {
                            waiting.drain(..length);
                            words.iter_mut().for_each(|word| other(&scripts, word));
                            if far_out.write_all(&encoded(&words)).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { url, server }
    }
}

impl Drop for OtherVersion {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn other(scripts: &[Twice], word: &mut Vec<u8>) {
    for script in scripts {
        for (ours, theirs) in script.ours.iter().zip(&script.theirs) {
            if word == ours {
                word.clone_from(theirs);
            }
        }
    }
}

/// Who loads a script is told its name, and would not believe another one.
fn learned(scripts: &[Twice], answer: &mut [u8]) {
    for script in scripts {
        let ([_, ours], [_, theirs]) = (&script.ours, &script.theirs);
        let found = answer.windows(theirs.len()).position(|part| part == theirs);
        if let Some(at) = found {
            answer[at..at + ours.len()].copy_from_slice(ours);
        }
    }
}

/// The first command of what a client has sent, and how long it is.
fn command(sent: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut at = 0;
    let number = |kind: u8, at: &mut usize| -> Option<usize> {
        let line = sent.get(*at..)?;
        let end = line.windows(2).position(|pair| pair == b"\r\n")?;
        assert_eq!(line[0], kind, "no command of a client");
        *at += end + 2;
        std::str::from_utf8(&line[1..end]).unwrap().parse().ok()
    };
    let count = number(b'*', &mut at)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = number(b'$', &mut at)?;
        words.push(sent.get(at..at + length)?.to_vec());
        at += length + 2;
    }
    (at <= sent.len()).then_some((words, at))
}

fn encoded(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_on_one_store_call_their_own_scripts_and_are_replaced_one_by_one() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let older = OtherVersion::before(redis.port()).await;
    let installation = Installation::start().await;
    let brokers = on_each(&installation, [&older.url, &redis.url()], 0).await;
    let load = Load::start(installation.clone(), brokers);
    let mut asked = "SCRIPT EXISTS".to_owned();
    for script in scripts() {
        for [_, hash] in [script.ours, script.theirs] {
            asked = format!("{asked} {}", String::from_utf8(hash).unwrap());
        }
    }
    load.until_there_is_a_stock().await;
    for _ in 0..5 {
        load.until_minted(5).await;
        assert_eq!(redis.command("SCRIPT FLUSH SYNC").unwrap(), "+OK\r\n");
        load.until_minted(5).await;
        load.until_ended_elsewhere(1).await;
        until("each has its own", async || {
            redis.command(&asked).unwrap() == "*4\r\n:1\r\n:1\r\n:1\r\n:1\r\n"
        })
        .await;
    }
    let (mut other, told) = load.stop(Instant::now()).await;

    // The older one is started again as the newer one, on its own export; then the other one has its turn.
    let upgraded = installation.on_redis("one", &redis.url(), "");
    let upgraded = upgraded.serve().await;
    let held = installation.issue(&other).await;
    other.signal(Signal::TERM);
    assert!(other.ended().await.success(), "{}", other.log());
    assert!(installation.is_active(&upgraded, &token(&held)).await);
    told.holds_at(&upgraded).await;
    installation.issue(&upgraded).await;
}

/// Appends what the last fence says once more, as one of a kind that only a newer version has.
async fn raise_what_is_not_known_yet(redis: &RedisServer) {
    let log = Log {
        shard: ShardId::INSTALLATION,
        name: "fences",
    };
    let store = Redis::connect(RedisSettings::new(Secret::new(redis.url())));
    let store = store.await.unwrap();
    let tail = store.tail(&log, Position::ORIGIN, 99, Duration::ZERO);
    let Ok(Tail::Entries { entries, .. }) = tail.await else {
        panic!("the fence log cannot be read");
    };
    let last = entries.last().unwrap().value.clone();
    let (version, mut body) = (last[0], last[1 + MAC_LENGTH..].to_vec());
    let kind = body.windows(5).position(|word| word == b"\xa4kill");
    body[kind.unwrap() + 1..][..4].copy_from_slice(b"wipe");
    let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
    let sealed = sealer.with_mac("fence", &body).unwrap();
    let deadline = OffsetDateTime::from_unix_timestamp(now() + 20).unwrap();
    let append = Transaction::new(ShardId::INSTALLATION, deadline)
        .revoking()
        .write(Write::Append {
            log: log.clone(),
            value: [vec![version], sealed].concat(),
        });
    let outcome = store.commit(append).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_meets_a_fence_of_a_kind_that_it_does_not_know_vouches_for_nothing() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let older = installation.on_redis("older", &redis.url(), "");
    let process = older.serve().await;
    let (held, dead) = (
        installation.issue(&process).await,
        installation.issue(&process).await,
    );
    let selector = json!({ "lease": dead["lease_id"] });
    let answer = installation.revoke(&process, selector).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(installation.is_active(&process, &token(&held)).await);
    raise_what_is_not_known_yet(&redis).await;
    until("it vouches for nothing", || async {
        let answer = installation.introspect(&process, &token(&held)).await;
        answer.status == 503
    })
    .await;
    let form = installation.good_form();
    let refused = installation.exchange(&process, &form).await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(!process.is_ready().await);
    process.until_log_says("written by a newer version").await;
    // What must end can be ended at it all the same.
    let selector = json!({ "lease": held["lease_id"] });
    let answer = installation.revoke(&process, selector).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    // It does not go on once it was started again, either.
    process.kill();
    let again = older.spawn();
    again.until_log_says("written by a newer version").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!again.is_ready().await);
}
