//! A grant as an IAM session policy: what STS intersects the role's own policies with.
//!
//! In: the granted pairs of actions and locations, and the second they end. Out: one minimised
//! JSON document that allows exactly these pairs until that second, or [`Inexpressible`]. It also
//! denies what is outside, as far as 2048 characters go: an allow in a resource policy that names
//! the session would otherwise add to it.

use super::pattern;
use crate::authority::Authority;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;
use time::macros::format_description;

/// AWS counts the plain text of the session policy.
pub(super) const MOST_CHARACTERS: usize = 2048;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Inexpressible {
    #[error("it allows nothing: name at least one action and one location")]
    Empty,
    #[error("`{0}` is not an IAM action, such as `s3:GetObject`")]
    Action(String),
    #[error("`{0}` is neither an ARN nor `*`")]
    Location(String),
    #[error(
        "its session policy has {0} characters and AWS takes {MOST_CHARACTERS}: ask for fewer \
         actions and locations, or use `*`"
    )]
    TooLong(usize),
    #[error("its end cannot be written as a date")]
    Date,
}

/// A session policy, and how much of what is outside the grant it denies by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SessionPolicy {
    pub text: String,
    /// Statements that deny what is outside and did not fit.
    pub denials_left_out: usize,
}

type Patterns = BTreeSet<String>;

/// The session policy of this grant; it ends at `ends`, rounded down to the second.
pub(super) fn session_policy(
    granted: &Authority,
    ends: OffsetDateTime,
) -> Result<SessionPolicy, Inexpressible> {
    let pairs = pairs(granted)?;
    let ends = ends
        .to_offset(time::UtcOffset::UTC)
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second]Z"
        ))
        .map_err(|_| Inexpressible::Date)?;
    let mut document = Document {
        version: "2012-10-17",
        statements: allowed(&pairs, &ends),
    };
    let mut text = document.text();
    if text.len() > MOST_CHARACTERS {
        return Err(Inexpressible::TooLong(text.len()));
    }
    let mut denials_left_out = 0;
    for denial in denied(&pairs, &ends) {
        document.statements.push(denial);
        let longer = document.text();
        if longer.len() <= MOST_CHARACTERS {
            text = longer;
        } else {
            document.statements.pop();
            denials_left_out += 1;
        }
    }
    Ok(SessionPolicy {
        text,
        denials_left_out,
    })
}

/// Locations to the actions granted on exactly these, every pattern checked.
fn pairs(granted: &Authority) -> Result<BTreeMap<Patterns, Patterns>, Inexpressible> {
    let mut by_locations: BTreeMap<Patterns, Patterns> = BTreeMap::new();
    for permission in &granted.0 {
        if permission.actions.is_empty() || permission.locations.is_empty() {
            return Err(Inexpressible::Empty);
        }
        for action in &permission.actions {
            if !is_action(action) {
                return Err(Inexpressible::Action(shown(action)));
            }
        }
        for location in &permission.locations {
            if !is_location(location) {
                return Err(Inexpressible::Location(shown(location)));
            }
        }
        let locations = widest(&permission.locations, pattern::covers);
        by_locations
            .entry(locations)
            .or_default()
            .extend(permission.actions.iter().cloned());
    }
    if by_locations.is_empty() {
        return Err(Inexpressible::Empty);
    }
    // The same actions on two sets of locations are one statement: A x (L or M).
    let mut by_actions: BTreeMap<Patterns, Patterns> = BTreeMap::new();
    for (locations, actions) in by_locations {
        by_actions
            .entry(widest(&actions, pattern::covers_ignoring_case))
            .or_default()
            .extend(locations);
    }
    Ok(by_actions
        .into_iter()
        .map(|(actions, locations)| (actions, widest(&locations, pattern::covers)))
        .collect())
}

/// SECURITY: one statement for each set of pairs, never one for all: {A on x} and {B on y} must
/// not become A on y.
fn allowed(pairs: &BTreeMap<Patterns, Patterns>, ends: &str) -> Vec<Statement> {
    pairs
        .iter()
        .map(|(actions, locations)| Statement {
            action: Some(actions.into()),
            resource: Some(locations.into()),
            condition: Some(Condition::Before(Now {
                ends: ends.to_owned(),
            })),
            ..Statement::new("Allow")
        })
        .collect()
}

/// What is outside the grant, most telling first: after its end, other actions, other locations.
fn denied(pairs: &BTreeMap<Patterns, Patterns>, ends: &str) -> Vec<Statement> {
    let everything = || Some(OneOrMany::One("*".to_owned()));
    let mut denials = vec![Statement {
        action: everything(),
        resource: everything(),
        condition: Some(Condition::From(Now {
            ends: ends.to_owned(),
        })),
        ..Statement::new("Deny")
    }];
    let actions: Vec<_> = pairs.keys().flatten().cloned().collect();
    let actions = widest(&actions, pattern::covers_ignoring_case);
    if !actions.contains("*") {
        denials.push(Statement {
            not_action: Some((&actions).into()),
            resource: everything(),
            ..Statement::new("Deny")
        });
    }
    let mut by_reach: BTreeMap<Patterns, Patterns> = BTreeMap::new();
    for action in pairs.keys().flatten() {
        // INVARIANT: every location that any pattern overlapping this action is granted on, or
        // the denial would take back a granted pair.
        let reach: Vec<_> = pairs
            .iter()
            .filter(|(others, _)| others.iter().any(|other| pattern::overlaps(other, action)))
            .flat_map(|(_, locations)| locations.iter().cloned())
            .collect();
        by_reach
            .entry(widest(&reach, pattern::covers))
            .or_default()
            .insert(action.clone());
    }
    let alone = by_reach.len() == 1;
    for (locations, actions) in &by_reach {
        if !locations.contains("*") {
            denials.push(Statement {
                action: if alone {
                    everything()
                } else {
                    Some(actions.into())
                },
                not_resource: Some(locations.into()),
                ..Statement::new("Deny")
            });
        }
    }
    denials
}

/// The patterns that no other one of them covers.
fn widest<'a>(
    patterns: impl IntoIterator<Item = &'a String> + Clone,
    covers: fn(&str, &str) -> bool,
) -> Patterns {
    let mut kept: Vec<&String> = Vec::new();
    for candidate in patterns {
        if !kept.iter().any(|other| covers(other, candidate)) {
            kept.retain(|other| !covers(candidate, other));
            kept.push(candidate);
        }
    }
    kept.into_iter().cloned().collect()
}

/// `*` or `service:Action` with `*` anywhere in the second part.
fn is_action(text: &str) -> bool {
    let Some((service, action)) = text.split_once(':') else {
        return text == "*";
    };
    let word = |part: &str, more: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
    };
    word(service, "-") && word(action, "*")
}

/// `*` or six fields of printable ASCII.
///
/// SECURITY: `?` and `${...}` are patterns to AWS and plain text to whoever compared the grant
/// with its ceiling, so they never get this far unnoticed.
fn is_location(text: &str) -> bool {
    let plain = |b: u8| matches!(b, 0x21..=0x7e) && !matches!(b, b'?' | b'$' | b'"' | b'\\');
    text == "*"
        || (text.starts_with("arn:") && text.split(':').count() >= 6 && text.bytes().all(plain))
}

/// Bounded and printable, for an error.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[derive(Serialize)]
struct Document {
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "Statement")]
    statements: Vec<Statement>,
}

impl Document {
    fn text(&self) -> String {
        // Strings and arrays of strings: this cannot fail, and if it did the text would be too long.
        serde_json::to_string(self).unwrap_or_else(|_| " ".repeat(MOST_CHARACTERS + 1))
    }
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_action: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_resource: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Condition>,
}

impl Statement {
    fn new(effect: &'static str) -> Self {
        Self {
            effect,
            action: None,
            not_action: None,
            resource: None,
            not_resource: None,
            condition: None,
        }
    }
}

/// A list of one is written as the one: it is shorter.
#[derive(Serialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<&Patterns> for OneOrMany {
    fn from(patterns: &Patterns) -> Self {
        match patterns.iter().collect::<Vec<_>>().as_slice() {
            [one] => Self::One((*one).clone()),
            _ => Self::Many(patterns.iter().cloned().collect()),
        }
    }
}

#[derive(Serialize, Clone)]
enum Condition {
    #[serde(rename = "DateLessThan")]
    Before(Now),
    #[serde(rename = "DateGreaterThanEquals")]
    From(Now),
}

#[derive(Serialize, Clone)]
struct Now {
    #[serde(rename = "aws:CurrentTime")]
    ends: String,
}

#[cfg(test)]
mod tests;
