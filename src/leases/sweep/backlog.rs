//! What must be dead downstream and is not, and what may be alive that nobody was given: how much of it,
//! and since when.

use crate::ids::{LeaseId, TargetId};
use crate::leases::keys;
use crate::store::Ranked;
use crate::telemetry::metric;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// What one target still has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Of the oldest.
    pub since: OffsetDateTime,
    pub lease: LeaseId,
    /// As far as they were counted: [`super::BACKLOG`] of each shard.
    pub number: u64,
}

/// Every target that has something to end.
pub type Backlog = BTreeMap<TargetId, Waiting>;

pub(super) fn of_shard(ending: &[Ranked]) -> Backlog {
    let mut backlog = Backlog::new();
    for ranked in ending {
        if let Some((target, waiting)) = read(ranked) {
            add(&mut backlog, target, waiting);
        }
    }
    backlog
}

pub(super) fn join(all: &mut Backlog, more: Backlog) {
    for (target, waiting) in more {
        add(all, target, waiting);
    }
}

fn add(backlog: &mut Backlog, target: TargetId, more: Waiting) {
    let Some(known) = backlog.get_mut(&target) else {
        backlog.insert(target, more);
        return;
    };
    known.number += more.number;
    if more.since < known.since {
        (known.since, known.lease) = (more.since, more.lease);
    }
}

fn read(ranked: &Ranked) -> Option<(TargetId, Waiting)> {
    let (lease, target) = target_of(&ranked.member)?;
    let since = keys::moment_of(ranked.rank)?;
    let waiting = Waiting {
        since,
        lease,
        number: 1,
    };
    Some((target, waiting))
}

fn target_of(member: &[u8]) -> Option<(LeaseId, TargetId)> {
    let (lease, target) = keys::split_member(member)?;
    Some((lease, std::str::from_utf8(target).ok()?.parse().ok()?))
}

/// For whoever watches. What is no longer there is shown as none.
pub(super) fn show(before: Option<&Backlog>, backlog: &Backlog, now: OffsetDateTime) {
    let gone = before.into_iter().flat_map(|before| before.keys());
    for target in gone.filter(|target| !backlog.contains_key(target)) {
        gauges(target, 0, 0.0);
    }
    for (target, waiting) in backlog {
        let age = (now - waiting.since).as_seconds_f64().max(0.0);
        gauges(target, waiting.number, age);
    }
}

fn gauges(target: &TargetId, number: u64, age: f64) {
    metrics::gauge!(metric::ENDING, "target" => target.to_string()).set(number as f64);
    metrics::gauge!(metric::ENDING_OLDEST, "target" => target.to_string()).set(age);
}

/// Of each shard, how many leases of each target are unclaimed.
#[derive(Debug, Default)]
pub(super) struct Unclaimed(BTreeMap<usize, BTreeMap<TargetId, u64>>);

impl Unclaimed {
    pub(super) fn count(&mut self, shard: usize, found: &[Ranked]) {
        let mut counted: BTreeMap<TargetId, u64> = BTreeMap::new();
        for (_, target) in found.iter().filter_map(|one| target_of(&one.member)) {
            *counted.entry(target).or_default() += 1;
        }
        let before = self.0.insert(shard, counted.clone()).unwrap_or_default();
        if before.is_empty() && counted.is_empty() {
            return;
        }
        for target in before.into_keys().chain(counted.into_keys()) {
            let all: u64 = self.0.values().filter_map(|shard| shard.get(&target)).sum();
            metrics::gauge!(metric::UNCLAIMED, "target" => target.to_string()).set(all as f64);
        }
    }
}
