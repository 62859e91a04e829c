//! The key of one pod or one job, pinned on first use.
//!
//! Where the platform fixes a token's audience beforehand, the token cannot name a key. So the first
//! key that an instance signs with is its key, for as long as it lives: one record under the guard that
//! there is none, so that of two replicas one alone writes it. Whoever comes with another key holds
//! a token that is not theirs, or came before its owner did; which of them, a person has to find out.

use super::record::{read, write};
use super::{DEADLINE, EnrolError, Enrolment, TRIES};
use crate::audit::{Entry, Event};
use crate::identity::settings::PinSettings;
use crate::identity::{Caller, claims};
use crate::ids::{AgentId, ShardId};
use crate::jose::LEEWAY;
use crate::store::{Guard, Key, Outcome, Transaction, Write, settle};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use time::OffsetDateTime;
use time::serde::timestamp;

const PINNED: &str = "pinned key";
/// What clocks may differ by before a pin could be gone while its token still passes.
const MARGIN: Duration = Duration::from_secs(3600);
/// The store keeps whatever is asked for, and a claim is as long as the platform makes it.
const LONGEST: usize = 256;

/// One pod, one job: what a key is pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    claim: String,
    value: String,
    kept: Duration,
}

impl Instance {
    /// `None`: the token does not say which instance it is of, or not in a way that tells.
    pub(in crate::identity) fn of(claims: &Map<String, Value>, pin: &PinSettings) -> Option<Self> {
        let value = claims::find(claims, &pin.claim).and_then(claims::text)?;
        let tells = !value.is_empty() && value.len() <= LONGEST;
        tells.then(|| Self {
            claim: pin.claim.clone(),
            value,
            kept: pin.kept,
        })
    }

    /// `job_id 302`, for people.
    pub fn shown(&self) -> String {
        let value: String = self.value.chars().filter(|c| !c.is_control()).collect();
        format!("{} {value}", self.claim)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pinned {
    agent: AgentId,
    /// Thumbprint (RFC 7638, SHA-256).
    key: String,
    #[serde(with = "timestamp")]
    since: OffsetDateTime,
    #[serde(with = "timestamp")]
    until: OffsetDateTime,
}

impl Enrolment {
    /// Holds this instance of the agent to this key: its first, or the one that it has.
    pub async fn pin(
        &self,
        agent: &AgentId,
        caller: &Caller,
        key: &str,
        now: OffsetDateTime,
    ) -> Result<(), EnrolError> {
        let Some(instance) = caller.instance() else {
            return Ok(());
        };
        let place = place(agent, caller, instance);
        let least = (caller.expires_at() + LEEWAY + MARGIN).max(now + instance.kept / 4 * 3);
        let until = least.max(now + instance.kept);
        for _ in 0..TRIES {
            let found = self.store.get(std::slice::from_ref(&place)).await?;
            let stored = found.into_iter().next().flatten();
            let (guard, since) = match &stored {
                None => (Guard::Absent(place.clone()), now),
                Some(stored) => {
                    let known: Option<(Vec<u8>, Pinned)> =
                        read(&self.sealer, PINNED, &stored.value);
                    // SECURITY: a record that was written for another place has a good MAC.
                    let (_, known) = known
                        .filter(|(name, known)| *name == place.name && known.agent == *agent)
                        .ok_or_else(|| EnrolError::Forged(agent.clone()))?;
                    if known.key != key {
                        return Err(EnrolError::OtherKey {
                            agent: agent.clone(),
                            instance: instance.shown(),
                            first: known.key,
                            second: key.to_owned(),
                        });
                    }
                    if known.until >= least {
                        return Ok(());
                    }
                    (Guard::Unchanged(place.clone(), stored.version), known.since)
                }
            };
            let pinned = Pinned {
                agent: agent.clone(),
                key: key.to_owned(),
                since,
                until,
            };
            let shard = place.shard;
            let mut transaction =
                Transaction::new(shard, now + DEADLINE)
                    .guard(guard)
                    .write(Write::Put {
                        key: place.clone(),
                        value: write(&self.sealer, PINNED, &(&place.name, &pinned))?,
                        expires_at: Some(until),
                    });
            if stored.is_none() {
                let entry = Entry::new(Event::KeyPinned, now)
                    .agent(agent.as_str())
                    .caller(caller.issuer_url(), caller.subject())
                    .with("instance", instance.shown())
                    .with("key", key);
                transaction = transaction.write(entry.append(shard));
            }
            match settle(self.store.as_ref(), transaction).await? {
                Outcome::Applied { .. } => return Ok(()),
                // Another request of this instance was faster: with which key, the record says.
                Outcome::Conflict { .. } => {}
                Outcome::TooLate | Outcome::Unreplicated { .. } => {
                    return Err(EnrolError::Unsettled);
                }
            }
        }
        Err(EnrolError::Unsettled)
    }
}

/// On the shard of the agent, as its leases are.
fn place(agent: &AgentId, caller: &Caller, instance: &Instance) -> Key {
    let mut context = Context::new(&SHA256);
    for part in [caller.issuer_url(), &instance.claim, &instance.value] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let shard = ShardId::of(agent, None);
    let hash = context.finish();
    Key {
        shard,
        name: [
            b"pinned-key/".as_slice(),
            agent.as_str().as_bytes(),
            b"/",
            hash.as_ref(),
        ]
        .concat(),
    }
}

#[cfg(test)]
mod tests;
