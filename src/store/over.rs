//! A store that stands before another one.

use super::{
    Finding, Generation, Index, Key, Log, Outcome, Position, Ranked, Record, Store, StoreError,
    Tail, Transaction,
};
use crate::ids::ShardId;
use async_trait::async_trait;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What it does not say itself is what the one below says.
#[async_trait]
pub trait Over: fmt::Debug + Send + Sync {
    fn below(&self) -> &dyn Store;

    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.below().get(keys).await
    }

    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.below().notes(keys).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.below().commit(transaction).await
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        self.below().range(index, ranks, limit).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        self.below().tail(log, after, limit, wait).await
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        self.below().generation(shard).await
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        self.below().check().await
    }
}

#[async_trait]
impl<T: Over> Store for T {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        Over::get(self, keys).await
    }

    async fn notes(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        Over::notes(self, keys).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        Over::commit(self, transaction).await
    }

    async fn range(
        &self,
        index: &Index,
        ranks: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, StoreError> {
        Over::range(self, index, ranks, limit).await
    }

    async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, StoreError> {
        Over::tail(self, log, after, limit, wait).await
    }

    async fn generation(&self, shard: ShardId) -> Result<Option<Generation>, StoreError> {
        Over::generation(self, shard).await
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        Over::check(self).await
    }
}
