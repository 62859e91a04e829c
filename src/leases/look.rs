//! Finding leases: by id, by a name seen elsewhere, by what they have in common.

use super::record::{self, Lease};
use super::state::State;
use super::{LeaseError, Leases, keys};
use crate::fences::{Dimension, DimensionHash, DimensionKind};
use crate::ids::{AgentId, LeaseId, MissionId, ShardId, TargetId};
use crate::store::{self, CommitId, Index, Key, MAX_RANK, Ranked, Store, StoreError};
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

/// Records read in one go.
pub(super) const PAGE: usize = 256;
/// Records looked at for one page of a listing, however few of them fit the filter.
const LOOKED_AT: usize = 4096;

/// Which leases to list. Everything that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Leases that closed within the last days, instead of open ones.
    pub closed: bool,
    /// Only open leases that were handed on from another.
    pub children: bool,
    pub state: Option<State>,
    pub agent: Option<AgentId>,
    /// Leases of every other agent.
    pub not_agent: Option<AgentId>,
    pub mission: Option<MissionId>,
    pub target: Option<TargetId>,
    pub owner: Option<String>,
    pub task: Option<String>,
    pub instance: Option<String>,
    pub dimension: Option<DimensionHash>,
}

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    rank: i64,
    id: LeaseId,
}

#[derive(Debug, Clone, Default)]
pub struct Page {
    pub leases: Vec<Lease>,
    /// Records that were to be looked at and could not be read: whether they fit the filter, nobody knows. The next
    /// page may name them again.
    pub unreadable: Vec<LeaseId>,
    /// The same, but an operator has said that nobody waits for them any more.
    pub given_up: Vec<LeaseId>,
    /// `None`: that was all. A page may be empty and have a next one.
    pub next: Option<Cursor>,
}

/// What lies under a lease's id.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Lease(Box<Lease>),
    /// Why, and what it was, as far as that can be told.
    Unreadable(LeaseError, Option<Seen>),
}

/// What an id leads to, for whoever goes on where it cannot be read.
#[derive(Debug)]
pub enum LookedUp {
    Nothing,
    Lease(Box<Lease>),
    Unreadable,
    /// It cannot be read either, and an operator has said that nobody waits for it.
    GivenUp,
}

/// A record that was read and says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The commit that wrote it.
    pub version: CommitId,
    pub sha256: [u8; 32],
}

/// Members of an index that lead to no lease that can be read.
#[derive(Debug, Default)]
struct LeftOut {
    unreadable: Vec<LeaseId>,
    given_up: Vec<LeaseId>,
}

/// What a fence would hit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blast {
    pub leases: u64,
    pub agents: BTreeMap<AgentId, u64>,
    pub targets: BTreeMap<TargetId, u64>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.rank, self.id)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a cursor of a lease listing: start without one";
        let (rank, id) = text.split_once('.').ok_or(wrong)?;
        Ok(Self {
            rank: rank.parse().map_err(|_| wrong)?,
            id: id.parse().map_err(|_| wrong)?,
        })
    }
}

impl Filter {
    fn fits(&self, lease: &Lease) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        is(self.state.as_ref(), &lease.state)
            // Where open ones lie there are others, too, that are to be cleared away.
            && (self.closed || lease.state.is_open())
            && is(self.agent.as_ref(), &lease.agent)
            && self.not_agent.as_ref() != Some(&lease.agent)
            && is(self.mission.as_ref(), &lease.mission)
            && is(self.target.as_ref(), &lease.target)
            && is(self.owner.as_ref(), &lease.owner)
            && (self.task.is_none() || self.task == lease.task)
            && (self.instance.is_none() || self.instance == lease.instance)
            && self
                .dimension
                .is_none_or(|dimension| lease.hashes().contains(&dimension))
    }

    fn shards(&self) -> Vec<ShardId> {
        match &self.agent {
            Some(agent) => vec![keys::shard(agent)],
            None => ShardId::all().collect(),
        }
    }
}

impl Leases {
    /// Up to `limit` leases, from where the last page ended.
    pub async fn list(
        &self,
        filter: &Filter,
        from: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, LeaseError> {
        let mut page = Page::default();
        let mut looked_at = 0;
        // INVARIANT: a lease moves in its index while it is ended, and is told once all the same.
        let mut told = HashSet::new();
        for shard in filter.shards() {
            let mut after = match from {
                Some(cursor) if shard < cursor.id.shard() => continue,
                Some(cursor) if shard == cursor.id.shard() => {
                    Some((cursor.rank, keys::member(&cursor.id)))
                }
                _ => None,
            };
            let index = if filter.closed {
                keys::closed(shard)
            } else if filter.children {
                keys::children(shard)
            } else {
                keys::due(shard)
            };
            loop {
                let members = self.members(&index, after.as_ref(), PAGE).await?;
                let Some(last) = members.last() else { break };
                let is_last = members.len() < PAGE;
                after = Some((last.rank, last.member.clone()));
                looked_at += members.len();
                let (leases, left_out) = self.readable(&members).await?;
                page.unreadable.extend(left_out.unreadable);
                page.given_up.extend(left_out.given_up);
                for (rank, lease) in leases {
                    if !filter.fits(&lease) || !told.insert(lease.id) {
                        continue;
                    }
                    let id = lease.id;
                    page.leases.push(lease);
                    if page.leases.len() >= limit {
                        page.next = Some(Cursor { rank, id });
                        return Ok(page);
                    }
                }
                if is_last {
                    break;
                }
                if looked_at >= LOOKED_AT
                    && let Some((rank, member)) = &after
                    && let Some((id, _)) = keys::split_member(member)
                {
                    page.next = Some(Cursor { rank: *rank, id });
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    /// What lies under one id.
    pub async fn look_up(&self, id: &LeaseId) -> Result<LookedUp, LeaseError> {
        let found = self.read(&[*id]).await?.pop();
        Ok(match found.unwrap_or(Found::Nothing) {
            Found::Nothing => LookedUp::Nothing,
            Found::Lease(lease) => LookedUp::Lease(lease),
            Found::Unreadable(_, seen) if self.is_given_up(id, seen).await? => LookedUp::GivenUp,
            Found::Unreadable(error, _) => {
                tracing::error!(lease = %id, %error, "left out");
                LookedUp::Unreadable
            }
        })
    }

    /// How many open leases a fence on this dimension would end, and whose.
    pub async fn count_matching(&self, dimension: &Dimension) -> Result<Blast, LeaseError> {
        let mut blast = Blast::default();
        let mut filter = Filter {
            dimension: Some(dimension.hash()),
            ..Filter::default()
        };
        match dimension.kind {
            DimensionKind::Lease => {
                if let Ok(id) = dimension.value.parse::<LeaseId>()
                    && let Some(lease) = self.get(&id).await?
                    && lease.state.is_open()
                {
                    blast.add(&lease);
                }
                return Ok(blast);
            }
            DimensionKind::Agent => filter.agent = dimension.value.parse().ok(),
            _ => {}
        }
        let mut from = None;
        loop {
            let page = self.list(&filter, from.as_ref(), PAGE).await?;
            page.leases.iter().for_each(|lease| blast.add(lease));
            from = page.next;
            if from.is_none() {
                return Ok(blast);
            }
        }
    }

    /// The lease behind a lease id, a name that it is seen by downstream (an AWS key id or session
    /// name), the credential itself, or its SHA-256 in hex.
    pub async fn find(&self, query: &str) -> Result<Option<Lease>, LeaseError> {
        let query = query.trim();
        if let Ok(id) = query.parse::<LeaseId>() {
            return self.get(&id).await;
        }
        let mut hashes = vec![keys::sha256(query.as_bytes())];
        hashes.extend(parse_hex(query));
        let places: Vec<_> = hashes
            .iter()
            .flat_map(|hash| ShardId::all().map(move |shard| keys::name(shard, hash)))
            .collect();
        let found = self.store.notes(&places).await?;
        for value in found.into_iter().flatten() {
            if let Some((id, _)) = keys::split_member(&value)
                && let Some(lease) = self.get(&id).await?
            {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    /// The next members of an index, in its order, after one that was seen.
    pub(super) async fn members(
        &self,
        index: &Index,
        after: Option<&(i64, Vec<u8>)>,
        limit: usize,
    ) -> Result<Vec<Ranked>, LeaseError> {
        let from = after.map_or(-MAX_RANK, |(rank, _)| *rank);
        // Members of equal rank come again and are skipped; a page of nothing else is widened.
        let mut asked = limit + 1;
        loop {
            let mut found = self.store.range(index, from..=MAX_RANK, asked).await?;
            let all = found.len() < asked;
            if let Some(seen) = after {
                found.retain(|next| (next.rank, &next.member) > (seen.0, &seen.1));
            }
            if all || !found.is_empty() {
                found.truncate(limit);
                return Ok(found);
            }
            asked *= 2;
        }
    }

    /// The leases of these members, with their ranks. One that was forged is reported and left out:
    /// it must not hide the others.
    pub(super) async fn leases_of(
        &self,
        members: &[Ranked],
    ) -> Result<Vec<(i64, Lease)>, LeaseError> {
        let (leases, _) = self.readable(members).await?;
        Ok(leases)
    }

    /// The same, and which were left out.
    async fn readable(
        &self,
        members: &[Ranked],
    ) -> Result<(Vec<(i64, Lease)>, LeftOut), LeaseError> {
        let mut leases = Vec::with_capacity(members.len());
        let mut wrong = Vec::new();
        for (ranked, found) in members.iter().zip(self.behind(members).await?) {
            match found {
                Found::Lease(lease) => leases.push((ranked.rank, *lease)),
                Found::Unreadable(error, seen) => {
                    let lease = keys::split_member(&ranked.member).map(|(id, _)| id);
                    wrong.extend(lease.map(|id| (id, seen, error)));
                }
                Found::Nothing => {}
            }
        }
        let seen: Vec<_> = wrong.iter().map(|(id, seen, _)| (*id, *seen)).collect();
        let given_up = self.given_up(&seen).await?;
        let mut left_out = LeftOut::default();
        for (lease, _, error) in wrong {
            if given_up.contains(&lease) {
                left_out.given_up.push(lease);
            } else {
                tracing::error!(%lease, %error, "left out");
                left_out.unreadable.push(lease);
            }
        }
        Ok((leases, left_out))
    }

    /// What each of these members leads to, in order.
    pub(super) async fn behind(&self, members: &[Ranked]) -> Result<Vec<Found>, LeaseError> {
        let named = |ranked: &Ranked| Some(keys::split_member(&ranked.member)?.0);
        let ids: Vec<_> = members.iter().filter_map(named).collect();
        let mut found = self.read(&ids).await?.into_iter();
        let behind = |ranked| named(ranked).and_then(|_| found.next());
        let behind = members.iter().map(behind);
        Ok(behind
            .map(|found| found.unwrap_or(Found::Nothing))
            .collect())
    }

    /// One answer per id, in order: what is wrong with one spoils no other.
    pub(super) async fn read(&self, ids: &[LeaseId]) -> Result<Vec<Found>, LeaseError> {
        let keys: Vec<_> = ids.iter().map(keys::lease).collect();
        let records = each(self.store.as_ref(), &keys).await?;
        let named = ids.iter().zip(&records).filter_map(|(id, record)| {
            let record = record.as_ref().ok()?.as_ref()?;
            Some((id.shard(), record::common_of(&record.value)?))
        });
        let commons = self.commons.get(self.store.as_ref(), named).await?;
        let open = |id: &LeaseId, record: &store::Record| {
            let half = record::common_of(&record.value);
            let common = half.and_then(|half| commons.get(&half));
            let common = common.ok_or(LeaseError::Forged(*id))?;
            Lease::open(&self.sealer, id, record, common)
        };
        let found = ids.iter().zip(records).map(|(id, record)| match record {
            Ok(None) => Found::Nothing,
            Ok(Some(record)) => match open(id, &record) {
                Ok(lease) => Found::Lease(Box::new(lease)),
                Err(error) => Found::Unreadable(error, Some(Seen::of(&record))),
            },
            Err(error) => Found::Unreadable(error.into(), None),
        });
        Ok(found.collect())
    }
}

impl Seen {
    fn of(record: &store::Record) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, &record.value).as_ref());
        Self {
            version: record.version,
            sha256,
        }
    }
}

/// One answer per key, in order. A record that is damaged spoils its own answer alone.
pub(super) async fn each(
    store: &dyn Store,
    keys: &[Key],
) -> Result<Vec<Result<Option<store::Record>, StoreError>>, StoreError> {
    match store.get(keys).await {
        Ok(found) => return Ok(found.into_iter().map(Ok).collect()),
        Err(StoreError::Corrupt(_)) => {}
        Err(error) => return Err(error),
    }
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        found.push(match store.get(std::slice::from_ref(key)).await {
            Ok(mut one) => Ok(one.pop().flatten()),
            Err(error @ StoreError::Corrupt(_)) => Err(error),
            Err(error) => return Err(error),
        });
    }
    Ok(found)
}

impl Blast {
    fn add(&mut self, lease: &Lease) {
        self.leases += 1;
        *self.agents.entry(lease.agent.clone()).or_default() += 1;
        *self.targets.entry(lease.target.clone()).or_default() += 1;
    }
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}
