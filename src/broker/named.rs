//! A record of the store that the fence log names ([`Named`]): it counts from one position of the log on, and
//! no other one is believed.
//!
//! It lies on the shard of the installation, so that it, the entry that names it and its audit are one commit.
//! At rest: a MAC, the number and the hash, the content.

use crate::fences::Named;
use crate::ids::ShardId;
use crate::secret::{SealError, Sealer};
use crate::store::{CommitId, Guard, Key, Outcome, Store, StoreError, Transaction, Write, settle};
use time::{Duration, OffsetDateTime};

const DEADLINE: Duration = Duration::seconds(10);

/// Where one kind of record lies, and what its MAC is for.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub key: &'static str,
    pub purpose: &'static str,
}

/// A record that one of us wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub named: Named,
    pub content: Vec<u8>,
}

/// What lies there, with what guards its change.
#[derive(Debug)]
pub struct Found {
    /// `None`: there is none, or nobody of ours wrote it.
    pub record: Option<Record>,
    /// A sealing key that is to go has authenticated it.
    is_old: bool,
    is_there: bool,
    guard: Guard,
}

impl Found {
    /// Holds while nobody writes there.
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// The number after the last one, of what the log named and what lies here.
    ///
    /// INVARIANT: a failover may have lost the entry and kept the record.
    pub fn next(&self, last: Option<u64>) -> Option<u64> {
        let here = self.record.as_ref().map(|record| record.named.number);
        last.max(here).unwrap_or(0).checked_add(1)
    }
}

impl Slot {
    fn place(self) -> Key {
        Key {
            shard: ShardId::INSTALLATION,
            name: self.key.as_bytes().to_vec(),
        }
    }

    /// SECURITY: whoever can write to the store puts nothing in place: nothing of the record is looked at
    /// before its MAC holds.
    pub async fn find(self, store: &dyn Store, sealer: &Sealer) -> Result<Found, StoreError> {
        let found = store.get(&[self.place()]).await?.into_iter().next();
        let found = found.flatten();
        let opened = found.as_ref();
        let opened = opened.and_then(|found| sealer.without_mac(self.purpose, &found.value));
        let record = opened.and_then(|(body, _)| Record::read(body));
        let version: Option<CommitId> = found.as_ref().map(|found| found.version);
        Ok(Found {
            record,
            is_old: opened.is_some_and(|(_, is_first)| !is_first),
            is_there: found.is_some(),
            guard: match version {
                Some(version) => Guard::Unchanged(self.place(), version),
                None => Guard::Absent(self.place()),
            },
        })
    }

    /// The one that the log names, or why it cannot be had.
    ///
    /// SECURITY: an older record has a good MAC, too, and a newer one is none that counts yet. The log says which one does.
    pub async fn load(
        self,
        (store, sealer): (&dyn Store, &Sealer),
        wanted: &Named,
    ) -> Result<Record, String> {
        let found = self.find(store, sealer).await;
        let found = found.map_err(|error| error.to_string())?;
        let record = match (found.record, found.is_there) {
            (Some(record), _) => record,
            (None, false) => return Err("it is not in the store".to_owned()),
            (None, true) => {
                let why = "its record in the store was changed, or is not of our sealing keys";
                return Err(why.to_owned());
            }
        };
        if record.named != *wanted {
            let Named { number, sha256 } = record.named;
            return Err(format!(
                "the store has {sha256} of number {number}, and the log wants {} of number {}",
                wanted.sha256, wanted.number
            ));
        }
        Ok(record)
    }

    /// Under the first of the sealing keys.
    pub fn put(self, sealer: &Sealer, record: &Record) -> Result<Write, SealError> {
        let head = format!("{}\n", record.named);
        let body = [head.as_bytes(), &record.content].concat();
        Ok(Write::Put {
            key: self.place(),
            value: sealer.with_mac(self.purpose, &body)?,
            expires_at: None,
        })
    }

    /// Puts back what this replica holds, as the log names it, where a failover lost the record or somebody
    /// changed it; and writes it anew under the first of the sealing keys, or the others could never go.
    pub async fn keep(
        self,
        (store, sealer): (&dyn Store, &Sealer),
        held: &Record,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let found = self.find(store, sealer).await?;
        if let Some(record) = &found.record {
            // What is newer than the log is being written just now.
            let newer = record.named.number > held.named.number;
            if newer || (record.named == held.named && !found.is_old) {
                return Ok(());
            }
        }
        let put = self.put(sealer, held);
        let put = put.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(found.guard())
            .write(put);
        // Who was faster did the same.
        let done = settle(store, transaction).await?;
        if matches!(done, Outcome::Applied { .. } | Outcome::Unreplicated { .. }) {
            let (record, number) = (self.key, held.named.number);
            tracing::warn!(
                record,
                number,
                "a record was lost or under an old sealing key: it is written again"
            );
        }
        Ok(())
    }
}

impl Record {
    fn read(body: &[u8]) -> Option<Self> {
        let at = body.iter().position(|byte| *byte == b'\n')?;
        let (head, content) = body.split_at_checked(at)?;
        Some(Self {
            named: std::str::from_utf8(head).ok()?.parse().ok()?,
            content: content.get(1..)?.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests;
