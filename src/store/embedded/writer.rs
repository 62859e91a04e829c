//! What one batch of commits does to the tables.

use super::layout::{
    BIRTHS, COMMIT_EXPIRIES, COMMITS, ENTRIES, Ends, FOREVER, HEADS, MEMBERS, NO_TABLES_OF_OLD,
    OLD_BIRTHS, RANKS, RECORD_EXPIRIES, RECORDS, Stored, TABLES, decode_positions,
    encode_positions, index_key, joined, log_key, ordered, record_key,
};
use super::small::Small;
use crate::clock::{Clock, SystemClock};
use crate::ids::{self, ShardId};
use crate::store::{
    self, CommitId, Guard, Index, Key, Link, Log, Outcome, Position, Priority, REMEMBERED,
    StoreError, Transaction, Write,
};
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};
use std::collections::HashMap;
use time::OffsetDateTime;

/// How many expired rows one batch clears away, at most.
const RECLAIM: usize = 512;

/// Why a whole batch failed.
pub(super) enum Failure {
    /// Before the commit: nothing was written.
    NotWritten(redb::Error),
    /// In the commit: the file knows, we do not.
    Unknown(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::NotWritten(error.into())
    }
}

impl Failure {
    pub(super) fn error(&self) -> &redb::Error {
        match self {
            Self::NotWritten(error) | Self::Unknown(error) => error,
        }
    }
}

pub(super) type Answers = Vec<Result<Outcome, StoreError>>;

/// Where it is `short`, nothing is minted that was not minted before.
pub(super) fn write(
    transaction: WriteTransaction,
    transactions: &[Transaction],
    short: bool,
) -> Result<Answers, Failure> {
    let now = store::milliseconds(SystemClock::new().now());
    let mut answers = Vec::with_capacity(transactions.len());
    {
        let mut tables = Tables::open(&transaction)?;
        for one in transactions {
            answers.push(tables.apply(one, now, short)?);
        }
        tables.reclaim(now)?;
    }
    transaction
        .commit()
        .map_err(|error| Failure::Unknown(error.into()))?;
    Ok(answers)
}

/// Of a version whose records or ranks lie otherwise.
pub(super) fn is_old(database: &Database) -> bool {
    database
        .begin_read()
        .is_ok_and(|read| OLD_BIRTHS.iter().any(|old| read.open_table(*old).is_ok()))
}

/// Everything is there that [`give_birth`] makes.
pub(super) fn is_born(database: &Database) -> bool {
    database
        .begin_read()
        .is_ok_and(|read| TABLES.iter().all(|table| read.open_table(*table).is_ok()))
}

/// Gives every shard its birth record, once in the life of the file.
pub(super) fn give_birth(transaction: WriteTransaction) -> Result<(), redb::Error> {
    {
        Tables::open(&transaction)?;
        // SECURITY: an earlier version would make this table and start, and not find what was spent.
        for old in NO_TABLES_OF_OLD {
            transaction.open_table(old)?;
        }
        let mut births = transaction.open_table(BIRTHS)?;
        for shard in ShardId::all().chain([ShardId::INSTALLATION]) {
            let key = [shard.number()];
            if births.get(key.as_slice())?.is_none() {
                let generation: [u8; 16] = ids::random();
                births.insert(key.as_slice(), generation.as_slice())?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

pub(super) type Bytes<'a> = Table<'a, &'static [u8], &'static [u8]>;

struct Tables<'a> {
    records: Bytes<'a>,
    record_expiries: Bytes<'a>,
    members: Bytes<'a>,
    ranks: Bytes<'a>,
    entries: Bytes<'a>,
    heads: Bytes<'a>,
    commits: Bytes<'a>,
    commit_expiries: Bytes<'a>,
    small: Small<'a>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            record_expiries: transaction.open_table(RECORD_EXPIRIES)?,
            members: transaction.open_table(MEMBERS)?,
            ranks: transaction.open_table(RANKS)?,
            entries: transaction.open_table(ENTRIES)?,
            heads: transaction.open_table(HEADS)?,
            commits: transaction.open_table(COMMITS)?,
            commit_expiries: transaction.open_table(COMMIT_EXPIRIES)?,
            small: Small::open(transaction)?,
        })
    }

    /// The outer error ends the batch; the inner answer is this commit's own.
    fn apply(
        &mut self,
        transaction: &Transaction,
        now: i64,
        short: bool,
    ) -> Result<Result<Outcome, StoreError>, redb::Error> {
        let shard = transaction.shard.number();
        let own = joined(&[&[shard], &transaction.id.0]);
        if let Some(before) = self.commits.get(own.as_slice())? {
            return Ok(match decode_positions(before.value()) {
                Some(appended) => Ok(Outcome::Applied { appended }),
                None => Err(corrupt("a commit's own record")),
            });
        }
        if store::milliseconds(transaction.deadline) < now {
            return Ok(Ok(Outcome::TooLate));
        }
        // INVARIANT: after its own record was looked for. What was written stays written, and whoever
        // sends it again must not read that it was not.
        if short && transaction.priority == Priority::Mint {
            return Ok(Err(StoreError::Full));
        }
        // INVARIANT: everything is checked before the first write; commits of one batch share a
        // file transaction, so a commit that wrote half could not be taken back alone.
        for (place, guard) in transaction.guards.iter().enumerate() {
            match self.holds(guard, now)? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(Outcome::Conflict { guard: place })),
                Err(error) => return Ok(Err(error)),
            }
        }
        let mut heads = HashMap::new();
        for write in &transaction.writes {
            if let Write::Append { log, .. } | Write::Trim { log, .. } = write {
                match self.ends(log)? {
                    Ok(ends) => heads.insert(log_key(log), ends),
                    Err(error) => return Ok(Err(error)),
                };
            }
        }
        let mut appended = Vec::new();
        for write in &transaction.writes {
            self.write(write, transaction.id, &mut heads, &mut appended)?;
        }
        for (log, ends) in &heads {
            self.heads
                .insert(log.as_slice(), ends.encode().as_slice())?;
        }
        let remembered = i64::try_from(REMEMBERED.as_millis()).unwrap_or(i64::MAX);
        let until = store::milliseconds(transaction.deadline).saturating_add(remembered);
        self.commits
            .insert(own.as_slice(), encode_positions(&appended).as_slice())?;
        let expiry = joined(&[&ordered(until), &own]);
        self.commit_expiries
            .insert(expiry.as_slice(), [].as_slice())?;
        Ok(Ok(Outcome::Applied { appended }))
    }

    fn holds(&self, guard: &Guard, now: i64) -> Result<Result<bool, StoreError>, redb::Error> {
        Ok(match guard {
            Guard::Absent(key) => self
                .stored(key)?
                .map(|found| found.is_none_or(|record| record.expires <= now)),
            Guard::Unchanged(key, version) => self.stored(key)?.map(|found| {
                found.is_some_and(|record| record.expires > now && record.version == *version)
            }),
            Guard::Fewer {
                index,
                above_rank,
                than,
            } => Ok(self.count_above(index, *above_rank, *than)? < *than),
            Guard::Unnoted(key) => Ok(self.small.is_unnoted(key, now)?),
            Guard::Below {
                tally,
                above_slot,
                than,
            } => Ok(self.small.sum(tally, *above_slot)? < *than),
            Guard::NotPast { marker, position } => match self.stored(marker)? {
                Err(error) => Err(error),
                Ok(None) => Ok(true),
                Ok(Some(record)) => match <[u8; 8]>::try_from(record.value.as_slice()) {
                    Ok(bytes) => Ok(u64::from_be_bytes(bytes) <= *position),
                    Err(_) => Err(corrupt("a marker")),
                },
            },
            Guard::HeadIs(log, position) => self.ends(log)?.map(|ends| ends.head == *position),
        })
    }

    fn stored(&self, key: &Key) -> Result<Result<Option<Stored>, StoreError>, redb::Error> {
        Ok(match self.records.get(record_key(key).as_slice())? {
            None => Ok(None),
            Some(bytes) => Stored::decode(bytes.value())
                .map(Some)
                .ok_or_else(|| corrupt("a record")),
        })
    }

    fn ends(&self, log: &Log) -> Result<Result<Ends, StoreError>, redb::Error> {
        Ok(match self.heads.get(log_key(log).as_slice())? {
            None => Ok(Ends::NEW),
            Some(bytes) => Ends::decode(bytes.value()).ok_or_else(|| corrupt("the head of a log")),
        })
    }

    /// Counts up to `enough`; more does not matter to any guard.
    fn count_above(&self, index: &Index, above: i64, enough: u64) -> Result<u64, redb::Error> {
        let Some(lowest) = above.checked_add(1) else {
            return Ok(0);
        };
        let prefix = index_key(index);
        let start = joined(&[&prefix, &ordered(lowest)]);
        let mut count = 0;
        for row in self.ranks.range(start.as_slice()..)? {
            if count >= enough || !row?.0.value().starts_with(&prefix) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    fn write(
        &mut self,
        write: &Write,
        id: CommitId,
        heads: &mut HashMap<Vec<u8>, Ends>,
        appended: &mut Vec<Position>,
    ) -> Result<(), redb::Error> {
        match write {
            Write::Put {
                key,
                value,
                expires_at,
            } => {
                let expires = expires_at.map_or(FOREVER, store::milliseconds);
                self.put(&record_key(key), expires, (id, value))?;
            }
            Write::Delete(key) => self.remove(&record_key(key))?,
            Write::Note { key, value, until } => self.small.note(key, value, *until)?,
            Write::Share { key, value } => self.share(key, value, id)?,
            Write::Unshare { key, until } => self.unshare(key, *until)?,
            Write::Count {
                tally,
                slot,
                by,
                over,
            } => self.small.count(tally, *slot, *by, *over)?,
            Write::Rank {
                index,
                member,
                rank,
            } => self.rank(index, member, Some(*rank))?,
            Write::Unrank { index, member } => self.rank(index, member, None)?,
            Write::Append { log, value } => {
                let name = log_key(log);
                let ends = heads.entry(name.clone()).or_insert(Ends::NEW);
                ends.head = ends.head.next(value);
                let key = joined(&[&name, &ends.head.sequence.to_be_bytes()]);
                let entry = joined(&[&ends.head.link.0, value]);
                self.entries.insert(key.as_slice(), entry.as_slice())?;
                appended.push(ends.head);
            }
            Write::Trim { log, through } => {
                let name = log_key(log);
                let ends = heads.entry(name.clone()).or_insert(Ends::NEW);
                self.trim(&name, ends, *through)?;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        key: &[u8],
        expires: i64,
        (id, value): (CommitId, &[u8]),
    ) -> Result<(), redb::Error> {
        self.remove(key)?;
        let record = Stored::encode(id, expires, value);
        self.records.insert(key, record.as_slice())?;
        if expires != FOREVER {
            let expiry = joined(&[&ordered(expires), key]);
            self.record_expiries
                .insert(expiry.as_slice(), [].as_slice())?;
        }
        Ok(())
    }

    fn share(&mut self, key: &Key, value: &[u8], id: CommitId) -> Result<(), redb::Error> {
        let key = record_key(key);
        let there = match self.records.get(key.as_slice())? {
            Some(bytes) => Stored::decode(bytes.value()),
            None => None,
        };
        let now = store::milliseconds(SystemClock::new().now());
        match there {
            // Its name follows from what it says: with anything else there, nobody could read what names it.
            Some(there) if there.expires > now && there.value == value => {
                self.put(&key, FOREVER, (there.version, &there.value))?;
            }
            Some(there) if there.expires > now => self.put(&key, FOREVER, (id, value))?,
            _ => {
                self.small.nobody_shares(&key)?;
                self.put(&key, FOREVER, (id, value))?;
            }
        }
        self.small.sharers(&key, 1)?;
        Ok(())
    }

    fn unshare(&mut self, key: &Key, until: OffsetDateTime) -> Result<(), redb::Error> {
        let key = record_key(key);
        let there = match self.records.get(key.as_slice())? {
            Some(bytes) => Stored::decode(bytes.value()),
            None => None,
        };
        if let Some(there) = there
            && self.small.sharers(&key, -1)? <= 0
        {
            let until = store::milliseconds(until);
            self.put(&key, until, (there.version, &there.value))?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let expires = self
            .records
            .remove(key)?
            .and_then(|old| Stored::decode(old.value()))
            .map_or(FOREVER, |old| old.expires);
        if expires != FOREVER {
            let expiry = joined(&[&ordered(expires), key]);
            self.record_expiries.remove(expiry.as_slice())?;
        }
        Ok(())
    }

    fn rank(&mut self, index: &Index, member: &[u8], rank: Option<i64>) -> Result<(), redb::Error> {
        let prefix = index_key(index);
        let key = joined(&[&prefix, member]);
        let old = match self.members.remove(key.as_slice())? {
            Some(old) => <[u8; 8]>::try_from(old.value()).ok(),
            None => None,
        };
        if let Some(old) = old {
            let row = joined(&[&prefix, &old, member]);
            self.ranks.remove(row.as_slice())?;
        }
        if let Some(rank) = rank {
            let rank = ordered(rank);
            self.members.insert(key.as_slice(), rank.as_slice())?;
            let row = joined(&[&prefix, &rank, member]);
            self.ranks.insert(row.as_slice(), [].as_slice())?;
        }
        Ok(())
    }

    fn trim(&mut self, name: &[u8], ends: &mut Ends, through: u64) -> Result<(), redb::Error> {
        let through = through.min(ends.head.sequence);
        for sequence in ends.base.sequence.saturating_add(1)..=through {
            let key = joined(&[name, &sequence.to_be_bytes()]);
            let removed = self.entries.remove(key.as_slice())?;
            let link = removed.and_then(|entry| {
                let (link, _) = entry.value().split_first_chunk::<20>()?;
                Some(Link(*link))
            });
            if let Some(link) = link {
                ends.base = Position { sequence, link };
            }
        }
        Ok(())
    }

    /// Clears away what has expired, a little with every batch.
    fn reclaim(&mut self, now: i64) -> Result<(), redb::Error> {
        for (_, key) in expired(&self.record_expiries, now)? {
            self.remove(&key)?;
            self.small.nobody_shares(&key)?;
        }
        for (expiry, key) in expired(&self.commit_expiries, now)? {
            self.commits.remove(key.as_slice())?;
            self.commit_expiries.remove(expiry.as_slice())?;
        }
        self.small.reclaim(now)
    }
}

/// A row of expiries, and the key in it.
pub(super) type Expired = (Vec<u8>, Vec<u8>);

/// The first rows that have expired.
pub(super) fn expired(table: &Bytes<'_>, now: i64) -> Result<Vec<Expired>, redb::Error> {
    let end = ordered(now);
    let mut found = Vec::new();
    for row in table.range(..end.as_slice())?.take(RECLAIM) {
        let row = row?.0;
        if let Some((_, key)) = row.value().split_first_chunk::<8>() {
            found.push((row.value().to_vec(), key.to_vec()));
        }
    }
    Ok(found)
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("{what} in the embedded store does not parse"))
}
