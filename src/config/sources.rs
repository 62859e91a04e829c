//! `[source.NAME]`: who may say that a context is over, by a message or when it is asked.

use super::decoder::Decoder;
use super::document::Entry;
use super::issuers::Issuers;
use super::problem::Code;
use super::reader::Reader;
use super::settings::{PollTable, SourceTable};
use super::source::At;
use crate::broker::watched::Template;
use crate::intent::Witness;
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(30);
const PIPELINE: &str = "pipeline";
const STATUS: &str = "/status";

const SOURCES: [&str; 4] = ["github", "gitlab", "generic", "scim"];

pub(in crate::config) fn source(
    decoder: &Decoder<'_>,
    entry: &Entry,
    issuers: &mut Issuers,
    witnesses: &[Witness],
    broker_url: &str,
) -> Option<SourceTable> {
    let reader = entry.reader(decoder.desk);
    let kind = reader.required_text("kind", "\"github\"");
    let secret = reader.text("secret");
    let issuer = reader.text("issuer");
    let ends = reader.required("ends", reader.texts("ends"), "[\"1234\"]");
    let poll = reader.table("poll");
    let at = reader.at;
    // Whoever is asked need not tell.
    if secret.is_none() && poll.is_none() {
        reader.required("secret", None::<()>, "\"file:hook.secret\"");
    }
    let (has_secret, poll_at) = (secret.is_some(), poll.as_ref().map(|poll| poll.at));
    let secret = secret.and_then(|secret| decoder.reference(secret));
    let polled = poll.and_then(|poll| asked(decoder, poll));
    reader.finish();
    let kind = kind?;
    if !SOURCES.contains(&kind.value.as_str()) {
        let message = format!("there is no kind of source `{}`", kind.value);
        let help = format!("write one of {}", SOURCES.join(", "));
        decoder.desk.report(kind.at, Code::BadValue, message, &help);
        return None;
    }
    let whose = match kind.value.as_str() {
        "scim" => {
            // It speaks of people, by their addresses, and of nobody's facts.
            let foreign = issuer.map(|issuer| (issuer.at, "a source of leavers has no issuer"));
            let asked = poll_at.map(|at| (at, "a source of leavers is not asked"));
            if let Some((at, message)) = foreign.or(asked) {
                decoder
                    .desk
                    .report(at, Code::BadValue, message.to_owned(), "remove it");
                return None;
            }
            Whose::default()
        }
        _ => {
            let issuer = issuer.or_else(|| (kind.value != "generic").then(|| kind.clone()));
            let Some(issuer) = issuer else {
                let message = format!("`source.{}` has no `issuer`", entry.name);
                let help = "add `issuer = \"NAME\"`: the issuer whose contexts it may end";
                decoder.desk.report(at, Code::MissingKey, message, help);
                return None;
            };
            whose(decoder, &issuer, (issuers, witnesses), broker_url)?
        }
    };
    if poll_at.is_some() {
        proved(decoder, polled.as_ref()?, &whose);
    }
    if has_secret && secret.is_none() {
        return None;
    }
    Some(SourceTable {
        name: entry.name.clone(),
        issuer_url: whose.url,
        kind: kind.value,
        secret: secret.map(|secret| secret.value),
        may_end: ends?.into_iter().map(|one| one.value).collect(),
        poll: polled.map(|(poll, _)| poll),
    })
}

/// Whose contexts it speaks of: the issuer's or the authority's URL, and what that proves.
#[derive(Default)]
struct Whose {
    url: String,
    facts: BTreeSet<String>,
}

fn whose(
    decoder: &Decoder<'_>,
    issuer: &At<String>,
    (issuers, witnesses): (&mut Issuers, &[Witness]),
    broker_url: &str,
) -> Option<Whose> {
    let witness = witnesses.iter().find(|w| w.name.as_str() == issuer.value);
    match witness {
        Some(witness) => Some(Whose {
            url: witness.issuer.clone(),
            facts: witness.proves.clone(),
        }),
        None => issuers
            .spoken_of(decoder, issuer, broker_url)
            .map(|(url, facts)| Whose { url, facts }),
    }
}

/// `poll`, and where its URL stands.
fn asked(decoder: &Decoder<'_>, poll: Reader<'_>) -> Option<(PollTable, At<String>)> {
    let example = "\"https://api.github.com/repos/{+pipeline.repository}/actions/runs/{pipeline.run_id}/attempts/{pipeline.run_attempt}\"";
    let url = poll.required_text("url", example);
    let ended_when = poll.texts("ended_when");
    let ended_when = poll.required("ended_when", ended_when, "[\"completed\"]");
    let tether = poll.text("tether");
    let pointer = poll.text("pointer");
    let bearer = poll.text("bearer");
    let has_bearer = bearer.is_some();
    let bearer = bearer.and_then(|bearer| decoder.reference(bearer));
    let every = poll.duration("every", SECOND..=300 * SECOND);
    let private = poll.boolean("private_network").unwrap_or(false);
    if let Some(pointer) = pointer.as_ref().filter(|one| !one.value.starts_with('/')) {
        let message = format!("`{}` is no JSON pointer", pointer.value);
        let help = "write `/status` (RFC 6901)";
        poll.bad(pointer.at, message, help);
    }
    if ended_when.as_ref().is_some_and(Vec::is_empty) {
        let help = "write `[\"completed\"]`";
        poll.bad(poll.at, "no answer would ever say that it is over", help);
    }
    poll.finish();
    let url = url?;
    let template = match Template::parse(&url.value) {
        Ok(template) => template,
        Err(problem) => {
            let message = format!("`{}`: {problem}", url.value);
            poll_help(decoder, &url, message);
            return None;
        }
    };
    decoder.url(At::new(url.at, template.sample()))?;
    if template.facts().next().is_none() {
        let message = format!("`{}` asks the same about every run", url.value);
        poll_help(decoder, &url, message);
        return None;
    }
    if has_bearer && bearer.is_none() {
        return None;
    }
    let text = |found: Option<At<String>>, usual: &str| {
        found.map_or_else(|| usual.to_owned(), |found| found.value)
    };
    let table = PollTable {
        url: template,
        tether: text(tether, PIPELINE),
        pointer: text(pointer, STATUS),
        ended_when: ended_when?.into_iter().map(|one| one.value).collect(),
        bearer: bearer.map(|bearer| bearer.value),
        every: every.map_or(EVERY, |every| every.value),
        private,
    };
    Some((table, url))
}

fn poll_help(decoder: &Decoder<'_>, url: &At<String>, message: String) {
    let help = "write `https://api.example/runs/{pipeline.run_id}`: `{FACT}` for one segment of the path, `{+FACT}` for several";
    decoder.desk.report(url.at, Code::BadValue, message, help);
}

/// A fact that nobody proves would be asked about nothing, and nobody would know.
fn proved(decoder: &Decoder<'_>, (poll, url): &(PollTable, At<String>), whose: &Whose) {
    let unknown = poll.url.facts().find(|fact| !whose.facts.contains(*fact));
    if let Some(fact) = unknown {
        let message = format!("its issuer does not prove `{fact}`");
        let help = "name a fact of the issuer: docs/identity.md lists those of each preset";
        decoder.desk.report(url.at, Code::BadValue, message, help);
    }
}
