//! Notes, counts and how many share a record: the writer's smaller tables.

use super::layout::{
    COUNTS, NOTE_EXPIRIES, NOTES, SHARERS, Stored, joined, ordered, record_key, tally_key,
};
use super::writer::{Bytes, expired};
use crate::clock::{Clock, SystemClock};
use crate::store::{self, Key, Tally};
use redb::{ReadableTable, WriteTransaction};
use time::OffsetDateTime;

pub(super) struct Small<'a> {
    notes: Bytes<'a>,
    note_expiries: Bytes<'a>,
    sharers: Bytes<'a>,
    counts: Bytes<'a>,
}

/// What does not parse counts for nothing here; it is noticed where it is read.
fn number(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes)
}

impl<'a> Small<'a> {
    pub(super) fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            notes: transaction.open_table(NOTES)?,
            note_expiries: transaction.open_table(NOTE_EXPIRIES)?,
            sharers: transaction.open_table(SHARERS)?,
            counts: transaction.open_table(COUNTS)?,
        })
    }

    pub(super) fn is_unnoted(&self, key: &Key, now: i64) -> Result<bool, redb::Error> {
        Ok(match self.notes.get(record_key(key).as_slice())? {
            // SECURITY: what does not parse is taken for a note: its token stays spent.
            Some(bytes) => {
                Stored::decode_note(bytes.value()).is_some_and(|(until, _)| until <= now)
            }
            None => true,
        })
    }

    pub(super) fn note(
        &mut self,
        key: &Key,
        value: &[u8],
        until: OffsetDateTime,
    ) -> Result<(), redb::Error> {
        let key = record_key(key);
        self.forget(&key)?;
        let until = ordered(store::milliseconds(until));
        let note = joined(&[&until, value]);
        self.notes.insert(key.as_slice(), note.as_slice())?;
        let expiry = joined(&[&until, &key]);
        self.note_expiries
            .insert(expiry.as_slice(), [].as_slice())?;
        Ok(())
    }

    fn forget(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let until = self.notes.remove(key)?.and_then(|old| {
            old.value()
                .split_first_chunk::<8>()
                .map(|(until, _)| *until)
        });
        if let Some(until) = until {
            let expiry = joined(&[&until, key]);
            self.note_expiries.remove(expiry.as_slice())?;
        }
        Ok(())
    }

    pub(super) fn nobody_shares(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        self.sharers.remove(key)?;
        Ok(())
    }

    /// How many there are then: never fewer than none, or whoever came next would be kept back by a debt.
    pub(super) fn sharers(&mut self, key: &[u8], by: i64) -> Result<i64, redb::Error> {
        let before = self.sharers.get(key)?.map_or(0, |old| number(old.value()));
        let now = before.max(0).saturating_add(by).max(0);
        self.sharers.insert(key, now.to_be_bytes().as_slice())?;
        Ok(now)
    }

    pub(super) fn sum(&self, tally: &Tally, above: i64) -> Result<u64, redb::Error> {
        let prefix = tally_key(tally);
        let Some(lowest) = above.checked_add(1) else {
            return Ok(0);
        };
        let start = joined(&[&prefix, &ordered(lowest)]);
        let mut sum = 0_i64;
        for row in self.counts.range(start.as_slice()..)? {
            let row = row?;
            if !row.0.value().starts_with(&prefix) {
                break;
            }
            sum = sum.saturating_add(number(row.1.value()));
        }
        Ok(u64::try_from(sum).unwrap_or(0))
    }

    pub(super) fn count(
        &mut self,
        tally: &Tally,
        slot: i64,
        by: i64,
        over: i64,
    ) -> Result<(), redb::Error> {
        let prefix = tally_key(tally);
        let key = joined(&[&prefix, &ordered(slot)]);
        let before = self
            .counts
            .get(key.as_slice())?
            .map_or(0, |old| number(old.value()));
        let now = before.saturating_add(by);
        if now > 0 {
            self.counts
                .insert(key.as_slice(), now.to_be_bytes().as_slice())?;
        } else {
            self.counts.remove(key.as_slice())?;
        }
        // Never by a clock that is ahead of this one: what counts still would be forgotten.
        let over = over.min(store::milliseconds(SystemClock::new().now()));
        let end = joined(&[&prefix, &ordered(over.saturating_add(1))]);
        let mut gone = Vec::new();
        for row in self.counts.range(prefix.as_slice()..end.as_slice())? {
            gone.push(row?.0.value().to_vec());
        }
        for key in gone {
            self.counts.remove(key.as_slice())?;
        }
        Ok(())
    }

    /// A little with every batch.
    pub(super) fn reclaim(&mut self, now: i64) -> Result<(), redb::Error> {
        for (_, key) in expired(&self.note_expiries, now)? {
            self.forget(&key)?;
        }
        Ok(())
    }
}
