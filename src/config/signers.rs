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
    for way in ["poll", "webhook"] {
        if reader.node(way).is_some() {
            return polled(decoder, entry, reader, way);
        }
    }
    let missing = |key: &str, example: &str| {
        let message = format!("`{}` has no `{key}`", reader.name);
        let help = format!("add `{key} = {example}`, or `poll` or `webhook` alone");
        let desk = decoder.desk;
        desk.report(reader.at, Code::MissingKey, message, &help);
    };
    if reader.node("evidence").is_none() {
        missing("evidence", "{ issuer = \"https://changes.example\" }");
    }
    if reader.node("proves").is_none() {
        missing("proves", "[\"change.state\"]");
    }
    if let Some(node) = reader.node("ended_when") {
        let help = "remove it, or use `poll` or `webhook`";
        reader.bad(
            node.at,
            "evidence says by itself when it ends (`exp`)",
            help,
        );
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

/// What a table of facts that is asked, or tells, reads: the example of `pointers`.
const POINTERS: &str = "{ \"freeze.state\" = \"/state\" }";

/// `poll`: it is asked, and signs nothing. `webhook`: it tells, and signs each message with a secret.
fn polled(
    decoder: &Decoder<'_>,
    entry: &Entry,
    reader: Reader<'_>,
    way: &'static str,
) -> Option<Witness> {
    let table = reader.table(way);
    let ended_when = reader.value_map("ended_when").unwrap_or_default();
    for key in ["evidence", "proves", "agents", "poll", "webhook"] {
        if let (true, Some(node)) = (key != way, reader.node(key)) {
            let help = format!("keep `{way}` alone, or take it away");
            let message = match way {
                "poll" => format!("it is asked, and `{key}` is of another way"),
                _ => format!("it tells by webhook, and `{key}` is of another way"),
            };
            reader.bad(node.at, message, &help);
        }
    }
    reader.finish();
    let table = table?;
    let poll = match way {
        "poll" => asked(decoder, &table),
        _ => telling(decoder, &table),
    };
    let pointers = table.required("pointers", table.text_map("pointers"), POINTERS);
    let pointers = pointers_of(&table, pointers.unwrap_or_default());
    for (fact, value) in &ended_when {
        if !pointers.contains_key(fact) {
            let message = format!("nothing tells `{fact}`");
            let help = "name a fact of `pointers`";
            decoder.desk.report(value.at, Code::BadValue, message, help);
        }
    }
    table.finish();
    for (kind, other) in [("issuer", "issuer"), ("source", "source")] {
        let clashes = kind == "issuer" || way == "webhook";
        if clashes && decoder.doc.find(kind, &entry.name).is_some() {
            let message = format!("`facts.{0}` and `{other}.{0}` have one name", entry.name);
            let help = "rename one of them: a context is ended, and a message comes, by the name";
            decoder
                .desk
                .report(entry.at, Code::Duplicate, message, help);
        }
    }
    // What is missing there was reported; that nothing is named at all is found later.
    if pointers.is_empty() && decoder.desk.has_errors() {
        return None;
    }
    let mut poll = poll?;
    poll.ended_when = ended_when
        .into_iter()
        .map(|(fact, value)| (fact, value.value))
        .collect();
    poll.pointers = pointers;
    Some(Witness {
        name: entry.name.parse().ok()?,
        issuer: poll.url.clone().unwrap_or_else(|| entry.name.clone()),
        keys: KeySource::Discovery,
        algorithms: Vec::new(),
        proves: poll.pointers.keys().cloned().collect(),
        agents: None,
        poll: Some(poll),
    })
}

fn asked(decoder: &Decoder<'_>, poll: &Reader<'_>) -> Option<Poll> {
    let url = poll.required_text("url", "\"https://ops.example/freeze.json\"");
    let every = poll.duration("every", SECOND..=300 * SECOND);
    let every = every.map_or(5 * SECOND, |every| every.value);
    let max_age = poll.duration("max_age", SECOND..=3600 * SECOND);
    let max_age_at = max_age.as_ref().map_or(poll.at, |max_age| max_age.at);
    let max_age = max_age.map_or(3 * every, |max_age| max_age.value);
    if max_age < every {
        let help = "write a longer `max_age`, or ask more often";
        poll.bad(
            max_age_at,
            "an answer would be too old before the next one is asked for",
            help,
        );
    }
    let private = poll.boolean("private_network").unwrap_or(false);
    Some(Poll {
        url: Some(decoder.url(url?)?.value),
        pointers: BTreeMap::new(),
        ended_when: BTreeMap::new(),
        every,
        max_age,
        private,
        hmac: None,
    })
}

/// How often each replica reads what was told to another.
const READ_EVERY: Duration = Duration::from_millis(500);

fn telling(decoder: &Decoder<'_>, webhook: &Reader<'_>) -> Option<Poll> {
    let hmac = webhook.required_text("hmac", "\"file:changes.secret\"");
    let max_age = webhook.duration("max_age", SECOND..=24 * 3600 * SECOND);
    let max_age = webhook.required("max_age", max_age, "\"15m\"");
    let hmac = hmac.and_then(|hmac| decoder.reference(hmac));
    Some(Poll {
        url: None,
        pointers: BTreeMap::new(),
        ended_when: BTreeMap::new(),
        every: READ_EVERY,
        max_age: max_age?.value,
        private: false,
        hmac: Some(hmac?.value),
    })
}

fn pointers_of(
    reader: &Reader<'_>,
    pointers: BTreeMap<String, At<String>>,
) -> BTreeMap<String, String> {
    for (fact, pointer) in &pointers {
        if !fact.contains('.') || !pointer.value.starts_with('/') {
            let message = format!("`{fact} = {}` is no fact and its place", pointer.value);
            let help =
                format!("write {POINTERS}: a name with a dot, and a JSON pointer (RFC 6901)");
            reader.bad(pointer.at, message, &help);
        }
    }
    let plain = pointers.into_iter();
    plain.map(|(fact, pointer)| (fact, pointer.value)).collect()
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
