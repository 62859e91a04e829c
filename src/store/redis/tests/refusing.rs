//! A primary that takes no writes, of itself: named before anything is written.

use super::*;

/// A start and a look beforehand say it, and so does whoever runs already.
async fn is_said(server: &RedisServer, running: &Redis, fault: Fault, words: &str) {
    let started = Redis::connect(settings(server)).await.unwrap_err();
    let looked = Redis::inspect(&settings(server)).await.unwrap();
    let runs = running.check().await.unwrap();
    for found in [vec![started.as_finding()], looked, runs] {
        let found: Vec<_> = found.iter().filter(|one| !one.fault.is_advice()).collect();
        let [found] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(found.fault, fault, "{found}");
        assert!(found.message.contains(words), "{found}");
    }
}

#[tokio::test]
async fn a_primary_that_wants_more_replicas_than_it_has_is_named() {
    let server = server!(AOF);
    let running = open(&server).await;
    for (command, wants) in [
        ("min-replicas-to-write 1", true),
        ("min-replicas-to-write 0", false),
    ] {
        server.command(&format!("CONFIG SET {command}")).unwrap();
        if wants {
            let words = "`min-replicas-to-write`";
            is_said(&server, &running, Fault::TooFewReplicas, words).await;
        }
    }
    drop(open(&server).await);
}

#[tokio::test]
async fn a_primary_that_cannot_save_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // A file cannot take the place of a folder, whoever it is that writes.
    let snapshot = folder.path().join("dump.rdb");
    std::fs::create_dir(&snapshot).unwrap();
    let at = folder.path().to_str().unwrap();
    let server = server!(&[AOF, &["--save", "3600 1", "--dir", at]].concat());
    let running = open(&server).await;
    assert!(is_applied(&running.commit(write(b"before")).await));
    let until = async |status: &str| {
        let begun = tokio::time::Instant::now();
        let status = format!("rdb_last_bgsave_status:{status}");
        loop {
            server.command("BGSAVE").unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if server
                .command("INFO persistence")
                .unwrap()
                .contains(&status)
            {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{status}");
        }
    };
    until("err").await;
    is_said(&server, &running, Fault::CannotSave, "disk").await;
    let refused = running.commit(write(b"refused")).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    std::fs::remove_dir(&snapshot).unwrap();
    until("ok").await;
    drop(open(&server).await);
    assert!(is_applied(&running.commit(write(b"after")).await));
}
