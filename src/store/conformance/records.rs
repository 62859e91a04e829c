//! Records, guards and the commit itself.

use super::{
    Broken, Checked, append, applied, begin, commit, conflicts, ensure, entries, index, key,
    members, now, put, rank, same, shard, value,
};
use crate::ids::ShardId;
use crate::store::{CommitId, Guard, Log, Outcome, Position, Store, StoreError, Write};
use std::time::Duration;
use time::OffsetDateTime;

pub(super) async fn records_are_written_and_read(store: &dyn Store) -> Checked {
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

pub(super) async fn a_conflict_writes_nothing(store: &dyn Store) -> Checked {
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

pub(super) async fn every_guard_holds_and_refuses(store: &dyn Store) -> Checked {
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

pub(super) async fn a_commit_sent_twice_is_applied_once(store: &dyn Store) -> Checked {
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

pub(super) async fn a_late_commit_is_refused(store: &dyn Store) -> Checked {
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

pub(super) async fn bytes_are_kept_as_they_are(store: &dyn Store) -> Checked {
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

pub(super) async fn a_past_record_counts_as_nothing(store: &dyn Store) -> Checked {
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

pub(super) async fn a_shard_has_a_generation(store: &dyn Store) -> Checked {
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

pub(super) async fn two_shards_are_refused(store: &dyn Store) -> Checked {
    let transaction = begin(shard(1)).write(put(&key(shard(2), b"foreign"), b"x"));
    let refused = store.commit(transaction).await;
    ensure(
        matches!(refused, Err(StoreError::Misuse(_))),
        "a commit names one shard",
    )
}
