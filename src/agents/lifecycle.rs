//! The stages of an agent and of a mission, and what leads from one to the next. A stage is the hold
//! that stands on it; this table says which hold may follow which.

use crate::fences::Weight;

/// How an agent or a mission stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Active,
    /// Its review is overdue: nothing new, what is alive lives on.
    UnderReview,
    Suspended,
    Retired,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// An operator says so.
    Suspend,
    Resume,
    Retire,
    /// An admin takes a retirement back.
    Reinstate,
    /// A reviewer keeps or narrows it.
    Reviewed,
    /// The time to review it, with its grace, is over.
    Overdue,
    /// Nobody has used it for too long.
    Dormant,
    /// It asks for what its mission does not allow, again and again.
    Drifted,
    /// Its last day is over.
    Ended,
    /// What is remembered of it was changed in the store.
    Unreadable,
}

impl Stage {
    pub const ALL: [Self; 4] = [
        Self::Active,
        Self::UnderReview,
        Self::Suspended,
        Self::Retired,
    ];

    pub fn of(hold: Option<Weight>) -> Self {
        match hold {
            None => Self::Active,
            Some(Weight::Review) => Self::UnderReview,
            Some(Weight::Suspension) => Self::Suspended,
            Some(Weight::Retirement) => Self::Retired,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::UnderReview => "under_review",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
        }
    }

    /// `None`: this cannot happen to it.
    pub fn after(self, turn: Turn) -> Option<Self> {
        use Stage::{Active, Retired, Suspended, UnderReview};
        match (self, turn) {
            // An operator may always end what is alive; what is retired stays so.
            (Retired, Turn::Suspend | Turn::Retire) => Some(Retired),
            (Retired, Turn::Reinstate) => Some(Active),
            (Retired, _) => None,
            (_, Turn::Retire | Turn::Ended) => Some(Retired),
            (_, Turn::Suspend)
            | (Active | UnderReview, Turn::Dormant | Turn::Drifted | Turn::Unreadable) => {
                Some(Suspended)
            }
            (Active, Turn::Overdue) => Some(UnderReview),
            // A review says that it is still wanted, not that what suspended it is over.
            (Suspended, Turn::Reviewed) => Some(Suspended),
            (Active | UnderReview, Turn::Reviewed) | (Suspended, Turn::Resume) => Some(Active),
            // A review that is overdue is made, not lifted.
            (Active | UnderReview, Turn::Resume) => None,
            (UnderReview | Suspended, Turn::Overdue) => None,
            (Suspended, Turn::Dormant | Turn::Drifted | Turn::Unreadable) => None,
            (Active | UnderReview | Suspended, Turn::Reinstate) => None,
        }
    }
}

impl Turn {
    /// What the audit calls it, where the clock or the broker makes it happen.
    pub fn code(self) -> &'static str {
        match self {
            Self::Suspend => "suspended_by_operator",
            Self::Resume => "resumed",
            Self::Retire => "retired_by_operator",
            Self::Reinstate => "reinstated",
            Self::Reviewed => "reviewed",
            Self::Overdue => "review_overdue",
            Self::Dormant => "dormant",
            Self::Drifted => "drift",
            Self::Ended => "ended",
            Self::Unreadable => "record_unreadable",
        }
    }

    /// The hold that makes it so.
    pub fn weight(self) -> Weight {
        match self {
            Self::Overdue | Self::Reviewed => Weight::Review,
            Self::Suspend | Self::Resume | Self::Dormant | Self::Drifted | Self::Unreadable => {
                Weight::Suspension
            }
            Self::Retire | Self::Reinstate | Self::Ended => Weight::Retirement,
        }
    }
}

#[cfg(test)]
mod tests;
