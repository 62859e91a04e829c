//! What became of a revocation: its receipt, asked for at any time, and one entry of the audit once all
//! that it ended is confirmed dead.
//!
//! A receipt is written with the fence, and looked at again by every replica until there is nothing more to
//! wait for. Whoever's guarded commit is written says so.

use super::revoke::Coverage;
use super::{Broker, Reason, Refusal};
use crate::audit::{Entry, Event};
use crate::fences::{DimensionKind, Fence, FenceKind, Raised, Weight};
use crate::ids::ShardId;
use crate::steps::{self, Step};
use crate::store::{
    CommitId, Guard, Index, Key, Link, MAX_RANK, Outcome, Position, Record, Transaction, Write,
    settle,
};
use crate::telemetry::metric;
use crate::wire::{RevocationReceipt, RevocationState, Selector};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const DEADLINE: Duration = Duration::seconds(10);
const KEPT: Duration = Duration::days(90);
const EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// Until a receipt is looked at for the first time, and at most between two looks.
const FIRST: Duration = Duration::SECOND;
const LONGEST: Duration = Duration::seconds(30);
/// Receipts looked at in one round.
const BATCH: usize = 64;

/// What a receipt is rebuilt from.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    fence: Fence,
    position: u64,
    /// With the number, its place on the log.
    #[serde(default)]
    link: Option<ByteArray<20>>,
    replicated: bool,
    selector: Selector,
    /// What it covered when it was written, by how it can die.
    #[serde(default)]
    covered: BTreeMap<String, u64>,
    /// How often it was looked at.
    #[serde(default)]
    looked: u32,
}

impl Recorded {
    fn place(&self) -> Option<Position> {
        Some(Position {
            sequence: self.position,
            link: Link(self.link?.into_array()),
        })
    }

    fn moves_to(&mut self, place: Position) {
        self.position = place.sequence;
        self.link = Some(ByteArray::new(place.link.0));
    }

    /// Whether there is something to wait for, and to tell.
    fn ends(&self) -> bool {
        match self.fence.kind {
            FenceKind::Kill => true,
            FenceKind::Hold => self.fence.weight > Weight::Review,
            FenceKind::Register => self.fence.dimension.kind == DimensionKind::Agent,
            FenceKind::Lift | FenceKind::Restrict | FenceKind::Configure => false,
        }
    }

    fn put(&self) -> Result<Write, Refusal> {
        let value = serde_json::to_vec(self)
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        Ok(Write::Put {
            key: key(self.fence.id),
            value,
            expires_at: Some(self.fence.at + KEPT),
        })
    }

    /// When it is looked at next.
    fn next(&self, now: OffsetDateTime) -> Write {
        let pause = FIRST * 2_i32.saturating_pow(self.looked.min(16));
        Write::Rank {
            index: waiting(),
            member: self.fence.id.as_bytes().to_vec(),
            rank: milliseconds(now + pause.min(LONGEST)),
        }
    }

    fn confirmed(&self, state: RevocationState, left: &Coverage, now: OffsetDateTime) -> Entry {
        let (fence, on) = (&self.fence, &self.fence.dimension);
        let all: u64 = self.covered.values().sum();
        let (code, why) = match state {
            RevocationState::ConfirmedExceptExpiry => (
                "confirmed_except_expiry",
                format!(
                    "{} of {all} credentials of {} {} cannot be ended and die of age; the others are dead",
                    left.until_expiry,
                    on.kind.as_str(),
                    on.value
                ),
            ),
            _ => (
                "confirmed",
                format!(
                    "all credentials of {} {} are dead: {all} when it was revoked",
                    on.kind.as_str(),
                    on.value
                ),
            ),
        };
        let mut entry = Entry::new(Event::RevocationConfirmed, now)
            .reason(code)
            .with("fence", fence.id.to_string())
            .with("dimension", on.kind.as_str())
            .with("value", on.value.as_str())
            .with("leases", serde_json::json!(self.covered))
            .with("until_expiry", left.until_expiry)
            .with("seconds", (now - fence.at).whole_seconds())
            .with("why", why);
        let value = on.value.as_str();
        entry = match on.kind {
            DimensionKind::Agent => entry.agent(value),
            DimensionKind::Mission => entry.mission(value),
            DimensionKind::Target => entry.target(value),
            DimensionKind::Lease => entry.lease(value),
            _ => entry,
        };
        match fence.rule {
            Some(_) => entry.with("by", fence.author.as_str()),
            None => entry.operator(fence.author.as_str()),
        }
    }
}

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

impl Broker {
    /// What is told of a fence that stands, now and later.
    pub(in crate::broker) async fn receive(
        &self,
        raised: Raised,
        selector: Selector,
        now: OffsetDateTime,
    ) -> Result<RevocationReceipt, Refusal> {
        let coverage = self.covered(&raised.fence.dimension, now).await?;
        // Counting may have taken longer than a commit may.
        let now = self.clock.now();
        let mut recorded = Recorded {
            fence: raised.fence,
            position: 0,
            link: None,
            replicated: raised.replicated,
            selector,
            covered: coverage.by_class.clone(),
            looked: 0,
        };
        recorded.moves_to(raised.position);
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(Guard::Absent(key(recorded.fence.id)))
            .write(recorded.put()?);
        let done = recorded.replicated && recorded.covered.is_empty();
        if recorded.ends() && !done {
            transaction = transaction.write(recorded.next(now));
        }
        steps::at(Step::ReceiptWriting);
        let outcome = self.store.commit(transaction).await?;
        steps::at(Step::ReceiptWritten);
        match outcome {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => {}
            refused => {
                return Err(
                    Refusal::new(Reason::StoreUnavailable, format!("{refused:?}")).after(1),
                );
            }
        }
        Ok(self.finished(recorded, coverage))
    }

    /// What ended by itself, or beside something else, is followed to its end as what somebody revoked. The fence
    /// stands: where this cannot be written, only that it is done is not told.
    pub(in crate::broker) async fn follow_up(&self, raised: &Raised, selector: Selector) {
        let now = self.clock.now();
        if let Err(refusal) = self.receive(raised.clone(), selector, now).await {
            let why = refusal.detail;
            tracing::warn!(why, "nobody will be told when what was ended is dead");
        }
    }

    /// `GET /admin/v1/revocations/{id}`: how far it is, downstream included.
    pub async fn receipt(&self, id: Uuid) -> Result<RevocationReceipt, Refusal> {
        let found = self.recorded(id).await?;
        let (mut recorded, version) = found
            .ok_or_else(|| Refusal::new(Reason::NotFound, format!("no revocation {id}")).exact())?;
        if !recorded.replicated && self.outlives_a_failover(&mut recorded).await {
            // Once is enough; where it cannot be written down it is asked again.
            let now = self.clock.now();
            let kept = self.keep(&recorded, version, (Vec::new(), now)).await;
            drop(kept);
        }
        let coverage = self
            .covered(&recorded.fence.dimension, self.clock.now())
            .await?;
        Ok(self.finished(recorded, coverage))
    }

    /// One round over the receipts that are due: how many revocations were found to be done.
    pub async fn look_after_receipts(&self) -> Result<u64, Refusal> {
        let now = self.clock.now();
        let due = self
            .store
            .range(&waiting(), -MAX_RANK..=milliseconds(now), BATCH)
            .await?;
        let (mut confirmed, mut failed) = (0, None);
        for one in due {
            match self.look_after_receipt(&one.member, now).await {
                Ok(done) => confirmed += u64::from(done),
                // INVARIANT: what lies behind one that cannot be looked at has its turn all the same.
                Err((refusal, version)) => {
                    self.put_off(&one.member, version, now).await?;
                    failed = Some(refusal);
                }
            }
        }
        failed.map_or(Ok(confirmed), Err)
    }

    /// Whether this one was found to be done. With what is wrong comes what the record was, if it can be told.
    async fn look_after_receipt(
        &self,
        member: &[u8],
        now: OffsetDateTime,
    ) -> Result<bool, (Refusal, Option<CommitId>)> {
        let unread = |refusal: Refusal| (refusal, None);
        let forget = Write::Unrank {
            index: waiting(),
            member: member.to_vec(),
        };
        let record = match Uuid::from_slice(member) {
            Ok(id) => self.stored(id).await.map_err(unread)?,
            Err(_) => None,
        };
        let Some(record) = record else {
            // It is too old to be told of.
            let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
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
        self.look_at(recorded, version, (forget, now))
            .await
            .map_err(of_this)
    }

    /// Behind the others.
    async fn put_off(
        &self,
        member: &[u8],
        version: Option<CommitId>,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
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

    async fn look_at(
        &self,
        mut recorded: Recorded,
        version: CommitId,
        (forget, now): (Write, OffsetDateTime),
    ) -> Result<bool, Refusal> {
        if !recorded.replicated {
            recorded.replicated = self.outlives_a_failover(&mut recorded).await;
        }
        let coverage = self.covered(&recorded.fence.dimension, now).await?;
        let state = self.state(&recorded, &coverage);
        let done = matches!(
            state,
            RevocationState::Confirmed | RevocationState::ConfirmedExceptExpiry
        );
        recorded.looked = recorded.looked.saturating_add(1);
        let tells = done && !recorded.covered.is_empty();
        let writes = if tells {
            let entry = recorded.confirmed(state, &coverage, now);
            vec![forget, entry.append(ShardId::INSTALLATION)]
        } else if done {
            vec![forget]
        } else {
            vec![recorded.next(now)]
        };
        let written = self.keep(&recorded, version, (writes, now)).await?;
        Ok(written && tells)
    }

    async fn recorded(&self, id: Uuid) -> Result<Option<(Recorded, CommitId)>, Refusal> {
        let Some(record) = self.stored(id).await? else {
            return Ok(None);
        };
        Ok(Some((read(&record)?, record.version)))
    }

    async fn stored(&self, id: Uuid) -> Result<Option<Record>, Refusal> {
        let found = self.store.get(&[key(id)]).await?.into_iter().next();
        Ok(found.flatten())
    }

    /// `false`: somebody else was faster, and nothing was written.
    async fn keep(
        &self,
        recorded: &Recorded,
        version: CommitId,
        (writes, now): (Vec<Write>, OffsetDateTime),
    ) -> Result<bool, Refusal> {
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(Guard::Unchanged(key(recorded.fence.id), version))
            .write(recorded.put()?);
        transaction.writes.extend(writes);
        steps::at(Step::ReceiptWriting);
        let outcome = settle(self.store.as_ref(), transaction).await?;
        steps::at(Step::ReceiptWritten);
        Ok(matches!(
            outcome,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        ))
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

    fn state(&self, recorded: &Recorded, coverage: &Coverage) -> RevocationState {
        // What this replica has not read yet it cannot count for ended.
        let is_read = self.fences.last().position().sequence >= recorded.position;
        if !recorded.replicated {
            RevocationState::NotYetReplicated
        } else if recorded.fence.kind == FenceKind::Lift {
            RevocationState::Lifted
        } else if coverage.outstanding > 0 || !is_read {
            RevocationState::Revoking
        } else if coverage.until_expiry > 0 {
            RevocationState::ConfirmedExceptExpiry
        } else {
            RevocationState::Confirmed
        }
    }

    fn finished(&self, recorded: Recorded, coverage: Coverage) -> RevocationReceipt {
        let state = self.state(&recorded, &coverage);
        let holds = match recorded.fence.kind {
            FenceKind::Hold => true,
            // Somebody else's hold may stand on it still.
            FenceKind::Lift => self.view().map_or(true, |view| {
                !view.holds_on(&recorded.fence.dimension).is_empty()
            }),
            _ => false,
        };
        let id = Some(recorded.fence.id);
        let position = Some(recorded.position);
        receipt((id, position), recorded.selector, state, (holds, coverage))
    }
}

pub(in crate::broker) fn receipt(
    (id, position): (Option<Uuid>, Option<u64>),
    selector: Selector,
    state: RevocationState,
    (holds, coverage): (bool, Coverage),
) -> RevocationReceipt {
    RevocationReceipt {
        id,
        selector,
        position,
        state,
        leases: coverage.by_class,
        holds,
        outstanding: coverage.outstanding,
        agents: coverage.agents.into_iter().collect(),
        targets: coverage.targets.into_iter().collect(),
    }
}

fn read(record: &Record) -> Result<Recorded, Refusal> {
    serde_json::from_slice(&record.value)
        .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))
}

fn key(id: Uuid) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"revocation/".as_slice(), id.as_bytes().as_slice()].concat(),
    }
}

/// Receipts by when they are looked at next.
fn waiting() -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("revocations"),
    }
}

fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(MAX_RANK)
}
