//! The Redis back end: one Lua call per commit, replicas waited for on a connection of its own.
//!
//! In: settings that name the primary. Out: a store that refuses a server which is not the
//! primary, a shard that came back empty, and an acknowledgement that proves nothing.

mod birth;
mod connection;
mod failure;
mod fitness;
mod script;
mod session;

use crate::ids::ShardId;
use crate::secret::Secret;
use crate::store::{
    Generation, Index, Key, Log, Outcome, Position, Ranked, Record, Store, StoreError, Tail,
    Transaction,
};
use ::redis::Pipeline;
use async_trait::async_trait;
use connection::{Connector, Pool, Shared};
use failure::{twice, unavailable};
use fitness::Info;
use session::{Inner, Lane};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How to reach one Redis primary.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`, with the user and password in it.
    pub url: Secret<String>,
    /// How many replicas must acknowledge whatever lets a credential leave, and every fence.
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
        let connector = Connector::new(&settings)?;
        let mut connection = connector.connect().await?;
        let info = Info::read(&mut connection).await?;
        if let Some(problem) = info.too_old() {
            return Err(StoreError::Unfit(problem));
        }
        if info.replicas() > u64::from(settings.min_replicas) {
            tracing::warn!(
                replicas = info.replicas(),
                min_replicas = settings.min_replicas,
                "a failover may lose acknowledged commits: min_replicas is below the number of replicas"
            );
        }
        let births = birth::attend(&mut connection).await?;
        let inner = Arc::new(Inner {
            settings,
            connector,
            births,
            mint: Lane::of(64),
            revoke: Lane::of(16),
            readers: Shared::default(),
            tails: Pool::of(16),
            full: AtomicBool::new(info.is_nearly_full()),
        });
        let watched = Arc::downgrade(&inner);
        let watching = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(inner) = watched.upgrade() else {
                    return;
                };
                inner.look_at_memory().await;
            }
        });
        Ok(Self { inner, watching })
    }

    /// Gives every shard that lost its data a new birth, and names them. What they held is gone
    /// for good: an operator decides this, and running processes must be started again.
    pub async fn recover(settings: &RedisSettings) -> Result<Vec<ShardId>, StoreError> {
        let mut connection = Connector::new(settings)?.connect().await?;
        birth::recover(&mut connection).await
    }
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
        twice(|| self.inner.get(keys), || {}).await
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
        twice(|| self.inner.range(index, &ranks, limit), || {}).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        let read = || self.inner.tail(log, after, limit, wait);
        twice(read, || self.inner.tails.forget()).await
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("GET").arg(script::birth(shard));
        let found: (Option<Vec<u8>>,) = twice(|| self.inner.query(&pipeline), || {}).await?;
        let bytes = found.0.and_then(|bytes| bytes.try_into().ok());
        Ok(bytes.map(Generation))
    }

    async fn check(&self) -> Result<Vec<String>, StoreError> {
        let mut connection = self.inner.connector.connect().await?;
        fitness::problems(&mut connection, self.inner.settings.min_replicas).await
    }
}

#[cfg(test)]
mod tests;
