//! What a lease remembers, and its form at rest: MessagePack behind a MAC.

use super::LeaseError;
use super::state::{State, Why};
use crate::authority::{Authority, Vocabulary};
use crate::connectors::RevocationClass;
use crate::fences::{Dimension, DimensionHash, EndedBy, View};
use crate::identity::Confirmation;
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::intent::{Principal, SignerClass};
use crate::secret::Sealer;
use crate::store::{self, CommitId, Link, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Deref;
use time::OffsetDateTime;
use time::serde::timestamp::milliseconds;

const MAC_LENGTH: usize = 32;
const MAC_PURPOSE: &str = "lease";

/// Every field of a lease. To read one, hold a [`Lease`].
// INVARIANT: at rest it is an array. A new field comes last and has a default, or what lies in stores is
// not read any more; the last one alone may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(default)]
    pub chain: Vec<Principal>,
    /// The lease that it was handed on from.
    #[serde(default)]
    pub parent: Option<LeaseId>,
    /// Others may have been handed on from it: what ends it must be matched with them.
    #[serde(default)]
    pub handed_on: bool,
    pub labels: BTreeMap<String, String>,
    #[serde(with = "serde_bytes")]
    pub intent_sha256: [u8; 32],
    pub config_hash: String,
    pub decided_by: Vec<String>,
    /// Everything that a fence can stand on and this lease is covered by, in words.
    pub dimensions: Vec<Dimension>,
    pub(in crate::leases) decided_at: (u64, serde_bytes::ByteArray<20>),

    #[serde(with = "milliseconds")]
    pub created: OffsetDateTime,
    #[serde(with = "milliseconds")]
    pub mint_by: OffsetDateTime,
    /// When the lease ends, whatever the downstream says.
    #[serde(with = "milliseconds")]
    pub expires_at: OffsetDateTime,
    /// The longest that a credential made for this lease can live by itself.
    #[serde(with = "milliseconds")]
    pub lives_until: OffsetDateTime,
    #[serde(with = "milliseconds::option")]
    pub activated_at: Option<OffsetDateTime>,

    pub class: RevocationClass,
    /// Worst case from "revoke" to dead, in seconds; `None`: not before it expires.
    pub dead_within: Option<u64>,
    pub named_by_lease: bool,
    /// `false`: it is tried until it is confirmed dead, however old it is.
    pub expires_by_itself: bool,
    /// What `end` needs, sealed for this lease alone.
    #[serde(with = "serde_bytes")]
    pub(in crate::leases) handle: Option<Vec<u8>>,
    pub names: Vec<String>,
    #[serde(with = "serde_bytes")]
    pub token_sha256: Option<[u8; 32]>,
    pub signing_key: Option<String>,

    pub closing: Option<Closing>,
    /// How often ending it was tried.
    pub attempts: u32,
    /// Whoever claimed the last attempt has until here: nobody else tries before.
    #[serde(with = "milliseconds::option")]
    pub(in crate::leases) claimed_until: Option<OffsetDateTime>,
    /// No access left, but rubbish remains downstream.
    pub uncollected: bool,
    /// Its place in the status list of its shard.
    #[serde(default)]
    pub status: Option<u32>,
    /// It counts for its instance, too. INVARIANT: fields have no names in the record, so the last alone
    /// is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::leases) of_instance: bool,
}

/// Why a lease ends or ended, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    pub why: Why,
    /// Who said so: an operator, the holder, or `dayfly`.
    pub by: String,
    pub reason: String,
    #[serde(with = "milliseconds")]
    pub since: OffsetDateTime,
    #[serde(with = "milliseconds::option")]
    pub closed: Option<OffsetDateTime>,
}

/// A lease as the store holds it: its MAC was right. Only this room makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    record: Record,
    hashes: Vec<DimensionHash>,
    version: CommitId,
}

impl Deref for Lease {
    type Target = Record;
    fn deref(&self) -> &Record {
        &self.record
    }
}

impl Lease {
    pub(in crate::leases) fn new(record: Record, version: CommitId) -> Self {
        Self {
            hashes: record.dimensions.iter().map(Dimension::hash).collect(),
            record,
            version,
        }
    }

    /// SECURITY: whoever can write to the store must not be able to make a lease.
    pub(in crate::leases) fn open(
        sealer: &Sealer,
        id: &LeaseId,
        stored: &store::Record,
    ) -> Result<Self, LeaseError> {
        let forged = || LeaseError::Forged(*id);
        let (mac, body) = stored
            .value
            .split_at_checked(MAC_LENGTH)
            .ok_or_else(forged)?;
        if !sealer.mac_holds(MAC_PURPOSE, body, mac) {
            return Err(forged());
        }
        let record: Record = rmp_serde::from_slice(body).map_err(|_| forged())?;
        // A whole record copied under another key has a good MAC.
        if record.id != *id {
            return Err(forged());
        }
        Ok(Self::new(record, stored.version))
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
}

impl Record {
    pub(in crate::leases) fn bytes(&self, sealer: &Sealer) -> Result<Vec<u8>, LeaseError> {
        // Without the names of its fields, which were a third of it. Records with names are read, too.
        let body = rmp_serde::to_vec(self)
            .map_err(|error| LeaseError::Unwritable(self.id, error.to_string()))?;
        let mut bytes = sealer.mac(MAC_PURPOSE, &body)?.to_vec();
        bytes.extend_from_slice(&body);
        Ok(bytes)
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
