//! The fold, stored now and then, so that a start reads a snapshot and a tail, whatever the history.

use super::entry::{self, Author};
use super::view::{Kept, Kill, Known};
use super::{Fence, FenceError, Fences, View, log};
use crate::ids::ShardId;
use crate::store::{
    CommitId, Guard, Key, Link, Outcome, Position, Record, StoreError, Transaction, Write, settle,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;

const DEADLINE: Duration = Duration::from_secs(30);
/// Fewer new entries than this are not worth a snapshot.
const LEAST: u64 = 2048;

/// What this replica knows of the stored snapshot.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Last {
    sequence: u64,
    writing: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    position: (u64, [u8; 20]),
    base: (u64, [u8; 20]),
    /// Link and time of every entry after `base`.
    known: Vec<([u8; 20], i64)>,
    /// Sequence, last expiry covered (milliseconds), the fence.
    kills: Vec<(u64, i64, Fence)>,
    holds: Vec<(u64, Fence)>,
    restrictions: Vec<(u64, Fence)>,
    cuts: Vec<(u64, Fence)>,
    configurations: Vec<(u64, Fence)>,
    #[serde(default)]
    published: Option<(u64, Fence)>,
    #[serde(default)]
    registered: Option<(u64, Fence)>,
}

fn key() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"fences/snapshot".to_vec(),
    }
}

/// The stored fold, or the origin. The tail comes after.
pub(super) async fn load(fences: &Fences) -> Result<View, FenceError> {
    let Some(record) = read(fences).await? else {
        return Ok(View::origin());
    };
    let (stored, author) = parse(fences, &record)?;
    if author == Author::OursOnce {
        fences.renew();
    }
    remember(fences, |last| last.sequence = stored.position.0);
    Ok(unfold(stored))
}

/// The same for whoever writes another one in its place, and what holds until then.
pub(super) async fn load_to_replace(fences: &Fences) -> (Result<View, FenceError>, Guard) {
    let record = match read(fences).await {
        Ok(Some(record)) => record,
        Ok(None) => return (Ok(View::origin()), unchanged(None)),
        Err(error) => return (Err(error), unchanged(None)),
    };
    let stored = parse(fences, &record).map(|(stored, _)| unfold(stored));
    (stored, unchanged(Some(record.version)))
}

/// The write of a fold.
pub(super) fn record(fences: &Fences, view: &View) -> Result<Write, FenceError> {
    let body = rmp_serde::to_vec(&fold_up(view))
        .map_err(|error| FenceError::Unwritable(error.to_string()))?;
    Ok(Write::Put {
        key: key(),
        value: entry::wrap_snapshot(&fences.sealer, &body)?,
        expires_at: None,
    })
}

/// Whether enough was folded since the last snapshot; the caller then spawns [`keep`].
///
/// INVARIANT: not of what nobody has acknowledged. The snapshot might outlive it, and whoever starts on it would miss it.
pub(super) fn is_due(fences: &Fences) -> bool {
    let view = fences.last();
    if !fences.is_replicated_to(view.position().sequence) {
        return false;
    }
    let last = *fences
        .snapshot
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    // A large fold is written more rarely, so that the cost per entry stays the same.
    let enough = LEAST.max(view.kill_count() / 2);
    if fences.is_to_renew() {
        return !last.writing && view.position() != Position::ORIGIN;
    }
    !last.writing && view.position().sequence >= last.sequence + enough
}

/// Stores the fold and trims the log behind it. Whoever comes second leaves it at that.
pub(super) async fn keep(fences: &Fences) -> Result<(), FenceError> {
    let view = fences.last();
    let attempted = view.position().sequence;
    // It may have gone on since it was found due.
    if !fences.is_replicated_to(attempted) {
        return Ok(());
    }
    remember(fences, |last| last.writing = true);
    let written = write(fences, &view).await;
    remember(fences, |last| {
        last.writing = false;
        // After a failure too, the next attempt comes with the next few thousand entries.
        last.sequence = *written.as_ref().unwrap_or(&attempted);
    });
    written.map(|_| ())
}

/// The sequence that a stored snapshot stands at afterwards, whoever wrote it.
async fn write(fences: &Fences, view: &View) -> Result<u64, FenceError> {
    let record = read(fences).await?;
    if let Some(record) = &record {
        let (sequence, own) = (
            parse(fences, record)?.0.position.0,
            view.position().sequence,
        );
        // INVARIANT: never one that is older. The log behind the stored one is trimmed.
        if sequence > own || !fences.is_to_renew() && sequence + LEAST > own {
            return Ok(sequence);
        }
    }
    let put = self::record(fences, view)?;
    let transaction = Transaction::new(ShardId::INSTALLATION, fences.clock.now() + DEADLINE)
        .revoking()
        .guard(unchanged(record.map(|record| record.version)))
        .write(put)
        // Only behind what a living lease can have been decided on: a replica that slept for less
        // still finds its place on the log.
        .write(Write::Trim {
            log: log(),
            through: view.base.sequence,
        });
    match settle(fences.store.as_ref(), transaction).await? {
        Outcome::Applied { .. } | Outcome::Unreplicated { .. } => {
            fences.renewed();
            Ok(view.position().sequence)
        }
        Outcome::Conflict { .. } | Outcome::TooLate => Err(FenceError::TooLate),
    }
}

fn unchanged(version: Option<CommitId>) -> Guard {
    version.map_or_else(
        || Guard::Absent(key()),
        |version| Guard::Unchanged(key(), version),
    )
}

async fn read(fences: &Fences) -> Result<Option<Record>, FenceError> {
    let records = fences.store.get(&[key()]).await?;
    Ok(records.into_iter().next().flatten())
}

fn parse(fences: &Fences, record: &Record) -> Result<(Stored, Author), FenceError> {
    let (body, author) = entry::unwrap_snapshot(&fences.sealer, &record.value)?;
    let stored = rmp_serde::from_slice(body)
        .map_err(|_| StoreError::Corrupt("the snapshot of the fences".to_owned()))?;
    Ok((stored, author))
}

fn remember(fences: &Fences, change: impl FnOnce(&mut Last)) {
    change(
        &mut fences
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner),
    );
}

fn fold_up(view: &View) -> Stored {
    let flat = |position: Position| (position.sequence, position.link.0);
    Stored {
        position: flat(view.position()),
        base: flat(view.base),
        known: view
            .blocks
            .iter()
            .flat_map(|block| block.iter())
            .map(|known| (known.link.0, known.at))
            .collect(),
        kills: view
            .kills()
            .map(|(_, kill)| {
                let until = kill.until.unix_timestamp_nanos() / 1_000_000;
                let until = i64::try_from(until).unwrap_or(i64::MAX);
                (kill.sequence, until, Fence::clone(&kill.fence))
            })
            .collect(),
        holds: view.holds.values().flatten().map(numbered).collect(),
        restrictions: view.restrictions.iter().map(numbered).collect(),
        cuts: view.cuts.iter().map(numbered).collect(),
        configurations: view.configurations.iter().map(numbered).collect(),
        published: view.published.as_deref().map(numbered),
        registered: view.registered.as_deref().map(numbered),
    }
}

fn numbered(kept: &Kept) -> (u64, Fence) {
    (kept.sequence, Fence::clone(&kept.fence))
}

fn kept((sequence, fence): (u64, Fence)) -> Kept {
    let fence = Arc::new(fence);
    Kept { sequence, fence }
}

fn unfold(stored: Stored) -> View {
    let whole = |(sequence, link): (u64, [u8; 20])| Position {
        sequence,
        link: Link(link),
    };
    let mut view = View::at(whole(stored.base));
    view.position = whole(stored.position);
    for (link, at) in stored.known {
        view.push(Known {
            link: Link(link),
            at,
            entry: None,
        });
    }
    for (sequence, until, fence) in stored.kills {
        let until = OffsetDateTime::from_unix_timestamp_nanos(i128::from(until) * 1_000_000)
            .unwrap_or(fence.at + super::LONGEST_LIFETIME);
        let dimension = fence.dimension.hash();
        view.insert_kill(
            dimension,
            Kill {
                sequence,
                until,
                fence: Arc::new(fence),
            },
        );
    }
    let mut holds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for kept in stored.holds.into_iter().map(kept) {
        let on = kept.fence.dimension.hash();
        holds.entry(on).or_default().push(kept);
    }
    view.holds = Arc::new(holds);
    view.restrictions = Arc::new(stored.restrictions.into_iter().map(kept).collect());
    view.cuts = Arc::new(stored.cuts.into_iter().map(kept).collect());
    view.configurations = Arc::new(stored.configurations.into_iter().map(kept).collect());
    view.published = stored.published.map(|one| Arc::new(kept(one)));
    view.registered = stored.registered.map(|one| Arc::new(kept(one)));
    view
}

#[cfg(test)]
pub(super) fn through_the_store(view: &View) -> View {
    let bytes = rmp_serde::to_vec(&fold_up(view)).unwrap();
    unfold(rmp_serde::from_slice(&bytes).unwrap())
}
