//! The configuration: one folder of TOML tables and Cedar policies, read as a whole.
//!
//! In: a folder, or files from elsewhere. Out: [`Settings`], the domain values that the other rooms
//! are built from, or [`Problems`]: every one of them at once, with file, line and column, and what
//! to write instead. Unknown keys are errors, secrets are references, nothing is asked of a network.

mod agents_table;
mod broker_table;
mod certificates;
mod changes;
mod check;

mod decoder;
mod development;

mod document;
mod issuers;
mod missions;
mod people;
mod problem;
mod published;
mod questions;
mod reach;
mod reader;
mod registered;
mod resolve;
mod responses;
mod schema;
mod secrets;
mod settings;
mod signers;
mod shape;
mod source;
mod sources;
mod tables;
mod targets;
mod terms;
mod tree;
mod trust_domains;
mod values;
mod whole;

pub use broker_table::FENCE_VIEW_MAX_AGE;
pub use changes::{Approval, Change, Changes, Direction, Reach, changes};
pub use check::{CaseResult, CheckReport, check, check_files, check_with};
pub use development::{Development, DevelopmentError, development};
pub use document::Document;
pub use problem::{Code, Problem, Problems, Severity};
pub use published::{check_published, publishable, published, secret_within};
pub use registered::Joined;
pub use schema::schema;
pub use secrets::{SecretError, sealing_key, secret_reference};
pub use settings::{
    BrokerSettings, Case, Expectation, MtlsSettings, Node, NotifyTable, NotifyWay, OperatorsTable,
    PollTable, ResourceServerProof, ResourceServerTable, RoleTable, Settings, SourceTable,
    StoreSettings,
};
pub use values::duration;

use std::path::{Path, PathBuf};

/// Reads a folder: every `*.toml` below it, and `policies/*.cedar`.
pub fn load(dir: &Path) -> Result<Document, Problems> {
    whole(Document::read(dir))
}

/// The same from files that are already in memory, as (name, text). Relative paths in them start
/// at `base`.
pub fn load_with(files: Vec<(String, String)>, base: PathBuf) -> Result<Document, Problems> {
    whole(Document::gather(files, base, &[]))
}

impl Document {
    /// Like `resolve`, with what is wrong in a file that does not parse.
    pub fn whole(self) -> Result<Settings, Problems> {
        whole(self)?.resolve()
    }
}

/// A file that does not parse must not hide what is wrong in the others.
fn whole(document: Document) -> Result<Document, Problems> {
    if !document.early.has_errors() {
        return Ok(document);
    }
    match document.resolve() {
        Err(problems) => Err(problems),
        Ok(_) => Err(document.early),
    }
}

#[cfg(test)]
mod tests;
