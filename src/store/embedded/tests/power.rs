//! The power goes: every commit that was answered is there, every other one is there as a whole or not at
//! all, and no more of the file is read than it takes.

use super::disk::{Disk, How, Luck, Trouble, What};
use super::{LOG, write};
use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::store::embedded::Embedded;
use crate::store::{Index, Key, Outcome, Position, Store, StoreError, Tail, Transaction, Write};
use proptest::prelude::*;
use std::io::ErrorKind;
use std::time::Duration;

const RANKED: Index = Index {
    shard: ShardId::INSTALLATION,
    name: std::borrow::Cow::Borrowed("ranked"),
};
/// Records that commits write over and over.
const PLACES: usize = 3;

fn place(number: usize) -> Key {
    super::key(format!("place-{}", number % PLACES).as_bytes())
}

/// A record, an entry and a rank that all say the same number.
fn numbered(number: usize, size: usize) -> Transaction {
    let deadline = SystemClock::new().now() + Duration::from_secs(60);
    let number_of = u32::try_from(number).unwrap().to_be_bytes();
    let mut value = number_of.to_vec();
    value.resize(4 + size, 0xab);
    Transaction::new(ShardId::INSTALLATION, deadline)
        .write(Write::Put {
            key: place(number),
            value,
            expires_at: None,
        })
        .write(Write::Append {
            log: LOG,
            value: number_of.to_vec(),
        })
        .write(Write::Rank {
            index: RANKED,
            member: number_of.to_vec(),
            rank: i64::try_from(number).unwrap(),
        })
}

/// One that was sent, and when it was answered, if it was.
struct Sent {
    commit: Transaction,
    begun: usize,
    answered: Option<usize>,
}

/// Says how many are there: the first so many, each as a whole.
async fn there(store: &Embedded, sent: &[Sent]) -> Result<usize, TestCaseError> {
    let tail = store
        .tail(&LOG, Position::ORIGIN, 1000, Duration::ZERO)
        .await;
    let Ok(Tail::Entries { entries, head, .. }) = tail else {
        return Err(TestCaseError::fail(format!("{tail:?}")));
    };
    let count = entries.len();
    prop_assert_eq!(head.sequence, count as u64);
    let ranked = store.range(&RANKED, 0..=1000, 1000).await;
    prop_assert_eq!(ranked.unwrap().len(), count);
    for spot in 0..PLACES {
        let last = (0..count).rev().find(|number| number % PLACES == spot);
        let found = store.get(&[place(spot)]).await.unwrap().remove(0);
        let found = found.map(|record| (record.value, record.version));
        let wanted = last.map(|number| {
            let Some(Write::Put { value, .. }) = sent[number].commit.writes.first() else {
                panic!("a record comes first");
            };
            (value.clone(), sent[number].commit.id)
        });
        prop_assert!(found == wanted, "place {spot} of {count}");
    }
    for (number, entry) in entries.iter().enumerate() {
        let wanted = u32::try_from(number).unwrap().to_be_bytes();
        prop_assert_eq!(&entry.value, &wanted);
    }
    Ok(count)
}

/// Commits one after the other; some of them on a disk that fails once in between.
async fn history(disk: &Disk, steps: &[(usize, Option<u8>)]) -> Result<Vec<Sent>, StoreError> {
    let store = disk.store()?;
    let mut sent = Vec::new();
    for (number, (size, fails)) in steps.iter().enumerate() {
        if let Some(fails) = *fails {
            disk.trouble(Trouble {
                what: if fails % 2 == 0 {
                    What::Sync
                } else {
                    What::Write
                },
                after: usize::from(fails) / 2,
                times: 1,
                how: How::Error(ErrorKind::Other),
            });
        }
        let commit = numbered(number, *size);
        let begun = disk.moment();
        let outcome = store.commit(commit.clone()).await;
        disk.mend();
        let answered = matches!(outcome, Ok(Outcome::Applied { .. })).then(|| disk.moment());
        assert!(answered.is_some(), "{outcome:?}");
        sent.push(Sent {
            commit,
            begun,
            answered,
        });
    }
    // No end in order.
    std::mem::forget(store);
    Ok(sent)
}

async fn cut_everywhere(steps: Vec<(usize, Option<u8>)>, seed: u64) -> Result<(), TestCaseError> {
    let mut luck = Luck::of(seed);
    let disk = Disk::default();
    let sent = history(&disk, &steps).await.unwrap();
    for moment in disk.around_syncs() {
        let left = disk.cut(moment, &mut luck);
        let born = sent.first().is_some_and(|first| first.begun <= moment);
        // While it is made it may be anything: it is begun, or refused.
        if !born {
            continue;
        }
        let store = match left.store() {
            Ok(store) => store,
            Err(error) => return Err(TestCaseError::fail(format!("at {moment}: {error}"))),
        };
        let found = there(&store, &sent).await?;
        let answered = |one: &&Sent| one.answered.is_some_and(|answered| answered <= moment);
        let least = sent.iter().filter(answered).count();
        let most = sent.iter().filter(|one| one.begun < moment).count();
        prop_assert!(
            (least..=most).contains(&found),
            "at {moment}: {found} of {least} to {most}"
        );
        // The power goes again while it is opened.
        let opened = left.moment();
        drop(store);
        let opening = 3 + usize::try_from(luck.below(opened as u64)).unwrap() % (opened - 2);
        let store = left.cut(opening, &mut luck).store();
        prop_assert_eq!(there(&store.unwrap(), &sent).await?, found);
        // What was sent goes on where it was: each once.
        let store = left.store().unwrap();
        for one in &sent {
            let outcome = store.commit(one.commit.clone()).await;
            prop_assert!(
                matches!(outcome, Ok(Outcome::Applied { .. })),
                "{outcome:?}"
            );
        }
        prop_assert_eq!(there(&store, &sent).await?, sent.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_is_there_wherever_the_power_goes(
        steps in proptest::collection::vec(
            (
                prop_oneof![3 => 0_usize..200, 1 => 20_000_usize..300_000],
                proptest::option::weighted(0.25, 0_u8..40),
            ),
            1..12,
        ),
        seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(cut_everywhere(steps, seed))?;
    }
}

#[tokio::test]
async fn however_it_ended_it_is_open_without_reading_all_of_it() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    for number in 0_u8..80 {
        let commit = write(&[number], &[number; 100 << 10]);
        store.commit(commit).await.unwrap();
    }
    let left = disk.cut(disk.moment(), &mut Luck::of(7));
    let before = left.bytes_read();
    let again = left.store().unwrap();
    let read = left.bytes_read() - before;
    let length = left.length();
    assert!(length > 8 << 20, "{length}");
    assert!(!left.was_repaired());
    // redb reads all of it to check itself where assertions are on.
    if !cfg!(debug_assertions) {
        assert!(read < length / 20, "{read} of {length} bytes");
    }
    assert_eq!(again.get(&[super::key(&[79])]).await.unwrap().len(), 1);
}
