//! From which place of the fence log on it is certain that no lease comes any more that was decided before it.

use super::{LeaseError, Leases, keys};
use crate::ids::ShardId;

/// How far the shards were swept: the one that is furthest behind, and the one that is furthest ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweptTo {
    least: u64,
    most: u64,
}

impl SweptTo {
    /// Whether each shard refuses whatever was decided before this fence. Where the log goes on to here.
    ///
    /// INVARIANT: a shard that says more than there is on the log was swept on a history that is no more. It is
    /// swept anew, perhaps by who has not read this fence yet: until then its word is not taken.
    pub fn is_past(self, fence: u64, log: u64) -> bool {
        fence <= self.least && self.most <= log
    }
}

impl Leases {
    /// What the guard of each new lease is held against, of every shard.
    pub async fn swept_to(&self) -> Result<SweptTo, LeaseError> {
        let markers: Vec<_> = ShardId::all().map(keys::swept).collect();
        let found = self.store.get(&markers).await?;
        // None yet, or nothing that can be read: it keeps back nothing.
        let sequence = |record: Option<crate::store::Record>| {
            let value = record?.value.try_into().ok()?;
            Some(u64::from_be_bytes(value))
        };
        let all = found
            .into_iter()
            .map(|record| sequence(record).unwrap_or(0));
        let (least, most) = all.fold((u64::MAX, 0), |(least, most), swept| {
            (least.min(swept), most.max(swept))
        });
        Ok(SweptTo { least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::SweptTo;

    #[test]
    fn a_shard_that_is_behind_or_of_another_history_is_not_past_a_fence() {
        let swept = |least, most| SweptTo { least, most };
        assert!(swept(7, 7).is_past(7, 7));
        assert!(swept(8, 9).is_past(7, 9));
        assert!(!swept(6, 9).is_past(7, 9));
        assert!(!swept(9, 10).is_past(7, 9));
    }
}
