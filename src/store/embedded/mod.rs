//! The embedded back end: one file, one process, nothing to install.
//!
//! Every commit is on the disk before it is answered; commits that arrive together share one wait
//! for the disk. There are no replicas, so `Replicated` and `Local` mean the same here. What the disk
//! refuses is refused to whoever asks, and the file is opened again until it can be used.

mod file;
mod layout;
mod queue;
mod small;
mod space;
mod usage;
mod writer;

pub use usage::Usage;

use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::store::log::Reading;
use crate::store::{
    self, Fault, Finding, Generation, Index, Key, Link, Log, LogEntry, Outcome, Position, Ranked,
    Record, Store, StoreError, Tail, Transaction,
};
use async_trait::async_trait;
use file::{File, Open};
use layout::{
    BIRTHS, ENTRIES, Ends, FOREVER, HEADS, NOTES, RANKS, RECORDS, Stored, from_ordered, index_key,
    joined, log_key, ordered, record_key,
};
use queue::{Asked, Job};
use redb::DatabaseError;
use space::Space;
use std::fmt;
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// A store in one file, open in this process alone.
pub struct Embedded {
    file: Arc<File>,
    asked: Option<mpsc::Sender<Asked>>,
    appended: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the file, or makes it. A second process is refused.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let unopened = |error: std::io::Error| {
            Fault::File.found(format!("{} cannot be opened: {error}", path.display()))
        };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unopened)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let space = Space::under(Some(folder.to_owned()));
        // The very same file each time, whatever lies under its name by then.
        let open = move || {
            let same = file.try_clone().map_err(|error| unavailable(&error))?;
            let opened = file::builder().create_file(same);
            opened.map_err(|error| unfit(&path, &error))
        };
        Self::start(Box::new(open), space)
    }

    /// A store that is gone with the value: for tests and for trying things out.
    pub fn in_memory() -> Result<Self, StoreError> {
        let memory = Mutex::new(Some(redb::backends::InMemoryBackend::new()));
        let open = move || {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            let backend = memory.take().ok_or_else(closed)?;
            let opened = file::builder().create_with_backend(backend);
            opened.map_err(|error| unavailable(&error))
        };
        Self::start(Box::new(open), Space::under(None))
    }

    fn start(open: Open, space: Space) -> Result<Self, StoreError> {
        let file = Arc::new(File::open(open)?);
        let queue = queue::start(Arc::clone(&file), space)
            .map_err(|error| Fault::File.found(format!("no thread can be started: {error}")))?;
        Ok(Self {
            file,
            asked: Some(queue.asked),
            appended: queue.appended,
            thread: Some(queue.thread),
        })
    }

    /// Reads beside the runtime's workers: the disk may be slow.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (file, opening) = (self.file.clone(), self.file.opening());
        let answer = tokio::task::spawn_blocking(move || read(&file.begin_read()?))
            .await
            .unwrap_or_else(|_| Err(closed()));
        if let (Err(StoreError::Unavailable(_)), Some(asked)) = (&answer, &self.asked) {
            self.file.failed_in(opening);
            // Where the queue is full, its thread looks as soon as it has written.
            let _ = asked.try_send(Asked::Look);
        }
        answer
    }

    async fn tail_once(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
    ) -> Result<Tail, StoreError> {
        let name = log_key(log);
        let reading = self
            .read(move |transaction| {
                read_log(transaction, &name, after, limit).map_err(|error| unavailable(&error))?
            })
            .await?;
        let mut tail = reading.judge(after)?;
        if let Tail::Entries { entries, .. } = &mut tail {
            entries.truncate(limit);
        }
        Ok(tail)
    }
}

impl Drop for Embedded {
    /// Returns when the file is closed, so that the next one to open it finds it free.
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing left to close.
            let _ = thread.join();
        }
        self.file.close();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embedded")
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let keys: Vec<_> = keys.iter().map(record_key).collect();
        self.read(move |transaction| {
            let records = transaction
                .open_table(RECORDS)
                .map_err(|error| unavailable(&error))?;
            let now = store::milliseconds(SystemClock::new().now());
            keys.iter()
                .map(|key| {
                    let bytes = records
                        .get(key.as_slice())
                        .map_err(|error| unavailable(&error))?;
                    let Some(bytes) = bytes else { return Ok(None) };
                    let stored = Stored::decode(bytes.value())
                        .ok_or_else(|| StoreError::Corrupt("a record".to_owned()))?;
                    let alive = stored.expires == FOREVER || stored.expires > now;
                    Ok(alive.then_some(Record {
                        value: stored.value,
                        version: stored.version,
                    }))
                })
                .collect()
        })
        .await
    }

    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let keys: Vec<_> = keys.iter().map(record_key).collect();
        self.read(move |transaction| {
            let notes = transaction
                .open_table(NOTES)
                .map_err(|error| unavailable(&error))?;
            let now = store::milliseconds(SystemClock::new().now());
            keys.iter()
                .map(|key| {
                    let bytes = notes
                        .get(key.as_slice())
                        .map_err(|error| unavailable(&error))?;
                    let found = bytes.and_then(|bytes| Stored::decode_note(bytes.value()));
                    Ok(found
                        .filter(|(until, _)| *until > now)
                        .map(|(_, value)| value))
                })
                .collect()
        })
        .await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        store::well_formed(&transaction)?;
        let asked = self.asked.as_ref().ok_or_else(closed)?;
        let (answer, outcome) = oneshot::channel();
        let job = Job {
            transaction,
            answer,
        };
        asked.send(Asked::Commit(job)).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| StoreError::Unknown)?
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        let prefix = index_key(index);
        self.read(move |transaction| {
            read_range(transaction, &prefix, &ranks, limit).map_err(|error| unavailable(&error))
        })
        .await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let mut appended = self.appended.clone();
        let waiting = tokio::time::sleep(wait);
        tokio::pin!(waiting);
        loop {
            // INVARIANT: seen before reading, so that an append between the read and the wait
            // ends the wait at once.
            appended.mark_unchanged();
            let tail = self.tail_once(log, after, limit).await?;
            let empty = matches!(&tail, Tail::Entries { entries, .. } if entries.is_empty());
            if !empty || wait.is_zero() || limit == 0 {
                return Ok(tail);
            }
            tokio::select! {
                changed = appended.changed() => changed.map_err(|_| closed())?,
                () = &mut waiting => return self.tail_once(log, after, limit).await,
            }
        }
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        self.read(move |transaction| {
            let births = transaction
                .open_table(BIRTHS)
                .map_err(|error| unavailable(&error))?;
            let found = births
                .get([shard.number()].as_slice())
                .map_err(|error| unavailable(&error))?;
            Ok(found.and_then(|bytes| bytes.value().try_into().ok().map(Generation)))
        })
        .await
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        self.generation(ShardId::INSTALLATION).await?;
        Ok(Vec::new())
    }
}

fn read_range(
    transaction: &redb::ReadTransaction,
    prefix: &[u8],
    ranks: &RangeInclusive<i64>,
    limit: usize,
) -> Result<Vec<Ranked>, redb::Error> {
    let table = transaction.open_table(RANKS)?;
    let start = joined(&[prefix, &ordered(*ranks.start())]);
    let mut found = Vec::new();
    for row in table.range(start.as_slice()..)?.take(limit) {
        let row = row?.0;
        let Some((rank, member)) = row
            .value()
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_first_chunk::<8>())
        else {
            break;
        };
        let rank = from_ordered(*rank);
        if rank > *ranks.end() {
            break;
        }
        found.push(Ranked {
            member: member.to_vec(),
            rank,
        });
    }
    Ok(found)
}

fn read_log(
    transaction: &redb::ReadTransaction,
    name: &[u8],
    after: Position,
    limit: usize,
) -> Result<Result<Reading, StoreError>, redb::Error> {
    let ends = match transaction.open_table(HEADS)?.get(name)? {
        None => Some(Ends::NEW),
        Some(bytes) => Ends::decode(bytes.value()),
    };
    let Some(Ends { head, base }) = ends else {
        return Ok(Err(StoreError::Corrupt("the head of a log".to_owned())));
    };
    let mut entries = Vec::new();
    // At least one entry is read whatever the limit: its link proves the position asked.
    let wanted = limit.max(1);
    let table = transaction.open_table(ENTRIES)?;
    let first = after.sequence.saturating_add(1);
    let start = joined(&[name, &first.to_be_bytes()]);
    let end = joined(&[name, &u64::MAX.to_be_bytes()]);
    for row in table.range(start.as_slice()..=end.as_slice())?.take(wanted) {
        let (key, value) = row?;
        let sequence = key.value().last_chunk::<8>().copied().unwrap_or_default();
        let Some((link, value)) = value.value().split_first_chunk::<20>() else {
            return Ok(Err(StoreError::Corrupt("an entry of a log".to_owned())));
        };
        entries.push(LogEntry {
            position: Position {
                sequence: u64::from_be_bytes(sequence),
                link: Link(*link),
            },
            value: value.to_vec(),
        });
    }
    Ok(Ok(Reading {
        head,
        base,
        entries,
        store_now: SystemClock::new().now(),
    }))
}

fn unavailable(error: &dyn fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn closed() -> StoreError {
    StoreError::Unavailable("its file is not open".to_owned())
}

fn unfit(path: &Path, error: &DatabaseError) -> StoreError {
    let path = path.display();
    let message = match error {
        DatabaseError::DatabaseAlreadyOpen => {
            format!("{path} is open in another process; stop that one, or share a Redis store")
        }
        DatabaseError::UpgradeRequired(_) => {
            format!("{path} has an older format; open it once with the version that wrote it")
        }
        other => format!("{path} cannot be used: {other}"),
    };
    Fault::File.found(message).into()
}

#[cfg(test)]
mod tests;
