//! Ending: what is written when a lease must die, is dead, or cannot live any more.

use super::alike::{Half, Written};
use super::open::before;
use super::record::{Lease, Record};
use super::state::{Event, State, Why};
use super::{DEADLINE, KEPT, LeaseError, Leases, TOLERANCE, keys, notes, status};
use crate::connectors::{Handle, RevocationClass};
use crate::fences::{By, Dimension, DimensionKind, EndedBy, FenceKind, Fences, NewFence, Raised};
use crate::ids::LeaseId;
use crate::steps::{self, Step};
use crate::store::{Guard, Outcome, Transaction, Write, settle};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;
use time::serde::timestamp::milliseconds;

/// Tells a release from a revocation in a fence on one lease.
const RELEASE: &str = "released by its holder";
const TRIES: usize = 8;
/// Slots that an agent's leases of one lifetime are counted in, at most.
const SLOTS: u64 = 64;
/// How much longer than a closed lease what it has in common with others is kept.
const OUTLASTS: Duration = Duration::from_secs(3600);

/// Why a lease ends or ended, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    pub why: Why,
    /// Who said so: an operator, the holder, or `dayfly`.
    pub by: String,
    pub reason: String,
    #[serde(with = "milliseconds")]
    pub since: OffsetDateTime,
    #[serde(with = "milliseconds::option")]
    pub closed: Option<OffsetDateTime>,
}

/// What kind of end a fence, or the loss of a decision, is for the lease.
pub(super) fn why_of(ended: &EndedBy, lease: &LeaseId) -> Why {
    match ended {
        EndedBy::Fence(fence) if fence.dimension.kind == DimensionKind::Lease => {
            if fence.reason == RELEASE {
                // Its own holder is done, or whoever handed it on is.
                Why::Released
            } else if fence.dimension.value == lease.to_string() {
                Why::Revoked
            } else {
                Why::Fenced
            }
        }
        EndedBy::Fence(_) => Why::Fenced,
        EndedBy::Lost | EndedBy::Ahead => Why::DecisionLost,
    }
}

impl Closing {
    pub(super) fn new(why: Why, by: &str, reason: &str, now: OffsetDateTime) -> Self {
        Self {
            why,
            by: by.to_owned(),
            reason: reason.to_owned(),
            since: now,
            closed: None,
        }
    }

    pub(super) fn because(ended: &EndedBy, lease: &LeaseId, now: OffsetDateTime) -> Self {
        let by = match ended {
            EndedBy::Fence(fence) => fence.author.as_str(),
            EndedBy::Lost | EndedBy::Ahead => "dayfly",
        };
        Self::new(why_of(ended, lease), by, ended.reason(), now)
    }
}

impl Record {
    /// Takes one step of the table in `state`; `false`: it does not exist from here. The first
    /// reason to die is kept.
    pub(super) fn advance(
        &mut self,
        event: Event,
        closing: Option<Closing>,
        now: OffsetDateTime,
    ) -> bool {
        let Some(next) = self.state.after(event) else {
            return false;
        };
        self.state = next;
        if self.closing.is_none() {
            self.closing = closing;
        }
        if !next.is_open() {
            let closing = self.closing.get_or_insert_with(|| {
                Closing::new(Why::Expired, "dayfly", "its time was up", now)
            });
            closing.closed = Some(now);
        }
        true
    }

    /// A credential turned up for a lease that was thought closed or closing.
    pub(super) fn reopen(&mut self, why: Why, reason: &str, now: OffsetDateTime) {
        self.attempts = 0;
        self.claimed_until = None;
        self.uncollected = false;
        let closing = self
            .closing
            .get_or_insert_with(|| Closing::new(why, "dayfly", reason, now));
        closing.closed = None;
    }

    /// Whether the broker's word alone ends it: nothing downstream needs to be told.
    pub(super) fn ends_here(&self) -> bool {
        self.class == RevocationClass::Broker
    }

    /// Whether there is anything that a downstream could be told to end.
    pub(super) fn can_be_named(&self) -> bool {
        self.handle.is_some() && self.was_answered() || self.named_by_lease
    }

    /// Open, or there is something left to clear away: it is not reclaimed.
    fn is_kept(&self) -> bool {
        self.state.is_open() || self.uncollected
    }

    /// Until when it counts against its agent's limit: its expiry, rounded up by at most a
    /// thirty-second of its lifetime, so that leases are counted and not listed.
    fn slot(&self) -> Option<i64> {
        if !matches!(self.state, State::Reserved | State::Active) {
            return None;
        }
        let (from, to) = (keys::rank(self.created), keys::rank(self.expires_at));
        let lifetime = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        let grain = i64::try_from((lifetime / SLOTS).next_power_of_two()).unwrap_or(1);
        Some(to.saturating_add(grain - 1).div_euclid(grain) * grain)
    }

    /// When something has to be done next, if ever. `retry_at` is for what is being ended.
    fn due(&self, retry_at: OffsetDateTime) -> Option<OffsetDateTime> {
        match self.state {
            State::Reserved => Some(self.mint_by + TOLERANCE),
            State::Active => Some(self.expires_at),
            State::Revoking if self.can_be_named() => Some(retry_at),
            // Its credential may still turn up; until then there is nothing to tell anyone.
            State::Revoking => Some(self.mint_by + TOLERANCE),
            State::Unclaimed => Some(self.lives_until + TOLERANCE),
            _ => self.uncollected.then_some(retry_at),
        }
    }
}

impl Leases {
    /// The holder, or the context it hangs on, is done with it. In force at every replica with the
    /// fence: introspection reads no store for a lease that it has seen, so even a single end is a
    /// fence on the lease's own dimension. `None`: it was over already.
    pub async fn release(
        &self,
        lease: &Lease,
        fences: &Fences,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<Option<Raised>, LeaseError> {
        let closing = Closing::new(Why::Released, by, RELEASE, fences.no_later(now));
        self.close(lease, fences, closing, now).await
    }

    /// Someone says that this one lease must die. `None`: it was over already.
    pub async fn revoke(
        &self,
        lease: &Lease,
        fences: &Fences,
        (by, reason): (&str, &str),
        now: OffsetDateTime,
    ) -> Result<Option<Raised>, LeaseError> {
        let closing = Closing::new(Why::Revoked, by, reason, fences.no_later(now));
        self.close(lease, fences, closing, now).await
    }

    async fn close(
        &self,
        lease: &Lease,
        fences: &Fences,
        closing: Closing,
        now: OffsetDateTime,
    ) -> Result<Option<Raised>, LeaseError> {
        // A clock that is ahead neither takes a lease for over nor has its end wait for the others' clocks.
        let marked = fences.no_later(now);
        // A holder that ends its lease over and over must not fill the log.
        //
        // INVARIANT: that the record says so is not enough. It may have outlived the fence that it followed, and
        // with that what a failover lost would never be put back.
        let view = fences.last();
        let over = self.get(&lease.id).await?.is_none_or(|current| {
            let ended = current.ended_by(&view);
            current.is_past(marked)
                || current.closing.is_some()
                    && (marked >= current.expires_at
                        || ended.is_some_and(|ended| ended != EndedBy::Ahead))
        });
        if over {
            return Ok(None);
        }
        let dimension = Dimension::new(DimensionKind::Lease, lease.id.to_string());
        let by = if closing.why == Why::Released {
            By::Holder
        } else {
            By::Operator
        };
        let fence = NewFence::new(FenceKind::Kill, dimension, &closing.by, &closing.reason)
            .by(by)
            .until(lease.expires_at.max(lease.lives_until));
        let raised = fences.raise(fence, now).await?;
        // It is dead now. If the record cannot follow, the sweep finds the fence.
        if let Err(error) = self.mark(&lease.id, closing, marked).await {
            tracing::warn!(lease = %lease.id, %error, "the fence stands; the record follows with the sweep");
        }
        Ok(Some(raised))
    }

    /// Writes that an open lease must die: closed at once where the broker's word is enough. `None`: it was
    /// over, or is not there.
    pub(super) async fn mark(
        &self,
        id: &LeaseId,
        closing: Closing,
        now: OffsetDateTime,
    ) -> Result<Option<Lease>, LeaseError> {
        for _ in 0..TRIES {
            let Some(lease) = self.get(id).await? else {
                return Ok(None);
            };
            let event = end_event(&lease, closing.why);
            if lease.state.after(event).is_none() {
                return Ok(None);
            }
            let closing = closing.clone();
            steps::at(Step::Marking);
            let changed = self
                .step(&lease, now, |record| {
                    record.advance(event, Some(closing), now)
                })
                .await?;
            steps::at(Step::Marked);
            if changed.is_some() {
                return Ok(changed);
            }
        }
        Err(LeaseError::Contended(*id))
    }

    /// A credential that is recorded, and that nobody may be given.
    pub async fn withhold(&self, lease: &Lease, now: OffsetDateTime) {
        let closing = Closing::new(Why::NeverHandedOut, "dayfly", "not replicated in time", now);
        if let Err(error) = self.mark(&lease.id, closing, now).await {
            tracing::error!(lease = %lease.id, %error, "a credential that was not handed out stays until it expires");
        }
    }

    /// One guarded write over a record. `None`: someone else changed it first, or the change does
    /// not apply to it.
    pub(super) async fn step(
        &self,
        lease: &Lease,
        retry_at: OffsetDateTime,
        change: impl FnOnce(&mut Record) -> bool,
    ) -> Result<Option<Lease>, LeaseError> {
        let mut record = lease.record().clone();
        if !change(&mut record) {
            return Ok(None);
        }
        let changed = self
            .step_all(vec![(lease.clone(), record)], retry_at, None)
            .await?;
        Ok(changed.and_then(|leases| leases.into_iter().next()))
    }

    /// The same over several records of one shard: all or none, and with something that goes along.
    pub(super) async fn step_all(
        &self,
        changes: Vec<(Lease, Record)>,
        retry_at: OffsetDateTime,
        along: Option<(Guard, Write)>,
    ) -> Result<Option<Vec<Lease>>, LeaseError> {
        let Some((first, _)) = changes.first() else {
            return Ok(Some(Vec::new()));
        };
        let (shard, now) = (first.id.shard(), self.clock.now());
        let mut transaction = Transaction::new(shard, now + DEADLINE).revoking();
        // INVARIANT: what a status list is made of is replicated, or a failover would bring its token back; and
        // that there may be children, which lie on other shards and would be there still.
        let must_stay = changes
            .iter()
            .any(|(lease, record)| record.status.is_some() || record.handed_on != lease.handed_on);
        if !must_stay {
            transaction = transaction.local();
        }
        if let Some((guard, write)) = along {
            transaction = transaction.guard(guard).write(write);
        }
        let mut shares = Vec::with_capacity(changes.len());
        for (lease, record) in &changes {
            transaction =
                transaction.guard(Guard::Unchanged(keys::lease(&lease.id), lease.version()));
            let put = self.put(transaction, (Some(lease), record), retry_at)?;
            transaction = put.0;
            shares.push(put.1);
            if let Some(entry) = notes::step(lease.state, record, now) {
                transaction = transaction.write(entry.append(shard));
            }
        }
        let version = transaction.id;
        match settle(self.store.as_ref(), transaction).await? {
            // Written, and perhaps not for long: whoever finds it so asks whether it was replicated since.
            Outcome::Unreplicated { .. } if must_stay => Err(LeaseError::Unreplicated),
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(Some(
                changes
                    .into_iter()
                    .zip(shares)
                    .map(|((_, record), shares)| Lease::new(record, version, shares))
                    .collect(),
            )),
            Outcome::Conflict { .. } | Outcome::TooLate => Ok(None),
        }
    }

    /// Puts the record in the place of the one before and everything that is looked up by. Also answers
    /// what it shares then.
    pub(super) fn put(
        &self,
        transaction: Transaction,
        (before, record): (Option<&Lease>, &Record),
        retry_at: OffsetDateTime,
    ) -> Result<(Transaction, Half), LeaseError> {
        let common = record.common()?;
        let (shares, value) = (common.half(), record.bytes(&self.sealer, &common)?);
        let transaction = self.share(transaction, before, record, common);
        let transaction = self.count(transaction, before.map(Lease::record), record);
        let (shard, id) = (record.id.shard(), &record.id);
        let member = keys::member(&record.id);
        let closed = record
            .closing
            .as_ref()
            .and_then(|closing| closing.closed)
            .filter(|_| !record.state.is_open());
        let due = record.due(retry_at).map(|at| keys::place(at, id));
        let open = due.filter(|_| record.state.is_open());
        let child = record
            .parent
            .map(|_| (keys::children(shard), member.clone(), open));
        let watched = (!record.asked_by.is_empty()).then(|| {
            let is_live = matches!(record.state, State::Reserved | State::Active);
            let made = is_live.then(|| keys::place(record.created, id));
            (keys::watched(shard), member.clone(), made)
        });
        let is_unclaimed = record.state == State::Unclaimed;
        let was_unclaimed = before.is_some_and(|before| before.state == State::Unclaimed);
        let unclaimed = (is_unclaimed || was_unclaimed).then(|| {
            let member = keys::ending_member(&record.id, &record.target);
            let until = is_unclaimed.then(|| keys::place(record.lives_until, id));
            (keys::unclaimed(shard), member, until)
        });
        let over = status::over(record).map(|rank| (rank.index, rank.member, Some(rank.rank)));
        let ranks = [
            (keys::due(shard), member.clone(), due),
            // A target whose class is `expiry` has no backlog: nothing there waits to be done.
            (
                keys::ending(shard),
                keys::ending_member(&record.id, &record.target),
                record
                    .closing
                    .as_ref()
                    .filter(|_| {
                        record.state == State::Revoking
                            && record.can_be_named()
                            && record.class != RevocationClass::Expiry
                    })
                    .map(|closing| keys::place(closing.since, id)),
            ),
            (
                keys::closed(shard),
                member,
                closed.map(|at| keys::place(at, id)),
            ),
        ];
        let mut transaction = transaction.write(Write::Put {
            key: keys::lease(&record.id),
            value,
            // INVARIANT: a lease that is open is never reclaimed.
            expires_at: closed.filter(|_| !record.is_kept()).map(|at| at + KEPT),
        });
        let ranks = ranks.into_iter().chain(child).chain(watched).chain(over);
        for (index, member, rank) in ranks.chain(unclaimed) {
            let write = match rank {
                Some(rank) => Write::Rank {
                    index,
                    member,
                    rank,
                },
                // What never ended was in none of the others.
                None if record.closing.is_none() => continue,
                None => Write::Unrank { index, member },
            };
            transaction = transaction.write(write);
        }
        Ok((transaction, shares))
    }

    /// What the record has in common with others is there for as long as the record is.
    fn share(
        &self,
        mut transaction: Transaction,
        before: Option<&Lease>,
        record: &Record,
        common: Written,
    ) -> Transaction {
        let (named, is) = (before.map(Lease::shares), common.half());
        let was = before.filter(|lease| lease.is_kept()).and(named);
        let kept = record.is_kept();
        if was.is_some() == kept && named == Some(is) {
            return transaction;
        }
        let shard = record.id.shard();
        // INVARIANT: longer than any record that was closed before, by whatever replica's clock.
        let until = self.clock.now() + KEPT + OUTLASTS;
        let unshare = |name: &Half| Write::Unshare {
            key: keys::common(shard, name),
            until,
        };
        if kept || named != Some(is) {
            transaction = transaction.write(Write::Share {
                key: keys::common(shard, &is),
                value: common.bytes,
            });
            // One that is closed names it all the same.
            if !kept {
                transaction = transaction.write(unshare(&is));
            }
        }
        match was {
            Some(was) => transaction.write(unshare(&was)),
            None => transaction,
        }
    }

    /// What nobody can use any more does not use up its agent's or its instance's quota.
    fn count(
        &self,
        mut transaction: Transaction,
        before: Option<&Record>,
        record: &Record,
    ) -> Transaction {
        let over = keys::rank(self.clock.now());
        let was = before.and_then(Record::slot);
        let is = record.slot();
        if was == is {
            return transaction;
        }
        let was = was.map(|slot| (slot, -1));
        let instance = record
            .of_instance
            .then(|| keys::quota_of_instance(&record.agent, record.instance.as_deref()));
        for tally in [keys::quota(&record.agent)].into_iter().chain(instance) {
            for (slot, by) in was.into_iter().chain(is.map(|slot| (slot, 1))) {
                transaction = transaction.write(Write::Count {
                    tally: tally.clone(),
                    slot,
                    by,
                    over,
                });
            }
        }
        transaction
    }

    pub(super) fn handle(&self, lease: &Lease) -> Result<Option<Handle>, LeaseError> {
        let name = if lease.was_answered() {
            lease.id.as_bytes().to_vec()
        } else {
            before(&lease.id)
        };
        lease
            .handle
            .as_ref()
            .map(|sealed| Ok(self.sealer.open(&name, sealed)?))
            .transpose()
    }
}

/// How this lease ends.
pub(super) fn end_event(lease: &Lease, why: Why) -> Event {
    if lease.ends_here() && lease.state == State::Active {
        Event::EndHere(why)
    } else {
        Event::End
    }
}
