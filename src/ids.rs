//! Names and identifiers. The only place that draws random ones.

use ring::rand::{SecureRandom, SystemRandom};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How many shards the store is born with. Fixed for the life of a store.
pub const SHARDS: u8 = 64;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error(
        "`{0}` is not a name: use 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit"
    )]
    Name(String),
    #[error("not a lease id: expected `dfl` and 26 characters of a-z and 2-7")]
    LeaseId,
}

/// An identifier's schema: its spelling as a pattern.
macro_rules! spelled {
    ($type:ident, $pattern:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        spelled!($type, "^[a-z0-9][a-z0-9._-]{0,62}$");

        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                if is_name(&text) { Ok(Self(text)) } else { Err(IdError::Name(text)) }
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A registered agent, `[agent.NAME]`.
    AgentId
);
name!(
    /// A mission, `[mission.NAME]`.
    MissionId
);
name!(
    /// A target, `[target.NAME]`.
    TargetId
);
name!(
    /// An issuer of bootstrap identities, `[issuer.NAME]`.
    IssuerId
);

impl IssuerId {
    /// The broker itself, for agents that authenticate with a key registered here. No
    /// `[issuer.NAME]` may have this name.
    pub fn client() -> Self {
        Self("client".to_owned())
    }
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes.first(), Some(b'a'..=b'z' | b'0'..=b'9'))
        && bytes.len() <= 63
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

/// One of the store's partitions. A lease lives on the shard of its agent and instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(u8);

impl ShardId {
    /// The shard of what belongs to the installation and not to one agent: fences, keys.
    pub const INSTALLATION: Self = Self(u8::MAX);

    pub fn of(agent: &AgentId, instance: Option<&str>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&(agent.0.len() as u64).to_be_bytes());
        context.update(agent.0.as_bytes());
        context.update(instance.unwrap_or("").as_bytes());
        let digest = context.finish();
        Self(digest.as_ref().first().copied().unwrap_or(0) % SHARDS)
    }

    /// Every shard that holds leases.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    pub fn number(self) -> u8 {
        self.0
    }
}

/// Names one credential for ever: `dfl` and 26 base32 characters, safe as an AWS session name, a
/// PostgreSQL role, a Kubernetes object name and a file name. Carries its shard, is otherwise random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseId([u8; 16]);

// The first byte is the shard, below 64: two of the first digit's three bits are zero.
spelled!(LeaseId, "^dfl[ab][a-z2-7]{25}$");

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl LeaseId {
    pub const TEXT_LENGTH: usize = 29;

    pub fn draw(shard: ShardId) -> Self {
        let mut bytes: [u8; 16] = random();
        if let Some(first) = bytes.first_mut() {
            *first = shard.0;
        }
        Self(bytes)
    }

    pub fn shard(&self) -> ShardId {
        ShardId(self.0.first().copied().unwrap_or(0))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From the form that the store keeps; `None` when it names no shard.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let id = Self(bytes);
        (id.shard().0 < SHARDS).then_some(id)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from_be_bytes(self.0);
        f.write_str("dfl")?;
        for place in (0..26).rev() {
            let digit = (number >> (place * 5)) & 31;
            let letter = usize::try_from(digit)
                .ok()
                .and_then(|d| ALPHABET.get(d))
                .unwrap_or(&b'a');
            write!(f, "{}", char::from(*letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LeaseId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("dfl").ok_or(IdError::LeaseId)?;
        if digits.len() != 26 {
            return Err(IdError::LeaseId);
        }
        let mut number: u128 = 0;
        for (place, letter) in digits.bytes().enumerate() {
            let digit = ALPHABET
                .iter()
                .position(|a| *a == letter)
                .ok_or(IdError::LeaseId)?;
            if place == 0 && digit > 7 {
                return Err(IdError::LeaseId);
            }
            number = (number << 5) | digit as u128;
        }
        let id = Self(number.to_be_bytes());
        if id.shard().0 < SHARDS {
            Ok(id)
        } else {
            Err(IdError::LeaseId)
        }
    }
}

impl TryFrom<String> for LeaseId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<LeaseId> for String {
    fn from(id: LeaseId) -> String {
        id.to_string()
    }
}

/// A time-ordered identifier for what is not a lease: refusals, fences, audit entries.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that draws identifiers"
)]
pub fn draw_uuid() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}

/// Random bytes from the system's generator.
///
/// A machine without randomness must not mint: the process ends rather than go on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes
}

/// A pause between the two: many who begin to wait at once do not come back at once.
pub fn between(least: Duration, most: Duration) -> Duration {
    let share = f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX);
    least + most.saturating_sub(least).mul_f64(share)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Those who draw it a thousand times come back all over it, and never outside of it.
    pub(crate) fn is_spread(least: Duration, most: Duration, draw: impl Fn() -> Duration) {
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| draw()).collect();
        let (first, last) = (drawn.first().unwrap(), drawn.last().unwrap());
        assert!(least <= *first && *last <= most, "{first:?} to {last:?}");
        assert!(drawn.len() > 900, "{} of 1000 are apart", drawn.len());
        let tenth = (most - least) / 10;
        assert!(
            *first < least + tenth && most - tenth < *last,
            "{first:?} to {last:?}"
        );
    }

    #[test]
    fn a_pause_between_two_is_anywhere_between_them() {
        let (least, most) = (Duration::from_millis(20), Duration::from_secs(2));
        is_spread(least, most, || between(least, most));
        assert_eq!(between(most, most), most);
        assert_eq!(between(most, least), most);
    }

    #[test]
    fn a_lease_id_survives_the_trip_through_text() {
        for shard in ShardId::all() {
            let id = LeaseId::draw(shard);
            let text = id.to_string();
            assert_eq!(text.len(), LeaseId::TEXT_LENGTH);
            assert_eq!(text.parse::<LeaseId>().unwrap(), id);
            assert_eq!(id.shard(), shard);
        }
    }

    #[test]
    fn a_lease_id_has_one_spelling() {
        let id = LeaseId::draw(ShardId(3)).to_string();
        assert!(id.to_uppercase().parse::<LeaseId>().is_err());
        assert!(format!("{id}a").parse::<LeaseId>().is_err());
        assert!("dflzaaaaaaaaaaaaaaaaaaaaaaaaa".parse::<LeaseId>().is_err());
    }

    #[test]
    fn names_are_short_lower_case_words() {
        for good in ["a", "deploy-checkout", "aws.prod_1", "0x"] {
            assert!(good.parse::<AgentId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a b", "ü", &"a".repeat(64)] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
    }
}
