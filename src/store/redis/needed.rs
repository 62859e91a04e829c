//! How many replicas must acknowledge, and which: at least `min_replicas`, and each that may be promoted.
//!
//! In: what sentinels, or the nodes of a cluster, say about the replicas of a primary. Out: what a commit on a connection
//! to that primary waits for, and whether it had it.

use super::address::Place;
use crate::store::StoreError;
use ::redis::Value;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one of those who promote says about the replicas of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<T> {
    /// It hears the primary, and replaces it by nobody: otherwise it says nothing about who is down.
    pub sound: bool,
    /// Those that it would promote.
    pub up: BTreeSet<T>,
    /// Those that it calls down, and would promote otherwise.
    pub down: BTreeSet<T>,
}

/// Of so many `voices`, who may be promoted. `None`: too few have spoken to know anything.
///
/// SECURITY: a primary that waits for too few acknowledges what a failover throws away. So one that is down is left
/// out only by the word of more than half, as failovers are made, and while the primary is well by their word; on
/// anything less whoever was counted stays, and whoever is named is counted.
fn promotable<T: Ord + Clone>(
    before: Option<&BTreeSet<T>>,
    words: &[Word<T>],
    voices: usize,
) -> Option<BTreeSet<T>> {
    let are_most = |count: usize| count * 2 > voices;
    let up = words.iter().flat_map(|word| &word.up);
    if are_most(words.iter().filter(|word| word.sound).count()) {
        return Some(up.cloned().collect());
    }
    if before.is_none() && !are_most(words.len()) {
        return None;
    }
    let down = words.iter().flat_map(|word| &word.down);
    let all = before.into_iter().flatten().chain(up).chain(down);
    Some(all.cloned().collect())
}

/// What has to acknowledge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// `min_replicas`.
    pub floor: u32,
    /// How many may be promoted. `None`: nobody says.
    pub promotable: Option<usize>,
    /// Each of these, by where their primary says that they are; empty where any will do.
    pub each: BTreeSet<Place>,
}

impl Needed {
    pub(super) fn count(&self) -> u64 {
        let promotable = u64::try_from(self.promotable.unwrap_or(0)).unwrap_or(u64::MAX);
        promotable.max(self.floor.into())
    }

    /// How many of those that count have acknowledged: `count()` is enough.
    pub(super) fn of(&self, acknowledged: &BTreeSet<Place>) -> u64 {
        let named = self.each.intersection(acknowledged).count();
        let counted = if named < self.each.len() {
            named
        } else {
            acknowledged.len()
        };
        u64::try_from(counted).unwrap_or(0)
    }

    pub(super) fn missing(&self, there: &BTreeSet<Place>) -> Vec<String> {
        let missing = self.each.difference(there);
        missing.map(ToString::to_string).collect()
    }
}

/// What is known about the replicas of a primary.
pub(super) struct Replicas {
    floor: u32,
    promotable: Mutex<Promotable>,
}

/// Who promotes them says who they are.
enum Promotable {
    /// Nobody does: of an address that leads to one primary.
    Unsaid,
    /// Not said yet.
    Unknown,
    /// By sentinels, and of which primary.
    Watched(Place, BTreeSet<Place>),
    /// By nodes of a cluster: their ids, because they may have another address there than their primary sees.
    Listed(BTreeSet<String>),
}

impl Replicas {
    pub(super) fn of(floor: u32, are_promoted: bool) -> Self {
        let promotable = if are_promoted {
            Promotable::Unknown
        } else {
            Promotable::Unsaid
        };
        Self {
            floor,
            promotable: Mutex::new(promotable),
        }
    }

    fn promotable(&self) -> MutexGuard<'_, Promotable> {
        let locked = self.promotable.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// The one answer to how many must acknowledge on a connection that leads to `primary`.
    ///
    /// SECURITY: what is known about another primary is not taken for it: whoever woke up behind its replacement is
    /// followed by none of those that replace it.
    pub(super) fn needed(&self, primary: &Place) -> Result<Needed, StoreError> {
        let (promotable, each) = match &*self.promotable() {
            Promotable::Unsaid => (None, BTreeSet::new()),
            Promotable::Listed(these) => (Some(these.len()), BTreeSet::new()),
            Promotable::Watched(known, these) if known == primary => {
                (Some(these.len()), these.clone())
            }
            Promotable::Watched(..) | Promotable::Unknown => {
                return Err(StoreError::Unavailable(format!(
                    "nobody has said yet which replicas of {primary} may be promoted"
                )));
            }
        };
        Ok(Needed {
            floor: self.floor,
            promotable,
            each,
        })
    }

    /// Nothing has to be waited for, wherever the connection leads to.
    pub(super) fn are_none(&self) -> bool {
        self.floor == 0
            && match &*self.promotable() {
                Promotable::Unsaid => true,
                Promotable::Listed(these) => these.is_empty(),
                Promotable::Watched(..) | Promotable::Unknown => false,
            }
    }

    /// The sentinels name this primary.
    pub(super) fn watched(&self, primary: &Place, words: &[Word<Place>], voices: usize) {
        let mut known = self.promotable();
        let before = match &*known {
            Promotable::Watched(of, these) if of == primary => Some(these),
            _ => None,
        };
        let these = promotable(before, words, voices);
        *known = these.map_or(Promotable::Unknown, |these| {
            Promotable::Watched(primary.clone(), these)
        });
    }

    /// Nodes of the cluster say whose replicas they are.
    pub(super) fn listed(&self, words: &[Word<String>], voices: usize) {
        let mut known = self.promotable();
        let before = match &*known {
            Promotable::Listed(these) => Some(these),
            _ => None,
        };
        let these = promotable(before, words, voices);
        *known = these.map_or(Promotable::Unknown, Promotable::Listed);
    }

    pub(super) fn are_unknown(&self) -> bool {
        matches!(&*self.promotable(), Promotable::Unknown)
    }
}

/// How far a primary is, and each of its replicas as it said last: of the answer to `ROLE`.
pub(super) struct Followers {
    pub offset: i64,
    replicas: Vec<(Place, i64)>,
}

impl Followers {
    /// `None`: it is no primary.
    pub(super) fn read(role: &Value) -> Option<Self> {
        let Value::Array(parts) = role else {
            return None;
        };
        let [kind, Value::Int(offset), Value::Array(replicas), ..] = parts.as_slice() else {
            return None;
        };
        (text(kind)? == "master").then_some(())?;
        let replicas = replicas.iter().filter_map(|replica| {
            let Value::Array(parts) = replica else {
                return None;
            };
            let [host, port, offset, ..] = parts.as_slice() else {
                return None;
            };
            let place = Place {
                host: text(host)?.to_owned(),
                port: text(port)?.parse().ok()?,
            };
            Some((place, text(offset)?.parse().ok()?))
        });
        Some(Self {
            offset: *offset,
            replicas: replicas.collect(),
        })
    }

    /// Those that have acknowledged everything up to `offset`.
    pub(super) fn at(&self, offset: i64) -> BTreeSet<Place> {
        let there = self.replicas.iter().filter(|(_, own)| *own >= offset);
        there.map(|(place, _)| place.clone()).collect()
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
