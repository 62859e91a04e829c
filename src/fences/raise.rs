//! Puts a fence on the log, and into the view here before anything is answered.

use super::{By, Configured, Fence, FenceError, FenceKind, Fences, NewFence, View, entry, log};
use crate::audit::{Entry, Event};
use crate::ids::{self, ShardId};
use crate::steps::{self, Step};
use crate::store::{Guard, LogEntry, Outcome, Position, StoreError, Transaction, Write, settle};
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How long a fence may take to be written, in store time.
const DEADLINE: Duration = Duration::from_secs(30);
/// Cycles that a replica far behind may take to reach a fence of its own.
const CATCH_UP: usize = 1024;

/// A fence that is on the log and in force here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    pub fence: Fence,
    pub position: Position,
    /// `false`: in force, but not yet on `min_replicas`; a failover right now could lose it.
    pub replicated: bool,
}

impl Fences {
    /// Puts a fence on the log. On return it is in force at this replica: no later
    /// [`Self::fresh`] answers a view without it.
    pub async fn raise(&self, new: NewFence, now: OffsetDateTime) -> Result<Raised, FenceError> {
        let raised = self.raise_with(new, Vec::new(), Vec::new(), now).await?;
        raised.ok_or(FenceError::TooLate)
    }

    /// The same with what is to be written in the same commit, on the shard of the installation, and
    /// only while the guards hold. `None`: one of them does not, and nothing was written.
    pub async fn raise_with(
        &self,
        new: NewFence,
        guards: Vec<Guard>,
        writes: Vec<Write>,
        now: OffsetDateTime,
    ) -> Result<Option<Raised>, FenceError> {
        let lifts = match new.kind {
            FenceKind::Lift => self.view.load().lifted_by(&new),
            _ => Vec::new(),
        };
        let rule = match &new.by {
            By::Rule(rule) => Some(rule.clone()),
            By::Source => Some(new.author.replacen(' ', "/", 1)),
            By::Operator | By::Holder => None,
        };
        let at = self.stamp(now);
        let behind = (at - now).max(time::Duration::ZERO);
        let fence = Fence {
            id: new.id.unwrap_or_else(ids::draw_uuid),
            kind: new.kind,
            dimension: new.dimension,
            reason: new.reason,
            author: new.author,
            at,
            // INVARIANT: later, never sooner: a kill by a clock that is behind must not be forgotten at once.
            until: new
                .until
                .map(|until| until.checked_add(behind).unwrap_or(until)),
            weight: new.weight,
            restriction: new.restriction,
            rule,
            lifts,
            names: new.names,
        };
        let value = entry::wrap(&self.sealer, &fence)?;
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .write(Write::Append {
                log: log(),
                value: value.clone(),
            });
        if !fence.kind.names() {
            let entry = audited(&fence, &new.by).append(ShardId::INSTALLATION);
            transaction.writes.push(entry);
        }
        transaction.guards = guards;
        transaction.writes.extend(writes);
        steps::at(Step::Raising);
        let outcome = settle(self.store.as_ref(), transaction).await?;
        steps::at(Step::Raised);
        let (appended, replicated) = match outcome {
            Outcome::Applied { appended } => (appended, true),
            Outcome::Unreplicated { appended } => (appended, false),
            Outcome::Conflict { .. } => return Ok(None),
            Outcome::TooLate => return Err(FenceError::TooLate),
        };
        let position = appended
            .first()
            .copied()
            .ok_or_else(|| StoreError::Corrupt("an append without a position".to_owned()))?;
        self.enforce(LogEntry { position, value }, replicated).await;
        steps::at(Step::InForce);
        Ok(Some(Raised {
            fence,
            position,
            replicated,
        }))
    }

    /// Holds while nothing was raised since this view.
    pub fn unmoved(view: &View) -> Guard {
        Guard::HeadIs(log(), view.position())
    }

    /// Takes this replica's own entry into its view before anything is answered.
    async fn enforce(&self, entry: LogEntry, replicated: bool) {
        let position = entry.position;
        let next = self.view.load().position().sequence + 1 == position.sequence;
        if next && self.absorb(&[entry], replicated).is_ok() {
            return;
        }
        // INVARIANT: asked by position, not by number: after a failover this view may be further
        // on, on a history that is no more.
        for _ in 0..CATCH_UP {
            if self.view.load().knows(position) {
                return;
            }
            if let Err(error) = self.follow(Duration::ZERO).await
                && !self.view.load().knows(position)
            {
                tracing::error!(%error, "a fence was raised and cannot be read back; nothing is issued until it can");
                break;
            }
        }
        if !self.view.load().knows(position) {
            // SECURITY: a fence that was raised here and is not in the view here: this replica
            // may answer nothing until it has read it.
            self.doubt();
        }
    }

    /// INVARIANT: replicas order holds by it, so it is the store's time where ours is off.
    fn stamp(&self, now: OffsetDateTime) -> OffsetDateTime {
        let skew = time::Duration::milliseconds(self.skew.load(Ordering::Relaxed));
        if skew.abs() > time::Duration::SECOND {
            return now.checked_add(skew).unwrap_or(now);
        }
        now
    }
}

pub(in crate::fences) fn audited(fence: &Fence, by: &By) -> Entry {
    let event = match fence.kind {
        FenceKind::Configure => Event::ConfigLoaded,
        FenceKind::Kill | FenceKind::Hold | FenceKind::Restrict | FenceKind::Register => {
            Event::FenceRaised
        }
        FenceKind::Lift => Event::FenceLifted,
    };
    let mut entry = Entry::new(event, fence.at)
        .reason(fence.reason.as_str())
        .with("fence", fence.id.to_string())
        .with("kind", fence.kind.as_str())
        .with("dimension", fence.dimension.kind.as_str())
        .with("value", fence.dimension.value.as_str())
        .with("weight", fence.weight.as_str());
    if let Some(until) = fence.until {
        entry = entry.with("until", until.format(&Rfc3339).ok());
    }
    if fence.kind == FenceKind::Lift {
        let lifts: Vec<_> = fence.lifts.iter().map(ToString::to_string).collect();
        entry = entry.with("lifts", lifts);
    }
    let author = fence.author.as_str();
    entry = match by {
        By::Operator => entry.operator(author),
        By::Holder => entry.agent(author).with("by", "holder"),
        By::Source => entry.with("by", author),
        By::Rule(rule) => entry.with("by", author).with("rule", rule.as_str()),
    };
    if let Some(restriction) = &fence.restriction {
        let denied = serde_json::to_value(&restriction.denied).unwrap_or_default();
        entry = entry
            .with("denied", denied)
            .with("ends_leases", restriction.ends_leases);
        if let Some(longest) = restriction.longest {
            entry = entry.with("longest", longest);
        }
        if restriction.approval {
            entry = entry.with("approval", true);
        }
    }
    entry
}

/// The audit's entry of one that is put back. Who it was that raised it is not told apart any more.
pub(in crate::fences) fn told_again(fence: &Fence) -> Entry {
    let by = fence
        .rule
        .clone()
        .filter(|rule| !rule.starts_with("source/"));
    let entry = match Configured::of(fence.kind, &fence.dimension) {
        Some(said) => {
            let entry = said.told(fence.at).reason(fence.reason.as_str());
            entry.with("by", fence.author.as_str())
        }
        None => audited(fence, &by.map_or(By::Source, By::Rule)),
    };
    entry.with("put_back", true)
}
