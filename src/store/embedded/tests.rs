use super::*;
use crate::store::Write;
use crate::store::conformance;

mod disk;
mod failing;
mod power;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds_in_memory() {
    let store = Arc::new(Embedded::in_memory().unwrap());
    conformance::exercise(store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(&folder.path().join("store")).unwrap());
    conformance::exercise(store).await.unwrap();
}

fn write(name: &[u8], value: &[u8]) -> Transaction {
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    Transaction::new(ShardId::INSTALLATION, deadline)
        .write(Write::Put {
            key: key(name),
            value: value.to_vec(),
            expires_at: None,
        })
        .write(Write::Append {
            log: LOG,
            value: value.to_vec(),
        })
}

fn key(name: &[u8]) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: name.to_vec(),
    }
}

const LOG: Log = Log {
    shard: ShardId::INSTALLATION,
    name: "log",
};

#[tokio::test]
async fn a_file_opened_again_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let transaction = write(b"a", b"1");
    let store = Embedded::open(&path).unwrap();
    let before = store.commit(transaction.clone()).await.unwrap();
    let born = store.generation(ShardId::INSTALLATION).await.unwrap();
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.generation(ShardId::INSTALLATION).await.unwrap(), born);
    let found = store.get(&[key(b"a")]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().value, b"1");
    assert_eq!(store.commit(transaction).await.unwrap(), before);
}

#[tokio::test]
async fn a_second_opening_is_refused_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let _open = Embedded::open(&path).unwrap();
    let error = Embedded::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Unfit(_)));
    assert!(error.to_string().contains("open in another process"));
}

#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let _store = Embedded::open(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::write(&path, b"not a store at all, just text".repeat(100)).unwrap();
    assert!(matches!(
        Embedded::open(&path).unwrap_err(),
        StoreError::Unfit(_)
    ));
}

#[tokio::test]
async fn what_has_expired_is_cleared_away() {
    let store = Embedded::in_memory().unwrap();
    let mut transaction = write(b"a", b"1");
    if let Some(Write::Put { expires_at, .. }) = transaction.writes.first_mut() {
        *expires_at = Some(SystemClock::new().now() + Duration::from_millis(20));
    }
    store.commit(transaction).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    store.commit(write(b"b", b"2")).await.unwrap();
    let rows = store
        .read(|transaction| {
            let records = transaction.open_table(RECORDS).unwrap();
            Ok(records.range::<&[u8]>(..).unwrap().count())
        })
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

mod numbers {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keep_their_order_as_bytes(a: i64, b: i64) {
            prop_assert_eq!(ordered(a).cmp(&ordered(b)), a.cmp(&b));
            prop_assert_eq!(from_ordered(ordered(a)), a);
        }
    }
}

/// It would not find what was spent.
#[test]
fn an_earlier_version_does_not_start_on_a_file_of_this_one() {
    let disk = disk::Disk::default();
    drop(disk.store().unwrap());
    let database = disk.opener()().unwrap();
    let transaction = database.begin_write().unwrap();
    for old in layout::OLD_BIRTHS {
        assert!(transaction.open_table(old).is_err(), "{old}");
    }
    drop(transaction);
    drop(database);
    let again = disk.store();
    assert!(again.is_ok(), "{:?}", again.err());
}

#[test]
fn a_file_of_an_earlier_version_is_refused_and_left_as_it_is() {
    for old in layout::OLD_BIRTHS {
        let disk = disk::Disk::default();
        let database = disk.opener()().unwrap();
        let transaction = database.begin_write().unwrap();
        drop(transaction.open_table(old).unwrap());
        transaction.commit().unwrap();
        drop(database);
        for _ in 0..2 {
            let refused = disk.store().err().map(|error| error.to_string());
            let says = "end its leases with that version";
            assert!(
                refused.as_ref().is_some_and(|why| why.contains(says)),
                "{old}: {refused:?}"
            );
        }
    }
}
