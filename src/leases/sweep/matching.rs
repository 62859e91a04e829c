//! Matches open leases against fences.
//!
//! Each shard keeps `swept`: no lease decided before that sequence can be added any more. It is
//! moved first, then the open leases are matched, then the claim says that they were: so a lease
//! is either in the shard when it is matched, or refused. A fence on one lease needs none of that:
//! ids are drawn anew, so it can only hit a lease that is there. Unless the lease was handed on:
//! then its fence covers others, which may lie anywhere, and is matched like every other.

use super::Sweeper;
use crate::fences::{DimensionKind, EndedBy, Fence, FenceKind, Place, View};
use crate::ids::{LeaseId, ShardId};
use crate::leases::close::end_event;
use crate::leases::look::PAGE;
use crate::leases::record::Record;
use crate::leases::state::State;
use crate::leases::{Closing, DEADLINE, Lease, LeaseError, MINT_WITHIN, TOLERANCE, keys};
use crate::steps::{self, Step};
use crate::store::{
    CommitId, Guard, Index, Link, MAX_RANK, Outcome, Position, Transaction, Write, settle,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;

/// A claim that was not finished by then may be taken over.
const CLAIM: Duration = Duration::from_secs(60);
/// Records written in one commit.
const MARKED: usize = 32;
/// Fences on single leases move a shard's mark only this often.
const NARROW: u64 = 1024;

/// How far the open leases of a shard were matched.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Claim {
    sequence: u64,
    link: ByteArray<20>,
    by: ByteArray<16>,
    /// Milliseconds; 0: finished.
    until: i64,
}

/// A claim as stored.
struct Found {
    claim: Claim,
    version: Option<CommitId>,
}

impl Claim {
    fn at(&self) -> Position {
        Position {
            sequence: self.sequence,
            link: Link(self.link.into_array()),
        }
    }
}

impl Sweeper {
    /// How many leases were found dead.
    pub(in crate::leases) async fn match_fences(
        &self,
        now: OffsetDateTime,
    ) -> Result<u64, LeaseError> {
        let began = self.leases.clock.since_boot();
        let view = self.fences.fresh()?;
        let (mut matched, handed_on) = self.follow_single(&view, now).await?;
        let shards: Vec<ShardId> = ShardId::all().collect();
        let places: Vec<_> = shards.iter().map(|shard| keys::claim(*shard)).collect();
        let records = self.leases.store.get(&places).await?;
        let mut found = Vec::with_capacity(shards.len());
        for (shard, record) in shards.into_iter().zip(records) {
            let version = record.as_ref().map(|record| record.version);
            let claim = record
                .and_then(|record| rmp_serde::from_slice(&record.value).ok())
                .unwrap_or_default();
            found.push((shard, Found { claim, version }));
        }
        let furthest = found.iter().map(|(_, found)| found.claim.sequence).max();
        let view = match furthest {
            // Another replica has read further, or the log became shorter: waiting tells which.
            Some(furthest) if furthest > view.position().sequence => {
                match self.fences.reach(furthest).await {
                    Ok(view) => view,
                    Err(_) => self.fences.fresh()?,
                }
            }
            _ => view,
        };
        let mut failed = None;
        for (shard, found) in found {
            let behind = is_behind(&view, &found.claim);
            let children = found.claim.sequence < handed_on;
            if !(behind || children) {
                self.is_matched(shard, began);
                continue;
            }
            if is_taken(&found.claim, self.me, now) {
                continue;
            }
            // INVARIANT: where only fences on single leases were missed, only children can be hit.
            let index = if behind {
                keys::due(shard)
            } else {
                keys::children(shard)
            };
            match self.match_shard(shard, &index, &view, found, now).await {
                Ok(Some(hits)) => {
                    matched += hits;
                    self.is_matched(shard, began);
                }
                // Another replica is at it.
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(matched), Err)
    }

    /// Fences on single leases: straight to the record, whatever the number of open leases. Also the
    /// last of those whose lease was handed on: up to there every shard has to be matched.
    async fn follow_single(
        &self,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<(u64, u64), LeaseError> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // On another history than the one that was followed: all of it again.
        let seen = if view.knows(seen) { seen.sequence } else { 0 };
        let (mut hits, mut handed_on) = (0, self.handed_on.load(Ordering::Relaxed));
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
            let lease = match self.leases.get(&id).await {
                Err(error) if error.is_of_one_lease() => {
                    tracing::error!(%error, "a fence on a lease cannot be followed");
                    None
                }
                found => found?,
            };
            let Some(mut lease) = lease else { continue };
            if matches!(lease.state, State::Reserved | State::Active) {
                let ended = EndedBy::Fence(Arc::clone(&fence));
                let closing = Closing::because(&ended, &id, now);
                self.leases.mark(&id, closing, now).await?;
                hits += 1;
                // INVARIANT: read again once it can be handed on no more.
                if let Some(closed) = self.leases.get(&id).await? {
                    lease = closed;
                }
            }
            if lease.handed_on {
                handed_on = sequence;
            }
        }
        self.handed_on.store(handed_on, Ordering::Relaxed);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = view.position();
        Ok((hits, handed_on))
    }

    async fn match_shard(
        &self,
        shard: ShardId,
        index: &Index,
        view: &View,
        found: Found,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, LeaseError> {
        let position = view.position();
        let mut claim = Claim {
            by: ByteArray::new(self.me),
            until: keys::rank(now + CLAIM),
            ..found.claim
        };
        // INVARIANT: `swept` moves before the leases are read. The other way round, a lease could
        // be added after the reading and before the move, and nobody would match it.
        steps::at(Step::ShardClaiming);
        let Some(version) = self
            .write_claim(shard, &claim, found.version, Some(position.sequence))
            .await?
        else {
            return Ok(None);
        };
        steps::at(Step::ShardClaimed);
        let mut hits = self.match_open((index, None, MAX_RANK), view, now).await?;
        // INVARIANT: a lease that was reserved when `swept` moved may have been activated behind the
        // reading, from its place by `mint_by` to one before it. It has moved only that once: either it
        // was seen where it was, or it is found here. What was marked just now is due now: behind that.
        let soon = keys::last_place(now + MINT_WITHIN + TOLERANCE + TOLERANCE);
        let marked = (keys::last_place(now), vec![u8::MAX; 17]);
        hits += self
            .match_open((index, Some(marked), soon), view, now)
            .await?;
        claim.sequence = position.sequence;
        claim.link = ByteArray::new(position.link.0);
        claim.until = 0;
        steps::at(Step::ShardMatched);
        self.write_claim(shard, &claim, Some(version), None).await?;
        steps::at(Step::ShardDone);
        Ok(Some(hits))
    }

    async fn write_claim(
        &self,
        shard: ShardId,
        claim: &Claim,
        version: Option<CommitId>,
        swept: Option<u64>,
    ) -> Result<Option<CommitId>, LeaseError> {
        let key = keys::claim(shard);
        let value = rmp_serde::to_vec(claim)
            .map_err(|error| crate::store::StoreError::Corrupt(error.to_string()))?;
        let deadline = self.leases.clock.now() + DEADLINE;
        let mut transaction = Transaction::new(shard, deadline)
            .local()
            .revoking()
            .guard(match version {
                Some(version) => Guard::Unchanged(key.clone(), version),
                None => Guard::Absent(key.clone()),
            })
            .write(Write::Put {
                key,
                value,
                expires_at: None,
            });
        if let Some(sequence) = swept {
            transaction = transaction.write(Write::Put {
                key: keys::swept(shard),
                value: sequence.to_be_bytes().to_vec(),
                expires_at: None,
            });
        }
        let id = transaction.id;
        Ok(
            match settle(self.leases.store.as_ref(), transaction).await? {
                Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Some(id),
                Outcome::Conflict { .. } | Outcome::TooLate => None,
            },
        )
    }

    async fn match_open(
        &self,
        (index, mut after, up_to): (&Index, Option<(i64, Vec<u8>)>, i64),
        view: &View,
        now: OffsetDateTime,
    ) -> Result<u64, LeaseError> {
        let mut hits = 0;
        loop {
            if after.as_ref().is_some_and(|(rank, _)| *rank > up_to) {
                return Ok(hits);
            }
            let members = self.leases.members(index, after.as_ref(), PAGE).await?;
            let Some(last) = members.last() else {
                return Ok(hits);
            };
            after = Some((last.rank, last.member.clone()));
            let mut changes: Vec<(Lease, Record)> = Vec::new();
            for (_, lease) in self.leases.leases_of(&members).await? {
                changes.extend(doomed(view, lease, now));
            }
            hits += changes.len() as u64;
            for batch in changes.chunks(MARKED) {
                steps::at(Step::BatchMarking);
                let marked = self.leases.step_all(batch.to_vec(), now).await?;
                steps::at(Step::BatchMarked);
                if marked.is_none() {
                    // One of them was changed meanwhile: each on its own.
                    for (lease, record) in batch {
                        if let Some(closing) = &record.closing {
                            self.leases.mark(&lease.id, closing.clone(), now).await?;
                        }
                    }
                }
            }
        }
    }
}

/// The lease as it must be written, if the view ended it.
fn doomed(view: &View, lease: Lease, now: OffsetDateTime) -> Option<(Lease, Record)> {
    if !matches!(lease.state, State::Reserved | State::Active) {
        return None;
    }
    let ended = lease.ended_by(view)?;
    // Decided further on than this view: the next round's view will know.
    if ended == EndedBy::Ahead {
        return None;
    }
    let closing = Closing::because(&ended, &lease.id, now);
    let event = end_event(&lease, closing.why);
    let mut record = lease.record().clone();
    record
        .advance(event, Some(closing), now)
        .then_some((lease, record))
}

/// Whether something on the log after the claim may end leases of the shard.
fn is_behind(view: &View, claim: &Claim) -> bool {
    let unfinished = claim.until != 0;
    match view.place(claim.at()) {
        // Matched on a history that is no more: everything again.
        Place::Lost | Place::Ahead => true,
        Place::Known => {
            unfinished
                || view.since(claim.sequence).is_none_or(|fences| {
                    fences.len() as u64 >= NARROW || fences.iter().any(|fence| ends_many(fence))
                })
        }
    }
}

fn is_taken(claim: &Claim, me: [u8; 16], now: OffsetDateTime) -> bool {
    claim.until > keys::rank(now) && claim.by.into_array() != me
}

/// Whether leases that it does not name may be ended by it.
fn ends_many(fence: &Fence) -> bool {
    match (fence.kind, &fence.restriction) {
        (FenceKind::Lift | FenceKind::Configure, _) => false,
        (FenceKind::Register, _) => fence.dimension.kind != DimensionKind::Registration,
        (FenceKind::Restrict, Some(restriction)) => restriction.ends_leases,
        _ => !is_single(fence),
    }
}

fn is_single(fence: &Fence) -> bool {
    fence.dimension.kind == DimensionKind::Lease
}
