//! The newest checkpoint that another replica sealed, in a file beside this one's export: a replica that
//! never sealed would believe any store that was put back.

use super::AuditError;
use super::state::CLOCKS;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

#[derive(Debug)]
pub(super) struct Seen {
    path: PathBuf,
    noted: u64,
}

impl Seen {
    pub(super) fn beside(export: &Path) -> Self {
        Self {
            path: export.with_extension("seen"),
            noted: 0,
        }
    }

    /// What was seen is lost, and sealing goes on from here.
    pub(super) fn begin_anew(&mut self, checkpoint: u64, now: OffsetDateTime) {
        self.noted = 0;
        self.note(checkpoint, now);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever reads it later finds this number or a later one, or, after a crash, an earlier one. That it cannot
    /// be kept stops nothing.
    pub(super) fn note(&mut self, checkpoint: u64, now: OffsetDateTime) {
        if checkpoint <= self.noted {
            return;
        }
        match self.put(checkpoint, now) {
            Ok(()) => self.noted = checkpoint,
            Err(error) => tracing::warn!(%error, "the newest checkpoint is not kept"),
        }
    }

    /// A loss was accepted then: what was seen before is no more.
    ///
    /// SECURITY: or whoever can write to the store could put the record back that says so.
    pub(super) fn accept(&self, checkpoint: u64, at: OffsetDateTime) -> Result<(), AuditError> {
        let noted = read(&self.path)?;
        let after = |noted: &Noted| noted.at > (at + CLOCKS).unix_timestamp();
        if noted.filter(after).is_some() {
            self.refuse_before(checkpoint)?;
        }
        self.put(checkpoint, at)
    }

    fn put(&self, checkpoint: u64, at: OffsetDateTime) -> Result<(), AuditError> {
        let new = self.path.with_extension("seen.new");
        std::fs::write(&new, format!("{checkpoint} {}\n", at.unix_timestamp()))
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|error| AuditError::write(&self.path, error))
    }

    pub(super) fn refuse_before(&self, store: u64) -> Result<(), AuditError> {
        match read(&self.path)? {
            Some(Noted { checkpoint, .. }) if checkpoint > store => Err(AuditError::SeenLater {
                seen: checkpoint,
                store,
                path: self.path.display().to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// The newest of what was seen beside an export, or in a folder of exports.
pub(super) fn newest(path: &Path) -> Result<Option<u64>, AuditError> {
    let number = |noted: Option<Noted>| noted.map(|noted| noted.checkpoint);
    if !path.is_dir() {
        return read(&path.with_extension("seen")).map(number);
    }
    let failed = |error| AuditError::read(path, error);
    let mut newest = None;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "seen")
        {
            newest = newest.max(number(read(&file)?));
        }
    }
    Ok(newest)
}

struct Noted {
    checkpoint: u64,
    /// In seconds; none where an earlier version wrote it.
    at: i64,
}

/// A file that a crash left torn says nothing.
fn read(path: &Path) -> Result<Option<Noted>, AuditError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AuditError::read(path, error)),
    };
    let mut numbers = text.split_ascii_whitespace();
    let checkpoint = numbers.next().and_then(|number| number.parse().ok());
    let at = numbers.next().and_then(|number| number.parse().ok());
    Ok(checkpoint.map(|checkpoint| Noted {
        checkpoint,
        at: at.unwrap_or(0),
    }))
}
