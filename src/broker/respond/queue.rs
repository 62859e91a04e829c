//! The claim, the queue, and one round of both.

use super::{Action, Message, Responses, Seen, milliseconds};
use crate::audit::{AuditError, Cursor, Entry};
use crate::broker::Broker;
use crate::ids::ShardId;
use crate::store::{CommitId, Guard, Index, Key, Outcome, StoreError, Transaction, Write, settle};
use crate::telemetry::metric;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};

/// Deliveries that may wait. What comes then is counted and not kept; actions always are.
const MOST_WAITING: u64 = 10_000;
/// Taken from the queue in one round.
const BATCH: usize = 256;
/// How long a replica may be silent before another goes on.
const CLAIM: Duration = Duration::seconds(30);
const LONGEST_PAUSE: Duration = Duration::minutes(10);
/// After that nobody waits for it.
const GIVEN_UP: Duration = Duration::days(3);
const DEADLINE: Duration = Duration::seconds(10);

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    holder: [u8; 16],
    /// Milliseconds.
    until: i64,
    seen: Seen,
}

/// One thing to do, until it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Item {
    pub id: [u8; 16],
    /// [`Action::word`].
    pub action: String,
    /// Whom to tell.
    pub to: Option<String>,
    pub message: Message,
    pub attempts: u32,
    /// Milliseconds.
    pub since: i64,
}

fn key(name: &[u8]) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"respond/", name].concat(),
    }
}

fn due() -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("respond/due"),
    }
}

impl Item {
    fn new(action: &str, to: Option<&str>, message: &Message) -> Self {
        let named = format!("{}\n{action}\n{}", message.id, to.unwrap_or(""));
        let hash = digest(&SHA256, named.as_bytes());
        let mut id = [0; 16];
        id.iter_mut()
            .zip(hash.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self {
            id,
            action: action.to_owned(),
            to: to.map(str::to_owned),
            message: message.clone(),
            attempts: 0,
            since: milliseconds(message.at),
        }
    }

    fn key(&self) -> Key {
        key(&[b"item/".as_slice(), &self.id].concat())
    }

    fn put(&self, at: OffsetDateTime) -> Result<[Write; 2], StoreError> {
        let value = rmp_serde::to_vec_named(self);
        let value = value.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok([
            Write::Put {
                key: self.key(),
                value,
                expires_at: None,
            },
            Write::Rank {
                index: due(),
                member: self.id.to_vec(),
                rank: milliseconds(at),
            },
        ])
    }
}

impl Responses {
    /// What these entries ask for, once their last one is counted.
    fn asked(
        &self,
        entries: &[Entry],
        owner: impl Fn(&str) -> Option<String>,
        seen: &mut Seen,
    ) -> Vec<Item> {
        let mut items = Vec::new();
        for entry in entries {
            for response in &self.responses {
                if !response.counts(entry, seen) {
                    continue;
                }
                let owner = entry.agent.as_deref().and_then(&owner);
                let message = Message::of(entry, response, owner);
                for action in &response.actions {
                    if *action != Action::Notify {
                        items.push(Item::new(action.word(), None, &message));
                        continue;
                    }
                    let all = self.notify.iter().map(|notify| &notify.name);
                    let told = |name: &&String| {
                        response.notify.is_empty() || response.notify.contains(name)
                    };
                    items.extend(
                        all.filter(told)
                            .map(|name| Item::new("notify", Some(name), &message)),
                    );
                }
            }
        }
        items
    }
}

impl Broker {
    /// One round, if no other replica is at it.
    pub(super) async fn respond(
        &self,
        me: [u8; 16],
        now: OffsetDateTime,
    ) -> Result<(), AuditError> {
        let bundle = self.bundle.load_full();
        if bundle.responses.responses.is_empty() {
            return Ok(());
        }
        loop {
            let (state, version) = self.claimed().await?;
            if state.holder != me && state.until > milliseconds(now) {
                return Ok(());
            }
            let cursor = Cursor::load(self.store.as_ref()).await?;
            let read = cursor.read_on(self.store.as_ref()).await?;
            if read.missed > 0 {
                tracing::error!(
                    missed = read.missed,
                    "entries of the audit were trimmed before responses read them"
                );
            }
            let mut next = State {
                holder: me,
                until: milliseconds(now + CLAIM),
                seen: state.seen,
            };
            forget(&mut next.seen, &bundle.responses, now);
            let owner = |agent: &str| {
                let agent = bundle.agents.get(&agent.parse().ok()?)?;
                Some(agent.owner.clone())
            };
            let items = bundle.responses.asked(&read.entries, owner, &mut next.seen);
            let moved = read.cursor != cursor || version.is_none();
            let renew = state.holder != me || state.until < milliseconds(now + CLAIM / 2);
            if moved || renew {
                let cursor = read.cursor.write(now)?;
                if !self.advance(&next, version, (cursor, items), now).await? {
                    return Ok(());
                }
            }
            if !read.more {
                break;
            }
        }
        Ok(self.work_off(&bundle.responses, now).await?)
    }

    async fn claimed(&self) -> Result<(State, Option<CommitId>), StoreError> {
        let found = self.store.get(&[key(b"state")]).await?.pop().flatten();
        let Some(record) = found else {
            return Ok((State::default(), None));
        };
        let state = rmp_serde::from_slice(&record.value).unwrap_or_default();
        Ok((state, Some(record.version)))
    }

    /// INVARIANT: the reader moves on in the commit that queues what it read. `false`: somebody else did.
    async fn advance(
        &self,
        state: &State,
        version: Option<CommitId>,
        (cursor, mut items): (Write, Vec<Item>),
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        loop {
            let value = rmp_serde::to_vec_named(state);
            let value = value.map_err(|error| StoreError::Corrupt(error.to_string()))?;
            let state = Write::Put {
                key: key(b"state"),
                value,
                expires_at: None,
            };
            let guard = match version {
                Some(version) => Guard::Unchanged(key(b"state"), version),
                None => Guard::Absent(key(b"state")),
            };
            let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
                .revoking()
                .guard(guard)
                .write(state)
                .write(cursor.clone());
            let tells = items.iter().any(|item| item.action == "notify");
            if tells {
                transaction = transaction.guard(Guard::Fewer {
                    index: due(),
                    above_rank: 0,
                    than: MOST_WAITING,
                });
            }
            for item in &items {
                for write in item.put(now)? {
                    transaction = transaction.write(write);
                }
            }
            match settle(self.store.as_ref(), transaction).await? {
                Outcome::Applied { .. } | Outcome::Unreplicated { .. } => return Ok(true),
                Outcome::Conflict { guard: 1 } => {
                    let before = items.len();
                    items.retain(|item| item.action != "notify");
                    let dropped = before - items.len();
                    tracing::error!(dropped, "too many notifications wait: these are not sent");
                    count("dropped", dropped);
                }
                Outcome::Conflict { .. } | Outcome::TooLate => return Ok(false),
            }
        }
    }

    async fn work_off(&self, responses: &Responses, now: OffsetDateTime) -> Result<(), StoreError> {
        let ranks = 0..=milliseconds(now);
        let members = self.store.range(&due(), ranks, BATCH).await?;
        let places: Vec<_> = members
            .iter()
            .map(|ranked| key(&[b"item/".as_slice(), &ranked.member].concat()))
            .collect();
        let records = self.store.get(&places).await?;
        let mut told: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        for record in records.into_iter().flatten() {
            let Ok(item) = rmp_serde::from_slice::<Item>(&record.value) else {
                continue;
            };
            if let Some(to) = item.to.clone() {
                told.entry(to).or_default().push(item);
                continue;
            }
            let done = self.act(responses, &item, now).await;
            self.note(item, done.map_err(|refusal| refusal.detail), now)
                .await?;
        }
        // One that does not answer keeps nobody else waiting.
        let rounds = told.into_iter().map(|(to, items)| async move {
            let notify = responses.notify.iter().find(|notify| notify.name == to);
            let mut failed = None;
            for item in items {
                let done = match (&failed, notify) {
                    (Some(why), _) => Err(String::clone(why)),
                    // Nobody goes by that name any more.
                    (None, None) => Ok(()),
                    (None, Some(notify)) => notify.deliver(&item.message, now).await,
                };
                failed = done.clone().err();
                self.note(item, done, now).await?;
            }
            Ok(())
        });
        futures_util::future::try_join_all(rounds).await.map(drop)
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
                        index: due(),
                        member: item.id.to_vec(),
                    });
            }
        }
        self.store.commit(transaction).await.map(drop)
    }
}

/// Doubles, with a little chance in it so that many do not come back together.
fn pause(attempts: u32) -> Duration {
    let doubled = Duration::seconds(1_i64 << attempts.min(10));
    let [chance] = crate::ids::random::<1>();
    doubled.min(LONGEST_PAUSE) + Duration::milliseconds(i64::from(chance) * 4)
}

/// Nobody is counted for longer than any response looks back.
fn forget(seen: &mut Seen, responses: &Responses, now: OffsetDateTime) {
    let longest = responses
        .responses
        .iter()
        .map(|response| response.within)
        .max();
    let horizon = milliseconds(now - longest.unwrap_or_default());
    seen.retain(|_, moments| moments.last().is_some_and(|last| *last > horizon));
}

fn count(outcome: &'static str, number: usize) {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    metrics::counter!(metric::RESPONSES, "outcome" => outcome).increment(number);
}
