//! A clock that is moved by hand and a store that fails where a test says, around real ones.

use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::store::embedded::Embedded;
use crate::store::{
    Finding, Generation, Index, Key, Log, Outcome, Position, Ranked, Record, Store, StoreError,
    Tail, Transaction, Write,
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::collections::{HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Barrier;

/// The machine's clocks, and what was added to them.
#[derive(Debug, Default)]
pub(crate) struct Advanced {
    by_ms: AtomicU64,
}

impl Advanced {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.by_ms
            .fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn by(&self) -> Duration {
        Duration::from_millis(self.by_ms.load(Ordering::SeqCst))
    }
}

impl Clock for Advanced {
    fn now(&self) -> OffsetDateTime {
        SystemClock::new().now() + self.by()
    }

    fn since_boot(&self) -> Duration {
        SystemClock::new().since_boot() + self.by()
    }
}

/// How the process dies at a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The commit never leaves.
    Before,
    /// The commit is applied, and nobody hears of it.
    After,
}

/// A real store on the far end of a line that can break, and that can be pointed elsewhere.
#[derive(Debug)]
pub(crate) struct Line {
    store: ArcSwap<Arc<dyn Store>>,
    commits: AtomicI64,
    /// The commit, counted from 1, at which everything ends. 0: never.
    last: AtomicI64,
    after: AtomicI64,
    dead: AtomicBool,
    /// Answers that come but say that replicas did not acknowledge.
    pub(crate) unreplicated: AtomicI64,
    /// No replica acknowledges what is read of logs.
    pub(crate) unproved: AtomicBool,
    /// Answers to commits that are lost although the commit was applied.
    pub(crate) lose_answers: AtomicI64,
    /// Members of indexes that were read.
    pub(crate) members: AtomicU64,
    /// How far the store's own clock is set forward.
    pub(crate) ahead_ms: AtomicI64,
    /// Met once and once again behind the first reading of an index that finds so many members.
    pub(crate) behind_range: Mutex<Option<(usize, Arc<Barrier>)>>,
    /// The shards of a node that does not answer.
    pub(crate) lost: Mutex<HashSet<ShardId>>,
    /// No commit that writes this is ever taken.
    pub(crate) spoilt: Mutex<Option<Key>>,
    /// A store of this file loses this one of the commits that come, and another one has its place; then the next.
    pub(crate) loses: Mutex<VecDeque<(i64, PathBuf)>>,
}

impl Line {
    pub(crate) fn to(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store: ArcSwap::from_pointee(store),
            commits: AtomicI64::new(0),
            last: AtomicI64::new(0),
            after: AtomicI64::new(0),
            dead: AtomicBool::new(false),
            unreplicated: AtomicI64::new(0),
            unproved: AtomicBool::new(false),
            lose_answers: AtomicI64::new(0),
            members: AtomicU64::new(0),
            ahead_ms: AtomicI64::new(0),
            behind_range: Mutex::default(),
            lost: Mutex::default(),
            spoilt: Mutex::default(),
            loses: Mutex::default(),
        })
    }

    pub(crate) fn die_at(&self, commit: i64, death: Death) {
        self.after
            .store(i64::from(death == Death::After), Ordering::SeqCst);
        self.last.store(
            self.commits.load(Ordering::SeqCst) + commit,
            Ordering::SeqCst,
        );
    }

    pub(crate) fn cut(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.last.store(0, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn commits(&self) -> i64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// A failover: from now on another store answers.
    pub(crate) fn point_to(&self, store: Arc<dyn Store>) {
        self.store.store(Arc::new(store));
    }

    fn line(&self) -> Result<Arc<dyn Store>, StoreError> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the line is cut".to_owned()));
        }
        Ok(Arc::clone(&self.store.load()))
    }
}

impl Line {
    fn to_all(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
    ) -> Result<Arc<dyn Store>, StoreError> {
        let lost = self.lost.lock().unwrap();
        match shards.into_iter().find(|shard| lost.contains(shard)) {
            Some(_) => Err(StoreError::Unavailable("its node is gone".to_owned())),
            None => self.line(),
        }
    }

    /// Whoever has its place has all but the commit that comes now.
    fn heir(&self) -> Option<Arc<dyn Store>> {
        let mut loses = self.loses.lock().unwrap();
        let (left, file) = loses.front_mut()?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        let copy = heir_of(file);
        std::fs::copy(&*file, &copy).unwrap();
        loses.pop_front();
        Some(Arc::new(Embedded::open(&copy).unwrap()))
    }

    fn takes(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let spoilt = self.spoilt.lock().unwrap();
        let hits =
            |write: &Write| matches!(write, Write::Put { key, .. } if Some(key) == spoilt.as_ref());
        if transaction.writes.iter().any(hits) {
            return Err(StoreError::Corrupt("of another kind".to_owned()));
        }
        Ok(())
    }
}

/// The file of whoever has the place of this one.
pub(crate) fn heir_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".heir");
    name.into()
}

fn take(counter: &AtomicI64) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            (left > 0).then_some(left - 1)
        })
        .is_ok()
}

#[async_trait]
impl Store for Line {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let shards = keys.iter().map(|key| key.shard);
        self.to_all(shards)?.get(keys).await
    }

    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.line()?.notes(keys).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let store = self.to_all([transaction.shard])?;
        self.takes(&transaction)?;
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.last.load(Ordering::SeqCst) {
            self.dead.store(true, Ordering::SeqCst);
            if self.after.load(Ordering::SeqCst) == 1 {
                store.commit(transaction).await?;
            }
            return Err(StoreError::Unavailable("the process is dead".to_owned()));
        }
        let heir = self.heir();
        let outcome = store.commit(transaction).await?;
        if let Some(heir) = heir {
            self.point_to(heir);
        }
        if take(&self.lose_answers) {
            return Err(StoreError::Unknown);
        }
        match outcome {
            Outcome::Applied { appended } if take(&self.unreplicated) => {
                Ok(Outcome::Unreplicated { appended })
            }
            outcome => Ok(outcome),
        }
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        let store = self.to_all([index.shard])?;
        let found = store.range(index, ranks, limit).await?;
        self.members.fetch_add(found.len() as u64, Ordering::SeqCst);
        let met = {
            let mut behind = self.behind_range.lock().unwrap();
            behind.take_if(|(members, _)| found.len() >= *members)
        };
        if let Some((_, barrier)) = met {
            barrier.wait().await;
            barrier.wait().await;
        }
        Ok(found)
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let store = self.to_all([log.shard])?;
        let mut tail = store.tail(log, after, limit, wait).await?;
        if let Tail::Entries { store_now, .. } = &mut tail {
            *store_now += time::Duration::milliseconds(self.ahead_ms.load(Ordering::SeqCst));
        }
        if self.unproved.load(Ordering::SeqCst) {
            let why = "0 of 1 replicas acknowledged in time".to_owned();
            let read = Box::new(tail);
            return Err(StoreError::Unproved { why, read });
        }
        Ok(tail)
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        self.line()?.generation(shard).await
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        self.line()?.check().await
    }
}
