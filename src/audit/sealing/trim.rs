//! What is exported and read is not kept in the store as well.

use super::{AuditError, Work};
use crate::audit::chain::Chain;
use crate::audit::{log, reader};
use crate::ids::ShardId;
use crate::steps::{self, Step};
use crate::store::{Transaction, Write};
use std::time::Duration;

/// Sealed entries of a shard that the store still keeps, for `dayfly audit tail`.
const KEPT: u64 = 256;

impl Work {
    /// Lets the store forget what is on the disk, a good piece at a time.
    pub(super) async fn trim(&mut self, chain: &Chain) -> Result<(), AuditError> {
        let read = reader::kept_for(self.store.as_ref(), self.clock.now()).await?;
        for shard in ShardId::all().chain([ShardId::INSTALLATION]) {
            let number = shard.number();
            // What is not read yet stays as well.
            let sealed = read(shard, chain.head(number).position.sequence);
            let trimmed = self.trimmed.entry(number).or_insert(0);
            if sealed < trimmed.saturating_add(2 * KEPT) {
                continue;
            }
            let through = sealed - KEPT;
            let deadline = self.clock.now() + Duration::from_secs(5);
            let transaction =
                Transaction::new(shard, deadline)
                    .local()
                    .revoking()
                    .write(Write::Trim {
                        log: log(shard),
                        through,
                    });
            steps::at(Step::Trimming);
            let done = self.store.commit(transaction).await;
            steps::at(Step::Trimmed);
            match done {
                Ok(_) => *trimmed = through,
                Err(error) => {
                    tracing::warn!(shard = number, %error, "a shard's sealed entries are not trimmed");
                }
            }
        }
        Ok(())
    }
}
