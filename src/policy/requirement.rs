//! `require`: verified facts that must hold.

use super::question::Question;
use super::{Denial, Denied, Mission, Target, schema};
use crate::identity::Facts;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a requirement can look at: verified facts, and the labels that the configuration gives.
pub(super) struct Sight<'a> {
    facts: &'a Facts,
    labels: [(&'static str, &'a BTreeMap<String, String>); 3],
}

const AGENT: &str = "agent.labels.";
const MISSION: &str = "mission.labels.";
const TARGET: &str = "target.labels.";

/// Whether the name is a label's and not a fact's: `target.labels.env`.
pub fn is_label(name: &str) -> bool {
    [AGENT, MISSION, TARGET]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether labels of agent, mission and target meet a requirement; `None`: it is about a fact.
pub fn labels_meet(
    name: &str,
    required: &Value,
    labels: [&BTreeMap<String, String>; 3],
) -> Option<bool> {
    Some(of_labels(name, required, labels)?.is_ok())
}

pub(super) fn of_labels(
    name: &str,
    required: &Value,
    [agent, mission, target]: [&BTreeMap<String, String>; 3],
) -> Option<Result<(), Denied>> {
    let facts = Facts::new();
    let sight = Sight {
        facts: &facts,
        labels: [(AGENT, agent), (MISSION, mission), (TARGET, target)],
    };
    is_label(name).then(|| check(name, required, &sight))
}

impl<'a> Sight<'a> {
    #[cfg(test)]
    pub fn of_facts(facts: &'a Facts) -> Self {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        Self {
            facts,
            labels: [(AGENT, NONE), (MISSION, NONE), (TARGET, NONE)],
        }
    }

    pub fn new(question: &Question<'a>, mission: &'a Mission, target: &'a Target) -> Self {
        Self {
            facts: question.facts,
            labels: [
                (AGENT, &question.agent.labels),
                (MISSION, &mission.labels),
                (TARGET, &target.labels),
            ],
        }
    }

    fn get(&self, name: &str) -> Option<Cow<'a, Value>> {
        // SECURITY: a label is looked for in the configuration alone, so that no issuer can prove a
        // fact of that name instead.
        for (prefix, labels) in &self.labels {
            if let Some(label) = name.strip_prefix(prefix) {
                return labels
                    .get(label)
                    .map(|value| Cow::Owned(Value::from(value.as_str())));
            }
        }
        self.facts.get(name).map(Cow::Borrowed)
    }
}

/// A fact must be there and have the value, or one of the values. Scalars compare as text: `17` is
/// `"17"`, since platforms disagree on which of the two a run's number is.
pub(super) fn check(fact: &str, required: &Value, sight: &Sight<'_>) -> Result<(), Denied> {
    let Some(proved) = sight.get(fact) else {
        let absent = if is_label(fact) {
            "there is no such label"
        } else {
            "is not proved"
        };
        let why = format!("{fact} must be {}, and {absent}", words_of(required));
        return Err(Denied::new(Denial::RequirementUnmet, why));
    };
    let proved = proved.as_ref();
    if same(required, proved) || any_of(required).iter().any(|one| same(one, proved)) {
        return Ok(());
    }
    let why = format!(
        "{fact} must be {}, and is `{}`",
        words_of(required),
        schema::text(proved)
    );
    Err(Denied::new(Denial::RequirementUnmet, why))
}

/// What is wrong with a requirement as it is written.
pub(super) fn problem(required: &Value) -> Option<&'static str> {
    let scalar =
        |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
    let choice = any_of(required);
    if scalar(required) || (!choice.is_empty() && choice.iter().all(scalar)) {
        None
    } else {
        Some("require a string, a number, a boolean, or a list of them of which one must hold")
    }
}

pub(super) fn words(fact: &str, required: &Value) -> String {
    format!("{fact} is {}", words_of(required))
}

fn same(required: &Value, proved: &Value) -> bool {
    let structured = |value: &Value| value.is_array() || value.is_object() || value.is_null();
    if structured(required) || structured(proved) {
        return false;
    }
    schema::text(required) == schema::text(proved)
}

fn any_of(required: &Value) -> &[Value] {
    required.as_array().map_or(&[], Vec::as_slice)
}

fn words_of(required: &Value) -> String {
    match required.as_array() {
        Some(choice) => {
            let words: Vec<_> = choice
                .iter()
                .map(|one| format!("`{}`", schema::text(one)))
                .collect();
            words.join(" or ")
        }
        None => format!("`{}`", schema::text(required)),
    }
}
