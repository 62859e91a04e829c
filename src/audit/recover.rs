//! What a store lost that its export still has: after a total loss, or when an older backup is used.

use super::chain::{Chain, EntryLine, Parts};
use super::state::{State, holder, reconcile};
use super::verify::own;
use super::{AuditError, Entry, files, hex, log};
use crate::ids::ShardId;
use crate::store::{Outcome, Position, Store, StoreError, Tail, settle};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;

/// Entries that the export has and the store has not.
#[derive(Debug)]
pub struct Lost {
    /// In the order in which they were sealed.
    pub entries: Vec<Entry>,
    /// Lines whose entry cannot be read.
    pub unreadable: u64,
    chain: Chain,
}

impl Lost {
    /// The last checkpoint of the export: sealing goes on behind it.
    pub fn checkpoint(&self) -> u64 {
        self.chain.checkpoint
    }
}

/// `None`: the store is not behind its export, or there is none. Not signed are only the lines behind
/// the last checkpoint, which a crash left; they count as well.
pub async fn lost(store: &dyn Store, path: &Path) -> Result<Option<Lost>, AuditError> {
    if !path.exists() {
        return Ok(None);
    }
    let own = own(path)?;
    if let Some(finding) = own.findings.first() {
        return Err(AuditError::changed(path, finding));
    }
    let state = State::read(store).await?.map(|(state, _)| state.chain);
    let Some((chain, _)) = own.sealed else {
        return Ok(None);
    };
    if reconcile(state, Some(chain.clone())).is_ok() {
        return Ok(None);
    }
    let mut heads = BTreeMap::new();
    for shard in ShardId::all().chain([ShardId::INSTALLATION]) {
        heads.insert(shard.number(), head(store, shard, &chain).await?);
    }
    let lines = exported(path)?;
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
    let kept = |line: &EntryLine| match heads.get(&line.shard) {
        Some(Kept::All) => true,
        Some(Kept::UpTo(head)) => line.sequence <= head.sequence && shared.contains(&line.shard),
        None => false,
    };
    let (mut entries, mut unreadable) = (Vec::new(), 0);
    for line in lines.iter().filter(|line| !kept(line)) {
        match serde_json::from_str::<Entry>(line.entry.get()) {
            Ok(entry) => entries.push(entry),
            Err(_) => unreadable += 1,
        }
    }
    Ok(Some(Lost {
        entries,
        unreadable,
        chain,
    }))
}

fn exported(path: &Path) -> Result<Vec<EntryLine>, AuditError> {
    let mut lines = Vec::new();
    for file in files::exported(path)? {
        let failed = |error| AuditError::read(&file, error);
        for line in BufReader::new(File::open(&file).map_err(failed)?).split(b'\n') {
            let line = line.map_err(failed)?;
            let parts = Parts::of(&line).filter(|parts| parts.is("entry"));
            lines.extend(parts.and_then(|parts| parts.parse::<EntryLine>()));
        }
    }
    Ok(lines)
}

/// What a shard still has of what was exported.
enum Kept {
    All,
    UpTo(Position),
}

async fn head(store: &dyn Store, shard: ShardId, chain: &Chain) -> Result<Kept, StoreError> {
    let sealed = chain.head(shard.number()).position;
    let found = store.tail(&log(shard), sealed, 1, Duration::ZERO).await?;
    Ok(match found {
        Tail::Entries { .. } | Tail::Trimmed { .. } => Kept::All,
        Tail::Forked { head } => Kept::UpTo(head),
    })
}

/// Sealing goes on behind the export as it is: the next seal names what each shard lost.
pub async fn resume(store: &dyn Store, lost: &Lost, now: OffsetDateTime) -> Result<(), AuditError> {
    let seen = State::read(store).await?.map(|(_, version)| version);
    let mut state = State::new(&holder(), &lost.chain, 0, now);
    state.until = now;
    let written = settle(store, state.write(seen, now)?).await?;
    match written {
        Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
        Outcome::Conflict { .. } | Outcome::TooLate => Err(AuditError::Store(
            StoreError::Unavailable("a broker is still running: stop every one first".to_owned()),
        )),
    }
}
