//! Follows fences on single leases: straight to the record, whatever the number of open leases.
//!
//! Whole shards say in the store how far they were matched, and a failover that loses the marks loses that with
//! them. Fences on single leases are followed by each replica for itself. So one is done with when the lease's end
//! is known to be on enough replicas, whoever wrote it; until then it is followed again with every round.

use super::matching::{Sight, is_single};
use super::{ABREAST, Sweeper};
use crate::fences::{EndedBy, Fence, FenceKind, View};
use crate::ids::{LeaseId, ShardId};
use crate::leases::look::{Found, PAGE};
use crate::leases::state::State;
use crate::leases::{Closing, Lease, LeaseError};
use crate::store::Position;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use time::OffsetDateTime;

/// How far fences on single leases were followed here.
#[derive(Debug)]
pub(super) struct Followed {
    /// Each fence on a lease up to here is done with, or owed.
    up_to: Position,
    owed: BTreeMap<LeaseId, Owed>,
    /// The last one on a lease that was handed on, or may have been.
    handed_on: u64,
}

/// A fence that is not done with.
#[derive(Debug, Clone)]
struct Owed {
    fence: Arc<Fence>,
    /// Of the last fence on this lease.
    sequence: u64,
}

/// What came of one round.
#[derive(Debug, Default)]
pub(super) struct Single {
    /// Leases that were found dead.
    pub(super) hits: u64,
    /// Up to this fence every shard is matched: there may be children anywhere.
    pub(super) handed_on: u64,
    /// Shards of leases that are owed an end: nothing may be said of those that it is not true of.
    pub(super) owing: BTreeSet<ShardId>,
    /// What went wrong last.
    pub(super) failed: Option<LeaseError>,
}

/// What came of one shard's.
#[derive(Default)]
struct Done {
    hits: u64,
    handed_on: u64,
    /// With the last fence that was looked at.
    done: Vec<(LeaseId, u64)>,
    failed: Option<LeaseError>,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            up_to: Position::ORIGIN,
            owed: BTreeMap::new(),
            handed_on: 0,
        }
    }
}

impl Followed {
    fn take_up(&mut self, view: &View) -> BTreeMap<ShardId, Vec<(LeaseId, Owed)>> {
        // On another history than the one that was followed: all of it again.
        let known = view.knows(self.up_to);
        let seen = if known { self.up_to.sequence } else { 0 };
        // What a snapshot swallowed is found by matching whole shards: `is_behind`.
        let kept = view.kept_since(seen);
        let before = view.position().sequence.saturating_sub(kept.len() as u64);
        for (sequence, fence) in (before + 1..).zip(kept) {
            if !is_single(&fence) || fence.kind == FenceKind::Lift {
                continue;
            }
            let Ok(id) = fence.dimension.value.parse::<LeaseId>() else {
                continue;
            };
            let owed = self.owed.entry(id).or_insert(Owed { fence, sequence });
            owed.sequence = owed.sequence.max(sequence);
        }
        self.up_to = view.position();
        let mut shards: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
        for (id, owed) in &self.owed {
            shards
                .entry(id.shard())
                .or_default()
                .push((*id, owed.clone()));
        }
        shards
    }

    fn is_done(&mut self, (id, sequence): (LeaseId, u64)) {
        if self
            .owed
            .get(&id)
            .is_some_and(|owed| owed.sequence <= sequence)
        {
            self.owed.remove(&id);
        }
    }
}

impl Sweeper {
    pub(super) async fn follow_single(&self, sight: Sight<'_>, now: OffsetDateTime) -> Single {
        let shards = {
            let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            followed.take_up(sight.view)
        };
        let rounds: Vec<Done> = futures_util::stream::iter(shards)
            .map(|(shard, owed)| self.follow_on_shard((shard, owed), sight.proved, now))
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        let mut single = Single::default();
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for round in rounds {
            single.hits += round.hits;
            single.failed = round.failed.or(single.failed);
            followed.handed_on = followed.handed_on.max(round.handed_on);
            for done in round.done {
                followed.is_done(done);
            }
        }
        // What it was followed on may have been longer than what is there now.
        single.handed_on = followed.handed_on.min(sight.view.position().sequence);
        single.owing = followed.owed.keys().map(LeaseId::shard).collect();
        single
    }

    /// One shard that cannot be read, or one lease that cannot be written, keeps no other waiting.
    async fn follow_on_shard(
        &self,
        (shard, owed): (ShardId, Vec<(LeaseId, Owed)>),
        proved: bool,
        now: OffsetDateTime,
    ) -> Done {
        let mut done = Done::default();
        for page in owed.chunks(PAGE) {
            if let Err(error) = self
                .follow_page((shard, page), proved, now, &mut done)
                .await
            {
                done.failed = Some(error);
            }
        }
        done
    }

    async fn follow_page(
        &self,
        (shard, page): (ShardId, &[(LeaseId, Owed)]),
        proved: bool,
        now: OffsetDateTime,
        done: &mut Done,
    ) -> Result<(), LeaseError> {
        let ids: Vec<_> = page.iter().map(|(id, _)| *id).collect();
        let read = self.leases.read(&ids).await;
        let found = read.inspect_err(|_| {
            // INVARIANT: a lease that cannot be read may have been handed on.
            let last = page.iter().map(|(_, owed)| owed.sequence).max();
            done.handed_on = done.handed_on.max(last.unwrap_or(0));
        })?;
        let (mut ended, mut until) = (Vec::new(), Vec::new());
        for ((id, owed), found) in page.iter().zip(found) {
            let lease = match found {
                // INVARIANT: a store that proves nothing may have been replaced by one that has it.
                Found::Nothing if !proved => continue,
                Found::Nothing => {
                    done.done.push((*id, owed.sequence));
                    continue;
                }
                Found::Unreadable(error, _) => {
                    tracing::error!(lease = %id, %error, "a fence on a lease cannot be followed");
                    done.done.push((*id, owed.sequence));
                    done.handed_on = done.handed_on.max(owed.sequence);
                    continue;
                }
                Found::Lease(lease) => *lease,
            };
            if !proved && lease.ends_here() && lease.state == State::Active {
                // INVARIANT: still owed, and whatever was handed on from it is looked for.
                if lease.handed_on {
                    done.handed_on = done.handed_on.max(owed.sequence);
                }
                continue;
            }
            if let Some(lease) = self.ended(lease, owed, now, done).await {
                // INVARIANT: of the record as it says that the lease is over, and can be handed on no more.
                if lease.handed_on {
                    done.handed_on = done.handed_on.max(owed.sequence);
                }
                ended.push(lease);
                until.push(owed.sequence);
            }
        }
        let replicated = self.leases.are_replicated(shard, &ended).await?;
        let kept = ended.iter().zip(until).zip(replicated);
        let kept = kept.filter(|(_, replicated)| *replicated);
        done.done
            .extend(kept.map(|((lease, sequence), _)| (lease.id, sequence)));
        Ok(())
    }

    /// The lease with its end. `None`: it has to be looked at again.
    async fn ended(
        &self,
        lease: Lease,
        owed: &Owed,
        now: OffsetDateTime,
        done: &mut Done,
    ) -> Option<Lease> {
        if !matches!(lease.state, State::Reserved | State::Active) {
            return Some(lease);
        }
        let ended = EndedBy::Fence(Arc::clone(&owed.fence));
        let closing = Closing::because(&ended, &lease.id, now);
        match self.leases.mark(&lease.id, closing, now).await {
            Ok(marked) => {
                done.hits += u64::from(marked.is_some());
                marked
            }
            Err(error) => {
                tracing::warn!(lease = %lease.id, %error, "the end of a lease was not written; tried again");
                done.failed = Some(error);
                None
            }
        }
    }
}
