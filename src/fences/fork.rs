//! Mends a log whose tail a failover lost: what this replica holds and the log misses goes back on,
//! byte for byte and in order.
//!
//! The first replica to do so restores the very same links where nothing else was written
//! meanwhile. Where something was, the missing entries follow it, and what was decided on lost
//! positions stays dead.

use super::entry::Author;
use super::follow::{PAGE, note_twice};
use super::raise::told_again;
use super::{FenceError, Fences, View, log};
use crate::ids::ShardId;
use crate::store::{
    Guard, LogEntry, Outcome, Position, StoreError, Tail, Transaction, Write, settle,
};
use std::collections::HashSet;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);
/// Entries put back in one commit.
const BATCH: usize = 128;

/// `head` is the end of the log that the store answers with now. On return the view follows the
/// log again; it is fresh after the next cycle that reaches the head.
pub(super) async fn mend(fences: &Fences, view: &View, head: Position) -> Result<(), FenceError> {
    let common = common_position(fences, view, head).await?;
    let (theirs, head) = read_on(fences, common).await?;
    let missing = missing(fences, view, common, &theirs)?;
    tracing::warn!(
        from = common.sequence,
        missing = missing.len(),
        "the store lost the end of the fence log; putting back what this replica holds"
    );
    put_back(fences, &missing, head).await?;
    let (continued, _) = read_on(fences, common).await?;
    fences.replace(|mut now| {
        // Someone else mended while this one was reading: that view stands.
        if now.position() != view.position() {
            return Ok(now);
        }
        now.rewind(common);
        for entry in &continued {
            let read = fences.read(entry)?;
            note_twice(&now, &read);
            now.fold(entry, read)?;
        }
        Ok(now)
    })
}

/// The last position of this view that is on the log. Links chain, so a binary search finds it.
async fn common_position(
    fences: &Fences,
    view: &View,
    head: Position,
) -> Result<Position, FenceError> {
    let mut on = view.base.sequence;
    let mut off = view.position().sequence.min(head.sequence) + 1;
    if !is_on_log(fences, view, on).await? {
        return Err(FenceError::LostForGood(on));
    }
    while off - on > 1 {
        let middle = on + (off - on) / 2;
        if is_on_log(fences, view, middle).await? {
            on = middle;
        } else {
            off = middle;
        }
    }
    position_at(view, on)
}

/// INVARIANT: proved or not. What is put back on a log that is lost is lost with it and is put back on the next one; and
/// nothing is decided on a view of it.
async fn look(fences: &Fences, after: Position, limit: usize) -> Result<Tail, StoreError> {
    match fences
        .store
        .tail(&log(), after, limit, Duration::ZERO)
        .await
    {
        Err(StoreError::Unproved { read, .. }) => Ok(*read),
        read => read,
    }
}

async fn is_on_log(fences: &Fences, view: &View, sequence: u64) -> Result<bool, FenceError> {
    let position = position_at(view, sequence)?;
    let tail = look(fences, position, 1).await?;
    Ok(!matches!(tail, Tail::Forked { .. }))
}

fn position_at(view: &View, sequence: u64) -> Result<Position, FenceError> {
    let link = view
        .link_at(sequence)
        .ok_or(FenceError::LostForGood(sequence))?;
    Ok(Position { sequence, link })
}

/// Everything on the log after a position, and its head.
async fn read_on(
    fences: &Fences,
    common: Position,
) -> Result<(Vec<LogEntry>, Position), FenceError> {
    let mut all: Vec<LogEntry> = Vec::new();
    loop {
        let after = all.last().map_or(common, |entry| entry.position);
        match look(fences, after, PAGE).await? {
            Tail::Entries { entries, head, .. } => {
                all.extend(entries);
                let reached = all.last().map_or(common, |entry| entry.position);
                if reached.sequence >= head.sequence {
                    return Ok((all, reached));
                }
            }
            Tail::Forked { .. } => return Err(StoreError::Unknown.into()),
            Tail::Trimmed { oldest } => return Err(FenceError::LostForGood(oldest.sequence)),
        }
    }
}

/// What the view holds after `common` and the log does not, by fence id, oldest first; with what the audit says
/// of it, which was lost in the same commit.
///
/// SECURITY: by what was written, not by the id alone: somebody else's entry may carry the id of one of ours.
fn missing(
    fences: &Fences,
    view: &View,
    common: Position,
    theirs: &[LogEntry],
) -> Result<Vec<[Write; 2]>, FenceError> {
    let mut there = HashSet::new();
    // What is not ours has no id that counts: it is there if the same bytes are.
    let same: HashSet<&[u8]> = theirs.iter().map(|entry| entry.value.as_slice()).collect();
    for entry in theirs {
        if let (fence, Author::Ours | Author::OursOnce) = fences.read(entry)? {
            there.insert(fence.id);
        }
    }
    let mut missing = Vec::new();
    for sequence in common.sequence + 1..=view.position().sequence {
        let entry = view
            .entry_at(sequence)
            .ok_or(FenceError::LostForGood(sequence))?;
        if !there.contains(&entry.fence.id) && !same.contains(entry.raw.as_slice()) {
            let value = entry.raw.clone();
            let told = told_again(&entry.fence).append(ShardId::INSTALLATION);
            missing.push([Write::Append { log: log(), value }, told]);
        }
    }
    Ok(missing)
}

async fn put_back(
    fences: &Fences,
    missing: &[[Write; 2]],
    mut head: Position,
) -> Result<(), FenceError> {
    for batch in missing.chunks(BATCH) {
        let deadline = fences.clock.now() + DEADLINE;
        // INVARIANT: only at the head that was read. Another replica may be mending the same loss,
        // and its entries must be seen before ours are added.
        let mut transaction = Transaction::new(ShardId::INSTALLATION, deadline)
            .revoking()
            .guard(Guard::HeadIs(log(), head));
        transaction.writes = batch.iter().flatten().cloned().collect();
        match settle(fences.store.as_ref(), transaction).await? {
            Outcome::Applied { appended } | Outcome::Unreplicated { appended } => {
                // Behind the last one stands what the audit says of it.
                head = appended.iter().rev().nth(1).copied().unwrap_or(head);
            }
            // The log moved on: the next cycle starts over from what it says then.
            Outcome::Conflict { .. } | Outcome::TooLate => return Err(FenceError::TooLate),
        }
    }
    Ok(())
}
