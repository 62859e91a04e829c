//! What lies in the file, and how much of it: for measuring, never for deciding.

use super::layout::{COMMITS, COUNTS, ENTRIES, MEMBERS, NOTES, RANKS, RECORDS, SHARERS, TABLES};
use super::{Embedded, unavailable};
use crate::store::StoreError;
use redb::{ReadableTable, TableHandle};
use std::collections::BTreeMap;

/// What an open file holds. Bytes are those of keys and values: what pages, and room that is kept free, take
/// besides shows in the size of the file alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// By what they are for: records, facts and commits, and members of indexes, each once.
    pub rows: BTreeMap<String, u64>,
    pub bytes: BTreeMap<String, u64>,
}

impl Embedded {
    /// Reads every row.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        self.read(|transaction| of_all(transaction).map_err(|error| unavailable(&error)))
            .await
    }
}

fn of_all(transaction: &redb::ReadTransaction) -> Result<Usage, redb::Error> {
    let mut usage = Usage::default();
    for definition in TABLES {
        let table = transaction.open_table(definition)?;
        let name = definition.name();
        // A row in the others belongs to one that is counted already.
        let counts = [RECORDS, NOTES, MEMBERS, ENTRIES, COMMITS]
            .iter()
            .any(|counted| counted.name() == name);
        for row in table.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            let what = what_for(name, key);
            *usage.bytes.entry(what.clone()).or_default() += (key.len() + value.len()) as u64;
            if counts {
                *usage.rows.entry(what).or_default() += 1;
            }
        }
    }
    Ok(usage)
}

/// The name of what a key is about, up to what tells one from another. Expiries are not told apart.
fn what_for(table: &str, key: &[u8]) -> String {
    let name = match table {
        name if name == RECORDS.name() || name == NOTES.name() || name == SHARERS.name() => {
            key.get(1..)
        }
        name if name == MEMBERS.name()
            || name == RANKS.name()
            || name == ENTRIES.name()
            || name == COUNTS.name() =>
        {
            named(key)
        }
        name if name == COMMITS.name() => Some(b"commits".as_slice()),
        _ => None,
    };
    let name = name.unwrap_or(b"bookkeeping");
    let until = name.iter().position(|byte| *byte == b'/');
    String::from_utf8_lossy(name.get(..until.unwrap_or(name.len())).unwrap_or(name)).into_owned()
}

/// Of an index, a log or a tally: the shard, how long the name is, the name.
fn named(key: &[u8]) -> Option<&[u8]> {
    let (length, rest) = key.get(1..)?.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
