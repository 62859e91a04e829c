//! `[agent.NAME]`.

use super::certificates;
use super::decoder::Decoder;
use super::document::Entry;
use super::issuers::Issuers;
use super::problem::Code;
use super::reader::Reader;
use super::source::Place;
use super::targets;
use super::terms;
use super::trust_domains::TrustDomains;
use crate::agents::{Agent, IdentityMatch, InstanceLimits, Limits, Terms};
use crate::authority::{Authority, Permission};
use crate::identity::{CertificateRule, CertificateSettings, ClientSettings};
use crate::ids::{AgentId, TargetId};
use crate::jose::KeySet;
use std::collections::BTreeMap;

/// Targets by name; `None` for those with problems of their own.
pub(in crate::config) type Targets = BTreeMap<String, Option<targets::Decoded>>;

/// Whoever may vouch for an agent.
pub(in crate::config) struct Vouchers<'a> {
    pub issuers: &'a mut Issuers,
    pub trust_domains: &'a TrustDomains,
    pub broker_url: &'a str,
}

#[derive(Debug)]
pub(in crate::config) struct Decoded {
    pub agent: Agent,
    pub client: Option<ClientSettings>,
    pub certificates: Vec<CertificateSettings>,
    pub at: Place,
    pub ends_at: Place,
}

/// An agent with more live leases at once says so.
const ACTIVE: u64 = 20;
const PER_MINUTE: u64 = 60;

pub(in crate::config) fn decode_all(
    decoder: &Decoder<'_>,
    mut vouchers: Vouchers<'_>,
    targets: &Targets,
) -> Vec<Decoded> {
    decoder
        .doc
        .of("agent")
        .filter_map(|entry| decode(decoder, entry, &mut vouchers, targets))
        .collect()
}

pub(in crate::config) fn decode(
    decoder: &Decoder<'_>,
    entry: &Entry,
    vouchers: &mut Vouchers<'_>,
    targets: &Targets,
) -> Option<Decoded> {
    let reader = entry.reader(decoder.desk);
    let id: Option<AgentId> = entry.name.parse().ok();
    let owner = reader.required_text("owner", "\"team@example.com\"");
    let backup_owner = reader.text("backup_owner").map(|owner| owner.value);
    let purpose = reader.required_text("purpose", "\"what it is for, in one sentence\"");
    let ends = reader.required("ends", reader.date("ends"), "2027-03-01");
    let (identities, client, certificates) = identities(decoder, &reader, entry, vouchers)?;
    let mut intent_keys = Vec::new();
    let registered = decoder.key_set(&reader, "intent_keys");
    // Keys that an agent authenticates with are registered for it, so they sign its intents, too.
    for set in registered.iter().chain(client.as_ref().map(|c| &c.keys)) {
        for key in set.keys() {
            let thumbprint = key.thumbprint().to_owned();
            if !intent_keys.contains(&thumbprint) {
                intent_keys.push(thumbprint);
            }
        }
    }
    let ceiling = reader
        .tables("ceiling")
        .map(|tables| authorities(decoder, tables, targets));
    let limits = limits(&reader);
    let terms = terms::terms(&reader, Terms::of_agent());
    let labels = targets::labels(&reader);
    let certificate_bound = reader.boolean("certificate_bound").unwrap_or(false);
    if let Some(node) = reader.node("certificate_bound")
        && certificate_bound
    {
        certificates::must_be_asked_for(decoder, node.at);
    }
    let at = reader.at;
    reader.finish();
    let ends = ends?;
    let agent = Agent {
        id: id?,
        owner: owner?.value,
        backup_owner,
        purpose: purpose?.value,
        ends: ends.value,
        identities,
        intent_keys,
        ceiling: ceiling.map(|allowed| {
            allowed
                .into_iter()
                .map(|(target, list)| (target, Authority(list.into_iter().map(|p| p.1).collect())))
                .collect()
        }),
        limits,
        terms,
        labels,
        certificate_bound,
        registered: decoder.is_sent,
    };
    let settings = certificates.into_iter().map(|rule| CertificateSettings {
        agent: agent.id.clone(),
        rule,
    });
    Some(Decoded {
        certificates: settings.collect(),
        agent,
        client,
        at,
        ends_at: ends.at,
    })
}

fn limits(reader: &Reader<'_>) -> Limits {
    let limits = reader.table("limits");
    let active = limits
        .as_ref()
        .and_then(|limits| limits.number("active", 1..=100_000));
    let rate = limits
        .as_ref()
        .and_then(|limits| limits.number("per_minute", 1..=100_000));
    let instance = limits.as_ref().and_then(|limits| limits.table("instance"));
    let instance = instance.map(|instance| {
        let active = instance.number("active", 1..=100_000);
        let rate = instance.number("per_minute", 1..=100_000);
        instance.finish();
        InstanceLimits {
            active,
            per_minute: rate.and_then(|rate| u32::try_from(rate).ok()),
        }
    });
    if let Some(limits) = limits {
        limits.finish();
    }
    let per_minute = u32::try_from(rate.unwrap_or(PER_MINUTE)).unwrap_or(u32::MAX);
    Limits {
        active: active.unwrap_or(ACTIVE),
        per_minute,
        instance: instance.unwrap_or_default(),
    }
}

type Identities = (
    Vec<IdentityMatch>,
    Option<ClientSettings>,
    Vec<CertificateRule>,
);

fn identities(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    entry: &Entry,
    vouchers: &mut Vouchers<'_>,
) -> Option<Identities> {
    let example = "{ github = \"owner/repository\", repository_id = 1234 }";
    let tables = reader.required("identity", reader.tables("identity"), example)?;
    let mut matches = Vec::new();
    let mut own: Option<ClientSettings> = None;
    let mut certificates = Vec::new();
    for table in tables {
        if table.node("client").is_some() {
            let settings = client(decoder, &table, entry);
            if own.is_some() {
                let help = "put all its keys into one key set";
                reader.bad(table.at, "`client` stands twice", help);
            }
            own = settings.or(own);
            table.finish();
        } else if let Some(own) = table.node("certificate").and(table.table("certificate")) {
            certificates.extend(certificates::rule(decoder, own));
            table.finish();
        } else if table.node("spiffe").is_some() {
            matches.extend(vouchers.trust_domains.identity(decoder, table));
        } else {
            let url = vouchers.broker_url;
            matches.extend(vouchers.issuers.identity(decoder, &table, url));
        }
    }
    let is_known = !matches.is_empty() || own.is_some() || !certificates.is_empty();
    is_known.then_some((matches, own, certificates))
}

/// `{ client = { keys = "file:agent.jwks.json" } }`: the agent has a key of its own; or its machines
/// enrol theirs, `{ client = { enrol = true } }`.
fn client(decoder: &Decoder<'_>, reader: &Reader<'_>, entry: &Entry) -> Option<ClientSettings> {
    let table = reader.table("client")?;
    let keys = decoder.key_set(&table, "keys");
    let enrol = table.boolean("enrol");
    let is_torn = enrol.is_none() && table.node("enrol").is_some();
    let enrol = enrol.unwrap_or(false);
    let keys = match keys {
        // Reported where it stands.
        None if is_torn || table.node("keys").is_some() => None,
        None if enrol => Some(KeySet::default()),
        None => {
            let message = format!("`{}` has no key", table.name);
            let help = "add `keys = \"file:agent.jwks.json\"`, or `enrol = true`";
            decoder
                .desk
                .report(table.at, Code::MissingKey, message, help);
            None
        }
        keys => keys,
    };
    let legacy_audience = table.boolean("legacy_audience").unwrap_or(false);
    table.finish();
    let agent: AgentId = entry.name.parse().ok()?;
    Some(ClientSettings {
        agent,
        keys: keys?,
        legacy_audience,
        enrol,
    })
}

/// `[{ target = "...", actions = [...], locations = [...] }]`, by target, with places.
pub(in crate::config) fn authorities(
    decoder: &Decoder<'_>,
    tables: Vec<Reader<'_>>,
    targets: &Targets,
) -> BTreeMap<TargetId, Vec<(Place, Permission)>> {
    let mut allowed: BTreeMap<TargetId, Vec<(Place, Permission)>> = BTreeMap::new();
    for table in tables {
        let at = table.at;
        let named = table.required_text("target", "\"NAME\"");
        let Some(named) = named else {
            continue;
        };
        let Some(known) = targets.get(&named.value) else {
            let names: Vec<_> = targets.keys().map(String::as_str).collect();
            let message = format!("there is no target `{}`", named.value);
            let help = suggestion(&named.value, &names, "target");
            decoder
                .desk
                .report(named.at, Code::UnknownTarget, message, &help);
            continue;
        };
        // A target with problems of its own was reported there.
        let Some(known) = known else { continue };
        let permission = targets::permission(&table, &known.sets);
        table.finish();
        let Some(permission) = permission else {
            continue;
        };
        if targets::decidable(decoder, known.target.vocabulary, at, &permission) {
            let id = known.target.id.clone();
            allowed.entry(id).or_default().push((at, permission));
        }
    }
    allowed
}

pub(in crate::config) fn suggestion(name: &str, known: &[&str], kind: &str) -> String {
    match super::values::nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("add `[{kind}.{name}]`"),
        None => format!("known: {}; or add `[{kind}.{name}]`", known.join(", ")),
    }
}
