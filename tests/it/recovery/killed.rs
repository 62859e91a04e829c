//! Nothing ends in order here: the broker is killed under load, and so is whoever makes good what was lost.

use super::{World, on_redis, recover};
use crate::support::process::{Process, spawn, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What is not exported after this is lost with the store, and that is documented.
const EXPORTED: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Load {
    /// Logins that somebody was given, and when.
    given: Mutex<Vec<(Value, Instant)>>,
    /// Those of them that somebody was told are dead.
    ended: Mutex<Vec<Value>>,
}

/// Four workers that get logins until nobody answers; one of them ends what it gets.
fn mint_and_end(
    world: &Arc<World>,
    load: &Arc<Load>,
    process: &Arc<Process>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut all = Vec::new();
    for worker in 0..4 {
        let (world, load, process) = (world.clone(), load.clone(), process.clone());
        all.push(tokio::spawn(async move {
            loop {
                let form = world.form();
                let Ok(answer) = world.installation.exchange(&process, &form).await else {
                    return;
                };
                if answer.status != 200 {
                    continue;
                }
                let login = answer.body;
                load.given
                    .lock()
                    .await
                    .push((login.clone(), Instant::now()));
                if worker == 0 {
                    let selector = json!({ "lease": login["lease_id"] });
                    let ended = world.installation.revoke(&process, selector).await;
                    if ended.is_ok_and(|answer| answer.status == 200) {
                        load.ended.lock().await.push(login);
                    }
                }
            }
        }));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_loss_under_load_forgets_nothing_that_was_exported() {
    let Some((redis, world)) = on_redis().await else {
        return;
    };
    let (world, load) = (Arc::new(world), Arc::new(Load::default()));
    let process = Arc::new(world.replica.serve().await);
    let all = mint_and_end(&world, &load, &process);
    // Longer than what is not exported yet, and until there is enough to lose.
    tokio::time::sleep(2 * EXPORTED).await;
    until("there is enough", || async {
        load.given.lock().await.len() > 12 && load.ended.lock().await.len() > 2
    })
    .await;
    process.signal(rustix::process::Signal::KILL);
    let killed = Instant::now();
    for one in all {
        one.await.unwrap();
    }
    drop(process);
    assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
    let export = std::fs::read_to_string(world.replica.folder.join("audit.jsonl")).unwrap();
    let (given, ended) = (load.given.lock().await, load.ended.lock().await);
    let (mut told, mut untold) = (Vec::new(), Vec::new());
    for (login, at) in given.iter() {
        match export.contains(login["lease_id"].as_str().unwrap()) {
            true => told.push(login),
            false => {
                assert!(
                    killed.duration_since(*at) < EXPORTED,
                    "{login} is in no export"
                );
                untold.push(login);
            }
        }
    }
    // Also what somebody was told is dead, which the store alone remembered.
    let dead = |login: &&Value| ended.contains(*login);
    assert!(told.iter().filter(|login| dead(login)).count() > 0);

    let done = world.recover().await;
    let open = done["leases_to_end"].as_u64().unwrap();
    assert!(open > 0, "{done}");
    let process = world.replica.serve().await;
    let mut left = Vec::new();
    for login in told {
        let within = Instant::now() + Duration::from_secs(60);
        while can_login(&world, login).await && Instant::now() < within {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if can_login(&world, login).await {
            let id = login["lease_id"].as_str().unwrap();
            left.push((id.to_owned(), world.installation.lease(&process, id).await));
        }
    }
    assert!(left.is_empty(), "{left:?}");
    // The rest has no record: a login that the export does not tell of is known to the target alone.
    for login in untold {
        let id = login["lease_id"].as_str().unwrap();
        let shown = world.installation.lease(&process, id).await;
        assert!(shown.is_null(), "{shown}");
    }
}

/// Whether anybody gets in by it: what cannot be cleared away at once is rubbish, and no login.
async fn can_login(world: &World, login: &Value) -> bool {
    let role = login["lease_id"].as_str().unwrap();
    let query = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}' AND rolcanlogin");
    world.server.ask(&query).await == 1
}

/// How many leases lie in the store.
fn written(redis: &crate::support::redis::RedisServer) -> usize {
    let found = redis.command("KEYS *lease/*").unwrap();
    let count = found
        .strip_prefix('*')
        .and_then(|rest| rest.split_once('\r'));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

const LOGINS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_recovers_may_be_killed_half_way_and_goes_on() {
    let Some((redis, world)) = on_redis().await else {
        return;
    };
    let process = world.replica.serve().await;
    let mut logins = Vec::new();
    for _ in 0..LOGINS {
        logins.push(world.login(&process).await);
    }
    let selector = json!({ "mission": "deploy-checkout" });
    world.revoked(&process, selector).await;
    world.stop(process).await;
    assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
    assert!(half_way(&redis, &world), "it was never killed half-way");
    // No broker starts on what is half made good.
    world.refuses_to_start().await;
    let found = written(&redis);
    let done = recover(&world.replica, &[]).await;
    let done: Value = serde_json::from_str(&done.is(0).out).unwrap();
    // Those that lay there already are not written twice.
    assert_eq!(done["leases_to_end"], LOGINS - found, "{done}");
    assert_eq!(done["fences"], 0, "they were raised first: {done}");
    let process = world.replica.serve().await;
    for login in &logins {
        until("its end", || async { !world.exists(login).await }).await;
    }
    let form = world.installation.good_form();
    let held = world.installation.exchange(&process, &form).await.unwrap();
    assert_eq!(held.reason(), "held", "{}", held.body);
}

/// SIGKILL once some leases are written and some are not.
fn half_way(redis: &crate::support::redis::RedisServer, world: &World) -> bool {
    let folder = world.replica.folder.clone();
    let arguments = [
        "recover",
        "--config",
        folder.to_str().unwrap(),
        "--i-understand",
    ];
    let process = spawn(&arguments, &folder, &world.replica);
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if written(redis) > 0 {
            process.kill();
            return (1..LOGINS).contains(&written(redis));
        }
    }
    false
}
