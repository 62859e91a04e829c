//! Who is the primary, as the sentinels say, and which of its replicas they would promote. In: the sentinels'
//! addresses. Out: one place, and what each of them says of its replicas; or why nobody may be believed.

use super::address::Place;
use super::connection::Door;
use super::needed::Word;
use crate::store::{Fault, StoreError};
use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, RedisError};
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashMap};

pub(super) struct Sentinels {
    pub door: Door,
    pub places: Vec<Place>,
    pub primary: String,
}

/// What an instance is like, in the words of a sentinel.
type Said = HashMap<String, String>;

#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// And what it says of the replicas, where that is about this one for certain.
    Primary(Place, Option<Word<Place>>),
    Nobody,
}

/// Whom more than half of the sentinels name.
pub(super) struct Named {
    pub primary: Place,
    /// Of those that name it, about its replicas.
    pub words: Vec<Word<Place>>,
    /// How many sentinels there are.
    pub voices: usize,
}

impl Sentinels {
    /// Asks all of them.
    pub(super) async fn primary(&self) -> Result<Named, StoreError> {
        let answers = join_all(self.places.iter().map(|place| self.ask(place))).await;
        let mut heard = 0;
        let mut named: BTreeMap<Place, Vec<Option<Word<Place>>>> = BTreeMap::new();
        let mut silent = String::from("none was asked");
        let mut refused = Vec::new();
        for answer in answers {
            match answer {
                Ok(Told::Nobody) => heard += 1,
                Ok(Told::Primary(place, word)) => {
                    heard += 1;
                    named.entry(place).or_default().push(word);
                }
                Err(StoreError::Unfit(finding)) if finding.fault == Fault::UserRefused => {
                    silent.clone_from(&finding.message);
                    refused.push(finding);
                }
                Err(error) => silent = error.to_string(),
            }
        }
        let all = self.places.len();
        // Only where that is what keeps it from an answer: one that is down may be the reason as well.
        if heard * 2 <= all
            && (heard + refused.len()) * 2 > all
            && let Some(finding) = refused.pop()
        {
            return Err(finding.into());
        }
        if heard * 2 <= all {
            return Err(StoreError::Unavailable(format!(
                "{heard} of {all} sentinels answer; more than half must ({silent})"
            )));
        }
        if named.is_empty() {
            let message = format!(
                "the sentinels watch no primary `{}`; the last part of the address is its name",
                self.primary
            );
            return Err(Fault::UnknownPrimary.found(message).into());
        }
        // SECURITY: cut off together with an old primary, the fewer sentinels still call it the primary; and one
        // that lies says any epoch. So more than half of those that are configured name one place.
        let mut named = named.into_iter();
        let most = named.find(|(_, words)| words.len() * 2 > all);
        let (primary, words) = most.ok_or_else(|| {
            let message = format!("fewer than half of {all} sentinels name the same primary");
            StoreError::Unavailable(message)
        })?;
        Ok(Named {
            primary,
            words: words.into_iter().flatten().collect(),
            voices: all,
        })
    }

    async fn ask(&self, place: &Place) -> Result<Told, StoreError> {
        let opened = self.door.open(place).await;
        let mut connection = opened.map_err(|error| of_a_sentinel(error, place))?;
        let told = self.told_by(&mut connection).await;
        let (before, replicas, after) = match told {
            Ok(told) => told,
            Err(error) if error.to_string().contains("No such master") => return Ok(Told::Nobody),
            Err(error) => {
                let error = super::connection::connecting(&error, place);
                return Err(of_a_sentinel(error, place));
            }
        };
        judge(&before, &replicas, &after)
            .ok_or_else(|| StoreError::Unavailable("a sentinel names no address".to_owned()))
    }

    /// One after the other: the list of replicas is of the primary that is named before it and behind it.
    async fn told_by(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(Said, Vec<Said>, Said), RedisError> {
        Ok((
            self.say("MASTER", connection).await?,
            self.say("REPLICAS", connection).await?,
            self.say("MASTER", connection).await?,
        ))
    }

    async fn say<T: FromRedisValue>(
        &self,
        what: &str,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        let mut call = ::redis::cmd("SENTINEL");
        call.arg(what).arg(&self.primary);
        call.query_async(connection).await
    }
}

/// What a sentinel said before, between and behind.
///
/// SECURITY: as soon as a failover is finished the list is that of the new primary. And until it is, a sentinel names the
/// old one and calls nobody down for good: its word is sound only where it hears the primary, and replaces it by nobody.
fn judge(before: &Said, replicas: &[Said], after: &Said) -> Option<Told> {
    let primary = place(after)?;
    if place(before).as_ref() != Some(&primary) {
        return Some(Told::Primary(primary, None));
    }
    let is_sound = |said: &Said| {
        // It knows no run of one that it has heard nothing from since it began anew, and then no replicas either.
        said.get("flags").is_some_and(|flags| flags == "master")
            && said.get("runid").is_some_and(|run| !run.is_empty())
    };
    // SECURITY: whom it counts and does not name (`replica-announced no`, a name that leads nowhere) may be promoted all the
    // same: by this list nobody knows who may be.
    let counted = |said: &Said| said.get("num-slaves").and_then(|count| count.parse().ok());
    let counted = counted(before).min(counted(after)).unwrap_or(0);
    let named = replicas.iter().filter(|said| place(said).is_some());
    if named.count() < counted.max(replicas.len()) {
        return Some(Told::Primary(primary, None));
    }
    let mut word = Word::new(is_sound(before) && is_sound(after));
    for said in replicas {
        let replica = place(said)?;
        if said.get("slave-priority").is_some_and(|own| own == "0") {
            continue;
        }
        // Not where it is only `disconnected`: whoever is promoted cuts off all sentinels for a moment.
        let mut flags = said.get("flags")?.split(',');
        let among = if flags.any(|flag| matches!(flag, "s_down" | "o_down")) {
            &mut word.down
        } else if said
            .get("role-reported")
            .is_some_and(|role| role == "master")
        {
            &mut word.apart
        } else {
            &mut word.up
        };
        among.insert(replica);
    }
    Some(Told::Primary(primary, Some(word)))
}

fn place(said: &Said) -> Option<Place> {
    let host = said.get("ip").filter(|host| !host.is_empty())?;
    Some(Place {
        host: host.clone(),
        port: said.get("port")?.parse().ok()?,
    })
}

/// Sentinels have users of their own: whoever reads this must not look at the primary's.
fn of_a_sentinel(error: StoreError, place: &Place) -> StoreError {
    match error {
        StoreError::Unfit(finding) if finding.fault == Fault::UserRefused => {
            let message = format!(
                "the sentinel at {place} refuses its user or password, or lets the user not run SENTINEL MASTER and \
                 SENTINEL REPLICAS (deploy/redis/sentinel.conf has these rights); they are `sentinel_user` and `sentinel_password` behind the `?` of the address, and \
                 not those of the primary"
            );
            Fault::UserRefused.found(message).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name=value` each.
    fn said(text: &str) -> Said {
        let pairs = text
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn at(port: u16) -> Place {
        let host = "127.0.0.1".to_owned();
        Place { host, port }
    }

    const PRIMARY: &str = "ip=127.0.0.1 port=1 runid=abc flags=master";

    /// What a sentinel says of a list: `Err` with whom it names where nothing is believed.
    fn word(before: &str, list: &[&str], after: &str) -> Result<Word<Place>, Place> {
        let list: Vec<_> = list
            .iter()
            .map(|more| said(&format!("ip=127.0.0.1 slave-priority=100 {more}")))
            .collect();
        match judge(&said(before), &list, &said(after)) {
            Some(Told::Primary(place, word)) => word.ok_or(place),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_replica_is_what_the_sentinel_calls_it() {
        let list = [
            "port=2 flags=slave role-reported=slave",
            // Whoever is promoted has all its connections closed, and is called so for a moment.
            "port=3 flags=slave,disconnected role-reported=slave",
            "port=4 flags=slave,promoted role-reported=slave",
            "port=5 flags=slave role-reported=master",
            "port=6 flags=s_down,slave,disconnected role-reported=master",
            "port=7 flags=slave role-reported=slave slave-priority=0",
        ];
        let expected = Word {
            sound: true,
            up: [at(2), at(3), at(4)].into(),
            apart: [at(5)].into(),
            down: [at(6)].into(),
        };
        assert_eq!(word(PRIMARY, &list, PRIMARY), Ok(expected));
    }

    #[test]
    fn a_list_that_leaves_out_whom_the_sentinel_counts_says_nothing() {
        let list = ["port=2 flags=slave"];
        let counts = |count: usize| format!("{PRIMARY} num-slaves={count}");
        for (before, after, known) in [(1, 1, true), (2, 2, false), (1, 2, true), (2, 1, true)] {
            let word = word(&counts(before), &list, &counts(after));
            assert_eq!(word.is_ok(), known, "{before} {after}");
        }
        let nameless = ["port=2 flags=slave", "port=3 flags=slave ip="];
        assert_eq!(word(PRIMARY, &nameless, PRIMARY), Err(at(1)));
    }

    #[test]
    fn a_list_between_two_primaries_is_nobodys() {
        let list = ["port=2 flags=slave"];
        let other = PRIMARY.replace("port=1", "port=2");
        assert_eq!(word(PRIMARY, &list, &other), Err(at(2)));
        assert_eq!(word(&other, &list, PRIMARY), Err(at(1)));
    }

    #[test]
    fn a_sentinel_is_sound_that_hears_the_primary_and_replaces_it_by_nobody() {
        for spoilt in [
            "flags=master,s_down",
            "flags=s_down,o_down,master",
            "flags=master,failover_in_progress",
            "flags=master,disconnected",
            "runid=",
        ] {
            let spoilt = format!("{PRIMARY} {spoilt}");
            for (before, after) in [(PRIMARY, spoilt.as_str()), (&spoilt, PRIMARY)] {
                let word = word(before, &["port=2 flags=s_down,slave"], after).unwrap();
                assert!(!word.sound, "{before} {after}");
                assert_eq!(word.down, [at(2)].into());
            }
        }
    }
}
