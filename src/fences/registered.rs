//! Who is registered through the interface, as far as the log says it: which record of the store counts.
//!
//! The entry stands on the agent that was removed, changed or is new, and ends what was given to that name
//! before; where nothing is to be ended it stands on the set itself, which no lease has.

use super::view::Kept;
use super::{Dimension, DimensionKind, Fence, FenceKind, Named, NewFence, View};
use std::sync::Arc;

impl NewFence {
    /// `ends`: the agent whose leases are dead from here on.
    pub fn registering(named: Named, ends: Option<&str>, (author, reason): (&str, &str)) -> Self {
        let dimension = match ends {
            Some(agent) => Dimension::new(DimensionKind::Agent, agent),
            None => Dimension::new(DimensionKind::Registration, named.to_string()),
        };
        Self {
            names: Some(named),
            ..Self::new(FenceKind::Register, dimension, author, reason)
        }
    }
}

impl View {
    /// The set of registered agents that counts. `None`: nobody was ever registered.
    pub fn registered(&self) -> Option<&Named> {
        self.registered.as_ref()?.fence.names.as_ref()
    }

    /// Whether this names another set by the number of the one that counts: a failover lost an entry that was
    /// acted on, and both are on the log now. One change of the two is undone.
    pub(in crate::fences) fn contradicts(&self, fence: &Fence) -> bool {
        let (Some(new), Some(last)) = (&fence.names, self.registered()) else {
            return false;
        };
        fence.kind == FenceKind::Register && new.number == last.number && new != last
    }

    /// SECURITY: whoever writes an old entry to the log once more registers nobody again.
    pub(in crate::fences) fn register(&mut self, kept: Kept) {
        let new = kept.fence.names.as_ref();
        if new.is_some() && new > self.registered() {
            self.registered = Some(Arc::new(kept));
        }
    }
}
