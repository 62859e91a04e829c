//! The audit: what was decided, by whom, why; sealed so that a later change shows.
//!
//! In: an [`Entry`], staged into the same commit as what it records, so that "done but not
//! recorded" cannot be. Out: JSON Lines with signed checkpoints ([`Sealing`]), and what is wrong
//! with them ([`verify()`]). It knows entries, no lease and no agent. Fields of OCSF are added on
//! export.

mod chain;
mod check;
mod files;
mod forks;
mod ocsf;
mod reader;
mod recent;
mod recover;
mod sealing;
mod seen;
mod state;
mod verify;

pub use chain::Sign;
pub use check::{check, unattended};
pub use files::FileSink;
pub use forks::Superseded;
pub use reader::{Cursor, Page, READ_AGAIN, Read, page, shards};
pub(crate) use recent::{pack, unpack};
pub use recent::{recent, refusal};
pub use recover::{Lost, Search, entries, lost, resume};
pub use sealing::Sealing;
pub use verify::{Finding, Report, SegmentBreak, verify};

use crate::ids;
use crate::ids::ShardId;
use crate::store::{Log, StoreError, Write};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

/// Why the audit is not sealed, exported or verified.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("{path} cannot be read: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} cannot be written: {source}")]
    Write {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "{path}:{line}: {what}; move the file away for whoever investigates, then a new one is begun"
    )]
    Changed {
        path: String,
        line: u64,
        what: String,
    },
    #[error(
        "the store is behind the exported audit: it knows checkpoint {store}, the export holds \
         {export}; restore a newer store, or run `dayfly recover` if the loss is accepted"
    )]
    StoreBehind { store: u64, export: u64 },
    #[error(
        "the store lacks what was sealed at checkpoint {checkpoint} ({log}): restore a newer store, or stop \
         every broker and run `dayfly recover`"
    )]
    StoreLacks { checkpoint: u64, log: String },
    #[error(
        "checkpoints {first} to {last} are in no export here, so what they tell cannot be made good: put the \
         exports of all replicas into one folder and give it with --export, or say --incomplete"
    )]
    Incomplete { first: u64, last: u64 },
    #[error(
        "this replica has seen checkpoint {seen} and the store knows {store}: it was put back to an older day; \
         run `dayfly recover`, or remove {path} if that was done"
    )]
    SeenLater { seen: u64, store: u64, path: String },
    #[error("a checkpoint cannot be signed: {0}")]
    Sign(String),
    #[error("an audit line cannot be written: {0}")]
    Line(#[from] serde_json::Error),
    #[error(
        "how far the audit is sealed (`audit/sealed`) cannot be read: it was changed or damaged in the store, or a \
         key is missing from `sealing_keys`; restore one of them, or put the exports of all replicas into one \
         folder, stop every broker and run `dayfly recover --without-unreadable --export FOLDER`"
    )]
    State,
    #[error(
        "how far responses have read the audit (`audit/read`) cannot be read: it was changed or damaged in the store"
    )]
    Cursor,
    #[error("a broker is running on this store: stop every one first")]
    Attended,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AuditError {
    fn read(path: &Path, source: std::io::Error) -> Self {
        let path = path.display().to_string();
        Self::Read { path, source }
    }

    fn write(path: &Path, source: std::io::Error) -> Self {
        let path = path.display().to_string();
        Self::Write { path, source }
    }

    /// An export that its own broker finds changed is left as it is.
    fn changed(path: &Path, finding: &Finding) -> Self {
        Self::Changed {
            path: path.display().to_string(),
            line: finding.line,
            what: finding.what.clone(),
        }
    }
}

/// The log of entries, one in every shard.
pub(crate) const LOG: &str = "audit";

/// The log of fences, beside that of the installation's shard.
pub(crate) const FENCE_LOG: &str = "fences";

/// What happened. The names are stable: they are in exports and in the rules that watch them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A credential was issued, or a reservation for one was written.
    Issued,
    /// A verified caller was refused.
    Refused,
    /// Refusals that were only counted, one entry per replica and second.
    RefusedSummary,
    /// A reserved lease got its credential.
    Activated,
    /// A lease is over: ended downstream, lapsed or found never minted.
    Ended,
    /// Whoever held the credential gave it back.
    Released,
    /// A lease was revoked because a fence covers it.
    Revoked,
    FenceRaised,
    FenceLifted,
    /// All that a revocation ended is confirmed dead, but for what dies of age alone.
    RevocationConfirmed,
    /// An alarm: a credential that must be dead is not confirmed dead within its target's bound.
    RevocationOverdue,
    /// An operator looked for what a record stands for that cannot be read, and nobody waits for it any more.
    LeaseGivenUp,
    /// What a lease was tethered to has ended.
    ContextEnded,
    OperatorAction,
    KeyRotated,
    /// A machine proved that it holds a key, and an invitation was spent for it.
    KeyEnrolled,
    /// An alarm: a spent join token came again, with another key.
    JoinTokenReused,
    /// The first key that a pod or a job signed with is its key from now on.
    KeyPinned,
    /// An alarm: a pod or a job signed with another key than its first.
    OtherKeyPinned,
    ConfigLoaded,
    /// An agent or a mission is about to end, or has ended and is retired next.
    EndsSoon,
    /// Somebody should review an agent or a mission.
    ReviewDue,
    /// The day for it is over; soon there is nothing new.
    ReviewOverdue,
    /// Nobody uses an agent; soon it is suspended.
    DormantSoon,
    /// The clock or the broker suspended: `reason` says why.
    Suspended,
    /// Nothing new until it was reviewed.
    UnderReview,
    Retired,
    /// A suspension or a retirement was taken back.
    Resumed,
    /// A reviewer decided.
    Reviewed,
    /// Once more, and it drifts.
    DriftSoon,
    /// An alarm: an agent asks for what its mission does not allow, again and again.
    Drift,
    /// Somebody was registered through the interface, or their definition is another one.
    AgentRegistered,
    /// And is nobody any more.
    AgentRemoved,
    /// Something waits for people to approve it.
    ApprovalAsked,
    /// Somebody has said yes; `state` says whether that is enough.
    Approved,
    /// Somebody has said no, or taken a yes back.
    ApprovalDenied,
    /// Whoever owned agents or missions has left.
    OwnerLeft,
    /// They are active again, and what was held for it is not any more.
    OwnerBack,
    /// A webhook told facts.
    FactsTold,
    /// Somebody with a valid proof knocked, and no agent is theirs.
    Sighted,
    /// An alarm: somebody came in by the break-glass token.
    BreakGlassUsed,
    /// An alarm: what a broker keeps in the store was changed there or is damaged; `reason` says what it is.
    RecordUnreadable,
    /// The store lost entries that had been sealed: a failover, or somebody's hand.
    StoreSegmentBreak,
}

impl Event {
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::RefusedSummary => "refused_summary",
            Self::Activated => "activated",
            Self::Ended => "ended",
            Self::Released => "released",
            Self::Revoked => "revoked",
            Self::FenceRaised => "fence_raised",
            Self::FenceLifted => "fence_lifted",
            Self::RevocationConfirmed => "revocation_confirmed",
            Self::RevocationOverdue => "revocation_overdue",
            Self::LeaseGivenUp => "lease_given_up",
            Self::ContextEnded => "context_ended",
            Self::OperatorAction => "operator_action",
            Self::KeyRotated => "key_rotated",
            Self::KeyEnrolled => "key_enrolled",
            Self::JoinTokenReused => "join_token_reused",
            Self::KeyPinned => "key_pinned",
            Self::OtherKeyPinned => "other_key_pinned",
            Self::ConfigLoaded => "config_loaded",
            Self::EndsSoon => "ends_soon",
            Self::ReviewDue => "review_due",
            Self::ReviewOverdue => "review_overdue",
            Self::DormantSoon => "dormant_soon",
            Self::Suspended => "suspended",
            Self::UnderReview => "under_review",
            Self::Retired => "retired",
            Self::Resumed => "resumed",
            Self::Reviewed => "reviewed",
            Self::DriftSoon => "drift_soon",
            Self::Drift => "drift",
            Self::AgentRegistered => "agent_registered",
            Self::AgentRemoved => "agent_removed",
            Self::ApprovalAsked => "approval_asked",
            Self::Approved => "approved",
            Self::ApprovalDenied => "approval_denied",
            Self::OwnerLeft => "owner_left",
            Self::OwnerBack => "owner_back",
            Self::FactsTold => "facts_told",
            Self::Sighted => "sighted",
            Self::BreakGlassUsed => "break_glass_used",
            Self::RecordUnreadable => "record_unreadable",
            Self::StoreSegmentBreak => "store_segment_break",
        }
    }
}

/// Whose proof of identity was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub issuer: String,
    pub subject: String,
}

/// One line of the audit. Tokens appear as hashes, never as themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub event: Event,
    /// Who acted, when it was a person at the operators' door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// A stable code, where something was refused or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The configuration that the decision was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// SHA-256 of the bootstrap token, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<String>,
    /// SHA-256 of the intent, hexadecimal. The intent itself is not kept: whoever signed it can show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}

macro_rules! set {
    ($($(#[$doc:meta])* $name:ident)+) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: impl Into<String>) -> Self {
            self.$name = Some($name.into());
            self
        })+
    };
}

impl Entry {
    pub fn new(event: Event, now: OffsetDateTime) -> Self {
        Self {
            id: ids::draw_uuid(),
            at: now.to_offset(UtcOffset::UTC),
            event,
            operator: None,
            caller: None,
            agent: None,
            mission: None,
            target: None,
            lease: None,
            reason: None,
            config_hash: None,
            token_hash: None,
            intent_hash: None,
            detail: Map::new(),
        }
    }

    set! { operator agent mission target lease reason config_hash }

    #[must_use]
    pub fn caller(mut self, issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        self.caller = Some(Caller {
            issuer: issuer.into(),
            subject: subject.into(),
        });
        self
    }

    #[must_use]
    pub fn token_hash(mut self, sha256: &[u8; 32]) -> Self {
        self.token_hash = Some(hex(sha256));
        self
    }

    #[must_use]
    pub fn intent_hash(mut self, sha256: &[u8; 32]) -> Self {
        self.intent_hash = Some(hex(sha256));
        self
    }

    /// One more thing to know.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    /// For the commit that does what this entry says.
    pub fn append(&self, shard: ShardId) -> Write {
        // A value of these types always serialises; should it not, a line that says so is
        // written, because a commit without its entry is worse than an entry without its detail.
        let value = serde_json::to_vec(self).unwrap_or_else(|_| {
            let (id, event) = (self.id, self.event.name());
            format!(r#"{{"id":"{id}","event":"{event}","unwritable":true}}"#).into_bytes()
        });
        Write::Append {
            log: log(shard),
            value,
        }
    }
}

pub(crate) fn log(shard: ShardId) -> Log {
    Log { shard, name: LOG }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
