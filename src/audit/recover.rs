//! What a store lost that its export still has: after a total loss, or when an older backup is used.

use super::chain::{Chain, CheckpointLine, EntryLine, FENCES, Parts};
use super::seen::newest as newest_seen;
use super::state::{Kept, State, holder, kept, reconcile};
use super::verify::{Export, export};
use super::{AuditError, Entry, files, hex};
use crate::ids::ShardId;
use crate::secret::Sealer;
use crate::store::{Outcome, Position, Store, StoreError, settle};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;
use time::OffsetDateTime;

/// Where to look for what was lost.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// An export with its older files, or a folder with those of every replica.
    pub path: &'a Path,
    /// Somebody accepts that the exports of other replicas are not there.
    pub incomplete: bool,
    /// Somebody gives up how far the store knows to be sealed, where it cannot be read.
    pub without_unreadable: bool,
    /// The fence log itself is of no use any more.
    pub fences_lost: bool,
}

/// Entries that the export has and the store has not.
#[derive(Debug)]
pub struct Lost {
    /// In the order in which they were sealed.
    pub entries: Vec<Entry>,
    /// The entries that tell what stands on the fence log. All of them, where that lost some by itself.
    pub fences: Vec<Entry>,
    /// Checkpoints that are in no export here.
    pub missing: Vec<RangeInclusive<u64>>,
    /// Lines whose entry cannot be read.
    pub unreadable: u64,
    /// How far the store knows to be sealed was given up.
    pub without_state: bool,
    chain: Chain,
}

impl Lost {
    /// The last checkpoint of the export: sealing goes on behind it.
    pub fn checkpoint(&self) -> u64 {
        self.chain.checkpoint
    }
}

/// `None`: the store has all that was exported, or nothing was. Not signed are only the lines behind the last
/// checkpoint, which a crash left; they count as well.
pub async fn lost(
    store: &dyn Store,
    sealer: &Sealer,
    search: Search<'_>,
) -> Result<Option<Lost>, AuditError> {
    let path = search.path;
    let export = match path.exists() {
        true => export(path)?,
        false => Export::default(),
    };
    if let Some(finding) = &export.finding {
        return Err(AuditError::changed(&finding.file, finding));
    }
    let (state, without_state) = match State::read(store, sealer).await {
        Err(AuditError::State) if search.without_unreadable => (None, true),
        found => (found?.map(|(state, _)| state.chain), false),
    };
    let state = state.unwrap_or_default();
    let chain = export.sealed.unwrap_or_default();
    let behind = reconcile(Some(state.clone()), Some(chain.clone())).is_err();
    let newest = match behind || chain.checkpoint > state.checkpoint {
        true => &chain,
        false => &state,
    };
    let mut heads = BTreeMap::new();
    for shard in newest.heads.keys() {
        heads.insert(*shard, kept(store, newest, *shard).await?);
    }
    if search.fences_lost {
        heads.insert(FENCES, Kept::UpTo(Position::ORIGIN));
    }
    let cut = !heads.values().all(|kept| matches!(kept, Kept::All));
    let seen = newest_seen(path)?.filter(|seen| *seen > newest.checkpoint);
    if !behind && !cut && seen.is_none() && !without_state {
        return Ok(None);
    }
    // SECURITY: what only another replica exported would be lost without a word. Of a log that was cut nobody
    // knows how far back.
    let from = if cut { 0 } else { state.checkpoint };
    let mut missing = export.missing;
    missing.extend(export.first.map(|first| 1..=first.saturating_sub(1)));
    missing.retain(|missing| !missing.is_empty() && *missing.end() > from);
    // What was sealed last is in no export, for all that can be known.
    let least = u64::from(without_state);
    let last = seen.unwrap_or(least).max(newest.checkpoint).max(least);
    if last > chain.checkpoint {
        missing.push(chain.checkpoint + 1..=last);
    }
    if let Some(gap) = missing.first().filter(|_| !search.incomplete) {
        return Err(AuditError::Incomplete {
            first: *gap.start(),
            last: *gap.end(),
        });
    }
    let lines = match path.exists() {
        true => exported(path)?,
        false => Vec::new(),
    };
    let (lines, told) = missed(lines, &heads);
    let (entries, unreadable) = read(&lines);
    let (fences, _) = read(&told);
    Ok(Some(Lost {
        entries,
        fences,
        missing,
        unreadable,
        without_state,
        chain: newest.clone(),
    }))
}

/// The lines that the store has not, and those that tell what stood on the fence log.
fn missed(lines: Vec<EntryLine>, heads: &BTreeMap<u8, Kept>) -> (Vec<EntryLine>, Vec<EntryLine>) {
    // INVARIANT: that a shard has as many entries says nothing. Only where the last one that it has is the
    // one that was exported are those before it the same.
    let is_head = |line: &&EntryLine| match heads.get(&line.shard) {
        Some(Kept::UpTo(head)) => line.sequence == head.sequence && line.link == hex(&head.link.0),
        _ => false,
    };
    let shared: BTreeSet<u8> = lines
        .iter()
        .filter(is_head)
        .map(|line| line.shard)
        .collect();
    let is_kept = |line: &EntryLine| match heads.get(&line.shard) {
        Some(Kept::All) => true,
        Some(Kept::UpTo(head)) => line.sequence <= head.sequence && shared.contains(&line.shard),
        None => false,
    };
    let cut = matches!(heads.get(&FENCES), Some(Kept::UpTo(_)));
    let all = |line: &EntryLine| cut && line.shard == ShardId::INSTALLATION.number();
    let told = lines.iter().filter(|line| all(line) || !is_kept(line));
    let told = told.cloned().collect();
    let lost = lines.into_iter().filter(|line| !is_kept(line));
    (lost.collect(), told)
}

fn read(lines: &[EntryLine]) -> (Vec<Entry>, u64) {
    let (mut entries, mut unreadable) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_str::<Entry>(line.entry.get()) {
            Ok(entry) => entries.push(entry),
            Err(_) => unreadable += 1,
        }
    }
    (entries, unreadable)
}

/// All entries of an export, in the order in which they were sealed.
pub fn entries(path: &Path) -> Result<Vec<Entry>, AuditError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    if let Some(finding) = &export(path)?.finding {
        return Err(AuditError::changed(&finding.file, finding));
    }
    Ok(read(&exported(path)?).0)
}

/// In the order in which they were sealed, whichever replica did it.
fn exported(path: &Path) -> Result<Vec<EntryLine>, AuditError> {
    let mut lines = Vec::new();
    for file in files::exported(path)? {
        let failed = |error| AuditError::read(&file, error);
        let mut open = lines.len();
        for line in BufReader::new(File::open(&file).map_err(failed)?).split(b'\n') {
            let line = line.map_err(failed)?;
            let Some(parts) = Parts::of(&line) else {
                continue;
            };
            if parts.is("entry") {
                lines.extend(parts.parse().map(|line: EntryLine| (u64::MAX, line)));
            } else if let Some(checkpoint) = parts.parse::<CheckpointLine>() {
                for (sealed, _) in lines.iter_mut().skip(open) {
                    *sealed = checkpoint.checkpoint;
                }
                open = lines.len();
            }
        }
    }
    lines.sort_by_key(|(sealed, _)| *sealed);
    // What one replica exported and another one sealed stands twice.
    let mut told = BTreeSet::new();
    let mut lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    lines.retain(|line: &EntryLine| told.insert((line.shard, line.sequence, line.link.clone())));
    Ok(lines)
}

/// Sealing goes on behind the export as it is: the next seal names what each shard lost.
pub async fn resume(
    store: &dyn Store,
    sealer: &Sealer,
    lost: &Lost,
    now: OffsetDateTime,
) -> Result<(), AuditError> {
    let seen = State::version(store).await?;
    let mut state = State::new(&holder(), &lost.chain, 0, now);
    state.until = now;
    state.accepted = Some(lost.chain.checkpoint);
    let written = settle(store, state.write(sealer, seen, now)?).await?;
    match written {
        Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
        Outcome::Conflict { .. } => Err(AuditError::Attended),
        Outcome::TooLate => Err(StoreError::Unavailable("it answers too late".to_owned()).into()),
    }
}
