//! What is written of a receipt, and when it is looked at next.

use super::DEADLINE;
use super::recorded::{LONGEST, Recorded, key, milliseconds, read, waiting};
use crate::broker::{Broker, Reason, Refusal};
use crate::ids::ShardId;
use crate::steps::{self, Step};
use crate::store::{CommitId, Guard, Outcome, Record, Transaction, Write, settle};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// What is covered may take so long to be counted before somebody else looks. It is written again behind the
/// counting, and then it is looked at soon.
const WHILE_COUNTING: Duration = Duration::seconds(30);
/// How often somebody else may be faster.
const TRIES: usize = 3;

impl Broker {
    pub(super) async fn write_down(&self, recorded: &Recorded) -> Result<CommitId, Refusal> {
        let now = self.clock.now();
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .local()
            .revoking()
            .guard(Guard::Absent(key(recorded.fence.id)))
            .write(recorded.put()?);
        if recorded.ends() {
            transaction = transaction.write(recorded.ranked(now + WHILE_COUNTING));
        }
        let version = transaction.id;
        steps::at(Step::ReceiptWriting);
        let outcome = settle(self.store.as_ref(), transaction).await?;
        steps::at(Step::ReceiptWritten);
        match outcome {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(version),
            refused => Err(Refusal::new(Reason::StoreUnavailable, format!("{refused:?}")).after(1)),
        }
    }

    /// Also answers whether enough replicas of the store have it: otherwise a failover may lose it, and nobody can
    /// be asked.
    ///
    /// INVARIANT: somebody may have looked at it meanwhile. What they wrote stands, and so does what was found
    /// first: it is what was covered, and not what was left.
    pub(super) async fn write_again(
        &self,
        recorded: &mut Recorded,
        mut version: CommitId,
        done: bool,
    ) -> Result<bool, Refusal> {
        let next = match (recorded.ends(), done && !recorded.tells()) {
            (true, true) => Some(recorded.forget()),
            (true, false) => Some(recorded.next(self.clock.now(), self.fences.max_age())),
            (false, _) => None,
        };
        let mut writes: Vec<_> = next.into_iter().collect();
        for _ in 0..TRIES {
            // Counting may have taken longer than a commit may.
            let mut transaction = self.again(recorded, version, self.clock.now())?;
            transaction.writes.append(&mut writes);
            steps::at(Step::ReceiptWriting);
            let outcome = settle(self.store.as_ref(), transaction).await?;
            steps::at(Step::ReceiptWritten);
            match outcome {
                Outcome::Applied { .. } => return Ok(true),
                Outcome::Unreplicated { .. } | Outcome::TooLate => return Ok(false),
                Outcome::Conflict { .. } => {}
            }
            let Some((mut theirs, found)) = self.recorded(recorded.fence.id).await? else {
                return Ok(false);
            };
            theirs.covered_at_first(recorded);
            (*recorded, version) = (theirs, found);
        }
        Ok(false)
    }

    /// Behind the others.
    pub(super) async fn put_off(
        &self,
        member: &[u8],
        version: Option<CommitId>,
    ) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .local()
            .revoking()
            .write(Write::Rank {
                index: waiting(),
                member: member.to_vec(),
                rank: milliseconds(now + LONGEST),
            });
        // Whoever wrote it meanwhile may have been done with it.
        if let (Some(version), Ok(id)) = (version, Uuid::from_slice(member)) {
            transaction = transaction.guard(Guard::Unchanged(key(id), version));
        }
        steps::at(Step::ReceiptWriting);
        self.store.commit(transaction).await?;
        steps::at(Step::ReceiptWritten);
        Ok(())
    }

    pub(super) async fn recorded(&self, id: Uuid) -> Result<Option<(Recorded, CommitId)>, Refusal> {
        let Some(record) = self.stored(id).await? else {
            return Ok(None);
        };
        Ok(Some((read(&record)?, record.version)))
    }

    pub(super) async fn stored(&self, id: Uuid) -> Result<Option<Record>, Refusal> {
        let found = self.store.get(&[key(id)]).await?.into_iter().next();
        Ok(found.flatten())
    }

    /// `false`: somebody else was faster, and nothing was written.
    pub(super) async fn keep(
        &self,
        recorded: &Recorded,
        version: CommitId,
        (writes, now): (Vec<Write>, OffsetDateTime),
    ) -> Result<bool, Refusal> {
        let mut transaction = self.again(recorded, version, now)?;
        transaction.writes.extend(writes);
        steps::at(Step::ReceiptWriting);
        let outcome = settle(self.store.as_ref(), transaction).await?;
        steps::at(Step::ReceiptWritten);
        Ok(matches!(
            outcome,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        ))
    }

    fn again(
        &self,
        recorded: &Recorded,
        version: CommitId,
        now: OffsetDateTime,
    ) -> Result<Transaction, Refusal> {
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(Guard::Unchanged(key(recorded.fence.id), version))
            .write(recorded.put()?);
        Ok(transaction)
    }
}
