//! Whether what was raised outlives a failover.

use super::{Fences, View, log};
use crate::store::{Position, Tail};
use std::time::Duration;

/// For an answer that only says so.
const PATIENCE: Duration = Duration::from_secs(2);

impl Fences {
    /// Whether this place is on the log, and the log up to it on `min_replicas`. The store is asked, behind a
    /// heartbeat: what it cannot say now is not known to be.
    pub async fn is_replicated(&self, place: Position) -> bool {
        let log = log();
        let asked = self.store.tail(&log, place, 1, Duration::ZERO);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Tail::Entries { .. })) => true,
            Ok(Ok(Tail::Forked { .. } | Tail::Trimmed { .. })) | Err(_) => false,
            Ok(Err(error)) => {
                tracing::debug!(%error, "whether fences are replicated is not known");
                false
            }
        }
    }

    /// The same of everything that this replica knows.
    pub async fn all_replicated(&self) -> bool {
        // In doubt there may be a fence that was raised here and is not in the view.
        self.age().is_some() && self.is_replicated(self.view.load().position()).await
    }
}

impl View {
    /// Where a fence stands, if it was raised lately.
    pub fn place_of(&self, id: &uuid::Uuid) -> Option<Position> {
        let newest_first = (self.base.sequence + 1..=self.position.sequence).rev();
        let sequence = newest_first
            .map_while(|sequence| Some((sequence, self.entry_at(sequence)?)))
            .find_map(|(sequence, entry)| (entry.fence.id == *id).then_some(sequence))?;
        Some(Position {
            sequence,
            link: self.link_at(sequence)?,
        })
    }
}
