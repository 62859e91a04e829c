//! Follows the fence log, and says how fresh the view is.

use super::entry::{self, Author};
use super::{Fence, FenceError, View, fork, log, snapshot};
use crate::clock::Clock;
use crate::secret::Sealer;
use crate::store::{LogEntry, Position, Store, StoreError, Tail};
use crate::telemetry::metric;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;

/// Entries read in one go.
pub(super) const PAGE: usize = 512;
/// How often kills and links that nothing can need any more are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
const NEVER: u64 = u64::MAX;

/// This replica's reading of the fence log.
#[derive(Debug)]
pub struct Fences {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sealer: Sealer,
    /// What is stored carries the MAC of a key that is to go.
    renewing: AtomicBool,
    max_age: Duration,
    /// The place that is sealed in the audit: a log without it is none to start on.
    sealed: Mutex<Option<Position>>,
    pub(super) view: ArcSwap<View>,
    /// Held, never across an await, while one view is made out of another.
    folding: Mutex<()>,
    /// Boot time, in microseconds, at which the last tail cycle that reached the head was sent.
    proven: AtomicU64,
    forgot: AtomicU64,
    /// Up to here the log was found on enough replicas.
    replicated: AtomicU64,
    /// Store time minus ours, in milliseconds.
    pub(super) skew: AtomicI64,
    sequence: watch::Sender<u64>,
    /// Counts cycles that proved something.
    cycles: watch::Sender<u64>,
    pub(super) snapshot: Mutex<snapshot::Last>,
}

/// The view is older than the bound: nothing may be decided or answered on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what has been revoked is not known freshly enough; try again")]
pub struct Stale;

/// What a replica's clock and the store's may differ by.
pub const MOST_SKEW: Duration = Duration::from_secs(30);

/// The clocks differ by more than [`MOST_SKEW`]: nothing may be minted, and nothing stopped because its
/// time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this replica's clock and the store's differ by {} s, more than 30 s: set the clock that is wrong (ours is {})",
    seconds.unsigned_abs(),
    if *seconds > 0 { "behind" } else { "ahead" }
)]
pub struct Skewed {
    /// The store's clock minus ours.
    pub seconds: i64,
}

impl Fences {
    /// Loads the log and follows it in the background for as long as the result is held. Stale
    /// until the head was reached once. Needs a running tokio runtime.
    pub fn start(
        store: Arc<dyn Store>,
        sealer: Sealer,
        clock: Arc<dyn Clock>,
        max_age: Duration,
    ) -> Arc<Self> {
        Self::idle(store, sealer, clock, max_age).begin()
    }

    /// The first reading has to find this place.
    ///
    /// SECURITY: the store is asked for it before this log is read. It may be another one by then.
    #[must_use]
    pub fn sealed_at(self, sealed: Option<Position>) -> Self {
        let sealed = Mutex::new(sealed);
        Self { sealed, ..self }
    }

    /// See [`Self::start`].
    pub fn begin(self) -> Arc<Self> {
        let max_age = self.max_age;
        let fences = Arc::new(self);
        let follower = Arc::downgrade(&fences);
        tokio::spawn(async move {
            let wait = max_age / 4;
            let mut healthy = true;
            // Once the last holder is gone there is nobody to follow the log for.
            while let Some(fences) = follower.upgrade() {
                let went = fences.follow(wait).await;
                keep_snapshot(fences);
                match went {
                    Ok(()) => healthy = true,
                    Err(error) => {
                        if std::mem::replace(&mut healthy, false) {
                            tracing::error!(%error, "the fence log cannot be followed; nothing is issued until it can");
                        }
                        tokio::time::sleep(wait.min(Duration::from_millis(100))).await;
                    }
                }
            }
        });
        fences
    }

    /// Follows nothing by itself: the caller drives [`Self::follow`].
    pub fn idle(
        store: Arc<dyn Store>,
        sealer: Sealer,
        clock: Arc<dyn Clock>,
        max_age: Duration,
    ) -> Self {
        Self {
            store,
            clock,
            sealer,
            renewing: AtomicBool::new(false),
            max_age,
            sealed: Mutex::default(),
            view: ArcSwap::from_pointee(View::origin()),
            folding: Mutex::new(()),
            proven: AtomicU64::new(NEVER),
            forgot: AtomicU64::new(0),
            replicated: AtomicU64::new(0),
            skew: AtomicI64::new(0),
            sequence: watch::Sender::new(0),
            cycles: watch::Sender::new(0),
            snapshot: Mutex::default(),
        }
    }

    /// How old a view may be that is vouched for: so much later each replica has read a fence, or refuses.
    pub fn max_age(&self) -> Duration {
        self.max_age
    }

    /// The view to decide on, or nothing: the bound is hard.
    pub fn fresh(&self) -> Result<Arc<View>, Stale> {
        // INVARIANT: freshness is read before the view. The other way round, a view could be read,
        // replaced, and the newer one's proof taken for it.
        match self.age() {
            Some(age) if age <= self.max_age => Ok(self.view.load_full()),
            _ => Err(Stale),
        }
    }

    /// A fresh view of which nothing can be lost: no entry on it that too few replicas acknowledged.
    pub fn proved(&self) -> Result<Arc<View>, Stale> {
        let view = self.fresh()?;
        if self.is_replicated_to(view.position().sequence) {
            return Ok(view);
        }
        Err(Stale)
    }

    /// Up to here nothing of this view can be lost. Nothing in doubt.
    pub fn replicated_to(&self) -> u64 {
        let replicated = self.replicated.load(Ordering::Acquire);
        self.view.load().position().sequence.min(replicated)
    }

    pub(super) fn is_replicated_to(&self, sequence: u64) -> bool {
        sequence <= self.replicated.load(Ordering::Acquire)
    }

    /// Time since the last tail cycle that reached the head was *sent*. `None`: there was none.
    pub fn age(&self) -> Option<Duration> {
        let proven = self.proven.load(Ordering::Acquire);
        (proven != NEVER).then(|| {
            self.clock
                .since_boot()
                .saturating_sub(Duration::from_micros(proven))
        })
    }

    /// The last view, however old: for showing, never for deciding.
    pub fn last(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// SECURITY: leases, tokens and proofs end by this replica's clock, and what another replica wrote is
    /// compared with it. One that is far off may neither mint nor govern; it may revoke.
    pub fn in_time(&self) -> Result<(), Skewed> {
        let skew = self.skew.load(Ordering::Relaxed);
        if u128::from(skew.unsigned_abs()) <= MOST_SKEW.as_millis() {
            return Ok(());
        }
        let seconds = skew / 1000;
        Err(Skewed { seconds })
    }

    /// The earlier of this replica's clock and the store's: for what other replicas are to find due.
    pub fn no_later(&self, now: OffsetDateTime) -> OffsetDateTime {
        let skew = time::Duration::milliseconds(self.skew.load(Ordering::Relaxed));
        now.checked_add(skew.min(time::Duration::ZERO))
            .unwrap_or(now)
    }

    /// The later of this replica's clock and the store's.
    pub fn no_earlier(&self, now: OffsetDateTime) -> OffsetDateTime {
        let skew = time::Duration::milliseconds(self.skew.load(Ordering::Relaxed));
        now.checked_add(skew.max(time::Duration::ZERO))
            .unwrap_or(now)
    }

    /// Tells when the view has moved on, for whoever acts on fences.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    /// A fresh view that has read at least as far as a lease was decided: another replica may have
    /// been ahead of this one. Waits for as long as a view may be old.
    pub async fn reach(&self, sequence: u64) -> Result<Arc<View>, Stale> {
        let mut cycles = self.cycles.subscribe();
        let arrival = async {
            loop {
                if let Ok(view) = self.fresh()
                    && view.position().sequence >= sequence
                {
                    return Ok(view);
                }
                cycles.changed().await.map_err(|_| Stale)?;
            }
        };
        tokio::time::timeout(self.max_age, arrival)
            .await
            .unwrap_or(Err(Stale))
    }

    /// The first fresh view, waited for: the log of a replica that starts is being read.
    pub async fn reach_within(&self, patience: Duration) -> Result<Arc<View>, Stale> {
        let mut cycles = self.cycles.subscribe();
        let followed = async {
            loop {
                if let Ok(view) = self.fresh() {
                    return Ok(view);
                }
                cycles.changed().await.map_err(|_| Stale)?;
            }
        };
        tokio::time::timeout(patience, followed)
            .await
            .unwrap_or(Err(Stale))
    }

    /// One cycle: reads what is new, and proves freshness if that reached the head.
    pub async fn follow(&self, wait: Duration) -> Result<(), FenceError> {
        // INVARIANT: taken before sending. The answer says what the log was like at some moment
        // after this one; anything later would claim more than it proves.
        let sent = self.clock.since_boot();
        let view = self.view.load_full();
        if view.position() == Position::ORIGIN && self.age().is_none() {
            self.load().await?;
            return Ok(());
        }
        let read = self.tail(view.position(), wait).await;
        if let Err(FenceError::Store(StoreError::Unproved { read, .. })) = &read
            && let Tail::Forked { head } = **read
        {
            // Whoever has taken over has nobody who acknowledges. What is raised there has to be in force all the same.
            self.doubt();
            fork::mend(self, &view, head).await?;
        }
        match read? {
            Tail::Entries {
                entries,
                head,
                store_now,
            } => {
                self.absorb(&entries, true)?;
                self.note_time(store_now);
                self.prove(sent, head)
            }
            Tail::Forked { head } => {
                self.doubt();
                fork::mend(self, &view, head).await
            }
            Tail::Trimmed { .. } => {
                self.doubt();
                self.load().await
            }
        }
    }

    /// Starts again from the stored snapshot.
    async fn load(&self) -> Result<(), FenceError> {
        self.take_loaded(snapshot::load(self).await?)?;
        let sent = self.clock.since_boot();
        let mut after = self.view.load().position();
        loop {
            match self.tail(after, Duration::ZERO).await? {
                Tail::Entries {
                    entries,
                    head,
                    store_now,
                } => {
                    self.absorb(&entries, true)?;
                    self.note_time(store_now);
                    after = self.view.load().position();
                    if after.sequence >= head.sequence {
                        return self.prove(sent, head);
                    }
                }
                Tail::Forked { head } => return Err(FenceError::LostForGood(head.sequence)),
                Tail::Trimmed { oldest } => return Err(FenceError::LostForGood(oldest.sequence)),
            }
        }
    }

    /// What lies behind a place.
    ///
    /// Entries that too few replicas acknowledged are folded all the same: whoever wrote them was told that they are in
    /// force, and what a failover loses of them is put back by whoever read them. They prove nothing.
    async fn tail(&self, after: Position, wait: Duration) -> Result<Tail, FenceError> {
        let tail = self.store.tail(&log(), after, PAGE, wait).await;
        if let Err(StoreError::Unproved { read, .. }) = &tail
            && let Tail::Entries { entries, .. } = &**read
        {
            self.absorb(entries, false)?;
        }
        Ok(tail?)
    }

    /// INVARIANT: a view never goes back. Somebody else may have loaded the same and read on since, and an
    /// older view would stand under the proof of what was read.
    pub(super) fn take_loaded(&self, loaded: View) -> Result<(), FenceError> {
        self.replace(|view| {
            let further = view.position().sequence > loaded.position().sequence;
            Ok(if further { view } else { loaded })
        })
    }

    /// Folds entries that follow the view; what it has folded already must be the same entry. `acknowledged`: they, and
    /// all before them, are on enough replicas.
    pub(super) fn absorb(
        &self,
        entries: &[LogEntry],
        acknowledged: bool,
    ) -> Result<(), FenceError> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        self.replace(|mut view| {
            for entry in entries {
                let sequence = entry.position.sequence;
                if sequence > view.position().sequence {
                    let read = self.read(entry)?;
                    self.note_author(&read, sequence);
                    note_twice(&view, &read);
                    view.fold(entry, read)?;
                } else if view.link_at(sequence) != Some(entry.position.link) {
                    return Err(FenceError::Broken(sequence));
                }
            }
            // INVARIANT: before the view is there. Whoever is woken by it finds that it is proved.
            if acknowledged {
                let through = last.position.sequence;
                self.replicated.fetch_max(through, Ordering::AcqRel);
            }
            Ok(view)
        })
    }

    /// What an entry says, and whether it is one of ours.
    pub(super) fn read(&self, entry: &LogEntry) -> Result<(Fence, Author), FenceError> {
        entry::unwrap(&self.sealer, &entry.value, entry.position.sequence)
    }

    fn note_author(&self, (fence, author): &(Fence, Author), sequence: u64) {
        match author {
            Author::Ours => {}
            Author::OursOnce => self.renew(),
            Author::Anybody => {
                let (kind, on) = (fence.kind.as_str(), fence.dimension.kind.as_str());
                tracing::error!(
                    sequence,
                    kind,
                    on,
                    "ALARM: an entry of the fence log was written by no broker of this installation; what it takes away is gone, what it gives back is not given"
                );
                metrics::counter!(metric::ALARMS, "kind" => "record_unreadable").increment(1);
            }
        }
    }

    /// The fold is stored again soon, under the first of the sealing keys.
    pub(super) fn renew(&self) {
        self.renewing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_to_renew(&self) -> bool {
        self.renewing.load(Ordering::Relaxed)
    }

    pub(super) fn renewed(&self) {
        self.renewing.store(false, Ordering::Relaxed);
    }

    pub(super) fn replace(
        &self,
        change: impl FnOnce(View) -> Result<View, FenceError>,
    ) -> Result<(), FenceError> {
        let _alone = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let view = change(View::clone(&self.view.load()))?;
        let sequence = view.position().sequence;
        self.view.store(Arc::new(view));
        self.sequence
            .send_if_modified(|seen| std::mem::replace(seen, sequence) != sequence);
        Ok(())
    }

    fn prove(&self, sent: Duration, head: Position) -> Result<(), FenceError> {
        // A view that went further meanwhile holds fences raised here; the head read is on its chain.
        if self.view.load().knows(head) {
            if let Some(sealed) = self.lacking() {
                return Err(FenceError::LostForGood(sealed.sequence));
            }
            self.replicated.fetch_max(head.sequence, Ordering::AcqRel);
            let micros = u64::try_from(sent.as_micros()).unwrap_or(NEVER);
            self.proven.store(micros, Ordering::Release);
            self.cycles
                .send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }

    /// What is sealed and was not found; asked for until it was found once.
    fn lacking(&self) -> Option<Position> {
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        *sealed = sealed.filter(|sealed| !self.view.load().knows(*sealed));
        *sealed
    }

    pub(super) fn doubt(&self) {
        self.replicated.store(0, Ordering::Release);
        self.proven.store(NEVER, Ordering::Release);
    }

    /// Ends holds whose time has come and forgets what nothing needs, by the slower of two clocks.
    fn note_time(&self, store_now: OffsetDateTime) {
        let ours = self.clock.now();
        let skew = (store_now - ours).whole_milliseconds();
        self.skew
            .store(i64::try_from(skew).unwrap_or(i64::MAX), Ordering::Relaxed);
        metrics::gauge!(metric::CLOCK_SKEW).set((store_now - ours).as_seconds_f64());
        let now = ours.min(store_now);
        let boot = self.clock.since_boot().as_secs();
        let forget = boot >= self.forgot.load(Ordering::Relaxed) + FORGET_EVERY.as_secs();
        if forget {
            self.forgot.store(boot, Ordering::Relaxed);
        }
        if forget || self.view.load().has_ended_holds(now) {
            let _ = self.replace(|mut view| {
                view.drop_ended_holds(now);
                if forget {
                    view.forget(now);
                    view.forget_entries(now, self.replicated.load(Ordering::Relaxed));
                }
                Ok(view)
            });
        }
    }
}

/// Which of the two counts is the same at every replica; whether it is the right one only a person can say.
pub(super) fn note_twice(view: &View, (fence, author): &(Fence, Author)) {
    if matches!(author, Author::Anybody) || !view.contradicts(fence) {
        return;
    }
    let number = fence.names.as_ref().map_or(0, |named| named.number);
    tracing::error!(
        number,
        "ALARM: two changes of the registered agents have one number, after a failover: one of them is undone; see who is registered"
    );
    metrics::counter!(metric::ALARMS, "kind" => "registered_twice").increment(1);
}

#[cfg(test)]
impl Fences {
    pub(crate) async fn store_snapshot_now(&self) {
        snapshot::keep(self).await.unwrap();
    }
}

/// Beside the following, never in its way: a large fold takes a while to write.
fn keep_snapshot(fences: Arc<Fences>) {
    if snapshot::is_due(&fences) {
        tokio::spawn(async move {
            if let Err(error) = snapshot::keep(&fences).await {
                tracing::warn!(%error, "the snapshot of the fences was not written; it is tried again");
            }
        });
    }
}
