//! Hash-linked logs: what a position is, and where a reader's position stands on a log.

use super::StoreError;
use std::fmt;
use time::OffsetDateTime;

/// SHA-1 over the previous link and the entry's bytes. It finds a lost tail, it is no signature:
/// what must not be forged carries a MAC or is sealed in the audit chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link(pub [u8; 20]);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A place on a log: how many entries lie up to here, and the hash of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub sequence: u64,
    pub link: Link,
}

impl Position {
    /// Before the first entry.
    pub const ORIGIN: Self = Self {
        sequence: 0,
        link: Link([0; 20]),
    };

    /// The place of an entry appended here.
    #[must_use]
    pub fn next(&self, entry: &[u8]) -> Self {
        Self {
            sequence: self.sequence.saturating_add(1),
            link: link(&self.link, entry),
        }
    }
}

/// The link of an entry: SHA-1(previous link, entry). Every back end computes exactly this.
pub fn link(previous: &Link, entry: &[u8]) -> Link {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&previous.0);
    context.update(entry);
    let digest = context.finish();
    let mut bytes = [0; 20];
    bytes
        .iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    Link(bytes)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub position: Position,
    pub value: Vec<u8>,
}

/// What lies behind a position of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// Entries after the position asked, oldest first, and the head of the log at that moment.
    Entries {
        entries: Vec<LogEntry>,
        head: Position,
        store_now: OffsetDateTime,
    },
    /// The position asked is not on this log: entries were lost, or another history was written.
    Forked { head: Position },
    /// The position asked lies before the oldest entry kept. `oldest` is the place right before
    /// that entry: reading on from there misses nothing that is still kept.
    Trimmed { oldest: Position },
}

/// What a back end read of a log in one moment: its ends, and entries after the position asked.
#[derive(Debug)]
pub(super) struct Reading {
    pub head: Position,
    /// The place of the last entry that was trimmed away.
    pub base: Position,
    pub entries: Vec<LogEntry>,
    pub store_now: OffsetDateTime,
}

impl Reading {
    /// Whether `after` is on this log, and what follows it. Every link is computed anew: a back
    /// end is believed about bytes, not about hashes.
    pub(super) fn judge(self, after: Position) -> Result<Tail, StoreError> {
        let Self {
            head,
            base,
            entries,
            store_now,
        } = self;
        if after.sequence < base.sequence {
            return Ok(Tail::Trimmed { oldest: base });
        }
        let elsewhere = after.sequence > head.sequence
            || (after.sequence == head.sequence && after.link != head.link)
            || (after.sequence == base.sequence && after.link != base.link);
        if elsewhere {
            return Ok(Tail::Forked { head });
        }
        if entries.is_empty() && after != head {
            return Err(StoreError::Corrupt(format!(
                "a log misses its entries {} to {}",
                after.sequence + 1,
                head.sequence
            )));
        }
        let mut previous = after;
        for entry in &entries {
            let expected = previous.next(&entry.value);
            if entry.position != expected {
                if previous == after && entry.position.sequence == expected.sequence {
                    return Ok(Tail::Forked { head });
                }
                return Err(StoreError::Corrupt(format!(
                    "entry {} of a log does not follow the one before it",
                    entry.position.sequence
                )));
            }
            previous = expected;
        }
        Ok(Tail::Entries {
            entries,
            head,
            store_now,
        })
    }
}
