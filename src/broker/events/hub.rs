//! One reader of the audit for every listener of this replica, and how many listeners there are.
//!
//! It reads only while somebody listens: what was told last stays in memory, so that a listener that
//! keeps up costs no read of the store. Everything that it does not have is read from the store.

use super::{EVERY, Refusal, STALE};
use crate::audit::{self, AuditError, Entry, Page};
use crate::broker::Reason;
use crate::clock::Clock;
use crate::fences::Fences;
use crate::ids::{LeaseId, ShardId};
use crate::leases::{LeaseError, Leases};
use crate::store::{Position, Store};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Of one caller, and of all, at this replica.
const MOST_OF_ONE: usize = 8;
const MOST: usize = 256;
/// Entries of a shard that are kept, and places that are known.
const RECENT: usize = 64;
const PLACES: usize = 4096;
/// After a fence its leases are marked: not every step of that needs a round of its own.
const PAUSE: Duration = Duration::from_millis(100);
/// Who owns a lease that a fence names is asked once for all listeners.
pub const OWNERS_KEPT: Duration = Duration::from_secs(5);

/// An entry with its place. Without the entry where a newer version wrote it.
pub(super) type Placed = (Position, Option<Arc<Entry>>);

#[derive(Debug)]
pub(super) struct Hub {
    store: Arc<dyn Store>,
    fences: Arc<Fences>,
    leases: Arc<Leases>,
    clock: Arc<dyn Clock>,
    windows: Mutex<BTreeMap<u8, Window>>,
    /// Boot time at which the last round that reached every head began.
    rounds: watch::Sender<Option<Duration>>,
    /// How often the store lost what had been read.
    forks: AtomicU64,
    seats: Mutex<Seats>,
    owners: moka::sync::Cache<LeaseId, Option<Owner>>,
}

/// What a resource server may know of a fence on a lease.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub audience: String,
    /// What it ends may be of other audiences, too.
    pub handed_on: bool,
}

/// The end of one shard's log, as far as it was read.
#[derive(Debug, Default)]
struct Window {
    head: Option<Position>,
    places: VecDeque<Position>,
    recent: VecDeque<Placed>,
    /// What the first of `recent` follows, where that is known.
    begins: Option<Position>,
}

#[derive(Debug, Default)]
struct Seats {
    reading: bool,
    taken: usize,
    of: HashMap<String, usize>,
}

/// A listener's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    hub: Arc<Hub>,
    whose: String,
}

/// What follows a place.
#[derive(Debug)]
pub(super) struct News {
    pub entries: Vec<Placed>,
    pub after: Position,
    pub more: bool,
    /// Entries are missing before these.
    pub gap: bool,
    /// From memory.
    pub kept: bool,
}

impl Hub {
    pub fn new(
        store: Arc<dyn Store>,
        fences: Arc<Fences>,
        leases: Arc<Leases>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            fences,
            leases,
            clock,
            windows: Mutex::default(),
            rounds: watch::Sender::new(None),
            forks: AtomicU64::new(0),
            seats: Mutex::default(),
            owners: moka::sync::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(OWNERS_KEPT)
                .build(),
        }
    }

    /// A place for one more listener of this caller, and a reader if there is none.
    pub fn seat(self: &Arc<Self>, whose: String) -> Result<Seat, Refusal> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.taken >= MOST {
            return Err(Refusal::new(Reason::Overloaded, "too many listeners").after(30));
        }
        let own = seats.of.entry(whose.clone()).or_default();
        if *own >= MOST_OF_ONE {
            let refusal = Refusal::new(Reason::TooManyRequests, "eight streams are open already");
            return Err(refusal.exact().after(30));
        }
        *own += 1;
        seats.taken += 1;
        if !std::mem::replace(&mut seats.reading, true) {
            tokio::spawn(Arc::clone(self).read_while_wanted());
        }
        drop(seats);
        metrics::gauge!(crate::telemetry::metric::LISTENERS).increment(1.0);
        Ok(Seat {
            hub: Arc::clone(self),
            whose,
        })
    }

    fn is_wanted(&self) -> bool {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.reading = seats.taken > 0;
        if !seats.reading {
            self.rounds.send_replace(None);
        }
        seats.reading
    }

    async fn read_while_wanted(self: Arc<Self>) {
        let mut moved = self.fences.moved();
        let mut healthy = true;
        while self.is_wanted() {
            match self.round().await {
                Ok(()) => healthy = true,
                Err(error) if std::mem::replace(&mut healthy, false) => {
                    tracing::warn!(%error, "the audit cannot be read for those who listen; tried again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(EVERY, moved.changed()).await;
        }
    }

    async fn round(&self) -> Result<(), AuditError> {
        let began = self.clock.since_boot();
        // Nobody is told yet, and all that the store keeps is read.
        let first = self.rounds.borrow().is_none();
        let mut pages = Vec::new();
        for shard in audit::shards() {
            let mut from = self.head(shard);
            loop {
                let page = audit::page(self.store.as_ref(), shard, from).await?;
                from = page.after;
                let more = page.more;
                pages.push((shard, page));
                if first {
                    self.take(pages.drain(..));
                }
                if !more {
                    break;
                }
            }
        }
        // INVARIANT: all at once. Fences are read first, so whoever sees one sees what came before it.
        self.take(pages.into_iter());
        self.rounds.send_replace(Some(began));
        Ok(())
    }

    fn take(&self, pages: impl Iterator<Item = (ShardId, Page)>) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, page) in pages {
            if page.forked {
                self.forks.fetch_add(1, Ordering::AcqRel);
            }
            windows.entry(shard.number()).or_default().take(page);
        }
    }

    pub fn head(&self, shard: ShardId) -> Position {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let head = windows.get(&shard.number()).and_then(|known| known.head);
        head.unwrap_or(Position::ORIGIN)
    }

    /// The place with this number, if the log still has it and it is the one that was meant.
    pub fn place(
        &self,
        shard: ShardId,
        sequence: u64,
        check: impl Fn(Position) -> bool,
    ) -> Option<Position> {
        if sequence == 0 {
            return Some(Position::ORIGIN);
        }
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.get(&shard.number())?;
        let known = window.places.iter().rev().chain(&window.head);
        known
            .copied()
            .find(|place| place.sequence == sequence)
            .filter(|place| check(*place))
    }

    pub fn forks(&self) -> u64 {
        self.forks.load(Ordering::Acquire)
    }

    /// What follows `from`: from memory, or else from the store. `anew`: what was read may be lost.
    pub async fn news(
        &self,
        shard: ShardId,
        from: Position,
        anew: bool,
    ) -> Result<News, AuditError> {
        if !anew && let Some(entries) = self.kept_after(shard, from) {
            let after = entries.last().map_or(from, |(position, _)| *position);
            return Ok(News {
                entries,
                after,
                more: false,
                gap: false,
                kept: true,
            });
        }
        let mut page = audit::page(self.store.as_ref(), shard, from).await?;
        let gap = page.forked || page.missed > 0;
        if page.forked {
            // What it has instead was never told, whatever its numbers.
            page = audit::page(self.store.as_ref(), shard, Position::ORIGIN).await?;
        }
        let entries = page.entries.into_iter();
        Ok(News {
            entries: entries
                .map(|(position, entry)| (position, entry.map(Arc::new)))
                .collect(),
            after: page.after,
            more: page.more,
            gap,
            kept: false,
        })
    }

    fn kept_after(&self, shard: ShardId, from: Position) -> Option<Vec<Placed>> {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.get(&shard.number())?.after(from)
    }

    /// Waits until everything that was written before this call was read.
    pub async fn caught_up(&self) -> bool {
        let now = self.clock.since_boot();
        let mut rounds = self.rounds.subscribe();
        let read = rounds.wait_for(|began| began.is_some_and(|began| began >= now));
        matches!(tokio::time::timeout(STALE, read).await, Ok(Ok(_)))
    }

    pub fn rounds(&self) -> watch::Receiver<Option<Duration>> {
        self.rounds.subscribe()
    }

    /// Whether what is told is still told in time.
    pub fn is_behind(&self) -> bool {
        let last = *self.rounds.borrow();
        last.is_none_or(|began| self.clock.since_boot().saturating_sub(began) > STALE)
    }

    /// Whose a lease is that a fence names.
    pub async fn owner(&self, lease: LeaseId) -> Result<Option<Owner>, LeaseError> {
        if let Some(known) = self.owners.get(&lease) {
            return Ok(known);
        }
        let owner = self.leases.get(&lease).await?.map(|lease| Owner {
            audience: lease.audience.clone(),
            handed_on: lease.handed_on,
        });
        self.owners.insert(lease, owner.clone());
        Ok(owner)
    }
}

impl Window {
    fn take(&mut self, page: Page) {
        let follows = match page.forked || page.missed > 0 {
            true => None,
            false => Some(self.head.unwrap_or(Position::ORIGIN)),
        };
        // INVARIANT: what is kept follows on, without a hole.
        if page.forked || page.missed > 0 || self.head.is_none() {
            self.places.clear();
            self.recent.clear();
        }
        if self.recent.is_empty() {
            self.begins = follows;
        }
        self.head = Some(page.after);
        for (position, entry) in page.entries {
            self.places.push_back(position);
            self.recent.push_back((position, entry.map(Arc::new)));
        }
        let surplus = self.places.len().saturating_sub(PLACES);
        self.places.drain(..surplus);
        let surplus = self.recent.len().saturating_sub(RECENT);
        if let Some((last, _)) = self.recent.drain(..surplus).next_back() {
            self.begins = Some(last);
        }
    }

    /// INVARIANT: known by its link, not by its number alone. After a failover the same number stands for
    /// another entry, and what the store has instead of what was told before it would never be told, nor that
    /// anything is missing.
    fn after(&self, from: Position) -> Option<Vec<Placed>> {
        // Read from the store, and further than this reader is.
        let head = self.head?;
        if head == from || head.sequence < from.sequence {
            return Some(Vec::new());
        }
        let is_it = |(position, _): &Placed| *position == from;
        let begin = match self.recent.iter().position(is_it) {
            Some(last) => last + 1,
            None if self.begins == Some(from) => 0,
            None => return None,
        };
        Some(self.recent.iter().skip(begin).cloned().collect())
    }
}

impl Seat {
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self
            .hub
            .seats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        seats.taken = seats.taken.saturating_sub(1);
        if let Some(own) = seats.of.get_mut(&self.whose) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                seats.of.remove(&self.whose);
            }
        }
        drop(seats);
        metrics::gauge!(crate::telemetry::metric::LISTENERS).decrement(1.0);
    }
}

#[cfg(test)]
mod tests;
