//! `require`: verified facts that must hold.

use super::{Denial, Denied, schema};
use crate::identity::Facts;
use serde_json::Value;

/// A fact must be there and have the value, or one of the values. Scalars compare as text: `17` is
/// `"17"`, since platforms disagree on which of the two a run's number is.
pub(super) fn check(fact: &str, required: &Value, facts: &Facts) -> Result<(), Denied> {
    let Some(proved) = facts.get(fact) else {
        let why = format!("{fact} must be {}, and is not proved", words_of(required));
        return Err(Denied::new(Denial::RequirementUnmet, why));
    };
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
