//! The two scripts: what is sent to them and what their answers mean.

use super::notes;
use crate::ids::ShardId;
use crate::store::log::Reading;
use crate::store::{
    self, CommitId, Generation, Guard, Index, Key, Link, Log, LogEntry, MAX_RANK, Outcome,
    Position, REMEMBERED, StoreError, Tally, Transaction, Write,
};
use ::redis::{Cmd, Script, Value};
use std::sync::LazyLock;
use time::OffsetDateTime;

pub(super) static COMMIT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("commit.lua")));
pub(super) static TAIL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("tail.lua")));

/// A key within its shard: the shard is the hash tag, then one letter for the kind.
pub(super) fn name(shard: ShardId, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{{d{}}}", shard.number()).into_bytes();
    bytes.push(kind);
    bytes.extend_from_slice(rest);
    bytes
}

pub(super) fn record(key: &Key) -> Vec<u8> {
    name(key.shard, b'r', &key.name)
}

pub(super) fn index(index: &Index) -> Vec<u8> {
    name(index.shard, b'i', index.name.as_bytes())
}

pub(super) fn log(log: &Log) -> Vec<u8> {
    name(log.shard, b'l', log.name.as_bytes())
}

fn ends(log: &Log) -> Vec<u8> {
    name(log.shard, b'h', log.name.as_bytes())
}

fn tally(tally: &Tally) -> Vec<u8> {
    name(tally.shard, b'q', tally.name.as_bytes())
}

/// How many name a shared record.
fn sharers(key: &Key) -> Vec<u8> {
    name(key.shard, b'u', &key.name)
}

/// Where a commit is remembered: with others of its minute, a sixty-fourth of them.
fn remembered(shard: ShardId, id: CommitId) -> (Vec<u8>, Vec<u8>) {
    let (slot, own) = id.0.split_at(4);
    let part = own.first().map(|byte| byte & 0x3f);
    let bucket: Vec<u8> = slot.iter().copied().chain(part).collect();
    (name(shard, b'c', &bucket), own.to_vec())
}

pub(super) fn birth(shard: ShardId) -> Vec<u8> {
    name(shard, b'b', b"")
}

pub(super) fn heartbeat(shard: ShardId) -> Vec<u8> {
    name(shard, b't', b"")
}

/// Operations and the keys that they number.
struct Operations {
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl Operations {
    fn start(&mut self, kind: &str, key: Vec<u8>) {
        self.arguments.push(kind.into());
        self.key(key);
    }

    fn key(&mut self, key: Vec<u8>) {
        let place = self.keys.iter().position(|known| *known == key);
        let place = place.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        });
        self.argument((place + 1).to_string());
    }

    fn argument(&mut self, argument: impl Into<Vec<u8>>) {
        self.arguments.push(argument.into());
    }

    fn guard(&mut self, guard: &Guard) {
        match guard {
            Guard::Absent(key) => self.start("absent", record(key)),
            Guard::Unchanged(key, version) => {
                self.start("unchanged", record(key));
                self.argument(version.0);
            }
            Guard::Fewer {
                index: asked,
                above_rank,
                than,
            } => {
                self.start("fewer", index(asked));
                self.argument(lower_bound(*above_rank, true));
                self.argument(than.to_string());
            }
            Guard::Unnoted(key) => {
                let place = notes::place(key);
                self.start("unnoted", place.key);
                self.argument(place.field);
            }
            Guard::Below {
                tally: asked,
                above_slot,
                than,
            } => {
                self.start("below", tally(asked));
                self.argument(above_slot.to_string());
                self.argument(than.to_string());
            }
            Guard::NotPast { marker, position } => {
                self.start("notpast", record(marker));
                self.argument(position.to_be_bytes());
            }
            Guard::HeadIs(log, position) => {
                self.start("head", ends(log));
                self.argument(position.sequence.to_string());
                self.argument(position.link.0);
            }
        }
    }

    fn write(&mut self, write: &Write, transaction: &Transaction) {
        match write {
            Write::Put {
                key,
                value,
                expires_at,
            } => {
                self.start("put", record(key));
                self.argument([transaction.id.0.as_slice(), value].concat());
                let expiry = expires_at.map(|at| store::milliseconds(at).to_string());
                self.argument(expiry.unwrap_or_default());
            }
            Write::Delete(key) => self.start("delete", record(key)),
            Write::Note { key, value, until } => {
                let place = notes::place(key);
                self.start("note", place.key);
                self.argument(place.field);
                self.argument(notes::encode(*until, value));
                self.argument(store::milliseconds(*until).to_string());
            }
            Write::Share { key, value } => {
                self.start("share", record(key));
                self.key(sharers(key));
                self.argument([transaction.id.0.as_slice(), value].concat());
            }
            Write::Unshare { key, until } => {
                self.start("unshare", record(key));
                self.key(sharers(key));
                self.argument(store::milliseconds(*until).to_string());
            }
            Write::Count {
                tally: asked,
                slot,
                by,
                over,
            } => {
                self.start("count", tally(asked));
                self.argument(slot.to_string());
                self.argument(by.to_string());
                self.argument(over.to_string());
            }
            Write::Rank {
                index: asked,
                member,
                rank,
            } => {
                self.start("rank", index(asked));
                self.argument(member.as_slice());
                self.argument(rank.to_string());
            }
            Write::Unrank {
                index: asked,
                member,
            } => {
                self.start("unrank", index(asked));
                self.argument(member.as_slice());
            }
            Write::Append { log: asked, value } => {
                self.start("append", log(asked));
                self.key(ends(asked));
                self.argument(value.as_slice());
            }
            Write::Trim {
                log: asked,
                through,
            } => {
                self.start("trim", log(asked));
                self.key(ends(asked));
                self.argument(through.to_string());
            }
        }
    }
}

/// The lower end of a range of ranks. Redis compares in floating point, so what lies beyond the
/// ranks that are kept exactly is said as infinity.
pub(super) fn lower_bound(rank: i64, exclusive: bool) -> String {
    match (rank, exclusive) {
        (rank, _) if rank < -MAX_RANK => "-inf".to_owned(),
        (rank, _) if rank > MAX_RANK => "(+inf".to_owned(),
        (rank, true) => format!("({rank}"),
        (rank, false) => rank.to_string(),
    }
}

pub(super) fn upper_bound(rank: i64) -> String {
    match rank {
        rank if rank < -MAX_RANK => "(-inf".to_owned(),
        rank if rank > MAX_RANK => "+inf".to_owned(),
        rank => rank.to_string(),
    }
}

/// The call of the commit script. `again`: an earlier sending may have reached the server.
pub(super) fn commit(transaction: &Transaction, generation: Generation, again: bool) -> Cmd {
    let (bucket, own) = remembered(transaction.shard, transaction.id);
    let mut operations = Operations {
        keys: vec![birth(transaction.shard), bucket],
        arguments: Vec::new(),
    };
    for guard in &transaction.guards {
        operations.guard(guard);
    }
    for write in &transaction.writes {
        operations.write(write, transaction);
    }
    let deadline = transaction.deadline.unix_timestamp_nanos() / 1000;
    let remembered = store::milliseconds(transaction.deadline + REMEMBERED);
    let mut call = ::redis::cmd("EVALSHA");
    call.arg(COMMIT.get_hash())
        .arg(operations.keys.len())
        .arg(&operations.keys)
        .arg(generation.0.as_slice())
        .arg(own)
        .arg(deadline.to_string())
        .arg(remembered)
        .arg(u8::from(again))
        .arg(transaction.guards.len())
        .arg(transaction.writes.len())
        .arg(&operations.arguments);
    call
}

/// The call of the tail script.
pub(super) fn tail(asked: &Log, generation: Generation, after: Position, limit: usize) -> Cmd {
    let mut call = ::redis::cmd("EVALSHA");
    call.arg(TAIL.get_hash())
        .arg(4)
        .arg(birth(asked.shard))
        .arg(heartbeat(asked.shard))
        .arg(log(asked))
        .arg(ends(asked))
        .arg(generation.0.as_slice())
        .arg(after.sequence.saturating_add(1))
        .arg(limit.max(1));
    call
}

fn strange(what: &str) -> StoreError {
    StoreError::Corrupt(format!("{what} does not parse"))
}

fn parts(answer: Value) -> Result<std::vec::IntoIter<Vec<u8>>, StoreError> {
    let parts: Vec<Vec<u8>> =
        ::redis::from_redis_value(answer).map_err(|_| strange("the answer of a Redis script"))?;
    Ok(parts.into_iter())
}

fn refused(kind: &[u8], detail: Option<Vec<u8>>, shard: ShardId) -> StoreError {
    match kind {
        b"lost" => StoreError::Lost(shard.number()),
        b"wrong" => {
            StoreError::Corrupt(String::from_utf8_lossy(&detail.unwrap_or_default()).into_owned())
        }
        _ => strange("the answer of a Redis script"),
    }
}

pub(super) fn read_commit(answer: Value, shard: ShardId) -> Result<Outcome, StoreError> {
    let mut parts = parts(answer)?;
    let kind = parts.next().unwrap_or_default();
    let detail = parts.next();
    match (kind.as_slice(), detail) {
        (b"A", Some(bytes)) => Ok(Outcome::Applied {
            appended: positions(&bytes).ok_or_else(|| strange("a commit's own record"))?,
        }),
        (b"C", Some(place)) => Ok(Outcome::Conflict {
            guard: number(&place).ok_or_else(|| strange("a commit's own record"))?,
        }),
        (b"late", None) => Ok(Outcome::TooLate),
        (kind, detail) => Err(refused(kind, detail, shard)),
    }
}

/// Whether either script has written something, as it does wherever replicas are asked.
pub(super) fn has_written(answer: &Value) -> bool {
    let Value::Array(parts) = answer else {
        return false;
    };
    matches!(parts.first(), Some(Value::BulkString(kind)) if matches!(kind.as_slice(), b"A" | b"log"))
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Eight bytes and a link, for each position.
fn positions(mut bytes: &[u8]) -> Option<Vec<Position>> {
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

pub(super) fn read_tail(answer: Value, shard: ShardId) -> Result<Reading, StoreError> {
    let mut parts = parts(answer)?;
    let kind = parts.next().unwrap_or_default();
    if kind != b"log" {
        return Err(refused(&kind, parts.next(), shard));
    }
    reading(parts).ok_or_else(|| strange("a log"))
}

fn reading(mut parts: std::vec::IntoIter<Vec<u8>>) -> Option<Reading> {
    let seconds: i128 = number(&parts.next()?)?;
    let micros: i128 = number(&parts.next()?)?;
    let (head, base) = both_ends(&parts.next()?)?;
    let mut entries = Vec::new();
    while let Some(id) = parts.next() {
        let value = parts.next()?;
        let link = Link(parts.next()?.try_into().ok()?);
        let sequence = number(id.strip_suffix(b"-0")?)?;
        entries.push(LogEntry {
            position: Position { sequence, link },
            value,
        });
    }
    let nanos = (seconds * 1_000_000 + micros) * 1000;
    Some(Reading {
        head,
        base,
        entries,
        store_now: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
    })
}

fn both_ends(bytes: &[u8]) -> Option<(Position, Position)> {
    if bytes.is_empty() {
        return Some((Position::ORIGIN, Position::ORIGIN));
    }
    let (head, rest) = bytes.split_first_chunk::<20>()?;
    let (base, rest) = rest.split_first_chunk::<20>()?;
    let (head_number, base_number) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
    Some((
        Position {
            sequence: head_number.parse().ok()?,
            link: Link(*head),
        },
        Position {
            sequence: base_number.parse().ok()?,
            link: Link(*base),
        },
    ))
}
