//! Everybody who could say which server is the primary is gone.

use super::freeze_and_thaw;
use super::load::{Load, on};
use crate::support::process::{Installation, until};
use crate::support::redis::Watched;

#[tokio::test(flavor = "multi_thread")]
async fn without_any_sentinel_the_primary_that_is_known_is_used_and_no_other_is_looked_for() {
    let Some(mut watched) = Watched::start().unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &watched.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    // Whoever ends has connections of its own: both brokers have some by then.
    load.until_ended_elsewhere(20).await;
    for sentinel in &mut watched.sentinels {
        sentinel.kill();
    }
    // Nobody is asked while the connections hold.
    load.until_minted(40).await;
    load.until_ended_elsewhere(5).await;
    // Where they break nobody says where to connect to, though the primary is where it was.
    watched.servers[0]
        .command("CLIENT KILL TYPE normal")
        .unwrap();
    load.until_refused(10).await;
    for sentinel in &mut watched.sentinels {
        sentinel.run().unwrap();
    }
    load.until_minted(20).await;
    load.until_ended_elsewhere(5).await;
    // They watch as before.
    for sentinel in &watched.sentinels {
        sentinel.until_it_knows_the_others("").unwrap();
    }
    freeze_and_thaw(&watched, &load).await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_lost_while_there_is_no_sentinel_is_used_again_when_it_is_back() {
    let Some(mut watched) = Watched::start().unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let brokers = on(&installation, &watched.url(), 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    for sentinel in &mut watched.sentinels {
        sentinel.kill();
    }
    watched.servers[0].kill();
    load.until_refused(10).await;
    assert!(watched.heir().is_none(), "nobody has promoted a replica");
    watched.servers[0].run().unwrap();
    watched.servers[0].until_followed_by(2).unwrap();
    // It is there, and who says so is not.
    load.until_refused(10).await;
    for sentinel in &mut watched.sentinels {
        sentinel.run().unwrap();
    }
    load.until_minted(20).await;
    until("nobody else is the primary", || async {
        watched.heir().is_none()
    })
    .await;
    load.finish().await;
}
