//! What happens reaches a person, or stops something by itself: `[[response]]` and `[[notify]]`.
//!
//! One replica at a time reads the audit behind the corridor, never in it. What an entry asks for is
//! queued in the commit that moves the reader on, and done from its queue until it is done: a crash
//! repeats, it never forgets. Whoever is told knows a repetition by its id.

mod act;
mod deliver;
mod queue;
mod work;

#[cfg(test)]
mod tests;

pub use deliver::{Notify, Way};

use super::{Broker, Reason};
use crate::agents::Turn;
use crate::audit::{Entry, Event};
use crate::clock::Clock;
use crate::ids::{self, AgentId, MissionId};
use crate::policy::Recorded;
use crate::wire::RestrictionRequest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

const EVERY: Duration = Duration::from_secs(1);
/// Moments that are counted for one agent and one response.
pub const MOST_COUNTED: usize = 100;

/// `[[response]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseSettings {
    pub name: String,
    pub on: On,
    pub agent: Option<AgentId>,
    pub mission: Option<MissionId>,
    /// So many, of one agent, within that time; then it is counted anew.
    pub count: usize,
    pub within: Duration,
    pub actions: Vec<Action>,
    /// Whom `notify` tells; empty: everybody.
    pub notify: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Event(Event),
    /// A refusal with this reason.
    Refusal(Reason),
    /// An agent that nobody used for too long was suspended: to be told apart from other ways into that stage.
    Dormant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Notify,
    /// A hold on the agent.
    Suspend,
    HoldMission,
    /// What the agent has is ended; it may go on asking.
    EndLeases,
    Restrict(RestrictionRequest),
    /// What the agent gets from then on lives `to` at most, for as long as `lasts`.
    Shorten {
        to: Duration,
        lasts: Duration,
    },
    /// People approve what the agent gets from then on, for as long as it lasts.
    RequireApproval {
        lasts: Duration,
    },
}

impl Action {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Suspend => "suspend",
            Self::HoldMission => "hold_mission",
            Self::EndLeases => "end_leases",
            Self::Restrict(_) => "restrict",
            Self::Shorten { .. } => "shorten",
            Self::RequireApproval { .. } => "require_approval",
        }
    }
}

/// Both tables of one configuration.
#[derive(Debug, Default)]
pub struct Responses {
    pub responses: Vec<ResponseSettings>,
    pub notify: Vec<Notify>,
}

/// What somebody is told, and what an action is done for. Names and reasons; never a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::broker) struct Message {
    /// The same each time that it is delivered.
    pub id: String,
    pub response: String,
    pub event: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The entry of the audit that it was the last of.
    pub entry: uuid::Uuid,
    pub reason: Option<String>,
    pub agent: Option<String>,
    pub owner: Option<String>,
    /// Who answers for it where the owner does not.
    #[serde(default)]
    pub backup_owners: Vec<String>,
    pub mission: Option<String>,
    pub target: Option<String>,
    pub lease: Option<String>,
    pub operator: Option<String>,
    /// The condition, for operators and owners.
    pub why: Option<String>,
    pub count: usize,
    /// What was done about it beside telling.
    pub actions: Vec<String>,
    /// Nothing was done yet: one more, and it is.
    #[serde(default)]
    pub soon: bool,
}

/// When each response saw each agent, in milliseconds.
type Seen = BTreeMap<String, Vec<i64>>;

/// Entries that were counted or answered of late, each with its moment in milliseconds.
type Answered = Vec<(i64, uuid::Uuid)>;

impl ResponseSettings {
    fn is_about(&self, entry: &Entry) -> bool {
        let is = match self.on {
            On::Event(event) => entry.event == event,
            On::Refusal(reason) => {
                entry.event == Event::Refused && entry.reason.as_deref() == Some(reason.code())
            }
            On::Dormant => {
                entry.event == Event::Suspended
                    && entry.reason.as_deref() == Some(Turn::Dormant.code())
            }
        };
        let agent = self.agent.as_ref().map(AgentId::as_str);
        let mission = self.mission.as_ref().map(MissionId::as_str);
        is && (agent.is_none() || agent == entry.agent.as_deref())
            && (mission.is_none() || mission == mission_of(entry).as_deref())
    }

    /// Whether this entry is the last that it takes, or the last but one.
    fn counts(&self, entry: &Entry, seen: &mut Seen) -> Counted {
        if !self.is_about(entry) {
            return Counted::No;
        }
        if self.count <= 1 {
            return Counted::Last;
        }
        let at = milliseconds(entry.at);
        let within = i64::try_from(self.within.as_millis()).unwrap_or(i64::MAX);
        let key = format!("{}/{}", self.name, entry.agent.as_deref().unwrap_or(""));
        let moments = seen.entry(key.clone()).or_default();
        moments.retain(|moment| at.saturating_sub(*moment) < within);
        moments.push(at);
        let number = moments.len();
        if number >= self.count {
            seen.remove(&key);
            return Counted::Last;
        }
        if number + 1 == self.count {
            return Counted::LastButOne;
        }
        Counted::No
    }

    /// Whoever is told of what it stops is told before it does.
    fn warns(&self) -> bool {
        self.actions.contains(&Action::Notify)
            && self.actions.iter().any(|one| *one != Action::Notify)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    No,
    LastButOne,
    Last,
}

/// Who answers for the agent that an entry is about.
#[derive(Debug, Clone, Default)]
struct Owners {
    owner: Option<String>,
    backup: Option<String>,
}

/// The mission of an entry, or the one that a refused request named.
fn mission_of(entry: &Entry) -> Option<String> {
    let named = || {
        let recorded = Recorded::from_detail(&Value::Object(entry.detail.clone()))?;
        let mission = recorded.mission.or(recorded.beside.mission)?;
        Some(mission.to_string())
    };
    entry.mission.clone().or_else(named)
}

impl Message {
    fn of(entry: &Entry, response: &ResponseSettings, owners: Owners) -> Self {
        let told = |name: &str| entry.detail.get(name)?.as_str().map(str::to_owned);
        let listed = |name: &str| {
            let list = entry.detail.get(name).and_then(Value::as_array);
            let list = list.into_iter().flatten();
            let texts = list.filter_map(|one| Some(one.as_str()?.to_owned()));
            texts.collect::<Vec<_>>()
        };
        let fence = || {
            Some(format!(
                "{} {} {}",
                told("kind")?,
                told("dimension")?,
                told("value")?
            ))
        };
        Self {
            id: format!("{}/{}", entry.id, response.name),
            response: response.name.clone(),
            event: entry.event.name().to_owned(),
            at: entry.at,
            entry: entry.id,
            reason: entry.reason.clone(),
            agent: entry.agent.clone(),
            // An entry about an owner, and about no agent, names both itself.
            owner: owners.owner.or_else(|| told("owner")),
            backup_owners: match owners.backup {
                Some(backup) => vec![backup],
                None => listed("backup_owners"),
            },
            mission: mission_of(entry),
            target: entry.target.clone(),
            lease: entry.lease.clone(),
            operator: entry.operator.clone(),
            why: told("why").or_else(fence),
            count: response.count,
            actions: response
                .actions
                .iter()
                .map(|action| action.word().to_owned())
                .filter(|word| word != "notify")
                .collect(),
            soon: false,
        }
    }

    /// Of the last but one: what the next one does.
    fn soon(mut self) -> Self {
        let next = self.actions.join(", ");
        self.id.push_str("/soon");
        self.why = Some(format!("once more within the time, and: {next}"));
        self.count = self.count.saturating_sub(1);
        self.actions.clear();
        self.soon = true;
        self
    }
}

fn milliseconds(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// Reads and acts in the background for as long as the broker is held; and, beside it, tells.
pub fn start(broker: &Arc<Broker>, clock: Arc<dyn Clock>) {
    let me: [u8; 16] = ids::random();
    let (acting, telling) = (Arc::downgrade(broker), Arc::downgrade(broker));
    let acts_by = clock.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(broker) = acting.upgrade() else {
                return;
            };
            // Another replica has what is in force.
            if broker.decides_here().await.is_err() {
                continue;
            }
            if let Err(error) = broker.respond(me, acts_by.now()).await {
                tracing::warn!(%error, "responses wait: the audit or their queue cannot be read; tried again");
            }
        }
    });
    // INVARIANT: apart, and each receiver by itself: whoever holds its answer keeps nothing from being done
    // and nobody else from being told.
    tokio::spawn(async move {
        let mut turns: BTreeMap<String, tokio::task::JoinHandle<()>> = BTreeMap::new();
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(broker) = telling.upgrade() else {
                return;
            };
            turns.retain(|_, turn| !turn.is_finished());
            let receivers = broker.receivers(me, clock.now()).await;
            for receiver in receivers.unwrap_or_default() {
                let broker = Arc::clone(&broker);
                turns.entry(receiver.clone()).or_insert_with(|| {
                    tokio::spawn(async move {
                        if let Err(error) = broker.tell_due(&receiver).await {
                            tracing::warn!(%error, to = receiver, "notifications wait: their queue cannot be read; tried again");
                        }
                    })
                });
            }
        }
    });
}
