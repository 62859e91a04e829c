//! What an entry of the log names: a record of the store that counts from there on, by its number and its
//! hash. The store may lose the record, or somebody may put an older one in its place; the log says which.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// INVARIANT: numbers only go up, and of two with one number, which a failover leaves, the greater hash counts.
/// So every replica comes to the same one, in whatever order it reads them, and an entry that is put on the
/// log again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    /// Counts the changes.
    pub number: u64,
    /// Of what is named, in hex.
    pub sha256: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.sha256)
    }
}

impl FromStr for Named {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, sha256) = text.split_once(' ').ok_or(())?;
        if sha256.is_empty() || sha256.contains(char::is_whitespace) {
            return Err(());
        }
        Ok(Self {
            number: number.parse().map_err(|_| ())?,
            sha256: sha256.to_owned(),
        })
    }
}
