//! The store: bytes, guards, logs. It knows no lease and no agent.
//!
//! In: a [`Transaction`] on one shard. Out: applied as a whole, or the guard that refused it.
//! Two back ends, [`embedded`] and [`redis`], pass one conformance suite.

pub mod conformance;
pub mod embedded;
mod finding;
mod log;
mod over;
pub mod redis;
mod settle;
mod timed;

pub use finding::{Fault, Finding};
pub use over::Over;
pub use settle::settle;
pub use timed::{InStoreTime, time_log};

pub use log::{Link, LogEntry, Position, Tail, link};

use crate::ids::{self, ShardId};
use async_trait::async_trait;
use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;
use time::OffsetDateTime;

/// A record's place: its shard and its bytes within the shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub shard: ShardId,
    pub name: Vec<u8>,
}

/// A sorted set of members with a rank (a number, usually a time in milliseconds). The name may be
/// built at run time: a quota is counted in an index of its agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Index {
    pub shard: ShardId,
    pub name: Cow<'static, str>,
}

/// Counts by slot (a number, usually a time in milliseconds that was rounded up): how many there are,
/// where nobody has to know which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tally {
    pub shard: ShardId,
    pub name: Cow<'static, str>,
}

/// An append-only, hash-linked sequence of entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Log {
    pub shard: ShardId,
    pub name: &'static str,
}

/// Names one commit for ever. The version of a record *is* the id of the commit that wrote it:
/// a number would repeat after a failover.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitId(pub [u8; 16]);

impl CommitId {
    pub fn draw() -> Self {
        Self(ids::random())
    }

    /// Begins with when it is over, so that a back end can keep what is forgotten together in one
    /// place.
    fn draw_until(deadline: OffsetDateTime) -> Self {
        let mut id = Self::draw();
        let slot = deadline.unix_timestamp().div_euclid(COMMIT_SLOT);
        let slot = u32::try_from(slot).unwrap_or_default().to_be_bytes();
        id.0.iter_mut().zip(slot).for_each(|(to, from)| *to = from);
        id
    }
}

/// Seconds whose commits begin with the same four bytes.
const COMMIT_SLOT: i64 = 64;

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub value: Vec<u8>,
    pub version: CommitId,
}

/// A member of an index with its rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    pub member: Vec<u8>,
    pub rank: i64,
}

/// Checked before the first write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is stored under the key (a record past `expires_at` counts as nothing).
    Absent(Key),
    /// The record is still the one that this commit wrote.
    Unchanged(Key, CommitId),
    /// Fewer than `than` members of the index rank above `above_rank`.
    Fewer {
        index: Index,
        above_rank: i64,
        than: u64,
    },
    /// Nothing is noted under the key, or nothing that is still true.
    Unnoted(Key),
    /// The slots above this one count fewer than `than` together.
    Below {
        tally: Tally,
        above_slot: i64,
        than: u64,
    },
    /// The marker (an 8-byte big-endian sequence number written by `Put`) is absent or not past
    /// `position`.
    NotPast { marker: Key, position: u64 },
    /// The head of the log is exactly this position.
    HeadIs(Log, Position),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// `expires_at` only reclaims space; rooms compare with `now` themselves.
    Put {
        key: Key,
        value: Vec<u8>,
        expires_at: Option<OffsetDateTime>,
    },
    Delete(Key),
    /// A fact of at most [`MOST_NOTED`] bytes that is never changed and no longer there from
    /// `until` on. Much smaller than a record; notes and records of one name do not meet.
    Note {
        key: Key,
        value: Vec<u8>,
        until: OffsetDateTime,
    },
    /// A record that others name: written where it is not there, and counted. It does not expire
    /// while it is shared. The value must follow from the key.
    Share {
        key: Key,
        value: Vec<u8>,
    },
    /// One less names it. With the last, the record expires at `until`.
    Unshare {
        key: Key,
        until: OffsetDateTime,
    },
    /// Adds to a slot. What lies at or below `over` counts no more and is cleared away.
    Count {
        tally: Tally,
        slot: i64,
        by: i64,
        over: i64,
    },
    Rank {
        index: Index,
        member: Vec<u8>,
        rank: i64,
    },
    Unrank {
        index: Index,
        member: Vec<u8>,
    },
    Append {
        log: Log,
        value: Vec<u8>,
    },
    /// Drops entries up to and including this sequence; the head's position is kept for ever.
    Trim {
        log: Log,
        through: u64,
    },
}

/// What a commit waits for before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged by `min_replicas`: whatever lets a credential leave, and every fence.
    Replicated,
    /// The primary's own word is enough: housekeeping.
    Local,
}

/// Who may use the last fifth of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Stops with [`StoreError::Full`] when the store is 80 % full.
    Mint,
    /// Revocation, its audit, housekeeping that frees space: goes on to the last byte.
    Revoke,
}

/// All or nothing, on one shard.
#[derive(Debug, Clone)]
pub struct Transaction {
    pub shard: ShardId,
    pub id: CommitId,
    /// In store time: past it the commit is refused, so that a late retry cannot surprise. The
    /// same transaction may be sent again until [`REMEMBERED`] after the deadline, not later.
    pub deadline: OffsetDateTime,
    pub durability: Durability,
    pub priority: Priority,
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
}

/// How long past its deadline a commit is known by its id, so that sending it again answers what
/// it did the first time.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// The longest value of a note: longer ones would cost as much as records.
pub const MOST_NOTED: usize = 32;

/// The largest rank, either way: the numbers that every back end keeps exactly.
pub const MAX_RANK: i64 = 1 << 53;

impl Transaction {
    /// A replicated commit that stops when the store is nearly full; say [`revoking`] for what
    /// must go on, [`local`] for what may be lost with the primary.
    ///
    /// [`revoking`]: Self::revoking
    /// [`local`]: Self::local
    pub fn new(shard: ShardId, deadline: OffsetDateTime) -> Self {
        Self {
            shard,
            id: CommitId::draw_until(deadline),
            deadline,
            durability: Durability::Replicated,
            priority: Priority::Mint,
            guards: Vec::new(),
            writes: Vec::new(),
        }
    }

    #[must_use]
    pub fn local(mut self) -> Self {
        self.durability = Durability::Local;
        self
    }

    #[must_use]
    pub fn revoking(mut self) -> Self {
        self.priority = Priority::Revoke;
        self
    }

    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }
}

impl Guard {
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) | Self::Unnoted(key) => key.shard,
            Self::Fewer { index, .. } => index.shard,
            Self::Below { tally, .. } => tally.shard,
            Self::NotPast { marker, .. } => marker.shard,
            Self::HeadIs(log, _) => log.shard,
        }
    }
}

impl Write {
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Put { key, .. }
            | Self::Delete(key)
            | Self::Note { key, .. }
            | Self::Share { key, .. }
            | Self::Unshare { key, .. } => key.shard,
            Self::Count { tally, .. } => tally.shard,
            Self::Rank { index, .. } | Self::Unrank { index, .. } => index.shard,
            Self::Append { log, .. } | Self::Trim { log, .. } => log.shard,
        }
    }
}

/// What no back end can apply is refused before it is sent, and by all of them alike.
pub(crate) fn well_formed(transaction: &Transaction) -> Result<(), StoreError> {
    let shard = transaction.shard;
    let foreign = transaction
        .guards
        .iter()
        .any(|guard| guard.shard() != shard)
        || transaction
            .writes
            .iter()
            .any(|write| write.shard() != shard);
    if foreign {
        return Err(StoreError::Misuse(
            "it names more than one shard".to_owned(),
        ));
    }
    let ranks = -MAX_RANK..=MAX_RANK;
    let unranked = transaction.writes.iter().any(|write| match write {
        Write::Rank { rank, .. } => !ranks.contains(rank),
        Write::Count { slot, by, over, .. } => {
            !(ranks.contains(slot) && ranks.contains(by) && ranks.contains(over))
        }
        _ => false,
    });
    if unranked {
        return Err(StoreError::Misuse(format!("a rank lies beyond {MAX_RANK}")));
    }
    let long = transaction
        .writes
        .iter()
        .any(|write| matches!(write, Write::Note { value, .. } if value.len() > MOST_NOTED));
    if long {
        return Err(StoreError::Misuse(format!(
            "a note is longer than {MOST_NOTED} bytes"
        )));
    }
    Ok(())
}

/// Milliseconds since 1970, the unit of expiry in every back end; never below one.
pub(crate) fn milliseconds(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000)
        .unwrap_or(i64::MAX)
        .max(1)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written. `appended` holds the position of each `Append`, in order. A commit that finds that
    /// it was applied before (same id) answers `Applied` again.
    Applied { appended: Vec<Position> },
    /// This guard (by its place in `guards`) does not hold; nothing was written.
    Conflict { guard: usize },
    /// The deadline had passed in store time; nothing was written.
    TooLate,
    /// In force on the primary, not acknowledged in time by all who must.
    Unreplicated { appended: Vec<Position> },
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The log was read, and too few replicas acknowledged the heartbeat behind it: a failover may take back what was
    /// read, and more may be there.
    #[error("the store cannot be reached: {why}")]
    Unproved { why: String, read: Box<Tail> },
    #[error("the store did not answer in time; whether it applied the commit is unknown")]
    Unknown,
    #[error(
        "the store is full: nothing more is minted; where it is not filled to the last, revocation goes on"
    )]
    Full,
    #[error("shard {0} came back without its data; it is refused until `dayfly recover`")]
    Lost(u8),
    #[error("the store is not fit for use: {0}")]
    Unfit(Finding),
    #[error("the store holds what Dayfly did not write: {0}")]
    Corrupt(String),
    #[error("this commit can never be applied: {0}")]
    Misuse(String),
}

/// Identifies the data set a shard was born with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub [u8; 16]);

/// Back ends keep bytes; every rule about leases lives above them.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// One answer per key, in order. A record past its `expires_at` may or may not be returned.
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError>;

    /// What is noted under each key, in order.
    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Checks every guard, then writes everything or nothing. Sending the same transaction again
    /// is safe.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// Members by rank, lowest first.
    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError>;

    /// Entries after a position; waits up to `wait` when there are none. The answer proves
    /// freshness: it follows a heartbeat acknowledged by whoever must. What was read and not acknowledged comes with
    /// [`StoreError::Unproved`].
    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError>;

    /// Is this still the same data? `None`: the shard was never born or came back empty.
    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError>;

    /// Names everything that makes this store unfit (eviction, no persistence, not the primary),
    /// and advice, in words that say what to change. Empty: fit.
    async fn check(&self) -> Result<Vec<Finding>, StoreError>;
}
