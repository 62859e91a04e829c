//! The part of the audit that is still in the store, across all shards, oldest first.

use super::log;
use crate::ids::ShardId;
use crate::store::{Position, Store, StoreError, Tail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// Entries asked for at once.
const PAGE: usize = 1000;

/// How far each shard was read: what an opaque cursor holds.
type Read = BTreeMap<u8, u64>;

/// Entries after a cursor, at most `limit`, and the cursor to go on from. Without a cursor: the
/// newest ones. A cursor that lies before what the store still keeps yields an item of its own,
/// `{"event": "gap"}`; a cursor that is not ours is as none.
pub async fn recent(
    store: &dyn Store,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<Value>, Option<String>), StoreError> {
    let cursor = after.and_then(decode);
    let mut shards = BTreeMap::new();
    let mut read = cursor.clone().unwrap_or_default();
    for shard in ShardId::all().chain([ShardId::INSTALLATION]) {
        let from = read.get(&shard.number()).copied();
        let kept = kept(store, shard, from, limit, cursor.is_some()).await?;
        shards.insert(shard.number(), kept);
    }
    let mut items = Vec::new();
    while cursor.is_none() || items.len() < limit {
        // INVARIANT: entries of one shard stay in their order, whatever their clocks said.
        let oldest = shards
            .iter()
            .filter_map(|(shard, queue)| queue.front().map(|entry| (entry.at.clone(), *shard)))
            .min();
        let Some((_, shard)) = oldest else {
            break;
        };
        if let Some(entry) = shards.get_mut(&shard).and_then(VecDeque::pop_front) {
            read.insert(shard, entry.sequence);
            items.push(entry.value);
        }
    }
    let surplus = items.len().saturating_sub(limit);
    items.drain(..surplus);
    Ok((items, Some(encode(&read))))
}

/// The refusal of this id, where the store still has it.
pub async fn refusal(store: &dyn Store, id: &Uuid) -> Result<Option<Value>, StoreError> {
    let wanted = Value::from(id.to_string());
    let is_it = |entry: &Value| entry.pointer("/detail/refusal_id") == Some(&wanted);
    for shard in ShardId::all().chain([ShardId::INSTALLATION]) {
        let mut position = Position::ORIGIN;
        loop {
            match store
                .tail(&log(shard), position, PAGE, Duration::ZERO)
                .await?
            {
                Tail::Trimmed { oldest } => position = oldest,
                Tail::Forked { .. } => break,
                Tail::Entries { entries, .. } => {
                    let Some(last) = entries.last() else {
                        break;
                    };
                    position = last.position;
                    let mut read = entries
                        .iter()
                        .filter_map(|entry| serde_json::from_slice(&entry.value).ok());
                    if let Some(found) = read.find(is_it) {
                        return Ok(Some(found));
                    }
                }
            }
        }
    }
    Ok(None)
}

struct Kept {
    sequence: u64,
    /// In UTC and of one width, so that its order as text is that of time.
    at: String,
    value: Value,
}

/// What a shard holds after a sequence number: the first `limit` for a reader with a cursor, else
/// the last.
async fn kept(
    store: &dyn Store,
    shard: ShardId,
    from: Option<u64>,
    limit: usize,
    first: bool,
) -> Result<VecDeque<Kept>, StoreError> {
    let mut found = VecDeque::new();
    let mut position = Position::ORIGIN;
    let from = from.unwrap_or(0);
    loop {
        match store
            .tail(&log(shard), position, PAGE, Duration::ZERO)
            .await?
        {
            Tail::Trimmed { oldest } => {
                if first && oldest.sequence > from {
                    found.push_back(Kept {
                        sequence: oldest.sequence,
                        at: String::new(),
                        value: json!({
                            "event": "gap",
                            "shard": shard.number(),
                            "after": from,
                            "through": oldest.sequence,
                        }),
                    });
                }
                position = oldest;
            }
            // The log was lost between two reads: what was read of it is all there is.
            Tail::Forked { .. } => return Ok(found),
            Tail::Entries { entries, .. } => {
                let Some(last) = entries.last() else {
                    return Ok(found);
                };
                position = last.position;
                for entry in entries.iter().filter(|e| e.position.sequence > from) {
                    let value: Value = serde_json::from_slice(&entry.value)
                        .unwrap_or_else(|_| json!({"event": "unreadable"}));
                    let at = value.get("at").and_then(Value::as_str);
                    found.push_back(Kept {
                        sequence: entry.position.sequence,
                        at: sortable(at.unwrap_or("")),
                        value,
                    });
                    if !first && found.len() > limit {
                        found.pop_front();
                    }
                }
                if first && found.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }
}

/// RFC 3339 in UTC leaves out a fraction that is nothing, and its trailing zeros.
fn sortable(at: &str) -> String {
    let at = at.strip_suffix('Z').unwrap_or(at);
    let (seconds, fraction) = at.split_once('.').unwrap_or((at, ""));
    format!("{seconds}.{fraction:0<9}")
}

fn encode(read: &Read) -> String {
    URL_SAFE_NO_PAD.encode(pack(read))
}

fn decode(cursor: &str) -> Option<Read> {
    unpack(URL_SAFE_NO_PAD.decode(cursor).ok()?)
}

/// Numbers by shard, in few bytes.
pub(crate) fn pack(read: &BTreeMap<u8, u64>) -> Vec<u8> {
    let mut bytes = vec![1];
    for (shard, sequence) in read {
        bytes.push(*shard);
        let mut rest = *sequence;
        while rest > 0x7f {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

pub(crate) fn unpack(bytes: Vec<u8>) -> Option<BTreeMap<u8, u64>> {
    let mut bytes = bytes.into_iter();
    if bytes.next()? != 1 {
        return None;
    }
    let mut read = Read::new();
    while let Some(shard) = bytes.next() {
        let mut sequence = 0;
        for place in 0..10 {
            let byte = bytes.next()?;
            sequence |= u64::from(byte & 0x7f).checked_shl(place * 7)?;
            if byte & 0x80 == 0 {
                break;
            }
        }
        read.insert(shard, sequence);
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_survives_the_trip(read: Read) {
            prop_assert_eq!(decode(&encode(&read)), Some(read));
        }

        #[test]
        fn nonsense_is_no_cursor_and_no_panic(text in "[A-Za-z0-9_-]{0,60}") {
            let _ = decode(&text);
        }
    }

    #[test]
    fn times_sort_as_text() {
        assert!(sortable("2026-01-01T00:00:00Z") < sortable("2026-01-01T00:00:00.5Z"));
        assert!(sortable("2026-01-01T00:00:00.45Z") < sortable("2026-01-01T00:00:00.5Z"));
    }
}
