//! Notes: small facts that expire, many to a key.
//!
//! A key of its own costs a Redis some 150 bytes before there is anything in it. So a note is a
//! field of a hash, in one of a fixed number for each kind, small enough to be kept as a list.

use super::failure::ReadFailure;
use super::script;
use super::session::Inner;
use crate::ids::ShardId;
use crate::store::{self, Key};
use ::redis::Pipeline;
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The bits of a hash's number: 1024 hashes of each kind in a shard.
const BITS: u8 = 0x03;
/// Bytes of a moment in milliseconds; `commit.lua` knows it, too.
const MOMENT: usize = 6;

/// Where a note lies: the hash, and the field in it.
pub(super) struct Place {
    pub key: Vec<u8>,
    pub field: [u8; 16],
}

/// A name is up to its `/` the kind, which the hash's own name keeps, and then SHA-256.
///
/// SECURITY: 128 bits of the name. Two names that meet are two tokens of which the second is
/// refused; whoever signs both can find them in 2^64 tries and has won nothing.
pub(super) fn place(key: &Key) -> Place {
    let hash = digest(&SHA256, &key.name);
    let (mut field, mut number) = ([0; 16], [0; 2]);
    let to = field.iter_mut().chain(number.iter_mut());
    to.zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    let [high, _] = &mut number;
    *high &= BITS;
    let kind = key.name.iter().position(|byte| *byte == b'/');
    let kind = key.name.get(..kind.unwrap_or(0)).unwrap_or_default();
    Place {
        key: script::name(key.shard, b'n', &[kind, b"/", &number].concat()),
        field,
    }
}

/// The moment, then the value.
pub(super) fn encode(until: OffsetDateTime, value: &[u8]) -> Vec<u8> {
    let moment = store::milliseconds(until).to_be_bytes();
    let moment = moment.get(moment.len() - MOMENT..).unwrap_or_default();
    [moment, value].concat()
}

fn decode(bytes: &[u8], now: OffsetDateTime) -> Option<Vec<u8>> {
    let (moment, value) = bytes.split_first_chunk::<MOMENT>()?;
    let until = moment
        .iter()
        .fold(0, |until, byte| until << 8 | i64::from(*byte));
    (until > store::milliseconds(now)).then(|| value.to_vec())
}

impl Inner {
    pub(super) async fn notes(
        &self,
        keys: &[Key],
        now: OffsetDateTime,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadFailure> {
        let mut shards: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            shards.entry(key.shard).or_default().push(place);
        }
        let mut found = vec![None; keys.len()];
        for (node, shards) in self.by_node(shards)? {
            let mut pipeline = Pipeline::new();
            for (shard, places) in &shards {
                pipeline.cmd("GET").arg(script::birth(*shard));
                for key in places.iter().filter_map(|place| keys.get(*place)) {
                    let place = place(key);
                    pipeline
                        .cmd("HGET")
                        .arg(place.key)
                        .arg(place.field.as_slice());
                }
            }
            let asked = shards
                .first()
                .map_or(ShardId::INSTALLATION, |(shard, _)| *shard);
            let answers: Vec<Option<Vec<u8>>> = self.query(asked, &node, &pipeline).await?;
            let mut answers = answers.into_iter();
            for (shard, places) in &shards {
                self.alive(*shard, answers.next().flatten().as_deref())?;
                for place in places {
                    let bytes = answers.next().flatten();
                    if let (Some(slot), Some(bytes)) = (found.get_mut(*place), bytes) {
                        *slot = decode(&bytes, now);
                    }
                }
            }
        }
        Ok(found)
    }
}
