//! What this process saw of the sealing, and a store that knows less: a failover lost it, or an older copy was put back.

use super::{MOST_LOST, Work};
use crate::audit::AuditError;
use crate::audit::chain::Chain;
use crate::audit::state::{State, reconcile};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// How long whoever sealed what the store lost may take to go on: it looks at least every half of a claim.
const PATIENCE: Duration = State::LEASE.saturating_mul(2);

#[derive(Default)]
pub(super) struct Behind {
    newest: Option<Newest>,
    /// Since when the store is behind somebody else's checkpoint.
    since: Option<Instant>,
}

struct Newest {
    checkpoint: u64,
    written: OffsetDateTime,
}

/// What a store that is behind means to whoever would claim the sealing.
enum Turn {
    /// It is not behind.
    Ours,
    /// What it lost is in our own export.
    Through,
    /// What it lost is in the export of another replica, which may still go on behind it.
    Theirs,
    /// The other one had its time.
    Abandoned { seen: u64 },
    /// It lost more than a failover does.
    Older { seen: u64 },
}

impl Behind {
    /// Notes what the store says, or was just told. Nothing where it goes back.
    pub(super) fn saw(&mut self, state: &State) {
        let checkpoint = state.chain.checkpoint;
        let goes_back = |newest: &Newest| checkpoint < newest.checkpoint;
        if self.newest.as_ref().is_some_and(goes_back) {
            return;
        }
        let written = state.written();
        *self = Self {
            newest: Some(Newest {
                checkpoint,
                written,
            }),
            since: None,
        };
    }

    /// Whose turn it is, of those who saw more than the store knows. `ours`: what this very process exported last.
    ///
    /// SECURITY: who starts on such a store saw nothing, and refuses it.
    fn turn(&mut self, state: Option<&State>, ours: Option<&Chain>) -> Turn {
        let known = state.map_or(0, |state| state.chain.checkpoint);
        let seen = self.newest.as_ref().map_or(0, |newest| newest.checkpoint);
        // An export that is ahead of what the store ever knew was never in it: `reconcile` knows that.
        if known >= seen {
            return Turn::Ours;
        }
        let before = state.map(State::written);
        let lost = self.newest.as_ref().zip(before);
        if lost.is_none_or(|(newest, before)| newest.written - before > MOST_LOST) {
            return Turn::Older { seen };
        }
        if ours.is_some_and(|chain| chain.checkpoint >= seen) {
            return Turn::Through;
        }
        let since = *self.since.get_or_insert_with(|| {
            tracing::warn!(
                store = known,
                seen,
                "the store lost how far the audit is sealed: whoever sealed it is waited for"
            );
            Instant::now()
        });
        if since.elapsed() < PATIENCE {
            return Turn::Theirs;
        }
        *self = Self::default();
        Turn::Abandoned { seen }
    }
}

impl Work {
    /// Where this replica goes on sealing, unless it is left to another one. What a failover lost of it is in the
    /// export of whoever wrote it, and that one goes on: from anywhere else nobody would learn what else was lost.
    ///
    /// SECURITY: whoever starts on such a store has seen nothing of what it lost, and refuses it; and a store that
    /// was put back to an older day under brokers that run stops their sealing.
    pub(super) fn goes_on(
        &mut self,
        state: Option<&State>,
        exported: Option<Chain>,
    ) -> Result<Option<Chain>, AuditError> {
        let store = state.map_or(0, |state| state.chain.checkpoint);
        let ours = exported
            .as_ref()
            .filter(|chain| self.written.as_ref() == Some(*chain));
        let through = || ours.filter(|chain| chain.checkpoint > store).cloned();
        let (seen, chain) = match self.behind.turn(state, ours) {
            Turn::Ours => (store, None),
            Turn::Through => (store, through()),
            Turn::Theirs => return Ok(None),
            Turn::Abandoned { seen } => (seen, through()),
            Turn::Older { seen } => {
                return Err(match exported {
                    Some(chain) if chain.checkpoint >= seen => AuditError::StoreBehind {
                        store,
                        export: chain.checkpoint,
                    },
                    _ => AuditError::SeenLater {
                        seen,
                        store,
                        path: self.seen.path().display().to_string(),
                    },
                });
            }
        };
        if seen > store {
            self.seen.begin_anew(store, self.clock.now());
            tracing::error!(
                store,
                seen,
                "the store lost how far the audit is sealed, and whoever sealed it does not go on: sealing goes on \
                 without what that replica exported; verify the exports of all replicas as one"
            );
        }
        let Some(chain) = chain else {
            return reconcile(state.map(|state| state.chain.clone()), exported).map(Some);
        };
        tracing::error!(
            store,
            export = chain.checkpoint,
            "the store lost how far the audit is sealed: sealing goes on behind the export"
        );
        Ok(Some(chain))
    }
}

#[cfg(test)]
mod tests;
