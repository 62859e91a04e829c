//! What is remembered of each agent and each mission: one record each, on the shard of the
//! installation, where the fence log is, so that a hold and what it goes by are one commit.
//!
//! Each stands behind a MAC over its place and its content. One that was changed in the store says nothing:
//! what it governs is held until an operator lifts that, and then it begins anew.

use super::{Broker, Reason, Refusal};
use crate::agents::governance::Record;
use crate::agents::{Stage, Turn};
use crate::audit::{Entry, Event};
use crate::fences::{
    By, Dimension, DimensionKind, FenceKind, Fences, NewFence, Raised, View, Weight,
};
use crate::ids::ShardId;
use crate::secret::Sealer;
use crate::store::{CommitId, Guard, Key, Outcome, Store, StoreError, Transaction, Write, settle};
use crate::wire::{Selector, Subject};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// Attempts to write over a record that someone else is writing, too.
pub(in crate::broker) const TRIES: usize = 8;

/// What the broker calls itself where it acts by a rule of its own.
pub(in crate::broker) const OURSELVES: &str = "dayfly";
const MAC_PURPOSE: &str = "governed";

/// Who makes something turn.
#[derive(Debug)]
pub(in crate::broker) enum Said {
    /// An operator, by name.
    By(String),
    /// The broker itself, by this rule.
    Rule(String),
}

/// A record with what guards its change.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Found {
    pub record: Record,
    version: Option<CommitId>,
    key: Key,
    sealer: Arc<Sealer>,
    /// What is stored is not ours, or damaged: `record` is a new one, and is not written.
    is_foreign: bool,
    /// A sealing key that is to go has authenticated it.
    is_old: bool,
}

impl Found {
    /// Nobody has seen it before.
    pub fn is_new(&self) -> bool {
        self.version.is_none()
    }

    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Written again under the first of the sealing keys, or the others could never go.
    pub fn is_old(&self) -> bool {
        self.is_old
    }

    /// Somebody who may says so: it begins anew.
    pub fn begin_anew(&mut self) {
        self.is_foreign = false;
    }

    pub fn guard(&self) -> Guard {
        match self.version {
            Some(version) => Guard::Unchanged(self.key.clone(), version),
            None => Guard::Absent(self.key.clone()),
        }
    }

    /// SECURITY: nothing for one that is foreign, or what somebody did to it would be gone.
    pub fn put(&self) -> Result<Option<Write>, StoreError> {
        if self.is_foreign {
            return Ok(None);
        }
        let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let body = rmp_serde::to_vec_named(&(&self.key.name, &self.record));
        let body = body.map_err(|error| corrupt(&error))?;
        let value = self.sealer.with_mac(MAC_PURPOSE, &body);
        Ok(Some(Write::Put {
            key: self.key.clone(),
            value: value.map_err(|error| corrupt(&error))?,
            expires_at: None,
        }))
    }

    /// Writes it with an entry in the same commit. `false`: somebody else was faster.
    pub async fn save(
        &mut self,
        store: &dyn Store,
        entry: Option<Entry>,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let shard = ShardId::INSTALLATION;
        let Some(put) = self.put()? else {
            let why = "a governed record was changed in the store: resume what it governs, then it begins anew";
            return Err(StoreError::Corrupt(why.to_owned()));
        };
        let mut transaction = Transaction::new(shard, now + Duration::seconds(10))
            .local()
            .revoking()
            .guard(self.guard())
            .write(put);
        if let Some(entry) = entry {
            transaction = transaction.write(entry.append(shard));
        }
        let id = transaction.id;
        Ok(match settle(store, transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => {
                self.version = Some(id);
                self.is_old = false;
                true
            }
            Outcome::Conflict { .. } | Outcome::TooLate => false,
        })
    }
}

/// The records of these, in their order; new ones where there are none.
pub(in crate::broker) async fn remembered(
    store: &dyn Store,
    sealer: &Arc<Sealer>,
    subjects: &[Subject],
    now: OffsetDateTime,
) -> Result<Vec<Found>, StoreError> {
    let keys: Vec<Key> = subjects.iter().map(key).collect();
    let records = store.get(&keys).await?;
    let found = keys.into_iter().zip(records);
    Ok(found
        .map(|(key, stored)| {
            let read = stored
                .as_ref()
                .map(|stored| read(sealer, &key, &stored.value));
            let (record, is_old) = read.clone().flatten().unwrap_or((Record::new(now), false));
            Found {
                record,
                version: stored.map(|stored| stored.version),
                key,
                sealer: Arc::clone(sealer),
                is_foreign: matches!(read, Some(None)),
                is_old,
            }
        })
        .collect())
}

/// `None`: nobody of ours wrote this here. `true`: with a sealing key that is to go.
fn read(sealer: &Sealer, key: &Key, value: &[u8]) -> Option<(Record, bool)> {
    let (body, is_first) = sealer.without_mac(MAC_PURPOSE, value)?;
    let (place, record): (Vec<u8>, Record) = rmp_serde::from_slice(body).ok()?;
    // SECURITY: another's record has a good MAC, too.
    (place == key.name).then_some((record, !is_first))
}

pub(in crate::broker) fn key(subject: &Subject) -> Key {
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
        let found = remembered(
            self.store.as_ref(),
            &self.sealer,
            std::slice::from_ref(subject),
            now,
        );
        let found = found.await?.into_iter().next();
        found.ok_or_else(|| Refusal::new(Reason::Internal, "a store without an answer"))
    }

    /// One commit: the hold or its lift, the record, an entry. `None`: the record has changed
    /// meanwhile, and nothing was written.
    pub(in crate::broker) async fn turn(
        &self,
        (subject, turn): (&Subject, Turn),
        (by, why): (&Said, &str),
        found: &Found,
        now: OffsetDateTime,
    ) -> Result<Option<Raised>, Refusal> {
        let (kind, event) = match turn {
            Turn::Resume | Turn::Reinstate => (FenceKind::Lift, Event::Resumed),
            Turn::Reviewed => (FenceKind::Lift, Event::Reviewed),
            Turn::Overdue => (FenceKind::Hold, Event::UnderReview),
            Turn::Suspend | Turn::Dormant | Turn::Drifted | Turn::Unreadable => {
                (FenceKind::Hold, Event::Suspended)
            }
            Turn::Retire | Turn::Ended => (FenceKind::Hold, Event::Retired),
        };
        let code = match (turn, &found.record.reviewed) {
            (Turn::Reviewed, Some(reviewed)) => reviewed.decision.as_str(),
            _ => turn.code(),
        };
        let entry = entry(event, subject, now).reason(code).with("why", why);
        let (author, by, entry) = match by {
            Said::By(operator) => (
                operator.as_str(),
                By::Operator,
                entry.operator(operator.as_str()),
            ),
            Said::Rule(rule) => {
                let entry = entry.with("by", OURSELVES).with("rule", rule.as_str());
                (OURSELVES, By::Rule(rule.clone()), entry)
            }
        };
        let fence = NewFence::new(kind, dimension(subject), author, why)
            .weight(turn.weight())
            .by(by);
        let mut writes = vec![entry.append(ShardId::INSTALLATION)];
        writes.extend(found.put()?);
        let mut guards = vec![found.guard()];
        if found.is_foreign() {
            // INVARIANT: the record is left as it is, so what keeps two from raising the same is the log.
            let view = self.view()?;
            if stage(subject, &view).after(turn).is_none() {
                return Ok(None);
            }
            guards.push(Fences::unmoved(&view));
        }
        let raised = self.fences.raise_with(fence, guards, writes, now).await?;
        if let Some(raised) = &raised {
            self.record.fenced(&raised.fence);
            if kind == FenceKind::Hold && turn.weight() > Weight::Review {
                let selector = match subject {
                    Subject::Agent(id) => Selector::Agent(id.clone()),
                    Subject::Mission(id) => Selector::Mission(id.clone()),
                };
                self.follow_up(raised, selector).await;
            }
        }
        Ok(raised)
    }
}
