//! The file itself. redb takes nothing more after the first read or write that the disk refused
//! until it is opened again: so it is, here, and everybody else asks for a transaction.

use super::layout::BIRTHS;
use super::writer::{self, Failure};
use crate::ids::ShardId;
use crate::store::{Fault, StoreError};
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Bytes of the file kept in memory.
const CACHE: usize = 64 << 20;

/// Opens the same data each time, and is told of a repair how far it is.
pub(super) type Open = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

/// How every file is opened.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE)
        .set_repair_callback(|session| {
            let done = format!("{:.0} %", session.progress() * 100.0);
            tracing::warn!(
                done,
                "the store's file was not closed, by a version that did not write down what is free in it: \
                 all of it is read before anything is served"
            );
        });
    builder
}

pub(super) struct File {
    open: Open,
    database: RwLock<Option<Database>>,
    /// How often it was opened.
    openings: AtomicU64,
    /// The last opening that failed somebody who read.
    failed: AtomicU64,
    birth: Vec<u8>,
}

impl File {
    /// Gives it its births where it has none.
    pub(super) fn open(open: Open) -> Result<Self, StoreError> {
        let database = open()?;
        // SECURITY: what was spent, and what is alive, is not where this version looks for it.
        if writer::is_old(&database) {
            let message = "the file is of an earlier version, whose records lie otherwise: \
                           end its leases with that version, then begin with a new file";
            return Err(Fault::File.found(message).into());
        }
        // Not on every start: it would take room, and a full disk has none.
        if !writer::is_born(&database) {
            let born = begin_write(&database).and_then(writer::give_birth);
            born.map_err(|error| super::unavailable(&error))?;
        }
        Ok(Self {
            open,
            birth: birth(&database)?,
            database: RwLock::new(Some(database)),
            openings: AtomicU64::new(1),
            failed: AtomicU64::new(0),
        })
    }

    /// Closes it and opens it anew.
    ///
    /// INVARIANT: opening writes the header and syncs it. A commit that failed in its last sync may be
    /// seen as written from then on, and by then it is.
    pub(super) fn open_again(&self) -> Result<(), StoreError> {
        self.close();
        let opened = catch_unwind(AssertUnwindSafe(|| (self.open)()));
        let database = opened.unwrap_or_else(|_| Err(super::closed()))?;
        // SECURITY: a file that was emptied meanwhile would be begun anew, without what was spent.
        if birth(&database)? != self.birth {
            return Err(StoreError::Corrupt("another store's file".to_owned()));
        }
        let mut place = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(database);
        self.openings.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Nobody reads or writes from here on, until it is opened again.
    pub(super) fn close(&self) {
        let mut place = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = place.take();
        drop(place);
        // What broke it may break its end, too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
    }

    /// It is open, and has failed nobody since it was opened.
    pub(super) fn is_whole(&self) -> bool {
        let place = self.database.read().unwrap_or_else(PoisonError::into_inner);
        place.is_some()
            && self.failed.load(Ordering::Acquire) < self.openings.load(Ordering::Acquire)
    }

    /// Which opening reads from now on are of.
    pub(super) fn opening(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// Something that was read in this opening failed.
    pub(super) fn failed_in(&self, opening: u64) {
        self.failed.fetch_max(opening, Ordering::AcqRel);
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        let place = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = place.as_ref().ok_or_else(super::closed)?;
        database
            .begin_read()
            .map_err(|error| super::unavailable(&error))
    }

    pub(super) fn write<T>(
        &self,
        write: impl FnOnce(WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let written = catch_unwind(AssertUnwindSafe(|| {
            let place = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = place.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            write(begin_write(database)?)
        }));
        // An assertion of redb's own: it may have been in the middle of a commit.
        written.unwrap_or(Err(Failure::Unknown(redb::Error::TransactionPoisoned)))
    }
}

/// Each commit writes down what is free in the file, and tells the disk first what it wrote and then that
/// it counts. So the file is open at once after SIGKILL, however large, and a sync that failed leaves
/// nothing that counts and is not there.
fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn birth(database: &Database) -> Result<Vec<u8>, StoreError> {
    let read = || -> Result<_, redb::Error> {
        let births = database.begin_read()?.open_table(BIRTHS)?;
        let found = births.get([ShardId::INSTALLATION.number()].as_slice())?;
        Ok(found.map(|bytes| bytes.value().to_vec()))
    };
    let found = read().map_err(|error| super::unavailable(&error))?;
    found.ok_or_else(|| StoreError::Corrupt("a file without a birth".to_owned()))
}
