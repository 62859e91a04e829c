//! The sweeper: runs on every replica, does what is due, and ends what must die until it is dead.
//!
//! Two replicas may find the same work. Whoever's guarded claim is written does it; ending a
//! credential twice is harmless, not ending it is not.

mod astray;
mod backlog;
mod end;
mod matching;
mod single;

pub use backlog::{Backlog, Waiting};

use super::record::Lease;
use super::state::{Event, State, Why};
use super::{Closing, KEPT, LeaseError, Leases, TOLERANCE, keys};
use crate::clock::Clock;
use crate::connectors::{Connector, RevocationClass};
use crate::fences::Fences;
use crate::ids::{self, LeaseId, SHARDS, ShardId, TargetId};
use crate::steps::{self, Step};
use crate::store::{Index, MAX_RANK, Transaction, Write};
use arc_swap::ArcSwapOption;
use backlog::Unclaimed;
use futures_util::StreamExt;
use single::Followed;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// The connector behind a target, if the configuration still has one.
pub type Connectors = Arc<dyn Fn(&TargetId) -> Option<Arc<dyn Connector>> + Send + Sync>;

/// Due leases taken from one shard in one round.
const BATCH: usize = 128;
/// As often in one round where what lies in front cannot be read.
const BATCHES: usize = 16;
/// Shards worked on at once.
const ABREAST: usize = 8;
/// What has been due for so long and still is not is in the wrong place.
const MISPLACED: Duration = Duration::from_secs(60);
/// Entries of a shard's backlog that are looked at for the oldest of each target.
const BACKLOG: usize = 512;
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
    /// How long a downstream may take to end a credential.
    pub(in crate::leases) patience: Duration,
    /// Something was marked that a downstream must end.
    marked: Notify,
    /// Targets that did not answer, and until when they are left alone.
    silent: Mutex<HashMap<TargetId, OffsetDateTime>>,
    /// Members of `lease-due` that cannot be read and that the audit has heard of from here.
    told: Mutex<HashSet<(ShardId, Vec<u8>)>>,
    /// Closed leases are forgotten in one shard a round.
    rounds: AtomicUsize,
    /// What each target still has to end, as the last whole round found it.
    backlog: ArcSwapOption<Backlog>,
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
            patience: PATIENCE,
            marked: Notify::new(),
            silent: Mutex::default(),
            told: Mutex::default(),
            rounds: AtomicUsize::new(0),
            backlog: ArcSwapOption::empty(),
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
            .map(|shard| self.work_off(shard, now))
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        let mut all = Backlog::new();
        for round in rounds {
            match round {
                Ok((done, more)) => {
                    swept.add(done);
                    backlog::join(&mut all, more);
                }
                Err(error) => failed = Some(error),
            }
        }
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
        match failed {
            // INVARIANT: half a picture must not close a breaker; the last whole one stands.
            Some(error) => Err(error),
            None => {
                let before = self.backlog.swap(Some(Arc::new(all.clone())));
                backlog::show(before.as_deref(), &all, now);
                Ok(swept)
            }
        }
    }

    /// Since when the oldest credential of this target that must be dead is not. A target that is
    /// overdue must not mint.
    pub fn backlog(&self, target: &TargetId) -> Option<OffsetDateTime> {
        let backlog = self.backlog.load();
        Some(backlog.as_deref()?.get(target)?.since)
    }

    /// The same of all targets; `None`: no round has got through yet.
    pub fn backlogs(&self) -> Option<Arc<Backlog>> {
        self.backlog.load_full()
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

    async fn work_off(
        &self,
        shard: ShardId,
        now: OffsetDateTime,
    ) -> Result<(Swept, Backlog), LeaseError> {
        let mut swept = Swept::default();
        let store = &self.leases.store;
        for _ in 0..BATCHES {
            let due = store
                .range(&keys::due(shard), -MAX_RANK..=keys::last_place(now), BATCH)
                .await?;
            let whole = due.len() == BATCH;
            let (done, put_off) = self.work_through(shard, due, now).await?;
            swept.add(done);
            // INVARIANT: what lies behind that which cannot be read has its turn in the same round.
            if put_off == 0 || !whole {
                break;
            }
        }
        let ending = store
            .range(&keys::ending(shard), -MAX_RANK..=MAX_RANK, BACKLOG)
            .await?;
        Ok((swept, backlog::of_shard(&ending)))
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
        self.stale += other.stale;
        self.lapsed += other.lapsed;
    }
}
