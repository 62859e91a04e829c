//! What stands on a dimension, what takes whose place, and what a lift ends; and which configuration is in
//! force.

use super::view::Kept;
use super::{Dimension, DimensionHash, Fence, HeldBy, View, Weight};
use std::sync::Arc;
use time::OffsetDateTime;

/// That are remembered.
const MOST_CONFIGURATIONS: usize = 64;

impl View {
    /// What a lift of this weight ends on a dimension now.
    pub(in crate::fences) fn lifted_by(&self, on: &Dimension, weight: Weight) -> Vec<uuid::Uuid> {
        let stands = self.holds.get(&on.hash()).into_iter().flatten();
        stands
            .filter(|kept| kept.fence.weight <= weight)
            .map(|kept| kept.fence.id)
            .collect()
    }

    /// Every hold on this one dimension.
    pub fn holds_on(&self, on: &Dimension) -> Vec<HeldBy> {
        let stands = self.holds.get(&on.hash()).into_iter().flatten();
        stands.map(|kept| HeldBy::of(&kept.fence)).collect()
    }

    /// The fence that says which configuration is in force.
    pub fn configuration(&self) -> Option<&Arc<Fence>> {
        self.configurations.last().map(|kept| &kept.fence)
    }

    /// Whether this configuration was in force once, and another came after it.
    pub fn is_superseded(&self, hash: &str) -> bool {
        let is_it = |kept: &Kept| kept.fence.dimension.value == hash;
        self.configurations.iter().any(is_it) && !self.configurations.last().is_some_and(is_it)
    }

    /// INVARIANT: a hold takes the place of what it makes needless: older, no stronger, gone no later. So an
    /// old hold that is put on the log again, with its lift behind it, takes no newer one along.
    pub(in crate::fences) fn hold(&mut self, dimension: DimensionHash, new: Kept) {
        let all = Arc::make_mut(&mut self.holds).entry(dimension).or_default();
        let covers = |by: &Fence, of: &Fence| by.weight >= of.weight && lasts_as_long(by, of);
        let needless = |known: &Kept| {
            let newer = known.fence.at > new.fence.at;
            known.fence.id == new.fence.id || (newer && covers(&known.fence, &new.fence))
        };
        if all.iter().any(needless) {
            return;
        }
        all.retain(|old| old.fence.at > new.fence.at || !covers(&new.fence, &old.fence));
        all.push(new);
    }

    /// INVARIANT: lifting a hold lets new decisions in; what the hold ended stays dead. It ends what it
    /// names and nothing that came in between.
    pub(in crate::fences) fn lift(&mut self, dimension: &DimensionHash, lift: &Fence) {
        let holds = Arc::make_mut(&mut self.holds);
        if let Some(all) = holds.get_mut(dimension) {
            let named = |kept: &Kept| {
                lift.lifts.contains(&kept.fence.id) && kept.fence.weight <= lift.weight
            };
            all.retain(|kept| !named(kept));
            if all.is_empty() {
                holds.remove(dimension);
            }
        }
    }

    pub(in crate::fences) fn configure(&mut self, kept: Kept) {
        let all = Arc::make_mut(&mut self.configurations);
        all.push(kept);
        let extra = all.len().saturating_sub(MOST_CONFIGURATIONS);
        all.drain(..extra);
    }

    /// Whether a hold that ends by itself has ended.
    pub(in crate::fences) fn has_ended_holds(&self, now: OffsetDateTime) -> bool {
        let holds = self.holds.values().flatten();
        let mut all = holds.chain(self.restrictions.iter());
        all.any(|kept| is_past(kept, now))
    }

    pub(in crate::fences) fn drop_ended_holds(&mut self, now: OffsetDateTime) {
        if self.has_ended_holds(now) {
            Arc::make_mut(&mut self.holds).retain(|_, all| {
                all.retain(|kept| !is_past(kept, now));
                !all.is_empty()
            });
            Arc::make_mut(&mut self.restrictions).retain(|kept| !is_past(kept, now));
        }
    }
}

fn lasts_as_long(one: &Fence, other: &Fence) -> bool {
    one.until
        .is_none_or(|until| other.until.is_some_and(|other| until >= other))
}

fn is_past(kept: &Kept, now: OffsetDateTime) -> bool {
    kept.fence.until.is_some_and(|until| until < now)
}
