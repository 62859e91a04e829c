//! The Redis back end: one Lua call per commit, replicas waited for on a connection of its own.
//!
//! In: settings that name the primary, its sentinels or a cluster. Out: a store that refuses a
//! server which is not the primary, a shard that came back empty, and an acknowledgement that proves
//! nothing.

mod address;
mod birth;
mod cluster;
mod connection;
mod failure;
mod fitness;
mod needed;
mod nodes;
mod notes;
mod rights;
mod script;
mod sentinel;
mod session;
mod usage;
mod waiting;

use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::secret::Secret;
use crate::store::{
    Finding, Generation, Index, Key, Log, Outcome, Position, Ranked, Record, Store, StoreError,
    Tail, Transaction,
};
use async_trait::async_trait;
use nodes::Nodes;
use session::Inner;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
pub use usage::{Usage, usage, used_memory};

/// How to reach a Redis primary, or several of them.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://`, `redis+sentinel://` or `redis+cluster://`, `rediss` for TLS, with the user and
    /// password in it.
    pub url: Secret<String>,
    /// How many replicas must acknowledge whatever lets a credential leave, and every fence: so many at least, and each
    /// that sentinels or a cluster may promote.
    pub min_replicas: u32,
    /// PEM of the authorities to trust instead of the system's own.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate, where the server asks for one.
    pub identity: Option<TlsIdentity>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    /// How long replicas may take.
    pub replica_timeout: Duration,
    /// How long a commit whose answer was lost is sent again.
    pub retry_budget: Duration,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    pub certificate: Vec<u8>,
    pub key: Secret<Vec<u8>>,
}

impl RedisSettings {
    pub fn new(url: Secret<String>) -> Self {
        Self {
            url,
            min_replicas: 0,
            ca: None,
            identity: None,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            replica_timeout: Duration::from_millis(500),
            retry_budget: Duration::from_secs(2),
        }
    }
}

/// A store in one Redis primary and its replicas.
pub struct Redis {
    inner: Arc<Inner>,
    watching: tokio::task::JoinHandle<()>,
}

impl Redis {
    /// Connects, and gives birth to a store in which nothing was ever born.
    pub async fn connect(settings: RedisSettings) -> Result<Self, StoreError> {
        let nodes = Nodes::open(&settings).await?;
        fitness::before_use(&nodes).await?;
        let births = birth::attend(&nodes).await?;
        let inner = Arc::new(Inner {
            settings,
            nodes,
            births,
        });
        for node in inner.nodes.all() {
            session::look_at_memory(&node).await;
        }
        let watched = Arc::downgrade(&inner);
        let watching = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(inner) = watched.upgrade() else {
                    return;
                };
                inner.look_after().await;
            }
        });
        Ok(Self { inner, watching })
    }

    /// Gives every shard that lost its data a new birth, and names them. What they held is gone
    /// for good: an operator decides this, and running processes must be started again.
    pub async fn recover(settings: &RedisSettings) -> Result<Vec<ShardId>, StoreError> {
        birth::recover(&Nodes::open(settings).await?).await
    }

    /// What a start would find, without starting and without a trace.
    pub async fn inspect(settings: &RedisSettings) -> Result<Vec<Finding>, StoreError> {
        let nodes = Nodes::open(settings).await?;
        let found = fitness::problems(&nodes).await?;
        // What is not fit need not hold anything that can be read.
        if found.iter().all(|finding| finding.fault.is_advice()) {
            birth::look(&nodes).await?;
        }
        Ok(found)
    }
}

fn shards() -> impl Iterator<Item = ShardId> {
    ShardId::all().chain([ShardId::INSTALLATION])
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("min_replicas", &self.inner.settings.min_replicas)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Redis {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.inner.read(|| self.inner.get(keys)).await
    }

    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let now = SystemClock::new().now();
        self.inner.read(|| self.inner.notes(keys, now)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.inner.commit(&transaction).await
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        self.inner
            .read(|| self.inner.range(index, &ranks, limit))
            .await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        self.inner
            .read(|| self.inner.tail(log, after, limit, wait))
            .await
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        self.inner.read(|| self.inner.generation(shard)).await
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        fitness::problems(&self.inner.nodes).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
