//! Keys of machines that no platform vouches for: invited by an operator, made by the machine, kept
//! in the store.
//!
//! An operator's invitation is a join token, good once and for minutes; its hash is stored. The
//! machine makes a key that never leaves it, proves that it holds it ([`proof`]) and spends the
//! token: one commit writes the key and marks the token spent. From then on the machine is a client
//! like any other (`private_key_jwt`). Whether an agent may have such keys at all is the
//! configuration's to say. Every look at a key is a look at the store, and a hold on a key is
//! looked for each time: nothing is cached, so every replica knows a key, and its end, at once.
//!
//! Beside them the keys of pods and jobs whose tokens cannot name one: [`pin`].

mod pin;
pub mod proof;
mod record;

pub use pin::Instance;
pub use proof::{Applicant, ProofFault};
pub use record::EnrolledKey;

use crate::audit::{Entry, Event};
use crate::fences::{Dimension, DimensionKind, Fences, HeldBy, Stale, View};
use crate::ids::{self, AgentId, ShardId};
use crate::jose::KeySet;
use crate::secret::{SealError, Sealer, Secret};
use crate::store::{Guard, Key, Outcome, Store, StoreError, Transaction, Write, settle};
use record::{Invitation, Keys, Spent};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Marks a join token for secret scanners.
pub const TOKEN_PREFIX: &str = "dayflyjoin_";
/// An agent's machines at once.
pub const MAX_KEYS: usize = 32;
/// How long a token is remembered past its end, so that whoever comes too late or twice is noticed.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
const DEADLINE: Duration = Duration::from_secs(10);
const TRIES: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("the proof of the new key is not acceptable: {0}")]
    Proof(#[from] ProofFault),
    #[error("no invitation has this token, or not for this agent")]
    UnknownToken,
    #[error("the invitation of agent `{0}` has ended: ask for another one")]
    Expired(AgentId),
    /// Somebody else has it: whoever came first, or whoever comes now.
    #[error(
        "the join token of agent `{agent}` was spent by key `{first}`, and is now sent with key `{second}`"
    )]
    Reused {
        agent: AgentId,
        first: String,
        second: String,
    },
    /// Two hold one instance's token: one of them stole it.
    #[error(
        "{instance} of agent `{agent}` has signed with key `{first}` and now signs with `{second}`: \
         the first is its key for as long as it lives"
    )]
    OtherKey {
        agent: AgentId,
        instance: String,
        first: String,
        second: String,
    },
    #[error("agent `{0}` has {MAX_KEYS} enrolled keys: revoke one that is not needed")]
    TooMany(AgentId),
    #[error(
        "the enrolled keys of agent `{0}` are not as they were written: somebody changed the store"
    )]
    Forged(AgentId),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the store is busy, slow or not replicated: nothing is certain; try again")]
    Unsettled,
}

/// Two keys where there can be one: a person has to find out which of them is whose.
#[derive(Debug)]
pub struct Alarm<'a> {
    pub event: Event,
    pub agent: &'a AgentId,
    pub instance: Option<&'a str>,
    pub first: &'a str,
    pub second: &'a str,
}

impl EnrolError {
    pub fn alarm(&self) -> Option<Alarm<'_>> {
        let (event, agent, instance, first, second) = match self {
            Self::Reused {
                agent,
                first,
                second,
            } => (Event::JoinTokenReused, agent, None, first, second),
            Self::OtherKey {
                agent,
                instance,
                first,
                second,
            } => (
                Event::OtherKeyPinned,
                agent,
                Some(instance.as_str()),
                first,
                second,
            ),
            _ => return None,
        };
        Some(Alarm {
            event,
            agent,
            instance,
            first,
            second,
        })
    }
}

/// What is asked of an invitation.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    pub agent: AgentId,
    /// Who invites.
    pub by: String,
    /// For whom, in words: it is shown beside the key.
    pub note: Option<String>,
    pub valid_for: Duration,
}

/// An enrolled key as it stands: held keys are listed and prove nothing.
#[derive(Debug, Clone)]
pub struct Listed {
    pub key: EnrolledKey,
    pub held: Option<HeldBy>,
}

#[derive(Debug)]
pub struct Enrolment {
    store: Arc<dyn Store>,
    sealer: Sealer,
    fences: Arc<Fences>,
}

impl Enrolment {
    pub fn new(store: Arc<dyn Store>, sealer: Sealer, fences: Arc<Fences>) -> Self {
        Self {
            store,
            sealer,
            fences,
        }
    }

    /// A join token, shown to nobody but whoever asked; the store keeps its hash.
    pub async fn invite(
        &self,
        new: NewInvitation,
        now: OffsetDateTime,
    ) -> Result<(Secret<String>, OffsetDateTime), EnrolError> {
        let random: String = ids::random::<32>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let token = Secret::new(format!("{TOKEN_PREFIX}{random}"));
        let place = record::invitation_key(&new.agent, token.expose());
        let expires_at = now + new.valid_for;
        let entry = Entry::new(Event::OperatorAction, now)
            .operator(&new.by)
            .agent(new.agent.as_str())
            .with("action", "agent_invited")
            .with("note", new.note.clone())
            .with("valid_seconds", new.valid_for.as_secs());
        let invitation = Invitation {
            agent: new.agent,
            by: new.by,
            note: new.note,
            made_at: now,
            expires_at,
            spent: None,
        };
        let shard = place.shard;
        let transaction = Transaction::new(shard, now + DEADLINE)
            .guard(Guard::Absent(place.clone()))
            .write(self.put_invitation(place, &invitation)?)
            .write(entry.append(shard));
        match settle(self.store.as_ref(), transaction).await? {
            Outcome::Applied { .. } => Ok((token, expires_at)),
            _ => Err(EnrolError::Unsettled),
        }
    }

    /// One commit: the token is spent and the key is the agent's. The same key with the same token
    /// is the same enrolment, whose answer was lost.
    pub async fn enrol(
        &self,
        applicant: &Applicant,
        token: &Secret<String>,
        ends: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<EnrolledKey, EnrolError> {
        let agent = &applicant.agent;
        let thumbprint = applicant.key.thumbprint();
        let place = record::invitation_key(agent, token.expose());
        let keys_place = record::keys_key(agent);
        for _ in 0..TRIES {
            let found = self.store.get(&[place.clone(), keys_place.clone()]).await?;
            let [invitation, keys] = found.as_slice() else {
                return Err(EnrolError::Unsettled);
            };
            let stored = invitation.as_ref().ok_or(EnrolError::UnknownToken)?;
            let mut invitation = Invitation::open(&self.sealer, &place, agent, stored)?;
            let mut known = match keys {
                Some(stored) => Keys::open(&self.sealer, agent, stored)?,
                None => Keys::of(agent),
            };
            if let Some(spent) = &invitation.spent {
                let again = known.keys.iter().find(|key| key.thumbprint == thumbprint);
                return match again {
                    Some(key) if spent.by == thumbprint => Ok(key.clone()),
                    _ => Err(EnrolError::Reused {
                        agent: agent.clone(),
                        first: spent.by.clone(),
                        second: thumbprint.to_owned(),
                    }),
                };
            }
            if invitation.expires_at <= now {
                return Err(EnrolError::Expired(agent.clone()));
            }
            let key = invitation.key(&applicant.key, ends, now);
            let view = self.fences.fresh()?;
            known.add(key.clone(), now, |key| held(&view, key).is_some())?;
            invitation.spent = Some(Spent {
                by: thumbprint.to_owned(),
                at: now,
            });
            let guard = match keys {
                Some(stored) => Guard::Unchanged(keys_place.clone(), stored.version),
                None => Guard::Absent(keys_place.clone()),
            };
            let shard = place.shard;
            let transaction = Transaction::new(shard, now + DEADLINE)
                .guard(Guard::Unchanged(place.clone(), stored.version))
                .guard(guard)
                .write(self.put_invitation(place.clone(), &invitation)?)
                .write(Write::Put {
                    key: keys_place.clone(),
                    value: known.bytes(&self.sealer)?,
                    expires_at: None,
                })
                .write(enrolled(&invitation, &key, now).append(shard));
            match settle(self.store.as_ref(), transaction).await? {
                Outcome::Applied { .. } => return Ok(key),
                // Somebody enrolled another machine, or this token, meanwhile: look again.
                Outcome::Conflict { .. } => {}
                Outcome::TooLate | Outcome::Unreplicated { .. } => {
                    return Err(EnrolError::Unsettled);
                }
            }
        }
        Err(EnrolError::Unsettled)
    }

    /// Every key that has not expired, held ones too.
    pub async fn list(
        &self,
        agent: &AgentId,
        now: OffsetDateTime,
    ) -> Result<Vec<Listed>, EnrolError> {
        let view = self.fences.fresh()?;
        let keys = self.keys(agent, now).await?;
        let listed = keys.into_iter().map(|key| Listed {
            held: held(&view, &key),
            key,
        });
        Ok(listed.collect())
    }

    /// The keys that prove who it is now. Without a fresh view of what was revoked there are none.
    pub async fn verifying(
        &self,
        agent: &AgentId,
        now: OffsetDateTime,
    ) -> Result<KeySet, EnrolError> {
        let forged = || EnrolError::Forged(agent.clone());
        // SECURITY: the view is taken before the keys are read: a key that is ended in between is
        // ended by a fence that is later than the view, and so is every lease that it gets.
        let view = self.fences.fresh()?;
        let keys = self.keys(agent, now).await?;
        let standing = keys.iter().filter(|key| held(&view, key).is_none());
        let keys: Vec<_> = standing
            .map(|key| key.verifying().ok_or_else(forged))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Ok(KeySet::default());
        }
        KeySet::new(keys).map_err(|_| forged())
    }

    async fn keys(
        &self,
        agent: &AgentId,
        now: OffsetDateTime,
    ) -> Result<Vec<EnrolledKey>, EnrolError> {
        let found = self.store.get(&[record::keys_key(agent)]).await?;
        let Some(stored) = found.into_iter().next().flatten() else {
            return Ok(Vec::new());
        };
        let mut keys = Keys::open(&self.sealer, agent, &stored)?.keys;
        keys.retain(|key| key.expires_at > now);
        Ok(keys)
    }

    /// Written once for each time it is seen; the caller bounds how often that is.
    pub async fn alarm(&self, error: &EnrolError, now: OffsetDateTime) -> Result<(), StoreError> {
        let Some(alarm) = error.alarm() else {
            return Ok(());
        };
        let shard = ShardId::of(alarm.agent, None);
        let entry = Entry::new(alarm.event, now)
            .agent(alarm.agent.as_str())
            .reason(alarm.event.name())
            .with("instance", alarm.instance)
            .with("first_key", alarm.first)
            .with("second_key", alarm.second);
        let transaction = Transaction::new(shard, now + DEADLINE)
            .local()
            .write(entry.append(shard));
        settle(self.store.as_ref(), transaction).await.map(drop)
    }

    fn put_invitation(&self, place: Key, invitation: &Invitation) -> Result<Write, EnrolError> {
        Ok(Write::Put {
            value: invitation.bytes(&self.sealer, &place)?,
            key: place,
            expires_at: Some(invitation.expires_at + REMEMBERED),
        })
    }
}

fn held(view: &View, key: &EnrolledKey) -> Option<HeldBy> {
    let own = Dimension::new(DimensionKind::IssuerKey, key.thumbprint.as_str());
    view.held(&[own.hash()])
}

fn enrolled(invitation: &Invitation, key: &EnrolledKey, now: OffsetDateTime) -> Entry {
    Entry::new(Event::KeyEnrolled, now)
        .agent(invitation.agent.as_str())
        .with("key", key.thumbprint.as_str())
        .with("invited_by", invitation.by.as_str())
        .with("note", invitation.note.clone())
        .with("expires_at", key.expires_at.unix_timestamp())
}

#[cfg(test)]
mod tests;
