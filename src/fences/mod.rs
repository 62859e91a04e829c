//! What has been ended? Revocation as a log: one append kills, however many leases it covers.
//!
//! A [`Fence`] on a [`Dimension`] ends every older lease it covers (`kill`) and, as a `hold`,
//! refuses new ones until lifted. Each replica tails the log and folds it into a [`View`]; the
//! corridor takes the view on its first line and everything below decides on that one view.

use crate::store::Position;
use serde::{Deserialize, Serialize};
use std::fmt;
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
    Delegation,
    Context,
    Label,
    SigningKey,
    All,
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
}

/// The fold of the log up to one position. Immutable; a decision is made on one view.
#[derive(Debug, Clone)]
pub struct View {
    pub(in crate::fences) position: Position,
}

impl View {
    pub fn position(&self) -> Position {
        self.position
    }
}
