//! The checks of an intent by name, for `dayfly intent verify`: which one an error came from.

use super::IntentError;
use crate::jose::JoseError;

/// In the order in which [`super::Intents::verify`] makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Size, characters, header.
    Form,
    /// Whose keys may have signed it.
    Signer,
    Signature,
    /// Audience, times, the shape of each claim.
    Claims,
    /// For whom its signer may sign.
    Bounds,
    /// The key that it goes with.
    Possession,
    /// The subject token that it goes with.
    SubjectToken,
    /// The mission that the request names beside it.
    Mission,
    Evidence,
    /// Nothing that is said contradicts what is proved.
    Declared,
}

impl Step {
    pub const ALL: [Self; 10] = [
        Self::Form,
        Self::Signer,
        Self::Signature,
        Self::Claims,
        Self::Bounds,
        Self::Possession,
        Self::SubjectToken,
        Self::Mission,
        Self::Evidence,
        Self::Declared,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Signer => "signer",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Bounds => "bounds",
            Self::Possession => "possession",
            Self::SubjectToken => "subject_token",
            Self::Mission => "mission",
            Self::Evidence => "evidence",
            Self::Declared => "declared",
        }
    }
}

impl IntentError {
    /// The check that failed; every one before it passed.
    pub fn step(&self) -> Step {
        match self {
            Self::TwoIntents | Self::NotSigned => Step::Form,
            Self::Jose(error) => of_jose(error),
            Self::UnknownKey | Self::Unavailable { .. } => Step::Signer,
            Self::Claim(_) | Self::Details(_) => Step::Claims,
            Self::UnknownSigner
            | Self::NotItsAgent { .. }
            | Self::NotItsMission { .. }
            | Self::MissionNotSigned(_) => Step::Bounds,
            Self::KeyNotProved | Self::OtherKey => Step::Possession,
            Self::OtherToken
            | Self::NoTokenHash
            | Self::NoSubjectHash
            | Self::NoCertificate
            | Self::OtherActorToken
            | Self::NoActorHash => Step::SubjectToken,
            Self::OtherMission { .. } => Step::Mission,
            Self::Evidence { .. } => Step::Evidence,
            Self::Contradiction(_) => Step::Declared,
        }
    }
}

fn of_jose(error: &JoseError) -> Step {
    match error {
        JoseError::AlgorithmRefused | JoseError::NoKey | JoseError::Signature => Step::Signature,
        JoseError::ClaimMissing(_)
        | JoseError::ClaimMalformed(_)
        | JoseError::Expired
        | JoseError::NotYetValid
        | JoseError::LivesTooLong => Step::Claims,
        JoseError::TooLong(_)
        | JoseError::NotCompact
        | JoseError::NotCanonical
        | JoseError::Header(_)
        | JoseError::Payload(_)
        | JoseError::AlgorithmUnknown
        | JoseError::HeaderMember(_)
        | JoseError::Typ
        | JoseError::Kid
        | JoseError::EmbeddedKey(_) => Step::Form,
    }
}
