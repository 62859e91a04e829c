//! The disk fails: what was acknowledged stays, what is not known is not guessed, and it goes on by itself.

use super::disk::{Disk, How, Trouble, What};
use super::{LOG, key, write};
use crate::clock::{Clock, SystemClock};
use crate::store::embedded::Embedded;
use crate::store::{Outcome, Position, Store, StoreError, Tail, Transaction};
use std::io::ErrorKind;
use std::time::Duration;

const BROKEN: How = How::Error(ErrorKind::Other);
const EVERY: [What; 4] = [What::Read, What::Write, What::Length, What::Sync];

fn once(what: What, after: usize, how: How) -> Trouble {
    let times = 1;
    Trouble {
        what,
        after,
        times,
        how,
    }
}

fn always(what: What, after: usize) -> Trouble {
    Trouble {
        times: usize::MAX,
        ..once(what, after, BROKEN)
    }
}

/// What the log says, in order.
async fn said(store: &Embedded) -> Result<Vec<Vec<u8>>, StoreError> {
    match store
        .tail(&LOG, Position::ORIGIN, 1000, Duration::ZERO)
        .await?
    {
        Tail::Entries { entries, .. } => Ok(entries.into_iter().map(|entry| entry.value).collect()),
        other => panic!("{other:?}"),
    }
}

/// Asks until there is an answer.
async fn until<T, F: Future<Output = Result<T, StoreError>>>(ask: impl Fn() -> F) -> T {
    let clock = SystemClock::new();
    let end = clock.since_boot() + Duration::from_secs(20);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(clock.since_boot() < end, "still: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_applied(outcome: &Result<Outcome, StoreError>) -> bool {
    matches!(outcome, Ok(Outcome::Applied { .. }))
}

/// Large enough to make the file grow.
fn large(name: &[u8]) -> Transaction {
    write(name, &[7; 600 << 10])
}

#[tokio::test]
async fn one_failure_of_the_disk_at_any_step_of_a_commit_is_got_over() {
    for (what, how) in [
        (What::Write, BROKEN),
        (What::Length, BROKEN),
        (What::Sync, BROKEN),
        (What::Write, How::Panic),
        (What::Sync, How::Panic),
    ] {
        let mut steps = 0;
        // Each panic is written down at length.
        let stride = if matches!(how, How::Panic) { 5 } else { 1 };
        loop {
            let disk = Disk::default();
            let store = disk.store().unwrap();
            store.commit(write(b"a", b"1")).await.unwrap();
            let before = disk.troubled();
            disk.trouble(once(what, steps, how));
            let second = large(b"b");
            let outcome = store.commit(second.clone()).await;
            let came = disk.troubled() > before;
            disk.mend();
            assert!(is_applied(&outcome), "{what:?} {steps}: {outcome:?}");
            // Once, however often it was sent.
            assert_eq!(store.commit(second).await.unwrap(), outcome.unwrap());
            assert_eq!(said(&store).await.unwrap().len(), 2, "{what:?} {steps}");
            // On the disk, and not only in the machine's memory.
            let moment = disk.moment();
            drop(store);
            let left = disk.cut(moment, &mut super::disk::Luck::of(1 + steps as u64));
            let said = said(&left.store().unwrap()).await.unwrap();
            assert_eq!(said.len(), 2, "{what:?} {steps}, after a power cut");
            if !came {
                break;
            }
            steps += stride;
        }
        assert!(steps > 0, "{what:?} is no step of a commit");
    }
}

#[tokio::test]
async fn a_full_disk_stops_minting_alone_and_with_room_it_goes_on_by_itself() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    store.commit(write(b"alive", b"1")).await.unwrap();
    disk.fill();
    let mut refused = None;
    for _ in 0..20 {
        match store.commit(large(b"too much")).await {
            Ok(_) => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(StoreError::Full)), "{refused:?}");
    // At once, and without a try: nothing is lost by it.
    let again = store.commit(write(b"small", b"1")).await;
    assert!(matches!(again, Err(StoreError::Full)), "{again:?}");
    let there = said(&store).await.unwrap().len();
    let revoked = store.commit(write(b"revoked", b"1").revoking()).await;
    assert!(is_applied(&revoked), "{revoked:?}");
    let found = store.get(&[key(b"alive"), key(b"small")]).await.unwrap();
    assert!(found[0].is_some() && found[1].is_none());
    assert_eq!(said(&store).await.unwrap().len(), there + 1);
    disk.mend();
    until(|| store.commit(large(b"room"))).await;
}

#[tokio::test]
async fn what_was_written_before_there_was_no_room_is_not_called_refused() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    let first = write(b"a", b"1");
    let outcome = store.commit(first.clone()).await.unwrap();
    disk.fill();
    while store.commit(large(b"too much")).await.is_ok() {}
    assert!(store.commit(write(b"b", b"1")).await.is_err());
    assert_eq!(store.commit(first).await.unwrap(), outcome);
}

#[tokio::test]
async fn while_nothing_can_be_written_it_says_so_and_then_it_goes_on_by_itself() {
    for what in [What::Write, What::Sync] {
        let disk = Disk::default();
        let store = disk.store().unwrap();
        store.commit(write(b"a", b"1")).await.unwrap();
        disk.trouble(always(what, 0));
        let lost = write(b"b", b"2");
        let outcome = store.commit(lost.clone()).await;
        assert!(outcome.is_err(), "{what:?}: {outcome:?}");
        for _ in 0..5 {
            assert!(store.commit(lost.clone()).await.is_err(), "{what:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        disk.mend();
        // Whoever only reads has it back, too.
        until(|| store.get(&[])).await;
        assert_eq!(until(|| said(&store)).await.len(), 1, "{what:?}");
        until(|| store.commit(lost.clone())).await;
        assert_eq!(said(&store).await.unwrap(), [b"1", b"2"], "{what:?}");
    }
}

/// Whichever sync fails, and all after it, and however: it is never called refused when it is there, and
/// sending it again settles it.
#[tokio::test]
async fn a_commit_whose_sync_failed_is_unknown_until_it_is_settled_by_its_id() {
    for (after, how) in [(0, BROKEN), (1, BROKEN), (0, How::Panic), (1, How::Panic)] {
        let disk = Disk::default();
        let store = disk.store().unwrap();
        disk.trouble(Trouble {
            how,
            ..always(What::Sync, after)
        });
        let commit = write(b"a", b"1");
        let outcome = store.commit(commit.clone()).await;
        assert!(
            matches!(outcome, Err(StoreError::Unknown)),
            "{how:?}: {outcome:?}"
        );
        disk.mend();
        until(|| store.get(&[])).await;
        // The second of them is what makes it count: it may be there, or not.
        let there = until(|| said(&store)).await.len();
        assert!(there <= after, "{there} after sync {after}");
        until(|| store.commit(commit.clone())).await;
        assert_eq!(said(&store).await.unwrap(), [b"1"]);
    }
}

/// The sync that makes it count fails, and when it is sent once more the disk does not even read.
#[tokio::test]
async fn what_could_not_be_tried_again_is_not_called_refused_for_that() {
    let (mut unknown, mut refused) = (0, 0);
    for after in (0..).step_by(5) {
        let disk = Disk::default();
        let store = disk.forgetful_store().unwrap();
        store.commit(write(b"a", b"1")).await.unwrap();
        let before = disk.troubled();
        disk.trouble(once(What::Sync, 1, BROKEN));
        disk.trouble(Trouble {
            times: 2,
            ..once(What::Read, after, BROKEN)
        });
        let outcome = store.commit(write(b"b", b"2")).await;
        let came = disk.troubled() > before + 1;
        disk.mend();
        until(|| store.get(&[])).await;
        let is_there = until(|| said(&store)).await.len() == 2;
        match outcome {
            Err(StoreError::Unknown) => unknown += 1,
            Err(StoreError::Unavailable(_)) => {
                refused += 1;
                assert!(!is_there, "it was called refused: {after}");
            }
            outcome => assert!(is_applied(&outcome) && is_there, "{after}: {outcome:?}"),
        }
        if !came && after > 0 {
            break;
        }
    }
    assert!(unknown > 0 && refused > 0, "{unknown} {refused}");
}

#[tokio::test]
async fn a_read_that_the_disk_refuses_costs_no_more_than_itself() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    store.commit(write(b"a", b"1")).await.unwrap();
    drop(store);
    let mut failed = 0;
    for after in 0.. {
        let store = disk.forgetful_store().unwrap();
        let before = disk.troubled();
        disk.trouble(once(What::Read, after, BROKEN));
        let first = store.get(&[key(b"a")]).await;
        let came = disk.troubled() > before;
        disk.mend();
        if !came {
            break;
        }
        failed += 1;
        assert!(
            matches!(first, Err(StoreError::Unavailable(_))),
            "{first:?}"
        );
        let keys = [key(b"a")];
        let found = until(|| store.get(&keys)).await;
        assert_eq!(found[0].as_ref().unwrap().value, b"1");
        until(|| store.commit(write(b"b", b"1"))).await;
    }
    assert!(failed > 0, "it read nothing");
}

#[tokio::test]
async fn a_file_that_was_emptied_meanwhile_is_not_begun_anew() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    store.commit(write(b"spent", b"1")).await.unwrap();
    disk.wipe();
    for _ in 0..10 {
        assert!(store.commit(write(b"b", b"1")).await.is_err());
        assert!(store.get(&[key(b"spent")]).await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_opened_again_is_the_same_and_still_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Embedded::open(&path).unwrap();
    store.commit(write(b"a", b"1")).await.unwrap();
    // Another one lies under its name by now.
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    std::fs::write(&path, b"").unwrap();
    store.file.open_again().unwrap();
    assert_eq!(said(&store).await.unwrap(), [b"1"]);
    store.commit(write(b"b", b"2")).await.unwrap();
    let second = Embedded::open(&folder.path().join("moved"));
    assert!(matches!(second, Err(StoreError::Unfit(_))), "{second:?}");
    drop(store);
    let moved = Embedded::open(&folder.path().join("moved")).unwrap();
    assert_eq!(said(&moved).await.unwrap(), [b"1", b"2"]);
}

#[tokio::test]
async fn no_failure_of_any_kind_leaves_it_unusable() {
    for what in EVERY {
        for how in [BROKEN, How::Panic] {
            let disk = Disk::default();
            let store = disk.store().unwrap();
            for round in 0..6 {
                disk.trouble(once(what, round, how));
                // Known or not: what counts is that the next one is.
                let _ = store.commit(large(b"a")).await;
                let _ = store.get(&[key(b"a")]).await;
                disk.mend();
                until(|| store.commit(write(b"b", b"1"))).await;
            }
        }
    }
}
