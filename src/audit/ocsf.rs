//! The fields of the Open Cybersecurity Schema Framework for each event, so that a collector
//! files an entry without knowing Dayfly: class, activity, type.

use super::Event;

/// OCSF's numbers for one event. `type_uid` = class * 100 + activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    pub class_uid: u32,
    pub activity_id: u32,
    /// 1 success, 2 failure, 99 other.
    pub status_id: u32,
    /// 1 informational, 3 medium, 4 high.
    pub severity_id: u32,
}

impl Class {
    pub(super) fn category_uid(self) -> u32 {
        self.class_uid / 1000
    }

    pub(super) fn type_uid(self) -> u32 {
        self.class_uid * 100 + self.activity_id
    }
}

const AUTHORIZE_SESSION: u32 = 3003;
const ENTITY_MANAGEMENT: u32 = 3004;
const USER_ACCESS_MANAGEMENT: u32 = 3005;
const API_ACTIVITY: u32 = 6003;

pub(super) fn class(event: Event) -> Class {
    let class = |class_uid, activity_id, status_id, severity_id| Class {
        class_uid,
        activity_id,
        status_id,
        severity_id,
    };
    match event {
        // Assign privileges.
        Event::Issued | Event::Activated => class(AUTHORIZE_SESSION, 1, 1, 1),
        Event::Approved => class(USER_ACCESS_MANAGEMENT, 1, 1, 3),
        Event::ApprovalDenied => class(USER_ACCESS_MANAGEMENT, 1, 2, 3),
        Event::Refused | Event::RefusedSummary => class(API_ACTIVITY, 99, 2, 3),
        // Revoke privileges.
        Event::Ended | Event::Released | Event::RevocationConfirmed => {
            class(USER_ACCESS_MANAGEMENT, 2, 1, 1)
        }
        Event::Revoked | Event::ContextEnded | Event::FenceRaised => {
            class(USER_ACCESS_MANAGEMENT, 2, 1, 3)
        }
        Event::RevocationOverdue => class(USER_ACCESS_MANAGEMENT, 2, 2, 4),
        Event::FenceLifted => class(USER_ACCESS_MANAGEMENT, 1, 1, 3),
        // Update.
        Event::OperatorAction | Event::KeyRotated => class(ENTITY_MANAGEMENT, 3, 1, 3),
        // By somebody's word alone.
        Event::LeaseGivenUp => class(ENTITY_MANAGEMENT, 3, 1, 4),
        // Create.
        Event::KeyEnrolled | Event::AgentRegistered => class(ENTITY_MANAGEMENT, 1, 1, 3),
        // Delete.
        Event::AgentRemoved => class(ENTITY_MANAGEMENT, 4, 1, 3),
        Event::EndsSoon
        | Event::ReviewDue
        | Event::DormantSoon
        | Event::DriftSoon
        | Event::ApprovalAsked
        | Event::Reviewed => class(ENTITY_MANAGEMENT, 3, 1, 1),
        Event::ReviewOverdue
        | Event::UnderReview
        | Event::Suspended
        | Event::Retired
        | Event::Resumed
        | Event::OwnerLeft
        | Event::OwnerBack => class(ENTITY_MANAGEMENT, 3, 1, 3),
        Event::Sighted => class(ENTITY_MANAGEMENT, 99, 2, 3),
        Event::Drift | Event::BreakGlassUsed => class(ENTITY_MANAGEMENT, 99, 2, 4),
        Event::KeyPinned => class(ENTITY_MANAGEMENT, 1, 1, 1),
        Event::JoinTokenReused | Event::OtherKeyPinned => class(ENTITY_MANAGEMENT, 99, 2, 4),
        Event::ConfigLoaded | Event::FactsTold => class(ENTITY_MANAGEMENT, 3, 1, 1),
        Event::RecordUnreadable | Event::StoreSegmentBreak => class(ENTITY_MANAGEMENT, 99, 99, 4),
    }
}

/// For an entry that this version does not know.
pub(super) const UNKNOWN: Class = Class {
    class_uid: API_ACTIVITY,
    activity_id: 99,
    status_id: 99,
    severity_id: 1,
};
