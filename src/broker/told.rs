//! Facts that a webhook tells: `[facts.NAME] webhook`. The last message is in the store, for all replicas.
//!
//! What is signed, when and in which order: the HMAC and the window of a generic source of contexts.
//! Beside that each message must be later than the last one, so that nobody who saw one brings it back.

use super::facts::ended;
use super::{Broker, Bundle, Reason, Refusal, SourceSettings};
use crate::audit::{Entry, Event};
use crate::identity::Facts;
use crate::ids::{IssuerId, ShardId};
use crate::intent::{Board, Polled};
use crate::store::{Guard, Key, Outcome, Record, StoreError, Transaction, Write, settle};
use axum::http::HeaderMap;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const MAC_PURPOSE: &str = "told facts";
const DEADLINE: Duration = Duration::from_secs(10);

/// Of one message. GitHub's size is for others.
const MOST_BYTES: usize = 64 * 1024;
/// A message from further on would keep all that come after it from being heard until then.
const MOST_AHEAD: i64 = 30;

/// What was told last.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    name: String,
    /// When it was signed, in seconds.
    sent: i64,
    /// Of the message.
    sha256: [u8; 32],
    /// What it was read by.
    question: String,
    facts: Facts,
    /// Contexts that ended with it, or with one before it, and whose end may not be on the log yet.
    ends: BTreeSet<(String, String)>,
}

/// What is in the store, with what guards its change.
#[derive(Debug)]
struct Found {
    record: Record,
    /// `None`: nobody of ours wrote it.
    told: Option<Told>,
    /// Under a sealing key that is to go.
    is_old: bool,
}

fn key(name: &IssuerId) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"facts/", name.as_str().as_bytes()].concat(),
    }
}

impl Broker {
    /// The signature has been checked.
    pub(in crate::broker) async fn facts_told(
        &self,
        bundle: &Bundle,
        source: &SourceSettings,
        (headers, body): (&HeaderMap, &[u8]),
    ) -> Result<(), Refusal> {
        let fault = |why: &str| Refusal::new(Reason::Internal, why);
        let mut polled = bundle.intents.polled().iter();
        let polled = polled.find(|polled| polled.name().as_str() == source.name);
        let (Some(polled), Some(board)) = (polled, bundle.intents.board()) else {
            return Err(fault("facts that nobody reads"));
        };
        if body.len() > MOST_BYTES {
            return Err(Refusal::new(Reason::RequestTooLarge, "it tells too much").exact());
        }
        let malformed = |why: String| Refusal::new(Reason::MalformedRequest, why).exact();
        let answer: Value =
            serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
        if !answer.is_object() {
            return Err(malformed("it is no JSON object".to_owned()));
        }
        let sent = headers
            .get("x-dayfly-timestamp")
            .and_then(|sent| sent.to_str().ok());
        let sent = sent.and_then(|sent| sent.parse::<i64>().ok());
        let sent = sent.ok_or_else(|| malformed("no time".to_owned()))?;
        if sent.saturating_sub(self.clock.now().unix_timestamp()) > MOST_AHEAD {
            let why = "it is of a time to come: set the clock that signs";
            return Err(at_time(why));
        }
        let mut told = Told {
            name: source.name.clone(),
            sent,
            sha256: hash(body),
            question: polled.question(),
            facts: polled.facts_in(&answer),
            ends: BTreeSet::new(),
        };
        let found = self.told_last(polled.name()).await?;
        let is_new = match found.as_ref().and_then(|found| found.told.as_ref()) {
            Some(last) => {
                let is_new = is_news(&told, last)?;
                told.follows(last);
                is_new
            }
            None => true,
        };
        if is_new {
            let entry = Entry::new(Event::FactsTold, self.clock.now())
                .with("by", format!("facts {}", polled.name()))
                .with(
                    "facts",
                    serde_json::to_value(&told.facts).unwrap_or_default(),
                );
            let record = found.map(|found| found.record);
            if !self.keep_told(polled, &told, (record, Some(entry))).await? {
                let why = "another message came in between: send it again";
                return Err(Refusal::new(Reason::StoreUnavailable, why).after(1));
            }
        }
        // At this replica before it is answered, and at the others with their next reading. What comes twice
        // may come because the first time was not answered.
        self.hear_told(board, polled).await;
        Ok(())
    }

    /// Reads what was told last, and ends what hung on what is no more.
    pub(in crate::broker) async fn hear_told(&self, board: &Board, polled: &Polled) {
        let Found {
            record,
            told: Some(told),
            is_old,
        } = (match self.told_last(polled.name()).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(name = %polled.name(), %error, "what was told cannot be read; it counts no longer than `max_age`");
                return;
            }
        })
        else {
            return;
        };
        if told.question != polled.question() {
            return;
        }
        let age = self.clock.now().unix_timestamp().saturating_sub(told.sent);
        let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
        let mut ends = told.ends.clone();
        // INVARIANT: what this replica decided by until now, it ends by itself: see `Board::look`.
        if let Some(changed) = board.told(polled, told.facts.clone(), age, told.sent) {
            ends.extend(ended(&changed.before, &changed.after));
        }
        self.end_all(polled.name(), ends).await;
        if told.ends.is_empty() && !is_old {
            return;
        }
        let done = Told {
            ends: BTreeSet::new(),
            ..told
        };
        if let Err(refusal) = self.keep_told(polled, &done, (Some(record), None)).await {
            let why = refusal.detail;
            tracing::warn!(name = %polled.name(), why, "that what was told is done was not written down; it is tried again");
        }
    }

    /// SECURITY: nothing in the record is looked at before its MAC holds, and it is of this name.
    async fn told_last(&self, name: &IssuerId) -> Result<Option<Found>, StoreError> {
        let found = self.store.get(&[key(name)]).await?.pop().flatten();
        let Some(record) = found else {
            return Ok(None);
        };
        let opened = self.sealer.without_mac(MAC_PURPOSE, &record.value);
        let is_old = opened.is_some_and(|(_, is_first)| !is_first);
        let told = opened.and_then(|(body, _)| rmp_serde::from_slice::<Told>(body).ok());
        let told = told.filter(|told| told.name == name.as_str());
        if told.is_none() {
            tracing::error!(%name, "what was told was changed in the store: it proves nothing");
        }
        Ok(Some(Found {
            record,
            told,
            is_old,
        }))
    }

    /// `false`: somebody else was faster, and nothing was written.
    async fn keep_told(
        &self,
        polled: &Polled,
        told: &Told,
        (last, entry): (Option<Record>, Option<Entry>),
    ) -> Result<bool, Refusal> {
        let fault = |why: String| Refusal::new(Reason::Internal, why);
        let now = self.clock.now();
        let body = rmp_serde::to_vec_named(told).map_err(|error| fault(error.to_string()))?;
        let value = self.sealer.with_mac(MAC_PURPOSE, &body);
        let value = value.map_err(|error| fault(error.to_string()))?;
        let key = key(polled.name());
        let guard = match last {
            Some(last) => Guard::Unchanged(key.clone(), last.version),
            None => Guard::Absent(key.clone()),
        };
        let put = Write::Put {
            key,
            value,
            expires_at: None,
        };
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(guard)
            .write(put);
        if let Some(entry) = entry {
            transaction = transaction.write(entry.append(ShardId::INSTALLATION));
        }
        let done = settle(self.store.as_ref(), transaction).await?;
        Ok(matches!(
            done,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        ))
    }
}

impl Told {
    /// INVARIANT: in the commit that takes it, or a process that dies behind it would end nothing: the facts are
    /// no news to who reads them again.
    fn follows(&mut self, last: &Self) {
        self.ends.clone_from(&last.ends);
        if self.question == last.question {
            self.ends.extend(ended(&last.facts, &self.facts));
        }
    }
}

/// Whether it says something after the last one. The same one again is well, and no news.
///
/// SECURITY: or whoever saw an older message could bring its facts back within the window of its signature.
fn is_news(told: &Told, last: &Told) -> Result<bool, Refusal> {
    if told.sent > last.sent {
        return Ok(true);
    }
    if (told.sent, told.sha256) == (last.sent, last.sha256) {
        return Ok(told.question != last.question);
    }
    let why = "a message of the same second, or of a later one, was taken before";
    Err(at_time(why))
}

fn at_time(why: &str) -> Refusal {
    let refusal = Refusal::new(Reason::MalformedRequest, why).exact();
    refusal.at(Some("x-dayfly-timestamp".to_owned()))
}

fn hash(body: &[u8]) -> [u8; 32] {
    let hash = digest(&SHA256, body);
    hash.as_ref().try_into().unwrap_or_default()
}
