//! The published configuration as the store holds it.

use crate::broker::named::{Record, Slot};
use crate::broker::{Reason, Refusal};
use crate::fences::Named;
use crate::secret::Sealer;
use crate::store::Store;
use crate::wire::{ConfigFile, PublishRequest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub const SLOT: Slot = Slot {
    key: "config/published",
    purpose: "published configuration",
};

/// Names and texts together.
pub const MOST_BYTES: usize = 512 * 1024;
const MOST_FILES: usize = 1024;
const LONGEST_NAME: usize = 255;

/// What is common to all replicas, as it stands in the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// `*.toml` and `policies/*.cedar`: name and text.
    pub texts: Vec<(String, String)>,
    /// Key sets and certificates that those name.
    pub attached: Vec<(String, String)>,
}

/// A publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub revision: u64,
    pub hash: String,
    /// The issuer identifier: a replica of another one does not take it over.
    pub url: String,
    pub by: String,
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    pub files: Files,
}

impl Files {
    /// In one order, however they were gathered.
    pub fn sorted(mut self) -> Self {
        self.texts.sort();
        self.attached.sort();
        self
    }

    /// Bounded, and each name once.
    pub(super) fn of(request: PublishRequest) -> Result<Self, String> {
        let pairs = |files: Vec<ConfigFile>| -> Vec<(String, String)> {
            files
                .into_iter()
                .map(|file| (file.name, file.text))
                .collect()
        };
        let files = Self {
            texts: pairs(request.files),
            attached: pairs(request.attached),
        };
        // It would be well formed, and shut out everybody who could publish another one.
        if files.texts.is_empty() {
            return Err("there is no file of a configuration in it".to_owned());
        }
        let all = || files.texts.iter().chain(&files.attached);
        let bytes: usize = all().map(|(name, text)| name.len() + text.len()).sum();
        if bytes > MOST_BYTES {
            return Err(format!(
                "the files are {bytes} bytes: at most {MOST_BYTES} are published"
            ));
        }
        if all().count() > MOST_FILES {
            return Err(format!("more than {MOST_FILES} files"));
        }
        let odd = |name: &str| {
            name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control)
        };
        if all().any(|(name, _)| odd(name)) {
            return Err("a file's name is empty, too long or holds a control character".to_owned());
        }
        if let Some((name, _)) = files.texts.iter().find(|(name, _)| !is_configuration(name)) {
            return Err(format!(
                "`{name}` is neither `*.toml` nor `policies/*.cedar`"
            ));
        }
        let files = files.sorted();
        let twice = |list: &[(String, String)]| {
            list.windows(2)
                .any(|pair| matches!(pair, [(a, _), (b, _)] if a == b))
        };
        if twice(&files.texts) || twice(&files.attached) {
            return Err("a file stands twice".to_owned());
        }
        Ok(files)
    }
}

fn is_configuration(name: &str) -> bool {
    let path = std::path::Path::new(name);
    let folder = path.parent().and_then(|folder| folder.file_name());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => true,
        Some("cedar") => folder.is_some_and(|folder| folder == "policies"),
        _ => false,
    }
}

impl Stored {
    pub fn named(&self) -> Named {
        Named {
            number: self.revision,
            sha256: self.hash.clone(),
        }
    }

    pub fn record(&self) -> Result<Record, Refusal> {
        let content = rmp_serde::to_vec_named(self);
        let content = content.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        Ok(Record {
            named: self.named(),
            content,
        })
    }

    fn of(record: &Record) -> Option<Self> {
        let stored: Self = rmp_serde::from_slice(&record.content).ok()?;
        (stored.named() == record.named).then_some(stored)
    }

    /// The one that the log names, or why it cannot be had.
    pub async fn load(store: &dyn Store, sealer: &Sealer, wanted: &Named) -> Result<Self, String> {
        let record = SLOT.load((store, sealer), wanted).await?;
        Self::of(&record).ok_or_else(|| "its record is of another version of dayfly".to_owned())
    }
}
