//! The export's files: appended, synced, turned over by size; readable by their owner alone.

use super::AuditError;
use super::chain::Chain;
use super::verify::own;
use crate::steps::{self, Step};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file larger than this is closed and put beside, under the number of its last checkpoint.
const LARGEST: u64 = 64 << 20;

/// JSON Lines in a file. What [`append`](Self::append) has answered is on the disk.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    file: File,
    length: u64,
    largest: u64,
}

impl FileSink {
    /// Opens or makes the file, and cuts off what lies behind its last checkpoint: a crash left
    /// it, and the store still has it. A file that was changed is left alone and refused.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<Chain>), AuditError> {
        let file = create(path)?;
        let own = own(path)?;
        if let Some(finding) = own.findings.first() {
            return Err(AuditError::changed(path, finding));
        }
        let (chain, length) = match own.sealed {
            Some((chain, end)) => (Some(chain), end),
            None => (None, 0),
        };
        let failed = |error| AuditError::write(path, error);
        file.set_len(length).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        sync_folder(path)?;
        let sink = Self {
            path: path.to_owned(),
            file,
            length,
            largest: LARGEST,
        };
        Ok((sink, chain))
    }

    #[cfg(test)]
    pub(super) fn turned_over_at(mut self, largest: u64) -> Self {
        self.largest = largest;
        self
    }

    /// Nothing is in the file yet: an opening checkpoint comes first.
    pub(super) fn is_new(&self) -> bool {
        self.length == 0
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), AuditError> {
        let written = self
            .file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a run must not stay: the next one begins where this one did.
            let _ = self.file.set_len(self.length);
            return Err(AuditError::write(&self.path, error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Takes back the last `bytes`, which nobody was told of.
    pub(super) fn retract(&mut self, bytes: u64) -> Result<(), AuditError> {
        self.length = self.length.saturating_sub(bytes);
        self.file
            .set_len(self.length)
            .and_then(|()| self.file.sync_all())
            .map_err(|error| AuditError::write(&self.path, error))
    }

    /// Begins a new file when this one is large. `checkpoint` is the last one in it.
    pub(super) fn turn_over(&mut self, checkpoint: u64) -> Result<(), AuditError> {
        if self.length < self.largest {
            return Ok(());
        }
        let aside = beside(&self.path, checkpoint);
        steps::at(Step::TurningOver);
        std::fs::rename(&self.path, &aside).map_err(|error| AuditError::write(&aside, error))?;
        steps::at(Step::TurnedOver);
        self.file = create(&self.path)?;
        self.length = 0;
        sync_folder(&self.path)
    }
}

fn create(path: &Path) -> Result<File, AuditError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| AuditError::write(path, error))
}

/// A new name is on the disk when its folder is.
fn sync_folder(path: &Path) -> Result<(), AuditError> {
    let folder = folder(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| AuditError::write(folder, error))
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// `audit.jsonl` becomes `audit-000000000042.jsonl`.
fn beside(path: &Path, checkpoint: u64) -> PathBuf {
    let (stem, extension) = named(path);
    path.with_file_name(format!("{stem}-{checkpoint:012}{extension}"))
}

fn named(path: &Path) -> (String, String) {
    let part =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let stem = part(path.file_stem()).unwrap_or_default();
    let extension = part(path.extension()).map(|extension| format!(".{extension}"));
    (stem, extension.unwrap_or_default())
}

/// The files of an export: a file and those that were put beside it, or all of a folder.
pub(super) fn exported(path: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let failed = |error| AuditError::read(path, error);
    let whole = path.is_dir();
    let (stem, extension) = named(path);
    let mut files = Vec::new();
    let folder = if whole { path } else { folder(path) };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().map(|name| name.to_string_lossy());
        let ours = name.is_some_and(|name| {
            if whole {
                return name.ends_with(".jsonl");
            }
            let number = name
                .strip_prefix(&stem)
                .and_then(|rest| rest.strip_suffix(&extension))
                .and_then(|rest| rest.strip_prefix('-'));
            number.is_some_and(|number| number.len() == 12 && number.parse::<u64>().is_ok())
        });
        if ours {
            files.push(file);
        }
    }
    files.sort();
    if !whole {
        // Also where it is missing: then reading it says so.
        files.push(path.to_owned());
    }
    Ok(files)
}
