//! Works the queues off. What is done never waits for whoever is told: a task of its own acts, and each
//! receiver has its own turn.

use super::queue::{DEADLINE, Item, actions, item_key, key, messages};
use super::{Responses, milliseconds};
use crate::audit::{Entry, Event};
use crate::broker::Broker;
use crate::ids::{self, ShardId};
use crate::store::{Guard, Index, Record, StoreError, Transaction, Write, settle};
use crate::telemetry::metric;
use time::{Duration, OffsetDateTime};

/// Taken from a queue in one round.
const BATCH: usize = 256;
/// How long one receiver's turn is, give or take its last message; then it is looked whose claim it is.
const TURN: std::time::Duration = std::time::Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::minutes(10);
/// By how much many that wait for the same long are to come back apart.
pub(super) const APART: std::time::Duration = std::time::Duration::from_secs(1);
/// After that nobody waits for it.
const GIVEN_UP: Duration = Duration::days(3);
/// What cannot be read is kept for as long, for whoever looks into it.
const KEPT_ASIDE: Duration = Duration::days(90);

impl Broker {
    /// Does what is due. Never waits for anybody who is told.
    pub(super) async fn act_on_due(
        &self,
        responses: &Responses,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        for item in self.due(&actions(), now).await? {
            let done = self.act(responses, &item, now).await;
            self.note(item, done.map_err(|refusal| refusal.detail), now)
                .await?;
        }
        Ok(())
    }

    /// One receiver's turn.
    pub(super) async fn tell_due(&self, receiver: &str) -> Result<(), StoreError> {
        let bundle = self.bundle.load_full();
        let known = bundle.responses.notify.iter();
        let notify = known.clone().find(|notify| notify.name == receiver);
        let began = tokio::time::Instant::now();
        let mut failed = None;
        for item in self.due(&messages(receiver), self.clock.now()).await? {
            let now = self.clock.now();
            let done = match (&failed, notify) {
                (Some(why), _) => Err(String::clone(why)),
                // Nobody goes by that name any more.
                (None, None) => Ok(()),
                (None, Some(notify)) => notify.deliver(&item.message, now).await,
            };
            failed = done.clone().err();
            self.note(item, done, now).await?;
            if failed.is_none() && began.elapsed() > TURN {
                break;
            }
        }
        Ok(())
    }

    async fn due(&self, index: &Index, now: OffsetDateTime) -> Result<Vec<Item>, StoreError> {
        let ranks = 0..=milliseconds(now);
        let members = self.store.range(index, ranks, BATCH).await?;
        let places: Vec<_> = members.iter().map(|one| item_key(&one.member)).collect();
        let records = self.store.get(&places).await?;
        let mut items = Vec::with_capacity(records.len());
        for (ranked, record) in members.into_iter().zip(records) {
            let read = record
                .as_ref()
                .map(|record| rmp_serde::from_slice::<Item>(&record.value));
            match read {
                Some(Ok(item)) if item.id.as_slice() == ranked.member && item.index() == *index => {
                    items.push(item);
                }
                _ => self.set_aside((index, ranked.member), record, now).await?,
            }
        }
        Ok(items)
    }

    /// INVARIANT: what cannot be read is neither tried for ever nor lost: it would fill the batches, and it
    /// may have been somebody's suspension.
    async fn set_aside(
        &self,
        (index, member): (&Index, Vec<u8>),
        record: Option<Record>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let place = item_key(&member);
        let name = String::from_utf8_lossy(&place.name).into_owned();
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .local()
            .revoking()
            .write(Write::Unrank {
                index: index.clone(),
                member: member.clone(),
            });
        if let Some(record) = record {
            let entry = Entry::new(Event::RecordUnreadable, now)
                .reason("response")
                .with("key", name.as_str())
                .with("queue", index.name.as_ref());
            transaction = transaction
                .guard(Guard::Unchanged(place.clone(), record.version))
                .write(Write::Put {
                    key: key(&[b"aside/".as_slice(), &member].concat()),
                    value: record.value,
                    expires_at: Some(now + KEPT_ASIDE),
                })
                .write(Write::Delete(place))
                .write(entry.append(ShardId::INSTALLATION));
            tracing::error!(
                key = name,
                "ALARM: a response that waited cannot be read, and is not done"
            );
            metrics::counter!(metric::ALARMS, "kind" => "record_unreadable").increment(1);
        }
        settle(self.store.as_ref(), transaction).await.map(drop)
    }

    async fn note(
        &self,
        mut item: Item,
        done: Result<(), String>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .local()
            .revoking();
        let old = milliseconds(now - GIVEN_UP) > item.since;
        match done {
            Err(why) if !old => {
                item.attempts = item.attempts.saturating_add(1);
                let pause = pause(item.attempts);
                tracing::warn!(
                    action = item.action,
                    to = item.to,
                    attempts = item.attempts,
                    why,
                    "a response failed and is tried again"
                );
                count("failed", 1);
                for write in item.put(now + pause)? {
                    transaction = transaction.write(write);
                }
            }
            outcome => {
                if let Err(why) = outcome {
                    tracing::error!(
                        action = item.action,
                        to = item.to,
                        why,
                        "a response failed for three days and is given up"
                    );
                    count("dropped", 1);
                } else {
                    count("done", 1);
                }
                transaction = transaction
                    .write(Write::Delete(item.key()))
                    .write(Write::Unrank {
                        index: item.index(),
                        member: item.id.to_vec(),
                    });
            }
        }
        self.store.commit(transaction).await.map(drop)
    }
}

/// Doubles, with a little chance in it so that many do not come back together.
pub(super) fn pause(attempts: u32) -> Duration {
    let doubled = Duration::seconds(1_i64 << attempts.min(10));
    doubled.min(LONGEST_PAUSE) + ids::between(std::time::Duration::ZERO, APART)
}

pub(super) fn count(outcome: &'static str, number: usize) {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    metrics::counter!(metric::RESPONSES, "outcome" => outcome).increment(number);
}
