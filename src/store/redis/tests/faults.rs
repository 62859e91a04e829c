//! Servers and networks that do what they should not: nobody waits for long, nothing is believed that
//! is not so, and it goes on by itself.

use super::network::Network;
use super::*;
use tokio::time::Instant;

/// Short times, so that tests are.
fn hurried(url: String) -> RedisSettings {
    RedisSettings {
        connect_timeout: Duration::from_millis(200),
        response_timeout: Duration::from_millis(200),
        replica_timeout: Duration::from_millis(100),
        retry_budget: Duration::from_millis(600),
        ..RedisSettings::new(Secret::new(url))
    }
}

/// Before anything is shown: a busy machine may take longer than the short times.
async fn connect(settings: RedisSettings) -> Redis {
    let begun = Instant::now();
    loop {
        match Redis::connect(settings.clone()).await {
            Ok(store) => return store,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The budget, and what a loaded machine adds to it.
const AT_MOST: Duration = Duration::from_millis(1500);

async fn until_applied(store: &Redis, name: &str) {
    let begun = Instant::now();
    for number in 0.. {
        let name = format!("{name} {number}");
        let outcome = store.commit(write(name.as_bytes())).await;
        if is_applied(&outcome) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{outcome:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn half_open_connections_are_left_within_the_budget() {
    let server = server!(&[]);
    let network = Network::to(server.port()).await;
    let store = connect(hurried(network.url.clone())).await;
    let tail = async || {
        store
            .tail(&log(), Position::ORIGIN, 99, Duration::ZERO)
            .await
    };
    assert!(is_applied(&store.commit(write(b"before")).await));
    assert!(tail().await.is_ok());
    network.cut();
    // The first try runs into the dead connection, the second one makes a new one.
    let begun = Instant::now();
    assert!(is_applied(&store.commit(write(b"after")).await));
    assert!(store.get(&[key(b"after")]).await.unwrap()[0].is_some());
    assert!(tail().await.is_ok());
    assert!(begun.elapsed() < AT_MOST * 2, "{:?}", begun.elapsed());

    network.cut_for_good();
    let begun = Instant::now();
    let outcome = store.commit(write(b"cut")).await;
    assert!(
        matches!(
            outcome,
            Err(StoreError::Unknown | StoreError::Unavailable(_))
        ),
        "{outcome:?}"
    );
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    assert!(tail().await.is_err());
    network.mend();
    until_applied(&store, "mended").await;
}

#[tokio::test]
async fn slow_answers_are_waited_for_as_long_as_the_budget_says() {
    let server = server!(&[]);
    let network = Network::to(server.port()).await;
    let store = connect(hurried(network.url.clone())).await;
    assert!(is_applied(&store.commit(write(b"before")).await));
    network.delay(80);
    assert!(is_applied(&store.commit(write(b"slow")).await));
    network.delay(5000);
    let begun = Instant::now();
    let too_slow = write(b"too slow");
    assert!(!is_applied(&store.commit(too_slow.clone()).await));
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    network.delay(0);
    until_applied(&store, "after").await;
    // Whatever became of it, sent again as it is it was applied once.
    assert!(is_applied(&store.commit(too_slow).await));
    let tail = store
        .tail(&log(), Position::ORIGIN, 99, Duration::ZERO)
        .await;
    let Ok(Tail::Entries { entries, .. }) = tail else {
        panic!("{tail:?}");
    };
    let times = entries.iter().filter(|entry| entry.value == b"too slow");
    assert_eq!(times.count(), 1);
}

#[tokio::test]
async fn a_frozen_primary_is_given_up_and_found_again() {
    let server = server!(&[]);
    let store = connect(hurried(server.url())).await;
    assert!(is_applied(&store.commit(write(b"before")).await));
    server.freeze();
    for name in [b"a", b"b", b"c"] {
        let begun = Instant::now();
        assert!(!is_applied(&store.commit(write(name)).await));
        assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert!(store.get(&[key(name)]).await.is_err());
        assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    }
    server.thaw();
    until_applied(&store, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_shed_and_revocation_gets_through_it() {
    let server = server!(&[]);
    let port = server.port().to_string();
    let _replica = server!(&["--replicaof", "127.0.0.1", &port]);
    server.until_followed_by(1).unwrap();
    let network = Network::to(server.port()).await;
    // Longer than elsewhere, all of them: what is shown is who waits, not how fast a busy machine is.
    let settings = RedisSettings {
        min_replicas: 1,
        connect_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(1),
        replica_timeout: Duration::from_millis(500),
        retry_budget: Duration::from_secs(3),
        ..RedisSettings::new(Secret::new(network.url.clone()))
    };
    let at_most = settings.retry_budget * 5 / 2;
    let store = Arc::new(connect(settings).await);
    until_applied(&store, "before").await;
    // Each takes longer than the server needs for it: four times as many as there are connections.
    network.delay(600);
    let begun = Instant::now();
    let flood: Vec<_> = (0..1024_u32)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(write(&number.to_be_bytes())).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let revoked = store.commit(write(b"revoke").revoking()).await;
    assert!(is_applied(&revoked), "{revoked:?}");
    let (mut applied, mut shed) = (0, 0);
    for call in flood {
        match call.await.unwrap() {
            Ok(Outcome::Applied { .. }) => applied += 1,
            Err(StoreError::Unavailable(_) | StoreError::Unknown) => shed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() < at_most * 3, "{:?}", begun.elapsed());
    assert!(applied > 0 && shed > 0, "{applied} applied, {shed} shed");
    network.delay(0);
    until_applied(&store, "after").await;
}

#[tokio::test]
async fn a_server_in_trouble_is_not_hammered() {
    let server = server!(&[]);
    let network = Network::to(server.port()).await;
    let store = connect(hurried(network.url.clone())).await;
    assert!(is_applied(&store.commit(write(b"before")).await));
    // Whoever comes is sent away.
    network.lead_to(1);
    network.cut();
    let before = network.accepted();
    let until = Instant::now() + Duration::from_secs(2);
    let mut calls = 0;
    while Instant::now() < until {
        assert!(store.get(&[key(b"before")]).await.is_err());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tries = network.accepted() - before;
    assert!(tries < 16, "{tries} connections");
    assert!(
        calls > 100,
        "{calls} calls: they do not wait for each other"
    );
    network.lead_to(server.port());
    until_applied(&store, "after").await;
}

#[tokio::test]
async fn a_promoted_replica_is_taught_the_scripts() {
    let server = server!(AOF);
    let port = server.port().to_string();
    let replica = server!(&["--replicaof", "127.0.0.1", &port]);
    server.until_followed_by(1).unwrap();
    let network = Network::to(server.port()).await;
    let store = connect(hurried(network.url.clone())).await;
    assert!(is_applied(&store.commit(write(b"before")).await));
    for spoil in ["SCRIPT FLUSH SYNC", "FUNCTION FLUSH SYNC"] {
        assert_eq!(server.command(spoil).unwrap(), "+OK\r\n");
        until_applied(&store, spoil).await;
    }
    // As a failover would have it: the scripts were never run there.
    replica.command("REPLICAOF NO ONE").unwrap();
    server
        .command(&format!("REPLICAOF 127.0.0.1 {}", replica.port()))
        .unwrap();
    network.lead_to(replica.port());
    until_applied(&store, "after").await;
    assert!(store.get(&[key(b"before")]).await.unwrap()[0].is_some());
}
