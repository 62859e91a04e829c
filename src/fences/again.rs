//! What stood, by the audit's word: for a store that lost its log.

use super::{
    By, Dimension, DimensionKind, Fence, FenceKind, LONGEST_LIFETIME, NewFence, Restriction, View,
    Weight,
};
use crate::audit::{Entry, Event};
use std::collections::HashSet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// To be raised again, in this order: what holds or is denied still, and every end whose leases could be
/// alive. A hold that is over is the end that it also was. Each is the one that it was, by its id: whoever
/// recovers twice, or after a recovery, raises none twice.
pub fn again(entries: &[Entry], now: OffsetDateTime) -> Vec<NewFence> {
    let mut standing: Vec<Found> = Vec::new();
    for found in entries.iter().filter_map(Found::read) {
        if found.new.kind != FenceKind::Lift {
            standing.push(found);
            continue;
        }
        for held in &mut standing {
            held.lift(&found);
        }
    }
    let mut raised = HashSet::new();
    let standing = standing.into_iter();
    let mut standing: Vec<_> = standing.filter_map(|found| found.still(now)).collect();
    standing.retain(|new| new.id.is_none_or(|id| raised.insert((id, new.kind))));
    standing
}

impl View {
    /// Whether this very fence is on the log, or stands.
    ///
    /// SECURITY: by what it does, not by its id alone: somebody else's entry may carry it.
    pub fn has(&self, new: &NewFence) -> bool {
        // The log tells milliseconds, the audit more.
        let until = |until: Option<OffsetDateTime>| {
            until.map(|until| until.unix_timestamp_nanos() / 1_000_000)
        };
        let is_it = |fence: &Fence| {
            let as_long = new.kind == FenceKind::Kill || until(fence.until) == until(new.until);
            Some(fence.id) == new.id
                && fence.kind == new.kind
                && fence.dimension == new.dimension
                && fence.restriction == new.restriction
                && fence.weight == new.weight
                && as_long
        };
        let holds = self.holds.values().flatten();
        let mut kept = holds.chain(self.restrictions.iter());
        let mut kills = self.kills().map(|(_, kill)| &kill.fence);
        let after = self.base.sequence + 1..=self.position.sequence;
        let mut told = after.filter_map(|sequence| self.entry_at(sequence));
        kept.any(|kept| is_it(&kept.fence))
            || kills.any(|fence| is_it(fence))
            || told.any(|entry| is_it(&entry.fence))
    }
}

struct Found {
    new: NewFence,
    id: String,
    at: OffsetDateTime,
    lifted: bool,
    /// The holds that it ends, by their ids.
    lifts: Vec<String>,
}

impl Found {
    fn read(entry: &Entry) -> Option<Self> {
        if !matches!(entry.event, Event::FenceRaised | Event::FenceLifted) {
            return None;
        }
        let text = |name: &str| entry.detail.get(name).and_then(|value| value.as_str());
        let value = |name: &str| entry.detail.get(name).cloned().unwrap_or_default();
        let kind: FenceKind = serde_json::from_value(value("kind")).ok()?;
        let dimension: DimensionKind = serde_json::from_value(value("dimension")).ok()?;
        let author = entry.operator.as_deref().or(entry.agent.as_deref());
        let author = author.or(text("by")).unwrap_or("dayfly");
        let reason = entry.reason.as_deref().unwrap_or_default();
        let dimension = Dimension::new(dimension, text("value")?);
        let mut new = NewFence::new(kind, dimension, author, reason)
            .weight(serde_json::from_value::<Weight>(value("weight")).unwrap_or_default());
        new.by = match (&entry.operator, text("rule"), text("by")) {
            (Some(_), _, _) => By::Operator,
            (_, Some(rule), _) => By::Rule(rule.to_owned()),
            (_, _, Some("holder")) => By::Holder,
            (_, _, Some(by)) if by.starts_with("source ") => By::Source,
            _ => By::Operator,
        };
        new.id = text("fence").and_then(|id| id.parse().ok());
        new.until = text("until").and_then(|until| OffsetDateTime::parse(until, &Rfc3339).ok());
        if kind == FenceKind::Restrict {
            new.restriction = Some(Restriction {
                denied: serde_json::from_value(value("denied")).ok()?,
                ends_leases: value("ends_leases").as_bool().unwrap_or(true),
                longest: serde_json::from_value(value("longest")).ok(),
                approval: value("approval") == true,
            });
        }
        Some(Self {
            new,
            id: text("fence").unwrap_or_default().to_owned(),
            at: entry.at,
            lifted: false,
            lifts: serde_json::from_value(value("lifts")).unwrap_or_default(),
        })
    }

    fn lift(&mut self, lift: &Self) {
        let on = &lift.new.dimension;
        self.lifted |= match self.new.kind {
            FenceKind::Hold => lift.lifts.contains(&self.id),
            FenceKind::Restrict => on.kind == DimensionKind::Restriction && on.value == self.id,
            FenceKind::Kill | FenceKind::Lift | FenceKind::Configure | FenceKind::Register => false,
        };
    }

    fn still(mut self, now: OffsetDateTime) -> Option<NewFence> {
        let over = self.lifted || self.new.until.is_some_and(|until| until <= now);
        let ends = match self.new.kind {
            FenceKind::Kill => true,
            FenceKind::Hold => self.new.weight > Weight::Review,
            FenceKind::Restrict | FenceKind::Lift | FenceKind::Configure | FenceKind::Register => {
                false
            }
        };
        match self.new.kind {
            FenceKind::Hold | FenceKind::Restrict if !over => Some(self.new),
            // What it ended has run out by itself.
            _ if !ends || self.at + LONGEST_LIFETIME < now => None,
            _ => {
                self.new.kind = FenceKind::Kill;
                self.new.until = None;
                Some(self.new)
            }
        }
    }
}
