//! What every back end must do, as a suite to run against one.
//!
//! In: a store that nobody else uses. Out: the first promise that it breaks, in words.

use crate::clock::{Clock, SystemClock};
use crate::ids::{self, ShardId};
use crate::store::{
    CommitId, Guard, Index, Key, Log, Outcome, Position, Store, StoreError, Tail, Transaction,
    Write, link,
};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// A promise that a back end breaks.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("{0}")]
    Promise(String),
    #[error("{0} (it failed: {1})")]
    Failed(&'static str, #[source] StoreError),
}

type Checked = Result<(), Broken>;

/// Runs the whole suite.
pub async fn exercise(store: Arc<dyn Store>) -> Checked {
    let store = store.as_ref();
    records_are_written_and_read(store).await?;
    a_conflict_writes_nothing(store).await?;
    every_guard_holds_and_refuses(store).await?;
    a_commit_sent_twice_is_applied_once(store).await?;
    a_late_commit_is_refused(store).await?;
    bytes_are_kept_as_they_are(store).await?;
    an_index_is_ordered_by_rank(store).await?;
    a_log_is_linked_and_followed(store).await?;
    a_position_elsewhere_is_forked(store).await?;
    a_trimmed_log_says_where_it_begins(store).await?;
    a_waiting_reader_is_woken(store).await?;
    a_past_record_counts_as_nothing(store).await?;
    a_shard_has_a_generation(store).await?;
    two_shards_are_refused(store).await
}

/// One hundred commits for one absent key: exactly one may win.
pub async fn race(store: Arc<dyn Store>) -> Checked {
    let key = key(shard(9), b"race");
    let mut tasks = Vec::new();
    for number in 0..100_u8 {
        let store = Arc::clone(&store);
        let transaction = begin(key.shard)
            .guard(Guard::Absent(key.clone()))
            .write(put(&key, &[number]));
        tasks.push(tokio::spawn(async move { store.commit(transaction).await }));
    }
    let mut won = 0;
    for task in tasks {
        let outcome = task
            .await
            .map_err(|error| Broken::Promise(error.to_string()))?
            .map_err(|error| Broken::Failed("racing commits are answered", error))?;
        match outcome {
            Outcome::Applied { .. } => won += 1,
            other => ensure(other == Outcome::Conflict { guard: 0 }, "a loser conflicts")?,
        }
    }
    same(&won, &1, "one of a hundred commits wins an absent key")
}

fn ensure(holds: bool, promise: &str) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Broken::Promise(promise.to_owned()))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(found: &T, wanted: &T, promise: &str) -> Checked {
    if found == wanted {
        return Ok(());
    }
    Err(Broken::Promise(format!(
        "{promise}: wanted {wanted:?}, found {found:?}"
    )))
}

fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

fn shard(number: usize) -> ShardId {
    ShardId::all().nth(number).unwrap_or(ShardId::INSTALLATION)
}

fn key(shard: ShardId, name: &[u8]) -> Key {
    let tag: [u8; 8] = ids::random();
    Key {
        shard,
        name: [name, &tag].concat(),
    }
}

fn begin(shard: ShardId) -> Transaction {
    Transaction::new(shard, now() + Duration::from_secs(30))
}

fn put(key: &Key, value: &[u8]) -> Write {
    Write::Put {
        key: key.clone(),
        value: value.to_vec(),
        expires_at: None,
    }
}

async fn commit(
    store: &dyn Store,
    transaction: Transaction,
    promise: &'static str,
) -> Result<Outcome, Broken> {
    store
        .commit(transaction)
        .await
        .map_err(|error| Broken::Failed(promise, error))
}

async fn applied(
    store: &dyn Store,
    transaction: Transaction,
    promise: &'static str,
) -> Result<Vec<Position>, Broken> {
    match commit(store, transaction, promise).await? {
        Outcome::Applied { appended } => Ok(appended),
        other => Err(Broken::Promise(format!(
            "{promise}: not applied but {other:?}"
        ))),
    }
}

async fn conflicts(
    store: &dyn Store,
    transaction: Transaction,
    guard: usize,
    promise: &'static str,
) -> Checked {
    let outcome = commit(store, transaction, promise).await?;
    same(&outcome, &Outcome::Conflict { guard }, promise)
}

async fn value(store: &dyn Store, key: &Key) -> Result<Option<Vec<u8>>, Broken> {
    let mut found = store
        .get(std::slice::from_ref(key))
        .await
        .map_err(|error| Broken::Failed("a record is read", error))?;
    Ok(found.pop().flatten().map(|record| record.value))
}

async fn records_are_written_and_read(store: &dyn Store) -> Checked {
    let (first, second, other) = (
        key(shard(1), b"a"),
        key(shard(1), b"b"),
        key(shard(2), b"c"),
    );
    let transaction = begin(shard(1))
        .write(put(&first, b"one"))
        .write(put(&second, b""));
    let id = transaction.id;
    applied(store, transaction, "two records are written").await?;
    applied(
        store,
        begin(shard(2)).write(put(&other, b"three")),
        "a third",
    )
    .await?;
    let found = store
        .get(&[
            other.clone(),
            first.clone(),
            key(shard(3), b"no"),
            second.clone(),
        ])
        .await
        .map_err(|error| Broken::Failed("records of several shards are read", error))?;
    let values: Vec<_> = found
        .iter()
        .map(|record| record.as_ref().map(|r| r.value.clone()))
        .collect();
    same(
        &values,
        &vec![
            Some(b"three".to_vec()),
            Some(b"one".to_vec()),
            None,
            Some(Vec::new()),
        ],
        "one answer per key, in order",
    )?;
    let version = found.into_iter().nth(1).flatten().map(|r| r.version);
    same(&version, &Some(id), "a version is the id of its commit")?;
    let large = vec![0xa5; 1 << 20];
    applied(
        store,
        begin(shard(1)).write(put(&first, &large)),
        "a large value",
    )
    .await?;
    same(
        &value(store, &first).await?,
        &Some(large),
        "a large value is kept",
    )?;
    let transaction = begin(shard(1)).write(Write::Delete(first.clone()));
    applied(store, transaction, "a record is deleted").await?;
    same(
        &value(store, &first).await?,
        &None,
        "a deleted record is gone",
    )
}

async fn a_conflict_writes_nothing(store: &dyn Store) -> Checked {
    let shard = shard(1);
    let (there, new) = (key(shard, b"there"), key(shard, b"new"));
    let log = Log {
        shard,
        name: "conformance atomic",
    };
    let index = index(shard);
    applied(store, begin(shard).write(put(&there, b"1")), "a record").await?;
    let transaction = begin(shard)
        .guard(Guard::Absent(new.clone()))
        .guard(Guard::Absent(there.clone()))
        .write(put(&new, b"x"))
        .write(Write::Delete(there.clone()))
        .write(Write::Rank {
            index: index.clone(),
            member: b"m".to_vec(),
            rank: 1,
        })
        .write(append(&log, b"entry"));
    conflicts(store, transaction, 1, "the failing guard is named").await?;
    same(&value(store, &new).await?, &None, "no write of a conflict")?;
    let still = value(store, &there).await?;
    same(&still, &Some(b"1".to_vec()), "no deletion of a conflict")?;
    same(
        &members(store, &index).await?,
        &Vec::new(),
        "no rank of a conflict",
    )?;
    let (entries, head) = entries(store, &log, Position::ORIGIN).await?;
    ensure(
        entries.is_empty() && head == Position::ORIGIN,
        "no entry of a conflict",
    )
}

fn index(shard: ShardId) -> Index {
    let tag = u64::from_be_bytes(ids::random());
    Index {
        shard,
        name: Cow::Owned(format!("conformance {tag:016x}")),
    }
}

fn rank(index: &Index, member: &[u8], rank: i64) -> Write {
    Write::Rank {
        index: index.clone(),
        member: member.to_vec(),
        rank,
    }
}

fn append(log: &Log, value: &[u8]) -> Write {
    Write::Append {
        log: log.clone(),
        value: value.to_vec(),
    }
}

async fn members(store: &dyn Store, index: &Index) -> Result<Vec<(Vec<u8>, i64)>, Broken> {
    let found = store
        .range(index, i64::MIN..=i64::MAX, 1000)
        .await
        .map_err(|error| Broken::Failed("an index is read", error))?;
    Ok(found.into_iter().map(|r| (r.member, r.rank)).collect())
}

async fn entries(
    store: &dyn Store,
    log: &Log,
    after: Position,
) -> Result<(Vec<(Position, Vec<u8>)>, Position), Broken> {
    match tail(store, log, after, 1000).await? {
        Tail::Entries { entries, head, .. } => Ok((
            entries.into_iter().map(|e| (e.position, e.value)).collect(),
            head,
        )),
        other => Err(Broken::Promise(format!(
            "a log is read on from {after:?}: {other:?}"
        ))),
    }
}

async fn tail(store: &dyn Store, log: &Log, after: Position, limit: usize) -> Result<Tail, Broken> {
    store
        .tail(log, after, limit, Duration::ZERO)
        .await
        .map_err(|error| Broken::Failed("a log is read", error))
}

async fn every_guard_holds_and_refuses(store: &dyn Store) -> Checked {
    let shard = shard(4);
    let record = key(shard, b"record");
    let transaction = begin(shard)
        .guard(Guard::Absent(record.clone()))
        .write(put(&record, b"1"));
    let first = transaction.id;
    applied(store, transaction, "`Absent` holds on nothing").await?;
    let again = begin(shard).guard(Guard::Absent(record.clone()));
    conflicts(store, again, 0, "`Absent` refuses what is there").await?;

    let unchanged = |version| Guard::Unchanged(record.clone(), version);
    let transaction = begin(shard)
        .guard(unchanged(first))
        .write(put(&record, b"2"));
    applied(store, transaction, "`Unchanged` holds").await?;
    let transaction = begin(shard).guard(unchanged(first));
    conflicts(
        store,
        transaction,
        0,
        "`Unchanged` refuses the next version",
    )
    .await?;
    let missing = Guard::Unchanged(key(shard, b"missing"), CommitId::draw());
    let transaction = begin(shard).guard(missing);
    conflicts(
        store,
        transaction,
        0,
        "`Unchanged` refuses what is not there",
    )
    .await?;

    let index = index(shard);
    let transaction = begin(shard)
        .write(rank(&index, b"a", 10))
        .write(rank(&index, b"b", 20))
        .write(rank(&index, b"c", 30));
    applied(store, transaction, "three members").await?;
    for (above_rank, than, holds) in [
        (10, 3, true),
        (10, 2, false),
        (9, 3, false),
        (30, 1, true),
        (30, 0, false),
        (i64::MIN, 4, true),
        (i64::MAX, 1, true),
    ] {
        let guard = Guard::Fewer {
            index: index.clone(),
            above_rank,
            than,
        };
        let outcome = commit(store, begin(shard).guard(guard), "`Fewer` is counted").await?;
        let promise = format!("`Fewer` than {than} above {above_rank}");
        same(
            &matches!(outcome, Outcome::Applied { .. }),
            &holds,
            &promise,
        )?;
    }
    markers_and_heads_guard(store, shard).await
}

async fn markers_and_heads_guard(store: &dyn Store, shard: ShardId) -> Checked {
    let marker = key(shard, b"marker");
    let not_past = |position| Guard::NotPast {
        marker: marker.clone(),
        position,
    };
    let transaction = begin(shard).guard(not_past(0));
    applied(store, transaction, "`NotPast` holds without a marker").await?;
    // Numbers whose order differs as text, as signed bytes and as floating point.
    let at: u64 = 0x0020_0000_0000_00ff;
    let transaction = begin(shard).write(put(&marker, &at.to_be_bytes()));
    applied(store, transaction, "a marker").await?;
    for (position, holds) in [(at - 1, false), (at, true), (at + 1, true), (0x80, false)] {
        let transaction = begin(shard).guard(not_past(position));
        let outcome = commit(store, transaction, "`NotPast` is compared").await?;
        let promise = format!("a marker at {at} is not past {position}");
        same(
            &matches!(outcome, Outcome::Applied { .. }),
            &holds,
            &promise,
        )?;
    }

    let log = Log {
        shard,
        name: "conformance heads",
    };
    let head_is = |position| Guard::HeadIs(log.clone(), position);
    let transaction = begin(shard)
        .guard(head_is(Position::ORIGIN))
        .write(append(&log, b"first"));
    let appended = applied(store, transaction, "`HeadIs` the origin of a new log").await?;
    let head = Position::ORIGIN.next(b"first");
    same(&appended, &vec![head], "the place of the first entry")?;
    let transaction = begin(shard).guard(head_is(head)).write(append(&log, b"2"));
    applied(store, transaction, "`HeadIs` holds").await?;
    let transaction = begin(shard).guard(head_is(head)).write(append(&log, b"3"));
    conflicts(store, transaction, 0, "`HeadIs` refuses a log that went on").await
}

async fn a_commit_sent_twice_is_applied_once(store: &dyn Store) -> Checked {
    let shard = shard(5);
    let log = Log {
        shard,
        name: "conformance twice",
    };
    let record = key(shard, b"once");
    let transaction = begin(shard)
        .guard(Guard::Absent(record.clone()))
        .write(put(&record, b"x"))
        .write(append(&log, b"a"))
        .write(append(&log, b"b"));
    let first = applied(store, transaction.clone(), "the first time").await?;
    let other = begin(shard).write(append(&log, b"c"));
    applied(store, other, "another commit between").await?;
    let second = applied(store, transaction, "the second time").await?;
    same(&second, &first, "the second answer is the first one")?;
    let (entries, _) = entries(store, &log, Position::ORIGIN).await?;
    same(&entries.len(), &3, "nothing was written twice")
}

async fn a_late_commit_is_refused(store: &dyn Store) -> Checked {
    let record = key(shard(5), b"late");
    let mut transaction = begin(record.shard).write(put(&record, b"x"));
    transaction.deadline = now() - Duration::from_secs(2);
    let outcome = commit(store, transaction, "a late commit is answered").await?;
    same(&outcome, &Outcome::TooLate, "a late commit is refused")?;
    same(
        &value(store, &record).await?,
        &None,
        "a late commit writes nothing",
    )
}

async fn bytes_are_kept_as_they_are(store: &dyn Store) -> Checked {
    let shard = shard(6);
    let log = Log {
        shard,
        name: "conformance bytes",
    };
    let index = index(shard);
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let mut expected = Position::ORIGIN;
    let awkward: [&[u8]; 6] = [
        b"",
        b"\0",
        b"\xff\xfe\0\x80",
        b"a\r\n$-1\r\n",
        b"{d1}",
        &all,
    ];
    for bytes in awkward {
        let record = key(shard, bytes);
        let transaction = begin(shard)
            .write(put(&record, bytes))
            .write(rank(&index, bytes, 1))
            .write(append(&log, bytes));
        let appended = applied(store, transaction, "awkward bytes").await?;
        expected = expected.next(bytes);
        same(&appended, &vec![expected], "the link of awkward bytes")?;
        let found = value(store, &record).await?;
        same(&found, &Some(bytes.to_vec()), "awkward bytes in a record")?;
    }
    let (entries, head) = entries(store, &log, Position::ORIGIN).await?;
    let values: Vec<_> = entries.iter().map(|(_, value)| value.as_slice()).collect();
    same(&values, &awkward.to_vec(), "awkward bytes in a log")?;
    same(&head, &expected, "the head of awkward bytes")?;
    let mut sorted: Vec<_> = awkward.iter().map(|b| (b.to_vec(), 1)).collect();
    sorted.sort();
    let found = members(store, &index).await?;
    same(
        &found,
        &sorted,
        "members of one rank in the order of their bytes",
    )
}

async fn an_index_is_ordered_by_rank(store: &dyn Store) -> Checked {
    let shard = shard(7);
    let index = index(shard);
    let large = 1_800_000_000_000_123;
    let transaction = begin(shard)
        .write(rank(&index, b"late", large))
        .write(rank(&index, b"early", -5))
        .write(rank(&index, b"middle", 7));
    applied(store, transaction, "members are ranked").await?;
    let expected = vec![
        (b"early".to_vec(), -5),
        (b"middle".to_vec(), 7),
        (b"late".to_vec(), large),
    ];
    same(
        &members(store, &index).await?,
        &expected,
        "lowest rank first",
    )?;
    for (ranks, limit, expected) in [
        (-5..=7, 10, 2),
        (-4..=7, 10, 1),
        (-5..=large, 1, 1),
        (8..=9, 5, 0),
    ] {
        let found = store
            .range(&index, ranks.clone(), limit)
            .await
            .map_err(|error| Broken::Failed("a range is read", error))?;
        same(
            &found.len(),
            &expected,
            &format!("members ranked {ranks:?}"),
        )?;
    }
    let transaction = begin(shard)
        .write(rank(&index, b"early", 8))
        .write(Write::Unrank {
            index: index.clone(),
            member: b"late".to_vec(),
        })
        .write(Write::Unrank {
            index: index.clone(),
            member: b"nobody".to_vec(),
        });
    applied(store, transaction, "members move and leave").await?;
    let expected = vec![(b"middle".to_vec(), 7), (b"early".to_vec(), 8)];
    same(
        &members(store, &index).await?,
        &expected,
        "a member has one rank",
    )?;
    let transaction = begin(shard).write(rank(&index, b"x", i64::MAX));
    let refused = store.commit(transaction).await;
    ensure(
        matches!(refused, Err(StoreError::Misuse(_))),
        "a rank that could not be kept exactly is refused",
    )
}

async fn a_log_is_linked_and_followed(store: &dyn Store) -> Checked {
    let shard = shard(8);
    let log = Log {
        shard,
        name: "conformance log",
    };
    let mut places = vec![Position::ORIGIN];
    for number in 0..10_u8 {
        let transaction = begin(shard).write(append(&log, &[number]));
        places.extend(applied(store, transaction, "an entry is appended").await?);
    }
    let by_hand = (0..10_u8).fold(Position::ORIGIN.link, |link_, number| {
        link(&link_, &[number])
    });
    let last = places.last().copied().unwrap_or(Position::ORIGIN);
    same(&last.link, &by_hand, "the link of ten entries")?;
    for (number, place) in places.iter().enumerate() {
        let (entries, head) = entries(store, &log, *place).await?;
        same(&entries.len(), &(10 - number), "the entries after a place")?;
        same(&head, &last, "the head of the log")?;
    }
    let Tail::Entries {
        entries,
        head,
        store_now,
    } = tail(store, &log, Position::ORIGIN, 3).await?
    else {
        return ensure(false, "a limited tail has entries");
    };
    same(&entries.len(), &3, "a tail keeps to its limit")?;
    same(&head, &last, "a limited tail still names the head")?;
    let skew = (store_now - now()).abs();
    ensure(
        skew < Duration::from_secs(10),
        "a tail says what time it is",
    )
}

async fn a_position_elsewhere_is_forked(store: &dyn Store) -> Checked {
    let log = Log {
        shard: shard(8),
        name: "conformance log",
    };
    let (entries, head) = entries(store, &log, Position::ORIGIN).await?;
    let middle = entries.get(4).map_or(Position::ORIGIN, |(place, _)| *place);
    let wrong = |sequence| Position {
        sequence,
        link: link(&head.link, b"another history"),
    };
    for place in [
        wrong(head.sequence),
        wrong(middle.sequence),
        wrong(head.sequence + 1),
        wrong(0),
    ] {
        let found = tail(store, &log, place, 100).await?;
        same(
            &found,
            &Tail::Forked { head },
            "a position of another history",
        )?;
        let found = tail(store, &log, place, 1).await?;
        same(
            &found,
            &Tail::Forked { head },
            "the same with a small limit",
        )?;
    }
    Ok(())
}

async fn a_trimmed_log_says_where_it_begins(store: &dyn Store) -> Checked {
    let log = Log {
        shard: shard(8),
        name: "conformance log",
    };
    let (all, head) = entries(store, &log, Position::ORIGIN).await?;
    let place = |number: usize| {
        all.get(number - 1)
            .map_or(Position::ORIGIN, |(place, _)| *place)
    };
    let trim = |through| {
        begin(log.shard).write(Write::Trim {
            log: log.clone(),
            through,
        })
    };
    applied(store, trim(4), "a log is trimmed").await?;
    applied(store, trim(2), "trimming less changes nothing").await?;
    let oldest = place(4);
    for before in [Position::ORIGIN, place(3)] {
        let found = tail(store, &log, before, 100).await?;
        same(
            &found,
            &Tail::Trimmed { oldest },
            "a position that was trimmed",
        )?;
    }
    let (rest, _) = entries(store, &log, oldest).await?;
    same(&rest.len(), &6, "what follows the oldest place is kept")?;
    applied(store, trim(1000), "a log is trimmed to its head").await?;
    let (rest, found) = entries(store, &log, head).await?;
    ensure(
        rest.is_empty() && found == head,
        "the head outlives its entries",
    )?;
    let transaction = begin(log.shard).write(append(&log, b"next"));
    let appended = applied(store, transaction, "an empty log goes on").await?;
    same(
        &appended,
        &vec![head.next(b"next")],
        "an empty log goes on from its head",
    )
}

async fn a_waiting_reader_is_woken(store: &dyn Store) -> Checked {
    let log = Log {
        shard: ShardId::INSTALLATION,
        name: "conformance waits",
    };
    let waiting = store.tail(&log, Position::ORIGIN, 10, Duration::from_secs(5));
    let writing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        store
            .commit(begin(log.shard).write(append(&log, b"wake")))
            .await
    };
    let both = async { tokio::join!(waiting, writing) };
    let (read, written) = tokio::time::timeout(Duration::from_secs(4), both)
        .await
        .map_err(|_| Broken::Promise("a waiting reader is woken by an entry".to_owned()))?;
    written.map_err(|error| Broken::Failed("an entry is appended beside a reader", error))?;
    match read.map_err(|error| Broken::Failed("a reader waits", error))? {
        Tail::Entries { entries, head, .. } => {
            same(&entries.len(), &1, "a woken reader has the entry")?;
            same(&head, &Position::ORIGIN.next(b"wake"), "and the new head")?;
            let nothing = store
                .tail(&log, head, 10, Duration::from_millis(50))
                .await
                .map_err(|error| Broken::Failed("a wait that ends in nothing", error))?;
            ensure(
                matches!(nothing, Tail::Entries { entries, head: same, .. } if entries.is_empty() && same == head),
                "a wait that ends in nothing answers the head",
            )
        }
        other => ensure(false, &format!("a woken reader has entries: {other:?}")),
    }
}

async fn a_past_record_counts_as_nothing(store: &dyn Store) -> Checked {
    let record = key(shard(9), b"short-lived");
    let write = |value: &[u8], expires_at| Write::Put {
        key: record.clone(),
        value: value.to_vec(),
        expires_at: Some(expires_at),
    };
    let soon = now() + Duration::from_millis(300);
    applied(
        store,
        begin(record.shard).write(write(b"1", soon)),
        "a mortal record",
    )
    .await?;
    let again = || begin(record.shard).guard(Guard::Absent(record.clone()));
    conflicts(store, again(), 0, "a mortal record is there while it lives").await?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let later = now() + Duration::from_secs(60);
    let transaction = again().write(write(b"2", later));
    applied(store, transaction, "an expired record is absent").await?;
    let found = value(store, &record).await?;
    same(
        &found,
        &Some(b"2".to_vec()),
        "its successor is not taken for it",
    )?;
    let transaction = begin(record.shard).write(put(&record, b"3"));
    applied(store, transaction, "a mortal record is made immortal").await?;
    let long_ago = OffsetDateTime::UNIX_EPOCH - Duration::from_secs(60);
    let other = key(record.shard, b"dead");
    let transaction = begin(record.shard).write(Write::Put {
        key: other.clone(),
        value: b"x".to_vec(),
        expires_at: Some(long_ago),
    });
    applied(store, transaction, "a record that is born dead").await?;
    same(
        &value(store, &other).await?,
        &None,
        "a record that is born dead is nothing",
    )
}

async fn a_shard_has_a_generation(store: &dyn Store) -> Checked {
    let mut seen = Vec::new();
    for shard in [shard(0), shard(63), ShardId::INSTALLATION] {
        let once = store.generation(shard).await;
        let once = once.map_err(|error| Broken::Failed("a generation is read", error))?;
        ensure(once.is_some(), "every shard is born")?;
        let twice = store.generation(shard).await;
        let twice = twice.map_err(|error| Broken::Failed("a generation is read", error))?;
        same(&twice, &once, "a generation stays")?;
        ensure(!seen.contains(&once), "shards are born apart")?;
        seen.push(once);
    }
    Ok(())
}

async fn two_shards_are_refused(store: &dyn Store) -> Checked {
    let transaction = begin(shard(1)).write(put(&key(shard(2), b"foreign"), b"x"));
    let refused = store.commit(transaction).await;
    ensure(
        matches!(refused, Err(StoreError::Misuse(_))),
        "a commit names one shard",
    )
}
