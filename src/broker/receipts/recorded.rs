//! What is written of a revocation, and what is told once it is done.

use crate::audit::{Entry, Event};
use crate::broker::revoke::Coverage;
use crate::broker::{Reason, Refusal};
use crate::fences::{DimensionKind, Fence, FenceKind, Raised, Weight};
use crate::ids::ShardId;
use crate::store::{Index, Key, Link, MAX_RANK, Position, Record, Write};
use crate::wire::{RevocationState, Selector};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::borrow::Cow;
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const KEPT: Duration = Duration::days(90);
/// Until a receipt is looked at for the first time, and at most between two looks.
const FIRST: Duration = Duration::SECOND;
pub(super) const LONGEST: Duration = Duration::seconds(30);
/// At most between two looks where only somebody who looks downstream brings it any further.
const LONGEST_FOR_SOMEBODY: Duration = Duration::HOUR;

/// What a receipt is rebuilt from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) fence: Fence,
    pub(super) position: u64,
    /// With the number, its place on the log.
    #[serde(default)]
    link: Option<ByteArray<20>>,
    pub(super) replicated: bool,
    /// Every replica has read it, as one of them has seen: what was said by that stays said, by all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) read: bool,
    pub(super) selector: Selector,
    /// What it was found to cover, by how it can die. `None`: it was not counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    covered: Option<BTreeMap<String, u64>>,
    /// It was counted only later, when some of it may have been dead already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    late: bool,
    /// How often it was looked at.
    #[serde(default)]
    pub(super) looked: u32,
    /// How often, last, nothing was in the way but what cannot be read.
    #[serde(default, skip_serializing_if = "is_zero")]
    stuck: u32,
}

impl Recorded {
    pub(super) fn of(raised: Raised, selector: Selector) -> Self {
        let mut recorded = Self {
            fence: raised.fence,
            position: 0,
            link: None,
            replicated: raised.replicated,
            read: false,
            selector,
            covered: None,
            late: false,
            looked: 0,
            stuck: 0,
        };
        recorded.moves_to(raised.position);
        recorded
    }

    pub(super) fn place(&self) -> Option<Position> {
        Some(Position {
            sequence: self.position,
            link: Link(self.link?.into_array()),
        })
    }

    pub(super) fn moves_to(&mut self, place: Position) {
        self.read = false;
        self.position = place.sequence;
        self.link = Some(ByteArray::new(place.link.0));
    }

    /// Whether there is something to wait for, and to tell.
    pub(super) fn ends(&self) -> bool {
        match self.fence.kind {
            FenceKind::Kill => true,
            FenceKind::Hold => self.fence.weight > Weight::Review,
            FenceKind::Register => self.fence.dimension.kind == DimensionKind::Agent,
            FenceKind::Lift | FenceKind::Restrict | FenceKind::Configure => false,
        }
    }

    /// What was found right behind the fence.
    pub(super) fn counts_first(&mut self, found: &Coverage) {
        self.covered = Some(found.by_class.clone());
    }

    /// What is found later: the first time that it could be counted, or with what was on its way.
    pub(super) fn counts(&mut self, found: &Coverage) {
        self.late |= self.covered.is_none();
        let covered = self.covered.get_or_insert_default();
        for (class, number) in &found.owed {
            let most = covered.entry(class.clone()).or_default();
            *most = (*most).max(*number);
        }
    }

    /// Somebody looked at it while that was counted, and wrote this.
    pub(super) fn covered_at_first(&mut self, first: &Self) {
        let Some(first) = &first.covered else { return };
        let covered = self.covered.get_or_insert_default();
        for (class, number) in first {
            let most = covered.entry(class.clone()).or_default();
            *most = (*most).max(*number);
        }
        self.late = false;
    }

    /// It was looked at, and is not done. `stuck`: somebody has to look at what cannot be read.
    pub(super) fn is_looked_at(&mut self, stuck: bool) {
        self.looked = self.looked.saturating_add(1);
        // At first it may be mended in a moment.
        let is_new = FIRST * 2_i32.saturating_pow(self.looked.min(16)) <= LONGEST;
        self.stuck = match stuck && !is_new {
            true => self.stuck.saturating_add(1),
            false => 0,
        };
    }

    /// Whether somebody is to hear that it is done. Of what was counted late nobody knows that it ended nothing.
    pub(super) fn tells(&self) -> bool {
        self.late || self.covered.as_ref().is_some_and(|all| !all.is_empty())
    }

    pub(super) fn put(&self) -> Result<Write, Refusal> {
        let value = serde_json::to_vec(self)
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        Ok(Write::Put {
            key: key(self.fence.id),
            value,
            expires_at: Some(self.fence.at + KEPT),
        })
    }

    /// When it is looked at next; the first time, when each replica has read it (`read`).
    pub(super) fn next(&self, now: OffsetDateTime, read: std::time::Duration) -> Write {
        let doubled = |pause: Duration, times: u32| pause * 2_i32.saturating_pow(times.min(16));
        let pause = match (self.looked, self.stuck) {
            (0, _) => FIRST.max(Duration::try_from(read).unwrap_or(LONGEST)),
            (looked, 0) => doubled(FIRST, looked).min(LONGEST),
            (_, stuck) => doubled(LONGEST, stuck).min(LONGEST_FOR_SOMEBODY),
        };
        self.ranked(now + pause)
    }

    pub(super) fn ranked(&self, at: OffsetDateTime) -> Write {
        Write::Rank {
            index: waiting(),
            member: self.fence.id.as_bytes().to_vec(),
            rank: milliseconds(at),
        }
    }

    /// It is looked at no more.
    pub(super) fn forget(&self) -> Write {
        Write::Unrank {
            index: waiting(),
            member: self.fence.id.as_bytes().to_vec(),
        }
    }

    pub(super) fn confirmed(
        &self,
        state: RevocationState,
        left: &Coverage,
        now: OffsetDateTime,
    ) -> Entry {
        let (fence, on) = (&self.fence, &self.fence.dimension);
        let covered = self.covered.clone().unwrap_or_default();
        let all: u64 = covered.values().sum();
        let (kind, value) = (on.kind.as_str(), on.value.as_str());
        let when = if self.late {
            "were left when they could be counted"
        } else {
            "when it was revoked"
        };
        let (code, why) = match state {
            RevocationState::ConfirmedExceptExpiry => (
                "confirmed_except_expiry",
                format!(
                    "{} of {all} credentials of {kind} {value} cannot be ended and die of age; the others are dead",
                    left.until_expiry,
                ),
            ),
            _ => (
                "confirmed",
                format!("all credentials of {kind} {value} are dead: {all} {when}"),
            ),
        };
        let why = match left.given_up.len() {
            0 => why,
            given_up => format!(
                "{why}; {given_up} that may be of them cannot be read, and operators gave them up"
            ),
        };
        let mut entry = Entry::new(Event::RevocationConfirmed, now)
            .reason(code)
            .with("fence", fence.id.to_string())
            .with("dimension", kind)
            .with("value", value)
            .with("leases", serde_json::json!(covered))
            .with("until_expiry", left.until_expiry)
            .with("given_up", left.given_up.len())
            .with("seconds", (now - fence.at).whole_seconds())
            .with("why", why);
        entry = match on.kind {
            DimensionKind::Agent => entry.agent(value),
            DimensionKind::Mission => entry.mission(value),
            DimensionKind::Target => entry.target(value),
            DimensionKind::Lease => entry.lease(value),
            _ => entry,
        };
        match fence.rule {
            Some(_) => entry.with("by", fence.author.as_str()),
            None => entry.operator(fence.author.as_str()),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(super) fn read(record: &Record) -> Result<Recorded, Refusal> {
    serde_json::from_slice(&record.value)
        .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))
}

pub(super) fn key(id: Uuid) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"revocation/".as_slice(), id.as_bytes().as_slice()].concat(),
    }
}

/// Receipts by when they are looked at next.
pub(super) fn waiting() -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("revocations"),
    }
}

pub(super) fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(MAX_RANK)
}
