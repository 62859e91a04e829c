//! What the audit says of each step of a lease, in the commit that makes the step.

use super::record::Record;
use super::state::{State, Why};
use crate::audit::{Entry, Event};
use crate::policy::{Grant, observed};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The first entry of a lease: everything that was decided.
pub(super) fn issued(record: &Record, grant: &Grant, now: OffsetDateTime) -> Entry {
    let mut entry = about(Event::Issued, record, now);
    // The question first: what the broker itself says of the answer has the last word.
    entry.detail.extend(grant.recorded().to_detail());
    if !grant.observed().is_empty() {
        let passed = observed(grant.observed());
        entry.detail.insert("observed".to_owned(), passed);
    }
    let entry = entry
        .caller(&record.issuer_url, &record.subject)
        .intent_hash(grant.intent_sha256())
        .config_hash(&record.config_hash)
        .with("owner", record.owner.as_str())
        .with("goal", record.goal.as_str())
        .with("signer", text(&record.signer))
        .with("authority", text(&record.authority))
        .with("decided_by", record.decided_by.clone())
        .with("view", record.decided_at.0)
        .with("expires_at", record.expires_at.format(&Rfc3339).ok());
    let entry = match &record.instance {
        Some(instance) => entry.with("instance", instance.as_str()),
        None => entry,
    };
    let entry = match (record.chain.is_empty(), record.parent) {
        (true, _) => entry,
        (false, None) => entry.with("chain", text(&record.chain)),
        (false, Some(parent)) => entry
            .with("chain", text(&record.chain))
            .with("parent", parent.to_string()),
    };
    let entry = match &record.task {
        Some(task) => entry.with("task", task.as_str()),
        None => entry,
    };
    let entry = match grant.declared() {
        none if none.is_empty() => entry,
        declared => entry.with("declared", text(declared)),
    };
    let entry = match grant.evidence() {
        [] => entry,
        evidence => entry.with("evidence", text(&evidence)),
    };
    names(entry, record)
}

/// The entry for a step from one state to another, if it is one to remember.
pub(super) fn step(before: State, record: &Record, now: OffsetDateTime) -> Option<Entry> {
    if before == record.state {
        return None;
    }
    let why = record.closing.as_ref().map(|closing| closing.why);
    let event = match (record.state, why) {
        (State::Active, _) => {
            let entry = about(Event::Activated, record, now);
            let expires_at = record.expires_at.format(&Rfc3339).ok();
            return Some(names(entry.with("expires_at", expires_at), record));
        }
        // Its end is recorded when there is one.
        (State::Revoking, Some(Why::Expired)) => return None,
        (State::Revoking, why) => begin(why),
        (_, why) if before == State::Active => begin(why),
        _ => Event::Ended,
    };
    let entry = about(event, record, now);
    Some(match &record.closing {
        Some(closing) => entry
            .reason(closing.why.as_str())
            .with("by", closing.by.as_str())
            .with("said", closing.reason.as_str()),
        None => entry,
    })
}

fn begin(why: Option<Why>) -> Event {
    match why {
        Some(Why::Released) => Event::Released,
        Some(Why::Expired | Why::MintRefused) | None => Event::Ended,
        Some(Why::Revoked | Why::Fenced | Why::DecisionLost | Why::NeverHandedOut) => {
            Event::Revoked
        }
    }
}

fn about(event: Event, record: &Record, now: OffsetDateTime) -> Entry {
    Entry::new(event, now)
        .agent(record.agent.as_str())
        .mission(record.mission.as_str())
        .target(record.target.as_str())
        .lease(record.id.to_string())
        .with("audience", record.audience.as_str())
        .with("state", record.state.as_str())
}

/// What the credential is seen by elsewhere, so that a downstream's own log can be joined.
fn names(entry: Entry, record: &Record) -> Entry {
    let entry = match &record.token_sha256 {
        Some(hash) => entry.with(
            "credential_sha256",
            hash.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>(),
        ),
        None => entry,
    };
    if record.names.is_empty() {
        return entry;
    }
    entry.with("names", record.names.clone())
}

fn text<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
