//! Live leases whose platform can be asked whether what they hang on is over.

use super::look::PAGE;
use super::{Lease, LeaseError, Leases, keys};
use crate::ids::{LeaseId, ShardId};
use time::OffsetDateTime;

/// How far a shard's were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadTo(Option<(i64, Vec<u8>)>);

impl ReadTo {
    /// Before all that were made from this moment on.
    pub fn at(moment: OffsetDateTime) -> Self {
        Self(Some((keys::first_place(moment), Vec::new())))
    }
}

/// The next of a shard's, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Watched {
    /// All of them, also those that were skipped.
    pub found: Vec<LeaseId>,
    pub leases: Vec<Lease>,
    /// There may be more behind this.
    pub next: Option<ReadTo>,
}

impl Leases {
    /// Those behind a place. What is skipped is not read.
    pub async fn watched(
        &self,
        shard: ShardId,
        after: &ReadTo,
        skip: impl Fn(&LeaseId) -> bool,
    ) -> Result<Watched, LeaseError> {
        let index = keys::watched(shard);
        let mut members = self.members(&index, after.0.as_ref(), PAGE).await?;
        let last = members.last().filter(|_| members.len() == PAGE);
        let next = last.map(|last| ReadTo(Some((last.rank, last.member.clone()))));
        let mut found = Vec::with_capacity(members.len());
        members.retain(|one| {
            let id = keys::split_member(&one.member).map(|(id, _)| id);
            found.extend(id);
            id.is_some_and(|id| !skip(&id))
        });
        let leases = self.leases_of(&members).await?.into_iter();
        Ok(Watched {
            found,
            leases: leases.map(|(_, lease)| lease).collect(),
            next,
        })
    }
}
