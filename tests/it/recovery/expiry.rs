//! What nobody can end is on record all the same, also after everything was lost.

use super::{on_redis, recover};
use crate::support::cloud;
use crate::support::moto::Moto;
use crate::support::process::Installation;
use crate::support::redis::RedisServer;
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn after_a_total_loss_a_session_that_nobody_can_end_is_on_record_until_it_expires() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let Some(moto) = Moto::start(true).await else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.on_redis("one", &redis.url(), &cloud::mission(&moto, &moto.url));
    cloud::secrets(&moto, &replica.folder);
    let mut process = replica.serve().await;
    let detail = json!({
        "type": "aws_session", "identifier": "aws-prod",
        "actions": ["s3:ListAllMyBuckets"], "locations": ["*"],
    });
    let form = installation.form_with_mission("look-around", &detail);
    let session = installation.exchange(&process, &form).await.unwrap();
    assert_eq!(session.status, 200, "{}\n{}", session.body, process.log());
    let session = session.body;
    let before = installation.open_leases(&process, "aws-prod").await;
    process.signal(Signal::TERM);
    assert!(process.ended().await.success());

    assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
    for (again, count) in [(false, 1), (true, 0)] {
        let done: Value = serde_json::from_str(&recover(&replica, &[]).await.is(0).out).unwrap();
        let counted = done["leases_until_expiry"].as_u64().unwrap();
        assert_eq!((counted, again), (count, again), "{done}");
        assert_eq!(done["leases_to_end"], 0, "{done}");
        assert_eq!(done["leases_by_hand"], json!([]), "{done}");
    }

    let process = replica.serve().await;
    let open = installation.open_leases(&process, "aws-prod").await;
    assert_eq!(open.len(), 1, "{open:?}");
    let lease = &open[0];
    for field in ["id", "agent", "mission", "target", "owner", "expires_at"] {
        assert_eq!(lease[field], before[0][field], "{field}: {lease}");
    }
    assert_eq!(lease["id"], session["lease_id"]);
    assert_eq!(lease["state"], "revoking", "{lease}");
    // By what AWS calls it, and in what an end would reach.
    let key = &session["credential"]["access_key_id"];
    assert!(key.is_string());
    for query in [key, &session["lease_id"]] {
        let found = installation.admin(&process, "POST", "/find", Some(json!({ "query": query })));
        let found = found.await.unwrap();
        assert_eq!(found.status, 200, "{query}: {}", found.body);
        let text = found.body.to_string();
        assert!(
            text.contains(session["lease_id"].as_str().unwrap()),
            "{text}"
        );
    }
    let body = json!({ "selector": { "agent": "deployer" }, "reason": "a test says so" });
    let asked = installation.admin(&process, "POST", "/revocations?dry_run=true", Some(body));
    let asked = asked.await.unwrap();
    assert_eq!(asked.status, 200, "{}", asked.body);
    assert_eq!(asked.body["leases"], json!({ "expiry": 1 }));
    assert_eq!(asked.body["targets"], json!(["aws-prod"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_target_of_the_configuration_can_end_is_named_for_whoever_ends_it_by_hand() {
    let Some((redis, world)) = on_redis().await else {
        return;
    };
    let process = world.replica.serve().await;
    let login = world.login(&process).await;
    world.stop(process).await;
    assert!(redis.command("FLUSHALL").unwrap().starts_with("+OK"));
    std::fs::write(world.replica.folder.join("more.toml"), "").unwrap();
    let done = world.recover().await;
    assert_eq!(done["leases_by_hand"], json!([login["lease_id"]]), "{done}");
    assert_eq!(done["leases_to_end"], 0, "{done}");
    assert!(world.exists(&login).await);
}
