//! Checkpoints that were exported and are not on the chain that was sealed: whoever wrote them died before the
//! store knew of them, or the store lost that it did, and another replica went on from the one before.
//!
//! SECURITY: they are believed only about what is on the chain all the same. Each has to be signed and to follow
//! from the chain, and each of their lines has to stand on it, byte for byte, in whichever run.

use super::AuditError;
use super::chain::{BreakLine, Chain, CheckpointLine, EntryLine, Hash, HeadLine, Parts, sha256};
use super::verify::Segment;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The end of a replica's part, which was exported and not sealed: another replica sealed the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Superseded {
    pub file: PathBuf,
    pub line: u64,
    /// The last one of it.
    pub checkpoint: u64,
    pub entries: u64,
    /// The file that has what was sealed instead.
    pub by: PathBuf,
    /// The checkpoint that the last of its entries is sealed with; absent where it has none.
    pub sealed: Option<u64>,
}

/// What a line tells, in whichever run it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Said {
    Entry {
        shard: u8,
        sequence: u64,
        link: String,
        bytes: Hash,
    },
    Break {
        shard: u8,
        sealed: u64,
    },
    Head {
        sequence: u64,
        link: String,
    },
}

/// Lines that are not on the chain.
#[derive(Debug)]
pub(super) struct Aside {
    pub segment: Segment,
    /// Of its first checkpoint.
    first: Option<Hash>,
    said: Vec<Said>,
}

/// What was made of them.
pub(super) enum Judged {
    /// Sealed by the file, with the checkpoint.
    Sealed(PathBuf, Option<u64>),
    /// The chain ends before its next run: so many are not sealed yet.
    NotYet(u64),
    Wrong(String),
}

#[derive(Debug, Default)]
pub(super) struct Forks {
    pub asides: Vec<Aside>,
    /// The checkpoint from which on it has to be on the chain, and the one that it is sealed with.
    wanted: HashMap<Said, (u64, Option<u64>)>,
    /// In the run that is open.
    met: Vec<Said>,
    /// The chain where others leave it, and the file.
    at: BTreeMap<u64, Option<(Chain, PathBuf)>>,
    /// The last checkpoint of the chain that closed a run.
    closed: u64,
}

impl Forks {
    /// Takes out what is not on the chain. `segments` are in their order.
    pub(super) fn among(segments: &mut Vec<Segment>) -> Result<Self, AuditError> {
        let opened: BTreeSet<_> = segments
            .iter()
            .map(|segment| (segment.checkpoint, segment.prev.clone()))
            .collect();
        let left = segments
            .iter()
            .map(|segment| leaves(segment, segments, &opened));
        let left: Vec<_> = left.collect();
        let mut forks = Self::default();
        for (segment, from) in segments.iter_mut().zip(left) {
            if let Some(from) = from {
                forks.take(segment, from)?;
            }
        }
        segments.retain(|segment| segment.lines > 0);
        Ok(forks)
    }

    fn take(&mut self, segment: &mut Segment, from: u64) -> Result<(), AuditError> {
        let mut aside = Aside {
            segment: segment.clone(),
            first: None,
            said: Vec::new(),
        };
        let (mut number, mut offset) = (0, segment.offset);
        lines(segment, |line, length| {
            number += 1;
            offset += length;
            let Some(parts) = Parts::of(line) else {
                return;
            };
            let Some(closed) = checkpoint(&parts) else {
                aside.said.extend(Said::of(&parts));
                return;
            };
            if closed < from {
                aside.said.clear();
                aside.segment.offset = offset;
                aside.segment.first_line = segment.first_line + number;
                aside.segment.lines = segment.lines - number;
            } else if aside.first.is_none() {
                aside.first = Some(parts.hash);
            }
        })?;
        aside.segment.checkpoint = from;
        segment.lines -= aside.segment.lines;
        segment.ends_file = false;
        for said in &aside.said {
            let wanted = self.wanted.entry(said.clone()).or_insert((from, None));
            wanted.0 = wanted.0.min(from);
        }
        self.at.insert(from, None);
        self.at.entry(from.saturating_sub(1)).or_insert(None);
        self.at.insert(0, Some((Chain::default(), PathBuf::new())));
        self.asides.push(aside);
        Ok(())
    }

    /// A line of the chain behind this checkpoint.
    pub(super) fn meet(&mut self, parts: &Parts<'_>, checkpoint: u64) {
        if self.wanted.is_empty() {
            return;
        }
        let Some(said) = Said::of(parts) else {
            return;
        };
        let is_later = |from: u64| checkpoint.saturating_add(1) >= from;
        if let Said::Head { sequence, link } = &said {
            // How far a log had come is told by every later word, too.
            let covers = |wanted: &Said| match wanted {
                Said::Head {
                    sequence: known,
                    link: theirs,
                } => known < sequence || (known == sequence && theirs == link),
                _ => false,
            };
            let heads = self.wanted.iter();
            let heads = heads.filter(|(wanted, (from, _))| is_later(*from) && covers(wanted));
            let heads: Vec<_> = heads.map(|(wanted, _)| wanted.clone()).collect();
            self.met.extend(heads);
        } else if self
            .wanted
            .get(&said)
            .is_some_and(|(from, _)| is_later(*from))
        {
            self.met.push(said);
        }
    }

    /// A checkpoint of the chain.
    pub(super) fn close(&mut self, chain: &Chain, file: &Path, is_opening: bool) {
        let number = chain.checkpoint;
        for said in self.met.drain(..) {
            if let Some((_, sealed)) = self.wanted.get_mut(&said) {
                sealed.get_or_insert(number);
            }
        }
        if !is_opening {
            self.closed = number;
        }
        if let Some(at) = self.at.get_mut(&number) {
            *at = Some((chain.clone(), file.to_owned()));
        }
    }

    fn chain(&self, checkpoint: u64) -> Option<&(Chain, PathBuf)> {
        self.at.get(&checkpoint)?.as_ref()
    }

    /// What it has to follow from.
    pub(super) fn before(&self, aside: &Aside) -> Option<&Chain> {
        let before = aside.segment.checkpoint.checked_sub(1)?;
        self.chain(before).map(|(chain, _)| chain)
    }

    pub(super) fn judge(&self, aside: &Aside) -> Judged {
        let number = aside.segment.checkpoint;
        let Some((chain, by)) = self.chain(number).filter(|_| self.before(aside).is_some()) else {
            let why = format!("checkpoint {number} does not follow from any that is here");
            return Judged::Wrong(why);
        };
        if aside.first == Some(chain.checkpoint_hash) {
            return Judged::Wrong(format!("checkpoint {number} stands here once more"));
        }
        let sealed = |said: &&Said| self.wanted.get(said).and_then(|(_, sealed)| *sealed);
        let lost = aside.said.iter().filter(|said| sealed(said).is_none());
        let lost = lost.count() as u64;
        if lost == 0 {
            return Judged::Sealed(
                by.clone(),
                aside.said.iter().filter_map(|said| sealed(&said)).max(),
            );
        }
        if self.closed < number {
            return Judged::NotYet(lost);
        }
        Judged::Wrong(format!(
            "{lost} of the lines from checkpoint {number} on, which were exported and then sealed by another \
             replica, are not among what that one sealed"
        ))
    }
}

impl Aside {
    pub(super) fn entries(&self) -> u64 {
        let is_entry = |said: &&Said| matches!(said, Said::Entry { .. });
        self.said.iter().filter(is_entry).count() as u64
    }
}

impl Said {
    fn of(parts: &Parts<'_>) -> Option<Self> {
        if parts.is("entry") {
            let line: EntryLine = parts.parse()?;
            return Some(Self::Entry {
                shard: line.shard,
                sequence: line.sequence,
                link: line.link,
                bytes: sha256(line.entry.get().as_bytes()),
            });
        }
        if parts.is("break") {
            let BreakLine { shard, sealed, .. } = parts.parse()?;
            return Some(Self::Break { shard, sealed });
        }
        if parts.is("head") {
            let HeadLine { sequence, link, .. } = parts.parse()?;
            return Some(Self::Head { sequence, link });
        }
        None
    }
}

/// The checkpoint from which on it is not on the chain: others have the same numbers, and the chain goes on
/// there.
fn leaves(segment: &Segment, all: &[Segment], opened: &BTreeSet<(u64, String)>) -> Option<u64> {
    let goes_on = |one: &Segment| {
        let next = (one.last.saturating_add(1), one.last_hash.clone());
        opened.contains(&next)
    };
    // Two that go on are two chains: whatever that is, no crash left it.
    if goes_on(segment) {
        return None;
    }
    let place = |one: &Segment| (Reverse(one.file.clone()), Reverse(one.offset));
    let strength = |one: &Segment| (goes_on(one), one.last, one.closes, place(one));
    let own = strength(segment);
    let others = all.iter().filter(|other| {
        other.checkpoint <= segment.last
            && segment.checkpoint <= other.last
            && strength(other) > own
    });
    let from = others.map(|other| other.checkpoint.max(segment.checkpoint));
    from.min()
}

fn checkpoint(parts: &Parts<'_>) -> Option<u64> {
    let line = parts
        .is("checkpoint")
        .then(|| parts.parse::<CheckpointLine>());
    line.flatten().map(|line| line.checkpoint)
}

/// Each whole line of it, without its end, and how long it is with that.
fn lines(segment: &Segment, mut each: impl FnMut(&[u8], u64)) -> Result<(), AuditError> {
    let failed = |error| AuditError::read(&segment.file, error);
    let mut file = File::open(&segment.file).map_err(failed)?;
    file.seek(SeekFrom::Start(segment.offset)).map_err(failed)?;
    let mut reader = BufReader::new(file);
    let mut buffer = Vec::new();
    for _ in 0..segment.lines {
        buffer.clear();
        let length = reader.read_until(b'\n', &mut buffer).map_err(failed)? as u64;
        each(buffer.strip_suffix(b"\n").unwrap_or(&buffer), length);
    }
    Ok(())
}
