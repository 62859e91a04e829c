//! The store goes away, comes back, loses everything, or was never fit: nothing is minted and
//! nothing is vouched for on a store that cannot be trusted.

use crate::support::broker::Answer;
use crate::support::process::{Installation, Process, until};
use crate::support::redis::RedisServer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::Duration;

const DURABLE: [&str; 2] = ["--appendonly", "yes"];

fn token(issued: &Value) -> &str {
    issued["access_token"].as_str().unwrap()
}

/// "Later", and when.
fn assert_later(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.error(), "temporarily_unavailable");
    let seconds: u32 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert!(answer.body.get("access_token").is_none());
}

async fn health(installation: &Installation, process: &Process, path: &str) -> u16 {
    let url = format!("{}{path}", process.health);
    installation
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

async fn until_ready(installation: &Installation, process: &Process) {
    until("readiness", || async {
        health(installation, process, "/readyz").await == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_it_says_later_and_with_it_it_goes_on() {
    let Some(mut redis) = RedisServer::start(&DURABLE).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let process = installation.on_redis("one", &redis.url(), "").serve().await;
    let before = installation.issue(&process).await;
    let dead = installation.issue(&process).await;
    let selector = serde_json::json!({ "lease": dead["lease_id"] });
    let answer = installation
        .revoke(&process, selector.clone())
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);

    redis.kill();
    let form = installation.good_form();
    for _ in 0..3 {
        let answer = installation.exchange(&process, &form).await.unwrap();
        assert_later(&answer);
        // Neither alive nor dead: it does not know.
        assert_later(&installation.introspect(&process, token(&before)).await);
        assert_later(&installation.introspect(&process, token(&dead)).await);
        assert_later(
            &installation
                .revoke(&process, selector.clone())
                .await
                .unwrap(),
        );
    }
    assert_eq!(health(&installation, &process, "/livez").await, 200);
    assert_eq!(health(&installation, &process, "/readyz").await, 503);
    // Nor does it tell for long what was true before.
    let list = || async {
        let answer = installation.http.get(format!("{}/status/0", process.base));
        Answer::of(answer.send().await.unwrap()).await
    };
    until("no status list", || async { list().await.status != 200 }).await;
    assert_later(&list().await);

    redis.run().unwrap();
    until_ready(&installation, &process).await;
    until("a status list", || async { list().await.status == 200 }).await;
    assert!(installation.is_active(&process, token(&before)).await);
    assert!(!installation.is_active(&process, token(&dead)).await);
    // The very form that was refused: nothing was minted for it and nothing was spent.
    let answer = installation.exchange(&process, &form).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut leases = installation.open_leases(&process, "deploy-api").await;
    leases.retain(|lease| lease["alive"] == true);
    let ids: Vec<_> = leases.iter().map(|lease| &lease["id"]).collect();
    assert_eq!(leases.len(), 2, "{leases:?}");
    assert!(ids.contains(&&before["lease_id"]) && ids.contains(&&answer.body["lease_id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_keeps_nobody_waiting_for_long() {
    let Some(redis) = RedisServer::start(&DURABLE).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let process = installation.on_redis("one", &redis.url(), "").serve().await;
    let issued = installation.issue(&process).await;
    // It accepts connections and says nothing.
    let told = redis.command("INFO server").unwrap();
    let pid = told
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"));
    let pid = Pid::from_raw(pid.unwrap().trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let form = installation.good_form();
    assert_later(&installation.exchange(&process, &form).await.unwrap());
    assert_later(&installation.introspect(&process, token(&issued)).await);
    assert_eq!(health(&installation, &process, "/livez").await, 200);
    assert_eq!(health(&installation, &process, "/readyz").await, 503);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    kill_process(pid, Signal::CONT).unwrap();
    until_ready(&installation, &process).await;
    assert!(installation.is_active(&process, token(&issued)).await);
    let answer = installation.exchange(&process, &form).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// It answers, is the primary, and does nothing that it is told: not even a revocation. A full one still says
/// of itself that it is the one; one that lacks its replicas does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_takes_no_writes_acknowledges_nothing_and_is_used_again_when_it_does() {
    const BOUND: Duration = Duration::from_secs(4);
    let Some(redis) = RedisServer::start(&DURABLE).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.on_redis("one", &redis.url(), "");
    // A busy machine is late by itself now and then.
    let store = "redis = \"file:../redis.url\"";
    let aged = format!("fence_view_max_age = \"{}s\"", BOUND.as_secs());
    replica.edit(store, &format!("{store}, {aged}"));
    let process = replica.serve().await;
    let set = |words: &str| {
        let told = redis.command(&format!("CONFIG SET {words}")).unwrap();
        assert!(told.starts_with("+OK"), "{words}: {told}");
    };
    for (off, on, vouches) in [
        ("maxmemory 1", "maxmemory 0", true),
        ("min-replicas-to-write 1", "min-replicas-to-write 0", false),
    ] {
        let kept = installation.issue(&process).await;
        let doomed = installation.issue(&process).await;
        let selector = serde_json::json!({ "lease": doomed["lease_id"] });
        set(off);
        let form = installation.good_form();
        assert_later(&installation.exchange(&process, &form).await.unwrap());
        let refused = installation.revoke(&process, selector.clone()).await;
        assert_later(&refused.unwrap());
        if vouches {
            tokio::time::sleep(BOUND + Duration::from_secs(1)).await;
            assert!(installation.is_active(&process, token(&kept)).await);
        } else {
            until("it vouches for nothing", || async {
                let told = installation.introspect(&process, token(&kept)).await;
                told.status == 503
            })
            .await;
            assert_eq!(health(&installation, &process, "/readyz").await, 503);
        }

        set(on);
        until_ready(&installation, &process).await;
        until("it is acknowledged", || async {
            let ended = installation.revoke(&process, selector.clone()).await;
            ended.unwrap().status == 200
        })
        .await;
        assert!(!installation.is_active(&process, token(&doomed)).await);
        assert!(installation.is_active(&process, token(&kept)).await);
        // The very form: nothing was spent. How full it is, is looked at every now and then.
        until("it mints", || async {
            let again = installation.exchange(&process, &form).await.unwrap();
            assert!([200, 503].contains(&again.status), "{off}: {}", again.body);
            again.status == 200
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_emptied_vouches_for_nothing() {
    let Some(redis) = RedisServer::start(&DURABLE).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.on_redis("one", &redis.url(), "");
    let process = replica.serve().await;
    let issued = installation.issue(&process).await;
    let dead = installation.issue(&process).await;
    let selector = serde_json::json!({ "lease": dead["lease_id"] });
    let answer = installation.revoke(&process, selector).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    // What happened is sealed and exported.
    let export = replica.folder.join("audit.jsonl");
    until("the export", || async {
        std::fs::read_to_string(&export).is_ok_and(|text| text.contains("a test says so"))
    })
    .await;

    assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
    let answer = installation
        .exchange(&process, &installation.good_form())
        .await
        .unwrap();
    assert_later(&answer);
    for issued in [&issued, &dead] {
        let answer = installation.introspect(&process, token(issued)).await;
        assert_ne!(answer.body["active"], true);
        assert_later(&answer);
    }
    assert_eq!(health(&installation, &process, "/livez").await, 200);
    until("unreadiness", || async {
        health(&installation, &process, "/readyz").await == 503
    })
    .await;
    drop(process);

    // A new process cannot tell an emptied store from a new one; the audit can.
    let mut again = replica.spawn();
    let status = again.ended().await;
    assert!(!status.success(), "{}", again.log());
    assert!(again.log().contains("audit"), "{}", again.log());
}

/// `serve` ends by itself, with an error that says this.
async fn assert_refuses_to_start(url: &str, words: &str) {
    let installation = Installation::start().await;
    let mut process = installation.on_redis("one", url, "").spawn();
    let status = process.ended().await;
    assert!(!status.success());
    assert!(process.log().contains(words), "{}", process.log());
    let reached = installation
        .http
        .get(format!("{}/livez", process.health))
        .send()
        .await;
    assert!(reached.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_may_evict_leases_is_refused() {
    let arguments = ["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"];
    let Some(redis) = RedisServer::start(&arguments).unwrap() else {
        return;
    };
    assert_refuses_to_start(&redis.url(), "set `maxmemory-policy noeviction`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_everything_when_it_restarts_is_refused() {
    let Some(redis) = RedisServer::start(&[]).unwrap() else {
        return;
    };
    assert_refuses_to_start(&redis.url(), "set `appendonly yes`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_redis_is_refused() {
    let Some(primary) = RedisServer::start(&DURABLE).unwrap() else {
        return;
    };
    let port = primary.port().to_string();
    let arguments = ["--appendonly", "yes", "--replicaof", "127.0.0.1", &port];
    let replica = RedisServer::start(&arguments).unwrap().unwrap();
    assert_refuses_to_start(&replica.url(), "point it at the primary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_refused() {
    let port = crate::support::process::free_port();
    assert_refuses_to_start(&format!("redis://127.0.0.1:{port}"), "Redis").await;
}
