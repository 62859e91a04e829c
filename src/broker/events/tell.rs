//! Who is told what.

use super::hub::Hub;
use crate::audit::{Entry, Event};
use crate::broker::{Broker, ResourceServer};
use crate::fences::{DimensionKind, FenceKind, Weight};
use crate::leases::State;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What an operator wants to hear of; empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// By its name in the audit.
    pub event: Option<String>,
    pub agent: Option<String>,
    pub mission: Option<String>,
    pub target: Option<String>,
    pub lease: Option<String>,
}

/// One event for one listener.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub name: String,
    pub data: Value,
}

impl Told {
    fn new(name: &str, data: Map<String, Value>) -> Self {
        Self {
            name: name.to_owned(),
            data: Value::Object(data),
        }
    }

    /// Says that something ended, and not what.
    pub fn is_general(&self) -> bool {
        self.name == FENCED && self.data.get("jti").is_none()
    }
}

const FENCED: &str = "fenced";

impl Filter {
    /// The entry as it is in the audit. Operators who may listen may read it there.
    pub(super) fn tells(&self, entry: &Entry) -> Option<Told> {
        let name = entry.event.name();
        let fits = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == is)
        };
        let told = fits(&self.event, Some(name))
            && fits(&self.agent, entry.agent.as_deref())
            && fits(&self.mission, entry.mission.as_deref())
            && fits(&self.target, entry.target.as_deref())
            && fits(&self.lease, entry.lease.as_deref());
        let data = serde_json::to_value(entry).ok().filter(|_| told)?;
        Some(Told {
            name: name.to_owned(),
            data,
        })
    }
}

/// SECURITY: of leases for its own audiences, and of those what introspection would tell it; of a fence
/// on anything else, that there is one.
pub(super) async fn to_server(
    entry: &Entry,
    server: &ResourceServer,
    broker: &Broker,
    hub: &Hub,
) -> Option<Told> {
    let registered = [Event::AgentRegistered, Event::AgentRemoved].contains(&entry.event);
    if registered && entry.detail.get("ended") == Some(&Value::Bool(true)) {
        return Some(Told::new(FENCED, about(entry)));
    }
    if entry.event == Event::FenceRaised {
        return fenced(entry, server, broker, hub).await;
    }
    let state = text(entry, "state");
    let name = match entry.event {
        Event::Activated => "issued",
        Event::Issued if state == Some(State::Active.as_str()) => "issued",
        Event::Revoked => "revoked",
        // Nobody ever had it.
        Event::Ended if state == Some(State::NeverMinted.as_str()) => return None,
        Event::Ended | Event::Released => "ended",
        _ => return None,
    };
    let audience = text(entry, "audience")?;
    if !server.audiences.iter().any(|own| own == audience) {
        return None;
    }
    let mut data = about(entry);
    data.insert("jti".to_owned(), json!(entry.lease));
    data.insert("aud".to_owned(), json!(audience));
    data.insert("client_id".to_owned(), json!(entry.agent));
    data.insert("mission".to_owned(), json!({ "id": entry.mission }));
    let expires_at =
        text(entry, "expires_at").and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    if let Some(at) = expires_at {
        data.insert("exp".to_owned(), json!(at.unix_timestamp()));
    }
    Some(Told::new(name, data))
}

/// At once, long before each lease that it ends is found and told of.
async fn fenced(
    entry: &Entry,
    server: &ResourceServer,
    broker: &Broker,
    hub: &Hub,
) -> Option<Told> {
    let ends = match text(entry, "kind")? {
        kind if kind == FenceKind::Kill.as_str() => true,
        kind if kind == FenceKind::Hold.as_str() => {
            text(entry, "weight") != Some(Weight::Review.as_str())
        }
        kind if kind == FenceKind::Restrict.as_str() => {
            entry.detail.get("ends_leases") == Some(&Value::Bool(true))
        }
        _ => false,
    };
    if !ends {
        return None;
    }
    let (dimension, value) = (text(entry, "dimension")?, text(entry, "value")?);
    let is_own = |audience: &str| server.audiences.iter().any(|own| own == audience);
    let mut data = about(entry);
    if dimension == DimensionKind::Lease.as_str() {
        // Where nobody can say whose it is, everybody looks.
        let found = match value.parse() {
            Ok(lease) => hub.owner(lease).await,
            Err(_) => return None,
        };
        match found {
            Ok(None) => return None,
            Ok(Some(owner)) if is_own(&owner.audience) => {
                data.insert("jti".to_owned(), json!(value));
                data.insert("aud".to_owned(), json!(owner.audience));
            }
            Ok(Some(owner)) if !owner.handed_on => return None,
            Ok(Some(_)) | Err(_) => {}
        }
    }
    if dimension == DimensionKind::Target.as_str() {
        let bundle = broker.bundle.load();
        let target = value.parse().ok();
        let target = target.and_then(|target| bundle.policy.target(&target));
        let others = target.is_some_and(|target| {
            !is_own(target.id.as_str()) && !target.resources.iter().any(|own| is_own(own))
        });
        if others {
            return None;
        }
    }
    Some(Told::new(FENCED, data))
}

fn about(entry: &Entry) -> Map<String, Value> {
    let at = entry.at.format(&Rfc3339).ok();
    Map::from_iter([("at".to_owned(), json!(at))])
}

fn text<'entry>(entry: &'entry Entry, name: &str) -> Option<&'entry str> {
    entry.detail.get(name)?.as_str()
}
