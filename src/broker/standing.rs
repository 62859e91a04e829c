//! What is remembered of each agent and each mission: one record each, on the shard of the
//! installation, where the fence log is, so that a hold and what it goes by are one commit.

use super::{Broker, Reason, Refusal};
use crate::agents::governance::Record;
use crate::agents::{Stage, Turn};
use crate::audit::{Entry, Event};
use crate::fences::{Dimension, DimensionKind, FenceKind, NewFence, Raised, View};
use crate::ids::ShardId;
use crate::store::{CommitId, Guard, Key, Outcome, Store, StoreError, Transaction, Write, settle};
use crate::wire::Subject;
use time::{Duration, OffsetDateTime};

/// Attempts to write over a record that someone else is writing, too.
pub(in crate::broker) const TRIES: usize = 8;

/// A record with what guards its change.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Found {
    pub record: Record,
    version: Option<CommitId>,
    key: Key,
}

impl Found {
    /// Nobody has seen it before.
    pub fn is_new(&self) -> bool {
        self.version.is_none()
    }

    pub fn guard(&self) -> Guard {
        match self.version {
            Some(version) => Guard::Unchanged(self.key.clone(), version),
            None => Guard::Absent(self.key.clone()),
        }
    }

    pub fn put(&self) -> Result<Write, StoreError> {
        let value = rmp_serde::to_vec_named(&self.record)
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok(Write::Put {
            key: self.key.clone(),
            value,
            expires_at: None,
        })
    }

    /// Writes it with an entry in the same commit. `false`: somebody else was faster.
    pub async fn save(
        &mut self,
        store: &dyn Store,
        entry: Option<Entry>,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let shard = ShardId::INSTALLATION;
        let mut transaction = Transaction::new(shard, now + Duration::seconds(10))
            .local()
            .revoking()
            .guard(self.guard())
            .write(self.put()?);
        if let Some(entry) = entry {
            transaction = transaction.write(entry.append(shard));
        }
        let id = transaction.id;
        Ok(match settle(store, transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => {
                self.version = Some(id);
                true
            }
            Outcome::Conflict { .. } | Outcome::TooLate => false,
        })
    }
}

/// The records of these, in their order; new ones where there are none.
pub(in crate::broker) async fn remembered(
    store: &dyn Store,
    subjects: &[Subject],
    now: OffsetDateTime,
) -> Result<Vec<Found>, StoreError> {
    let keys: Vec<Key> = subjects.iter().map(key).collect();
    let records = store.get(&keys).await?;
    keys.into_iter()
        .zip(records)
        .map(|(key, stored)| {
            let Some(stored) = stored else {
                let record = Record::new(now);
                return Ok(Found {
                    record,
                    version: None,
                    key,
                });
            };
            let record = rmp_serde::from_slice(&stored.value)
                .map_err(|error| StoreError::Corrupt(format!("a governed record: {error}")))?;
            Ok(Found {
                record,
                version: Some(stored.version),
                key,
            })
        })
        .collect()
}

fn key(subject: &Subject) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: format!("governed/{subject}").into_bytes(),
    }
}

pub(in crate::broker) fn dimension(subject: &Subject) -> Dimension {
    match subject {
        Subject::Agent(id) => Dimension::new(DimensionKind::Agent, id.as_str()),
        Subject::Mission(id) => Dimension::new(DimensionKind::Mission, id.as_str()),
    }
}

/// By its own hold alone: what stands on its owner is its owner's.
pub(in crate::broker) fn stage(subject: &Subject, view: &View) -> Stage {
    let held = view.held(&[dimension(subject).hash()]);
    Stage::of(held.map(|hold| hold.weight))
}

pub(in crate::broker) fn entry(event: Event, subject: &Subject, now: OffsetDateTime) -> Entry {
    let entry = Entry::new(event, now);
    match subject {
        Subject::Agent(id) => entry.agent(id.as_str()),
        Subject::Mission(id) => entry.mission(id.as_str()),
    }
}

impl Broker {
    pub(in crate::broker) async fn remember(
        &self,
        subject: &Subject,
        now: OffsetDateTime,
    ) -> Result<Found, Refusal> {
        let found = remembered(self.store.as_ref(), std::slice::from_ref(subject), now).await?;
        let found = found.into_iter().next();
        found.ok_or_else(|| Refusal::new(Reason::Internal, "a store without an answer"))
    }

    /// One commit: the hold or its lift, the record, an entry. `None`: the record has changed
    /// meanwhile, and nothing was written.
    pub(in crate::broker) async fn turn(
        &self,
        (subject, turn): (&Subject, Turn),
        (by, why): (&str, &str),
        found: &Found,
        now: OffsetDateTime,
    ) -> Result<Option<Raised>, Refusal> {
        let (kind, event) = match turn {
            Turn::Resume | Turn::Reinstate => (FenceKind::Lift, Event::Resumed),
            Turn::Reviewed => (FenceKind::Lift, Event::Reviewed),
            Turn::Overdue => (FenceKind::Hold, Event::UnderReview),
            Turn::Suspend | Turn::Dormant | Turn::Drifted => (FenceKind::Hold, Event::Suspended),
            Turn::Retire | Turn::Ended => (FenceKind::Hold, Event::Retired),
        };
        let fence = NewFence::new(kind, dimension(subject), by, why).weight(turn.weight());
        let code = match (turn, &found.record.reviewed) {
            (Turn::Reviewed, Some(reviewed)) => reviewed.decision.as_str(),
            _ => turn.code(),
        };
        let entry = entry(event, subject, now)
            .operator(by)
            .reason(code)
            .with("why", why);
        let writes = vec![found.put()?, entry.append(ShardId::INSTALLATION)];
        let raised = self
            .fences
            .raise_with(fence, vec![found.guard()], writes, now)
            .await?;
        if let Some(raised) = &raised {
            self.record.fenced(&raised.fence);
        }
        Ok(raised)
    }
}
