//! The fold of the fence log up to one position: immutable, shared, cheap to copy and extend.
//!
//! A copy shares everything with its original; folding an entry copies one slot of the kills (a
//! 256th of them) and one block of the links. Nothing grows without bound: a kill is forgotten when
//! nothing it covers can be alive, a link when no lease can have been decided on it.

use super::entry::Author;
use super::{
    Dimension, DimensionHash, Fence, FenceError, FenceKind, LONGEST_LIFETIME, MARGIN, Weight,
};
use crate::store::{self, Link, LogEntry, Position};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

const SLOTS: usize = 256;
const BLOCK: usize = 1024;
/// The last entries are kept whole whatever their age: a store that was restored from long ago gets them back.
pub(in crate::fences) const WHOLE: u64 = 32 * BLOCK as u64;
/// Those before are kept whole for so long, and then only their links.
pub(in crate::fences) const WHOLE_FOR: Duration = Duration::from_secs(3600);

/// What a decision is made on. Take it once, on the first line, and use that one throughout.
#[derive(Debug, Clone)]
pub struct View {
    pub(in crate::fences) position: Position,
    /// The oldest position that a living lease can have been decided on.
    pub(in crate::fences) base: Position,
    /// The entries after `base`, in blocks of [`BLOCK`]: every block but the last is full.
    pub(in crate::fences) blocks: Vec<Arc<Vec<Known>>>,
    /// The newest kill on each dimension, in [`SLOTS`] by the first byte of its hash.
    pub(in crate::fences) kills: Vec<Arc<HashMap<DimensionHash, Kill>>>,
    /// What holds each dimension: mostly one, and more where none makes another needless.
    pub(in crate::fences) holds: Arc<BTreeMap<DimensionHash, Vec<Kept>>>,
    /// Restrictions that stand.
    pub(in crate::fences) restrictions: Arc<Vec<Kept>>,
    /// The configurations that were said to be in force, the newest last: each is later than the one before.
    pub(in crate::fences) configurations: Arc<Vec<Kept>>,
    /// Restrictions that ended leases, for as long as one of those could live, lifted or not.
    pub(in crate::fences) cuts: Arc<Vec<Kept>>,
    /// The last publication of a configuration.
    pub(in crate::fences) published: Option<Arc<Kept>>,
    /// The last word on who is registered.
    pub(in crate::fences) registered: Option<Arc<Kept>>,
}

/// A fence with its place on the log.
#[derive(Debug, Clone)]
pub(in crate::fences) struct Kept {
    pub sequence: u64,
    pub fence: Arc<Fence>,
}

/// The end of everything on one dimension that was decided before `sequence`.
#[derive(Debug, Clone)]
pub(in crate::fences) struct Kill {
    pub sequence: u64,
    pub until: OffsetDateTime,
    pub fence: Arc<Fence>,
}

#[derive(Debug, Clone)]
pub(in crate::fences) struct Known {
    pub link: Link,
    /// When the entry was raised, in seconds.
    pub at: i64,
    /// `None` for what came out of a snapshot, and for what is old.
    pub entry: Option<Arc<Entry>>,
}

/// An entry as it stood on the log, byte for byte, and as it reads.
#[derive(Debug)]
pub(in crate::fences) struct Entry {
    pub raw: Vec<u8>,
    pub fence: Arc<Fence>,
}

/// The hold that refuses a new decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    pub fence_id: uuid::Uuid,
    pub dimension: Dimension,
    pub reason: String,
    pub author: String,
    pub at: OffsetDateTime,
    pub until: Option<OffsetDateTime>,
    pub weight: Weight,
    /// The broker's own rule that raised it.
    pub rule: Option<String>,
}

/// Why a lease is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndedBy {
    Fence(Arc<Fence>),
    /// The position of its decision is not on the log: a failover lost what it was decided on.
    Lost,
    /// It was decided further on than this view has read: wait with [`super::Fences::reach`] and
    /// ask again. Until then nobody can say, which means dead.
    Ahead,
}

/// Where a position lies, seen from a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Known,
    /// Not on the log, or older than anything that can be alive.
    Lost,
    Ahead,
}

impl View {
    /// Before the first entry: nothing is held, nothing was ended.
    pub fn origin() -> Self {
        Self::at(Position::ORIGIN)
    }

    pub(in crate::fences) fn at(position: Position) -> Self {
        Self {
            position,
            base: position,
            blocks: Vec::new(),
            kills: vec![Arc::default(); SLOTS],
            holds: Arc::default(),
            restrictions: Arc::default(),
            cuts: Arc::default(),
            configurations: Arc::default(),
            published: None,
            registered: None,
        }
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether the position is on the log and a living lease can have been decided on it.
    pub fn knows(&self, position: Position) -> bool {
        self.place(position) == Place::Known
    }

    pub fn place(&self, position: Position) -> Place {
        if position.sequence > self.position.sequence {
            return Place::Ahead;
        }
        // INVARIANT: the link is compared, not only the number: after a failover the same number
        // may stand for another entry.
        if self.link_at(position.sequence) == Some(position.link) {
            Place::Known
        } else {
            Place::Lost
        }
    }

    /// The hold on any of these dimensions, if there is one; of several the strongest, of those the last.
    pub fn held(&self, dimensions: &[DimensionHash]) -> Option<HeldBy> {
        let mut strongest: Option<&Kept> = None;
        let on = dimensions.iter().filter_map(|one| self.holds.get(one));
        for kept in on.flatten() {
            if strongest.is_none_or(|known| kept.fence.weight >= known.fence.weight) {
                strongest = Some(kept);
            }
        }
        strongest.map(|kept| HeldBy::of(&kept.fence))
    }

    /// What ended a lease with these dimensions that was decided on at this position. Checks the
    /// position too: a decision made on lost entries is dead.
    pub fn ended_by(&self, dimensions: &[DimensionHash], decided_at: Position) -> Option<EndedBy> {
        match self.place(decided_at) {
            Place::Lost => return Some(EndedBy::Lost),
            Place::Ahead => return Some(EndedBy::Ahead),
            Place::Known => {}
        }
        dimensions
            .iter()
            .filter_map(|dimension| self.kill_on(dimension))
            .filter(|kill| kill.sequence > decided_at.sequence)
            .max_by_key(|kill| kill.sequence)
            .map(|kill| EndedBy::Fence(Arc::clone(&kill.fence)))
    }

    /// Every hold that stands, for operators.
    pub fn holds(&self) -> Vec<HeldBy> {
        self.holds
            .values()
            .flatten()
            .map(|kept| HeldBy::of(&kept.fence))
            .collect()
    }

    /// The fences after this sequence, oldest first, if the view still has them all.
    pub fn since(&self, sequence: u64) -> Option<Vec<Arc<Fence>>> {
        let kept = self.kept_since(sequence);
        let all = self.position.sequence.saturating_sub(sequence);
        (kept.len() as u64 == all).then_some(kept)
    }

    /// The fences after this sequence, oldest first, as far back as the view still has them all.
    pub fn kept_since(&self, sequence: u64) -> Vec<Arc<Fence>> {
        let mut kept: Vec<_> = (sequence + 1..=self.position.sequence)
            .rev()
            .map_while(|at| Some(Arc::clone(&self.entry_at(at)?.fence)))
            .collect();
        kept.reverse();
        kept
    }

    pub(in crate::fences) fn kill_on(&self, dimension: &DimensionHash) -> Option<&Kill> {
        self.kills.get(slot(dimension))?.get(dimension)
    }

    pub(in crate::fences) fn link_at(&self, sequence: u64) -> Option<Link> {
        if sequence == self.base.sequence {
            return Some(self.base.link);
        }
        self.known_at(sequence).map(|known| known.link)
    }

    pub(in crate::fences) fn entry_at(&self, sequence: u64) -> Option<&Arc<Entry>> {
        self.known_at(sequence)?.entry.as_ref()
    }

    fn known_at(&self, sequence: u64) -> Option<&Known> {
        let place = usize::try_from(sequence.checked_sub(self.base.sequence + 1)?).ok()?;
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)
    }

    /// Takes in the next entry of the log, and what it reads.
    ///
    /// SECURITY: what nobody of ours wrote may take away and gives nothing back: it kills, holds and
    /// restricts, and lifts nothing. See `docs/decisions/0021-a-fence-is-authenticated.md`.
    pub(in crate::fences) fn fold(
        &mut self,
        next: &LogEntry,
        (fence, author): (Fence, Author),
    ) -> Result<(), FenceError> {
        let sequence = next.position.sequence;
        let link = store::link(&self.position.link, &next.value);
        if sequence != self.position.sequence + 1 || link != next.position.link {
            return Err(FenceError::Broken(sequence));
        }
        let fence = Arc::new(fence);
        self.take(sequence, &fence, author != Author::Anybody);
        self.push(Known {
            link,
            at: fence.at.unix_timestamp(),
            entry: Some(Arc::new(Entry {
                raw: next.value.clone(),
                fence,
            })),
        });
        self.position = next.position;
        Ok(())
    }

    fn take(&mut self, sequence: u64, fence: &Arc<Fence>, ours: bool) {
        let dimension = fence.dimension.hash();
        let kept = Kept {
            sequence,
            fence: Arc::clone(fence),
        };
        match fence.kind {
            FenceKind::Kill => self.kill(dimension, kept),
            FenceKind::Hold => {
                // A review that is overdue refuses what is new and ends nothing.
                if fence.weight > Weight::Review {
                    self.kill(dimension, kept.clone());
                }
                self.hold(dimension, kept, ours);
            }
            FenceKind::Restrict => self.restrict(kept, ours),
            FenceKind::Lift | FenceKind::Configure if !ours => {}
            FenceKind::Lift => {
                self.lift(&dimension, fence);
                self.lift_restriction(&fence.dimension);
            }
            FenceKind::Configure => self.configure(kept),
            FenceKind::Register => {
                // Whoever wrote it: what it stands on is ended.
                self.kill(dimension, kept.clone());
                if ours {
                    self.register(kept);
                }
            }
        }
    }

    fn kill(&mut self, dimension: DimensionHash, kept: Kept) {
        let until = covers_until(&kept.fence);
        let new = Kill {
            sequence: kept.sequence,
            until,
            fence: kept.fence,
        };
        self.insert_kill(dimension, new);
    }

    /// INVARIANT: a kill never makes an older one weaker: the later sequence and the later `until`
    /// of the two stand.
    pub(in crate::fences) fn insert_kill(&mut self, dimension: DimensionHash, new: Kill) {
        let Some(slot) = self.kills.get_mut(slot(&dimension)) else {
            return;
        };
        Arc::make_mut(slot)
            .entry(dimension)
            .and_modify(|old| {
                old.sequence = old.sequence.max(new.sequence);
                old.until = old.until.max(new.until);
                old.fence = Arc::clone(&new.fence);
            })
            .or_insert(new);
    }

    pub(in crate::fences) fn push(&mut self, known: Known) {
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => Arc::make_mut(block).push(known),
            _ => self.blocks.push(Arc::new(vec![known])),
        }
    }

    /// Back to a position that it knows, before folding another continuation of the log on top.
    /// What the lost entries said stays in force: the caller has put them on the log again.
    pub(in crate::fences) fn rewind(&mut self, to: Position) {
        let keep = usize::try_from(to.sequence.saturating_sub(self.base.sequence)).unwrap_or(0);
        self.blocks.truncate(keep.div_ceil(BLOCK));
        if let Some(last) = self.blocks.last_mut() {
            let kept = keep - (keep - 1) / BLOCK * BLOCK;
            Arc::make_mut(last).truncate(kept);
        }
        self.position = to;
    }

    /// Forgets kills that cover nothing alive and links that no living lease can have been decided on.
    pub(in crate::fences) fn forget(&mut self, now: OffsetDateTime) {
        for slot in &mut self.kills {
            if slot.values().any(|kill| kill.until + MARGIN < now) {
                Arc::make_mut(slot).retain(|_, kill| kill.until + MARGIN >= now);
            }
        }
        self.forget_cuts(now);
        let horizon = (now - LONGEST_LIFETIME - MARGIN).unix_timestamp();
        while let Some(first) = self.blocks.first() {
            // A position was the head until the entry after it: what matters is when that came.
            let superseded = self
                .blocks
                .get(1)
                .and_then(|block| block.first())
                .is_some_and(|next| next.at < horizon);
            let Some(last) = first.last().filter(|_| superseded) else {
                break;
            };
            self.base = Position {
                sequence: self.base.sequence + first.len() as u64,
                link: last.link,
            };
            self.blocks.remove(0);
        }
    }

    /// Of what is old and lies far back nobody needs more than the link.
    ///
    /// INVARIANT: only up to `replicated`. What a failover can lose is put back from here.
    pub(in crate::fences) fn forget_entries(&mut self, now: OffsetDateTime, replicated: u64) {
        let horizon = (now - WHOLE_FOR).unix_timestamp();
        let through = replicated.min(self.position.sequence.saturating_sub(WHOLE));
        let mut end = self.base.sequence;
        for block in &mut self.blocks {
            end += block.len() as u64;
            let is_old = block.last().is_some_and(|last| last.at < horizon);
            if end > through || !is_old {
                break;
            }
            if block.iter().any(|known| known.entry.is_some()) {
                for known in Arc::make_mut(block) {
                    known.entry = None;
                }
            }
        }
    }

    pub(in crate::fences) fn kill_count(&self) -> u64 {
        self.kills.iter().map(|slot| slot.len() as u64).sum()
    }

    pub(in crate::fences) fn kills(&self) -> impl Iterator<Item = (&DimensionHash, &Kill)> {
        self.kills.iter().flat_map(|slot| slot.iter())
    }
}

#[cfg(test)]
impl View {
    /// The fold of these fences, for the tests of other rooms.
    pub fn of(fences: impl IntoIterator<Item = Fence>) -> Self {
        let mut view = Self::origin();
        for fence in fences {
            let value = rmp_serde::to_vec_named(&fence).unwrap();
            let position = Position {
                sequence: view.position.sequence + 1,
                link: store::link(&view.position.link, &value),
            };
            let lifts = match fence.kind {
                FenceKind::Lift => {
                    let on = fence.dimension.clone();
                    let lift = super::NewFence::new(fence.kind, on, "", "").weight(fence.weight);
                    view.lifted_by(&lift)
                }
                _ => Vec::new(),
            };
            let fence = Fence { lifts, ..fence };
            let entry = LogEntry { position, value };
            view.fold(&entry, (fence, Author::Ours)).unwrap();
        }
        view
    }

    pub fn empty_for_tests() -> Self {
        Self::origin()
    }
}

/// The last expiry of what a fence ends. A hold's own end says nothing about the leases that it
/// ended, so they count as long-lived.
fn covers_until(fence: &Fence) -> OffsetDateTime {
    let longest = fence.at + LONGEST_LIFETIME;
    match (fence.kind, fence.until) {
        (FenceKind::Kill, Some(until)) => until,
        (_, Some(until)) => until.max(longest),
        (_, None) => longest,
    }
}

fn slot(dimension: &DimensionHash) -> usize {
    dimension.0.first().copied().map_or(0, usize::from)
}

impl HeldBy {
    pub(in crate::fences) fn of(fence: &Fence) -> Self {
        Self {
            fence_id: fence.id,
            dimension: fence.dimension.clone(),
            reason: fence.reason.clone(),
            author: fence.author.clone(),
            at: fence.at,
            until: fence.until,
            weight: fence.weight,
            rule: fence.rule.clone(),
        }
    }
}

impl EndedBy {
    /// For the audit and for operators.
    pub fn reason(&self) -> &str {
        match self {
            Self::Fence(fence) => &fence.reason,
            Self::Lost => "the store lost what it was decided on",
            Self::Ahead => "decided further on than this replica has read",
        }
    }
}
