//! TOML with every value's place kept, so that a problem can be shown where it stands.

use super::problem::{Code, Desk};
use super::source::{At, Place};
use serde_json::{Map, Value};
use std::ops::Range;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Node {
    pub at: Place,
    pub raw: Raw,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) enum Raw {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date(Date),
    Moment(OffsetDateTime),
    List(Vec<Node>),
    Table(Table),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct Table {
    pub entries: Vec<(At<String>, Node)>,
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries
            .iter()
            .find(|(name, _)| name.value == key)
            .map(|(_, node)| node)
    }
}

impl Table {
    pub fn of(map: &Map<String, Value>, at: Place) -> Self {
        let entry =
            |(key, value): (&String, &Value)| (At::new(at, key.clone()), Node::of(key, value, at));
        Self {
            entries: map.iter().map(entry).collect(),
        }
    }
}

impl Node {
    /// With its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self.raw {
            Raw::Text(_) => "a string",
            Raw::Integer(_) => "an integer",
            Raw::Float(_) => "a float",
            Raw::Boolean(_) => "a boolean",
            Raw::Date(_) => "a date",
            Raw::Moment(_) => "a date and time",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a table",
        }
    }

    /// From JSON, which has no dates: text that is one is one where `ends` wants one.
    pub fn of(key: &str, value: &Value, at: Place) -> Self {
        let raw = match value {
            Value::Null => Raw::Text("null".to_owned()),
            Value::Bool(value) => Raw::Boolean(*value),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Raw::Integer(number),
                None => Raw::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => {
                let moment = text.parse().ok().filter(|_| key == "ends");
                let moment = moment.and_then(|moment| date(&moment));
                moment.unwrap_or_else(|| Raw::Text(text.clone()))
            }
            Value::Array(list) => {
                Raw::List(list.iter().map(|one| Self::of(key, one, at)).collect())
            }
            Value::Object(map) => Raw::Table(Table::of(map, at)),
        };
        Self { at, raw }
    }

    /// As JSON. Dates become text.
    pub fn json(&self) -> Value {
        match &self.raw {
            Raw::Text(text) => Value::from(text.as_str()),
            Raw::Integer(number) => Value::from(*number),
            Raw::Float(number) => Value::from(*number),
            Raw::Boolean(value) => Value::from(*value),
            Raw::Date(date) => Value::from(date.to_string()),
            Raw::Moment(moment) => Value::from(
                moment
                    .format(&time::format_description::well_known::Rfc3339)
                    .unwrap_or_default(),
            ),
            Raw::List(nodes) => Value::Array(nodes.iter().map(Self::json).collect()),
            Raw::Table(table) => Value::Object(
                table
                    .entries
                    .iter()
                    .map(|(key, node)| (key.value.clone(), node.json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}

/// Reads one file as far as it goes: what cannot be read is reported, the rest is kept.
pub(in crate::config) fn parse(file: usize, text: &str, desk: &Desk) -> Table {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let code = if error.message().contains("duplicate") {
            Code::Duplicate
        } else {
            Code::Syntax
        };
        desk.report(place(file, &span), code, error.message(), "");
    }
    table(file, document.get_ref(), desk)
}

fn place(file: usize, span: &Range<usize>) -> Place {
    Place {
        file,
        start: span.start,
        end: span.end,
    }
}

fn table(file: usize, entries: &DeTable<'_>, desk: &Desk) -> Table {
    let mut entries: Vec<_> = entries
        .iter()
        .filter_map(|(key, value)| {
            let name = At::new(place(file, &key.span()), key.get_ref().to_string());
            Some((name, node(file, value, desk)?))
        })
        .collect();
    entries.sort_by_key(|(name, _)| name.at.start);
    Table { entries }
}

fn node(file: usize, value: &Spanned<DeValue<'_>>, desk: &Desk) -> Option<Node> {
    let at = place(file, &value.span());
    let wrong = |message: &str| {
        desk.report(at, Code::BadValue, message, "");
        None
    };
    let raw = match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => {
            let Ok(number) = i64::from_str_radix(number.as_str(), number.radix()) else {
                return wrong("this number is too large");
            };
            Raw::Integer(number)
        }
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Raw::Float(number),
            Err(_) => return wrong("this is not a number"),
        },
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Datetime(moment) => match date(moment) {
            Some(raw) => raw,
            None => return wrong("write a date (2027-03-01) or a moment (2027-03-01T12:00:00Z)"),
        },
        DeValue::Array(nodes) => Raw::List(
            nodes
                .iter()
                .filter_map(|value| node(file, value, desk))
                .collect(),
        ),
        DeValue::Table(entries) => Raw::Table(table(file, entries, desk)),
    };
    Some(Node { at, raw })
}

fn date(moment: &toml::value::Datetime) -> Option<Raw> {
    let date = moment.date?;
    let month = Month::try_from(date.month).ok()?;
    let date = Date::from_calendar_date(i32::from(date.year), month, date.day).ok()?;
    match (moment.time, moment.offset) {
        (None, None) => Some(Raw::Date(date)),
        (Some(time), Some(offset)) => {
            let seconds = match offset {
                toml::value::Offset::Z => 0,
                toml::value::Offset::Custom { minutes } => i32::from(minutes) * 60,
            };
            let second = time.second.unwrap_or(0);
            let nanosecond = time.nanosecond.unwrap_or(0);
            let time = Time::from_hms_nano(time.hour, time.minute, second, nanosecond).ok()?;
            let offset = UtcOffset::from_whole_seconds(seconds).ok()?;
            let moment = PrimitiveDateTime::new(date, time).assume_offset(offset);
            Some(Raw::Moment(moment.to_offset(UtcOffset::UTC)))
        }
        _ => None,
    }
}
