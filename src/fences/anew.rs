//! A log that does not follow from the snapshot of its fold begins anew where it ends, with all that stood by
//! that snapshot: what stands from here on is told by the exported audit. For the recovery, while no broker runs.

use super::view::Kept;
use super::{By, Dimension, DimensionKind};
use super::{FenceError, FenceKind, Fences, LONGEST_LIFETIME, NewFence, View, log, snapshot};
use crate::store::{Guard, LogEntry, Position, Store, StoreError, Tail};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

impl Fences {
    /// On return it is followed again. Decisions that were made on entries that are gone are dead. `forged`: also
    /// where the snapshot is not ours, and nothing that it told is known.
    pub async fn begin_anew(&self, forged: bool, now: OffsetDateTime) -> Result<(), FenceError> {
        let (stored, unchanged) = match snapshot::load_to_replace(self).await {
            (Err(FenceError::ForgedSnapshot), unchanged) if forged => (View::origin(), unchanged),
            (stored, unchanged) => (stored?, unchanged),
        };
        let (oldest, entries, head) = whole(self.store.as_ref()).await?;
        let mut view = stored;
        if view.link_at(head.sequence) == Some(head.link) {
            view.rewind(head);
        } else {
            view.restart(oldest);
            for entry in &entries {
                let read = self.read(entry)?;
                view.fold(entry, read)?;
            }
        }
        // INVARIANT: what was decided at this end of the log is older than all that ended it.
        view.not_after(head.sequence + 1);
        let (record, view) = (snapshot::record(self, &view)?, Arc::new(view));
        self.replace(|_| Ok(View::clone(&view)))?;
        // Ends nothing that there is: an entry with which everything before it is told.
        let on = Dimension::new(DimensionKind::Lease, "none");
        let why = format!("the fence log begins anew behind {}", head.sequence);
        let fence = NewFence::new(FenceKind::Kill, on, "dayfly recover", &why)
            .by(By::Rule("recovery".to_owned()))
            .until(now + LONGEST_LIFETIME);
        let guards = vec![unchanged, Guard::HeadIs(log(), head)];
        let raised = self.raise_with(fence, guards, vec![record], now).await?;
        let busy =
            || StoreError::Unavailable("a broker is running: stop every one first".to_owned());
        raised.map(drop).ok_or_else(|| busy().into())
    }
}

/// All that the log has: the place before it, the entries, and its end.
async fn whole(store: &dyn Store) -> Result<(Position, Vec<LogEntry>, Position), FenceError> {
    let (mut oldest, mut all) = (Position::ORIGIN, Vec::<LogEntry>::new());
    loop {
        let after = all.last().map_or(oldest, |entry| entry.position);
        match store
            .tail(&log(), after, super::follow::PAGE, Duration::ZERO)
            .await?
        {
            Tail::Trimmed { oldest: first } => {
                oldest = first;
                all.clear();
            }
            Tail::Entries { entries, head, .. } => {
                all.extend(entries);
                if all.last().map_or(oldest, |entry| entry.position) == head {
                    return Ok((oldest, all, head));
                }
            }
            Tail::Forked { .. } => return Err(StoreError::Unknown.into()),
        }
    }
}

impl View {
    /// Keeps what stands and forgets every place before this one.
    fn restart(&mut self, at: Position) {
        self.blocks.clear();
        (self.base, self.position) = (at, at);
    }

    fn not_after(&mut self, sequence: u64) {
        let earlier = |all: &mut Vec<Kept>| {
            for kept in all {
                kept.sequence = kept.sequence.min(sequence);
            }
        };
        for slot in &mut self.kills {
            for kill in Arc::make_mut(slot).values_mut() {
                kill.sequence = kill.sequence.min(sequence);
            }
        }
        Arc::make_mut(&mut self.holds)
            .values_mut()
            .for_each(earlier);
        earlier(Arc::make_mut(&mut self.restrictions));
        earlier(Arc::make_mut(&mut self.cuts));
        earlier(Arc::make_mut(&mut self.configurations));
    }
}
