//! Why a request is denied: one closed list, in the words of the wire.

use super::{Mission, Unapproved};
use crate::ids::MissionId;

macro_rules! denials {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal;)+) => {
        /// The condition that failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Denial {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Denial {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

denials! {
    /// The mission does not exist or does not name this agent: one face for both.
    UnknownMission = "unknown_mission";
    /// Several missions of the agent fit the target, and the request names none.
    AmbiguousMission = "ambiguous_mission";
    /// The mission is past its last day.
    MissionEnded = "mission_ended";
    /// The mission, or the target, does not accept this class of signer.
    SignerNotAccepted = "signer_not_accepted";
    /// The mission is given on behalf of others, of people only, or never in person.
    SubjectNotAccepted = "subject_not_accepted";
    /// Whoever is acted for lets others act, and not this agent.
    ActorNotAccepted = "actor_not_accepted";
    /// The lease whose credential is handed on is over.
    ParentNotAlive = "parent_not_alive";
    /// The lease that is handed on is bound to a key that the request does not prove.
    ParentKeyNotProved = "parent_key_not_proved";
    /// Too many would act one for another.
    ChainTooDeep = "chain_too_deep";
    /// The target does not exist, or the mission allows nothing on it: one face for both.
    UnknownTarget = "unknown_target";
    /// The details are empty, of another type than the target's, or name several targets.
    InvalidAuthorizationDetails = "invalid_authorization_details";
    /// What stands beside the intent asks for more than the intent.
    ExceedsIntent = "exceeds_intent";
    /// More than the mission allows.
    ExceedsMission = "exceeds_mission";
    /// More than the agent's ceiling.
    ExceedsAgentCeiling = "exceeds_agent_ceiling";
    /// More than the target's ceiling.
    ExceedsTargetCeiling = "exceeds_target_ceiling";
    /// More than the people whom it is for may have done for them.
    ExceedsPeopleCeiling = "exceeds_people_ceiling";
    /// More than the lease that is handed on.
    ExceedsParent = "exceeds_parent";
    /// Something that a restriction takes away on the target, for now.
    Restricted = "restricted";
    /// A pattern that cannot be compared.
    Undecidable = "undecidable";
    /// The lifetime that is left is shorter than the target can give.
    LifetimeOutOfRange = "lifetime_out_of_range";
    /// A required verified fact is absent or has another value.
    RequirementUnmet = "requirement_unmet";
    /// The request proves a key by DPoP, and the target's credentials cannot be bound to one.
    CredentialNotBindable = "credential_not_bindable";
    /// The mission's `when` does not hold.
    ConditionUnmet = "condition_unmet";
    /// An organisation-wide `forbid` matched, or could not be evaluated.
    ForbiddenByPolicy = "forbidden_by_policy";
    /// A fact that the lease would hang on is not proved.
    TetherMissing = "tether_missing";
    /// A hold stands on something that the lease would be covered by.
    Held = "held";
    /// Everything else allows it, and people have not approved it, or not all of them, or not this.
    ApprovalRequired = "approval_required";
}

/// Why there is no grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub reason: Denial,
    /// Set as soon as the mission is known to be one of the agent's own.
    pub mission: Option<MissionId>,
    /// Which part of the request, e.g. `authorization_details[0].actions[1]`.
    pub at: Option<String>,
    /// One line for the mission's owner and operators. Never for the wire.
    pub detail: String,
    /// Of [`Denial::ApprovalRequired`]: what is to be approved.
    pub unapproved: Option<Box<Unapproved>>,
}

impl Denied {
    pub(super) fn new(reason: Denial, detail: String) -> Self {
        Self {
            reason,
            mission: None,
            at: None,
            detail,
            unapproved: None,
        }
    }

    pub(super) fn of(mut self, mission: &Mission) -> Self {
        self.mission = Some(mission.id.clone());
        self
    }

    pub(super) fn at(mut self, at: impl Into<String>) -> Self {
        self.at = Some(at.into());
        self
    }
}
