//! What the store keeps of invitations and enrolled keys: JSON behind a MAC.

use super::{EnrolError, MAX_KEYS};
use crate::ids::{AgentId, ShardId};
use crate::jose::VerifyingKey;
use crate::secret::Sealer;
use crate::store::{self, Key};
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::serde::timestamp;

const MAC_LENGTH: usize = 32;
const INVITATION: &str = "agent invitation";
const KEYS: &str = "enrolled keys";

/// Where the invitation of this token lies: on the shard of its agent, so that spending it and
/// writing the key are one commit.
pub(super) fn invitation_key(agent: &AgentId, token: &str) -> Key {
    let hash = digest(&SHA256, token.as_bytes());
    Key {
        shard: ShardId::of(agent, None),
        name: [b"invitation/".as_slice(), hash.as_ref()].concat(),
    }
}

pub(super) fn keys_key(agent: &AgentId) -> Key {
    Key {
        shard: ShardId::of(agent, None),
        name: [b"enrolled-keys/".as_slice(), agent.as_str().as_bytes()].concat(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invitation {
    pub agent: AgentId,
    pub by: String,
    pub note: Option<String>,
    #[serde(with = "timestamp")]
    pub made_at: OffsetDateTime,
    #[serde(with = "timestamp")]
    pub expires_at: OffsetDateTime,
    pub spent: Option<Spent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spent {
    /// The thumbprint of the key that it was spent for.
    pub by: String,
    #[serde(with = "timestamp")]
    pub at: OffsetDateTime,
}

/// A key that a machine made for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledKey {
    /// RFC 7638, SHA-256.
    pub thumbprint: String,
    jwk: Value,
    pub invited_by: String,
    pub note: Option<String>,
    #[serde(with = "timestamp")]
    pub enrolled_at: OffsetDateTime,
    /// The agent's last day, as it was then.
    #[serde(with = "timestamp")]
    pub expires_at: OffsetDateTime,
}

impl EnrolledKey {
    /// `None`: the public half is not the one that the thumbprint names.
    pub fn verifying(&self) -> Option<VerifyingKey> {
        let key = VerifyingKey::from_jwk(&self.jwk).ok()?;
        (key.thumbprint() == self.thumbprint).then_some(key)
    }
}

/// All enrolled keys of one agent: one record, so that none of them can be put back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keys {
    agent: AgentId,
    pub keys: Vec<EnrolledKey>,
}

impl Invitation {
    /// The key that it admits.
    pub fn key(
        &self,
        key: &VerifyingKey,
        ends: OffsetDateTime,
        now: OffsetDateTime,
    ) -> EnrolledKey {
        // Records keep seconds; what is answered first is what is answered again.
        let whole = |at: OffsetDateTime| at.replace_nanosecond(0).unwrap_or(at);
        EnrolledKey {
            thumbprint: key.thumbprint().to_owned(),
            jwk: key.named_by_thumbprint().to_jwk(),
            invited_by: self.by.clone(),
            note: self.note.clone(),
            enrolled_at: whole(now),
            expires_at: whole(ends),
        }
    }

    // SECURITY: whoever can write to the store must not be able to invite, nor to make a spent
    // token good again under another name: the MAC covers the place.
    pub fn bytes(&self, sealer: &Sealer, place: &Key) -> Result<Vec<u8>, EnrolError> {
        write(sealer, INVITATION, &(&place.name, self))
    }

    pub fn open(
        sealer: &Sealer,
        place: &Key,
        agent: &AgentId,
        stored: &store::Record,
    ) -> Result<Self, EnrolError> {
        let forged = || EnrolError::Forged(agent.clone());
        let (name, found): (Vec<u8>, Self) =
            read(sealer, INVITATION, &stored.value).ok_or_else(forged)?;
        if name != place.name || found.agent != *agent {
            return Err(forged());
        }
        Ok(found)
    }
}

impl Keys {
    pub fn of(agent: &AgentId) -> Self {
        Self {
            agent: agent.clone(),
            keys: Vec::new(),
        }
    }

    /// Keys that have expired make room; where there is still none, those that are held do.
    pub fn add(
        &mut self,
        key: EnrolledKey,
        now: OffsetDateTime,
        is_held: impl Fn(&EnrolledKey) -> bool,
    ) -> Result<(), EnrolError> {
        self.keys
            .retain(|known| known.expires_at > now && known.thumbprint != key.thumbprint);
        if self.keys.len() >= MAX_KEYS {
            self.keys.retain(|known| !is_held(known));
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(EnrolError::TooMany(self.agent.clone()));
        }
        self.keys.push(key);
        Ok(())
    }

    pub fn bytes(&self, sealer: &Sealer) -> Result<Vec<u8>, EnrolError> {
        write(sealer, KEYS, self)
    }

    pub fn open(
        sealer: &Sealer,
        agent: &AgentId,
        stored: &store::Record,
    ) -> Result<Self, EnrolError> {
        let found: Option<Self> = read(sealer, KEYS, &stored.value);
        // A whole record copied under another agent's name has a good MAC.
        found
            .filter(|keys| keys.agent == *agent)
            .ok_or_else(|| EnrolError::Forged(agent.clone()))
    }
}

pub(super) fn write(
    sealer: &Sealer,
    purpose: &str,
    value: &impl Serialize,
) -> Result<Vec<u8>, EnrolError> {
    // These types always serialise.
    let body = serde_json::to_vec(value).map_err(|_| EnrolError::Unsettled)?;
    let mut bytes = sealer.mac(purpose, &body)?.to_vec();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

pub(super) fn read<T: DeserializeOwned>(sealer: &Sealer, purpose: &str, bytes: &[u8]) -> Option<T> {
    let (mac, body) = bytes.split_at_checked(MAC_LENGTH)?;
    if !sealer.mac_holds(purpose, body, mac) {
        return None;
    }
    serde_json::from_slice(body).ok()
}
