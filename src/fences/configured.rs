//! Which configuration is in force: the last one that was said on the log, by a replica of its own folder or
//! by who published it for all.

use super::view::Kept;
use super::{Dimension, DimensionKind, Fence, FenceKind, Named, View};
use crate::audit::{Entry, Event};
use std::sync::Arc;
use time::OffsetDateTime;

/// That are remembered.
const MOST_CONFIGURATIONS: usize = 64;

/// What one entry of the log says of a configuration.
///
/// INVARIANT: it goes up only, like [`Named`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Configured {
    /// With the hash of what all replicas must have in common.
    pub decides: Named,
    /// The hash of what was published, where it was; else it is somebody's folder.
    pub published: Option<String>,
}

impl Configured {
    /// The record of the store that it is.
    pub fn record(&self) -> Option<Named> {
        let sha256 = self.published.clone()?;
        let number = self.decides.number;
        Some(Named { number, sha256 })
    }

    /// As it stands on the log.
    pub fn dimension(&self) -> Dimension {
        let value = match &self.published {
            Some(published) => format!("{} {published}", self.decides),
            None => self.decides.to_string(),
        };
        Dimension::new(DimensionKind::Configuration, value)
    }

    /// The audit's entry of it, that [`Self::in_audit`] reads.
    pub fn told(&self, at: OffsetDateTime) -> Entry {
        Entry::new(Event::ConfigLoaded, at)
            .with("number", self.decides.number)
            .with("decides", self.decides.sha256.as_str())
            .with("published", self.published.clone())
    }

    /// The last one that the audit tells of: for a store that lost its log.
    pub fn in_audit(entries: &[Entry]) -> Option<Self> {
        let read = |entry: &Entry| {
            let detail = |name: &str| entry.detail.get(name);
            let text = |name: &str| Some(detail(name)?.as_str()?.to_owned());
            Some(Self {
                decides: Named {
                    number: detail("number")?.as_u64()?,
                    sha256: text("decides")?,
                },
                published: text("published"),
            })
        };
        let loaded = entries.iter().filter(|e| e.event == Event::ConfigLoaded);
        loaded.filter_map(read).max()
    }

    pub(in crate::fences) fn of(kind: FenceKind, dimension: &Dimension) -> Option<Self> {
        let said = (FenceKind::Configure, DimensionKind::Configuration);
        if (kind, dimension.kind) != said {
            return None;
        }
        let text = dimension.value.as_str();
        // The third part is the hash of a publication.
        if let Some((decides, published)) = text.rsplit_once(' ')
            && let Ok(decides) = decides.parse()
        {
            return Some(Self {
                decides,
                published: Some(published.to_owned()),
            });
        }
        Some(Self {
            decides: text.parse().ok()?,
            published: None,
        })
    }
}

fn of(kept: &Kept) -> Option<Configured> {
    Configured::of(kept.fence.kind, &kept.fence.dimension)
}

impl View {
    /// What is in force at this position. `None`: nobody said anything yet.
    pub fn configured(&self) -> Option<Configured> {
        of(self.configurations.last()?)
    }

    /// The fence that says so.
    pub fn configuration(&self) -> Option<&Arc<Fence>> {
        self.configurations.last().map(|kept| &kept.fence)
    }

    /// The last publication, whether it is still in force or not.
    pub fn published(&self) -> Option<Named> {
        of(self.published.as_ref()?)?.record()
    }

    /// Whether this configuration was in force once, and another came after it.
    pub fn is_superseded(&self, hash: &str) -> bool {
        let is_it = |kept: &Kept| of(kept).is_some_and(|said| said.decides.sha256 == hash);
        self.configurations.iter().any(is_it) && !self.configurations.last().is_some_and(is_it)
    }

    /// SECURITY: whoever writes an old entry to the log once more stops nobody and brings nothing back.
    pub(in crate::fences) fn configure(&mut self, kept: Kept) {
        let Some(new) = of(&kept) else {
            return;
        };
        if self.configured().is_some_and(|last| new <= last) {
            return;
        }
        if new.published.is_some() {
            self.published = Some(Arc::new(kept.clone()));
        }
        let all = Arc::make_mut(&mut self.configurations);
        all.push(kept);
        let extra = all.len().saturating_sub(MOST_CONFIGURATIONS);
        all.drain(..extra);
    }
}
