//! A lease whose record cannot be read, and of which an operator has said that its credential is dead.
//!
//! What it ends: that receipts are kept back for it, and alarms. The record stays, and is as good as before: of
//! what cannot be read nobody is vouched for. See `docs/decisions/0047`.

use super::look::{Found, PAGE, Seen, each};
use super::open::whole_milliseconds;
use super::{DEADLINE, LeaseError, Leases, keys};
use crate::audit::{Entry, Event};
use crate::ids::LeaseId;
use crate::store::{self, Guard, Outcome, Transaction, Write, settle};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::collections::HashSet;
use time::OffsetDateTime;

const MAC_PURPOSE: &str = "lease given up";
/// How often somebody else may be faster.
const TRIES: usize = 3;

/// What was said of it, and by whom. The first word stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    lease: LeaseId,
    pub by: String,
    pub reason: String,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub at: OffsetDateTime,
    /// SHA-256 of the record as it was; of one that the store cannot read, nothing.
    of: ByteArray<32>,
}

/// The mark as it lies in the store: what it says, if it is ours, and what guards its change.
struct Mark {
    says: Option<GivenUp>,
    guard: Guard,
}

fn digest(seen: Option<Seen>) -> ByteArray<32> {
    ByteArray::new(seen.map_or([0; 32], |seen| seen.sha256))
}

impl Leases {
    /// Writes down that nobody waits for this lease any more, and says so in the audit, once. Also answers whether
    /// enough replicas have it: otherwise it is to be said again. `None`: there is no such record.
    ///
    /// SECURITY: of one that can be read it is refused. That one is ended, and then it is known to be dead.
    pub async fn give_up(
        &self,
        id: &LeaseId,
        (by, reason): (&str, &str),
        now: OffsetDateTime,
    ) -> Result<Option<(GivenUp, bool)>, LeaseError> {
        for _ in 0..TRIES {
            let (why, seen) = match self.read(&[*id]).await?.pop() {
                None | Some(Found::Nothing) => return Ok(None),
                Some(Found::Lease(_)) => return Err(LeaseError::Readable(*id)),
                Some(Found::Unreadable(why, seen)) => (why, seen),
            };
            let mark = self.mark_of(id).await?;
            let of = digest(seen);
            let said = mark.says.filter(|said| said.of == of);
            let is_new = said.is_none();
            let given_up = said.unwrap_or_else(|| GivenUp {
                lease: *id,
                by: by.to_owned(),
                reason: reason.to_owned(),
                at: whole_milliseconds(now),
                of,
            });
            let mut transaction = Transaction::new(id.shard(), self.clock.now() + DEADLINE)
                .revoking()
                .guard(mark.guard)
                .write(Write::Put {
                    key: keys::given_up(id),
                    value: self.sealed(&given_up)?,
                    expires_at: None,
                });
            // INVARIANT: said of what was seen. Whoever mends the record meanwhile has the last word.
            if let Some(seen) = seen {
                let unchanged = Guard::Unchanged(keys::lease(id), seen.version);
                transaction = transaction.guard(unchanged);
            }
            if is_new {
                let entry = Entry::new(Event::LeaseGivenUp, now)
                    .operator(by)
                    .lease(id.to_string())
                    .with("said", reason)
                    .with("why", why.to_string());
                transaction = transaction.write(entry.append(id.shard()));
            }
            transaction.writes.extend(self.waited_for(id).await?);
            match settle(self.store.as_ref(), transaction).await? {
                Outcome::Applied { .. } => return Ok(Some((given_up, true))),
                Outcome::Unreplicated { .. } => return Ok(Some((given_up, false))),
                Outcome::Conflict { .. } => {}
                Outcome::TooLate => return Err(LeaseError::TooLate),
            }
        }
        Err(LeaseError::Contended(*id))
    }

    /// Its target is overdue for it no more. Where it is due it stays: it may be read again.
    async fn waited_for(&self, id: &LeaseId) -> Result<Vec<Write>, LeaseError> {
        let mut writes = Vec::new();
        for index in [keys::ending(id.shard()), keys::unclaimed(id.shard())] {
            let mut after = None;
            loop {
                let page = self.members(&index, after.as_ref(), PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some((last.rank, last.member.clone()));
                // INVARIANT: the whole id, and nothing of another lease.
                let its = |member: &[u8]| {
                    keys::split_member(member).is_some_and(|(lease, _)| lease == *id)
                };
                let its = page.into_iter().filter(|ranked| its(&ranked.member));
                writes.extend(its.map(|ranked| Write::Unrank {
                    index: index.clone(),
                    member: ranked.member,
                }));
            }
        }
        Ok(writes)
    }

    /// Which of these, none of which can be read, were given up as they are.
    ///
    /// SECURITY: a mark counts only with a MAC of ours, of this lease, and of the bytes that were seen. Nobody who
    /// writes to the store makes one, moves one to another lease, or has one stand for what was changed since.
    pub(super) async fn given_up(
        &self,
        unreadable: &[(LeaseId, Option<Seen>)],
    ) -> Result<HashSet<LeaseId>, LeaseError> {
        if unreadable.is_empty() {
            return Ok(HashSet::new());
        }
        let marks: Vec<_> = unreadable
            .iter()
            .map(|(id, _)| keys::given_up(id))
            .collect();
        let found = each(self.store.as_ref(), &marks).await?;
        let found = unreadable.iter().zip(found);
        let given_up = found.filter_map(|((id, seen), mark)| {
            let said = self.opened(id, &mark.ok()??)?;
            (said.of == digest(*seen)).then_some(*id)
        });
        Ok(given_up.collect())
    }

    async fn mark_of(&self, id: &LeaseId) -> Result<Mark, LeaseError> {
        let key = keys::given_up(id);
        let found = self.store.get(std::slice::from_ref(&key)).await?;
        Ok(match found.into_iter().next().flatten() {
            Some(record) => Mark {
                says: self.opened(id, &record),
                guard: Guard::Unchanged(key, record.version),
            },
            None => Mark {
                says: None,
                guard: Guard::Absent(key),
            },
        })
    }

    fn opened(&self, id: &LeaseId, record: &store::Record) -> Option<GivenUp> {
        let (body, _) = self.sealer.without_mac(MAC_PURPOSE, &record.value)?;
        let said: GivenUp = rmp_serde::from_slice(body).ok()?;
        (said.lease == *id).then_some(said)
    }

    fn sealed(&self, said: &GivenUp) -> Result<Vec<u8>, LeaseError> {
        let body = rmp_serde::to_vec(said)
            .map_err(|error| LeaseError::Unwritable(said.lease, error.to_string()))?;
        Ok(self.sealer.with_mac(MAC_PURPOSE, &body)?)
    }

    /// The same of one.
    pub(super) async fn is_given_up(
        &self,
        id: &LeaseId,
        seen: Option<Seen>,
    ) -> Result<bool, LeaseError> {
        Ok(self.given_up(&[(*id, seen)]).await?.contains(id))
    }
}
