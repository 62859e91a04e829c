//! An older copy of what Redis had on its disk is put back.

use super::load::{Load, on, token};
use crate::support::process::{Installation, PATIENCE, Process};
use crate::support::redis::RedisServer;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// A busy machine may be too late with its view: then nothing was made.
async fn issued(installation: &Installation, at: &Process) -> Value {
    let begun = Instant::now();
    loop {
        let form = installation.good_form();
        let answer = installation.exchange(at, &form).await.unwrap();
        if answer.status == 200 {
            return answer.body;
        }
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(begun.elapsed() < PATIENCE, "{}", at.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_run_tell_a_redis_that_was_put_back_what_it_has_forgotten() {
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &redis.url(), 0).await;
    // The copy has all of these, and not that half of them is ended.
    let mut older = Vec::new();
    let [one, other] = &brokers.processes;
    for at in [one, one, other, other] {
        older.push(issued(&installation, at).await);
    }
    let load = Load::start(installation.clone(), brokers);
    load.until_minted(20).await;
    let copied = Instant::now();
    let backup = redis.backup().unwrap();
    for issued in older.iter().step_by(2) {
        load.end(issued).await;
    }
    load.until_minted(40).await;
    // Some of what the copy lacks is sealed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.put_back(backup.path()).unwrap();
    load.until_minted(20).await;
    let (other, told) = load.stop(copied).await;

    // One that knows nothing but the store: what was forgotten has been put back into it.
    let fresh = told.holds_at_a_stranger().await;
    for (number, issued) in older.iter().enumerate() {
        for at in [&other, &fresh] {
            let alive = installation.is_active(at, &token(issued)).await;
            assert_eq!(alive, number % 2 == 1, "{number}");
        }
    }
}
