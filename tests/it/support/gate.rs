//! A store with a gate before it: what a test wants late comes late, and what it wants lost is lost.

use async_trait::async_trait;
use dayfly::ids::ShardId;
use dayfly::store::{
    Index, Key, Log, Outcome, Position, Ranked, Record, Store, StoreError, Tail, Transaction, Write,
};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
struct Rules {
    /// Reads of a key that begins so wait.
    reads: Option<&'static str>,
    /// What is new on a log is not told.
    tails: bool,
    /// Nothing is written to this log.
    refused: Option<&'static str>,
    /// No record is written whose key begins so.
    unwritten: Option<&'static str>,
    /// What is written of a record whose key begins so is on no replica.
    unreplicated: Option<&'static str>,
    /// Nothing on this shard can be read or written.
    lost: Option<ShardId>,
    /// Records whose key begins so are not written yet.
    writes: Vec<&'static str>,
    /// Readings of the index of this name wait.
    ranges: Option<&'static str>,
    /// The answer that is held, once it is asked for.
    late: Option<Late>,
    /// Whatever answer is held goes on only when this is over.
    is_late: bool,
}

/// One answer, of all that there will be.
#[derive(Debug, Clone, Copy)]
struct Late {
    /// It is about a key that begins so.
    of: &'static str,
    is_read: bool,
    /// How many of the kind come before it.
    before: usize,
}

#[derive(Debug)]
pub struct Gate {
    store: Arc<dyn Store>,
    rules: Mutex<Rules>,
    waiting: AtomicUsize,
}

impl Gate {
    pub fn before(store: &Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            rules: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    pub fn hold_reads(&self, of: &'static str) {
        self.rules.lock().unwrap().reads = Some(of);
    }

    pub fn hold_tails(&self) {
        self.rules.lock().unwrap().tails = true;
    }

    pub fn let_tails(&self) {
        self.rules.lock().unwrap().tails = false;
    }

    pub fn refuse(&self, log: &'static str) {
        self.rules.lock().unwrap().refused = Some(log);
    }

    pub fn refuse_records(&self, of: &'static str) {
        self.rules.lock().unwrap().unwritten = Some(of);
    }

    pub fn replicate_nothing(&self, of: &'static str) {
        self.rules.lock().unwrap().unreplicated = Some(of);
    }

    /// A part of the store does not answer.
    pub fn lose(&self, shard: ShardId) {
        self.rules.lock().unwrap().lost = Some(shard);
    }

    pub fn hold_writes(&self, of: &'static str) {
        self.rules.lock().unwrap().writes.push(of);
    }

    pub fn let_writes(&self, of: &'static str) {
        let mut rules = self.rules.lock().unwrap();
        rules.writes.retain(|held| *held != of);
    }

    pub fn hold_ranges(&self, of: &'static str) {
        self.rules.lock().unwrap().ranges = Some(of);
    }

    /// The next record of this kind is read, and whoever asked hears of it late.
    pub fn hold_next_reading(&self, of: &'static str) {
        self.hold(Late {
            of,
            is_read: true,
            before: 0,
        });
    }

    /// A record of this kind is written, once as many others were, and whoever wrote it hears of it late.
    pub fn hold_writing(&self, of: &'static str, before: usize) {
        self.hold(Late {
            of,
            is_read: false,
            before,
        });
    }

    fn hold(&self, late: Late) {
        let mut rules = self.rules.lock().unwrap();
        rules.late = Some(late);
        rules.is_late = true;
    }

    /// The answer that was held goes on; what else is held stays.
    pub fn answer(&self) {
        let mut rules = self.rules.lock().unwrap();
        rules.late = None;
        rules.is_late = false;
    }

    pub fn open(&self) {
        *self.rules.lock().unwrap() = Rules::default();
    }

    /// How many reads and answers wait before it.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub async fn until_waiting(&self, how_many: usize) {
        super::process::until("something waits at the gate", || async {
            self.waiting() >= how_many
        })
        .await;
    }

    /// Waits, if this is the answer that is to be late.
    async fn late<'a>(&self, is_read: bool, mut keys: impl Iterator<Item = &'a Key>) {
        let is_it = {
            let mut rules = self.rules.lock().unwrap();
            let mine = rules.late.filter(|late| {
                late.is_read == is_read && keys.any(|key| key.name.starts_with(late.of.as_bytes()))
            });
            rules.late = match mine {
                Some(Late { before: 0, .. }) => None,
                Some(late) => Some(Late {
                    before: late.before - 1,
                    ..late
                }),
                None => rules.late,
            };
            mine.is_some_and(|late| late.before == 0)
        };
        if is_it {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.pass(|rules| rules.is_late).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn is_there(&self, mut shards: impl Iterator<Item = ShardId>) -> Result<(), StoreError> {
        let lost = self.rules.lock().unwrap().lost;
        if shards.any(|shard| Some(shard) == lost) {
            return Err(StoreError::Unavailable("a test says so".to_owned()));
        }
        Ok(())
    }

    async fn pass(&self, is_held: impl Fn(&Rules) -> bool) {
        let rules = || self.rules.lock().unwrap().clone();
        while is_held(&rules()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[async_trait]
impl dayfly::store::Over for Gate {
    fn below(&self) -> &dyn Store {
        self.store.as_ref()
    }

    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.is_there(keys.iter().map(|key| key.shard))?;
        let is_held = |rules: &Rules| {
            let begins = |of: &str| keys.iter().any(|key| key.name.starts_with(of.as_bytes()));
            rules.reads.is_some_and(begins)
        };
        let held = is_held(&self.rules.lock().unwrap());
        if held {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.pass(is_held).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        let read = self.store.get(keys).await;
        self.late(true, keys.iter()).await;
        read
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.is_there(std::iter::once(transaction.shard))?;
        let Rules {
            refused, unwritten, ..
        } = self.rules.lock().unwrap().clone();
        let is_refused = |write: &Write| match write {
            Write::Append { log, .. } => Some(log.name) == refused,
            _ => false,
        };
        if transaction.writes.iter().any(is_refused) {
            return Err(StoreError::Unavailable("a test says so".to_owned()));
        }
        let put = |write: &Write| match write {
            Write::Put { key, .. } => Some(key.clone()),
            _ => None,
        };
        let written: Vec<_> = transaction.writes.iter().filter_map(put).collect();
        let begins = |of: &&str| {
            written
                .iter()
                .any(|key| key.name.starts_with(of.as_bytes()))
        };
        if unwritten.as_ref().is_some_and(begins) {
            return Err(StoreError::Unavailable("a test says so".to_owned()));
        }
        let is_held = |rules: &Rules| rules.writes.iter().any(begins);
        let held = is_held(&self.rules.lock().unwrap());
        if held {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.pass(is_held).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        let outcome = self.store.commit(transaction).await;
        self.late(false, written.iter()).await;
        let unreplicated = self.rules.lock().unwrap().unreplicated;
        if let Ok(Outcome::Applied { appended }) = outcome {
            return Ok(match unreplicated.as_ref().is_some_and(begins) {
                true => Outcome::Unreplicated { appended },
                false => Outcome::Applied { appended },
            });
        }
        outcome
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        self.is_there(std::iter::once(index.shard))?;
        let is_held = |rules: &Rules| rules.ranges.is_some_and(|of| index.name == of);
        let held = is_held(&self.rules.lock().unwrap());
        if held {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.pass(is_held).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        self.store.range(index, ranks, limit).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let told = self.store.tail(log, after, limit, wait).await;
        self.pass(|rules| rules.tails).await;
        told
    }
}
