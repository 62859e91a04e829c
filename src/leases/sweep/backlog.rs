//! What must be dead downstream and is not, and what may be alive that nobody was given: how much of it,
//! and since when.

use super::{ABREAST, BACKLOG, Sweeper};
use crate::ids::{LeaseId, SHARDS, ShardId, TargetId};
use crate::leases::{LeaseError, keys};
use crate::store::Ranked;
use crate::telemetry::metric;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;
use time::OffsetDateTime;

/// Pages of a shard's index, of [`BACKLOG`] members each.
const PAGES: usize = 16;
/// What is younger holds nobody up yet, and neither does what lies behind it.
const YOUNG: Duration = Duration::from_secs(1);

/// What one target still has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Of the oldest.
    pub since: OffsetDateTime,
    pub lease: LeaseId,
    /// As far as they were counted: at most [`PAGES`] pages of each shard.
    pub number: u64,
}

/// Every target that has something to end.
pub type Backlog = BTreeMap<TargetId, Waiting>;

/// What every shard said last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backlogs {
    pub of: Backlog,
    /// Each shard has answered in the last round: what is not here is nowhere.
    pub whole: bool,
}

/// Each shard's own.
///
/// INVARIANT: what answers replaces its own, and what does not keeps what it had. One shard that is away hides no
/// target that is overdue on another, and takes none of its own back.
#[derive(Debug, Default)]
pub(super) struct Picture {
    told: BTreeMap<ShardId, Told>,
    /// Why a shard that never said anything did not.
    failed: BTreeMap<ShardId, String>,
}

#[derive(Debug)]
struct Told {
    backlog: Backlog,
    /// In the last round.
    lately: bool,
}

impl Picture {
    fn take(&mut self, shard: ShardId, told: Result<Backlog, String>) {
        match told {
            Ok(backlog) => {
                let lately = true;
                self.told.insert(shard, Told { backlog, lately });
                self.failed.remove(&shard);
            }
            Err(why) => match self.told.get_mut(&shard) {
                Some(old) => old.lately = false,
                None => drop(self.failed.insert(shard, why)),
            },
        }
    }

    /// Whether each shard has said something, however long ago.
    pub(super) fn is_begun(&self) -> bool {
        self.told.len() == usize::from(SHARDS)
    }

    /// What has not, for whoever has to see to it.
    pub(super) fn missing(&self) -> Option<String> {
        if self.is_begun() {
            return None;
        }
        let shards: Vec<_> = self.failed.iter().collect();
        let mut why = "what targets still have to end was not read of every shard yet".to_owned();
        if let Some((shard, error)) = shards.first() {
            let index = keys::ending(**shard).name;
            let (shard, more) = (shard.number(), shards.len() - 1);
            why.push_str(&format!(": index `{index}` of shard {shard}: {error}"));
            if more > 0 {
                why.push_str(&format!(" (and {more} more)"));
            }
            why.push_str("; see \"An index that cannot be read\" in docs/leases.md");
        }
        Some(why)
    }

    pub(super) fn since(&self, target: &TargetId) -> Option<OffsetDateTime> {
        let shards = self.told.values();
        shards
            .filter_map(|told| Some(told.backlog.get(target)?.since))
            .min()
    }

    pub(super) fn joined(&self) -> Backlogs {
        let mut of = Backlog::new();
        for told in self.told.values() {
            for (target, waiting) in &told.backlog {
                add(&mut of, target.clone(), waiting.clone());
            }
        }
        let whole = self.is_begun() && self.told.values().all(|told| told.lately);
        Backlogs { of, whole }
    }
}

impl Sweeper {
    /// Reads of every shard what is still to be ended, and does nothing about it. A start begins with it.
    pub(in crate::leases) async fn look_everywhere(&self, now: OffsetDateTime) {
        let looks: Vec<_> = futures_util::stream::iter(ShardId::all())
            .map(|shard| self.look(shard, now))
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        if let Some(error) = looks.into_iter().find_map(Result::err) {
            tracing::warn!(%error, "what targets still have to end is not known of every shard; tried again");
        }
    }

    pub(super) async fn look(&self, shard: ShardId, now: OffsetDateTime) -> Result<(), LeaseError> {
        let told = self.ending(shard, now).await;
        let (told, done) = match told {
            Ok(told) => (Ok(told), Ok(())),
            Err(error) => (Err(error.to_string()), Err(error)),
        };
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.take(shard, told);
        done
    }

    /// Past the first page only while what lies behind may be old: one target's ends must not hide another's.
    async fn ending(&self, shard: ShardId, now: OffsetDateTime) -> Result<Backlog, LeaseError> {
        let index = keys::ending(shard);
        let mut backlog = Backlog::new();
        let mut after = None;
        for _ in 0..PAGES {
            let page = self.leases.members(&index, after.as_ref(), BACKLOG).await?;
            for (target, waiting) in page.iter().filter_map(read) {
                add(&mut backlog, target, waiting);
            }
            let Some(last) = page.last().filter(|_| page.len() == BACKLOG) else {
                break;
            };
            if keys::moment_of(last.rank).is_some_and(|since| since + YOUNG > now) {
                break;
            }
            after = Some((last.rank, last.member.clone()));
        }
        Ok(backlog)
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
pub(super) fn show(before: &Backlog, backlog: &Backlog, now: OffsetDateTime) {
    let gone = before.keys();
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

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOON: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn told(shard: ShardId, target: &TargetId, seconds: u64) -> Backlog {
        let waiting = Waiting {
            since: NOON - Duration::from_secs(seconds),
            lease: LeaseId::draw(shard),
            number: 1,
        };
        Backlog::from([(target.clone(), waiting)])
    }

    #[test]
    fn what_is_to_be_ended_is_known_once_each_shard_has_said_it_and_is_whole_while_each_does() {
        let target: TargetId = "orders-db".parse().unwrap();
        let mut picture = Picture::default();
        for (shard, seconds) in ShardId::all().zip(1..) {
            let joined = picture.joined();
            assert!(!picture.is_begun() && !joined.whole, "{joined:?}");
            picture.take(shard, Ok(told(shard, &target, seconds)));
        }
        assert!(picture.is_begun() && picture.joined().whole);
        let all = u64::from(SHARDS);
        let oldest = NOON - Duration::from_secs(all);
        let waiting = picture.joined().of.remove(&target).unwrap();
        assert_eq!((waiting.number, waiting.since), (all, oldest));
        assert_eq!(picture.since(&target), Some(oldest));
        // What the one that is away said last stays, and nobody takes it for the last word.
        let last = ShardId::all().last().unwrap();
        picture.take(last, Err("its node is gone".to_owned()));
        assert!(picture.is_begun() && !picture.joined().whole);
        assert_eq!(picture.since(&target), Some(oldest));
        assert_eq!(picture.joined().of[&target].number, all);
        picture.take(last, Ok(Backlog::new()));
        assert!(picture.joined().whole);
        assert_eq!(picture.joined().of[&target].number, all - 1);
        assert_eq!(
            picture.since(&target),
            Some(oldest + Duration::from_secs(1))
        );
    }

    #[test]
    fn a_shard_that_never_answered_has_said_nothing() {
        let mut picture = Picture::default();
        for shard in ShardId::all() {
            picture.take(shard, Err("its node is gone".to_owned()));
        }
        assert!(!picture.is_begun() && !picture.joined().whole);
    }
}
