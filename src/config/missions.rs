//! `[mission.NAME]`.

use super::agents_table::{self, Targets, suggestion};
use super::decoder::Decoder;
use super::document::Entry;
use super::people::People;
use super::problem::Code;
use super::reader::Reader;
use super::source::{At, Place};
use super::{targets, terms, values};
use crate::agents::Terms;
use crate::authority::{Authority, Permission};
use crate::ids::{AgentId, MissionId, TargetId};
use crate::intent::SignerClass;
use crate::policy::{ApprovalTerms, Mission, Mode, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug)]
pub(in crate::config) struct Decoded {
    pub mission: Mission,
    /// The permissions of `allow`, with their places.
    pub allowed: BTreeMap<TargetId, Vec<(Place, Permission)>>,
    pub at: Place,
    pub ends_at: Option<Place>,
    pub signer_at: Place,
    pub when_at: Place,
    pub require_at: Place,
    pub tether_at: Place,
    pub mode_at: Place,
    pub approval_at: Place,
}

const ALLOW: &str = "[{ target = \"NAME\", actions = [\"...\"], locations = [\"...\"] }]";
const TTL: Duration = Duration::from_secs(15 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
const MOST_APPROVERS: u64 = 5;

pub(in crate::config) fn decode(
    decoder: &Decoder<'_>,
    entry: &Entry,
    targets: &Targets,
    people: &People,
) -> Option<Decoded> {
    let reader = entry.reader(decoder.desk);
    let id: Option<MissionId> = entry.name.parse().ok();
    let allow_registered = reader.boolean("allow_registered").unwrap_or(false);
    let agents = admitted(decoder, &reader, allow_registered);
    let (on_behalf_of, in_person) = people.of_mission(decoder, &reader);
    let delegates_to = known_agents(decoder, reader.texts("delegates_to").unwrap_or_default());
    let owner = reader.required_text("owner", "\"team@example.com\"");
    let purpose = reader.required_text("purpose", "\"what it achieves, in one sentence\"");
    let ends = reader.date("ends");
    let allowed = allows(&reader).map(|tables| agents_table::authorities(decoder, tables, targets));
    let place = |key| reader.node(key).map_or(reader.at, |node| node.at);
    let (require_at, tether_at) = (place("require"), place("tether"));
    let approval_at = place("approval");
    let require = reader.value_map("require").unwrap_or_default().into_iter();
    let require = require.map(|(fact, value)| (fact, value.value)).collect();
    let when = reader.text("when");
    let ttl = reader.duration("ttl", Duration::from_secs(1)..=DAY);
    let tether = reader.texts("tether").unwrap_or_default();
    let (signer_at, mode_at) = (place("signer"), place("mode"));
    let mode = mode(&reader);
    let signer = signer(&reader, "signer").unwrap_or(SignerClass::Agent);
    may_be_open(
        &reader,
        allow_registered,
        (mode, mode_at),
        (signer, signer_at),
    );
    let max_active = reader.number("max_active", 1..=100_000);
    let approval = approval(&reader);
    let terms = terms::terms(&reader, Terms::default());
    let drift = terms::drift(&reader);
    let labels = targets::labels(&reader);
    let at = reader.at;
    reader.finish();
    let allowed = allowed?;
    if let Some(ttl) = &ttl {
        ttl_within(decoder, ttl, &allowed, targets);
    }
    let mission = Mission {
        id: id?,
        agents: agents?,
        allow_registered,
        on_behalf_of,
        in_person,
        delegates_to,
        owner: owner?.value,
        purpose: purpose?.value,
        ends: ends.as_ref().map(|ends| ends.value),
        allow: allowed
            .iter()
            .map(|(target, list)| {
                let list = list.iter().map(|(_, permission)| permission.clone());
                (target.clone(), Authority(list.collect()))
            })
            .collect(),
        require,
        when: when.as_ref().map(|when| when.value.clone()),
        mode: mode?,
        ttl: ttl.map_or(TTL, |ttl| ttl.value),
        tether: tether.into_iter().map(|fact| fact.value).collect(),
        signer,
        max_active,
        approval,
        terms,
        drift,
        labels,
    };
    Some(Decoded {
        mission,
        allowed,
        at,
        ends_at: ends.map(|ends| ends.at),
        signer_at,
        when_at: when.map_or(at, |when| when.at),
        require_at,
        tether_at,
        mode_at,
        approval_at,
    })
}

fn allows<'a>(reader: &Reader<'a>) -> Option<Vec<Reader<'a>>> {
    let allow = reader.required("allow", reader.tables("allow"), ALLOW);
    if allow.as_ref().is_some_and(Vec::is_empty) {
        let at = reader.node("allow").map_or(reader.at, |node| node.at);
        let help = &format!("write `allow = {ALLOW}`");
        reader.bad(at, "this mission allows nothing", help);
    }
    allow
}

/// Whether anything else bounds whoever joins.
fn may_be_open(
    reader: &Reader<'_>,
    joins: bool,
    (mode, mode_at): (Option<Mode>, Place),
    (signer, signer_at): (SignerClass, Place),
) {
    if joins && matches!(mode, Some(Mode::Observe { .. })) {
        let message = "a mission that observes lets nobody be registered";
        let help = "registered agents join it when it decides: remove one of the two";
        reader.bad(mode_at, message, help);
    }
    // SECURITY: `max_active` bounds how often a platform's token is worth something, and is each agent's own.
    if joins && signer == SignerClass::Platform {
        let message =
            "a mission whose intents a platform's token stands for lets nobody be registered";
        let help = "use `signer = \"agent\"`, or remove `allow_registered`";
        reader.bad(signer_at, message, help);
    }
}

fn admitted(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    allow_registered: bool,
) -> Option<Vec<AgentId>> {
    let names = reader.required("agents", reader.texts("agents"), "[\"NAME\"]")?;
    if names.is_empty() && !allow_registered {
        let help = "name the agents that may have it, or remove the mission";
        let at = reader.node("agents").map_or(reader.at, |node| node.at);
        reader.bad(at, "this mission admits nobody", help);
    }
    Some(known_agents(decoder, names))
}

fn known_agents(decoder: &Decoder<'_>, names: Vec<At<String>>) -> Vec<AgentId> {
    let mut agents = Vec::new();
    for name in names {
        if decoder.doc.find("agent", &name.value).is_some() {
            agents.extend(name.value.parse::<AgentId>());
            continue;
        }
        let known: Vec<_> = decoder.doc.of("agent").map(|e| e.name.as_str()).collect();
        let message = format!("there is no agent `{}`", name.value);
        let help = suggestion(&name.value, &known, "agent");
        decoder
            .desk
            .report(name.at, Code::UnknownAgent, message, &help);
    }
    agents
}

pub(in crate::config) fn signer(reader: &Reader<'_>, key: &'static str) -> Option<SignerClass> {
    const ALL: [SignerClass; 4] = [
        SignerClass::Agent,
        SignerClass::Orchestrator,
        SignerClass::Approver,
        SignerClass::Platform,
    ];
    let name = reader.choice(key, &["agent", "orchestrator", "approver", "platform"])?;
    ALL.into_iter().find(|class| class.as_str() == name)
}

fn mode(reader: &Reader<'_>) -> Option<Mode> {
    let mode = reader.choice("mode", &["enforce", "observe"]);
    let until = reader.date("observe_until");
    match (mode, until) {
        (None | Some("enforce"), None) => Some(Mode::Enforce),
        (Some("observe"), Some(until)) => Some(Mode::Observe { until: until.value }),
        (Some("observe"), None) => reader.required("observe_until", None, "2027-03-01"),
        (_, Some(until)) => {
            let help = "add `mode = \"observe\"`, or remove it";
            reader.bad(
                until.at,
                "`observe_until` is for a mission that observes",
                help,
            );
            None
        }
        (Some(_), None) => None,
    }
}

/// Without keys of its own, `approval = {}` asks one of those who may review.
fn approval(reader: &Reader<'_>) -> Option<ApprovalTerms> {
    let table = reader.table("approval")?;
    let defaults = ApprovalTerms::default();
    let count = table.number("count", 1..=MOST_APPROVERS);
    let by = table.texts("by");
    let within = table.duration("within", MINUTE..=DAY);
    let lasts = table.duration("for", MINUTE..=DAY);
    let (at, by_at) = (table.at, table.node("by").map(|node| node.at));
    table.finish();
    let count = count.and_then(|count| u32::try_from(count).ok());
    let count = count.unwrap_or(defaults.count);
    let names = by.iter().flatten().map(|name| name.value.clone());
    let names: BTreeSet<String> = names.collect();
    if by.is_some() && names.len() < usize::try_from(count).unwrap_or(usize::MAX) {
        let help = "name as many operators as `count` says, or leave `by` out";
        reader.bad(by_at.unwrap_or(at), "too few people could approve it", help);
    }
    Some(ApprovalTerms {
        count,
        by: names,
        within: within.map_or(defaults.within, |within| within.value),
        lasts: lasts.map_or(defaults.lasts, |lasts| lasts.value),
    })
}

fn ttl_within(
    decoder: &Decoder<'_>,
    ttl: &At<Duration>,
    allowed: &BTreeMap<TargetId, Vec<(Place, Permission)>>,
    targets: &Targets,
) {
    for target in known(allowed, targets) {
        if ttl.value > target.max_ttl {
            let message = format!("this is longer than target `{}` gives", target.id);
            let help = format!(
                "its leases will end after `{}`",
                values::show_duration(target.max_ttl)
            );
            decoder.desk.report(ttl.at, Code::TtlCapped, message, &help);
        }
        if ttl.value < target.min_ttl {
            let message = format!("this is shorter than target `{}` can give", target.id);
            let help = format!("write `{}` or more", values::show_duration(target.min_ttl));
            decoder.desk.report(ttl.at, Code::BadValue, message, &help);
        }
    }
}

/// The targets of these permissions.
pub(in crate::config) fn known<'a>(
    allowed: &'a BTreeMap<TargetId, Vec<(Place, Permission)>>,
    targets: &'a Targets,
) -> impl Iterator<Item = &'a Target> {
    allowed
        .keys()
        .filter_map(|id| targets.get(id.as_str())?.as_ref())
        .map(|decoded| &decoded.target)
}
