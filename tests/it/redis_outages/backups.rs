//! An older copy of what Redis had on its disk is put back.

use super::load::{Load, on};
use crate::support::process::Installation;
use crate::support::redis::RedisServer;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_run_tell_a_redis_that_was_put_back_what_it_has_forgotten() {
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &redis.url(), 0).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    let copied = Instant::now();
    let backup = redis.backup().unwrap();
    load.until_minted(40).await;
    redis.put_back(backup.path()).unwrap();
    load.until_minted(20).await;
    let (installation, _other, dead) = load.finish(copied).await;

    // One that knows nothing but the store: what was forgotten has been put back into it.
    let fresh = installation
        .on_redis("fresh", &redis.url(), "")
        .serve()
        .await;
    for token in &dead {
        assert!(!installation.is_active(&fresh, token).await);
    }
}
