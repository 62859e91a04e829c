//! Those who sign for agents: `[intent_issuer.NAME]` and `[facts.NAME]`.

use super::decoder::Decoder;
use super::document::Entry;
use super::issuers;
use super::missions;
use super::problem::Code;
use super::reader::Reader;
use super::source::At;
use super::tables::named;
use crate::identity::{IssuerSettings, KeySource, SPIFFE_FACTS};
use crate::intent::{IntentIssuer, Poll, SignerClass, Witness, group};
use crate::jose::Algorithm;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

pub(in crate::config) fn decode_all(decoder: &Decoder<'_>) -> (Vec<IntentIssuer>, Vec<Witness>) {
    let issuers = decoder.doc.of("intent_issuer");
    let witnesses = decoder.doc.of("facts");
    (
        issuers
            .filter_map(|entry| intent_issuer(decoder, entry))
            .collect(),
        witnesses
            .filter_map(|entry| witness(decoder, entry))
            .collect(),
    )
}

/// `[intent_issuer.NAME]`: who may sign intents beside the agents themselves.
fn intent_issuer(decoder: &Decoder<'_>, entry: &Entry) -> Option<IntentIssuer> {
    let reader = entry.reader(decoder.desk);
    let class_at = reader.node("class").map_or(reader.at, |node| node.at);
    let class = reader.required(
        "class",
        missions::signer(&reader, "class"),
        "\"orchestrator\"",
    );
    let signer = signer(decoder, &reader, "\"https://ci.example\"");
    let has_agents = reader.node("agents").is_some();
    let has_missions = reader.node("missions").is_some();
    let agents = names(decoder, "agent", reader.texts("agents"));
    let missions = names(decoder, "mission", reader.texts("missions"));
    if let Some(SignerClass::Agent | SignerClass::Platform) = class {
        let help = "write `orchestrator` or `approver`";
        reader.bad(
            class_at,
            "an intent issuer is neither agent nor platform",
            help,
        );
        return None;
    }
    if !has_agents && !has_missions {
        let message = format!("nothing says for whom `{}` may sign", reader.name);
        let help = "add `agents = [\"NAME\"]`, or `missions = [\"NAME\"]`";
        decoder
            .desk
            .report(reader.at, Code::MissingKey, message, help);
    }
    reader.finish();
    let signer = signer?;
    if (has_agents && agents.is_none()) || (has_missions && missions.is_none()) {
        return None;
    }
    Some(IntentIssuer {
        issuer: signer.url,
        class: class?,
        keys: signer.keys,
        algorithms: signer.algorithms,
        agents,
        missions,
    })
}

/// `[facts.NAME]`: an authority that proves facts by signed evidence.
fn witness(decoder: &Decoder<'_>, entry: &Entry) -> Option<Witness> {
    let reader = entry.reader(decoder.desk);
    if reader.node("poll").is_some() {
        return polled(decoder, entry, reader);
    }
    let missing = |key: &str, example: &str| {
        let message = format!("`{}` has no `{key}`", reader.name);
        let help = format!("add `{key} = {example}`, or `poll` alone");
        let desk = decoder.desk;
        desk.report(reader.at, Code::MissingKey, message, &help);
    };
    if reader.node("evidence").is_none() {
        missing("evidence", "{ issuer = \"https://changes.example\" }");
    }
    if reader.node("proves").is_none() {
        missing("proves", "[\"change.state\"]");
    }
    let evidence = reader.table("evidence");
    let proves = reader.texts("proves");
    let has_agents = reader.node("agents").is_some();
    let agents = names(decoder, "agent", reader.texts("agents"));
    let at = reader.at;
    reader.finish();
    let evidence = evidence?;
    let signer = signer(decoder, &evidence, "\"https://changes.example\"");
    evidence.finish();
    if decoder.doc.find("issuer", &entry.name).is_some() {
        let message = format!("`facts.{0}` and `issuer.{0}` have one name", entry.name);
        let help = "rename one of them: a context is ended by the name of its prover";
        decoder.desk.report(at, Code::Duplicate, message, help);
    }
    let signer = signer?;
    if has_agents && agents.is_none() {
        return None;
    }
    Some(Witness {
        name: entry.name.parse().ok()?,
        issuer: signer.url,
        keys: signer.keys,
        algorithms: signer.algorithms,
        proves: proves?.into_iter().map(|fact| fact.value).collect(),
        agents,
        poll: None,
    })
}

const SECOND: Duration = Duration::from_secs(1);

/// `poll`: it is asked, and signs nothing.
fn polled(decoder: &Decoder<'_>, entry: &Entry, reader: Reader<'_>) -> Option<Witness> {
    let poll = reader.table("poll");
    for key in ["evidence", "proves", "agents"] {
        if let Some(node) = reader.node(key) {
            let help = "keep `poll` alone, or take it away";
            reader.bad(
                node.at,
                format!("it is asked, and `{key}` is of who signs"),
                help,
            );
        }
    }
    reader.finish();
    let poll = poll?;
    let url = poll.required_text("url", "\"https://ops.example/freeze.json\"");
    let example = "{ \"freeze.state\" = \"/state\" }";
    let pointers = poll.required("pointers", poll.text_map("pointers"), example);
    let every = poll.duration("every", SECOND..=300 * SECOND);
    let every = every.map_or(5 * SECOND, |every| every.value);
    let max_age = poll.duration("max_age", SECOND..=3600 * SECOND);
    let max_age_at = max_age.as_ref().map_or(poll.at, |max_age| max_age.at);
    let max_age = max_age.map_or(3 * every, |max_age| max_age.value);
    let private = poll.boolean("private_network").unwrap_or(false);
    if max_age < every {
        let help = "write a longer `max_age`, or ask more often";
        poll.bad(
            max_age_at,
            "an answer would be too old before the next one is asked for",
            help,
        );
    }
    let pointers = pointers?;
    for (fact, pointer) in &pointers {
        if !fact.contains('.') || !pointer.value.starts_with('/') {
            let message = format!("`{fact} = {}` is no fact and its place", pointer.value);
            let help = format!("write {example}: a name with a dot, and a JSON pointer (RFC 6901)");
            poll.bad(pointer.at, message, &help);
        }
    }
    poll.finish();
    let url = decoder.url(url?)?.value;
    let pointers: BTreeMap<_, _> = pointers
        .into_iter()
        .map(|(fact, pointer)| (fact, pointer.value))
        .collect();
    if decoder.doc.find("issuer", &entry.name).is_some() {
        let message = format!("`facts.{0}` and `issuer.{0}` have one name", entry.name);
        let help = "rename one of them: a context is ended by the name of its prover";
        decoder
            .desk
            .report(entry.at, Code::Duplicate, message, help);
    }
    Some(Witness {
        name: entry.name.parse().ok()?,
        issuer: url.clone(),
        keys: KeySource::Discovery,
        algorithms: Vec::new(),
        proves: pointers.keys().cloned().collect(),
        agents: None,
        poll: Some(Poll {
            url,
            pointers,
            every,
            max_age,
            private,
        }),
    })
}

struct Signer {
    url: String,
    keys: KeySource,
    algorithms: Vec<Algorithm>,
}

/// `issuer`, `keys` and `algorithms`, as `[issuer.NAME]` has them.
fn signer(decoder: &Decoder<'_>, reader: &Reader<'_>, example: &str) -> Option<Signer> {
    let url = reader.required_text("issuer", example);
    let has_keys = reader.node("keys").is_some();
    let keys = decoder.key_source(reader, "keys");
    let algorithms = issuers::algorithms(reader);
    let url = url.and_then(|url| decoder.url(url));
    let keys = match keys {
        Some(keys) => keys,
        // Reported where it stands.
        None if has_keys => return None,
        None => KeySource::Discovery,
    };
    Some(Signer {
        url: url?.value,
        keys,
        algorithms: algorithms.unwrap_or_else(|| Algorithm::ALL.to_vec()),
    })
}

/// Names of tables that are there; `None` where the list is absent, empty or has a wrong one.
fn names<T: FromStr>(
    decoder: &Decoder<'_>,
    kind: &'static str,
    list: Option<Vec<At<String>>>,
) -> Option<Vec<T>> {
    let list = list?;
    let count = list.len();
    let found: Vec<T> = list
        .into_iter()
        .filter_map(|name| named(decoder, kind, name)?.parse().ok())
        .collect();
    (!found.is_empty() && found.len() == count).then_some(found)
}

/// One thing is proved by one authority: a tether on it must not be made of the words of two.
pub(in crate::config) fn apart(
    decoder: &Decoder<'_>,
    witnesses: &[Witness],
    issuers: &[IssuerSettings],
) {
    for witness in witnesses {
        let Some(entry) = decoder.doc.find("facts", witness.name.as_str()) else {
            continue;
        };
        let own = |about: &str| witness.proves.iter().any(|fact| group(fact) == about);
        let platforms = issuers
            .iter()
            .flat_map(|issuer| issuer.facts.keys().map(|fact| (issuer.id.as_str(), fact)));
        let shared = platforms
            .map(|(issuer, fact)| (issuer, group(fact)))
            .chain(SPIFFE_FACTS.map(|fact| ("spiffe", group(fact))))
            .find(|(_, about)| own(about));
        if let Some((issuer, about)) = shared {
            let message = format!(
                "`facts.{}` and `{issuer}` both prove facts about `{about}`",
                witness.name
            );
            let help = "name the authority's facts otherwise: `NAME.fact`";
            decoder
                .desk
                .report(entry.at, Code::Duplicate, message, help);
        }
    }
}
