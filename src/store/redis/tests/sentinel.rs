//! Sentinel: who is the primary is asked, and checked.

use super::super::nodes::Nodes;
use super::support::Watched;
use super::*;

fn settings(watched: &Watched) -> RedisSettings {
    RedisSettings {
        min_replicas: 1,
        retry_budget: Duration::from_millis(500),
        response_timeout: Duration::from_millis(300),
        ..RedisSettings::new(Secret::new(watched.url()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed_and_the_old_primary_is_never_believed() {
    let Some(watched) = Watched::start().unwrap() else {
        return;
    };
    let store = Redis::connect(settings(&watched)).await.unwrap();
    assert_eq!(unfit(&store).await, [""; 0]);
    assert!(is_applied(&store.commit(write(b"before")).await));
    let old = &watched.servers[0];
    old.freeze();
    let mut names = Vec::new();
    for number in 0..400 {
        let name = format!("after {number}").into_bytes();
        if is_applied(&store.commit(write(&name)).await) {
            names.push(name);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(names.len(), 1, "no failover was followed");
    // It wakes up and takes itself for the primary still.
    old.thaw();
    for number in 0..100 {
        let name = format!("later {number}").into_bytes();
        if is_applied(&store.commit(write(&name)).await) {
            names.push(name);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(names.len() > 50, "{}", names.len());
    names.push(b"before".to_vec());
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    let found = store.get(&keys).await.unwrap();
    assert!(
        found.iter().all(Option::is_some),
        "an acknowledged commit is lost"
    );
}

/// Between two looks at the sentinels one connection may have been made anew, and the others not.
#[tokio::test]
async fn a_new_connection_to_a_new_primary_does_not_hide_the_old_ones() {
    let (one, two) = (server!(AOF), server!(AOF));
    let sentinel = RedisServer::sentinel(one.port()).unwrap();
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port());
    let settings = RedisSettings {
        min_replicas: 1,
        ..RedisSettings::new(Secret::new(url))
    };
    let nodes = Nodes::open(&settings).await.unwrap();
    let node = nodes.of(shard(3)).unwrap();
    let before = node.mint.shared.get(&node.connector).await.unwrap();
    let lent = node
        .mint
        .replicated
        .lend(&node.connector, settings.connect_timeout);
    let lent = lent.await.unwrap();
    assert_eq!(lent.needed().unwrap().count(), 1);
    nodes.look_after().await;
    let still = node.mint.shared.get(&node.connector).await.unwrap();
    assert_eq!(still.0, before.0, "nothing has moved");

    sentinel.command("SENTINEL REMOVE main").unwrap();
    let other = format!("SENTINEL MONITOR main 127.0.0.1 {} 1", two.port());
    assert_eq!(sentinel.command(&other).unwrap(), "+OK\r\n");
    node.readers.get(&node.connector).await.unwrap();
    assert!(node.name().ends_with(&two.port().to_string()));
    // What the sentinels say from here on is about another primary than the one that this leads to.
    let error = lent.needed().unwrap_err();
    assert!(
        error.to_string().contains(&one.port().to_string()),
        "{error}"
    );
    drop(lent);
    nodes.look_after().await;
    let after = node.mint.shared.get(&node.connector).await.unwrap();
    assert_ne!(after.0, before.0, "it leads to the old primary still");
    nodes.look_after().await;
    let still = node.mint.shared.get(&node.connector).await.unwrap();
    assert_eq!(still.0, after.0, "and it was left once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_than_half_of_the_sentinels_are_not_believed() {
    let Some(mut watched) = Watched::start().unwrap() else {
        return;
    };
    let unknown = RedisSettings {
        url: Secret::new(watched.url().replace("/main", "/other")),
        ..settings(&watched)
    };
    let error = Redis::connect(unknown).await.unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::UnknownPrimary, "{error}");
    let alone = RedisSettings {
        min_replicas: 0,
        ..settings(&watched)
    };
    let error = Redis::connect(alone).await.unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::NeedsMinReplicas, "{error}");
    let sentinel = RedisSettings::new(Secret::new(watched.sentinels[0].url()));
    let error = Redis::connect(sentinel).await.unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::OtherKind, "{error}");

    // A sentinel that names another server, and is asked first.
    let other = RedisServer::start(&["--appendonly", "yes"])
        .unwrap()
        .unwrap();
    let liar = RedisServer::sentinel(other.port()).unwrap();
    let asked = |others: &[&RedisServer]| {
        let all = std::iter::once(&liar).chain(others.iter().copied());
        let places: Vec<_> = all.map(|one| format!("127.0.0.1:{}", one.port())).collect();
        RedisSettings {
            url: Secret::new(format!("redis+sentinel://{}/main", places.join(","))),
            ..settings(&watched)
        }
    };
    let [one, two, _] = watched.sentinels.as_slice() else {
        panic!("three sentinels");
    };
    let error = Redis::connect(asked(&[one])).await.unwrap_err();
    assert!(error.to_string().contains("name the same"), "{error}");
    drop(Redis::connect(asked(&[one, two])).await.unwrap());

    watched.sentinels[0].kill();
    drop(Redis::connect(settings(&watched)).await.unwrap());
    watched.sentinels[1].kill();
    let error = Redis::connect(settings(&watched)).await.unwrap_err();
    assert!(error.to_string().contains("1 of 3 sentinels"), "{error}");
}

/// A primary that lets anybody in, watched by sentinels of which each wants a user of its own, or not.
fn watched_by(closed: [bool; 3]) -> Option<(RedisServer, Vec<RedisServer>, String)> {
    let primary = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
    let lock = "user watcher on >another ~* &* +@all\nuser default reset on nopass +ping\n";
    let sentinels: Vec<_> = closed
        .iter()
        .map(|closed| {
            let more = if *closed { lock } else { "" };
            RedisServer::sentinel_with(primary.port(), more).unwrap()
        })
        .collect();
    let places: Vec<_> = sentinels
        .iter()
        .map(|one| format!("127.0.0.1:{}", one.port()))
        .collect();
    let url = format!("redis+sentinel://{}/main", places.join(","));
    Some((primary, sentinels, url))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_refuse_our_user_are_named_and_not_the_primary() {
    let Some((_primary, sentinels, url)) = watched_by([true; 3]) else {
        return;
    };
    let asked = |query: &str| RedisSettings {
        min_replicas: 1,
        response_timeout: Duration::from_millis(300),
        ..RedisSettings::new(Secret::new(format!("{url}{query}")))
    };
    for query in [
        "",
        "?sentinel_user=watcher&sentinel_password=wrong",
        "?sentinel_user=nobody&sentinel_password=another",
    ] {
        let connected = Redis::connect(asked(query)).await.unwrap_err();
        let looked = Redis::inspect(&asked(query)).await.unwrap_err();
        for error in [connected, looked] {
            let finding = error.as_finding();
            assert_eq!(finding.fault, Fault::UserRefused, "{query}: {finding}");
            let named = sentinels.iter().any(|one| {
                finding
                    .message
                    .contains(&format!("127.0.0.1:{}", one.port()))
            });
            assert!(named, "{query}: {finding}");
            for words in ["the sentinel at", "`sentinel_password`"] {
                assert!(finding.message.contains(words), "{query}: {finding}");
            }
            assert!(!finding.message.contains("another"), "{finding}");
        }
    }
    let query = "?sentinel_user=watcher&sentinel_password=another";
    drop(Redis::connect(asked(query)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_that_refuses_us_is_outvoted_and_two_that_are_down_are_the_reason() {
    let Some((_primary, mut sentinels, url)) = watched_by([true, false, false]) else {
        return;
    };
    let settings = RedisSettings {
        min_replicas: 1,
        response_timeout: Duration::from_millis(300),
        ..RedisSettings::new(Secret::new(url))
    };
    drop(Redis::connect(settings.clone()).await.unwrap());
    sentinels[2].kill();
    let error = Redis::connect(settings.clone()).await.unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::UserRefused, "{error}");
    sentinels[1].kill();
    let error = Redis::connect(settings).await.unwrap_err();
    assert_eq!(error.as_finding().fault, Fault::Unreachable, "{error}");
}

/// As who is asked they may be told of the primary, and not of its replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_keep_their_replicas_from_us_are_named() {
    let Some(primary) = RedisServer::start(AOF).unwrap() else {
        return;
    };
    let rights = "user watcher on >another -@all +sentinel|master";
    for (more, refused) in [("", true), (" +sentinel|replicas", false)] {
        let lock = format!("{rights}{more}\nuser default reset on nopass +ping\n");
        let sentinel = RedisServer::sentinel_with(primary.port(), &lock).unwrap();
        let url = format!(
            "redis+sentinel://127.0.0.1:{}/main?sentinel_user=watcher&sentinel_password=another",
            sentinel.port()
        );
        let settings = RedisSettings {
            min_replicas: 1,
            ..RedisSettings::new(Secret::new(url))
        };
        let connected = Redis::connect(settings).await;
        if !refused {
            drop(connected.unwrap());
            continue;
        }
        let finding = connected.unwrap_err().as_finding();
        assert_eq!(finding.fault, Fault::UserRefused, "{finding}");
        for words in ["the sentinel at", "SENTINEL REPLICAS"] {
            assert!(finding.message.contains(words), "{finding}");
        }
    }
}
