//! A disk in memory: it fails on demand, and knows what would be left if the power went.

use crate::store::StoreError;
use crate::store::embedded::{Embedded, Open, Space, file};
use redb::StorageBackend;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Read,
    Write,
    Length,
    Sync,
}

#[derive(Debug, Clone, Copy)]
pub enum How {
    Error(ErrorKind),
    /// In the middle of whoever asked.
    Panic,
}

/// So many calls of a kind go well, then so many do not.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    pub what: What,
    pub after: usize,
    pub times: usize,
    pub how: How,
}

#[derive(Debug)]
enum Done {
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    Length(usize),
    Synced,
    /// The machine takes what was written before for written, and does not write it again.
    NotSynced,
}

#[derive(Debug, Default)]
struct State {
    /// What whoever reads sees: the machine's memory.
    seen: Vec<u8>,
    done: Vec<Done>,
    trouble: Vec<Trouble>,
    /// Times that the trouble came.
    troubled: usize,
    room: Option<usize>,
    read: usize,
    repaired: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn with<T>(&self, does: impl FnOnce(&mut State) -> T) -> T {
        does(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn opener(&self) -> Open {
        self.opener_with(None)
    }

    fn opener_with(&self, cache: Option<usize>) -> Open {
        let disk = self.clone();
        Box::new(move || {
            let mut builder = file::builder();
            if let Some(bytes) = cache {
                builder.set_cache_size(bytes);
            }
            let repaired = disk.clone();
            builder
                .set_repair_callback(move |_| repaired.with(|state| state.repaired = true))
                .create_with_backend(disk.clone())
                .map_err(|error| StoreError::Unavailable(error.to_string()))
        })
    }

    /// One that remembers nothing of what it read.
    pub fn forgetful_store(&self) -> Result<Embedded, StoreError> {
        Embedded::start(self.opener_with(Some(0)), Space::under(None))
    }

    /// All of it was read once, because nobody knew what is free in it.
    pub fn was_repaired(&self) -> bool {
        self.with(|state| state.repaired)
    }

    pub fn store(&self) -> Result<Embedded, StoreError> {
        Embedded::start(self.opener(), Space::under(None))
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.with(|state| state.trouble.push(trouble));
    }

    /// Nothing fails any more, and there is room.
    pub fn mend(&self) {
        self.with(|state| {
            state.trouble.clear();
            state.room = None;
        });
    }

    pub fn troubled(&self) -> usize {
        self.with(|state| state.troubled)
    }

    /// It does not grow any more.
    pub fn fill(&self) {
        self.with(|state| state.room = Some(state.seen.len()));
    }

    /// Somebody emptied it.
    pub fn wipe(&self) {
        self.with(|state| state.seen.clear());
    }

    pub fn length(&self) -> usize {
        self.with(|state| state.seen.len())
    }

    /// Bytes that were read so far.
    pub fn bytes_read(&self) -> usize {
        self.with(|state| state.read)
    }

    /// How much was done so far.
    pub fn moment(&self) -> usize {
        self.with(|state| state.done.len())
    }

    /// The moments just before and just after each sync.
    pub fn around_syncs(&self) -> Vec<usize> {
        self.with(|state| {
            let syncs = state.done.iter().enumerate();
            let syncs = syncs.filter(|(_, done)| matches!(done, Done::Synced | Done::NotSynced));
            syncs.flat_map(|(at, _)| [at, at + 1]).collect()
        })
    }

    /// What another machine finds when this one lost its power at that moment: all that was synced, and
    /// of the rest what luck has left, sector by sector.
    pub fn cut(&self, moment: usize, luck: &mut Luck) -> Self {
        let seen = self.with(|state| {
            let done = &state.done[..moment];
            let mut certain = vec![false; moment];
            let mut since = 0;
            for (place, one) in done.iter().enumerate() {
                match one {
                    Done::Synced => certain[since..place].fill(true),
                    Done::NotSynced => {}
                    _ => continue,
                }
                since = place + 1;
            }
            let last = done.iter().rposition(|one| matches!(one, Done::Synced));
            // Nothing of it, all of it, or any part.
            let kept = match luck.below(4) {
                0 => 0,
                1 => 4,
                _ => 2,
            };
            let mut left = Vec::new();
            for (place, one) in done.iter().enumerate() {
                match one {
                    // A later sync brings the length, too.
                    Done::Length(length) => {
                        if Some(place) < last || luck.below(4) < kept {
                            left.resize(*length, 0);
                        }
                    }
                    Done::Write { at, bytes } => {
                        let mut from = 0;
                        while from < bytes.len() {
                            let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
                            let there = left.get_mut(at + from..at + to);
                            if let Some(there) = there
                                && (certain[place] || luck.below(4) < kept)
                            {
                                there.copy_from_slice(&bytes[from..to]);
                            }
                            from = to;
                        }
                    }
                    Done::Synced | Done::NotSynced => {}
                }
            }
            left
        });
        let done = vec![
            Done::Length(seen.len()),
            Done::Write {
                at: 0,
                bytes: seen.clone(),
            },
            Done::Synced,
        ];
        Self(Arc::new(Mutex::new(State {
            seen,
            done,
            ..State::default()
        })))
    }
}

impl State {
    fn fails(&mut self, what: What) -> Result<(), Error> {
        for trouble in &mut self.trouble {
            if trouble.what != what || trouble.times == 0 {
                continue;
            }
            if trouble.after > 0 {
                trouble.after -= 1;
                continue;
            }
            trouble.times -= 1;
            self.troubled += 1;
            match trouble.how {
                How::Error(kind) => return Err(kind.into()),
                How::Panic => panic!("the disk was told to"),
            }
        }
        Ok(())
    }

    fn has_room(&self, end: usize) -> Result<(), Error> {
        match self.room {
            Some(room) if end > room => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.seen[at..at + bytes.len()].copy_from_slice(bytes);
        let bytes = bytes.to_vec();
        self.done.push(Done::Write { at, bytes });
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.length() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.with(|state| {
            state.fails(What::Read)?;
            let at = place(offset);
            let found = state.seen.get(at..at + out.len());
            out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
            state.read += out.len();
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> Result<(), Error> {
        self.with(|state| {
            state.fails(What::Length)?;
            let length = place(length);
            state.has_room(length)?;
            state.seen.resize(length, 0);
            state.done.push(Done::Length(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.with(|state| {
            let fails = state.fails(What::Sync);
            state.done.push(match fails {
                Ok(()) => Done::Synced,
                Err(_) => Done::NotSynced,
            });
            fails
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.with(|state| {
            let at = place(offset);
            if let Err(error) = state.fails(What::Write) {
                // Half of it is there.
                state.write(at, &bytes[..bytes.len() / 2]);
                return Err(error);
            }
            state.has_room(at + bytes.len())?;
            state.write(at, bytes);
            Ok(())
        })
    }
}

/// The same luck each time for the same number.
#[derive(Debug)]
pub struct Luck(u64);

impl Luck {
    pub fn of(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}
