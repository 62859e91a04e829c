//! How each room's failure becomes a refusal. Exhaustive on purpose: a new failure must choose its
//! reason here before it compiles.

use super::{Reason, Refusal};
use crate::agents::AgentError;
use crate::connectors::ConnectorError;
use crate::fences::{FenceError, Skewed, Stale};
use crate::identity::{DpopFault, EnrolError, IdentityError};
use crate::intent::IntentError;
use crate::jose::KeyringError;
use crate::leases::LeaseError;
use crate::policy::{Denial, Denied};
use crate::replay;
use crate::store::StoreError;

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        let detail = error.to_string();
        let reason = match error {
            IdentityError::Enrolled(error) => return error.into(),
            IdentityError::Missing => Reason::NoProof,
            IdentityError::InvalidClient(_) => Reason::InvalidClient,
            IdentityError::InvalidToken(_) => Reason::InvalidToken,
            IdentityError::InvalidProof(fault) => {
                let reason = match fault {
                    DpopFault::Nonce => Reason::UseDpopNonce,
                    _ => Reason::InvalidDpopProof,
                };
                // Of the proof itself, which whoever sent it has made: nothing is given away.
                return Self::new(reason, error.to_string())
                    .exact()
                    .at(Some(fault.at().to_owned()));
            }
            IdentityError::InvalidAssertion(_) => Reason::InvalidAssertion,
            IdentityError::Unavailable { .. } | IdentityError::Unasked { .. } => {
                return Self::new(Reason::IssuerUnavailable, detail).after(5);
            }
        };
        Self::new(reason, detail)
    }
}

impl From<EnrolError> for Refusal {
    fn from(error: EnrolError) -> Self {
        let detail = error.to_string();
        match error {
            // SECURITY: one face, or the door would tell which tokens and which agents there are.
            EnrolError::Proof(_)
            | EnrolError::UnknownToken
            | EnrolError::Expired(_)
            | EnrolError::Reused { .. } => Self::new(Reason::InvalidClient, detail),
            // The caller is a known agent's, and has to know why its own key does not do.
            EnrolError::OtherKey { .. } => Self::new(Reason::OtherKeyPinned, detail)
                .exact()
                .at(Some("intent".to_owned())),
            EnrolError::TooMany(_) => Self::new(Reason::NotPermitted, detail),
            EnrolError::Store(error) => error.into(),
            EnrolError::Stale(error) => error.into(),
            EnrolError::Unsettled => Self::new(Reason::StoreUnavailable, detail).after(1),
            EnrolError::Forged(_) | EnrolError::Seal(_) => Self::new(Reason::Internal, detail),
        }
    }
}

impl From<IntentError> for Refusal {
    fn from(error: IntentError) -> Self {
        let reason = match &error {
            IntentError::Details(_) => Reason::InvalidAuthorizationDetails,
            IntentError::TwoIntents
            | IntentError::Jose(_)
            | IntentError::Claim(_)
            | IntentError::UnknownSigner
            | IntentError::UnknownKey
            | IntentError::KeyNotProved
            | IntentError::OtherKey
            | IntentError::OtherToken
            | IntentError::NoTokenHash
            | IntentError::NoSubjectHash
            | IntentError::NoCertificate
            | IntentError::OtherActorToken
            | IntentError::NoActorHash
            | IntentError::NotSigned
            | IntentError::OtherMission { .. }
            | IntentError::NotItsAgent { .. }
            | IntentError::NotItsMission { .. }
            | IntentError::MissionNotSigned(_)
            | IntentError::Evidence { .. }
            | IntentError::Contradiction(_) => Reason::InvalidIntent,
            IntentError::Unavailable { .. } => {
                return Self::new(Reason::IssuerUnavailable, error.to_string()).after(5);
            }
        };
        Self::new(reason, error.to_string())
    }
}

impl From<AgentError> for Refusal {
    fn from(error: AgentError) -> Self {
        let detail = error.to_string();
        match error {
            // SECURITY: a face of its own for any of these would tell who is registered.
            AgentError::Unknown
            | AgentError::NotKnownAt { .. }
            | AgentError::OtherClient { .. }
            | AgentError::OtherIntent { .. } => Self::new(Reason::UnknownAgent, detail),
            AgentError::Held { .. } | AgentError::Ended { .. } => {
                Self::new(Reason::AgentNotInStanding, detail)
            }
            AgentError::TooMany { retry_after, .. } => Self::new(Reason::TooManyRequests, detail)
                .exact()
                .after(seconds(retry_after)),
        }
    }
}

impl From<Denied> for Refusal {
    /// Exact from the moment the mission is one of the agent's own: a caller learns about its own
    /// missions and about nothing else.
    fn from(denied: Denied) -> Self {
        let reason = match denied.reason {
            Denial::UnknownMission => Reason::UnknownMission,
            Denial::AmbiguousMission => Reason::AmbiguousMission,
            Denial::MissionEnded => Reason::MissionEnded,
            Denial::SignerNotAccepted => Reason::SignerNotAccepted,
            Denial::SubjectNotAccepted => Reason::SubjectNotAccepted,
            Denial::ActorNotAccepted => Reason::ActorNotAccepted,
            Denial::ParentNotAlive => Reason::ParentNotAlive,
            Denial::ParentKeyNotProved => Reason::ParentKeyNotProved,
            Denial::ChainTooDeep => Reason::ChainTooDeep,
            Denial::UnknownTarget => Reason::UnknownTarget,
            Denial::InvalidAuthorizationDetails => Reason::InvalidAuthorizationDetails,
            Denial::ExceedsIntent => Reason::ExceedsIntent,
            Denial::ExceedsMission => Reason::ExceedsMission,
            Denial::ExceedsAgentCeiling => Reason::ExceedsAgentCeiling,
            Denial::ExceedsTargetCeiling => Reason::ExceedsTargetCeiling,
            Denial::ExceedsPeopleCeiling => Reason::ExceedsPeopleCeiling,
            Denial::ExceedsParent => Reason::ExceedsParent,
            Denial::Restricted => Reason::Restricted,
            Denial::Undecidable => Reason::Undecidable,
            Denial::LifetimeOutOfRange => Reason::LifetimeOutOfRange,
            Denial::RequirementUnmet => Reason::RequirementUnmet,
            Denial::CredentialNotBindable => Reason::CredentialNotBindable,
            Denial::ConditionUnmet => Reason::ConditionUnmet,
            Denial::ForbiddenByPolicy => Reason::ForbiddenByPolicy,
            Denial::TetherMissing => Reason::TetherMissing,
            Denial::Held => Reason::Held,
            Denial::ApprovalRequired => Reason::ApprovalRequired,
        };
        let exact = denied.mission.is_some() || denied.reason == Denial::AmbiguousMission;
        let mut refusal = Self::new(reason, denied.detail).at(denied.at);
        refusal.mission = denied.mission;
        if exact { refusal.exact() } else { refusal }
    }
}

impl From<ConnectorError> for Refusal {
    fn from(error: ConnectorError) -> Self {
        let detail = error.to_string();
        match error {
            ConnectorError::Refused(_) => Self::new(Reason::TargetRefused, detail),
            ConnectorError::Inexpressible(_) => Self::new(Reason::TargetInexpressible, detail),
            ConnectorError::Replaced(_) => Self::new(Reason::TargetUnavailable, detail).after(1),
            // The answer was lost: the lease stays open until whatever was made must be dead.
            ConnectorError::Unavailable(_) | ConnectorError::Unknown(_) => {
                Self::new(Reason::TargetUnavailable, detail).after(5)
            }
        }
    }
}

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Self {
        let detail = error.to_string();
        match error {
            LeaseError::Store(error) => error.into(),
            LeaseError::Fences(error) => error.into(),
            LeaseError::Stale(error) => error.into(),
            LeaseError::Replayed(kind) => {
                let reason = match kind.as_str() {
                    replay::SUBJECT_TOKEN => Reason::TokenSpent,
                    replay::CLIENT_ASSERTION => Reason::InvalidClient,
                    replay::DPOP_PROOF => Reason::DpopProofSpent,
                    _ => Reason::IntentSpent,
                };
                Self::new(reason, detail).exact()
            }
            LeaseError::TooMany(_) | LeaseError::TooManyOfInstance(_) => {
                Self::new(Reason::TooManyLeases, detail).exact().after(30)
            }
            LeaseError::Fenced(_) | LeaseError::Closed(_) => {
                Self::new(Reason::RevokedMeanwhile, detail).exact()
            }
            LeaseError::DecideAgain
            | LeaseError::IndexTaken
            | LeaseError::Unreplicated
            | LeaseError::TooLate
            | LeaseError::Contended(_) => Self::new(Reason::StoreUnavailable, detail).after(1),
            LeaseError::Readable(_) => Self::new(Reason::LeaseReadable, detail).exact(),
            LeaseError::Forged(_)
            | LeaseError::Unwritable(..)
            | LeaseError::NotLocal(_)
            | LeaseError::Seal(_) => Self::new(Reason::Internal, detail),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::new(Reason::StoreUnavailable, error.to_string()).after(1)
    }
}

impl From<Stale> for Refusal {
    fn from(stale: Stale) -> Self {
        Self::new(Reason::StaleView, stale.to_string()).after(1)
    }
}

impl From<Skewed> for Refusal {
    fn from(skewed: Skewed) -> Self {
        Self::new(Reason::ClockSkewed, skewed.to_string()).after(5)
    }
}

impl From<FenceError> for Refusal {
    fn from(error: FenceError) -> Self {
        Self::new(Reason::StoreUnavailable, error.to_string()).after(1)
    }
}

impl From<KeyringError> for Refusal {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::Store(error) => error.into(),
            KeyringError::Contended | KeyringError::Unreplicated => {
                Self::new(Reason::StoreUnavailable, error.to_string()).after(1)
            }
            other => Self::new(Reason::Internal, other.to_string()),
        }
    }
}

fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}
