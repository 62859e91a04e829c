//! Facts that a webhook tells: `[facts.NAME] webhook`. The last message is in the store, for all replicas.
//!
//! What is signed, when and in which order: the HMAC and the window of a generic source of contexts.
//! Beside that each message must be later than the last one, so that nobody who saw one brings it back.

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
use std::time::Duration;

const MAC_PURPOSE: &str = "told facts";
const MAC_LENGTH: usize = 32;
const DEADLINE: Duration = Duration::from_secs(10);

/// Of one message. GitHub's size is for others.
const MOST_BYTES: usize = 64 * 1024;

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
        let told = Told {
            name: source.name.clone(),
            sent,
            sha256: hash(body),
            question: polled.question(),
            facts: polled.facts_in(&answer),
        };
        let found = self.told_last(polled.name()).await?;
        if let Some((_, last)) = &found
            && let Some(last) = last
            && !is_news(&told, last)?
        {
            return Ok(());
        }
        self.keep_told(polled, &told, found.map(|(record, _)| record))
            .await?;
        // At this replica before it is answered, and at the others with their next reading.
        self.hear_told(board, polled).await;
        Ok(())
    }

    /// Reads what was told last, and ends what hung on what is no more.
    pub(in crate::broker) async fn hear_told(&self, board: &Board, polled: &Polled) {
        let told = match self.told_last(polled.name()).await {
            Ok(Some((_, Some(told)))) => told,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(name = %polled.name(), %error, "what was told cannot be read; it counts no longer than `max_age`");
                return;
            }
        };
        if told.question != polled.question() {
            return;
        }
        let age = self.clock.now().unix_timestamp().saturating_sub(told.sent);
        let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
        if let Some(changed) = board.told(polled, told.facts, age, told.sent) {
            self.end_changed(polled.name(), &changed).await;
        }
    }

    /// SECURITY: nothing in the record is looked at before its MAC holds, and it is of this name.
    async fn told_last(
        &self,
        name: &IssuerId,
    ) -> Result<Option<(Record, Option<Told>)>, StoreError> {
        let found = self.store.get(&[key(name)]).await?.pop().flatten();
        let Some(record) = found else {
            return Ok(None);
        };
        let told = record.value.split_at_checked(MAC_LENGTH);
        let told = told.filter(|(mac, body)| self.sealer.mac_holds(MAC_PURPOSE, body, mac));
        let told = told.and_then(|(_, body)| rmp_serde::from_slice::<Told>(body).ok());
        let told = told.filter(|told| told.name == name.as_str());
        if told.is_none() {
            tracing::error!(%name, "what was told was changed in the store: it proves nothing");
        }
        Ok(Some((record, told)))
    }

    async fn keep_told(
        &self,
        polled: &Polled,
        told: &Told,
        last: Option<Record>,
    ) -> Result<(), Refusal> {
        let fault = |why: String| Refusal::new(Reason::Internal, why);
        let now = self.clock.now();
        let body = rmp_serde::to_vec_named(told).map_err(|error| fault(error.to_string()))?;
        let mac = self.sealer.mac(MAC_PURPOSE, &body);
        let mut value = mac.map_err(|error| fault(error.to_string()))?.to_vec();
        value.extend_from_slice(&body);
        let key = key(polled.name());
        let guard = match last {
            Some(last) => Guard::Unchanged(key.clone(), last.version),
            None => Guard::Absent(key.clone()),
        };
        let facts = serde_json::to_value(&told.facts).unwrap_or_default();
        let entry = Entry::new(Event::FactsTold, now)
            .with("by", format!("facts {}", polled.name()))
            .with("facts", facts);
        let put = Write::Put {
            key,
            value,
            expires_at: None,
        };
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(guard)
            .write(put)
            .write(entry.append(ShardId::INSTALLATION));
        match settle(self.store.as_ref(), transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
            Outcome::Conflict { .. } | Outcome::TooLate => {
                let why = "another message came in between: send it again";
                Err(Refusal::new(Reason::StoreUnavailable, why).after(1))
            }
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
    let refusal = Refusal::new(Reason::MalformedRequest, why).exact();
    Err(refusal.at(Some("x-dayfly-timestamp".to_owned())))
}

fn hash(body: &[u8]) -> [u8; 32] {
    let hash = digest(&SHA256, body);
    hash.as_ref().try_into().unwrap_or_default()
}
