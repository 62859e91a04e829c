//! What has been ended? Revocation as a log: one append kills, however many leases it covers.
//!
//! A [`Fence`] on a [`Dimension`] ends every older lease it covers (`kill`) and, as a `hold`,
//! refuses new ones until lifted. Each replica tails the log and folds it into a [`View`]; the
//! corridor takes the view on its first line and everything below decides on that one view.

mod again;
mod anew;
mod configured;
mod entry;
mod follow;
mod fork;
mod holds;
mod named;
mod raise;
mod registered;
mod replicated;
mod restrict;
mod snapshot;
mod view;

#[cfg(test)]
pub(crate) mod tests;

pub use again::again;
pub use configured::Configured;
pub use follow::{Fences, MOST_SKEW, Skewed, Stale};
pub use named::Named;
pub use raise::Raised;
pub use restrict::{MOST_BOUND, MOST_RESTRICTIONS, Restriction};
pub use view::{EndedBy, HeldBy, Place, View};

use crate::ids::ShardId;
use crate::secret::SealError;
use crate::store::{Log, StoreError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;

/// What a fence can stand on and a lease is covered by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dimension {
    pub kind: DimensionKind,
    /// For `context` and `label`, length-prefixed parts: see [`Dimension::context`]. Empty for `all`.
    pub value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DimensionKind {
    Lease,
    Agent,
    Instance,
    Mission,
    Target,
    Owner,
    Issuer,
    IssuerKey,
    Subject,
    Task,
    Context,
    Label,
    SigningKey,
    All,
    /// One restriction, by its id: what a lift names.
    Restriction,
    /// A configuration, by its number and its hashes.
    Configuration,
    /// A set of registered agents, by its number and its hash. No lease has it.
    Registration,
}

/// A dimension in 128 bits, as leases and views carry it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DimensionHash(pub [u8; 16]);

impl fmt::Debug for DimensionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Dimension {
    pub fn new(kind: DimensionKind, value: impl Into<String>) -> Self {
        Self {
            kind,
            value: value.into(),
        }
    }

    /// A subject is only unique within its issuer.
    pub fn subject(issuer_url: &str, subject: &str) -> Self {
        Self::new(DimensionKind::Subject, parts(&[issuer_url, subject]))
    }

    /// `kind` as in `pipeline`, proved by `issuer`; ids of different issuers never meet.
    pub fn context(issuer: &str, kind: &str, id: &str) -> Self {
        Self::new(DimensionKind::Context, parts(&[issuer, kind, id]))
    }

    /// An instance is only told apart within its agent. No agent's name holds a `/`.
    pub fn instance(agent: &str, instance: &str) -> Self {
        Self::new(DimensionKind::Instance, format!("{agent}/{instance}"))
    }

    pub fn label(name: &str, value: &str) -> Self {
        Self::new(DimensionKind::Label, parts(&[name, value]))
    }

    pub fn all() -> Self {
        Self::new(DimensionKind::All, "")
    }

    pub fn hash(&self) -> DimensionHash {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&[self.kind as u8]);
        context.update(self.value.as_bytes());
        let digest = context.finish();
        let mut bytes = [0; 16];
        bytes
            .iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        DimensionHash(bytes)
    }
}

// SECURITY: length-prefixed, so that ("a", "b:c") and ("a:b", "c") never collide.
fn parts(values: &[&str]) -> String {
    values
        .iter()
        .map(|value| format!("{}:{value}", value.len()))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceKind {
    /// Ends every older lease it covers.
    Kill,
    /// Also refuses new decisions that name the value, until lifted.
    Hold,
    Lift,
    /// Takes something away on one target, for all who are decided on from here on.
    Restrict,
    /// Ends and refuses nothing: says which configuration is in force from here on.
    Configure,
    /// Says which set of registered agents counts from here on, and ends what it stands on: an agent, or nothing.
    Register,
}

/// What a hold means, the weaker ones first. A weaker hold never takes the place of a stronger one on
/// the same dimension, and a lift ends what is not stronger than itself.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Nothing new until it was reviewed; what is alive lives on.
    Review,
    #[default]
    Suspension,
    /// For good: only an admin's word ends it.
    Retirement,
}

impl FenceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hold => "hold",
            Self::Lift => "lift",
            Self::Restrict => "restrict",
            Self::Configure => "configure",
            Self::Register => "register",
        }
    }

    /// It names something that lies elsewhere. Whoever raises it says in the audit what that is.
    pub(in crate::fences) fn names(self) -> bool {
        matches!(self, Self::Configure | Self::Register)
    }
}

impl Weight {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Review => "review",
            Self::Suspension => "suspension",
            Self::Retirement => "retirement",
        }
    }
}

impl DimensionKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Agent => "agent",
            Self::Instance => "instance",
            Self::Mission => "mission",
            Self::Target => "target",
            Self::Owner => "owner",
            Self::Issuer => "issuer",
            Self::IssuerKey => "issuer_key",
            Self::Subject => "subject",
            Self::Task => "task",
            Self::Context => "context",
            Self::Label => "label",
            Self::SigningKey => "signing_key",
            Self::All => "all",
            Self::Restriction => "restriction",
            Self::Configuration => "configuration",
            Self::Registration => "registration",
        }
    }
}

/// One entry of the fence log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub id: uuid::Uuid,
    pub kind: FenceKind,
    pub dimension: Dimension,
    pub reason: String,
    pub author: String,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub at: OffsetDateTime,
    /// The last expiry it can cover; readers drop a kill after it. `None`: stands until lifted.
    #[serde(with = "time::serde::timestamp::milliseconds::option")]
    pub until: Option<OffsetDateTime>,
    /// What a hold means.
    #[serde(default)]
    pub weight: Weight,
    /// What a restriction takes away.
    pub restriction: Option<Restriction>,
    /// Where no operator raised it: the broker's own rule, or the source that did.
    pub rule: Option<String>,
    // SECURITY: a lift names what it lifts. An old one that somebody puts on the log again lifts nothing.
    /// Of a lift: the holds that it ends, by their ids.
    pub lifts: Vec<uuid::Uuid>,
    /// The record of the store that counts from here on, where the kind is [`FenceKind::Register`].
    #[serde(default)]
    pub names: Option<Named>,
}

/// What its author is. The audit tells it; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum By {
    #[default]
    Operator,
    /// The broker itself, by this rule: `governance/dormant`, `response/NAME`.
    Rule(String),
    /// Whoever held the credential: the author is the agent that it was given to.
    Holder,
    /// A webhook.
    Source,
}

/// What a caller of [`Fences::raise`] decides; the id and the time are the room's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFence {
    /// Of one that the store lost: it is the same again, and whoever lifts it names it.
    pub id: Option<uuid::Uuid>,
    pub kind: FenceKind,
    pub dimension: Dimension,
    pub reason: String,
    pub author: String,
    pub by: By,
    /// For a kill, the last expiry of what it can cover (absent: [`LONGEST_LIFETIME`] from now).
    /// For a hold, when it ends by itself (absent: it stands until lifted).
    pub until: Option<OffsetDateTime>,
    /// Exactly where the kind is [`FenceKind::Restrict`].
    pub restriction: Option<Restriction>,
    pub weight: Weight,
    pub lifts: Whose,
    /// Exactly where the kind is [`FenceKind::Register`].
    pub names: Option<Named>,
}

/// Which holds a lift ends, of those on its dimension that are no stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whose {
    #[default]
    Everybodys,
    /// What webhooks' sources said.
    Sources,
    /// Everything else.
    Others,
}

impl NewFence {
    pub fn new(kind: FenceKind, dimension: Dimension, author: &str, reason: &str) -> Self {
        Self {
            id: None,
            kind,
            dimension,
            reason: reason.to_owned(),
            author: author.to_owned(),
            by: By::Operator,
            until: None,
            restriction: None,
            weight: Weight::default(),
            lifts: Whose::default(),
            names: None,
        }
    }

    #[must_use]
    pub fn lifts(mut self, whose: Whose) -> Self {
        self.lifts = whose;
        self
    }

    #[must_use]
    pub fn by(mut self, by: By) -> Self {
        self.by = by;
        self
    }

    #[must_use]
    pub fn until(mut self, until: OffsetDateTime) -> Self {
        self.until = Some(until);
        self
    }

    #[must_use]
    pub fn weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }
}

/// No lease lives longer than this. What a kill covers is gone by then, so the fold forgets the kill.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What clocks may disagree by before the fold forgets something.
pub(in crate::fences) const MARGIN: Duration = Duration::from_secs(3600);

/// The one log of the installation.
pub(crate) fn log() -> Log {
    Log {
        shard: ShardId::INSTALLATION,
        name: crate::audit::FENCE_LOG,
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "entry {0} of the fence log cannot be read: it was written by a newer version, or damaged"
    )]
    Unreadable(u64),
    #[error(
        "entry {0} of the fence log is not in the format of this version: it was written before entries had a MAC, or by somebody else; stop every broker, and either restore the store or begin with an empty one (docs/storage.md)"
    )]
    OtherFormat(u64),
    #[error(
        "the snapshot of the fences was not written with any of the sealing keys: it was changed in the store, or a key is missing from `sealing_keys`; restore one of them, or stop every broker and run `dayfly recover --without-unreadable` (docs/storage.md)"
    )]
    ForgedSnapshot,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(
        "the fence log does not follow from what was read before: entry {0} carries a foreign link"
    )]
    Broken(u64),
    #[error(
        "the store lost fences from {0} on, which no replica that is running holds: stop every broker and run `dayfly recover`, which takes what stood from the exported audit"
    )]
    LostForGood(u64),
    #[error("the fence was not written: its deadline had passed; raise it again")]
    TooLate,
    #[error("the fence cannot be written down: {0}")]
    Unwritable(String),
}
