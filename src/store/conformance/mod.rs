//! What every back end must do, as a suite to run against one.
//!
//! In: a store that nobody else uses. Out: the first promise that it breaks, in words.

mod order;
mod records;
mod small;

use crate::clock::{Clock, SystemClock};
use crate::ids::{self, ShardId};
use crate::store::{
    Guard, Index, Key, Log, Outcome, Position, Store, StoreError, Tail, Transaction, Write,
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
    race(Arc::clone(&store)).await?;
    let store = store.as_ref();
    records::records_are_written_and_read(store).await?;
    records::a_conflict_writes_nothing(store).await?;
    records::every_guard_holds_and_refuses(store).await?;
    records::a_commit_sent_twice_is_applied_once(store).await?;
    records::a_late_commit_is_refused(store).await?;
    records::bytes_are_kept_as_they_are(store).await?;
    order::an_index_is_ordered_by_rank(store).await?;
    order::a_log_is_linked_and_followed(store).await?;
    order::a_position_elsewhere_is_forked(store).await?;
    order::a_trimmed_log_says_where_it_begins(store).await?;
    order::a_waiting_reader_is_woken(store).await?;
    records::a_past_record_counts_as_nothing(store).await?;
    small::a_note_stands_until_its_time(store).await?;
    small::a_shared_record_stays_while_it_is_shared(store).await?;
    small::slots_are_counted_together(store).await?;
    small::small_things_keep_nothing_of_a_conflict(store).await?;
    records::a_shard_has_a_generation(store).await?;
    records::two_shards_are_refused(store).await
}

/// One hundred commits for one absent key: exactly one may win.
async fn race(store: Arc<dyn Store>) -> Checked {
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
