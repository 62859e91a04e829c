//! What is wrong with a store: a stable code, and words that say what to change.

use super::StoreError;
use std::fmt;

/// Why a store is unfit, or less safe than it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The address does not parse.
    Address,
    /// The user, the password or the user's rights.
    UserRefused,
    /// The certificates, ours or the server's.
    Tls,
    NotPrimary,
    /// A cluster, a sentinel or a single server where another of them was named.
    OtherKind,
    TooOld,
    MayEvict,
    Forgets,
    CannotSave,
    TooFewReplicas,
    /// Failovers happen and no replica is waited for.
    NeedsMinReplicas,
    /// The sentinels know no primary of this name.
    UnknownPrimary,
    SlotsUncovered,
    /// Shards came back without their data.
    Lost,
    /// The file of an embedded store.
    File,
    Unreachable,
    /// Replicas that need not acknowledge could be promoted.
    MinReplicasLow,
    /// A primary that lost its replicas goes on writing.
    MayRunAlone,
    /// Without a limit nothing is kept free for revocation.
    NoMemoryLimit,
}

impl Fault {
    pub const ALL: [Self; 19] = [
        Self::Address,
        Self::UserRefused,
        Self::Tls,
        Self::NotPrimary,
        Self::OtherKind,
        Self::TooOld,
        Self::MayEvict,
        Self::Forgets,
        Self::CannotSave,
        Self::TooFewReplicas,
        Self::NeedsMinReplicas,
        Self::UnknownPrimary,
        Self::SlotsUncovered,
        Self::Lost,
        Self::File,
        Self::Unreachable,
        Self::MinReplicasLow,
        Self::MayRunAlone,
        Self::NoMemoryLimit,
    ];

    pub fn code(self) -> &'static str {
        match self {
            Self::Address => "store_address",
            Self::UserRefused => "store_user_refused",
            Self::Tls => "store_tls",
            Self::NotPrimary => "store_not_primary",
            Self::OtherKind => "store_other_kind",
            Self::TooOld => "store_too_old",
            Self::MayEvict => "store_may_evict",
            Self::Forgets => "store_forgets",
            Self::CannotSave => "store_cannot_save",
            Self::TooFewReplicas => "store_too_few_replicas",
            Self::NeedsMinReplicas => "store_needs_min_replicas",
            Self::UnknownPrimary => "store_unknown_primary",
            Self::SlotsUncovered => "store_slots_uncovered",
            Self::Lost => "store_lost",
            Self::File => "store_file",
            Self::Unreachable => "store_unreachable",
            Self::MinReplicasLow => "store_min_replicas_low",
            Self::MayRunAlone => "store_may_run_alone",
            Self::NoMemoryLimit => "store_no_memory_limit",
        }
    }

    /// Worth knowing, and no reason not to start.
    pub fn is_advice(self) -> bool {
        matches!(
            self,
            Self::MinReplicasLow | Self::MayRunAlone | Self::NoMemoryLimit
        )
    }

    pub(crate) fn found(self, message: impl Into<String>) -> Finding {
        Finding {
            fault: self,
            message: message.into(),
        }
    }
}

/// One fault of one store. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub fault: Fault,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault.code(), self.message)
    }
}

impl From<Finding> for StoreError {
    fn from(finding: Finding) -> Self {
        Self::Unfit(finding)
    }
}

impl StoreError {
    /// What this failure says about the store, for whoever only looks.
    pub fn as_finding(&self) -> Finding {
        match self {
            Self::Unfit(finding) => finding.clone(),
            Self::Lost(_) => Fault::Lost.found(self.to_string()),
            other => Fault::Unreachable.found(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_code_and_no_other() {
        let page = include_str!("../../docs/storage.md");
        let (_, table) = page.split_once("### Codes").unwrap();
        let (table, _) = table.split_once("### Sentinel").unwrap();
        let listed: Vec<_> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(listed, Fault::ALL.map(Fault::code));
    }
}
