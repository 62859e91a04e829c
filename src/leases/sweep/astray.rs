//! What is due and cannot be worked on: records that were changed in the store, or are damaged, or gone.
//!
//! The work is taken from the front of an index. What stays there for ever would hide what lies behind
//! it, so it is put off; it is never taken out, because a credential may be alive.

use super::end::LONGEST_PAUSE;
use super::{ABREAST, Sweeper, Swept};
use crate::audit::{Entry, Event};
use crate::ids::ShardId;
use crate::leases::look::{Found, Seen};
use crate::leases::{DEADLINE, Lease, LeaseError, keys};
use crate::store::{CommitId, Guard, Ranked, Transaction, Write, settle};
use crate::telemetry::metric;
use futures_util::StreamExt;
use std::sync::PoisonError;
use time::OffsetDateTime;

/// Told in the audit by this process, at most; then it may tell some of them again.
const MOST_TOLD: usize = 4096;

/// A member of the index of what is due that leads to no lease, or to one that nothing can be done about.
struct Astray {
    member: Vec<u8>,
    /// The record that was read, if it can be named.
    version: Option<CommitId>,
    why: String,
    /// Somebody has looked, and it is an alarm no more.
    given_up: bool,
}

impl Sweeper {
    /// Does what is due about these. Also answers how many of them had to be put off.
    pub(super) async fn work_through(
        &self,
        shard: ShardId,
        due: Vec<Ranked>,
        now: OffsetDateTime,
    ) -> Result<(Swept, usize), LeaseError> {
        let mut swept = Swept::default();
        let (mut leases, mut astray) = (Vec::new(), Vec::new());
        let behind = self.leases.behind(&due).await?;
        for (ranked, found) in due.into_iter().zip(behind) {
            let (version, why, given_up) = match found {
                Found::Lease(lease) if lease.id.shard() == shard => {
                    leases.push((ranked, lease));
                    continue;
                }
                Found::Lease(_) => (None, "it is on another shard".to_owned(), false),
                Found::Nothing => (None, "there is no record".to_owned(), false),
                Found::Unreadable(error, seen) => {
                    astray.push(self.unreadable(ranked, &error, seen).await?);
                    continue;
                }
            };
            astray.push(Astray {
                member: ranked.member,
                version,
                why,
                given_up,
            });
        }
        let works: Vec<_> = futures_util::stream::iter(leases)
            .map(|(ranked, lease)| async move {
                let since = keys::moment_of(ranked.rank).unwrap_or(now);
                let done = self.work_on(&lease, since, now).await;
                (ranked, lease, done)
            })
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        let mut failed = None;
        for (ranked, lease, done) in works {
            match done {
                Ok(done) => swept.add(done),
                Err(error) if error.is_of_one_lease() => {
                    astray.push(Astray {
                        member: ranked.member,
                        version: Some(lease.version()),
                        why: error.to_string(),
                        given_up: false,
                    });
                }
                Err(error) => failed = Some(error),
            }
        }
        let left_alone = usize::try_from(swept.left_alone).unwrap_or_default();
        let put_off = astray.len() + left_alone;
        let put: Vec<_> = futures_util::stream::iter(astray)
            .map(|astray| self.put_off(shard, astray, now))
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        put.into_iter().collect::<Result<(), _>>()?;
        failed.map_or(Ok((swept, put_off)), Err)
    }

    async fn unreadable(
        &self,
        ranked: Ranked,
        error: &LeaseError,
        seen: Option<Seen>,
    ) -> Result<Astray, LeaseError> {
        let id = keys::split_member(&ranked.member).map(|(id, _)| id);
        let given_up = match id {
            Some(id) => self.leases.is_given_up(&id, seen).await?,
            None => false,
        };
        Ok(Astray {
            member: ranked.member,
            version: seen.map(|seen| seen.version),
            why: error.to_string(),
            given_up,
        })
    }

    /// The leases behind these members of an index of open ones. What cannot be read is due soon.
    ///
    /// SECURITY: a fence that covers it is matched without it. Whoever can read it, another broker or this one once it
    /// has the key again, holds it against the fences then ([`Self::is_doomed`]).
    pub(super) async fn readable(
        &self,
        shard: ShardId,
        members: Vec<Ranked>,
        now: OffsetDateTime,
    ) -> Result<Vec<Lease>, LeaseError> {
        let soon = keys::last_place(now + LONGEST_PAUSE);
        let mut leases = Vec::with_capacity(members.len());
        let behind = self.leases.behind(&members).await?;
        for (ranked, found) in members.into_iter().zip(behind) {
            match found {
                Found::Lease(lease) => leases.push(*lease),
                Found::Unreadable(error, seen) if ranked.rank > soon => {
                    let astray = self.unreadable(ranked, &error, seen).await?;
                    self.put_off(shard, astray, now).await?;
                }
                Found::Unreadable(..) | Found::Nothing => {}
            }
        }
        Ok(leases)
    }

    /// Later in the index, and an alarm each time; in the audit once. What was given up is put off, too: it may be
    /// read again.
    async fn put_off(
        &self,
        shard: ShardId,
        astray: Astray,
        now: OffsetDateTime,
    ) -> Result<(), LeaseError> {
        let id = keys::split_member(&astray.member).map(|(id, _)| id);
        let lease = id.map(|id| id.to_string()).unwrap_or_default();
        let until = now + LONGEST_PAUSE;
        let rank = id.map_or_else(|| keys::first_place(until), |id| keys::place(until, &id));
        let deadline = self.leases.clock.now() + DEADLINE;
        let mut transaction =
            Transaction::new(shard, deadline)
                .local()
                .revoking()
                .write(Write::Rank {
                    index: keys::due(shard),
                    member: astray.member.clone(),
                    rank,
                });
        // Whoever wrote it meanwhile has found the right place for it.
        let here = id.filter(|id| id.shard() == shard);
        if let (Some(version), Some(id)) = (astray.version, here) {
            transaction = transaction.guard(Guard::Unchanged(keys::lease(&id), version));
        }
        if !astray.given_up {
            if self.tells_first(shard, &astray.member) {
                let entry = Entry::new(Event::RecordUnreadable, now)
                    .reason("lease")
                    .with("why", astray.why.as_str());
                let entry = if lease.is_empty() {
                    entry
                } else {
                    entry.lease(lease.as_str())
                };
                transaction = transaction.write(entry.append(shard));
            }
            tracing::error!(
                lease,
                shard = shard.number(),
                why = astray.why,
                "ALARM: a lease that is due cannot be read, and what it stands for may be alive; it is put off"
            );
            metrics::counter!(metric::ALARMS, "kind" => "record_unreadable").increment(1);
        }
        settle(self.leases.store.as_ref(), transaction).await?;
        Ok(())
    }

    fn tells_first(&self, shard: ShardId, member: &[u8]) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST_TOLD {
            told.clear();
        }
        told.insert((shard, member.to_vec()))
    }
}
