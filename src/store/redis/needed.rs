//! How many replicas must acknowledge, and which: at least `min_replicas`, and each that may be promoted.
//!
//! In: what sentinels, or the nodes of a cluster, say about the replicas of a primary. Out: what a commit on a connection
//! to that primary waits for, and whether it had it.

use super::address::Place;
use crate::store::StoreError;
use ::redis::Value;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one of those who promote says about the replicas of a primary: each of them is in one of the sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<T> {
    /// It hears the primary, and is not about to replace it. Otherwise it says nothing about who may be left out.
    pub sound: bool,
    /// Those that it would promote.
    pub up: BTreeSet<T>,
    /// Those that take themselves for the primary: one that was replaced, or the one that replaces.
    pub apart: BTreeSet<T>,
    /// Those that it calls down.
    pub down: BTreeSet<T>,
}

impl<T> Word<T> {
    pub(super) fn new(sound: bool) -> Self {
        Self {
            sound,
            up: BTreeSet::new(),
            apart: BTreeSet::new(),
            down: BTreeSet::new(),
        }
    }
}

/// Of so many `voices`, who may be promoted. `None`: too few have spoken to know anything.
///
/// SECURITY: a primary that waits for too few acknowledges what a failover throws away. So one that is down is left
/// out only by the word of more than half, as failovers are made, and while the primary is well by their word. One that
/// takes itself for the primary may have been promoted just now, by a single one of them, before the others heard of it:
/// it is left out only by the word of all. On anything less whoever was counted stays, and whoever is named is counted.
fn promotable<T: Ord + Clone>(
    before: Option<&BTreeSet<T>>,
    words: &[Word<T>],
    voices: usize,
) -> Option<BTreeSet<T>> {
    let are_most = |count: usize| count * 2 > voices;
    let sound = words.iter().filter(|word| word.sound).count();
    if !are_most(sound) && before.is_none() && !are_most(words.len()) {
        return None;
    }
    let mut these = BTreeSet::new();
    for word in words {
        these.extend(word.up.iter().cloned());
        if sound < voices {
            these.extend(word.apart.iter().cloned());
        }
        if !are_most(sound) {
            these.extend(word.down.iter().cloned());
        }
    }
    if !are_most(sound) {
        these.extend(before.into_iter().flatten().cloned());
    }
    Some(these)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &str) -> BTreeSet<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn word(sound: bool, up: &str, apart: &str, down: &str) -> Word<String> {
        let (up, apart, down) = (set(up), set(apart), set(down));
        Word {
            sound,
            up,
            apart,
            down,
        }
    }

    fn of_three(before: &str, words: &[Word<String>]) -> String {
        let these = promotable(Some(&set(before)), words, 3).unwrap();
        these.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_replica_is_left_out_by_the_word_of_more_than_half_and_counted_by_the_word_of_one() {
        let down = word(true, "a", "", "b");
        assert_eq!(of_three("a b", &[down.clone(), down.clone()]), "a");
        assert_eq!(of_three("a b", std::slice::from_ref(&down)), "a b");
        assert_eq!(of_three("a b", &[]), "a b");
        let up = word(true, "a b", "", "");
        assert_eq!(of_three("a", &[down.clone(), down, up.clone()]), "a b");
        assert_eq!(of_three("a", &[up]), "a b");
        // It forgot whom nobody names any more, and learns who is new.
        let other = word(true, "a c", "", "");
        assert_eq!(of_three("a b", &[other.clone(), other]), "a c");
    }

    #[test]
    fn whoever_does_not_hear_the_primary_or_replaces_it_leaves_nobody_out() {
        let (sound, not) = (word(true, "a", "", "b"), word(false, "a", "", "b"));
        assert_eq!(
            of_three("a b", &[sound.clone(), not.clone(), not.clone()]),
            "a b"
        );
        assert_eq!(
            of_three("", &[sound.clone(), not.clone(), not.clone()]),
            "a b"
        );
        assert_eq!(of_three("a b", &[sound.clone(), sound, not]), "a");
    }

    /// To two of three sentinels the third one's failover is a replica that takes itself for the primary.
    #[test]
    fn one_that_takes_itself_for_the_primary_is_left_out_by_the_word_of_all() {
        let (sound, not) = (word(true, "a", "b", ""), word(false, "a b", "", ""));
        assert_eq!(of_three("a b", &[sound.clone(), sound.clone(), not]), "a b");
        assert_eq!(of_three("a", &[sound.clone(), sound.clone()]), "a b");
        assert_eq!(of_three("a b", &[sound.clone(), sound.clone(), sound]), "a");
    }

    #[test]
    fn before_more_than_half_have_spoken_nothing_is_known() {
        let up = word(true, "a", "", "");
        assert_eq!(promotable(None, std::slice::from_ref(&up), 3), None);
        assert_eq!(promotable::<String>(None, &[], 1), None);
        let not = word(false, "", "", "b");
        assert_eq!(promotable(None, &[up, not], 3), Some(set("a b")));
    }

    fn at(port: u16) -> Place {
        let host = "127.0.0.1".to_owned();
        Place { host, port }
    }

    /// What is known about the one is not taken for the other, whichever was asked about last.
    #[test]
    fn a_list_that_belongs_to_another_primary_is_not_believed() {
        let replicas = Replicas::of(1, true);
        assert!(replicas.needed(&at(1)).is_err());
        let two = Word {
            up: [at(2), at(3)].into(),
            ..Word::new(true)
        };
        replicas.watched(&at(1), &[two], 1);
        assert_eq!(replicas.needed(&at(1)).unwrap().count(), 2);
        // The failover is over: 1 is a replica of 2, and down; 3 will follow.
        replicas.watched(&at(2), &[Word::new(true)], 1);
        assert!(replicas.needed(&at(1)).is_err());
        assert_eq!(replicas.needed(&at(2)).unwrap().count(), 1);
        assert!(!replicas.are_none());
    }

    #[test]
    fn min_replicas_is_a_floor() {
        for (floor, promotable, count) in
            [(0, None, 0), (2, None, 2), (1, Some(2), 2), (3, Some(2), 3)]
        {
            let each = BTreeSet::new();
            let needed = Needed {
                floor,
                promotable,
                each,
            };
            assert_eq!(needed.count(), count);
        }
    }

    #[test]
    fn whoever_is_not_needed_does_not_stand_in_for_one_that_is() {
        let needed = |floor, each: &[u16]| Needed {
            floor,
            promotable: Some(each.len()),
            each: each.iter().copied().map(at).collect(),
        };
        let acknowledged = |ports: &[u16]| ports.iter().copied().map(at).collect();
        for (floor, each, by, count) in [
            (1, [2, 3].as_slice(), [3, 4].as_slice(), 1),
            (1, &[2, 3], &[2, 3], 2),
            (3, &[2, 3], &[2, 3, 4], 3),
            (3, &[2, 3], &[2, 3], 2),
            (3, &[2, 3], &[3, 4, 5, 6], 1),
        ] {
            let needed = needed(floor, each);
            assert_eq!(needed.of(&acknowledged(by)), count, "{needed:?} {by:?}");
        }
    }

    #[test]
    fn followers_are_read_with_how_far_they_are() {
        let text = |text: &str| Value::BulkString(text.into());
        let of = |port, offset| Value::Array(vec![text("127.0.0.1"), text(port), text(offset)]);
        let replicas = Value::Array(vec![of("2", "90"), of("3", "100"), of("4", "101")]);
        let role = |kind| Value::Array(vec![text(kind), Value::Int(100), replicas.clone()]);
        let followers = Followers::read(&role("master")).unwrap();
        assert_eq!(followers.offset, 100);
        assert_eq!(followers.at(100), [at(3), at(4)].into());
        assert!(Followers::read(&role("slave")).is_none());
    }
}
