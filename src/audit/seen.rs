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

    /// Whoever reads it later finds this number or a later one, or, after a crash, an earlier one.
    pub(super) fn note(&mut self, checkpoint: u64) -> Result<(), AuditError> {
        if checkpoint <= self.noted {
            return Ok(());
        }
        let new = self.path.with_extension("seen.new");
        std::fs::write(&new, format!("{checkpoint}\n"))
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|error| AuditError::write(&self.path, error))?;
        self.noted = checkpoint;
        Ok(())
    }

    pub(super) fn refuse_before(&self, store: u64) -> Result<(), AuditError> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(AuditError::read(&self.path, error)),
        };
        // A file that a crash left torn says nothing.
        match text.trim().parse::<u64>() {
            Ok(seen) if seen > store => Err(AuditError::SeenLater {
                seen,
                store,
                path: self.path.display().to_string(),
            }),
            _ => Ok(()),
        }
    }
}
