//! The configuration of `dayfly serve` without one: loopback, one node, nothing to lose.
//!
//! It knows no agent, so it issues nothing until someone writes a mission; it is there so that the
//! doors can be looked at.

use super::document::Document;
use super::problem::Problems;
use super::settings::Settings;
use crate::ids;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A broker for looking around, and where it keeps its state.
#[derive(Debug, Clone)]
pub struct Development {
    pub settings: Settings,
    /// Holds the store, the sealing key and the exported audit.
    pub dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum DevelopmentError {
    #[error("`{path}` cannot be made: {why}")]
    Folder { path: String, why: std::io::Error },
    #[error("the development configuration is not usable:\n{0}")]
    Problems(#[from] Problems),
}

const CONFIGURATION: &str = include_str!("development.toml");
const SEALING_KEY: &str = "sealing.key";

/// The development configuration, with its state in `dir`: made there, for this user alone, where
/// it is missing.
pub fn development(dir: PathBuf) -> Result<Development, DevelopmentError> {
    let fault = |why| DevelopmentError::Folder {
        path: dir.display().to_string(),
        why,
    };
    let dir = std::path::absolute(&dir).map_err(fault)?;
    let fault = |why| DevelopmentError::Folder {
        path: dir.display().to_string(),
        why,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(fault)?;
    sealing_key_file(&dir.join(SEALING_KEY)).map_err(fault)?;
    let files = vec![("development.toml".to_owned(), CONFIGURATION.to_owned())];
    let document = Document::gather(files, dir.clone(), &[]);
    let settings = document.resolve()?;
    Ok(Development { settings, dir })
}

/// Makes a sealing key that only this user can read, unless there is one.
fn sealing_key_file(path: &Path) -> std::io::Result<()> {
    let made = std::fs::OpenOptions::new()
        .write(true)
        // SECURITY: an existing key is never replaced: it is the only one that opens the store.
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    };
    let key: [u8; 32] = ids::random();
    writeln!(file, "{}", STANDARD.encode(key))?;
    file.sync_all()
}
