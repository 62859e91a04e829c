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

fn shards() -> impl Iterator<Item = ShardId> {
    ShardId::all().chain([ShardId::INSTALLATION])
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
            rmp_serde::from_slice(&record.value).map_err(|_| AuditError::State)
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
        let value = rmp_serde::to_vec(&self).map_err(|_| AuditError::State)?;
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
            let from = self.position(shard);
            let mut after = from;
            loop {
                match store.tail(&log(shard), after, PAGE, Duration::ZERO).await? {
                    Tail::Entries { entries, .. } => {
                        read.more |= entries.len() == PAGE;
                        for entry in entries {
                            read.cursor.put(shard, entry.position);
                            // One that a newer version wrote is for that version's reader.
                            if entry.position.sequence > from.sequence
                                && let Ok(entry) = serde_json::from_slice(&entry.value)
                            {
                                read.entries.push(entry);
                            }
                        }
                        break;
                    }
                    Tail::Trimmed { oldest } => {
                        read.missed += oldest.sequence.saturating_sub(from.sequence);
                        after = oldest;
                    }
                    // A failover lost what was read last: what it has now is read from its beginning, and
                    // what was read already is known by its number.
                    Tail::Forked { .. } if after != Position::ORIGIN => after = Position::ORIGIN,
                    Tail::Forked { .. } => break,
                }
            }
        }
        Ok(read)
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
