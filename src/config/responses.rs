//! `[[notify]]` and `[[response]]`: what happens reaches a person, or stops something by itself.

use super::agents_table::{Targets, suggestion};
use super::decoder::Decoder;
use super::document::Entry;
use super::problem::Code;
use super::reader::Reader;
use super::settings::{NotifyTable, NotifyWay};
use super::source::At;
use super::tables::named;
use super::values::nearest;
use crate::agents::Turn;
use crate::audit::Event;
use crate::authority::{Authority, Permission};
use crate::broker::Reason;
use crate::broker::respond::{Action, MOST_COUNTED, On, ResponseSettings};
use crate::wire::RestrictionRequest;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const WORDS: [&str; 7] = [
    "notify",
    "suspend",
    "hold_mission",
    "end_leases",
    "restrict",
    "shorten",
    "require_approval",
];

pub(in crate::config) fn decode_all(
    decoder: &Decoder<'_>,
    targets: &Targets,
) -> (Vec<NotifyTable>, Vec<ResponseSettings>) {
    let mut notify: Vec<NotifyTable> = Vec::new();
    for entry in decoder.doc.of("notify") {
        let Some(table) = way(decoder, entry) else {
            continue;
        };
        if notify.iter().any(|known| known.name == table.name) {
            let message = format!("two of `notify` are called `{}`", table.name);
            let help = "rename one of them";
            decoder
                .desk
                .report(entry.at, Code::Duplicate, message, help);
        }
        notify.push(table);
    }
    let names: Vec<_> = notify.iter().map(|table| table.name.as_str()).collect();
    let mut responses: Vec<ResponseSettings> = Vec::new();
    for (number, entry) in decoder.doc.of("response").enumerate() {
        let Some(one) = response(decoder, entry, (number + 1, &names), targets) else {
            continue;
        };
        if responses.iter().any(|known| known.name == one.name) {
            let message = format!("two of `response` are called `{}`", one.name);
            let help = "rename one of them";
            decoder
                .desk
                .report(entry.at, Code::Duplicate, message, help);
        }
        responses.push(one);
    }
    (notify, responses)
}

fn way(decoder: &Decoder<'_>, entry: &Entry) -> Option<NotifyTable> {
    let reader = entry.reader(decoder.desk);
    let name = reader.required_text("name", "\"on-call\"");
    let has_webhook = reader.node("webhook").is_some();
    let has_command = reader.node("command").is_some();
    let webhook = reader.table("webhook").and_then(|table| {
        let url = table.required_text("url", "\"https://pager.example/hook\"");
        let secret = table.required_text("secret", "\"file:pager.secret\"");
        table.finish();
        let url = url.and_then(|url| decoder.url(url));
        let secret = secret.and_then(|secret| decoder.reference(secret));
        Some(NotifyWay::Webhook {
            url: url?.value,
            secret: secret?.value,
        })
    });
    let words = reader.texts("command");
    let to = plain(reader.texts("to").unwrap_or_default());
    let at = reader.at;
    reader.finish();
    if has_webhook == has_command {
        let message = format!("`{}` tells nobody, or in two ways", entry.kind);
        let help = "add one of `webhook = { url, secret }` and `command = [\"/usr/sbin/sendmail\", \"-t\"]`";
        decoder.desk.report(at, Code::MissingKey, message, help);
        return None;
    }
    let way = match words {
        None => webhook?,
        Some(words) => command(decoder, words, to)?,
    };
    let name = name?.value;
    Some(NotifyTable { name, way })
}

fn command(decoder: &Decoder<'_>, words: Vec<At<String>>, to: Vec<String>) -> Option<NotifyWay> {
    let first = words.first()?;
    // SECURITY: whoever publishes is not whoever runs the machines.
    if decoder.doc.attached.is_some() {
        let message = "a published configuration starts no program";
        let help = "tell a `webhook`";
        let at = first.at;
        decoder.desk.report(at, Code::Unpublishable, message, help);
        return None;
    }
    // No shell and no search: what is run is what stands there.
    if !first.value.starts_with('/') {
        let message = format!("`{}` is no absolute path", first.value);
        let help = "write the program's whole path: `[\"/usr/sbin/sendmail\", \"-t\"]`";
        decoder.desk.report(first.at, Code::BadValue, message, help);
        return None;
    }
    let words = plain(words);
    Some(NotifyWay::Command { words, to })
}

fn plain(list: Vec<At<String>>) -> Vec<String> {
    list.into_iter().map(|one| one.value).collect()
}

fn response(
    decoder: &Decoder<'_>,
    entry: &Entry,
    (number, known): (usize, &[&str]),
    targets: &Targets,
) -> Option<ResponseSettings> {
    let reader = entry.reader(decoder.desk);
    let name = reader.text("name").map(|name| name.value);
    let on = reader.required_text("on", "\"exceeds_mission\"");
    let on = on.and_then(|on| event(&reader, on));
    let agent = reader.text("agent");
    let agent = agent.and_then(|agent| named(decoder, "agent", agent));
    let mission = reader.text("mission");
    let mission = mission.and_then(|mission| named(decoder, "mission", mission));
    let most = u64::try_from(MOST_COUNTED).unwrap_or(u64::MAX);
    let count = reader.number("count", 1..=most);
    let within = reader.duration("within", SECOND..=30 * DAY);
    let words = reader.required("do", reader.texts("do"), "[\"notify\"]");
    let to = reader.texts("notify").unwrap_or_default();
    let restrict = reader.table("restrict");
    let restrict = restrict.and_then(|table| restriction(decoder, &table, targets));
    let shorten = reader.table("shorten").and_then(|table| shorter(&table));
    let asks = reader
        .table("require_approval")
        .map(|table| approved(&table));
    let asks = asks.unwrap_or(Action::RequireApproval { lasts: DAY });
    let at = reader.at;
    if count.is_some_and(|count| count > 1) && within.is_none() {
        let message = "`count` without `within` would count for ever";
        let help = "add `within = \"10m\"`";
        decoder.desk.report(at, Code::MissingKey, message, help);
    }
    let mut actions = Vec::new();
    for word in words? {
        let known = (restrict.as_ref(), shorten.as_ref(), &asks);
        actions.extend(action(&reader, word, known));
    }
    for name in &to {
        if !known.contains(&name.value.as_str()) {
            let message = format!("there is no notify `{}`", name.value);
            let help = suggestion(&name.value, known, "notify");
            reader.bad(name.at, message, &help);
        }
    }
    if actions.contains(&Action::Notify) && known.is_empty() {
        let help = "add `[[notify]]` with a `webhook` or a `command`";
        reader.bad(at, "it tells somebody, and there is no `[[notify]]`", help);
    }
    reader.finish();
    Some(ResponseSettings {
        name: name.unwrap_or_else(|| number.to_string()),
        on: on?,
        agent: agent.and_then(|agent| agent.parse().ok()),
        mission: mission.and_then(|mission| mission.parse().ok()),
        count: count
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(1),
        within: within.map_or(DAY, |within| within.value),
        actions,
        notify: plain(to),
    })
}

/// The name of an event of the audit, or the reason of a refusal.
fn event(reader: &Reader<'_>, on: At<String>) -> Option<On> {
    if let Some(event) = Event::named(&on.value) {
        return Some(On::Event(event));
    }
    if on.value == Turn::Dormant.code() {
        return Some(On::Dormant);
    }
    let reason = Reason::ALL.iter().find(|reason| reason.code() == on.value);
    if let Some(reason) = reason {
        return Some(On::Refusal(*reason));
    }
    let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    let help = match nearest(&on.value, &codes) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write the reason of a refusal, or an event of the audit such as `refused`, `fence_raised`, `key_rotated`".to_owned(),
    };
    reader.bad(on.at, format!("nothing is called `{}`", on.value), &help);
    None
}

fn action(
    reader: &Reader<'_>,
    word: At<String>,
    (restrict, shorten, asks): (Option<&RestrictionRequest>, Option<&Action>, &Action),
) -> Option<Action> {
    match (word.value.as_str(), restrict) {
        ("shorten", _) if shorten.is_some() => shorten.cloned(),
        ("shorten", _) => {
            let help = "add `shorten = { to = \"2m\", for = \"24h\" }`";
            reader.bad(word.at, "it shortens, and nothing says to what", help);
            None
        }
        ("require_approval", _) => Some(asks.clone()),
        ("notify", _) => Some(Action::Notify),
        ("suspend", _) => Some(Action::Suspend),
        ("hold_mission", _) => Some(Action::HoldMission),
        ("end_leases", _) => Some(Action::EndLeases),
        ("restrict", Some(restrict)) => Some(Action::Restrict(restrict.clone())),
        ("restrict", None) => {
            let help = "add `restrict = { target = \"NAME\", deny = [\"...\"], for = \"2h\" }`";
            reader.bad(word.at, "it restricts, and nothing says what", help);
            None
        }
        (other, _) => {
            let help = format!("write some of {}", WORDS.join(", "));
            reader.bad(
                word.at,
                format!("there is nothing to do called `{other}`"),
                &help,
            );
            None
        }
    }
}

fn shorter(reader: &Reader<'_>) -> Option<Action> {
    let to = reader.duration("to", SECOND..=DAY);
    let to = reader.required("to", to, "\"2m\"");
    let lasts = reader.duration("for", SECOND..=30 * DAY);
    super::tables::unknown_keys(reader, &["to", "for"]);
    Some(Action::Shorten {
        to: to?.value,
        lasts: lasts.map_or(DAY, |lasts| lasts.value),
    })
}

fn approved(reader: &Reader<'_>) -> Action {
    let lasts = reader.duration("for", SECOND..=30 * DAY);
    super::tables::unknown_keys(reader, &["for"]);
    Action::RequireApproval {
        lasts: lasts.map_or(DAY, |lasts| lasts.value),
    }
}

fn restriction(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    targets: &Targets,
) -> Option<RestrictionRequest> {
    let target = reader.required_text("target", "\"NAME\"");
    let deny = reader.required("deny", reader.texts("deny"), "[\"...\"]");
    let locations = plain(reader.texts("locations").unwrap_or_default());
    let lasts = reader.duration("for", SECOND..=30 * DAY);
    let end_leases = reader.boolean("end_leases").unwrap_or(false);
    let known = ["target", "deny", "locations", "for", "end_leases"];
    super::tables::unknown_keys(reader, &known);
    let target = target?;
    if !targets.contains_key(&target.value) {
        let names: Vec<_> = targets.keys().map(String::as_str).collect();
        let message = format!("there is no target `{}`", target.value);
        let help = suggestion(&target.value, &names, "target");
        decoder
            .desk
            .report(target.at, Code::UnknownTarget, message, &help);
        return None;
    }
    let deny_at = deny
        .as_ref()
        .and_then(|deny| deny.first())
        .map(|one| one.at);
    let actions = plain(deny?);
    if let Some(Some(decoded)) = targets.get(&target.value) {
        let everywhere = vec!["*".to_owned()];
        let denied = Authority(vec![Permission {
            actions: actions.clone(),
            locations: if locations.is_empty() {
                everywhere
            } else {
                locations.clone()
            },
        }]);
        if let Err(error) = decoded.target.vocabulary.check(&denied) {
            let help = "write it as the target's `ceiling` is written";
            let at = deny_at.unwrap_or(reader.at);
            decoder
                .desk
                .report(at, Code::Undecidable, error.to_string(), help);
            return None;
        }
        let target = &decoded.target;
        if target.vocabulary.overlap(&target.ceiling, &denied) == Ok(false) {
            let message = format!("nothing of `target.{}` is denied by this", target.id);
            let help = "its `ceiling` allows none of it: compare the two";
            let at = deny_at.unwrap_or(reader.at);
            decoder.desk.report(at, Code::NeverMatches, message, help);
        }
    }
    Some(RestrictionRequest {
        target: target.value.parse().ok()?,
        actions,
        locations,
        for_seconds: lasts.and_then(|lasts| u32::try_from(lasts.value.as_secs()).ok()),
        reason: String::new(),
        end_leases,
    })
}
