//! An unmodified client, over a broker that is killed and comes again.

use crate::support::broker::SERVER_SECRET;
use crate::support::process::{Installation, PATIENCE};
use crate::support::tools;
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Value> {
    let line = tokio::time::timeout(PATIENCE, lines.next_line());
    let line = line.await.expect("nothing more is told").unwrap()?;
    Some(serde_json::from_str(&line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn eventsource_loses_nothing_and_repeats_nothing_over_a_restart_of_the_broker() {
    let Some(folder) = tools::node_folder() else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let broker = replica.serve().await;
    let script = folder.join(format!("{}-eventsource.mjs", dayfly::ids::draw_uuid()));
    std::fs::copy(tools::script("eventsource_client.mjs"), &script).unwrap();
    let mut client = Command::new("node")
        .arg(&script)
        .args([&broker.base, "deploy-api", SERVER_SECRET, "revoked"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(line(&mut lines).await.unwrap()["kind"], "ready");
    let mut issued = Vec::new();
    for _ in 0..3 {
        issued.push(installation.issue(&broker).await["lease_id"].clone());
    }
    let first = line(&mut lines).await.unwrap();
    assert_eq!(first["kind"], "issued");
    // Whatever was on its way is told after the last that came.
    broker.kill();
    let broker = replica.serve().await;
    for _ in 0..3 {
        issued.push(installation.issue(&broker).await["lease_id"].clone());
    }
    let lease = json!({ "lease": issued[0] });
    assert_eq!(
        installation.revoke(&broker, lease).await.unwrap().status,
        200
    );
    let mut told = vec![first];
    while let Some(event) = line(&mut lines).await {
        told.push(event);
    }
    std::fs::remove_file(&script).unwrap();
    let of = |kind: &str| {
        let own = told.iter().filter(|event| event["kind"] == kind);
        own.map(|event| event["data"]["jti"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("issued"), issued, "each once, in order: {told:?}");
    assert_eq!(of("revoked"), [issued[0].clone()]);
    assert_eq!(of("gap"), [] as [Value; 0]);
}
