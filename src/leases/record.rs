//! What a lease remembers.

use super::LeaseError;
use super::alike::{self, Common, Half};
use super::close::Closing;
use super::state::{STATES, State};
use crate::authority::{Authority, Vocabulary};
use crate::connectors::RevocationClass;
use crate::fences::{Dimension, DimensionHash, DimensionKind, EndedBy, View};
use crate::identity::{Confirmation, Facts};
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::intent::{Principal, SignerClass};
use crate::secret::Sealer;
use crate::store::{self, CommitId, Link, Position};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::collections::BTreeMap;
use std::ops::Deref;
use time::OffsetDateTime;
use time::serde::timestamp::milliseconds;

const MAC_PURPOSE: &str = "lease";

/// Every field of a lease. To read one, hold a [`Lease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: LeaseId,
    pub state: State,
    pub agent: AgentId,
    pub instance: Option<String>,
    pub owner: String,
    pub mission: MissionId,
    pub target: TargetId,
    /// `authorization_details[].type`.
    pub detail_type: String,
    pub authority: Authority,
    pub audience: String,
    pub issuer_url: String,
    pub subject: String,
    pub task: Option<String>,
    pub goal: String,
    pub signer: SignerClass,
    /// What the credential is bound to.
    pub bound_key: Option<Confirmation>,
    /// Whom its agent acts for, from the one it began with; empty: for itself.
    pub chain: Vec<Principal>,
    /// The lease that it was handed on from.
    pub parent: Option<LeaseId>,
    /// Others may have been handed on from it: what ends it must be matched with them.
    pub handed_on: bool,
    pub labels: BTreeMap<String, String>,
    pub config_hash: String,
    pub decided_by: Vec<String>,
    /// Everything that a fence can stand on and this lease is covered by, in words.
    pub dimensions: Vec<Dimension>,
    pub(in crate::leases) decided_at: (u64, ByteArray<20>),

    pub created: OffsetDateTime,
    pub mint_by: OffsetDateTime,
    /// When the lease ends, whatever the downstream says.
    pub expires_at: OffsetDateTime,
    /// The longest that a credential made for this lease can live by itself.
    pub lives_until: OffsetDateTime,
    pub activated_at: Option<OffsetDateTime>,

    pub class: RevocationClass,
    /// Worst case from "revoke" to dead, in seconds; `None`: not before it expires.
    pub dead_within: Option<u64>,
    pub named_by_lease: bool,
    /// `false`: it is tried until it is confirmed dead, however old it is.
    pub expires_by_itself: bool,
    /// What `end` needs, sealed for this lease alone; until there is a credential, what was known before it.
    pub(in crate::leases) handle: Option<Vec<u8>>,
    pub names: Vec<String>,
    pub token_sha256: Option<[u8; 32]>,
    pub signing_key: Option<String>,

    pub closing: Option<Closing>,
    /// How often ending it was tried.
    pub attempts: u32,
    /// Whoever claimed the last attempt has until here: nobody else tries before.
    pub(in crate::leases) claimed_until: Option<OffsetDateTime>,
    /// No access left, but rubbish remains downstream.
    pub uncollected: bool,
    /// Its place in the status list of its shard.
    pub status: Option<u32>,
    /// It counts for its instance, too.
    pub(in crate::leases) of_instance: bool,
    /// The facts by which the platform is asked whether what it hangs on is over; of most leases none.
    pub asked_by: Facts,
}

/// A lease as the store holds it: its MAC was right. Only this room makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    record: Record,
    hashes: Vec<DimensionHash>,
    version: CommitId,
    /// The name under which the store counts it, of what it has in common with others.
    shares: Half,
}

impl Deref for Lease {
    type Target = Record;
    fn deref(&self) -> &Record {
        &self.record
    }
}

impl Lease {
    /// `shares`: what it was read or written with.
    pub(in crate::leases) fn new(mut record: Record, version: CommitId, shares: Half) -> Self {
        record.arrange();
        Self {
            hashes: record.dimensions.iter().map(Dimension::hash).collect(),
            record,
            version,
            shares,
        }
    }

    /// SECURITY: whoever can write to the store must not be able to make a lease. The MAC is over the
    /// id, over all of what it has in common with others and over the rest: none of the three can be
    /// taken from another lease.
    pub(in crate::leases) fn open(
        sealer: &Sealer,
        id: &LeaseId,
        stored: &store::Record,
        common: &Common,
    ) -> Result<Self, LeaseError> {
        let forged = || LeaseError::Forged(*id);
        let (mac, rest) = stored.value.split_first_chunk().ok_or_else(forged)?;
        let (_, body) = rest.split_first_chunk::<HALF>().ok_or_else(forged)?;
        let signed = signed(id, &common.sha256, body);
        if !sealer.short_mac_holds(MAC_PURPOSE, &signed, mac) {
            return Err(forged());
        }
        let own: Own = rmp_serde::from_slice(body).map_err(|_| forged())?;
        let record = own.record(id, &common.shared).ok_or_else(forged)?;
        Ok(Self::new(record, stored.version, common.half()))
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What ended it: a fence on one of its dimensions, the loss of its decision, or a restriction
    /// of what it may do.
    pub fn ended_by(&self, view: &View) -> Option<EndedBy> {
        view.ended_by(&self.hashes, self.position())
            .or_else(|| self.record.cut_by(view))
    }

    /// Nothing that was made for it can live any more, whatever was said about it.
    pub fn is_past(&self, now: OffsetDateTime) -> bool {
        now >= self.record.expires_at.max(self.record.lives_until)
    }

    /// The hashes of [`Record::dimensions`].
    pub fn hashes(&self) -> &[DimensionHash] {
        &self.hashes
    }

    /// Where the fence log stood when it was decided.
    pub fn position(&self) -> Position {
        self.record.position()
    }

    pub(in crate::leases) fn version(&self) -> CommitId {
        self.version
    }

    // INVARIANT: never what this version would name it: another one may have written it in another form,
    // and counted it under that name.
    pub(in crate::leases) fn shares(&self) -> Half {
        self.shares
    }
}

impl Record {
    pub(in crate::leases) fn bytes(
        &self,
        sealer: &Sealer,
        common: &alike::Written,
    ) -> Result<Vec<u8>, LeaseError> {
        let body = rmp_serde::to_vec(&Own::of(self))
            .map_err(|error| LeaseError::Unwritable(self.id, error.to_string()))?;
        let signed = signed(&self.id, &common.sha256, &body);
        let mac = sealer.short_mac(MAC_PURPOSE, &signed)?;
        Ok([mac.as_slice(), &common.half(), &body].concat())
    }

    /// The mint's answer came, and what it said is in the handle.
    pub(in crate::leases) fn was_answered(&self) -> bool {
        self.activated_at.is_some()
    }

    /// What it has in common with others, as it lies in the store.
    pub(in crate::leases) fn common(&self) -> Result<alike::Written, LeaseError> {
        let written = alike::Written::of(&Shared::of(self));
        written.map_err(|error| LeaseError::Unwritable(self.id, error.to_string()))
    }

    /// Dimensions in the order that they are read back in.
    fn arrange(&mut self) {
        let mut dimensions = std::mem::take(&mut self.dimensions);
        dimensions.sort_by_key(|dimension| self.part(dimension));
        self.dimensions = dimensions;
    }

    fn part(&self, dimension: &Dimension) -> Part {
        match dimension.kind {
            DimensionKind::Lease if dimension.value == self.id.to_string() => Part::Itself,
            DimensionKind::SigningKey if self.signing_key.as_ref() == Some(&dimension.value) => {
                Part::SignedBy
            }
            // Those that differ from one lease to the next.
            DimensionKind::Lease
            | DimensionKind::Instance
            | DimensionKind::Task
            | DimensionKind::Context => Part::Own,
            _ => Part::Shared,
        }
    }

    fn part_of(&self, part: Part) -> Vec<Dimension> {
        let these = self.dimensions.iter();
        let these = these.filter(|dimension| self.part(dimension) == part);
        these.cloned().collect()
    }

    pub(in crate::leases) fn cut_by(&self, view: &View) -> Option<EndedBy> {
        let vocabulary = Vocabulary::of_detail_type(&self.detail_type);
        let may = (vocabulary, &self.authority);
        view.cut_by(self.target.as_str(), may, self.position())
    }

    fn position(&self) -> Position {
        let (sequence, link) = &self.decided_at;
        Position {
            sequence: *sequence,
            link: Link(link.into_array()),
        }
    }
}

/// Where a dimension lies at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Nowhere: it is the lease itself.
    Itself,
    Shared,
    Own,
    /// Nowhere: it is the signing key.
    SignedBy,
}

/// Bytes of a hash that name what is in common.
const HALF: usize = 16;

/// The name of what a stored record has in common with others.
pub(in crate::leases) fn common_of(value: &[u8]) -> Option<[u8; HALF]> {
    let (_mac, rest) = value.split_first_chunk::<16>()?;
    rest.split_first_chunk().map(|(half, _)| *half)
}

fn signed(id: &LeaseId, common: &[u8; 32], body: &[u8]) -> Vec<u8> {
    [id.as_bytes().as_slice(), common, body].concat()
}

/// What many leases of a shard have in common: nothing that a single request makes up.
// INVARIANT: at rest it is an array, and its name is its hash. Another field comes last and has a default; each
// lease then has another name for it than it was written under, and the next step of it goes from the one to the
// other (`Lease::shares`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::leases) struct Shared {
    agent: AgentId,
    owner: String,
    mission: MissionId,
    target: TargetId,
    detail_type: String,
    authority: Authority,
    audience: String,
    issuer_url: String,
    subject: String,
    signer: SignerClass,
    labels: BTreeMap<String, String>,
    config_hash: String,
    decided_by: Vec<String>,
    dimensions: Vec<Dimension>,
    class: RevocationClass,
    dead_within: Option<u64>,
    named_by_lease: bool,
    expires_by_itself: bool,
    signing_key: Option<String>,
    #[serde(default)]
    of_instance: bool,
}

/// What is a lease's own. Moments are milliseconds, most of them after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Own {
    /// Its place in `STATES`.
    state: u8,
    goal: String,
    decided_at: (u64, ByteArray<20>),
    created: i64,
    /// After `created`.
    mint_by: i64,
    /// After `created`.
    expires_at: i64,
    /// After `expires_at`.
    lives_until: i64,
    /// After `created`.
    activated_at: Option<i64>,
    #[serde(with = "serde_bytes")]
    token_sha256: Option<[u8; 32]>,
    rare: Option<Box<Rare>>,
}

/// What most leases have none of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rare {
    instance: Option<String>,
    task: Option<String>,
    bound_key: Option<Confirmation>,
    chain: Vec<Principal>,
    parent: Option<LeaseId>,
    handed_on: bool,
    dimensions: Vec<Dimension>,
    #[serde(with = "serde_bytes")]
    handle: Option<Vec<u8>>,
    names: Vec<String>,
    closing: Option<Closing>,
    attempts: u32,
    #[serde(with = "milliseconds::option")]
    claimed_until: Option<OffsetDateTime>,
    uncollected: bool,
    status: Option<u32>,
    // INVARIANT: the last one, and left out where there are none: so older versions read most records.
    #[serde(default, skip_serializing_if = "Facts::is_empty")]
    asked_by: Facts,
}

/// Both parts of a record without the MAC, for the fuzzers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtRest(Shared, Own);

impl AtRest {
    pub fn of(record: &Record) -> Self {
        Self(Shared::of(record), Own::of(record))
    }

    pub fn record(&self, id: &LeaseId) -> Option<Record> {
        self.1.clone().record(id, &self.0)
    }
}

impl Shared {
    fn of(record: &Record) -> Self {
        Self {
            agent: record.agent.clone(),
            owner: record.owner.clone(),
            mission: record.mission.clone(),
            target: record.target.clone(),
            detail_type: record.detail_type.clone(),
            authority: record.authority.clone(),
            audience: record.audience.clone(),
            issuer_url: record.issuer_url.clone(),
            subject: record.subject.clone(),
            signer: record.signer,
            labels: record.labels.clone(),
            config_hash: record.config_hash.clone(),
            decided_by: record.decided_by.clone(),
            dimensions: record.part_of(Part::Shared),
            class: record.class,
            dead_within: record.dead_within,
            named_by_lease: record.named_by_lease,
            expires_by_itself: record.expires_by_itself,
            signing_key: record.signing_key.clone(),
            of_instance: record.of_instance,
        }
    }
}

impl Own {
    fn of(record: &Record) -> Self {
        let rare = Rare {
            instance: record.instance.clone(),
            task: record.task.clone(),
            bound_key: record.bound_key.clone(),
            chain: record.chain.clone(),
            parent: record.parent,
            handed_on: record.handed_on,
            dimensions: record.part_of(Part::Own),
            handle: record.handle.clone(),
            names: record.names.clone(),
            closing: record.closing.clone(),
            attempts: record.attempts,
            claimed_until: record.claimed_until,
            uncollected: record.uncollected,
            status: record.status,
            asked_by: record.asked_by.clone(),
        };
        let state = STATES.iter().position(|state| *state == record.state);
        let created = moment(record.created);
        Self {
            state: state
                .and_then(|at| u8::try_from(at).ok())
                .unwrap_or(u8::MAX),
            goal: record.goal.clone(),
            decided_at: record.decided_at,
            created,
            mint_by: moment(record.mint_by) - created,
            expires_at: moment(record.expires_at) - created,
            lives_until: moment(record.lives_until) - moment(record.expires_at),
            activated_at: record.activated_at.map(|at| moment(at) - created),
            token_sha256: record.token_sha256,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        }
    }

    fn record(self, id: &LeaseId, shared: &Shared) -> Option<Record> {
        let rare = self.rare.map_or_else(Rare::default, |rare| *rare);
        let after = |from: i64, by: i64| at(from.checked_add(by)?);
        let itself = Dimension::new(DimensionKind::Lease, id.to_string());
        let signed_by = shared
            .signing_key
            .clone()
            .map(|key| Dimension::new(DimensionKind::SigningKey, key));
        let others = shared.dimensions.iter().chain(&rare.dimensions);
        let others = others.filter(|other| **other != itself && Some(*other) != signed_by.as_ref());
        let mut dimensions: Vec<_> = others.cloned().collect();
        dimensions.push(itself);
        dimensions.extend(signed_by);
        let expires_at = self.created.checked_add(self.expires_at)?;
        let mut record = Record {
            id: *id,
            state: *STATES.get(usize::from(self.state))?,
            agent: shared.agent.clone(),
            instance: rare.instance,
            owner: shared.owner.clone(),
            mission: shared.mission.clone(),
            target: shared.target.clone(),
            detail_type: shared.detail_type.clone(),
            authority: shared.authority.clone(),
            audience: shared.audience.clone(),
            issuer_url: shared.issuer_url.clone(),
            subject: shared.subject.clone(),
            task: rare.task,
            goal: self.goal,
            signer: shared.signer,
            bound_key: rare.bound_key,
            chain: rare.chain,
            parent: rare.parent,
            handed_on: rare.handed_on,
            labels: shared.labels.clone(),
            config_hash: shared.config_hash.clone(),
            decided_by: shared.decided_by.clone(),
            dimensions,
            decided_at: self.decided_at,
            created: at(self.created)?,
            mint_by: after(self.created, self.mint_by)?,
            expires_at: at(expires_at)?,
            lives_until: after(expires_at, self.lives_until)?,
            activated_at: match self.activated_at {
                Some(activated) => Some(after(self.created, activated)?),
                None => None,
            },
            class: shared.class,
            dead_within: shared.dead_within,
            named_by_lease: shared.named_by_lease,
            expires_by_itself: shared.expires_by_itself,
            handle: rare.handle,
            names: rare.names,
            token_sha256: self.token_sha256,
            signing_key: shared.signing_key.clone(),
            closing: rare.closing,
            attempts: rare.attempts,
            claimed_until: rare.claimed_until,
            uncollected: rare.uncollected,
            status: rare.status,
            of_instance: shared.of_instance,
            asked_by: rare.asked_by,
        };
        record.arrange();
        Some(record)
    }
}

fn moment(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX / 2)
}

fn at(moment: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment) * 1_000_000).ok()
}
