//! The claim, and the queues: one for what is done, and one for each who is told.

use super::work::count;
use super::{Action, Answered, Counted, Message, Owners, Responses, Seen, milliseconds};
use crate::audit::{AuditError, Cursor, Entry, READ_AGAIN};
use crate::broker::Broker;
use crate::fences::MOST_SKEW;
use crate::ids::ShardId;
use crate::store::{CommitId, Guard, Index, Key, Outcome, StoreError, Transaction, Write, settle};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use time::{Duration, OffsetDateTime};

/// Deliveries that may wait for one receiver. What comes then is counted and not kept; actions always are.
const MOST_WAITING: u64 = 10_000;
/// How long a replica may be silent before another goes on.
const CLAIM: Duration = Duration::seconds(30);
pub(super) const DEADLINE: Duration = Duration::seconds(10);

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    holder: [u8; 16],
    /// Milliseconds.
    until: i64,
    seen: Seen,
    #[serde(default)]
    answered: Answered,
    /// Whoever was ever told something: each has a queue of its own.
    #[serde(default)]
    receivers: BTreeSet<String>,
}

impl State {
    /// SECURITY: nobody claims it for longer than this: a holder whose clock was ahead would keep everybody else
    /// from answering until that time has come.
    fn is_held(&self, now: OffsetDateTime) -> bool {
        let longest = now + CLAIM + MOST_SKEW;
        (milliseconds(now) + 1..=milliseconds(longest)).contains(&self.until)
    }
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

pub(super) fn key(name: &[u8]) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"respond/", name].concat(),
    }
}

/// What is done, when it is due.
pub(super) fn actions() -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("respond/actions"),
    }
}

/// What one receiver is told, when it is due.
pub(super) fn messages(receiver: &str) -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Owned(format!("respond/messages/{receiver}")),
    }
}

pub(super) fn item_key(id: &[u8]) -> Key {
    key(&[b"item/".as_slice(), id].concat())
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

    pub fn key(&self) -> Key {
        item_key(&self.id)
    }

    pub fn index(&self) -> Index {
        self.to.as_deref().map_or_else(actions, messages)
    }

    pub fn put(&self, at: OffsetDateTime) -> Result<[Write; 2], StoreError> {
        let value = rmp_serde::to_vec_named(self);
        let value = value.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok([
            Write::Put {
                key: self.key(),
                value,
                expires_at: None,
            },
            Write::Rank {
                index: self.index(),
                member: self.id.to_vec(),
                rank: milliseconds(at),
            },
        ])
    }
}

impl Responses {
    /// What these entries ask for, once their last one is counted.
    pub(super) fn asked(
        &self,
        entries: &[Entry],
        owners: impl Fn(&str) -> Option<Owners>,
        (seen, answered): (&mut Seen, &mut Answered),
    ) -> Vec<Item> {
        let mut items = Vec::new();
        let known: BTreeSet<_> = answered.iter().map(|(_, id)| *id).collect();
        for entry in entries {
            let is_asked = self.responses.iter().any(|one| one.is_about(entry));
            // INVARIANT: what is read once more after a failover counts once.
            if !is_asked || known.contains(&entry.id) {
                continue;
            }
            answered.push((milliseconds(entry.at), entry.id));
            for response in &self.responses {
                let counted = response.counts(entry, seen);
                let soon = counted == Counted::LastButOne && response.warns();
                if counted != Counted::Last && !soon {
                    continue;
                }
                let owners = entry.agent.as_deref().and_then(&owners);
                let mut message = Message::of(entry, response, owners.unwrap_or_default());
                if soon {
                    message = message.soon();
                }
                let actions = response.actions.iter();
                for action in actions.filter(|one| !soon || **one == Action::Notify) {
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
    /// One round of reading and acting, if no other replica is at it.
    pub(super) async fn respond(
        &self,
        me: [u8; 16],
        now: OffsetDateTime,
    ) -> Result<(), AuditError> {
        let bundle = self.bundle.load_full();
        // What is queued is due by the clock of whoever queues it.
        if bundle.responses.responses.is_empty() || self.fences.in_time().is_err() {
            return Ok(());
        }
        loop {
            let (state, version) = self.claimed().await?;
            if state.holder != me && state.is_held(now) {
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
                answered: state.answered,
                receivers: state.receivers,
            };
            forget(&mut next.seen, &bundle.responses, now);
            let owner = |agent: &str| {
                let agent = bundle.agents.get(&agent.parse().ok()?)?;
                Some(Owners {
                    owner: Some(agent.owner.clone()),
                    backup: agent.backup_owner.clone(),
                })
            };
            let counts = (&mut next.seen, &mut next.answered);
            let items = bundle.responses.asked(&read.entries, owner, counts);
            forget_answered(&mut next.answered, now);
            next.receivers
                .extend(items.iter().filter_map(|item| item.to.clone()));
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
        Ok(self.act_on_due(&bundle.responses, now).await?)
    }

    /// Whom this replica has something to tell, if it is the one that tells.
    pub(super) async fn receivers(
        &self,
        me: [u8; 16],
        now: OffsetDateTime,
    ) -> Result<BTreeSet<String>, StoreError> {
        let (state, _) = self.claimed().await?;
        let ours = state.holder == me && state.is_held(now);
        Ok(if ours {
            state.receivers
        } else {
            BTreeSet::new()
        })
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
            let tells: BTreeSet<String> = items.iter().filter_map(|item| item.to.clone()).collect();
            let tells = Vec::from_iter(tells);
            for receiver in &tells {
                transaction = transaction.guard(Guard::Fewer {
                    index: messages(receiver),
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
                Outcome::Conflict { guard } if guard > 0 => {
                    let full = tells.get(guard - 1);
                    let before = items.len();
                    items.retain(|item| item.to.is_none() || item.to.as_ref() != full);
                    let dropped = before - items.len();
                    tracing::error!(
                        to = full,
                        dropped,
                        "too many notifications wait: these are not sent"
                    );
                    count("dropped", dropped);
                }
                Outcome::Conflict { .. } | Outcome::TooLate => return Ok(false),
            }
        }
    }
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

/// Only what may be read once more is known by its id, and of that the last: beyond them a failover repeats, as a
/// crash does.
fn forget_answered(answered: &mut Answered, now: OffsetDateTime) {
    const MOST: usize = 1024;
    let horizon = milliseconds(now - READ_AGAIN * 2);
    answered.retain(|(at, _)| *at > horizon);
    let surplus = answered.len().saturating_sub(MOST);
    answered.drain(..surplus);
}

#[cfg(test)]
mod tests;
