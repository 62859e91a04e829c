//! How much room the disk has left, asked at most once a second.

use crate::clock::{Clock, SystemClock};
use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

/// Below this, or below a twentieth of a small disk, minting stops.
const RESERVE: u64 = 64 << 20;

/// Watches the file system under a path; without a path there is always room.
pub(super) struct Space {
    folder: Option<PathBuf>,
    last: Cell<(Option<Duration>, bool)>,
}

impl Space {
    pub(super) fn under(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            last: Cell::new((None, false)),
        }
    }

    pub(super) fn is_short(&self) -> bool {
        let Some(folder) = &self.folder else {
            return false;
        };
        let now = SystemClock::new().since_boot();
        let (asked, answer) = self.last.get();
        if asked.is_some_and(|then| now.saturating_sub(then) < Duration::from_secs(1)) {
            return answer;
        }
        let short = rustix::fs::statvfs(folder).is_ok_and(|disk| {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let whole = disk.f_blocks.saturating_mul(disk.f_frsize);
            free < RESERVE.min(whole / 20)
        });
        self.last.set((Some(now), short));
        short
    }
}
