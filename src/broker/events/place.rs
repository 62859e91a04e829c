//! How far a listener was told, and the opaque id that says it.
//!
//! The id is sealed: nobody can make one, and how much is in the audit of others cannot be read off it.

use super::hub::Hub;
use crate::audit;
use crate::ids::ShardId;
use crate::secret::Sealer;
use crate::store::Position;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::collections::BTreeMap;

const OWNER: &[u8] = b"events";
/// The longest id: every shard, each far on.
const MAX_ID: usize = 4096;
/// A number is told with two bytes of its link: after a failover it may be another entry's.
const CHECK: u32 = 16;

/// A place in every shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place(BTreeMap<u8, Position>);

impl Place {
    /// After the event with this id, or now. With why something may be missing in between.
    pub fn resume(last: Option<&str>, hub: &Hub, sealer: &Sealer) -> (Self, Option<&'static str>) {
        let mut place = Self::default();
        let Some(last) = last else {
            for shard in audit::shards() {
                place.put(shard, hub.head(shard));
            }
            return (place, None);
        };
        // Of another installation, or from before the sealing key was replaced.
        let Some(told) = open(last, sealer) else {
            return (place, Some("unknown_id"));
        };
        let mut gap = None;
        for shard in audit::shards() {
            let packed = told.get(&shard.number()).copied().unwrap_or_default();
            let is_it = |position: Position| check(position) == packed & ((1 << CHECK) - 1);
            match hub.place(shard, packed >> CHECK, is_it) {
                Some(position) => place.put(shard, position),
                // From the oldest that there is.
                None => gap = Some("lost"),
            }
        }
        (place, gap)
    }

    pub fn of(&self, shard: ShardId) -> Position {
        let known = self.0.get(&shard.number());
        known.copied().unwrap_or(Position::ORIGIN)
    }

    pub fn put(&mut self, shard: ShardId, position: Position) {
        self.0.insert(shard.number(), position);
    }

    /// `None`: it cannot be sealed, which only happens without a sealing key.
    pub fn id(&self, sealer: &Sealer) -> Option<String> {
        let told = self.0.iter().filter(|(_, position)| position.sequence > 0);
        let numbers =
            told.map(|(shard, position)| (*shard, (position.sequence << CHECK) | check(*position)));
        let packed = audit::pack(&numbers.collect());
        let sealed = sealer.seal(OWNER, &packed).ok()?;
        Some(BASE64_URL_SAFE_NO_PAD.encode(sealed))
    }
}

fn open(id: &str, sealer: &Sealer) -> Option<BTreeMap<u8, u64>> {
    if id.len() > MAX_ID {
        return None;
    }
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(id).ok()?;
    let packed = sealer.open(OWNER, &sealed).ok()?;
    audit::unpack(packed.expose().clone())
}

fn check(position: Position) -> u64 {
    match position.link.0 {
        [first, second, ..] => u64::from(u16::from_be_bytes([first, second])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::store::Link;

    fn sealer(key: u8) -> Sealer {
        Sealer::new(&[Secret::new(vec![key; 32])]).unwrap()
    }

    fn at(sequence: u64) -> Position {
        Position {
            sequence,
            link: Link([7; 20]),
        }
    }

    #[test]
    fn an_id_says_where_to_those_who_sealed_it_and_nothing_to_others() {
        let mut place = Place::default();
        place.put(ShardId::INSTALLATION, at(3));
        for shard in ShardId::all() {
            place.put(shard, at(1 << 40));
        }
        let id = place.id(&sealer(1)).unwrap();
        assert!(id.len() <= MAX_ID, "{}", id.len());
        let told = open(&id, &sealer(1)).unwrap();
        assert_eq!(told[&u8::MAX], 3 << 16 | 0x0707);
        assert_eq!(told.len(), 65);
        assert_eq!(open(&id, &sealer(2)), None);
        let changed: String = id.chars().rev().collect();
        assert_eq!(open(&changed, &sealer(1)), None);
        assert_eq!(open("", &sealer(1)), None);
        assert_eq!(open(&"A".repeat(100_000), &sealer(1)), None);
    }

    #[test]
    fn an_id_does_not_grow_with_what_is_far_on() {
        let mut place = Place::default();
        for shard in audit::shards() {
            place.put(shard, at(1_000_000));
        }
        assert!(place.id(&sealer(1)).unwrap().len() < 700);
    }
}
