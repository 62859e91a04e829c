//! A store with a gate before it: what a test wants late comes late, and what it wants lost is lost.

use async_trait::async_trait;
use dayfly::store::{
    Key, Log, Outcome, Position, Record, Store, StoreError, Tail, Transaction, Write,
};
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

    pub fn open(&self) {
        *self.rules.lock().unwrap() = Rules::default();
    }

    /// How many reads wait before it.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
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
        self.store.get(keys).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let refused = self.rules.lock().unwrap().refused;
        let is_refused = |write: &Write| match write {
            Write::Append { log, .. } => Some(log.name) == refused,
            _ => false,
        };
        if transaction.writes.iter().any(is_refused) {
            return Err(StoreError::Unavailable("a test says so".to_owned()));
        }
        self.store.commit(transaction).await
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
