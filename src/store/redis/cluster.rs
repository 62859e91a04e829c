//! Which node of a cluster has which shard. A shard is one hash tag, so it is one slot.

use super::address::Place;
use crate::ids::ShardId;
use ::redis::{RedisError, Value};
use std::collections::{BTreeMap, BTreeSet};

/// CRC16 of the hash tag (XMODEM: polynomial 0x1021, from zero), as Redis Cluster has it.
pub(super) fn slot(shard: ShardId) -> u16 {
    let tag = format!("d{}", shard.number());
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % 16384
}

/// What a node says.
pub(super) struct Slots {
    pub routes: BTreeMap<ShardId, Place>,
    /// Of each node that has slots: the ids of its replicas. Failing ones are left out.
    pub replicas: BTreeMap<Place, BTreeSet<String>>,
}

/// The answer of `CLUSTER SLOTS`. `asked` stands where a node does not know its own name.
pub(super) fn read_slots(answer: &Value, asked: &Place) -> Option<Slots> {
    let mut ranges = Vec::new();
    let mut replicas: BTreeMap<Place, BTreeSet<String>> = BTreeMap::new();
    for range in array(answer)? {
        let [from, to, primary, followers @ ..] = array(range)? else {
            return None;
        };
        let [host, port, ..] = array(primary)? else {
            return None;
        };
        let host = match host {
            Value::BulkString(name) if !name.is_empty() => String::from_utf8(name.clone()).ok()?,
            Value::SimpleString(name) if !name.is_empty() => name.clone(),
            _ => asked.host.clone(),
        };
        let port = u16::try_from(number(port)?).ok()?;
        let place = Place { host, port };
        let own = replicas.entry(place.clone()).or_default();
        for follower in followers {
            let [_, _, Value::BulkString(id), ..] = array(follower)? else {
                return None;
            };
            own.insert(String::from_utf8(id.clone()).ok()?);
        }
        ranges.push((number(from)?..=number(to)?, place));
    }
    let shards = super::shards().filter_map(|shard| {
        let slot = i64::from(slot(shard));
        let found = ranges.iter().find(|(range, _)| range.contains(&slot));
        found.map(|(_, place)| (shard, place.clone()))
    });
    Some(Slots {
        routes: shards.collect(),
        replicas,
    })
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

/// Where a `MOVED` sends us. An `ASK` is no news: a commit names keys that are on neither node
/// while its slot moves, so it waits for the end of the move.
pub(super) fn moved(error: &RedisError, asked: &Place) -> Option<Place> {
    if error.code() != Some("MOVED") {
        return None;
    }
    let (address, _) = error.redirect_node()?;
    if let Some(port) = address.strip_prefix(':') {
        return Some(Place {
            host: asked.host.clone(),
            port: port.parse().ok()?,
        });
    }
    // An IPv6 address stands there without brackets.
    let (host, port) = address.rsplit_once(':')?;
    Some(Place {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_lie_where_the_cluster_looks_for_them() {
        // As `CLUSTER KEYSLOT {dN}x` of Redis 7.0.15 answers.
        for (number, expected) in SLOTS {
            let shard = super::super::shards()
                .find(|shard| shard.number() == number)
                .unwrap();
            assert_eq!(slot(shard), expected, "{number}");
        }
    }

    #[test]
    fn the_replicas_of_a_node_are_those_of_all_its_ranges() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |port, id| Value::Array(vec![text("127.0.0.1"), Value::Int(port), text(id)]);
        let range = |from, to, nodes: &[Value]| {
            let ends = [Value::Int(from), Value::Int(to)];
            Value::Array([ends.as_slice(), nodes].concat())
        };
        let answer = Value::Array(vec![
            range(0, 99, &[node(1, "p"), node(3, "a")]),
            range(100, 199, &[node(2, "q")]),
            range(200, 16383, &[node(1, "p"), node(3, "a"), node(4, "b")]),
        ]);
        let at = |port| Place {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let slots = read_slots(&answer, &at(9)).unwrap();
        let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect();
        assert_eq!(
            slots.replicas,
            [(at(1), ids(&["a", "b"])), (at(2), ids(&[]))].into()
        );
        assert_eq!(slots.routes.len(), super::super::shards().count());
    }

    const SLOTS: [(u8, u16); 4] = [(0, 12733), (17, 14267), (63, 11944), (255, 9328)];
}
