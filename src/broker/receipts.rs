//! What became of a revocation: its receipt, asked for at any time, and one entry of the audit once all
//! that it ended is confirmed dead.
//!
//! A receipt is written with the fence, and looked at again by every replica until there is nothing more to
//! wait for. Whoever's guarded commit is written says so.

mod recorded;
mod state;
mod written;

pub(in crate::broker) use state::{ReadTo, receipt};

use super::revoke::Coverage;
use super::{Broker, Reason, Refusal};
use crate::fences::Raised;
use crate::ids::ShardId;
use crate::leases::SweptTo;
use crate::steps::{self, Step};
use crate::store::{CommitId, MAX_RANK, Transaction, Write};
use crate::telemetry::metric;
use crate::wire::{RevocationReceipt, RevocationState, Selector};
use recorded::{Recorded, milliseconds, read, waiting};
use state::is_done;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const DEADLINE: Duration = Duration::seconds(10);
const EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// How long a round may take before those that are left wait for the next one.
const ROUND: Duration = Duration::seconds(10);
/// Receipts looked at in one round.
const BATCH: usize = 64;

/// Looks after receipts in the background for as long as the broker is held.
pub fn start(broker: &Arc<Broker>) {
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(broker) = broker.upgrade() else {
                return;
            };
            if let Err(refusal) = broker.look_after_receipts().await {
                let why = refusal.detail;
                tracing::warn!(
                    why,
                    "what became of revocations is not known now; tried again"
                );
            }
        }
    });
}

/// How often somebody else may be faster.
const TRIES: usize = 8;

impl Broker {
    /// What is told of a fence that stands, now and later. It is in force, whatever goes wrong here.
    ///
    /// INVARIANT: the receipt is written before anything is counted. Counting asks every shard, and may take long;
    /// somebody is told of it in the end, wherever this stops. Behind it, it is written once more: only then is it
    /// worth waiting for replicas, during which what is to be counted would be swept away.
    pub(in crate::broker) async fn receive(
        &self,
        raised: Raised,
        selector: Selector,
    ) -> RevocationReceipt {
        let mut recorded = Recorded::of(raised, selector);
        self.read_to();
        let written = self.write_down(&recorded).await;
        let written = written.inspect_err(|refusal| {
            let why = refusal.detail.as_str();
            tracing::warn!(why, "nobody will be told when what was ended is dead");
        });
        // A marker that was not moved behind the fence says nothing yet, so none is read.
        let counted = self.counted(&recorded, self.clock.now()).await.ok();
        if let Some(coverage) = &counted {
            recorded.counts_first(coverage);
        }
        let mut kept = false;
        if let Ok(version) = written {
            let done = is_done(self.state(&recorded, counted.as_ref(), None));
            let again = self.write_again(&mut recorded, version, done).await;
            kept = again.unwrap_or_else(|refusal| {
                let why = refusal.detail;
                tracing::warn!(why, "what a revocation covers is counted once more, later");
                false
            });
        }
        let id = written.is_ok().then_some(recorded.fence.id);
        let mut receipt = self.finished(id, recorded, counted, None);
        // INVARIANT: what a failover would lose cannot be asked later, and nobody is told that it could.
        if receipt.id.is_some() && !kept {
            receipt.state = RevocationState::NotYetReplicated;
        }
        receipt
    }

    /// What ended by itself, or beside something else, is followed to its end as what somebody revoked.
    pub(in crate::broker) async fn follow_up(&self, raised: &Raised, selector: Selector) {
        drop(self.receive(raised.clone(), selector).await);
    }

    async fn counted(&self, recorded: &Recorded, now: OffsetDateTime) -> Result<Coverage, Refusal> {
        let on = &recorded.fence.dimension;
        let counted = self.covered(on, Some(recorded.position), now).await;
        counted.inspect_err(|refusal| {
            let why = refusal.detail.as_str();
            tracing::warn!(why, "what a revocation covers cannot be counted now");
        })
    }

    /// How far the shards were swept. Read before anything is counted: see [`Self::state`].
    async fn swept_to(&self) -> Option<SweptTo> {
        let swept = self.leases.swept_to().await;
        swept
            .inspect_err(|error| {
                tracing::warn!(%error, "whether revocations are done is not known now; tried again");
            })
            .ok()
    }

    /// The record of a revocation, with what is found of it now.
    ///
    /// INVARIANT: that everybody has read it is written down before it is leant on. What one replica has called
    /// confirmed stays so at every other one, and after a restart.
    async fn up_to_date(&self, id: Uuid) -> Result<Recorded, Refusal> {
        for _ in 0..TRIES {
            let found = self.recorded(id).await?;
            let (mut recorded, version) = found.ok_or_else(|| {
                Refusal::new(Reason::NotFound, format!("no revocation {id}")).exact()
            })?;
            let mut is_news = !recorded.replicated && self.outlives_a_failover(&mut recorded).await;
            is_news |= self.notes_read(&mut recorded);
            if !is_news {
                return Ok(recorded);
            }
            let now = self.clock.now();
            match self.keep(&recorded, version, (Vec::new(), now)).await {
                Ok(true) => return Ok(recorded),
                // Somebody else wrote it meanwhile.
                Ok(false) => {}
                Err(_) => {
                    recorded.read = false;
                    return Ok(recorded);
                }
            }
        }
        Err(Refusal::new(Reason::StoreUnavailable, "it is being written just now").after(1))
    }

    /// `GET /admin/v1/revocations/{id}`: how far it is, downstream included.
    pub async fn receipt(&self, id: Uuid) -> Result<RevocationReceipt, Refusal> {
        let recorded = self.up_to_date(id).await?;
        let swept = if recorded.ends() {
            self.swept_to().await
        } else {
            None
        };
        let counted = self.counted(&recorded, self.clock.now()).await.ok();
        // INVARIANT: behind the counting. What a store says that was replaced meanwhile is true of nothing any more.
        let ends = recorded.ends();
        let is_replaced = ends && !self.fences.all_replicated().await;
        let mut receipt = self.finished(Some(id), recorded, counted, swept);
        if is_replaced && is_done(receipt.state) {
            receipt.state = RevocationState::Revoking;
        }
        Ok(receipt)
    }

    /// One round over the receipts that are due: how many revocations were found to be done.
    pub async fn look_after_receipts(&self) -> Result<u64, Refusal> {
        // However long nobody asks: what was read is noted in time.
        self.read_to();
        let now = self.clock.now();
        let due = self
            .store
            .range(&waiting(), -MAX_RANK..=milliseconds(now), BATCH)
            .await?;
        if due.is_empty() {
            return Ok(0);
        }
        // Once for all of them: what it says is true of a later moment, too.
        let swept = self.swept_to().await;
        let (mut confirmed, mut failed) = (0, None);
        for one in due {
            match self.look_after_receipt(&one.member, swept).await {
                Ok(done) => confirmed += u64::from(done),
                // INVARIANT: what lies behind one that cannot be looked at has its turn all the same.
                Err((refusal, version)) => {
                    self.put_off(&one.member, version).await?;
                    failed = Some(refusal);
                }
            }
            // Counting may take long in a large store. Who is left comes first in the next round.
            if self.clock.now() - now > ROUND {
                break;
            }
        }
        failed.map_or(Ok(confirmed), Err)
    }

    /// Whether this one was found to be done. With what is wrong comes what the record was, if it can be told.
    async fn look_after_receipt(
        &self,
        member: &[u8],
        swept: Option<SweptTo>,
    ) -> Result<bool, (Refusal, Option<CommitId>)> {
        let unread = |refusal: Refusal| (refusal, None);
        let record = match Uuid::from_slice(member) {
            Ok(id) => self.stored(id).await.map_err(unread)?,
            Err(_) => None,
        };
        let Some(record) = record else {
            // It is too old to be told of.
            let forget = Write::Unrank {
                index: waiting(),
                member: member.to_vec(),
            };
            let deadline = self.clock.now() + DEADLINE;
            let transaction = Transaction::new(ShardId::INSTALLATION, deadline)
                .local()
                .revoking()
                .write(forget);
            steps::at(Step::ReceiptWriting);
            let forgotten = self.store.commit(transaction).await;
            steps::at(Step::ReceiptWritten);
            return match forgotten {
                Ok(_) => Ok(false),
                Err(error) => Err(unread(error.into())),
            };
        };
        let version = record.version;
        let of_this = |refusal| (refusal, Some(version));
        let recorded = read(&record).map_err(|refusal| {
            tracing::error!("ALARM: what is remembered of a revocation cannot be read; nobody will be told when it is done");
            metrics::counter!(metric::ALARMS, "kind" => "record_unreadable").increment(1);
            of_this(refusal)
        })?;
        self.look_at(recorded, version, swept)
            .await
            .map_err(of_this)
    }

    async fn look_at(
        &self,
        mut recorded: Recorded,
        version: CommitId,
        swept: Option<SweptTo>,
    ) -> Result<bool, Refusal> {
        if !recorded.replicated {
            recorded.replicated = self.outlives_a_failover(&mut recorded).await;
        }
        self.notes_read(&mut recorded);
        let coverage = self
            .covered(
                &recorded.fence.dimension,
                Some(recorded.position),
                self.clock.now(),
            )
            .await?;
        // INVARIANT: read behind the counting, which may take longer than a commit may.
        let now = self.clock.now();
        recorded.counts(&coverage);
        let state = self.state(&recorded, Some(&coverage), swept);
        let done = is_done(state) && self.fences.all_replicated().await;
        recorded.is_looked_at(self.waits_for_somebody(&recorded, &coverage, swept));
        let tells = done && recorded.tells();
        let writes = if tells {
            let entry = recorded.confirmed(state, &coverage, now);
            vec![recorded.forget(), entry.append(ShardId::INSTALLATION)]
        } else if done {
            vec![recorded.forget()]
        } else {
            vec![recorded.next(now, self.fences.max_age())]
        };
        let written = self.keep(&recorded, version, (writes, now)).await?;
        Ok(written && tells)
    }

    /// A fence that was not on enough replicas when it was raised: whether it is by now.
    async fn outlives_a_failover(&self, recorded: &mut Recorded) -> bool {
        if let Some(place) = recorded.place()
            && self.fences.is_replicated(place).await
        {
            recorded.replicated = true;
            return true;
        }
        // After a failover it may have been put back at another place.
        let place = self.fences.last().place_of(&recorded.fence.id);
        let Some(place) = place.filter(|place| Some(*place) != recorded.place()) else {
            return false;
        };
        if self.fences.is_replicated(place).await {
            recorded.moves_to(place);
            recorded.replicated = true;
        }
        recorded.replicated
    }

    /// Everything that this replica knows to be ended outlives a failover. Otherwise it is in force, and whoever
    /// said so is to say it again.
    ///
    /// SECURITY: whoever is told that it is done forgets it. What was found to be ended already may have been
    /// ended a moment ago, by a fence that a failover would lose.
    pub(in crate::broker) async fn acknowledged(&self) -> Result<(), Refusal> {
        if self.fences.all_replicated().await {
            return Ok(());
        }
        let why = "it is in force here, and not yet on enough replicas of the store";
        Err(Refusal::new(Reason::StoreUnavailable, why).after(1))
    }
}
