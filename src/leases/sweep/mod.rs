//! The sweeper: runs on every replica, does what is due, and ends what must die until it is dead.
//!
//! Two replicas may find the same work. Whoever's guarded claim is written does it; ending a
//! credential twice is harmless, not ending it is not.

mod astray;
mod backlog;
mod doubt;
mod end;
mod matching;
mod single;

pub use backlog::{Backlog, Backlogs, Waiting};

use super::record::Lease;
use super::state::{Event, State, Why};
use super::{Closing, KEPT, LeaseError, Leases, TOLERANCE, keys};
use crate::clock::Clock;
use crate::connectors::{Connector, RevocationClass};
use crate::fences::Fences;
use crate::ids::{self, LeaseId, SHARDS, ShardId, TargetId};
use crate::steps::{self, Step};
use crate::store::{Index, MAX_RANK, Transaction, Write};
use backlog::{Picture, Unclaimed};
use doubt::Doubted;
use end::Heard;
use futures_util::StreamExt;
use single::Followed;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// The connector behind a target, if the configuration still has one.
pub type Connectors = Arc<dyn Fn(&TargetId) -> Option<Arc<dyn Connector>> + Send + Sync>;

/// Due leases taken from one shard in one round.
pub(in crate::leases) const BATCH: usize = 128;
/// As often in one round where what lies in front has to be put off.
const BATCHES: usize = 16;
/// Shards worked on at once.
const ABREAST: usize = 8;
/// What has been due for so long and still is not is in the wrong place.
const MISPLACED: Duration = Duration::from_secs(60);
/// Entries of a shard's index that are looked at in one go.
pub(in crate::leases) const BACKLOG: usize = 512;
const PATIENCE: Duration = Duration::from_secs(10);
const ROUND: Duration = Duration::from_secs(1);

pub struct Sweeper {
    pub(in crate::leases) leases: Arc<Leases>,
    fences: Arc<Fences>,
    connectors: Connectors,
    /// Tells this replica's claims from others'.
    me: [u8; 16],
    /// How far fences on single leases were followed here.
    followed: Mutex<Followed>,
    /// For each shard, when the view was taken that all its leases are matched against.
    pub(in crate::leases) matched: Vec<Mutex<Option<Duration>>>,
    /// Shards that were matched on a view that was not fresh.
    doubted: Mutex<BTreeMap<ShardId, Doubted>>,
    /// How long a downstream may take to end a credential.
    pub(in crate::leases) patience: Duration,
    /// Something was marked that a downstream must end.
    marked: Notify,
    /// Targets that did not answer, and until when they are left alone.
    heard: Mutex<HashMap<TargetId, Heard>>,
    /// Members of `lease-due` that cannot be read and that the audit has heard of from here.
    told: Mutex<HashSet<(ShardId, Vec<u8>)>>,
    /// Closed leases are forgotten in one shard a round.
    rounds: AtomicUsize,
    /// What each target still has to end.
    picture: Mutex<Picture>,
    /// What of it the metrics show.
    shown: Mutex<Backlog>,
    unclaimed: Mutex<Unclaimed>,
}

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Leases that a fence, or a lost decision, ended.
    pub matched: u64,
    /// Confirmed dead downstream, or dead by the broker's word.
    pub closed: u64,
    /// Tried and still alive; tried again later.
    pub alive: u64,
    /// Not tried, because their target did not answer just now.
    pub left_alone: u64,
    /// Reservations that nobody came back for.
    pub stale: u64,
    /// Credentials that died of age without having been ended.
    pub lapsed: u64,
}

impl std::fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeper").finish_non_exhaustive()
    }
}

impl Sweeper {
    pub fn new(leases: Arc<Leases>, fences: Arc<Fences>, connectors: Connectors) -> Self {
        Self {
            leases,
            fences,
            connectors,
            me: ids::random(),
            followed: Mutex::default(),
            matched: ShardId::all().map(|_| Mutex::default()).collect(),
            doubted: Mutex::default(),
            patience: PATIENCE,
            marked: Notify::new(),
            heard: Mutex::default(),
            told: Mutex::default(),
            rounds: AtomicUsize::new(0),
            picture: Mutex::default(),
            shown: Mutex::default(),
            unclaimed: Mutex::default(),
        }
    }

    /// Sweeps in the background for as long as the result is held.
    pub fn start(self, clock: Arc<dyn Clock>) -> Arc<Self> {
        let sweeper = Arc::new(self);
        let (matcher, worker) = (Arc::downgrade(&sweeper), Arc::downgrade(&sweeper));
        let mut moved = sweeper.fences.moved();
        let time = Arc::clone(&clock);
        // Apart, so that a downstream that is slow to end does not delay the marking.
        tokio::spawn(async move {
            while let Some(sweeper) = matcher.upgrade() {
                match sweeper.match_fences(time.now()).await {
                    Ok(0) => {}
                    Ok(_) => sweeper.marked.notify_one(),
                    Err(error) => {
                        tracing::warn!(%error, "open leases were not matched against the fences; tried again");
                    }
                }
                drop(sweeper);
                // A new fence is followed at once, a stream of them in rounds.
                tokio::time::sleep(ROUND / 10).await;
                let _ = tokio::time::timeout(ROUND, moved.changed()).await;
            }
        });
        tokio::spawn(async move {
            if let Some(sweeper) = worker.upgrade() {
                // Before a downstream is asked for anything, which may take long.
                sweeper.look_everywhere(clock.now()).await;
            }
            while let Some(sweeper) = worker.upgrade() {
                match sweeper.do_due(clock.now()).await {
                    // As much as a round takes of a shard: there may be more, and something came of it.
                    Ok(swept) if swept.closed >= BATCH as u64 => continue,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a sweep did not get through; the next one starts over");
                    }
                }
                let _ = tokio::time::timeout(ROUND, sweeper.marked.notified()).await;
            }
        });
        sweeper
    }

    /// One whole round: what fences ended is marked, then what is due is done.
    pub async fn run_once(&self, now: OffsetDateTime) -> Result<Swept, LeaseError> {
        let matched = self.match_fences(now).await;
        let mut swept = self.do_due(now).await?;
        swept.matched = matched?;
        Ok(swept)
    }

    /// Over every shard. One that fails does not keep the others waiting.
    async fn do_due(&self, now: OffsetDateTime) -> Result<Swept, LeaseError> {
        let mut swept = Swept::default();
        let mut failed = None;
        let rounds: Vec<_> = futures_util::stream::iter(ShardId::all())
            .map(|shard| async move {
                let done = self.work_off(shard, now).await;
                // INVARIANT: whatever came of the work: a target that cannot end what it must is seen.
                let looked = self.look(shard, now).await;
                (done, looked)
            })
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        for (done, looked) in rounds {
            match done {
                Ok(done) => swept.add(done),
                Err(error) => failed = Some(error),
            }
            failed = looked.err().or(failed);
        }
        self.show(now);
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        if let Some(shard) = ShardId::all().nth(round % usize::from(SHARDS)) {
            let old = [
                (keys::closed(shard), now - KEPT),
                (keys::status_ended(shard), now),
            ];
            for (index, until) in old {
                if let Err(error) = self.forget(shard, index, until).await {
                    failed = Some(error);
                }
            }
            let ranks = -MAX_RANK..=MAX_RANK;
            let index = keys::unclaimed(shard);
            match self.leases.store.range(&index, ranks, BACKLOG).await {
                Ok(found) => {
                    let mut counted = self
                        .unclaimed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    counted.count(round % usize::from(SHARDS), &found);
                }
                Err(error) => failed = Some(error.into()),
            }
        }
        failed.map_or(Ok(swept), Err)
    }

    fn show(&self, now: OffsetDateTime) {
        let all = self.backlogs().of;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        backlog::show(&shown, &all, now);
        *shown = all;
    }

    /// Since when the oldest credential of this target that must be dead is not. A target that is
    /// overdue must not mint.
    pub fn backlog(&self, target: &TargetId) -> Option<OffsetDateTime> {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.since(target)
    }

    /// The same of all targets.
    pub fn backlogs(&self) -> Backlogs {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.joined()
    }

    /// Whether what must be dead was read of every shard since this replica started. Until then nobody knows here
    /// which targets are overdue.
    pub fn has_looked(&self) -> bool {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.is_begun()
    }

    /// If not, what is missing, and why.
    pub fn not_looked(&self) -> Option<String> {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.missing()
    }

    /// Ends a lease that must die without waiting for the next round, and says how far that got.
    pub async fn end_now(
        &self,
        id: &LeaseId,
        now: OffsetDateTime,
    ) -> Result<Option<State>, LeaseError> {
        let Some(lease) = self.leases.get(id).await? else {
            return Ok(None);
        };
        if lease.state == State::Revoking {
            self.work_on(&lease, now, now).await?;
        }
        Ok(self.leases.get(id).await?.map(|lease| lease.state))
    }

    async fn work_off(&self, shard: ShardId, now: OffsetDateTime) -> Result<Swept, LeaseError> {
        let mut swept = Swept::default();
        for _ in 0..BATCHES {
            let ranks = -MAX_RANK..=keys::last_place(now);
            let due = keys::due(shard);
            let due = self.leases.store.range(&due, ranks, BATCH).await?;
            let whole = due.len() == BATCH;
            let (done, put_off) = self.work_through(shard, due, now).await?;
            swept.add(done);
            // INVARIANT: what lies behind that which cannot be read, or behind what a target that does not answer
            // has to end, has its turn in the same round.
            if put_off == 0 || !whole {
                break;
            }
        }
        Ok(swept)
    }

    /// Does what is due about one lease, which it is since `since`.
    async fn work_on(
        &self,
        lease: &Lease,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<Swept, LeaseError> {
        let mut swept = Swept::default();
        match lease.state {
            State::Reserved if now >= lease.mint_by + TOLERANCE => {
                self.give_up_reservation(lease, now).await?;
                swept.stale += 1;
            }
            State::Active if now >= lease.expires_at => {
                let closed = self.expire(lease, now).await?;
                swept.closed += u64::from(closed);
            }
            State::Revoking if lease.can_be_named() || lease.ends_here() => {
                swept.add(self.end(lease, now).await?);
            }
            State::Revoking if now >= lease.mint_by + TOLERANCE => {
                steps::at(Step::GivingUp);
                self.leases
                    .step(lease, now, |record| {
                        record.advance(Event::LostUnnamed, None, now)
                    })
                    .await?;
                steps::at(Step::GivenUp);
                swept.stale += 1;
            }
            State::Unclaimed if now >= lease.lives_until + TOLERANCE => {
                swept.lapsed += u64::from(self.lapse(lease, now).await?);
            }
            State::Reserved | State::Active if self.is_doomed(lease, now).is_some() => {
                if let Some(closing) = self.is_doomed(lease, now) {
                    let marked = self.leases.mark(&lease.id, closing, now).await?;
                    swept.matched += u64::from(marked.is_some());
                }
            }
            _ if lease.uncollected => swept.add(self.end(lease, now).await?),
            // To where its record says that it belongs, or out.
            _ if since + MISPLACED < now => {
                self.postpone(lease, now).await?;
            }
            _ => {}
        }
        Ok(swept)
    }

    /// No mint can still be on its way, and nobody came back.
    async fn give_up_reservation(
        &self,
        lease: &Lease,
        now: OffsetDateTime,
    ) -> Result<(), LeaseError> {
        let event = if lease.named_by_lease {
            Event::LostNamed
        } else {
            Event::LostUnnamed
        };
        let closing = Closing::new(
            Why::NeverHandedOut,
            "dayfly",
            "nobody came back for the reservation",
            now,
        );
        steps::at(Step::GivingUp);
        self.leases
            .step(lease, now, |record| {
                record.advance(event, Some(closing), now)
            })
            .await?;
        steps::at(Step::GivenUp);
        Ok(())
    }

    /// `true`: closed by time alone. Otherwise a downstream has to be told, or outlives our word.
    async fn expire(&self, lease: &Lease, now: OffsetDateTime) -> Result<bool, LeaseError> {
        let by_itself = match lease.class {
            RevocationClass::Broker => true,
            RevocationClass::Deny | RevocationClass::Expiry => now >= lease.lives_until,
            // What expired by itself may still have to be cleared away, and not all of it expires.
            RevocationClass::Native => false,
        };
        let event = if by_itself { Event::TimeUp } else { Event::End };
        let closing = Closing::new(Why::Expired, "dayfly", "its time was up", now);
        steps::at(Step::Expiring);
        let changed = self
            .leases
            .step(lease, now, |record| {
                record.advance(event, Some(closing), now)
            })
            .await?;
        steps::at(Step::Expired);
        Ok(by_itself && changed.is_some())
    }

    async fn lapse(&self, lease: &Lease, now: OffsetDateTime) -> Result<bool, LeaseError> {
        steps::at(Step::Lapsing);
        let changed = self
            .leases
            .step(lease, now, |record| {
                record.advance(Event::Outlived, None, now)
            })
            .await?;
        steps::at(Step::Lapsed);
        Ok(changed.is_some())
    }

    async fn forget(
        &self,
        shard: ShardId,
        index: Index,
        until: OffsetDateTime,
    ) -> Result<(), LeaseError> {
        let old = self
            .leases
            .store
            .range(&index, -MAX_RANK..=keys::last_place(until), BATCH)
            .await?;
        if old.is_empty() {
            return Ok(());
        }
        let deadline = self.leases.clock.now() + super::DEADLINE;
        let mut transaction = Transaction::new(shard, deadline).local().revoking();
        for ranked in old {
            transaction = transaction.write(Write::Unrank {
                index: index.clone(),
                member: ranked.member,
            });
        }
        steps::at(Step::Forgetting);
        self.leases.store.commit(transaction).await?;
        steps::at(Step::Forgotten);
        Ok(())
    }
}

impl Swept {
    fn add(&mut self, other: Self) {
        self.matched += other.matched;
        self.closed += other.closed;
        self.alive += other.alive;
        self.left_alone += other.left_alone;
        self.stale += other.stale;
        self.lapsed += other.lapsed;
    }
}
