//! Restrictions: something is taken away on a target, for a while, from everybody.
//!
//! An entry of the fence log like every other, so every replica has it within the bound on the view.
//! It refuses what shares anything with what it denies, and ends the older leases that do, if it is
//! told to: those stay dead when it is lifted.

use super::view::Kept;
use super::{Dimension, DimensionKind, EndedBy, Fence, LONGEST_LIFETIME, MARGIN, View};
use crate::authority::{Authority, Vocabulary};
use crate::store::Position;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Each decision looks at all of them.
pub const MOST_RESTRICTIONS: usize = 64;
/// Fences at once that keep agents short, or have people approve what they get.
pub const MOST_BOUND: usize = 256;

/// What a fence of kind `restrict` takes away on the target that is its dimension, or from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restriction {
    pub denied: Authority,
    /// Older leases that could do any of it are ended.
    pub ends_leases: bool,
    /// Of an agent: the seconds that what it gets from here on may live.
    #[serde(default)]
    pub longest: Option<u32>,
    /// Of an agent: people approve what it gets from here on. INVARIANT: fields have no names in a
    /// snapshot, so the last alone is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
}

impl View {
    /// Every restriction that stands, oldest first.
    pub fn restrictions(&self) -> impl Iterator<Item = &Arc<Fence>> {
        self.restrictions.iter().map(|kept| &kept.fence)
    }

    /// What is denied on a target now, and the fence that says so.
    pub fn denied_on<'a>(
        &'a self,
        target: &'a str,
    ) -> impl Iterator<Item = (&'a Fence, &'a Authority)> {
        let own = self
            .restrictions()
            .filter(move |fence| is_on(fence, target));
        own.filter_map(|fence| Some((fence.as_ref(), &fence.restriction.as_ref()?.denied)))
    }

    /// Every fence that keeps an agent's lifetimes short.
    pub fn shortened(&self) -> impl Iterator<Item = (&Fence, Duration)> {
        let all = self.restrictions().filter_map(|fence| {
            let longest = fence.restriction.as_ref()?.longest?;
            Some((fence.as_ref(), Duration::from_secs(longest.into())))
        });
        all.filter(|(fence, _)| fence.dimension.kind == DimensionKind::Agent)
    }

    /// The fence by which people approve all that an agent gets.
    pub fn needs_approval(&self, agent: &str) -> Option<&Fence> {
        let asks = |fence: &&Arc<Fence>| {
            let on = &fence.dimension;
            on.kind == DimensionKind::Agent
                && on.value == agent
                && fence.restriction.as_ref().is_some_and(|one| one.approval)
        };
        self.restrictions().find(asks).map(Arc::as_ref)
    }

    /// How many fences each decision looks at for the agents.
    pub fn of_agents(&self) -> usize {
        let agents = |fence: &&Arc<Fence>| fence.dimension.kind == DimensionKind::Agent;
        self.restrictions().filter(agents).count()
    }

    /// The restriction that ended a lease with this authority, decided on at this position.
    pub fn cut_by(
        &self,
        target: &str,
        (vocabulary, authority): (Option<Vocabulary>, &Authority),
        decided_at: Position,
    ) -> Option<EndedBy> {
        let later = self
            .cuts
            .iter()
            .filter(|kept| kept.sequence > decided_at.sequence && is_on(&kept.fence, target));
        let mut hit = later.filter(|kept| match (&kept.fence.restriction, vocabulary) {
            (Some(cut), Some(vocabulary)) => {
                // SECURITY: what cannot be compared is ended, as it would be refused.
                let left = vocabulary.without(authority, &cut.denied);
                !matches!(left, Ok((_, None)))
            }
            _ => true,
        });
        hit.next()
            .map(|kept| EndedBy::Fence(Arc::clone(&kept.fence)))
    }

    /// INVARIANT: folded once more after a fork, it stands once.
    pub(in crate::fences) fn restrict(&mut self, kept: Kept, ours: bool) {
        let known = |all: &[Kept]| all.iter().any(|one| one.fence.id == kept.fence.id);
        // SECURITY: or somebody could put a lesser one in its place.
        if !ours && (known(&self.restrictions) || known(&self.cuts)) {
            return;
        }
        let ends = kept.fence.restriction.as_ref();
        let ends = ends.is_some_and(|restriction| restriction.ends_leases);
        put(&mut self.restrictions, kept.clone());
        if ends {
            put(&mut self.cuts, kept);
        }
    }

    pub(in crate::fences) fn lift_restriction(&mut self, dimension: &Dimension) {
        let named = |kept: &Kept| {
            dimension.kind == DimensionKind::Restriction
                && kept.fence.id.to_string() == dimension.value
        };
        if self.restrictions.iter().any(named) {
            Arc::make_mut(&mut self.restrictions).retain(|kept| !named(kept));
        }
    }

    pub(in crate::fences) fn forget_cuts(&mut self, now: OffsetDateTime) {
        let past = |kept: &Kept| kept.fence.at + LONGEST_LIFETIME + MARGIN < now;
        if self.cuts.iter().any(past) {
            Arc::make_mut(&mut self.cuts).retain(|kept| !past(kept));
        }
    }
}

fn put(all: &mut Arc<Vec<Kept>>, kept: Kept) {
    let all = Arc::make_mut(all);
    all.retain(|known| known.fence.id != kept.fence.id);
    all.push(kept);
}

fn is_on(fence: &Fence, target: &str) -> bool {
    fence.dimension.kind == DimensionKind::Target && fence.dimension.value == target
}
