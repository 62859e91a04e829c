//! The same store on Valkey, and on a primary and a replica that are not the same program.

use super::network::Network;
use super::support::valkey;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds_on_valkey_with_a_replica() {
    let Some(valkey) = valkey() else {
        return;
    };
    let server = RedisServer::start_as(&valkey, AOF).unwrap().unwrap();
    let port = server.port().to_string();
    let follow = ["--replicaof", "127.0.0.1", &port];
    let _replica = RedisServer::start_as(&valkey, &follow).unwrap().unwrap();
    server.until_followed_by(1).unwrap();
    let mut settings = settings(&server);
    settings.min_replicas = 1;
    let store = Arc::new(Redis::connect(settings).await.unwrap());
    assert_eq!(unfit(&store).await, [""; 0]);
    conformance::exercise(store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_replica_takes_over_from_an_older_primary() {
    let Some(valkey) = valkey() else {
        return;
    };
    let old = server!(AOF);
    let port = old.port().to_string();
    let follow = [AOF, &["--replicaof", "127.0.0.1", &port]].concat();
    let new = RedisServer::start_as(&valkey, &follow).unwrap().unwrap();
    old.until_followed_by(1).unwrap();
    let network = Network::to(old.port()).await;
    let mut settings = RedisSettings::new(Secret::new(network.url.clone()));
    settings.min_replicas = 1;
    let store = Redis::connect(settings).await.unwrap();
    assert!(is_applied(&store.commit(write(b"before")).await));
    // The upgrade: the newer one is promoted, an equal one follows it, the old one goes.
    new.command("REPLICAOF NO ONE").unwrap();
    let port = new.port().to_string();
    let follow = ["--replicaof", "127.0.0.1", &port];
    let _next = RedisServer::start_as(&valkey, &follow).unwrap().unwrap();
    new.until_followed_by(1).unwrap();
    network.lead_to(new.port());
    drop(old);
    let mut applied = false;
    for number in 0..100 {
        let name = format!("after {number}");
        applied = is_applied(&store.commit(write(name.as_bytes())).await);
        if applied {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(applied);
    assert!(store.get(&[key(b"before")]).await.unwrap()[0].is_some());
    let tail = store
        .tail(&log(), Position::ORIGIN, 9, Duration::ZERO)
        .await;
    let Ok(Tail::Entries { entries, .. }) = tail else {
        panic!("{tail:?}");
    };
    assert_eq!(entries[0].value, b"before");
}
