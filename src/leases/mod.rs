//! Remembers every credential that may exist, from before it is minted until it is proved dead.
//!
//! In: a [`Grant`](crate::policy::Grant). Out: a [`Reserved`] to mint for, then an [`Issued`] to
//! answer with. A lease is written before any downstream call; what ends one is written before it
//! is said. See `docs/leases.md` for the states, the indexes and the sweeper.

mod close;
mod alike;
mod given_up;
mod hand_on;
mod keys;
mod look;
mod notes;
mod open;
mod rebuild;
mod record;
mod replicated;
mod state;
mod status;
mod sweep;
mod swept;
mod watched;

#[cfg(test)]
mod tests;

pub use close::Closing;
pub use given_up::GivenUp;
pub use look::{Blast, Cursor, Filter, LookedUp, Page};
pub use open::{Draft, Issued, Reserved};
pub use rebuild::Remembered;
pub use record::{AtRest, Lease, Record};
pub use state::{Event, State, Why};
pub use status::{Bits, SIZE as STATUS_LIST_SIZE};
pub use sweep::{Backlog, Backlogs, Connectors, Sweeper, Swept, Waiting};
pub use swept::SweptTo;
pub use watched::ReadTo;

use alike::Commons;
use look::Found;
use replicated::HandedOn;

use crate::clock::Clock;
use crate::fences::{EndedBy, FenceError, Stale, View};
use crate::ids::LeaseId;
use crate::secret::{SealError, Sealer};
use crate::store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// From the reservation until no mint may be sent any more.
pub const MINT_WITHIN: Duration = Duration::from_secs(10);

/// After `mint_by`, how long a request that was on its way may still be obeyed downstream.
pub const TOLERANCE: Duration = Duration::from_secs(60);

/// How long a closed lease can still be looked up.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How late a commit may be applied, in store time: longer than two clocks may differ.
const DEADLINE: Duration = Duration::from_secs(45);

/// The leases of the installation.
#[derive(Debug, Clone)]
pub struct Leases {
    store: Arc<dyn Store>,
    sealer: Sealer,
    clock: Arc<dyn Clock>,
    commons: Commons,
    handed_on: HandedOn,
}

/// What a lease is worth at one moment, on one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Live,
    Ended(Why),
    /// A fence covers it, or its decision was lost.
    Fenced(EndedBy),
    Expired,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fences(#[from] FenceError),
    #[error(transparent)]
    Stale(#[from] Stale),
    /// With the kind of the mark that was there already.
    #[error("the {0} was used before: get or sign a new one")]
    Replayed(String),
    #[error("the agent holds {0} live leases, its limit: release some or wait")]
    TooMany(u64),
    #[error("this instance of the agent holds {0} live leases, its limit: release some or wait")]
    TooManyOfInstance(u64),
    #[error("the decision was made on a view that is older than what was swept: decide again")]
    DecideAgain,
    #[error("the place drawn in the status list is taken: draw again")]
    IndexTaken,
    #[error("not replicated in time: nothing was issued")]
    Unreplicated,
    #[error("the store would not take the commit in time: nothing was issued")]
    TooLate,
    #[error("the lease was ended while its credential was being made")]
    Fenced(Box<Lease>),
    #[error("lease {0} is already closed")]
    Closed(LeaseId),
    #[error("lease {0} is changing too fast to be closed: try again")]
    Contended(LeaseId),
    #[error("the record of lease {0} was not written by this installation, or was changed since")]
    Forged(LeaseId),
    #[error("lease {0} can be read: revoke it, and it is ended")]
    Readable(LeaseId),
    #[error("the record of lease {0} does not fit in the store: {1}")]
    Unwritable(LeaseId, String),
    #[error("the target `{0}` does not mint locally: reserve first")]
    NotLocal(String),
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl LeaseError {
    /// What is wrong with one lease, where others may be right.
    pub(crate) fn is_of_one_lease(&self) -> bool {
        matches!(
            self,
            Self::Forged(_)
                | Self::Unwritable(..)
                | Self::Seal(_)
                | Self::Store(StoreError::Corrupt(_) | StoreError::Misuse(_))
        )
    }
}

impl Leases {
    pub fn new(store: Arc<dyn Store>, sealer: Sealer, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            sealer,
            clock,
            commons: Commons::default(),
            handed_on: HandedOn::default(),
        }
    }

    /// For what else must come back unread and unchanged.
    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The lease, if there is or was one, its MAC checked.
    pub async fn get(&self, id: &LeaseId) -> Result<Option<Lease>, LeaseError> {
        Ok(self.get_all(&[*id]).await?.into_iter().next().flatten())
    }

    /// One answer per id, in order.
    pub async fn get_all(&self, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>, LeaseError> {
        let found = self.read(ids).await?.into_iter();
        found
            .map(|found| match found {
                Found::Nothing => Ok(None),
                Found::Lease(lease) => Ok(Some(*lease)),
                Found::Unreadable(error, _) => Err(error),
            })
            .collect()
    }

    /// Whether the lease is alive. The record may be a cached one: what ends a lease is a fence, a
    /// time, or the loss of its decision, and this looks at all three.
    pub fn standing(lease: &Lease, view: &View, now: OffsetDateTime) -> Standing {
        if now >= lease.expires_at {
            return Standing::Expired;
        }
        if let Some(ended) = lease.ended_by(view) {
            return Standing::Fenced(ended);
        }
        match (lease.state, &lease.closing) {
            (State::Active, _) => Standing::Live,
            (_, Some(closing)) => Standing::Ended(closing.why),
            // SECURITY: neither handed out nor ended: nobody may use it.
            (_, None) => Standing::Ended(Why::NeverHandedOut),
        }
    }
}
