//! The one thread that writes. Commits that arrive while it waits for the disk share the next wait.
//! Where the disk failed, it opens the file again and sends the same commits once more: each knows
//! by its id whether it was applied.

use super::file::File;
use super::space::Space;
use super::writer::{self, Answers, Failure};
use crate::clock::{Clock, SystemClock};
use crate::store::{Outcome, StoreError, Transaction};
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How many commits share one wait for the disk, at most.
const BATCH: usize = 256;
/// Between two tries to open a file that cannot be opened.
const PAUSE: Duration = Duration::from_millis(200);
/// How long nothing is minted once something found no room: then one more may try.
const NO_ROOM: Duration = Duration::from_secs(1);

/// What the thread is asked.
pub(super) enum Asked {
    Commit(Job),
    /// Somebody could not read: look whether the file must be opened again.
    Look,
}

pub(super) struct Job {
    pub transaction: Transaction,
    pub answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// The writing thread as the rest of the room sees it.
pub(super) struct Queue {
    /// The thread ends when the last sender is gone.
    pub asked: mpsc::Sender<Asked>,
    pub appended: watch::Receiver<u64>,
    pub thread: JoinHandle<()>,
}

pub(super) fn start(file: Arc<File>, space: Space) -> Result<Queue, std::io::Error> {
    let (asked, arriving) = mpsc::channel(BATCH * 4);
    let (wake, appended) = watch::channel(0);
    let thread = Thread {
        file,
        arriving,
        wake,
        space,
        no_room_until: Duration::ZERO,
        failing: false,
    };
    let thread = std::thread::Builder::new()
        .name("store writer".to_owned())
        .spawn(move || thread.run())?;
    Ok(Queue {
        asked,
        appended,
        thread,
    })
}

struct Thread {
    file: Arc<File>,
    arriving: mpsc::Receiver<Asked>,
    wake: watch::Sender<u64>,
    space: Space,
    /// Of boot time.
    no_room_until: Duration,
    /// Said already, and not yet over.
    failing: bool,
}

impl Thread {
    fn run(mut self) {
        while let Some(batch) = self.next() {
            let (transactions, answers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|job| (job.transaction, job.answer))
                .unzip();
            let outcomes = self.carry_out(&transactions);
            // INVARIANT: readers wake after the commit is durable, never before.
            if outcomes.iter().any(has_appended) {
                self.wake
                    .send_modify(|batches| *batches = batches.wrapping_add(1));
            }
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // Nobody waits for the answer any more: the commit stands all the same.
                let _ = answer.send(outcome);
            }
        }
    }

    /// What came together; `None` when nobody can ask any more.
    fn next(&mut self) -> Option<Vec<Job>> {
        loop {
            while !self.file.is_whole() && !self.open_again() {
                pause();
                if !self.turn_away() {
                    return None;
                }
            }
            let mut batch = Vec::new();
            let mut asked = Some(self.arriving.blocking_recv()?);
            while let Some(one) = asked {
                if let Asked::Commit(job) = one {
                    batch.push(job);
                }
                asked = (batch.len() < BATCH)
                    .then(|| self.arriving.try_recv().ok())
                    .flatten();
            }
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Whoever asks while there is no file is told so at once. `false`: nobody can ask any more.
    fn turn_away(&mut self) -> bool {
        loop {
            match self.arriving.try_recv() {
                Ok(Asked::Commit(job)) => {
                    let _ = job.answer.send(Err(super::closed()));
                }
                Ok(Asked::Look) => {}
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn carry_out(&mut self, transactions: &[Transaction]) -> Answers {
        let first = match self.write(transactions) {
            Ok(outcomes) => return outcomes,
            Err(failure) => failure,
        };
        self.failed(&first);
        let second = if self.open_again() {
            match self.write(transactions) {
                Ok(outcomes) => return outcomes,
                Err(failure) => {
                    self.failed(&failure);
                    self.open_again();
                    Some(failure)
                }
            }
        } else {
            None
        };
        // INVARIANT: what may have been written the first time is not known to be absent because it
        // could not be written the second time.
        let unknown = [Some(&first), second.as_ref()]
            .into_iter()
            .flatten()
            .any(|failure| matches!(failure, Failure::Unknown(_)));
        let error = || {
            if unknown {
                StoreError::Unknown
            } else {
                super::unavailable(first.error())
            }
        };
        transactions.iter().map(|_| Err(error())).collect()
    }

    fn write(&mut self, transactions: &[Transaction]) -> Result<Answers, Failure> {
        let short = self.space.is_short() || SystemClock::new().since_boot() < self.no_room_until;
        let outcomes = self
            .file
            .write(|transaction| writer::write(transaction, transactions, short))?;
        let applied = |outcome: &Result<Outcome, _>| matches!(outcome, Ok(Outcome::Applied { .. }));
        if self.failing && !short && outcomes.iter().any(applied) {
            self.failing = false;
            tracing::warn!("the store's file is written to again");
        }
        Ok(outcomes)
    }

    fn failed(&mut self, failure: &Failure) {
        let error = failure.error();
        if !self.failing {
            self.failing = true;
            tracing::error!(%error, "the store's file failed: it is opened again until it can be written to");
        }
        let full = [
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::FileTooLarge,
        ];
        if let redb::Error::Io(error) = error
            && full.contains(&error.kind())
        {
            self.no_room_until = SystemClock::new().since_boot() + NO_ROOM;
        }
    }

    fn open_again(&mut self) -> bool {
        match self.file.open_again() {
            Ok(()) => true,
            Err(error) => {
                if !self.failing {
                    self.failing = true;
                    tracing::error!(%error, "the store's file cannot be opened again: it is tried until it can");
                }
                false
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own: no worker of the runtime waits"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn has_appended(outcome: &Result<Outcome, StoreError>) -> bool {
    matches!(outcome, Ok(Outcome::Applied { appended }) if !appended.is_empty())
}
