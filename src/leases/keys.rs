//! Where leases lie in the store.

use crate::ids::{AgentId, LeaseId, ShardId, TargetId};
use crate::replay::ReplayMark;
use crate::store::{Index, Key, MAX_RANK, Tally};
use ring::digest::{SHA256, digest};
use std::borrow::Cow;
use time::OffsetDateTime;

/// The shard of all of an agent's leases.
///
/// SECURITY: of the agent alone, not of its instance. A commit reaches one shard, and two guards
/// must see everything they are about: the replay marks of a proof (which always leads to the same
/// agent, or is refused) and of an intent (which names its agent), whatever instance the request
/// claims; and the limit on the agent's live leases.
pub(super) fn shard(agent: &AgentId) -> ShardId {
    ShardId::of(agent, None)
}

pub(super) fn lease(id: &LeaseId) -> Key {
    key(id.shard(), b"lease/", id.as_bytes())
}

/// That nobody waits for a lease any more whose record cannot be read.
pub(super) fn given_up(id: &LeaseId) -> Key {
    key(id.shard(), b"lease-given-up/", id.as_bytes())
}

pub(super) fn replay(shard: ShardId, mark: &ReplayMark) -> Key {
    key(shard, b"replay/", &mark.hash)
}

/// From SHA-256 of a public name or of the credential itself to the lease.
pub(super) fn name(shard: ShardId, sha256: &[u8]) -> Key {
    key(shard, b"lease-name/", sha256)
}

/// What leases have in common, by the first half of its SHA-256.
pub(super) fn common(shard: ShardId, half: &[u8; 16]) -> Key {
    key(shard, b"lease-common/", half)
}

/// No lease of the shard that was decided before this sequence can be added any more.
pub(super) fn swept(shard: ShardId) -> Key {
    key(shard, b"lease-swept", b"")
}

/// How far the open leases were in fact matched, and who is at it.
pub(super) fn claim(shard: ShardId) -> Key {
    key(shard, b"lease-claim", b"")
}

/// An index of the shard's status list that a credential points to.
pub(super) fn status(shard: ShardId, index: u32) -> Key {
    key(shard, b"lease-status/", &index.to_be_bytes())
}

fn key(shard: ShardId, prefix: &[u8], name: &[u8]) -> Key {
    Key {
        shard,
        name: [prefix, name].concat(),
    }
}

/// Open leases that were handed on from another, by when something has to be done about them.
pub(super) fn children(shard: ShardId) -> Index {
    index(shard, "lease-children")
}

/// Live leases with something to ask their platform about, by when they were made.
pub(super) fn watched(shard: ShardId) -> Index {
    index(shard, "lease-watched")
}

/// Leases by when something has to be done about them: every open one, and those that were closed
/// and left something behind.
pub(super) fn due(shard: ShardId) -> Index {
    index(shard, "lease-due")
}

/// Leases that a downstream still has to end, by since when. The member carries the target.
pub(super) fn ending(shard: ShardId) -> Index {
    index(shard, "lease-ending")
}

/// Leases whose credential may exist and was never handed out, by how long it can live. The member carries
/// the target.
pub(super) fn unclaimed(shard: ShardId) -> Index {
    index(shard, "lease-unclaimed")
}

/// Closed leases by when.
pub(super) fn closed(shard: ShardId) -> Index {
    index(shard, "lease-closed")
}

/// Indices of the status list whose leases were ended before their time, by when that no longer matters.
pub(super) fn status_ended(shard: ShardId) -> Index {
    index(shard, "lease-status-ended")
}

/// How many live leases an agent has, by when they expire.
pub(super) fn quota(agent: &AgentId) -> Tally {
    Tally {
        shard: shard(agent),
        name: Cow::Owned(format!("lease-quota/{agent}")),
    }
}

/// The same of one of its instances; those that name none are one.
pub(super) fn quota_of_instance(agent: &AgentId, instance: Option<&str>) -> Tally {
    let name = digest(&SHA256, instance.unwrap_or_default().as_bytes());
    let name: String = name
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Tally {
        shard: shard(agent),
        name: Cow::Owned(format!("lease-quota/{agent}/{name}")),
    }
}

fn index(shard: ShardId, name: &'static str) -> Index {
    Index {
        shard,
        name: Cow::Borrowed(name),
    }
}

pub(super) fn member(id: &LeaseId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// The lease is in it so that an index used again is another member.
pub(super) fn status_member(index: u32, id: &LeaseId) -> Vec<u8> {
    [index.to_be_bytes().as_slice(), id.as_bytes()].concat()
}

pub(super) fn ending_member(id: &LeaseId, target: &TargetId) -> Vec<u8> {
    [id.as_bytes().as_slice(), target.as_str().as_bytes()].concat()
}

/// The lease that a member names, and what follows its id.
pub(super) fn split_member(member: &[u8]) -> Option<(LeaseId, &[u8])> {
    let (id, rest) = member.split_first_chunk::<16>()?;
    Some((LeaseId::from_bytes(*id)?, rest))
}

pub(super) fn rank(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000))
        .unwrap_or(MAX_RANK)
        .clamp(-MAX_RANK, MAX_RANK)
}

/// Bits of a place below its milliseconds, which then fit until the year 2109.
const SPREAD: u32 = 11;
const LOWER: i64 = (1 << SPREAD) - 1;

/// Where a lease stands in an index: by the millisecond, and within it by its id. One end marks any
/// number of leases at one moment, and whoever reads on from a rank skips all that share it.
pub(super) fn place(at: OffsetDateTime, id: &LeaseId) -> i64 {
    let [.., high, low] = *id.as_bytes();
    first_place(at) | (i64::from(u16::from_be_bytes([high, low])) & LOWER)
}

/// Before all others of its moment.
pub(super) fn first_place(at: OffsetDateTime) -> i64 {
    rank(at).clamp(-(MAX_RANK >> SPREAD), (MAX_RANK >> SPREAD) - 1) << SPREAD
}

/// Behind all others of its moment.
pub(super) fn last_place(at: OffsetDateTime) -> i64 {
    first_place(at) | LOWER
}

/// The moment of a place.
pub(super) fn moment_of(place: i64) -> Option<OffsetDateTime> {
    let nanos = i128::from(place >> SPREAD) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}
