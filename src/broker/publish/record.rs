//! The published configuration as the store holds it: a MAC, then MessagePack.

use crate::broker::{Reason, Refusal};
use crate::ids::ShardId;
use crate::secret::{SealError, Sealer};
use crate::store::{Key, Record, Store, StoreError};
use crate::wire::{ConfigFile, PublishRequest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

const MAC_PURPOSE: &str = "published configuration";
const MAC_LENGTH: usize = 32;

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
    /// Bounded, and each name once.
    pub(super) fn of(request: PublishRequest) -> Result<Self, String> {
        let pairs = |files: Vec<ConfigFile>| -> Vec<(String, String)> {
            files
                .into_iter()
                .map(|file| (file.name, file.text))
                .collect()
        };
        let mut files = Self {
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
        files.texts.sort();
        files.attached.sort();
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
    pub(super) fn seal(&self, sealer: &Sealer) -> Result<Vec<u8>, Refusal> {
        let fault = |why: String| Refusal::new(Reason::Internal, why);
        let body = rmp_serde::to_vec_named(self).map_err(|error| fault(error.to_string()))?;
        let mac = sealer
            .mac(MAC_PURPOSE, &body)
            .map_err(|error| fault(error.to_string()))?;
        let mut value = mac.to_vec();
        value.extend_from_slice(&body);
        Ok(value)
    }

    /// SECURITY: whoever can write to the store cannot put a configuration in place: nothing in the
    /// record is looked at before its MAC holds.
    pub fn open(sealer: &Sealer, value: &[u8]) -> Result<Self, SealError> {
        let (mac, body) = value
            .split_at_checked(MAC_LENGTH)
            .ok_or(SealError::Unopenable)?;
        if !sealer.mac_holds(MAC_PURPOSE, body, mac) {
            return Err(SealError::Unopenable);
        }
        rmp_serde::from_slice(body).map_err(|_| SealError::Unopenable)
    }

    /// The one that the log names, or why it cannot be had.
    ///
    /// SECURITY: an older record has a good MAC, too. The log says which one counts.
    pub async fn load(
        store: &dyn Store,
        sealer: &Sealer,
        wanted: &crate::fences::Published,
    ) -> Result<Self, String> {
        let found = read(store).await.map_err(|error| error.to_string())?;
        let found = found.ok_or("it is not in the store")?;
        let stored = Self::open(sealer, &found.value).map_err(|_| {
            "its record in the store was changed, or is not of our sealing keys".to_owned()
        })?;
        if !stored.is(wanted) {
            return Err(format!(
                "the store has configuration {} of number {}, and the log wants {} of number {}",
                stored.hash, stored.revision, wanted.hash, wanted.revision
            ));
        }
        Ok(stored)
    }

    pub(super) fn is(&self, wanted: &crate::fences::Published) -> bool {
        (self.revision, &self.hash) == (wanted.revision, &wanted.hash)
    }
}

pub(super) fn key() -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: b"config/published".to_vec(),
    }
}

pub(super) async fn read(store: &dyn Store) -> Result<Option<Record>, StoreError> {
    Ok(store.get(&[key()]).await?.into_iter().next().flatten())
}
