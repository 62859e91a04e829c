//! What lies where in the file: tables of bytes to bytes.

use crate::ids::ShardId;
use crate::store::{CommitId, Index, Key, Link, Log, Position, Tally};
use redb::TableDefinition;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// shard, name -> version, expiry, value
pub(super) const RECORDS: Table = TableDefinition::new("records");
/// expiry, shard, name -> nothing
pub(super) const RECORD_EXPIRIES: Table = TableDefinition::new("record_expiries");
/// index, member -> rank
pub(super) const MEMBERS: Table = TableDefinition::new("members");
/// index, rank, member -> nothing
pub(super) const RANKS: Table = TableDefinition::new("ranks");
/// log, sequence -> link, value
pub(super) const ENTRIES: Table = TableDefinition::new("entries");
/// log -> head, base
pub(super) const HEADS: Table = TableDefinition::new("heads");
/// shard, commit id -> positions appended
pub(super) const COMMITS: Table = TableDefinition::new("commits");
/// expiry, shard, commit id -> nothing
pub(super) const COMMIT_EXPIRIES: Table = TableDefinition::new("commit_expiries");
/// shard, name -> expiry, value
pub(super) const NOTES: Table = TableDefinition::new("notes");
/// expiry, shard, name -> nothing
pub(super) const NOTE_EXPIRIES: Table = TableDefinition::new("note_expiries");
/// shard, name of a record -> how many share it
pub(super) const SHARERS: Table = TableDefinition::new("sharers");
/// tally, slot -> count
pub(super) const COUNTS: Table = TableDefinition::new("counts");
/// shard -> generation. The name changes with the layout.
pub(super) const BIRTHS: Table = TableDefinition::new("births 3");
/// All that this version makes.
pub(super) const TABLES: [Table; 13] = [
    RECORDS,
    RECORD_EXPIRIES,
    MEMBERS,
    RANKS,
    ENTRIES,
    HEADS,
    COMMITS,
    COMMIT_EXPIRIES,
    NOTES,
    NOTE_EXPIRIES,
    SHARERS,
    COUNTS,
    BIRTHS,
];
/// What the births of files were in whose records or ranks lie otherwise.
pub(super) const OLD_BIRTHS: [Table; 2] = [
    TableDefinition::new("births"),
    TableDefinition::new("births 2"),
];
/// Under those names with other types, so that an earlier version does not start on a file of this one.
pub(super) const NO_TABLES_OF_OLD: [TableDefinition<'static, u64, u64>; 2] = [
    TableDefinition::new("births"),
    TableDefinition::new("births 2"),
];

/// No expiry.
pub(super) const FOREVER: i64 = i64::MAX;

pub(super) fn record_key(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.name.len());
    bytes.push(key.shard.number());
    bytes.extend_from_slice(&key.name);
    bytes
}

fn named(shard: ShardId, name: &str) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(5 + name.len());
    bytes.push(shard.number());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

pub(super) fn index_key(index: &Index) -> Vec<u8> {
    named(index.shard, &index.name)
}

pub(super) fn tally_key(tally: &Tally) -> Vec<u8> {
    named(tally.shard, &tally.name)
}

pub(super) fn log_key(log: &Log) -> Vec<u8> {
    named(log.shard, log.name)
}

pub(super) fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Numbers in an order that bytes keep: the sign bit is flipped.
pub(super) fn ordered(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

pub(super) fn from_ordered(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

/// A record as it lies in the file.
pub(super) struct Stored {
    pub version: CommitId,
    pub expires: i64,
    pub value: Vec<u8>,
}

impl Stored {
    pub(super) fn encode(version: CommitId, expires: i64, value: &[u8]) -> Vec<u8> {
        joined(&[&version.0, &ordered(expires), value])
    }

    /// A note: without a version.
    pub(super) fn decode_note(bytes: &[u8]) -> Option<(i64, Vec<u8>)> {
        let (expires, value) = bytes.split_first_chunk::<8>()?;
        Some((from_ordered(*expires), value.to_vec()))
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, value) = rest.split_first_chunk::<8>()?;
        Some(Self {
            version: CommitId(*version),
            expires: from_ordered(*expires),
            value: value.to_vec(),
        })
    }
}

/// Both ends of a log.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub head: Position,
    pub base: Position,
}

impl Ends {
    pub(super) const NEW: Self = Self {
        head: Position::ORIGIN,
        base: Position::ORIGIN,
    };

    pub(super) fn encode(&self) -> Vec<u8> {
        encode_positions(&[self.head, self.base])
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match decode_positions(bytes)?.as_slice() {
            [head, base] => Some(Self {
                head: *head,
                base: *base,
            }),
            _ => None,
        }
    }
}

pub(super) fn encode_positions(positions: &[Position]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(positions.len() * 28);
    for position in positions {
        bytes.extend_from_slice(&position.sequence.to_be_bytes());
        bytes.extend_from_slice(&position.link.0);
    }
    bytes
}

pub(super) fn decode_positions(mut bytes: &[u8]) -> Option<Vec<Position>> {
    let mut positions = Vec::new();
    while !bytes.is_empty() {
        let (sequence, rest) = bytes.split_first_chunk::<8>()?;
        let (link, rest) = rest.split_first_chunk::<20>()?;
        positions.push(Position {
            sequence: u64::from_be_bytes(*sequence),
            link: Link(*link),
        });
        bytes = rest;
    }
    Some(positions)
}
