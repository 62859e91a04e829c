//! Goes on ending while it is not known how far the fence log has come.
//!
//! The view is old, or of a history that a failover took back: the store's replicas are away, say, so that nothing
//! it answers is known to stay. A fence that this replica raised or read is in force all the same, and whatever a
//! failover loses of it is put back by whoever read it: what it covers must die, and its target must hear of it.
//!
//! INVARIANT: nothing is said on such a view that somebody may lean on.
//! - Only what a fence covers is ended ([`Sight::ends`]). A decision that is not on this view may be on the log, and
//!   its credential alive.
//! - `swept` only moves on: that refuses decisions which are older than a fence that this replica knows of. If
//!   nobody else ever hears of that fence, the next one with a proved view puts the mark where the log is.
//! - No claim is finished, and no shard called matched: whoever has a proved view first matches all of it again,
//!   and until then no status list is dated anew.

use super::Sweeper;
use super::matching::{Found, Sight, is_behind, is_taken, moved_on};
use super::single::Single;
use crate::fences::{EndedBy, Place, Stale, View};
use crate::ids::ShardId;
use crate::leases::{Lease, LeaseError, keys};
use crate::store::{CommitId, Position};
use std::sync::PoisonError;
use std::time::Duration;
use time::OffsetDateTime;

/// Where others, with a view of their own, write over what was left here: again only after so long.
const AGAIN: Duration = Duration::from_secs(60);

/// A shard whose leases were matched in doubt here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubted {
    /// Of the view.
    position: Position,
    /// The claim as it was left. A failover that loses a mark loses this.
    version: CommitId,
    /// The claim as it was found.
    over: Option<CommitId>,
    /// By the time since boot.
    at: Duration,
}

impl Sight<'_> {
    /// Whether this end may be written on what is known.
    pub(super) fn ends(&self, lease: &Lease, ended: &EndedBy) -> bool {
        // What ends by our word alone is dead by its fence; its mark waits for replicas, which may be away.
        self.proved || matches!(ended, EndedBy::Fence(_)) && !lease.ends_here()
    }
}

impl Sweeper {
    pub(super) async fn match_in_doubt(&self, now: OffsetDateTime) -> Result<u64, LeaseError> {
        let view = self.fences.last();
        if view.position() == Position::ORIGIN {
            // Nothing was read yet.
            return Err(Stale.into());
        }
        let sight = Sight {
            view: &view,
            proved: false,
        };
        let single = self.follow_single(sight, now).await;
        let mut matched = single.hits;
        let mut failed = None;
        for (shard, claim) in self.claims().await {
            let done = match claim {
                Ok(found) => {
                    self.match_shard_in_doubt(shard, sight, found, (&single, now))
                        .await
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(hits) => matched += hits,
                Err(error) => failed = Some(error),
            }
        }
        if matched > 0 {
            tracing::warn!(
                leases = matched,
                "leases are ended by fences that this replica knows of, although its view of the log is not fresh"
            );
        }
        failed.or(single.failed).map_or(Ok(matched), Err)
    }

    async fn match_shard_in_doubt(
        &self,
        shard: ShardId,
        sight: Sight<'_>,
        found: Found,
        (single, now): (&Single, OffsetDateTime),
    ) -> Result<u64, LeaseError> {
        let at = self.leases.clock.since_boot();
        let (followed, behind) = self.followed_in_doubt(shard, sight.view, &found, at);
        let children = followed < single.handed_on;
        if !(behind || children) || is_taken(&found.claim, self.me, now) {
            return Ok(0);
        }
        let index = if behind {
            keys::due(shard)
        } else {
            keys::children(shard)
        };
        let over = found.version;
        let matched = self.match_shard(shard, &index, sight, found, now).await?;
        let Some((hits, version)) = matched else {
            return Ok(0);
        };
        let position = sight.view.position();
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        doubted.insert(
            shard,
            Doubted {
                position,
                version,
                over,
                at,
            },
        );
        Ok(hits)
    }

    /// Up to which fence the shard was matched, and whether what came since may end more of it.
    fn followed_in_doubt(
        &self,
        shard: ShardId,
        view: &View,
        found: &Found,
        at: Duration,
    ) -> (u64, bool) {
        let doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let here = doubted.get(&shard).filter(|here| {
            // INVARIANT: what was there before, or is an earlier one of ours, is what a failover left; the marks behind it
            // are lost. What somebody else wrote is not: two who disagree would write over each other all the time.
            let is_lost = found.version == here.over || found.claim.is_of(self.me);
            found.version == Some(here.version) || !is_lost && at < here.at + AGAIN
        });
        if let Some(here) = here {
            return (here.position.sequence, moved_on(view, here.position));
        }
        // Another replica has read further, on a view that was proved: it has matched what is known here.
        let ahead = view.place(found.claim.at()) == Place::Ahead;
        (
            found.claim.sequence,
            !ahead && is_behind(view, &found.claim),
        )
    }
}
