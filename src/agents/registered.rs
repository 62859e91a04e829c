//! Agents that are registered through the interface: what the store keeps of all of them, in one record, and
//! what the audit tells of each change, so that the record can be made again.
//!
//! What a definition means, and whether it may stand beside the files, the reader of the files says.

use crate::audit::{Entry, Event};
use crate::fences::Named;
use crate::ids::AgentId;
use crate::jose::KeySet;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use time::{Date, OffsetDateTime};

/// The keys of `[agent.NAME]`, with the missions that it joins.
pub type Definition = Map<String, Value>;

/// Every replica holds them, and reads them after each change.
pub const MOST: usize = 1000;
pub const MOST_BYTES: usize = 1024 * 1024;
/// Of one agent.
pub const MOST_IDENTITIES: usize = 16;

/// Who is registered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Set {
    pub agents: BTreeMap<AgentId, Registered>,
}

/// One agent as it was registered, not yet read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    pub definition: Definition,
    /// The number of the set that it came with.
    pub since: u64,
}

impl Set {
    pub fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    /// INVARIANT: of the same agents the same bytes: the log names their hash.
    pub fn content(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| error.to_string())
    }

    /// In the order in which they came.
    pub fn definitions(&self) -> Vec<(AgentId, Definition)> {
        let mut all: Vec<_> = self.agents.iter().collect();
        all.sort_by_key(|(_, registered)| registered.since);
        let own =
            |(id, registered): (&AgentId, &Registered)| (id.clone(), registered.definition.clone());
        all.into_iter().map(own).collect()
    }

    /// With one of them as it is said here; `None`: it is nobody any more.
    #[must_use]
    pub fn with(&self, id: &AgentId, definition: Option<&Definition>, number: u64) -> Self {
        let mut set = self.clone();
        let old = set.agents.remove(id);
        if let Some(definition) = definition {
            // One order of the keys, whoever wrote them.
            let mut sorted = Value::Object(definition.clone());
            sorted.sort_all_objects();
            let Value::Object(definition) = sorted else {
                return set;
            };
            let registered = Registered {
                definition,
                since: old.map_or(number, |old| old.since),
            };
            set.agents.insert(id.clone(), registered);
        }
        set
    }

    /// What the log calls it.
    pub fn named(&self, number: u64) -> Result<Named, String> {
        let digest = digest(&SHA256, &self.content()?);
        let hex: Vec<_> = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Ok(Named {
            number,
            sha256: hex.concat(),
        })
    }
}

/// Wherever a definition has a key set.
pub fn key_sets(definition: &mut Definition) -> Vec<&mut Value> {
    let mut found = Vec::new();
    for (key, value) in definition {
        match (key.as_str(), value) {
            ("intent_keys", keys) => found.push(keys),
            ("identity", Value::Array(list)) => {
                found.extend(list.iter_mut().filter_map(own_keys));
            }
            ("identity", one) => found.extend(own_keys(one)),
            _ => {}
        }
    }
    found
}

fn own_keys(identity: &mut Value) -> Option<&mut Value> {
    identity.get_mut("client")?.get_mut("keys")
}

/// Of its key sets what counts, and no more: whatever else stood in them would be in the store, in the audit
/// and in front of every operator. One that is not good is told as it is.
#[must_use]
pub fn with_plain_keys(mut definition: Definition) -> Definition {
    for keys in key_sets(&mut definition) {
        if let Ok(set) = KeySet::parse(keys.to_string().as_bytes()) {
            *keys = set.to_jwks();
        }
    }
    definition
}

/// Whether nothing that was given by the one could be refused by the other.
pub fn gives_no_less(was: &Definition, is: &Definition) -> bool {
    const SAID: &[&str] = &[
        "purpose",
        "backup_owner",
        "limits",
        "review_every",
        "overdue",
        "dormant",
    ];
    let day = |of: &Definition| {
        let text = of.get("ends").and_then(Value::as_str);
        let format = time::macros::format_description!("[year]-[month]-[day]");
        text.and_then(|text| Date::parse(text, format).ok())
    };
    let keys = was.keys().chain(is.keys());
    let mut differ = keys.filter(|key| was.get(*key) != is.get(*key));
    differ.all(|key| match key.as_str() {
        "ends" => matches!((day(was), day(is)), (Some(was), Some(is)) if was <= is),
        key => SAID.contains(&key),
    })
}

/// One change, as the audit tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The set that it made.
    pub named: Named,
    pub agent: AgentId,
    /// `None`: it was removed.
    pub definition: Option<Definition>,
}

impl Told {
    pub fn entry(&self, at: OffsetDateTime) -> Entry {
        let event = match &self.definition {
            Some(_) => Event::AgentRegistered,
            None => Event::AgentRemoved,
        };
        let entry = Entry::new(event, at)
            .agent(self.agent.as_str())
            .with("number", self.named.number)
            .with("sha256", self.named.sha256.as_str());
        match &self.definition {
            Some(definition) => entry.with("definition", Value::Object(definition.clone())),
            None => entry,
        }
    }

    /// By number; of two with one number the one that counts.
    pub fn in_audit(entries: &[Entry]) -> Vec<Self> {
        let mut all: BTreeMap<u64, Self> = BTreeMap::new();
        for told in entries.iter().filter_map(Self::read) {
            let known = all.entry(told.named.number).or_insert_with(|| told.clone());
            if known.named < told.named {
                *known = told;
            }
        }
        all.into_values().collect()
    }

    fn read(entry: &Entry) -> Option<Self> {
        let detail = |name: &str| entry.detail.get(name);
        let definition = match entry.event {
            Event::AgentRegistered => Some(detail("definition")?.as_object()?.clone()),
            Event::AgentRemoved => None,
            _ => return None,
        };
        Some(Self {
            named: Named {
                number: detail("number")?.as_u64()?,
                sha256: detail("sha256")?.as_str()?.to_owned(),
            },
            agent: entry.agent.as_deref()?.parse().ok()?,
            definition,
        })
    }
}

#[cfg(test)]
mod tests;
