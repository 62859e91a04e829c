//! Which configuration decides: the number and the hash of the one that was published last, at its
//! place on the log. What it says lies in the store, authenticated; here stands when it counts.

use super::view::Kept;
use super::{Dimension, DimensionKind, Fence, FenceKind, View};
use std::sync::Arc;

/// What one entry of the log says of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Counts publications. It never goes back.
    pub revision: u64,
    /// Of the configuration.
    pub hash: String,
}

impl Published {
    /// As it stands on the log.
    pub fn dimension(&self) -> Dimension {
        let value = format!("{} {}", self.revision, self.hash);
        Dimension::new(DimensionKind::Config, value)
    }

    pub(in crate::fences) fn of(fence: &Fence) -> Option<Self> {
        let named = (FenceKind::Publish, DimensionKind::Config);
        if (fence.kind, fence.dimension.kind) != named {
            return None;
        }
        let (revision, hash) = fence.dimension.value.split_once(' ')?;
        Some(Self {
            revision: revision.parse().ok()?,
            hash: hash.to_owned(),
        })
    }
}

impl View {
    /// The configuration that decides at this position. `None`: none was ever published.
    pub fn published(&self) -> Option<Published> {
        Published::of(&self.published.as_ref()?.fence)
    }

    // INVARIANT: the number never goes back, so an older entry that is written once more is no way back.
    // Of two with one number, which only a failover leaves, the later on the log counts at every replica.
    pub(in crate::fences) fn publish(&mut self, kept: Kept) {
        let Some(new) = Published::of(&kept.fence) else {
            return;
        };
        if self
            .published()
            .is_none_or(|old| old.revision <= new.revision)
        {
            self.published = Some(Arc::new(kept));
        }
    }
}
