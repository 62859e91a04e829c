//! Notes, shared records and counts.

use super::{
    Broken, Checked, applied, begin, commit, conflicts, ensure, index, key, now, put, same, shard,
    value,
};
use crate::store::{self, Guard, Key, MOST_NOTED, Outcome, Store, StoreError, Tally, Write};
use ring::digest::{SHA256, digest};
use std::time::Duration;
use time::OffsetDateTime;

fn note(key: &Key, value: &[u8], until: OffsetDateTime) -> Write {
    Write::Note {
        key: key.clone(),
        value: value.to_vec(),
        until,
    }
}

async fn noted(store: &dyn Store, key: &Key) -> Result<Option<Vec<u8>>, Broken> {
    let found = store.notes(std::slice::from_ref(key)).await;
    let mut found = found.map_err(|error| Broken::Failed("a note is read", error))?;
    Ok(found.pop().flatten())
}

pub(super) async fn a_note_stands_until_its_time(store: &dyn Store) -> Checked {
    let (first, second) = (key(shard(7), b"kind/a"), key(shard(8), b"kind/b"));
    let later = now() + Duration::from_secs(60);
    let spend = |key: &Key, until| {
        begin(key.shard)
            .guard(Guard::Unnoted(key.clone()))
            .write(note(key, &[0xa5; MOST_NOTED], until))
    };
    applied(store, spend(&first, later), "nothing is noted").await?;
    conflicts(store, spend(&first, later), 0, "a note is there").await?;
    applied(store, spend(&second, later), "another is not").await?;
    let missing = key(shard(7), b"kind/c");
    let found = store.notes(&[second.clone(), missing, first.clone()]).await;
    let found = found.map_err(|error| Broken::Failed("notes are read", error))?;
    let long = Some(vec![0xa5; MOST_NOTED]);
    same(
        &found,
        &vec![long.clone(), None, long],
        "one answer per key, in order",
    )?;
    same(&value(store, &first).await?, &None, "a note is no record")?;
    let record = begin(first.shard).guard(Guard::Absent(first.clone()));
    applied(store, record, "a note does not stand in a record's way").await?;

    let brief = key(shard(7), b"kind/brief");
    let soon = now() + Duration::from_millis(300);
    applied(store, spend(&brief, soon), "a brief note").await?;
    conflicts(store, spend(&brief, soon), 0, "a brief note while it lives").await?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    same(
        &noted(store, &brief).await?,
        &None,
        "what is over is not read",
    )?;
    applied(store, spend(&brief, later), "what is over is noted anew").await?;
    conflicts(store, spend(&brief, later), 0, "and stands again").await?;
    conflicts(store, spend(&first, later), 0, "the first one still stands").await?;
    let dead = key(shard(7), b"kind/dead");
    let long_ago = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1);
    applied(store, spend(&dead, long_ago), "a note that is over").await?;
    same(&noted(store, &dead).await?, &None, "it is nothing")?;

    let long = begin(first.shard).write(note(&first, &[0; MOST_NOTED + 1], later));
    let refused = store.commit(long).await;
    ensure(
        matches!(refused, Err(StoreError::Misuse(_))),
        "a long note is refused",
    )?;
    many_notes_stand(store).await?;
    what_is_over_takes_nothing_along(store).await
}

/// Names that a back end which puts notes together by their hash puts together.
fn close_together(how_many: usize) -> Vec<Key> {
    let same = |key: &Key| {
        let hash = digest(&SHA256, &key.name);
        let number = hash.as_ref().get(16..18);
        number.is_some_and(|number| matches!(number, [high, 0] if high & 3 == 0))
    };
    let keys = std::iter::repeat_with(|| key(shard(10), b"close/"));
    keys.filter(same).take(how_many).collect()
}

async fn what_is_over_takes_nothing_along(store: &dyn Store) -> Checked {
    let keys = close_together(48);
    let (brief, lasting) = keys.split_at(24);
    let soon = now() + Duration::from_millis(300);
    for (keys, until) in [(brief, soon), (lasting, soon + Duration::from_secs(60))] {
        let transaction = keys.iter().fold(begin(shard(10)), |transaction, key| {
            transaction.write(note(key, b"", until))
        });
        applied(store, transaction, "notes that lie together").await?;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    for (keys, there) in [(brief, false), (lasting, true)] {
        for key in keys {
            same(
                &noted(store, key).await?.is_some(),
                &there,
                "a note among those that are over",
            )?;
        }
    }
    Ok(())
}

/// More than lie together, each with a time of its own.
async fn many_notes_stand(store: &dyn Store) -> Checked {
    let at = shard(10);
    let until = |number: u64| now() + Duration::from_secs(60 + number % 7);
    let keys: Vec<Key> = (0..300).map(|_| key(at, b"many/")).collect();
    let mut transaction = begin(at);
    for (number, key) in (0..).zip(&keys) {
        transaction =
            transaction
                .guard(Guard::Unnoted(key.clone()))
                .write(note(key, b"x", until(number)));
    }
    applied(store, transaction, "three hundred notes at once").await?;
    let found = store.notes(&keys).await;
    let found = found.map_err(|error| Broken::Failed("many notes are read", error))?;
    ensure(
        found.iter().all(Option::is_some),
        "every one of many stands",
    )
}

pub(super) async fn a_shared_record_stays_while_it_is_shared(store: &dyn Store) -> Checked {
    let record = key(shard(11), b"shared");
    let share = |value: &[u8]| {
        begin(record.shard).write(Write::Share {
            key: record.clone(),
            value: value.to_vec(),
        })
    };
    let unshare = |until| {
        begin(record.shard).write(Write::Unshare {
            key: record.clone(),
            until,
        })
    };
    let long_ago = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1);
    let first = share(b"value");
    let id = first.id;
    applied(store, first, "the first to share it writes it").await?;
    applied(store, share(b"value"), "the second is counted").await?;
    let found = store.get(std::slice::from_ref(&record)).await;
    let found = found.map_err(|error| Broken::Failed("a shared record is read", error))?;
    let version = found
        .into_iter()
        .next()
        .flatten()
        .map(|found| found.version);
    same(&version, &Some(id), "it is as it was first written")?;
    applied(store, unshare(long_ago), "one is done").await?;
    let there = Some(b"value".to_vec());
    same(&value(store, &record).await?, &there, "the other is not")?;
    let soon = now() + Duration::from_millis(300);
    applied(store, unshare(soon), "both are done").await?;
    same(
        &value(store, &record).await?,
        &there,
        "its time is not over",
    )?;
    applied(store, share(b"value"), "shared again before that").await?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    same(&value(store, &record).await?, &there, "it does not expire")?;
    applied(store, unshare(long_ago), "done again").await?;
    same(&value(store, &record).await?, &None, "now it is gone")?;
    applied(store, unshare(long_ago), "once more is nothing").await?;
    applied(store, share(b"value"), "and it comes back").await?;
    same(&value(store, &record).await?, &there, "as it was")?;
    let spoiled = begin(record.shard).write(put(&record, b"something else"));
    applied(store, spoiled, "its name says another value").await?;
    applied(store, share(b"value"), "who shares it says which").await?;
    same(&value(store, &record).await?, &there, "it is made good")?;
    applied(store, unshare(long_ago), "one of two").await?;
    applied(store, unshare(long_ago), "with one to share it").await?;
    same(&value(store, &record).await?, &None, "who is done")?;

    applied(store, share(b"value"), "one more time").await?;
    let soon = now() + Duration::from_secs(60);
    applied(store, unshare(soon), "and done").await?;
    applied(store, unshare(soon), "twice, of which one is nothing").await?;
    applied(store, share(b"value"), "one shares it").await?;
    applied(store, share(b"value"), "and another").await?;
    applied(store, unshare(long_ago), "one of them is done").await?;
    same(
        &value(store, &record).await?,
        &there,
        "the other owes nothing",
    )
}

pub(super) async fn slots_are_counted_together(store: &dyn Store) -> Checked {
    let at = shard(12);
    let tally = Tally {
        shard: at,
        name: index(at).name,
    };
    let count = |slot, by, over| Write::Count {
        tally: tally.clone(),
        slot,
        by,
        over,
    };
    let transaction = begin(at)
        .write(count(-5, 1, -10))
        .write(count(10, 2, -10))
        .write(count(20, 1, -10))
        .write(count(20, 1, -10));
    applied(store, transaction, "five in three slots").await?;
    let holds = async |above_slot, than, holds: bool| {
        let guard = Guard::Below {
            tally: tally.clone(),
            above_slot,
            than,
        };
        let outcome = commit(store, begin(at).guard(guard), "`Below` is counted").await?;
        let promise = format!("`Below` {than} above {above_slot}");
        same(
            &matches!(outcome, Outcome::Applied { .. }),
            &holds,
            &promise,
        )
    };
    holds(i64::MIN, 6, true).await?;
    holds(i64::MIN, 5, false).await?;
    holds(-5, 5, true).await?;
    holds(-5, 4, false).await?;
    holds(19, 3, true).await?;
    holds(19, 2, false).await?;
    holds(20, 1, true).await?;
    holds(20, 0, false).await?;
    let transaction = begin(at).write(count(20, -1, -10));
    applied(store, transaction, "one less").await?;
    holds(10, 2, true).await?;
    holds(10, 1, false).await?;
    let transaction = begin(at)
        .write(count(20, -1, -10))
        .write(count(20, -1, -10));
    applied(store, transaction, "never less than none").await?;
    holds(i64::MIN, 4, true).await?;
    holds(i64::MIN, 3, false).await?;
    let now = store::milliseconds(now());
    let clock = now + 3_600_000;
    let ahead = begin(at).write(count(now + 1_800_000, 1, clock));
    applied(store, ahead, "asked by a clock that is ahead").await?;
    holds(now, 1, false).await?;
    let back = begin(at).write(count(now + 1_800_000, -1, -10));
    applied(store, back, "counted back").await?;
    applied(store, begin(at).write(count(30, 1, 10)), "what is over").await?;
    holds(i64::MIN, 2, true).await?;
    holds(i64::MIN, 1, false).await
}

pub(super) async fn small_things_keep_nothing_of_a_conflict(store: &dyn Store) -> Checked {
    let at = shard(13);
    let (there, noted_key, shared) = (key(at, b"there"), key(at, b"kind/n"), key(at, b"shared"));
    let tally = Tally {
        shard: at,
        name: index(at).name,
    };
    applied(store, begin(at).write(put(&there, b"1")), "a record").await?;
    let transaction = begin(at)
        .guard(Guard::Unnoted(noted_key.clone()))
        .guard(Guard::Absent(there))
        .write(note(&noted_key, b"", now() + Duration::from_secs(60)))
        .write(Write::Share {
            key: shared.clone(),
            value: b"x".to_vec(),
        })
        .write(Write::Count {
            tally: tally.clone(),
            slot: 1,
            by: 1,
            over: 0,
        });
    conflicts(store, transaction, 1, "the failing guard is named").await?;
    same(
        &noted(store, &noted_key).await?,
        &None,
        "no note of a conflict",
    )?;
    same(
        &value(store, &shared).await?,
        &None,
        "nothing shared of a conflict",
    )?;
    let none = begin(at).guard(Guard::Below {
        tally,
        above_slot: i64::MIN,
        than: 1,
    });
    applied(store, none, "nothing counted of a conflict").await?;
    Ok(())
}
