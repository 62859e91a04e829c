//! The states of a lease and every step between them, in one table.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Written; a credential may be in the making.
    Reserved,
    /// Handed out.
    Active,
    /// Must die; not confirmed yet.
    Revoking,
    /// The downstream may have made a credential that reached nobody and that cannot be named.
    /// Open until it cannot live any more.
    Unclaimed,
    /// Its time was up.
    Expired,
    /// Dead, confirmed.
    Revoked,
    /// Its holder or its context was done with it; dead, confirmed.
    Released,
    /// Could not be ended, and has died of age.
    Lapsed,
    /// The downstream said no.
    NeverMinted,
}

/// Why a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its holder or its context is done.
    Released,
    /// Someone says that it must die: this one lease.
    Revoked,
    /// A fence on one of its other dimensions.
    Fenced,
    /// The store lost what it was decided on.
    DecisionLost,
    Expired,
    /// The mint's answer was lost, or nobody came back for the reservation.
    NeverHandedOut,
    /// The target refused to make it.
    MintRefused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The credential is here, its handle sealed, and nothing has ended it.
    Activate,
    /// The credential is here, but it must not be handed out.
    ActivateDead,
    /// The downstream made nothing, for certain.
    Refused,
    /// Nobody knows whether the downstream made something, and the lease id names it there.
    LostNamed,
    /// The same where it has no name: nothing can be done but wait.
    LostUnnamed,
    /// It must die, and a downstream has to be told.
    End,
    /// It must die, and the broker's word is enough.
    EndHere(Why),
    /// Its time is up, and nothing needs telling.
    TimeUp,
    /// The downstream confirmed that it is dead.
    Confirmed(Why),
    /// Past the longest life it could have had.
    Outlived,
}

pub const STATES: [State; 9] = [
    State::Reserved,
    State::Active,
    State::Revoking,
    State::Unclaimed,
    State::Expired,
    State::Revoked,
    State::Released,
    State::Lapsed,
    State::NeverMinted,
];

impl State {
    /// Where an event leads; `None`: it cannot happen in this state.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        use State::{Active, Lapsed, NeverMinted, Reserved, Revoking, Unclaimed};
        match (self, event) {
            (Reserved, Event::Activate) => Some(Active),
            // INVARIANT: a credential that turns up late is recorded and ended, whatever the
            // lease was thought to be: closed leases open again.
            (Active, Event::Activate | Event::ActivateDead) => None,
            (_, Event::Activate | Event::ActivateDead) => Some(Revoking),
            (Reserved, Event::Refused) => Some(NeverMinted),
            (Reserved, Event::LostNamed) => Some(Revoking),
            (Reserved | Revoking, Event::LostUnnamed) => Some(Unclaimed),
            (Reserved | Active, Event::End) => Some(Revoking),
            (Reserved | Active, Event::EndHere(why)) | (Revoking, Event::Confirmed(why)) => {
                Some(Self::closed(why))
            }
            (Active, Event::TimeUp) => Some(Self::Expired),
            (Revoking | Unclaimed, Event::Outlived) => Some(Lapsed),
            _ => None,
        }
    }

    /// Closed, confirmed, for this reason.
    fn closed(why: Why) -> Self {
        match why {
            Why::Released => Self::Released,
            Why::Expired => Self::Expired,
            Why::MintRefused => Self::NeverMinted,
            Why::Revoked | Why::Fenced | Why::DecisionLost | Why::NeverHandedOut => Self::Revoked,
        }
    }

    /// A credential may be alive.
    pub fn is_open(self) -> bool {
        matches!(
            self,
            Self::Reserved | Self::Active | Self::Revoking | Self::Unclaimed
        )
    }

    pub fn parse(text: &str) -> Option<Self> {
        STATES.into_iter().find(|state| state.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Unclaimed => "unclaimed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Released => "released",
            Self::Lapsed => "lapsed",
            Self::NeverMinted => "never_minted",
        }
    }
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Revoked => "revoked",
            Self::Fenced => "fenced",
            Self::DecisionLost => "decision_lost",
            Self::Expired => "expired",
            Self::NeverHandedOut => "never_handed_out",
            Self::MintRefused => "mint_refused",
        }
    }
}
