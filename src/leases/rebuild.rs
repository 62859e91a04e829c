//! A lease whose record the store lost, as the audit tells it: not to live again, but to be ended.

use super::close::Closing;
use super::open::{put_names, whole_milliseconds};
use super::record::Record;
use super::state::{State, Why};
use super::{DEADLINE, LeaseError, Leases, MINT_WITHIN, keys};
use crate::audit::{Entry, Event};
use crate::authority::Authority;
use crate::connectors::Promises;
use crate::fences::{Dimension, DimensionKind};
use crate::identity::Facts;
use crate::ids::LeaseId;
use crate::intent::SignerClass;
use crate::store::{Guard, Outcome, Transaction, settle};
use serde_bytes::ByteArray;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What the audit says of one credential that may be alive.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub id: LeaseId,
    pub target: String,
    pub expires_at: OffsetDateTime,
    entry: Entry,
    /// What its credential is seen by elsewhere, once there was one.
    names: Vec<String>,
}

impl Remembered {
    /// Those that were issued and not said to be over, in the order of their ids.
    pub fn of(entries: &[Entry]) -> BTreeMap<LeaseId, Self> {
        let mut open: BTreeMap<LeaseId, Self> = BTreeMap::new();
        for entry in entries {
            let Some(id) = entry.lease.as_ref().and_then(|id| id.parse().ok()) else {
                continue;
            };
            let state = entry.detail.get("state").and_then(|state| state.as_str());
            let over = state
                .and_then(State::parse)
                .is_some_and(|state| !state.is_open());
            if over {
                open.remove(&id);
            } else if entry.event == Event::Activated
                && let Some(remembered) = open.get_mut(&id)
            {
                remembered.names = value(entry, "names").unwrap_or_default();
                // A target may have granted less.
                remembered.expires_at = expiry(entry).unwrap_or(remembered.expires_at);
            } else if entry.event == Event::Issued
                && let Some(remembered) = Self::read(id, entry)
            {
                open.insert(id, remembered);
            }
        }
        open
    }

    fn read(id: LeaseId, entry: &Entry) -> Option<Self> {
        Some(Self {
            id,
            target: entry.target.clone()?,
            expires_at: expiry(entry)?,
            names: value(entry, "names").unwrap_or_default(),
            entry: entry.clone(),
        })
    }

    fn text(&self, name: &str) -> String {
        let found = self.entry.detail.get(name).and_then(|value| value.as_str());
        found.unwrap_or_default().to_owned()
    }

    fn record(&self, promises: &Promises, now: OffsetDateTime) -> Option<Record> {
        let agent = self.entry.agent.as_ref()?;
        let mission = self.entry.mission.as_ref()?;
        let owner = self.text("owner");
        let named = [
            (DimensionKind::Lease, self.id.to_string()),
            (DimensionKind::Agent, agent.clone()),
            (DimensionKind::Mission, mission.clone()),
            (DimensionKind::Target, self.target.clone()),
            (DimensionKind::Owner, owner.clone()),
        ];
        let named = named.map(|(kind, value)| Dimension::new(kind, value));
        let caller = self.entry.caller.clone();
        let (issuer_url, subject) =
            caller.map_or_else(Default::default, |caller| (caller.issuer, caller.subject));
        let (now, at) = (whole_milliseconds(now), whole_milliseconds(self.entry.at));
        let expires_at = whole_milliseconds(self.expires_at);
        Some(Record {
            id: self.id,
            state: State::Revoking,
            agent: agent.parse().ok()?,
            instance: None,
            of_instance: false,
            owner,
            mission: mission.parse().ok()?,
            target: self.target.parse().ok()?,
            detail_type: promises.detail_type.to_owned(),
            authority: value(&self.entry, "authority").unwrap_or(Authority(Vec::new())),
            audience: self.text("audience"),
            issuer_url,
            subject,
            task: value(&self.entry, "task"),
            goal: self.text("goal"),
            signer: value(&self.entry, "signer").unwrap_or(SignerClass::Agent),
            bound_key: None,
            chain: Vec::new(),
            parent: None,
            handed_on: false,
            labels: BTreeMap::new(),
            config_hash: self.entry.config_hash.clone().unwrap_or_default(),
            decided_by: Vec::new(),
            dimensions: [named.to_vec(), vec![Dimension::all()]].concat(),
            decided_at: (0, ByteArray::new([0; 20])),
            created: at,
            mint_by: at + MINT_WITHIN,
            expires_at,
            lives_until: whole_milliseconds(at + MINT_WITHIN + promises.max_ttl).max(expires_at),
            activated_at: None,
            class: promises.class,
            dead_within: promises.dead_within.map(|within| within.as_secs()),
            named_by_lease: promises.named_by_lease,
            expires_by_itself: promises.expires_by_itself,
            handle: None,
            names: self.names.clone(),
            token_sha256: None,
            signing_key: None,
            closing: Some(Closing::new(
                Why::DecisionLost,
                "dayfly recover",
                "the store lost its record",
                now,
            )),
            attempts: 0,
            claimed_until: None,
            uncollected: false,
            status: None,
            asked_by: Facts::new(),
        })
    }
}

fn expiry(entry: &Entry) -> Option<OffsetDateTime> {
    let text = entry.detail.get("expires_at")?.as_str()?;
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn value<T: serde::de::DeserializeOwned>(entry: &Entry, name: &str) -> Option<T> {
    serde_json::from_value(entry.detail.get(name)?.clone()).ok()
}

impl Leases {
    /// Writes the lease as one that must die, whether or not anybody can end it: until then it is on record. `false`: the store has it.
    /// `None`: the audit says too little.
    pub async fn rebuild(
        &self,
        remembered: &Remembered,
        promises: &Promises,
        now: OffsetDateTime,
    ) -> Result<Option<bool>, LeaseError> {
        let Some(record) = remembered.record(promises, now) else {
            return Ok(None);
        };
        let shard = record.id.shard();
        let transaction = Transaction::new(shard, now + DEADLINE)
            .revoking()
            .guard(Guard::Absent(keys::lease(&record.id)));
        let (transaction, _) = self.put(transaction, (None, &record), now)?;
        let transaction = put_names(transaction, &record);
        let entry = super::notes::step(State::Active, &record, now);
        let transaction = match entry {
            Some(entry) => transaction.write(entry.append(shard)),
            None => transaction,
        };
        match settle(self.store.as_ref(), transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(Some(true)),
            Outcome::Conflict { .. } => Ok(Some(false)),
            Outcome::TooLate => Err(LeaseError::TooLate),
        }
    }
}
