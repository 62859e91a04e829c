use super::{Record, Slot};
use crate::clock::{Clock, SystemClock};
use crate::fences::Named;
use crate::ids::ShardId;
use crate::secret::{Sealer, Secret};
use crate::store::embedded::Embedded;
use crate::store::{Store, Transaction, Write};
use time::{Duration, OffsetDateTime};

const SLOT: Slot = Slot {
    key: "a/record",
    purpose: "a test",
};

fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

fn sealer(keys: &[u8]) -> Sealer {
    let keys: Vec<_> = keys.iter().map(|key| Secret::new(vec![*key; 32])).collect();
    Sealer::new(&keys).unwrap()
}

fn record(number: u64, content: &str) -> Record {
    Record {
        named: Named {
            number,
            sha256: "ab".repeat(32),
        },
        content: content.as_bytes().to_vec(),
    }
}

async fn write(store: &dyn Store, write: Write) {
    let deadline = now() + Duration::seconds(30);
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(transaction).await.unwrap();
}

#[tokio::test]
async fn what_the_log_names_is_had_and_no_other() {
    let (store, sealer) = (Embedded::in_memory().unwrap(), sealer(&[7]));
    let good = record(7, "seven\nlines\n");
    let wanted = good.named.clone();
    let load = |wanted: Named| {
        let (store, sealer) = (&store, &sealer);
        async move { SLOT.load((store, sealer), &wanted).await }
    };
    assert!(
        load(wanted.clone())
            .await
            .unwrap_err()
            .contains("not in the store")
    );
    write(&store, SLOT.put(&sealer, &good).unwrap()).await;
    assert_eq!(load(wanted.clone()).await, Ok(good.clone()));
    let other = |number, sha256: &str| Named {
        number,
        sha256: sha256.to_owned(),
    };
    for other in [
        other(6, &wanted.sha256),
        other(8, &wanted.sha256),
        other(7, &"cd".repeat(32)),
    ] {
        assert!(load(other).await.unwrap_err().contains("the log wants"));
    }
    // Of another kind of record, well authenticated.
    let foreign = Slot {
        purpose: "another",
        ..SLOT
    };
    write(&store, foreign.put(&sealer, &good).unwrap()).await;
    assert!(
        load(wanted.clone())
            .await
            .unwrap_err()
            .contains("was changed")
    );
    let found = SLOT.find(&store, &sealer).await.unwrap();
    assert_eq!(found.record, None);
    assert_eq!(found.next(Some(7)), Some(8));
}

#[tokio::test]
async fn the_next_number_is_after_the_log_and_after_the_record() {
    let (store, sealer) = (Embedded::in_memory().unwrap(), sealer(&[7]));
    write(&store, SLOT.put(&sealer, &record(9, "")).unwrap()).await;
    let found = SLOT.find(&store, &sealer).await.unwrap();
    let next = [None, Some(3), Some(9), Some(20), Some(u64::MAX)].map(|last| found.next(last));
    assert_eq!(next, [Some(10), Some(10), Some(10), Some(21), None]);
}

#[tokio::test]
async fn it_is_written_again_under_the_first_key_so_that_the_others_can_go() {
    let store = Embedded::in_memory().unwrap();
    let held = record(7, "seven");
    write(&store, SLOT.put(&sealer(&[1]), &held).unwrap()).await;
    let both = sealer(&[2, 1]);
    SLOT.keep((&store, &both), &held, now()).await.unwrap();
    let loaded = SLOT.load((&store, &sealer(&[2])), &held.named).await;
    assert_eq!(loaded, Ok(held.clone()));
    // And is left alone then.
    let version = |found: super::Found| format!("{:?}", found.guard());
    let before = version(SLOT.find(&store, &both).await.unwrap());
    SLOT.keep((&store, &both), &held, now()).await.unwrap();
    assert_eq!(version(SLOT.find(&store, &both).await.unwrap()), before);
}

#[tokio::test]
async fn what_is_newer_than_what_is_held_is_left_alone() {
    let (store, sealer) = (Embedded::in_memory().unwrap(), sealer(&[7]));
    let newer = record(8, "eight");
    write(&store, SLOT.put(&sealer, &newer).unwrap()).await;
    SLOT.keep((&store, &sealer), &record(7, "seven"), now())
        .await
        .unwrap();
    let loaded = SLOT.load((&store, &sealer), &newer.named).await;
    assert_eq!(loaded, Ok(newer));
}

#[tokio::test]
async fn of_two_with_one_number_the_one_that_the_log_names_is_written() {
    let (store, sealer) = (Embedded::in_memory().unwrap(), sealer(&[7]));
    for (there, held) in [("aa", "bb"), ("bb", "aa")] {
        let of = |content: &str| {
            let mut record = record(7, content);
            record.named.sha256 = content.repeat(32);
            record
        };
        write(&store, SLOT.put(&sealer, &of(there)).unwrap()).await;
        SLOT.keep((&store, &sealer), &of(held), now())
            .await
            .unwrap();
        let loaded = SLOT.load((&store, &sealer), &of(held).named).await;
        assert_eq!(loaded, Ok(of(held)));
    }
}
