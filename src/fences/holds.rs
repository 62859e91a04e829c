//! What stands on a dimension, and what a lift ends.

use super::view::Kept;
use super::{Dimension, DimensionHash, Fence, HeldBy, NewFence, View, Weight, Whose};
use std::sync::Arc;
use time::OffsetDateTime;

impl View {
    /// What a lift ends on its dimension now.
    pub(in crate::fences) fn lifted_by(&self, new: &NewFence) -> Vec<uuid::Uuid> {
        let stands = self.holds.get(&new.dimension.hash()).into_iter().flatten();
        let may = |fence: &Fence| match new.lifts {
            Whose::Everybodys => true,
            Whose::Sources => is_of_a_source(fence.rule.as_deref()),
            Whose::Others => !is_of_a_source(fence.rule.as_deref()),
        };
        stands
            .filter(|kept| kept.fence.weight <= new.weight && may(&kept.fence))
            .map(|kept| kept.fence.id)
            .collect()
    }

    /// Every hold on this one dimension.
    pub fn holds_on(&self, on: &Dimension) -> Vec<HeldBy> {
        let stands = self.holds.get(&on.hash()).into_iter().flatten();
        stands.map(|kept| HeldBy::of(&kept.fence)).collect()
    }

    /// Whether a hold that ends what is alive stands on it until somebody lifts it.
    pub fn is_suspended(&self, on: &Dimension) -> bool {
        let mut stands = self.holds.get(&on.hash()).into_iter().flatten();
        stands.any(|kept| kept.fence.weight >= Weight::Suspension && kept.fence.until.is_none())
    }

    /// INVARIANT: no hold takes another one's place: whoever can write to the store could put a known one back
    /// whose lift is on the log already, and end a real one by it. A hold that is folded once more stands once.
    pub(in crate::fences) fn hold(&mut self, dimension: DimensionHash, new: Kept, ours: bool) {
        let is_it = |known: &Kept| known.fence.id == new.fence.id;
        let all = Arc::make_mut(&mut self.holds).entry(dimension).or_default();
        // SECURITY: what nobody of ours wrote may come before the real one of that id, and hides it nowhere.
        if !ours && all.iter().any(is_it) {
            return;
        }
        all.retain(|known| !is_it(known));
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

fn is_past(kept: &Kept, now: OffsetDateTime) -> bool {
    kept.fence.until.is_some_and(|until| until < now)
}

impl HeldBy {
    /// Whether a webhook's source said so.
    pub fn is_of_a_source(&self) -> bool {
        is_of_a_source(self.rule.as_deref())
    }
}

fn is_of_a_source(rule: Option<&str>) -> bool {
    rule.is_some_and(|rule| rule.starts_with("source/"))
}
