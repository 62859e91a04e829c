//! The newest checkpoint that another replica sealed, in a file beside this one's export: a replica that
//! never sealed would believe any store that was put back.

use super::AuditError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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

    /// Whoever reads it later finds this number or a later one, or, after a crash, an earlier one. That it cannot
    /// be kept stops nothing.
    pub(super) fn note(&mut self, checkpoint: u64) {
        if checkpoint <= self.noted {
            return;
        }
        match self.put(checkpoint) {
            Ok(()) => self.noted = checkpoint,
            Err(error) => tracing::warn!(%error, "the newest checkpoint is not kept"),
        }
    }

    /// Also where it was later: a loss was accepted.
    pub(super) fn put(&self, checkpoint: u64) -> Result<(), AuditError> {
        let new = self.path.with_extension("seen.new");
        std::fs::write(&new, format!("{checkpoint}\n"))
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|error| AuditError::write(&self.path, error))
    }

    pub(super) fn refuse_before(&self, store: u64) -> Result<(), AuditError> {
        match read(&self.path)? {
            Some(seen) if seen > store => Err(AuditError::SeenLater {
                seen,
                store,
                path: self.path.display().to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// The newest of what was seen beside an export, or in a folder of exports.
pub(super) fn newest(path: &Path) -> Result<Option<u64>, AuditError> {
    if !path.is_dir() {
        return read(&path.with_extension("seen"));
    }
    let failed = |error| AuditError::read(path, error);
    let mut newest = None;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "seen")
        {
            newest = newest.max(read(&file)?);
        }
    }
    Ok(newest)
}

/// A file that a crash left torn says nothing.
fn read(path: &Path) -> Result<Option<u64>, AuditError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AuditError::read(path, error)),
    }
}
