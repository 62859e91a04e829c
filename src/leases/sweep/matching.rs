//! Matches open leases against fences.
//!
//! Each shard keeps `swept`: no lease decided before that sequence can be added any more. It is
//! moved first, then the open leases are matched, then the claim says that they were: so a lease
//! is either in the shard when it is matched, or refused. A fence on one lease needs none of that
//! (`single.rs`): ids are drawn anew, so it can only hit a lease that is there. Unless the lease was
//! handed on: then its fence covers others, which may lie anywhere, and is matched like every other.

use super::Sweeper;
use crate::fences::{DimensionKind, EndedBy, Fence, FenceKind, Place, View};
use crate::ids::{LeaseId, SHARDS, ShardId};
use crate::leases::close::end_event;
use crate::leases::look::PAGE;
use crate::leases::record::Record;
use crate::leases::state::State;
use crate::leases::{Closing, DEADLINE, Lease, LeaseError, MINT_WITHIN, TOLERANCE, keys};
use crate::steps::{self, Step};
use crate::store::{
    CommitId, Guard, Index, Link, MAX_RANK, Outcome, Position, StoreError, Transaction, Write,
    settle,
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::time::Duration;
use time::OffsetDateTime;

/// A claim that was not finished by then may be taken over.
const CLAIM: Duration = Duration::from_secs(60);
/// Until when a claim stands that nobody holds, of a shard that has to be matched again.
const UNFINISHED: i64 = 1;
/// Records written in one commit.
const MARKED: usize = 32;
/// Fences on single leases move a shard's mark only this often.
const NARROW: u64 = 1024;
/// Attempts to mark a lease that somebody else is writing, too.
const TRIES: usize = 8;

/// How far the open leases of a shard were matched.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) sequence: u64,
    link: ByteArray<20>,
    by: ByteArray<16>,
    /// Milliseconds; 0: finished.
    until: i64,
    /// How far somebody in doubt has moved `swept`; 0: no further than the sequence.
    #[serde(default, skip_serializing_if = "is_nothing")]
    doubted: u64,
}

fn is_nothing(sequence: &u64) -> bool {
    *sequence == 0
}

/// A claim as stored.
pub(super) struct Found {
    pub(super) claim: Claim,
    pub(super) version: Option<CommitId>,
}

/// The claim of whoever matches a shard.
pub(super) struct Held {
    shard: ShardId,
    claim: Claim,
    /// As it was written last.
    pub(super) version: CommitId,
}

/// What leases are matched on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) view: &'a View,
    /// `false`: it may be old, or of a history that is no more. See `doubt.rs`.
    pub(super) proved: bool,
}

impl<'a> Sight<'a> {
    fn proved(view: &'a View) -> Self {
        Self { view, proved: true }
    }
}

/// What becomes of a shard's `swept`.
#[derive(Debug, Clone, Copy)]
enum Mark {
    To(u64),
    /// Only if it is not further already.
    OnTo(u64),
    Stays,
}

impl Held {
    /// INVARIANT: with each mark the claim is written anew. A failover that loses a mark then loses the claim that
    /// says so, and the shard is not called matched.
    fn along(&self) -> Result<(Guard, Write), LeaseError> {
        let key = keys::claim(self.shard);
        let guard = Guard::Unchanged(key.clone(), self.version);
        let write = Write::Put {
            key,
            value: self.claim.bytes()?,
            expires_at: None,
        };
        Ok((guard, write))
    }
}

impl Found {
    fn read(record: Option<crate::store::Record>) -> Self {
        let version = record.as_ref().map(|record| record.version);
        let claim = record
            .and_then(|record| rmp_serde::from_slice(&record.value).ok())
            .unwrap_or_default();
        Self { claim, version }
    }
}

impl Claim {
    fn bytes(&self) -> Result<Vec<u8>, LeaseError> {
        let bytes = rmp_serde::to_vec(self);
        Ok(bytes.map_err(|error| StoreError::Corrupt(error.to_string()))?)
    }

    /// Up to where somebody has read the log who was here.
    fn furthest(&self) -> u64 {
        self.sequence.max(self.doubted)
    }

    pub(super) fn is_of(&self, broker: [u8; 16]) -> bool {
        self.by.into_array() == broker
    }

    pub(super) fn at(&self) -> Position {
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
        let Ok(view) = self.fences.proved() else {
            return self.match_in_doubt(now).await;
        };
        let single = self.follow_single(Sight::proved(&view), now).await;
        let (mut matched, mut failed) = (single.hits, single.failed);
        let mut found = Vec::new();
        for (shard, claim) in self.claims().await {
            match claim {
                Ok(claim) => found.push((shard, claim)),
                Err(error) => failed = Some(error),
            }
        }
        // INVARIANT: whoever moved a mark in doubt counts, too: a receipt may lean on that mark, and to move it back takes
        // a proof that the log is shorter.
        let furthest = found.iter().map(|(_, found)| found.claim.furthest()).max();
        let view = match furthest {
            // Another replica has read further, or the log became shorter: waiting tells which.
            Some(furthest) if furthest > view.position().sequence => {
                // Whether it came or not, this is what there is by now.
                drop(self.fences.reach(furthest).await);
                self.fences.proved()?
            }
            _ => view,
        };
        for (shard, found) in found {
            let behind = is_behind(&view, &found.claim);
            let children = found.claim.sequence < single.handed_on;
            // INVARIANT: nothing is said of a shard whose leases are owed an end.
            let owes = single.owing.contains(&shard);
            if !(behind || children) {
                if !owes {
                    self.is_matched(shard, began);
                }
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
            let sight = Sight::proved(&view);
            match self.match_shard(shard, &index, sight, found, now).await {
                Ok(Some((hits, _))) => {
                    matched += hits;
                    if !owes {
                        self.is_matched(shard, began);
                    }
                }
                // Another replica is at it.
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(matched), Err)
    }

    /// How far each shard was matched. One that cannot be read does not keep the others waiting.
    pub(super) async fn claims(&self) -> Vec<(ShardId, Result<Found, LeaseError>)> {
        let shards: Vec<ShardId> = ShardId::all().collect();
        let places: Vec<_> = shards.iter().map(|shard| keys::claim(*shard)).collect();
        if let Ok(records) = self.leases.store.get(&places).await {
            let found = records.into_iter().map(|record| Ok(Found::read(record)));
            return shards.into_iter().zip(found).collect();
        }
        futures_util::stream::iter(shards)
            .map(|shard| async move {
                let read = self.leases.store.get(&[keys::claim(shard)]).await;
                let found = read.map(|mut records| Found::read(records.pop().flatten()));
                (shard, found.map_err(LeaseError::from))
            })
            .buffer_unordered(usize::from(SHARDS))
            .collect()
            .await
    }

    /// How many were found dead, and the claim as it was written last. `None`: another replica is at it.
    pub(super) async fn match_shard(
        &self,
        shard: ShardId,
        index: &Index,
        sight: Sight<'_>,
        found: Found,
        now: OffsetDateTime,
    ) -> Result<Option<(u64, CommitId)>, LeaseError> {
        let position = sight.view.position();
        let (until, doubted) = if sight.proved {
            (keys::rank(now + CLAIM), 0)
        } else {
            (UNFINISHED, found.claim.doubted.max(position.sequence))
        };
        let claim = Claim {
            by: ByteArray::new(self.me),
            until,
            doubted,
            ..found.claim
        };
        let Some(version) = self.claim(shard, &claim, found.version, sight).await? else {
            return Ok(None);
        };
        let mut held = Held {
            shard,
            claim,
            version,
        };
        let whole = (index, None, MAX_RANK);
        let mut hits = self.match_open(whole, sight, now, &mut held).await?;
        // INVARIANT: a lease that was reserved when `swept` moved may have been activated behind the
        // reading, from its place by `mint_by` to one before it. It has moved only that once: either it
        // was seen where it was, or it is found here. What was marked just now is due now: behind that.
        let soon = keys::last_place(now + MINT_WITHIN + TOLERANCE + TOLERANCE);
        let marked = (keys::last_place(now), vec![u8::MAX; 17]);
        let moved = (index, Some(marked), soon);
        hits += self.match_open(moved, sight, now, &mut held).await?;
        let Held { claim, version, .. } = held;
        // INVARIANT: a claim is finished on a proved view alone. What was matched in doubt was not matched whole.
        if !sight.proved {
            return Ok(Some((hits, version)));
        }
        let claim = Claim {
            sequence: position.sequence,
            link: ByteArray::new(position.link.0),
            until: 0,
            ..claim
        };
        steps::at(Step::ShardMatched);
        let finished = self
            .write_claim(shard, &claim, Some(version), Mark::Stays)
            .await?;
        steps::at(Step::ShardDone);
        // Not there any more: what was marked may be gone with it.
        Ok(finished.map(|version| (hits, version)))
    }

    /// INVARIANT: `swept` moves before the leases are read. The other way round, a lease could
    /// be added after the reading and before the move, and nobody would match it.
    async fn claim(
        &self,
        shard: ShardId,
        claim: &Claim,
        version: Option<CommitId>,
        sight: Sight<'_>,
    ) -> Result<Option<CommitId>, LeaseError> {
        let sequence = sight.view.position().sequence;
        // INVARIANT: in doubt it only moves on. It refuses decisions, which costs no more than deciding again;
        // moved back, it would let decisions in that a replica with a proved view has called matched.
        let swept = if sight.proved {
            Mark::To(sequence)
        } else {
            Mark::OnTo(sequence)
        };
        steps::at(Step::ShardClaiming);
        let mut claimed = self.write_claim(shard, claim, version, swept).await?;
        if claimed.is_none() && !sight.proved {
            // Further already, perhaps, which is as good.
            let stays = self.write_claim(shard, claim, version, Mark::Stays);
            claimed = stays.await?;
        }
        steps::at(Step::ShardClaimed);
        Ok(claimed)
    }

    async fn write_claim(
        &self,
        shard: ShardId,
        claim: &Claim,
        version: Option<CommitId>,
        swept: Mark,
    ) -> Result<Option<CommitId>, LeaseError> {
        let key = keys::claim(shard);
        let value = claim.bytes()?;
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
        if let Mark::OnTo(position) = swept {
            let marker = keys::swept(shard);
            transaction = transaction.guard(Guard::NotPast { marker, position });
        }
        if let Mark::To(sequence) | Mark::OnTo(sequence) = swept {
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
        sight: Sight<'_>,
        now: OffsetDateTime,
        held: &mut Held,
    ) -> Result<u64, LeaseError> {
        let (mut hits, mut failed) = (0, None);
        loop {
            if after.as_ref().is_some_and(|(rank, _)| *rank > up_to) {
                return failed.map_or(Ok(hits), Err);
            }
            let members = self.leases.members(index, after.as_ref(), PAGE).await?;
            let Some(last) = members.last() else {
                return failed.map_or(Ok(hits), Err);
            };
            after = Some((last.rank, last.member.clone()));
            let mut changes: Vec<(Lease, Record)> = Vec::new();
            for lease in self.readable(index.shard, members, now).await? {
                changes.extend(doomed(sight, lease, now));
            }
            hits += changes.len() as u64;
            for batch in changes.chunks(MARKED) {
                steps::at(Step::BatchMarking);
                let marked = self.mark_all(batch.to_vec(), now, held).await;
                steps::at(Step::BatchMarked);
                match marked {
                    Ok(true) => continue,
                    // One of them was changed meanwhile, or cannot be written: each on its own.
                    Ok(false) => {}
                    Err(error) if error.is_of_one_lease() => {}
                    Err(error) => return Err(error),
                }
                for (lease, _) in batch {
                    match self.mark_one(&lease.id, sight, now, held).await {
                        // INVARIANT: the others are marked all the same, and the shard is not called matched.
                        Err(error) if error.is_of_one_lease() => {
                            tracing::error!(lease = %lease.id, %error, "a lease that a fence ended cannot be written");
                            failed = Some(error);
                        }
                        marked => marked?,
                    }
                }
            }
        }
    }

    /// Why an open lease must die, where a fence was matched without it.
    pub(super) fn is_doomed(&self, lease: &Lease, now: OffsetDateTime) -> Option<Closing> {
        let view = self.fences.proved().ok()?;
        let ended = lease.ended_by(&view)?;
        (ended != EndedBy::Ahead).then(|| Closing::because(&ended, &lease.id, now))
    }

    /// `false`: one of them, or the claim, is not what it was.
    async fn mark_all(
        &self,
        changes: Vec<(Lease, Record)>,
        now: OffsetDateTime,
        held: &mut Held,
    ) -> Result<bool, LeaseError> {
        let along = Some(held.along()?);
        let marked = self.leases.step_all(changes, now, along).await?;
        let Some(last) = marked.as_deref().and_then(<[Lease]>::last) else {
            return Ok(false);
        };
        held.version = last.version();
        Ok(true)
    }

    async fn mark_one(
        &self,
        id: &LeaseId,
        sight: Sight<'_>,
        now: OffsetDateTime,
        held: &mut Held,
    ) -> Result<(), LeaseError> {
        for _ in 0..TRIES {
            let lease = self.leases.get(id).await?;
            let Some(change) = lease.and_then(|lease| doomed(sight, lease, now)) else {
                return Ok(());
            };
            steps::at(Step::Marking);
            let marked = self.mark_all(vec![change], now, held).await?;
            steps::at(Step::Marked);
            if marked {
                return Ok(());
            }
        }
        Err(LeaseError::Contended(*id))
    }
}

/// The lease as it must be written, if the view ended it.
fn doomed(sight: Sight<'_>, lease: Lease, now: OffsetDateTime) -> Option<(Lease, Record)> {
    if !matches!(lease.state, State::Reserved | State::Active) {
        return None;
    }
    let ended = lease.ended_by(sight.view)?;
    // Decided further on than this view: the next round's view will know.
    if ended == EndedBy::Ahead || !sight.ends(&lease, &ended) {
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
pub(super) fn is_behind(view: &View, claim: &Claim) -> bool {
    claim.until != 0 || moved_on(view, claim.at())
}

/// Whether something on the log after this place may end leases that it does not name.
pub(super) fn moved_on(view: &View, since: Position) -> bool {
    match view.place(since) {
        // Matched on a history that is no more: everything again.
        Place::Lost | Place::Ahead => true,
        Place::Known => view.since(since.sequence).is_none_or(|fences| {
            fences.len() as u64 >= NARROW || fences.iter().any(|fence| ends_many(fence))
        }),
    }
}

pub(super) fn is_taken(claim: &Claim, me: [u8; 16], now: OffsetDateTime) -> bool {
    claim.until > keys::rank(now) && !claim.is_of(me)
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

pub(super) fn is_single(fence: &Fence) -> bool {
    fence.dimension.kind == DimensionKind::Lease
}
