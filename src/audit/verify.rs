//! Is an export as it was written? Finds an edit, a gap, a reorder, a cut before the last
//! checkpoint, and names the file and the line.
//!
//! What no export can show by itself is that its end was cut off at an earlier checkpoint: compare
//! [`Report::last`] with what the broker says is sealed.

use super::chain::{
    BreakLine, Chain, CheckpointLine, EntryLine, FENCES, Hash, Head, HeadLine, Parts, run, unhex,
};
use super::forks::{Forks, Judged, Superseded};
use super::{AuditError, files, hex};
use crate::store::{Link, Position};
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What a line is not, but must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: PathBuf,
    /// Counted from one.
    pub line: u64,
    pub what: String,
}

/// A loss that the export itself names: the store came back without entries that were sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentBreak {
    pub file: PathBuf,
    pub line: u64,
    pub shard: u8,
    /// The last entry sealed before, and the place from which reading went on.
    pub sealed: u64,
    pub resumes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    pub entries: u64,
    pub checkpoints: u64,
    /// The number of the first checkpoint here; above one, older files lie elsewhere.
    pub first: Option<u64>,
    /// The number and the hash of the last checkpoint: everything up to there is proven.
    pub last: Option<(u64, String)>,
    /// Lines behind the last checkpoint: whole, but not signed yet.
    pub unsealed: u64,
    pub breaks: Vec<SegmentBreak>,
    /// What a replica exported before it died, and another one sealed.
    pub superseded: Vec<Superseded>,
    /// Checkpoints that lie in the files of other replicas, or nowhere.
    pub missing: Vec<RangeInclusive<u64>>,
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing was changed and nothing is missing between the first and the last checkpoint.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.missing.is_empty() && self.last.is_some()
    }
}

/// Verifies a file with the older files beside it, or every file of a folder (the exports of all
/// replicas together). `verifying` says whether a compact JWS was signed by a checkpoint key.
pub fn verify(path: &Path, verifying: &dyn Fn(&str) -> bool) -> Result<Report, AuditError> {
    Ok(walked(path, Some(verifying))?.report)
}

fn walked<'a>(
    path: &Path,
    verifying: Option<&'a dyn Fn(&str) -> bool>,
) -> Result<Walk<'a>, AuditError> {
    let mut segments = Vec::new();
    let mut walk = Walk::new(verifying);
    for file in files::exported(path)? {
        walk.find_segments(&file, &mut segments)?;
    }
    segments.sort_by_key(|segment: &Segment| (segment.checkpoint, segment.file.clone()));
    walk.forks = Forks::among(&mut segments)?;
    for segment in &segments {
        walk.segment(segment)?;
    }
    walk.asides()?;
    Ok(walk)
}

/// What a sink knows of its own file when it opens it.
pub(super) struct Own {
    /// The chain behind the last checkpoint, and where that ends in the file.
    pub sealed: Option<(Chain, u64)>,
    pub findings: Vec<Finding>,
}

/// Walks one's own file without asking for signatures. Lines behind the last checkpoint, whole or
/// torn, are leftovers of a crash: they are still in the store.
pub(super) fn own(file: &Path) -> Result<Own, AuditError> {
    let mut segments = Vec::new();
    let mut walk = Walk::new(None);
    walk.find_segments(file, &mut segments)?;
    for segment in &segments {
        walk.segment(segment)?;
    }
    let after = walk.sealed.as_ref().map_or(0, |(_, _, line)| *line);
    let mut findings = walk.report.findings;
    findings.retain(|finding| finding.line <= after);
    Ok(Own {
        sealed: walk.sealed.map(|(chain, end, _)| (chain, end)),
        findings,
    })
}

/// An export as far as it is sealed, with what is wrong with it up to there.
#[derive(Default)]
pub(super) struct Export {
    /// The number of the first checkpoint; above one, older files lie elsewhere.
    pub first: Option<u64>,
    pub sealed: Option<Chain>,
    pub missing: Vec<RangeInclusive<u64>>,
    pub finding: Option<Finding>,
}

/// Walks a file with the older ones beside it, or every file of a folder, without asking for signatures.
pub(super) fn export(path: &Path) -> Result<Export, AuditError> {
    let walk = walked(path, None)?;
    Ok(Export {
        first: walk.report.first,
        sealed: walk.sealed.map(|(chain, _, _)| chain),
        missing: walk.report.missing,
        finding: walk.report.findings.into_iter().next(),
    })
}

/// The last checkpoint of this replica's own files: of the newest, or, where a crash left that empty, of the
/// one before.
pub(super) fn last_sealed(path: &Path) -> Result<Option<Chain>, AuditError> {
    for file in files::exported(path)?.iter().rev() {
        if !file.exists() {
            continue;
        }
        let own = own(file)?;
        if let Some(finding) = own.findings.first() {
            return Err(AuditError::changed(file, finding));
        }
        if let Some((chain, _)) = own.sealed {
            return Ok(Some(chain));
        }
    }
    Ok(None)
}

/// From one opening checkpoint to the next, or to the end of the file.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub file: PathBuf,
    pub offset: u64,
    pub lines: u64,
    pub first_line: u64,
    /// The opening one, and the hash of the one before it.
    pub checkpoint: u64,
    pub prev: String,
    /// The last one, its hash, and whether there are lines that it closes.
    pub last: u64,
    pub last_hash: String,
    pub closes: bool,
    pub ends_file: bool,
}

struct Walk<'a> {
    verifying: Option<&'a dyn Fn(&str) -> bool>,
    report: Report,
    /// The chain behind the last checkpoint, where that line ends in its file, and its number.
    sealed: Option<(Chain, u64, u64)>,
    chain: Option<Chain>,
    hashes: Vec<Hash>,
    forks: Forks,
    file: PathBuf,
    line: u64,
}

impl<'a> Walk<'a> {
    fn new(verifying: Option<&'a dyn Fn(&str) -> bool>) -> Self {
        Self {
            verifying,
            report: Report::default(),
            sealed: None,
            chain: None,
            hashes: Vec::new(),
            forks: Forks::default(),
            file: PathBuf::new(),
            line: 0,
        }
    }

    fn find(&mut self, what: impl Into<String>) {
        self.report.findings.push(Finding {
            file: self.file.clone(),
            line: self.line,
            what: what.into(),
        });
    }

    /// A first reading: where segments begin.
    fn find_segments(
        &mut self,
        file: &Path,
        segments: &mut Vec<Segment>,
    ) -> Result<(), AuditError> {
        let failed = |error| AuditError::read(file, error);
        let mut reader = BufReader::new(File::open(file).map_err(failed)?);
        file.clone_into(&mut self.file);
        let mut buffer = Vec::new();
        let (mut offset, mut line, mut begun) = (0, 0, false);
        let mut closed = 0;
        loop {
            buffer.clear();
            let length = reader.read_until(b'\n', &mut buffer).map_err(failed)?;
            if length == 0 {
                break;
            }
            line += 1;
            let checkpoint = Parts::of(trimmed(&buffer))
                .filter(|parts| parts.is("checkpoint"))
                .and_then(|parts| Some((parts.parse::<CheckpointLine>()?, hex(&parts.hash))));
            if let Some((checkpoint, hash)) = checkpoint {
                if checkpoint.opening.is_some() {
                    segments.push(Segment {
                        file: file.to_owned(),
                        offset,
                        lines: 0,
                        first_line: line,
                        checkpoint: checkpoint.checkpoint,
                        prev: checkpoint.prev,
                        last: 0,
                        last_hash: String::new(),
                        closes: false,
                        ends_file: false,
                    });
                    begun = true;
                }
                if let Some(segment) = segments.last_mut().filter(|_| begun) {
                    segment.last = checkpoint.checkpoint;
                    segment.last_hash = hash;
                    segment.closes = segment.lines > 0 && line > closed + 1;
                }
                closed = line;
            }
            match segments.last_mut().filter(|_| begun) {
                Some(segment) => segment.lines += 1,
                None if line == 1 => {
                    self.line = 1;
                    self.find("the file does not begin with an opening checkpoint");
                }
                None => {}
            }
            offset += length as u64;
        }
        if let Some(segment) = segments.last_mut().filter(|_| begun) {
            segment.ends_file = true;
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment) -> Result<(), AuditError> {
        let failed = |error| AuditError::read(&segment.file, error);
        let mut file = File::open(&segment.file).map_err(failed)?;
        file.seek(SeekFrom::Start(segment.offset)).map_err(failed)?;
        let mut reader = BufReader::new(file);
        segment.file.clone_into(&mut self.file);
        self.line = segment.first_line - 1;
        let mut end = segment.offset;
        let mut buffer = Vec::new();
        for _ in 0..segment.lines {
            buffer.clear();
            end += reader.read_until(b'\n', &mut buffer).map_err(failed)? as u64;
            self.line += 1;
            if buffer.last() != Some(&b'\n') {
                // A crash leaves such a line behind the last checkpoint; the store has it still.
                if self.verifying.is_some() || !segment.ends_file {
                    self.find("the last line is not complete");
                }
                continue;
            }
            self.take(trimmed(&buffer), end);
        }
        let unsealed = self.hashes.len() as u64;
        if segment.ends_file {
            self.report.unsealed += unsealed;
        } else if unsealed > 0 {
            self.find(format!(
                "{unsealed} lines before an opening checkpoint are signed by none"
            ));
        }
        // What no checkpoint covers is no part of the chain that goes on elsewhere.
        self.chain = self.sealed.as_ref().map(|(chain, _, _)| chain.clone());
        self.hashes.clear();
        Ok(())
    }

    fn take(&mut self, line: &[u8], end: u64) {
        let Some(parts) = Parts::of(line) else {
            self.find("the line was changed: its hash is not that of its bytes");
            return;
        };
        let behind = self.chain.as_ref().map_or(0, |chain| chain.checkpoint);
        self.forks.meet(&parts, behind);
        let taken = if parts.is("entry") {
            parts.parse().map(|line| self.entry(&line, parts.hash))
        } else if parts.is("break") {
            parts
                .parse()
                .map(|line| self.segment_break(&line, parts.hash))
        } else if parts.is("head") {
            parts.parse().map(|line| self.head(&line, parts.hash))
        } else {
            parts
                .parse()
                .map(|line| self.checkpoint(&line, &parts, end))
        };
        if taken.is_none() {
            self.find("the line is none that was ever written");
        }
    }

    /// What is not on the chain: whole, signed, and sealed by somebody else.
    fn asides(&mut self) -> Result<(), AuditError> {
        let forks = std::mem::take(&mut self.forks);
        for aside in &forks.asides {
            let mut walk = Self::new(self.verifying);
            walk.chain = forks.before(aside).cloned();
            walk.segment(&aside.segment)?;
            self.report.findings.append(&mut walk.report.findings);
            self.report.missing.append(&mut walk.report.missing);
            self.report.unsealed += walk.report.unsealed;
            self.file.clone_from(&aside.segment.file);
            let ended = walk.sealed.as_ref().map(|(_, _, line)| *line);
            self.line = ended.unwrap_or(aside.segment.first_line);
            match forks.judge(aside) {
                Judged::Sealed(by, sealed) => self.report.superseded.push(Superseded {
                    file: self.file.clone(),
                    line: self.line,
                    checkpoint: aside.segment.last,
                    entries: aside.entries(),
                    by,
                    sealed,
                }),
                Judged::NotYet(lines) => self.report.unsealed += lines,
                Judged::Wrong(what) => self.find(what),
            }
        }
        Ok(())
    }

    fn entry(&mut self, line: &EntryLine, hash: Hash) {
        let mut chain = self.chain.take().unwrap_or_default();
        let head = chain.head(line.shard);
        let expected = head.position.sequence.saturating_add(1);
        let (shard, sequence) = (line.shard, line.sequence);
        if sequence > expected {
            let last = sequence - 1;
            self.find(format!(
                "entries {expected} to {last} of shard {shard} are missing"
            ));
        } else if sequence < expected {
            self.find(format!("entry {sequence} of shard {shard} is out of order"));
        } else if line.prev != hex(&head.hash) {
            self.find(format!(
                "entry {sequence} of shard {shard} does not follow the one before it"
            ));
        }
        // Going on from what the line says keeps one change from being found in every line behind.
        let position = Position {
            sequence,
            link: Link(unhex(&line.link).unwrap_or_default()),
        };
        chain.heads.insert(shard, Head { position, hash });
        self.chain = Some(chain);
        self.hashes.push(hash);
        self.report.entries += 1;
    }

    fn segment_break(&mut self, line: &BreakLine, hash: Hash) {
        let mut chain = self.chain.take().unwrap_or_default();
        let head = chain.head(line.shard);
        if line.prev != hex(&head.hash) || line.sealed != head.position.sequence {
            self.find("the segment break does not follow the entry before it");
        }
        self.report.breaks.push(SegmentBreak {
            file: self.file.clone(),
            line: self.line,
            shard: line.shard,
            sealed: line.sealed,
            resumes: line.resumes,
        });
        let position = Position {
            sequence: line.resumes,
            link: Link(unhex(&line.link).unwrap_or_default()),
        };
        chain.heads.insert(line.shard, Head { position, hash });
        self.chain = Some(chain);
        self.hashes.push(hash);
    }

    fn head(&mut self, line: &HeadLine, hash: Hash) {
        let mut chain = self.chain.take().unwrap_or_default();
        if line.prev != hex(&chain.head(FENCES).hash) {
            self.find("the head of the fence log does not follow the one before it");
        }
        let position = Position {
            sequence: line.sequence,
            link: Link(unhex(&line.link).unwrap_or_default()),
        };
        chain.heads.insert(FENCES, Head { position, hash });
        self.chain = Some(chain);
        self.hashes.push(hash);
    }

    fn checkpoint(&mut self, line: &CheckpointLine, parts: &Parts<'_>, end: u64) {
        // SECURITY: the signature first. An opening is believed about where a chain begins.
        let signed = parts.is_claimed(line.checkpoint)
            && self
                .verifying
                .is_none_or(|verifying| parts.jws.is_some_and(verifying));
        if !signed {
            self.find("the checkpoint is not signed by a key of this broker");
        }
        let opened = line
            .opening
            .as_ref()
            .and_then(|heads| Chain::read(line.checkpoint.saturating_sub(1), &line.prev, heads));
        let begins = self.chain.is_none();
        let mut chain = match (self.chain.take(), opened) {
            (None, Some(opened)) => opened,
            (Some(chain), Some(opened)) if line.checkpoint > chain.checkpoint + 1 => {
                let missing = chain.checkpoint + 1..=line.checkpoint - 1;
                self.report.missing.push(missing);
                opened
            }
            // It follows another one with the number of the last one here.
            (Some(chain), Some(opened))
                if line.checkpoint == chain.checkpoint + 1
                    && line.prev != hex(&chain.checkpoint_hash) =>
            {
                let other = chain.checkpoint;
                self.report.missing.push(other..=other);
                opened
            }
            (chain, _) => chain.unwrap_or_default(),
        };
        if line.checkpoint != chain.checkpoint.saturating_add(1) {
            let expected = chain.checkpoint.saturating_add(1);
            let what = format!(
                "checkpoint {expected} belongs here, not {}",
                line.checkpoint
            );
            self.find(what);
        } else if line.prev != hex(&chain.checkpoint_hash) {
            self.find("the checkpoint does not follow the one before it");
        }
        if line.vector != hex(&chain.vector()) {
            self.find("the entries before this checkpoint are not those that it closed");
        } else if line.run != hex(&run(&self.hashes)) {
            self.find("the lines before this checkpoint are not in the order that it closed");
        }
        if begins {
            self.report.first = Some(line.checkpoint);
        }
        chain.checkpoint = line.checkpoint;
        chain.checkpoint_hash = parts.hash;
        self.hashes.clear();
        self.report.checkpoints += 1;
        self.report.last = Some((line.checkpoint, hex(&parts.hash)));
        let is_opening = line.opening.is_some();
        self.forks.close(&chain, &self.file, is_opening);
        self.sealed = Some((chain.clone(), end, self.line));
        self.chain = Some(chain);
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}
