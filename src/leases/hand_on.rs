//! Handing on: a live lease as the parent of another.
//!
//! A child is covered by whatever covers its parent, the parent's own end included. Views see that
//! at once. Downstreams are told by the sweeper, which follows a fence on one lease straight to its
//! record: so the record says beforehand that there may be children on other shards, and says so on
//! enough replicas: a child lies on another shard, and what it was made for must not be lost alone.

use super::record::Lease;
use super::state::State;
use super::{LeaseError, Leases, Standing};
use crate::fences::View;
use crate::ids::LeaseId;
use crate::intent::Parent;
use crate::steps::{self, Step};
use time::OffsetDateTime;

/// Attempts to write over a record that someone else is writing, too.
const TRIES: usize = 8;

impl Lease {
    /// The lease as a parent, with what it is worth on the view that decides about the child.
    ///
    /// INVARIANT: the view was taken before the lease was read, and the child is decided on it: an
    /// end of the parent is on this view and found here, or later and kills the child by itself.
    pub fn as_parent(&self, token_sha256: [u8; 32], view: &View, now: OffsetDateTime) -> Parent {
        let ended = match Leases::standing(self, view, now) {
            Standing::Live => None,
            Standing::Ended(why) => Some(why.as_str().to_owned()),
            Standing::Fenced(by) => Some(by.reason().to_owned()),
            Standing::Expired => Some("expired".to_owned()),
        };
        Parent {
            lease: self.id,
            agent: self.agent.clone(),
            mission: self.mission.clone(),
            target: self.target.clone(),
            authority: self.authority.clone(),
            expires_at: self.expires_at,
            bound_key: self.bound_key.clone(),
            dimensions: self.dimensions.clone(),
            chain: self.chain.clone(),
            token_sha256,
            ended,
        }
    }
}

impl Leases {
    /// Writes on the parent that it may have children, before there is one. `false`: it is over.
    ///
    /// INVARIANT: guarded by the record as it was read alive. Whoever ends the parent either wrote
    /// first, and this fails, or finds the mark and matches every lease with the end.
    pub async fn hand_on(&self, id: &LeaseId, now: OffsetDateTime) -> Result<bool, LeaseError> {
        for _ in 0..TRIES {
            let Some(lease) = self.get(id).await? else {
                return Ok(false);
            };
            if lease.state != State::Active || now >= lease.expires_at {
                return Ok(false);
            }
            if lease.handed_on {
                if self.is_known_to_be_handed_on(&lease).await? {
                    return Ok(true);
                }
                continue;
            }
            steps::at(Step::ParentMarking);
            let marked = self
                .step(&lease, now, |record| {
                    record.handed_on = true;
                    true
                })
                .await?;
            steps::at(Step::ParentMarked);
            if marked.is_some() {
                self.handed_on.add(*id);
                return Ok(true);
            }
        }
        Err(LeaseError::Contended(*id))
    }

    /// Whoever wrote it may have been told that it was not replicated. `false`: the record was changed meanwhile.
    async fn is_known_to_be_handed_on(&self, lease: &Lease) -> Result<bool, LeaseError> {
        if self.handed_on.has(&lease.id) {
            return Ok(true);
        }
        let read = std::slice::from_ref(lease);
        let replicated = self.are_replicated(lease.id.shard(), read).await?;
        let known = replicated.first().is_some_and(|replicated| *replicated);
        if known {
            self.handed_on.add(lease.id);
        }
        Ok(known)
    }
}
