//! The task that seals: reads every shard's entries, chains and exports them, signs a checkpoint,
//! and only then lets the store forget them.
//!
//! Every replica runs it, one at a time works: the state in the store is the claim, and whoever
//! wants to advance it must have seen it last.

mod behind;
mod trim;

use self::behind::Behind;
use super::chain::{Chain, FENCES, Run, Sign};
use super::files::FileSink;
use super::seen::Seen;
use super::state::{State, holder, log_of};
use super::{AuditError, log};
use crate::clock::Clock;
use crate::ids::ShardId;
use crate::secret::Sealer;
use crate::steps::{self, Step};
use crate::store::{CommitId, Outcome, Position, Store, StoreError, Tail, settle};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_secs(1);
/// Entries read of a shard at once.
const PAGE: usize = 500;
/// Shards read at the same time.
const READERS: usize = 8;
/// How old what a failover left may be.
const MOST_LOST: Duration = Duration::from_secs(60);
/// Entries that may wait to be sealed. Minting stops at four fifths.
pub const BACKLOG_LIMIT: u64 = 100_000;

/// Seals in the background until [`finish`](Self::finish), or until it is dropped.
pub struct Sealing {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    backlog: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl Shared {
    fn say(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing")
            .field("backlog", &self.backlog())
            .finish_non_exhaustive()
    }
}

impl Sealing {
    /// Must be called within a Tokio runtime. `sign` is given the claims of a checkpoint as JSON
    /// and answers a compact JWS with exactly these claims.
    pub fn start(
        store: Arc<dyn Store>,
        sealer: Sealer,
        clock: Arc<dyn Clock>,
        path: PathBuf,
        sign: Box<Sign>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = watch::channel(false);
        let work = Work {
            shared: Arc::clone(&shared),
            store,
            sealer,
            clock,
            seen: Seen::beside(&path),
            behind: Behind::default(),
            path,
            sign,
            me: holder(),
            held: None,
            written: None,
            accepted: None,
            trimmed: HashMap::new(),
            unread: None,
        };
        let task = tokio::spawn(work.run(stopped));
        Arc::new(Self {
            shared,
            stop,
            task: Mutex::new(Some(task)),
        })
    }

    /// Entries that wait to be sealed, as far as this replica knows.
    pub fn backlog(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    /// `false`: so much waits that the rest of the room belongs to revocation and its audit.
    pub fn may_mint(&self) -> bool {
        self.backlog() < BACKLOG_LIMIT / 5 * 4
    }

    /// Why nothing is sealed at present, if so.
    pub fn fault(&self) -> Option<String> {
        let fault = self.shared.fault.lock();
        fault.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Seals what is there once more, lets go of the claim, and ends.
    pub async fn finish(&self) {
        // The task is gone already when nobody listens.
        let _ = self.stop.send(true);
        let task = self.task.lock();
        let task = task.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the audit was not sealed to the end");
        }
    }
}

impl Drop for Sealing {
    fn drop(&mut self) {
        let task = self.task.lock();
        if let Some(task) = task.unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// What the replica that holds the claim holds.
struct Held {
    sink: FileSink,
    chain: Chain,
    version: CommitId,
    until: OffsetDateTime,
    /// The file goes on where another one stopped, so it must say where it begins.
    open: bool,
}

struct Work {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    sealer: Sealer,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    /// The newest checkpoint that another replica sealed.
    seen: Seen,
    behind: Behind,
    sign: Box<Sign>,
    me: String,
    held: Option<Held>,
    /// What this process itself wrote to its file last.
    written: Option<Chain>,
    /// What the state said of an accepted loss: it stays until a checkpoint names what is lost.
    accepted: Option<u64>,
    trimmed: HashMap<u8, u64>,
    /// Why a shard is left out.
    unread: Option<String>,
}

/// What one look at all shards found.
struct Collected {
    run: Run,
    /// A shard has more.
    more: bool,
    /// How many entries wait after these.
    waiting: u64,
    /// Why a shard was left out.
    unread: Option<String>,
}

/// What one look at a shard found.
struct Looked {
    tail: Tail,
    /// Where reading begins anew when the position is not on the log.
    base: Position,
}

impl Work {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let stopping = *stopped.borrow_and_update();
            let more = match self.round(stopping).await {
                Ok(more) => {
                    self.shared.say(self.unread.take());
                    more
                }
                Err(error) => {
                    tracing::error!(%error, "the audit is not sealed");
                    self.shared.say(Some(error.to_string()));
                    self.held = None;
                    self.measure().await;
                    false
                }
            };
            if stopping && !more {
                return;
            }
            if more {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                changed = stopped.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One round. `true`: more is waiting.
    async fn round(&mut self, stopping: bool) -> Result<bool, AuditError> {
        if self.held.is_none() && !self.claim().await? {
            return Ok(false);
        }
        let Some(mut held) = self.held.take() else {
            return Ok(false);
        };
        if held.open || held.sink.is_new() {
            let mut run = Run::after(held.chain.clone());
            run.checkpoint(true, self.clock.now(), &self.sign)
                .map_err(AuditError::Sign)?;
            // It names no loss yet.
            self.accepted = self.accepted.map(|_| run.chain.checkpoint);
            let Some(opened) = self.export(held, run, false).await? else {
                return Ok(false);
            };
            held = opened;
            held.open = false;
        }
        let Collected {
            mut run,
            more,
            waiting,
            unread,
        } = self.collect(&held.chain).await?;
        self.shared.backlog.store(waiting, Ordering::Relaxed);
        self.unread = unread;
        let due = held.until - self.clock.now() < State::LEASE / 2;
        if !run.is_empty() {
            run.checkpoint(false, self.clock.now(), &self.sign)
                .map_err(AuditError::Sign)?;
            self.accepted = None;
        }
        if !run.bytes.is_empty() || due || stopping {
            let Some(exported) = self.export(held, run, stopping && !more).await? else {
                return Ok(false);
            };
            held = exported;
            self.trim(&held.chain).await?;
            held.sink.turn_over(held.chain.checkpoint)?;
        }
        self.held = (!stopping || more).then_some(held);
        Ok(more)
    }

    /// Takes the claim if nobody holds it. Answers whether it is ours.
    async fn claim(&mut self) -> Result<bool, AuditError> {
        let now = self.clock.now();
        let found = State::read(self.store.as_ref(), &self.sealer).await?;
        if let Some((state, _)) = &found
            && state.holder != self.me
            && state.is_claimed(now)
        {
            self.shared.backlog.store(state.backlog, Ordering::Relaxed);
            self.seen.note(state.chain.checkpoint, now);
            self.behind.saw(state);
            return Ok(false);
        }
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || FileSink::open(&path)).await;
        let (sink, exported) = opened
            .map_err(|error| AuditError::write(&self.path, std::io::Error::other(error)))??;
        let (state, version) = found.unzip();
        let accepted = state.as_ref().is_some_and(State::is_accepted);
        let Some(chain) = self.goes_on(state.as_ref(), exported.clone())? else {
            return Ok(false);
        };
        self.accepted = accepted.then_some(chain.checkpoint);
        let open = exported.as_ref() != Some(&chain);
        let mut state = State::new(
            &self.me,
            &chain,
            self.shared.backlog.load(Ordering::Relaxed),
            now,
        );
        state.accepted = self.accepted;
        let transaction = state.write(&self.sealer, version, now)?;
        let (id, until) = (transaction.id, state.until);
        steps::at(Step::SealClaiming);
        let outcome = settle(self.store.as_ref(), transaction).await?;
        steps::at(Step::SealClaimed);
        if !is_applied(&outcome) {
            return Ok(false);
        }
        self.behind.saw(&state);
        self.held = Some(Held {
            sink,
            chain,
            version: id,
            until,
            open,
        });
        Ok(true)
    }

    /// Puts a run on the disk, then into the state. `None`: another replica has the claim, and
    /// the run was taken back.
    async fn export(
        &mut self,
        mut held: Held,
        run: Run,
        release: bool,
    ) -> Result<Option<Held>, AuditError> {
        let length = run.bytes.len() as u64;
        if length > 0 {
            steps::at(Step::Exporting);
            let bytes = run.bytes;
            let appended = tokio::task::spawn_blocking(move || {
                held.sink.append(&bytes)?;
                Ok::<_, AuditError>(held)
            });
            held = appended
                .await
                .map_err(|error| AuditError::write(&self.path, std::io::Error::other(error)))??;
            self.written = Some(run.chain.clone());
            steps::at(Step::Exported);
        }
        let now = self.clock.now();
        let backlog = self.shared.backlog.load(Ordering::Relaxed);
        let mut state = State::new(&self.me, &run.chain, backlog, now);
        if release {
            state.until = now;
        }
        // INVARIANT: the state advances after the file is on the disk and before anything is
        // trimmed; a crash between leaves the file one checkpoint ahead, which `reconcile` knows.
        state.accepted = self.accepted;
        let transaction = state.write(&self.sealer, Some(held.version), now)?;
        let version = transaction.id;
        let outcome = settle(self.store.as_ref(), transaction).await?;
        if length > 0 {
            steps::at(Step::Sealed);
        }
        if is_applied(&outcome) {
            self.behind.saw(&state);
            held.chain = run.chain;
            held.version = version;
            held.until = state.until;
            return Ok(Some(held));
        }
        held.sink.retract(length)?;
        self.written = self.written.take().map(|_| held.chain);
        Ok(None)
    }

    async fn look(&self, shard: ShardId, after: Position) -> (ShardId, Result<Looked, StoreError>) {
        (shard, self.look_behind(shard, after).await)
    }

    async fn look_behind(&self, shard: ShardId, after: Position) -> Result<Looked, StoreError> {
        let log = log(shard);
        let tail = self.store.tail(&log, after, PAGE, Duration::ZERO).await?;
        let base = match &tail {
            Tail::Entries { .. } => after,
            Tail::Trimmed { oldest } => *oldest,
            Tail::Forked { .. } => {
                let origin = Position::ORIGIN;
                match self.store.tail(&log, origin, 1, Duration::ZERO).await? {
                    Tail::Trimmed { oldest } => oldest,
                    _ => origin,
                }
            }
        };
        Ok(Looked { tail, base })
    }

    fn looks<'a>(
        &'a self,
        chain: &'a Chain,
    ) -> impl futures_util::Stream<Item = (ShardId, Result<Looked, StoreError>)> + 'a {
        let shards = ShardId::all().chain([ShardId::INSTALLATION]);
        let looks = shards.map(|shard| self.look(shard, chain.head(shard.number()).position));
        futures_util::stream::iter(looks).buffered(READERS)
    }

    /// The lines behind a chain. A shard that cannot be read keeps no other one waiting: it stays where it is.
    async fn collect(&self, chain: &Chain) -> Result<Collected, AuditError> {
        let mut run = Run::after(chain.clone());
        let (mut more, mut waiting) = (false, 0);
        let mut unread = None;
        let mut looks = std::pin::pin!(self.looks(chain));
        while let Some((shard, looked)) = looks.next().await {
            let number = shard.number();
            let Looked { tail, base } = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::error!(shard = number, %error, "a shard's audit is not sealed");
                    unread = Some(format!(
                        "the audit of shard {number} is not sealed: {error}"
                    ));
                    continue;
                }
            };
            let head = match tail {
                Tail::Entries { entries, head, .. } => {
                    for entry in &entries {
                        run.entry(number, entry)?;
                    }
                    more |= entries.len() == PAGE;
                    head
                }
                Tail::Forked { head } | Tail::Trimmed { oldest: head } => {
                    tracing::error!(
                        shard = number,
                        sealed = chain.head(number).position.sequence,
                        found = head.sequence,
                        "the store lost sealed entries: a segment break is written"
                    );
                    run.segment_break(number, head, base, self.clock.now())?;
                    more = true;
                    head
                }
            };
            let sealed = run.chain.head(number).position.sequence;
            waiting += head.sequence.saturating_sub(sealed);
        }
        run.fences(self.fence_head(chain).await?)?;
        Ok(Collected {
            run,
            more,
            waiting,
            unread,
        })
    }

    async fn fence_head(&self, chain: &Chain) -> Result<Position, StoreError> {
        let log = log_of(FENCES);
        let mut known = chain.head(FENCES).position;
        loop {
            match self.store.tail(&log, known, 1, Duration::ZERO).await? {
                Tail::Entries { head, .. } => return Ok(head),
                Tail::Trimmed { oldest } => known = oldest,
                // Replicas that run put back what they had read; who starts on it has asked before.
                Tail::Forked { head } => {
                    tracing::error!(
                        sealed = known.sequence,
                        found = head.sequence,
                        "the store lost sealed entries of the fence log"
                    );
                    return Ok(head);
                }
            }
        }
    }

    /// After a failure: how much waits all the same.
    async fn measure(&self) {
        let Ok(state) = State::read(self.store.as_ref(), &self.sealer).await else {
            return;
        };
        let chain = state.map(|(state, _)| state.chain).unwrap_or_default();
        let mut waiting = 0;
        let mut looks = std::pin::pin!(self.looks(&chain));
        while let Some((shard, looked)) = looks.next().await {
            let Ok(looked) = looked else { continue };
            if let Tail::Entries { head, .. } = looked.tail {
                let sealed = chain.head(shard.number()).position.sequence;
                waiting += head.sequence.saturating_sub(sealed);
            }
        }
        self.shared.backlog.store(waiting, Ordering::Relaxed);
    }
}

fn is_applied(outcome: &Outcome) -> bool {
    // In force on the primary: whether replicas have it yet matters to no reader of the claim.
    matches!(
        outcome,
        Outcome::Applied { .. } | Outcome::Unreplicated { .. }
    )
}
