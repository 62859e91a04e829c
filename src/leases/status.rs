//! Token status lists (draft-ietf-oauth-status-list-21): one for each shard, a bit for each lease
//! whose credential points there, set once the lease was ended before its time.
//!
//! A lease takes its index in the commit that makes it, by a key that is guarded like its replay
//! marks; the commit that ends it ranks the index among the ended ones. So a list is read off one
//! short index, and the sweep, which follows every fence, is what makes it true.

use super::record::Record;
use super::state::Why;
use super::{LeaseError, Sweeper, keys};
use crate::ids::{self, LeaseId, ShardId};
use crate::jose::LEEWAY;
use crate::leases::look::PAGE;
use crate::store::{Guard, Index, Transaction, Write};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write as _;
use std::sync::PoisonError;
use std::time::Duration;
use time::OffsetDateTime;

/// Indices in a list: a million leases at once, and one draw in sixty is made again.
pub const SIZE: u32 = 1 << 20;

/// How long after its token's end an index belongs to nobody else: longer than the token's leeway, a
/// list's own life (a minute each) and what clocks may differ by.
const HELD: Duration = Duration::from_secs(300);

/// The indices of one list that are over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits {
    /// Ascending.
    ended: Vec<u32>,
}

/// Where an ended lease stands.
pub(super) struct Rank {
    pub index: Index,
    pub member: Vec<u8>,
    pub rank: i64,
}

/// Random, so that an index says nothing about when or for whom its token was made.
pub(super) fn draw() -> u32 {
    u32::from_be_bytes(ids::random()) % SIZE
}

/// INVARIANT: in the replicated commit of the lease itself: an allocation that a failover loses is
/// lost together with its lease, whose credential nobody was given.
pub(super) fn take(transaction: Transaction, record: &Record) -> Transaction {
    let Some(index) = record.status else {
        return transaction;
    };
    let key = keys::status(record.id.shard(), index);
    transaction
        .guard(Guard::Unnoted(key.clone()))
        .write(Write::Note {
            key,
            value: Vec::new(),
            until: record.expires_at + HELD,
        })
}

/// What must stand in the list: everything that ended otherwise than by its age.
pub(super) fn over(record: &Record) -> Option<Rank> {
    let closing = record.closing.as_ref()?;
    let index = record.status.filter(|_| closing.why != Why::Expired)?;
    Some(Rank {
        index: keys::status_ended(record.id.shard()),
        member: keys::status_member(index, &record.id),
        rank: keys::place(record.expires_at + LEEWAY, &record.id),
    })
}

impl Sweeper {
    /// The list of a shard, and the boot time up to which it is true: everything that was ended
    /// before is in it. `None`: nothing can be said yet.
    pub async fn status(
        &self,
        shard: ShardId,
        now: OffsetDateTime,
    ) -> Result<Option<(Bits, Duration)>, LeaseError> {
        // INVARIANT: the time is read before the list. The other way round, a list could be read
        // before a fence was followed and be dated after it.
        let Some(as_of) = self.matched_at(shard) else {
            return Ok(None);
        };
        let index = keys::status_ended(shard);
        let mut after = (keys::first_place(now), Vec::new());
        let mut ended = Vec::new();
        loop {
            let page = self.leases.members(&index, Some(&after), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = (last.rank, last.member.clone());
            ended.extend(page.iter().filter_map(|ranked| {
                let (index, lease) = ranked.member.split_first_chunk()?;
                let lease: [u8; 16] = lease.try_into().ok()?;
                LeaseId::from_bytes(lease)?;
                Some(u32::from_be_bytes(*index))
            }));
        }
        ended.sort_unstable();
        ended.dedup();
        Ok(Some((Bits { ended }, as_of)))
    }

    /// All leases of the shard were matched against a view that was taken then, or later.
    pub(super) fn is_matched(&self, shard: ShardId, began: Duration) {
        if let Some(at) = self.matched.get(usize::from(shard.number())) {
            *at.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        }
    }

    fn matched_at(&self, shard: ShardId) -> Option<Duration> {
        let at = self.matched.get(usize::from(shard.number()))?;
        *at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bits {
    pub fn ended(&self) -> &[u32] {
        &self.ended
    }

    /// The list as it is compressed: ZLIB (RFC 1950), the bits of a byte from the lowest. Takes
    /// milliseconds where much was ended; at the highest level it would be a hundred.
    pub fn compressed(&self) -> std::io::Result<Vec<u8>> {
        let size = usize::try_from(SIZE / 8).unwrap_or_default();
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&packed(&self.ended, size))?;
        encoder.finish()
    }
}

fn packed(ended: &[u32], size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for index in ended {
        let place = usize::try_from(index / 8).ok();
        if let Some(byte) = place.and_then(|place| bytes.get_mut(place)) {
            *byte |= 1 << (index % 8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use flate2::read::ZlibDecoder;
    use std::io::Read as _;

    fn inflated(lst: &str) -> Vec<u8> {
        let compressed = BASE64_URL_SAFE_NO_PAD.decode(lst).unwrap();
        let mut bytes = Vec::new();
        ZlibDecoder::new(compressed.as_slice())
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    /// Section 4.1: statuses 0, 3, 4, 5, 7, 8, 9, 13 and 15 of 16.
    #[test]
    fn the_drafts_short_list_is_ours_byte_for_byte() {
        let bytes = packed(&[0, 3, 4, 5, 7, 8, 9, 13, 15], 2);
        assert_eq!(bytes, [0xb9, 0xa3]);
        assert_eq!(bytes, inflated("eNrbuRgAAhcBXQ"));
    }

    /// Appendix C.1: 2^20 entries.
    #[test]
    fn the_drafts_long_list_is_ours_byte_for_byte() {
        let lst = concat!(
            "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogE",
            "AAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAA",
            "A7KpLAAAAAAAAAAAAAAAAAAAAAJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAA",
            "ACAZC8L2AEb"
        );
        let ended = vec![
            0, 1993, 25460, 159_495, 495_669, 554_353, 645_645, 723_232, 854_545, 934_534,
            1_000_345,
        ];
        let ours = Bits { ended }.compressed().unwrap();
        let ours = BASE64_URL_SAFE_NO_PAD.encode(ours);
        assert_eq!(inflated(&ours), inflated(lst));
    }

    #[test]
    fn an_index_beyond_the_list_sets_no_bit() {
        assert_eq!(packed(&[16, SIZE], 2), [0, 0]);
    }

    #[test]
    fn indices_are_drawn_from_the_whole_list() {
        let drawn: Vec<u32> = (0..1000).map(|_| draw()).collect();
        assert!(drawn.iter().all(|index| *index < SIZE));
        assert!(drawn.iter().any(|index| *index >= SIZE / 2));
        assert!(drawn.iter().any(|index| *index < SIZE / 2));
    }
}
