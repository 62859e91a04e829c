//! A reader of the whole audit that misses nothing: how far it has read is in the store, and what it has
//! not read is not trimmed, within bounds.

use super::{AuditError, Entry, log};
use crate::ids::ShardId;
use crate::store::{Key, Link, Position, Store, Tail, Write};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;

/// Entries read of a shard at once.
const PAGE: usize = 200;
/// A reader that is further behind, or silent for longer, is waited for no more.
const MOST_WAITED_FOR: u64 = 20_000;
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);
/// After a failover: what is older than the last look by that much was read. An entry has the time at which its
/// request began, by the clock of another replica.
pub const READ_AGAIN: time::Duration = time::Duration::minutes(2);

/// How far each shard was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    shards: BTreeMap<u8, (u64, [u8; 20])>,
    /// When it last moved, in seconds.
    at: i64,
}

/// What lies behind a cursor, and the cursor behind that.
#[derive(Debug)]
pub struct Read {
    /// After a failover some of them may have been read before: see [`READ_AGAIN`].
    pub entries: Vec<Entry>,
    pub cursor: Cursor,
    /// A shard holds more.
    pub more: bool,
    /// Entries that were trimmed before they were read.
    pub missed: u64,
}

fn key() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"audit/read".to_vec(),
    }
}

/// Whose logs there are: the installation's first, where fences are.
pub fn shards() -> impl Iterator<Item = ShardId> {
    std::iter::once(ShardId::INSTALLATION).chain(ShardId::all())
}

impl Cursor {
    /// The stored one, or where every shard ends now: nobody is told of what was before.
    pub async fn load(store: &dyn Store) -> Result<Self, AuditError> {
        match Self::stored(store).await? {
            Some(cursor) => Ok(cursor),
            None => Self::at_the_end(store).await,
        }
    }

    async fn stored(store: &dyn Store) -> Result<Option<Self>, AuditError> {
        let found = store.get(&[key()]).await?.pop().flatten();
        let parse = |record: crate::store::Record| {
            rmp_serde::from_slice(&record.value).map_err(|_| AuditError::Cursor)
        };
        found.map(parse).transpose()
    }

    async fn at_the_end(store: &dyn Store) -> Result<Self, AuditError> {
        let mut cursor = Self::default();
        for shard in shards() {
            let mut from = Position::ORIGIN;
            let head = loop {
                match store.tail(&log(shard), from, 1, Duration::ZERO).await? {
                    Tail::Entries { head, .. } | Tail::Forked { head } => break head,
                    Tail::Trimmed { oldest } => from = oldest,
                }
            };
            cursor.put(shard, head);
        }
        Ok(cursor)
    }

    fn put(&mut self, shard: ShardId, position: Position) {
        let place = (position.sequence, position.link.0);
        self.shards.insert(shard.number(), place);
    }

    fn position(&self, shard: ShardId) -> Position {
        let place = self.shards.get(&shard.number());
        place.map_or(Position::ORIGIN, |(sequence, link)| Position {
            sequence: *sequence,
            link: Link(*link),
        })
    }

    /// For the commit that does what the entries up to here ask for.
    pub fn write(mut self, now: OffsetDateTime) -> Result<Write, AuditError> {
        self.at = now.unix_timestamp();
        let value = rmp_serde::to_vec(&self).map_err(|_| AuditError::Cursor)?;
        Ok(Write::Put {
            key: key(),
            value,
            expires_at: None,
        })
    }

    /// The next entries of every shard, each in its order.
    pub async fn read_on(&self, store: &dyn Store) -> Result<Read, AuditError> {
        let mut read = Read {
            entries: Vec::new(),
            cursor: self.clone(),
            more: false,
            missed: 0,
        };
        for shard in shards() {
            // One that cannot be read keeps no other one waiting: it is read on from where it stands.
            let next = match self.next_of(store, shard).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(shard = shard.number(), %error, "a shard's audit cannot be read for responses");
                    continue;
                }
            };
            read.more |= next.more;
            read.missed += next.missed;
            read.cursor.put(shard, next.after);
            let entries = next.entries.into_iter();
            read.entries.extend(entries.filter_map(|(_, entry)| entry));
        }
        Ok(read)
    }

    async fn next_of(&self, store: &dyn Store, shard: ShardId) -> Result<Page, AuditError> {
        let next = page(store, shard, self.position(shard)).await?;
        if next.forked {
            return self.anew(store, shard, next.missed).await;
        }
        Ok(next)
    }

    /// What a shard has instead of what a failover lost.
    ///
    /// INVARIANT: the same number stands for another entry now, and it was never read. So all that is young
    /// enough to have come in its place is read once more, and whoever reads knows by its id what it had.
    async fn anew(
        &self,
        store: &dyn Store,
        shard: ShardId,
        missed: u64,
    ) -> Result<Page, AuditError> {
        let read = self.position(shard).sequence;
        let since = match self.at {
            // It never looked: nobody is told of what was before.
            0 => i64::MAX,
            at => at.saturating_sub(READ_AGAIN.whole_seconds()),
        };
        let mut all = Page {
            missed,
            forked: true,
            ..Page::at(Position::ORIGIN)
        };
        loop {
            let next = page(store, shard, all.after).await?;
            if next.forked {
                all.entries.clear();
                all.after = Position::ORIGIN;
                continue;
            }
            let is_new = |entry: &Entry| entry.at.unix_timestamp() >= since;
            let entries = next.entries.into_iter();
            all.entries.extend(entries.filter(|(position, entry)| {
                position.sequence > read || entry.as_ref().is_some_and(is_new)
            }));
            (all.after, all.more) = (next.after, next.more);
            if !all.more || all.after.sequence >= read {
                return Ok(all);
            }
        }
    }
}

/// What lies behind a position of one shard.
#[derive(Debug)]
pub struct Page {
    /// In their order. One that a newer version wrote is for that version's reader: only its place is
    /// told.
    pub entries: Vec<(Position, Option<Entry>)>,
    /// Where to read on.
    pub after: Position,
    pub more: bool,
    /// Entries that were trimmed before they were read.
    pub missed: u64,
    /// A failover lost what was read last.
    pub forked: bool,
}

impl Page {
    fn at(after: Position) -> Self {
        Self {
            entries: Vec::new(),
            after,
            more: false,
            missed: 0,
            forked: false,
        }
    }
}

/// The next entries of one shard.
pub async fn page(store: &dyn Store, shard: ShardId, from: Position) -> Result<Page, AuditError> {
    let mut page = Page::at(from);
    let log = log(shard);
    loop {
        match store.tail(&log, page.after, PAGE, Duration::ZERO).await? {
            Tail::Entries { entries, .. } => {
                page.more = entries.len() == PAGE;
                for entry in entries {
                    page.after = entry.position;
                    if entry.position.sequence > from.sequence {
                        let read = serde_json::from_slice(&entry.value).ok();
                        page.entries.push((entry.position, read));
                    }
                }
                return Ok(page);
            }
            Tail::Trimmed { oldest } => {
                page.missed += oldest.sequence.saturating_sub(from.sequence);
                page.after = oldest;
            }
            // A failover lost what was read last: what it has now is read from its beginning, and
            // what was read already is known by its number.
            Tail::Forked { .. } if page.after != Position::ORIGIN => {
                page.forked = true;
                page.after = Position::ORIGIN;
            }
            Tail::Forked { .. } => return Ok(page),
        }
    }
}

/// Up to where each shard may be trimmed for the reader's sake, given how far it is sealed.
pub(super) async fn kept_for(
    store: &dyn Store,
    now: OffsetDateTime,
) -> Result<impl Fn(ShardId, u64) -> u64, AuditError> {
    let cursor = Cursor::stored(store).await?;
    let cursor = cursor.filter(|cursor| {
        let silent = now.unix_timestamp().saturating_sub(cursor.at);
        u64::try_from(silent).unwrap_or(0) < LONGEST_SILENCE.as_secs()
    });
    Ok(move |shard: ShardId, sealed: u64| match &cursor {
        None => sealed,
        Some(cursor) => {
            let read = cursor.position(shard).sequence;
            read.max(sealed.saturating_sub(MOST_WAITED_FOR)).min(sealed)
        }
    })
}
