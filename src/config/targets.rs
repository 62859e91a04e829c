//! `[target.NAME]`: the ceiling, the sets, and the connection in its connector's own words.

use super::decoder::Decoder;
use super::document::Entry;
use super::problem::Code;
use super::reader::Reader;
use super::shape::Kind;
use super::source::{At, Place};
use super::tree::Raw;
use crate::authority::{Authority, Permission, Undecidable, Vocabulary};
use crate::connectors::{ConnectorSettings, RevocationClass};
use crate::ids::TargetId;
use crate::policy::Target;
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Named lists of actions, and which of them something names.
#[derive(Debug, Default)]
pub(in crate::config) struct Sets {
    all: BTreeMap<String, (Place, Vec<String>)>,
    used: RefCell<BTreeSet<String>>,
}

impl Sets {
    fn expand(&self, name: &str) -> Option<&[String]> {
        let (_, actions) = self.all.get(name)?;
        self.used.borrow_mut().insert(name.to_owned());
        Some(actions)
    }

    pub fn unused(&self) -> impl Iterator<Item = (&str, Place)> {
        let used = self.used.borrow();
        let unused = self.all.iter();
        let unused = unused.filter(move |(name, _)| !used.contains(*name));
        unused.map(|(name, (at, _))| (name.as_str(), *at))
    }
}

#[derive(Debug)]
pub(in crate::config) struct Decoded {
    pub target: Target,
    pub connector: ConnectorSettings,
    pub sets: Sets,
    /// The permissions of the ceiling, one place each.
    pub at: Place,
}

pub(in crate::config) fn decode(
    decoder: &Decoder<'_>,
    entry: &Entry,
    fence_view_max_age: Duration,
) -> Option<Decoded> {
    let reader = entry.reader(decoder.desk);
    let id: Option<TargetId> = entry.name.parse().ok();
    let kind = reader.required_text("kind", "\"access_token\"");
    let sets = sets(&reader);
    let ceiling = ceiling(&reader, &sets);
    let resources = reader.texts("resources").unwrap_or_default();
    let resources: Vec<_> = resources
        .into_iter()
        .filter_map(|resource| resource_url(&reader, resource))
        .collect();
    let labels = labels(&reader);
    let longest = Duration::from_secs(60)..=Duration::from_secs(24 * 60 * 60);
    let max_ttl = reader.duration("max_ttl", longest);
    let alarm = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    let alarm = reader.duration("revocation_alarm", alarm);
    let allow_platform_signer = reader.boolean("allow_platform_signer").unwrap_or(false);
    // What is left is the connector's, and only it knows which keys those are.
    let connector = connector(&reader, decoder, &kind?);
    let connector = connector?;
    let promises = connector.promises(fence_view_max_age);
    let vocabulary = connector.vocabulary();
    let ceiling = ceiling?;
    for (at, permission) in &ceiling {
        decidable(decoder, vocabulary, *at, permission);
    }
    let max_ttl = shortest(&reader, max_ttl, promises.min_ttl, promises.max_ttl);
    let target = Target {
        id: id?,
        vocabulary,
        detail_type: promises.detail_type,
        ceiling: Authority(ceiling.into_iter().map(|(_, one)| one).collect()),
        resources,
        labels,
        min_ttl: promises.min_ttl,
        max_ttl,
        revocation_alarm: revocation_alarm(&reader, alarm, promises.dead_within),
        class: class(promises.class),
        binding: connector.binding(),
        allow_platform_signer,
    };
    Some(Decoded {
        target,
        connector,
        sets,
        at: reader.at,
    })
}

fn shortest(
    reader: &Reader<'_>,
    wanted: Option<At<Duration>>,
    min: Duration,
    max: Duration,
) -> Duration {
    let Some(wanted) = wanted else { return max };
    if wanted.value < min || wanted.value > max {
        let (low, high) = (
            super::values::show_duration(min),
            super::values::show_duration(max),
        );
        let help = format!("this kind of target gives `{low}` to `{high}`");
        reader.bad(
            wanted.at,
            "`max_ttl` is not what the target can give",
            &help,
        );
        return max;
    }
    wanted.value
}

/// Never before the target's own word is up.
fn revocation_alarm(
    reader: &Reader<'_>,
    wanted: Option<At<Duration>>,
    dead_within: Option<Duration>,
) -> Duration {
    const USUAL: Duration = Duration::from_secs(60);
    let least = dead_within.unwrap_or_default();
    let Some(wanted) = wanted else {
        return USUAL.max(least);
    };
    if wanted.value < least {
        let shown = super::values::show_duration(least);
        let help = format!("this kind of target may take `{shown}` to end one");
        reader.bad(wanted.at, "`revocation_alarm` is less than it takes", &help);
    }
    wanted.value
}

fn class(class: RevocationClass) -> &'static str {
    match class {
        RevocationClass::Broker => "broker",
        RevocationClass::Native => "native",
        RevocationClass::Deny => "deny",
        RevocationClass::Expiry => "expiry",
    }
}

fn sets(reader: &Reader<'_>) -> Sets {
    let Some(node) = reader.node_as("sets", Kind::ListMap) else {
        return Sets::default();
    };
    let wanted = "`{ name = [\"action\", ...] }`";
    let Raw::Table(table) = &node.raw else {
        let _: Option<()> = reader.wrong(node, "sets", wanted);
        return Sets::default();
    };
    let mut sets = Sets::default();
    for (name, node) in &table.entries {
        let Raw::List(actions) = &node.raw else {
            let _: Option<()> = reader.wrong(node, "sets", wanted);
            continue;
        };
        let actions = actions.iter().filter_map(|node| match &node.raw {
            Raw::Text(text) => Some(text.clone()),
            _ => reader.wrong(node, "sets", wanted),
        });
        let listed = (name.at, actions.collect());
        sets.all.insert(name.value.clone(), listed);
    }
    sets
}

fn ceiling(reader: &Reader<'_>, sets: &Sets) -> Option<Vec<(Place, Permission)>> {
    let example = "{ actions = [\"...\"], locations = [\"...\"] }";
    let tables = reader.required("ceiling", reader.tables("ceiling"), example)?;
    let permissions: Vec<_> = tables
        .into_iter()
        .filter_map(|table| {
            let permission = permission(&table, sets);
            let at = table.at;
            table.finish();
            Some((at, permission?))
        })
        .collect();
    (!permissions.is_empty()).then_some(permissions)
}

/// `actions` and `locations` of a table; `@name` among the actions is expanded.
pub(in crate::config) fn permission(reader: &Reader<'_>, sets: &Sets) -> Option<Permission> {
    let locations = reader.texts("locations").unwrap_or_default();
    let actions = reader.required("actions", reader.texts("actions"), "[\"...\"]")?;
    let mut expanded: Vec<String> = Vec::new();
    for action in actions {
        let Some(name) = action.value.strip_prefix('@') else {
            expanded.push(action.value);
            continue;
        };
        if let Some(set) = sets.expand(name) {
            expanded.extend(set.iter().cloned());
        } else {
            let names: Vec<_> = sets.all.keys().map(String::as_str).collect();
            let help = match super::values::nearest(name, &names) {
                Some(near) => format!("did you mean `@{near}`?"),
                None if names.is_empty() => "the target has no `sets`".to_owned(),
                None => format!("its sets: {}", names.join(", ")),
            };
            let message = format!("the target has no set `{name}`");
            reader
                .desk
                .report(action.at, Code::UnknownSet, message, &help);
        }
    }
    if expanded.is_empty() {
        return None;
    }
    Some(Permission {
        actions: expanded,
        locations: locations.into_iter().map(|one| one.value).collect(),
    })
}

/// Whether the vocabulary can compare it at all.
pub(in crate::config) fn decidable(
    decoder: &Decoder<'_>,
    vocabulary: Vocabulary,
    at: Place,
    permission: &Permission,
) -> bool {
    match vocabulary.check(&Authority(vec![permission.clone()])) {
        Ok(()) => true,
        Err(undecidable) => {
            undecided(decoder, at, &undecidable);
            false
        }
    }
}

pub(in crate::config) fn undecided(decoder: &Decoder<'_>, at: Place, undecidable: &Undecidable) {
    let help = "see \"Permissions\" in docs/configuration.md";
    decoder
        .desk
        .report(at, Code::Undecidable, undecidable.to_string(), help);
}

fn resource_url(reader: &Reader<'_>, resource: At<String>) -> Option<String> {
    // RFC 8707 section 2: absolute, without a fragment.
    let parsed = url::Url::parse(&resource.value).ok();
    if parsed.is_some_and(|url| url.fragment().is_none()) {
        return Some(resource.value);
    }
    let message = format!("`{}` is not a resource URL", resource.value);
    let help = "write an absolute URL without `#`, byte for byte as clients send it";
    reader.bad(resource.at, message, help);
    None
}

pub(in crate::config) fn labels(reader: &Reader<'_>) -> BTreeMap<String, String> {
    let labels = reader.text_map("labels").unwrap_or_default();
    labels
        .into_iter()
        .map(|(name, value)| (name, value.value))
        .collect()
}

fn connector(
    reader: &Reader<'_>,
    decoder: &Decoder<'_>,
    kind: &At<String>,
) -> Option<ConnectorSettings> {
    let (mut keys, places) = reader.rest();
    for secret in ["access_key_id", "secret_access_key", "password", "ca"] {
        let (Some(Value::String(text)), Some(at)) = (keys.get(secret), places.get(secret)) else {
            continue;
        };
        let reference = decoder.reference(At::new(*at, text.clone()))?;
        keys.insert(secret.to_owned(), Value::from(reference.value));
    }
    keys.insert("kind".to_owned(), Value::from(kind.value.as_str()));
    match ConnectorSettings::deserialize(Value::Object(keys)) {
        Ok(connector) => {
            for problem in connector.problems() {
                let at = places.get(problem.key).copied().unwrap_or(reader.at);
                reader.bad(at, format!("`{}`: {problem}", reader.name), "");
            }
            Some(connector)
        }
        Err(error) => {
            connector_problem(reader, kind, &places, &error.to_string());
            None
        }
    }
}

/// serde names the key in backticks; the rest of what it says is for programmers.
fn connector_problem(
    reader: &Reader<'_>,
    kind: &At<String>,
    places: &BTreeMap<String, Place>,
    message: &str,
) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let named = quoted.next().unwrap_or_default();
    let known: Vec<_> = quoted.collect();
    let at = places.get(named).copied();
    let report = |at, code, message: String, help: &str| {
        reader.desk.report(at, code, message, help);
    };
    if message.starts_with("unknown variant") && named == kind.value {
        let message = format!("there is no kind of target `{named}`");
        let help = format!("write one of {}", known.join(", "));
        report(kind.at, Code::BadValue, message, &help);
    } else if message.starts_with("unknown field") {
        let message = format!("`{}` has no key `{named}`", reader.name);
        let help = match super::values::nearest(named, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => {
                format!("`{}` targets have no keys of their own", kind.value)
            }
            None => format!("keys of `{}` targets: {}", kind.value, known.join(", ")),
        };
        report(at.unwrap_or(reader.at), Code::UnknownKey, message, &help);
    } else if message.starts_with("missing field") {
        let message = format!("`{}` has no `{named}`", reader.name);
        let help = format!("`{}` targets need it", kind.value);
        report(reader.at, Code::MissingKey, message, &help);
    } else {
        let message = format!("`{}`: {message}", reader.name);
        report(at.unwrap_or(reader.at), Code::WrongType, message, "");
    }
}
