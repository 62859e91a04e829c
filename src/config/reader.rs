//! Reads one table key by key, remembers what was asked for, and reports the rest as unknown.

use super::problem::{Code, Desk};
use super::shape::Kind;
use super::source::{At, Place};
use super::tree::{Node, Raw, Table};
use super::values;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use time::{Date, OffsetDateTime};

pub(in crate::config) struct Reader<'a> {
    pub desk: &'a Desk,
    table: &'a Table,
    /// Where the table itself stands.
    pub at: Place,
    /// As written, e.g. `agent.checkout`.
    pub name: String,
    /// Without names, e.g. `agent`.
    path: String,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Reader<'a> {
    pub fn new(
        desk: &'a Desk,
        table: &'a Table,
        at: Place,
        (name, path): (String, String),
    ) -> Self {
        Self {
            desk,
            table,
            at,
            name,
            path,
            asked: RefCell::default(),
        }
    }

    pub fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        let node = self.table.get(key);
        if let Some(shapes) = self.desk.shapes.borrow().as_ref() {
            shapes.asked(&self.path, key, node.is_some());
        }
        node
    }

    /// The same, and what the value is read as, for the schema.
    pub fn node_as(&self, key: &'static str, kind: Kind) -> Option<&'a Node> {
        let node = self.node(key);
        if let Some(shapes) = self.desk.shapes.borrow().as_ref() {
            shapes.read_as(&self.path, key, kind);
        }
        node
    }

    /// The value, or a problem at the table that says what is missing.
    pub fn required<T>(&self, key: &'static str, found: Option<T>, example: &str) -> Option<T> {
        if let Some(shapes) = self.desk.shapes.borrow().as_ref() {
            shapes.required(&self.path, key);
        }
        if found.is_none() && self.table.get(key).is_none() {
            self.desk.report(
                self.at,
                Code::MissingKey,
                format!("`{}` has no `{key}`", self.name),
                &format!("add `{key} = {example}`"),
            );
        }
        found
    }

    pub fn wrong<T>(&self, node: &Node, key: &str, wanted: &str) -> Option<T> {
        self.desk.report(
            node.at,
            Code::WrongType,
            format!("`{key}` of `{}` is {}", self.name, node.kind()),
            &format!("write {wanted}"),
        );
        None
    }

    pub fn bad(&self, at: Place, message: impl Into<String>, help: &str) {
        self.desk.report(at, Code::BadValue, message, help);
    }

    pub fn text(&self, key: &'static str) -> Option<At<String>> {
        self.text_as(key, Kind::Text)
    }

    fn text_as(&self, key: &'static str, kind: Kind) -> Option<At<String>> {
        let node = self.node_as(key, kind)?;
        match &node.raw {
            Raw::Text(text) if text.trim().is_empty() => {
                self.bad(node.at, format!("`{key}` is empty"), "write something");
                None
            }
            Raw::Text(text) => Some(At::new(node.at, text.clone())),
            _ => self.wrong(node, key, "a string: `\"...\"`"),
        }
    }

    pub fn required_text(&self, key: &'static str, example: &str) -> Option<At<String>> {
        self.required(key, self.text(key), example)
    }

    /// A list of strings, or one string alone.
    pub fn texts(&self, key: &'static str) -> Option<Vec<At<String>>> {
        let node = self.node_as(key, Kind::Texts)?;
        let wanted = "a list of strings: `[\"...\"]`";
        match &node.raw {
            Raw::Text(text) => Some(vec![At::new(node.at, text.clone())]),
            Raw::List(nodes) => Some(
                nodes
                    .iter()
                    .filter_map(|node| match &node.raw {
                        Raw::Text(text) => Some(At::new(node.at, text.clone())),
                        _ => self.wrong(node, key, wanted),
                    })
                    .collect(),
            ),
            _ => self.wrong(node, key, wanted),
        }
    }

    /// One of these words.
    pub fn choice(
        &self,
        key: &'static str,
        words: &'static [&'static str],
    ) -> Option<&'static str> {
        let text = self.text_as(key, Kind::Choice(words))?;
        let found = words.iter().copied().find(|word| *word == text.value);
        if found.is_none() {
            let help = match values::nearest(&text.value, words) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write one of {}", words.join(", ")),
            };
            let message = format!("there is no {key} `{}`", text.value);
            self.bad(text.at, message, &help);
        }
        found
    }

    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        let node = self.node_as(key, Kind::Boolean)?;
        match node.raw {
            Raw::Boolean(value) => Some(value),
            _ => self.wrong(node, key, "`true` or `false`"),
        }
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &'static str, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let node = self.node_as(key, Kind::Number(*bounds.start(), *bounds.end()))?;
        let Raw::Integer(number) = node.raw else {
            return self.wrong(node, key, "a whole number");
        };
        match u64::try_from(number).ok().filter(|n| bounds.contains(n)) {
            Some(number) => Some(number),
            None => {
                let (low, high) = (bounds.start(), bounds.end());
                self.bad(
                    node.at,
                    format!("`{key}` is {number}"),
                    &format!("write a number from {low} to {high}"),
                );
                None
            }
        }
    }

    pub fn date(&self, key: &'static str) -> Option<At<Date>> {
        let node = self.node_as(key, Kind::Date)?;
        match node.raw {
            Raw::Date(date) => Some(At::new(node.at, date)),
            _ => self.wrong(node, key, "a date without quotes: `2027-03-01`"),
        }
    }

    /// A moment, or a date for its midnight in UTC.
    pub fn moment(&self, key: &'static str) -> Option<OffsetDateTime> {
        let node = self.node_as(key, Kind::Moment)?;
        match node.raw {
            Raw::Date(date) => Some(date.midnight().assume_utc()),
            Raw::Moment(moment) => Some(moment),
            _ => self.wrong(node, key, "a moment without quotes: `2027-03-01T12:00:00Z`"),
        }
    }

    /// `90s`, `15m`, `1h`, `90d`, within bounds.
    pub fn duration(
        &self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        let text = self.text_as(key, Kind::Duration)?;
        let Some(duration) = values::duration(&text.value) else {
            self.bad(
                text.at,
                format!("`{}` is not a duration", text.value),
                "write a whole number and a unit: `30s`, `15m`, `1h`, `90d`, `500ms`",
            );
            return None;
        };
        if !bounds.contains(&duration) {
            let low = values::show_duration(*bounds.start());
            let high = values::show_duration(*bounds.end());
            self.bad(
                text.at,
                format!("`{key}` is `{}`", text.value),
                &format!("write a duration from `{low}` to `{high}`"),
            );
            return None;
        }
        Some(At::new(text.at, duration))
    }

    pub fn table(&self, key: &'static str) -> Option<Reader<'a>> {
        let node = self.node_as(key, Kind::Table)?;
        self.as_table(node, key)
    }

    fn as_table(&self, node: &'a Node, key: &str) -> Option<Reader<'a>> {
        match &node.raw {
            Raw::Table(table) => {
                let within = (
                    format!("{}.{key}", self.name),
                    format!("{}.{key}", self.path),
                );
                Some(Reader::new(self.desk, table, node.at, within))
            }
            _ => self.wrong(node, key, "a table: `{ ... }`"),
        }
    }

    /// A list of tables, or one table alone.
    pub fn tables(&self, key: &'static str) -> Option<Vec<Reader<'a>>> {
        let node = self.node_as(key, Kind::Tables)?;
        let Raw::List(nodes) = &node.raw else {
            return Some(self.as_table(node, key).into_iter().collect());
        };
        Some(
            nodes
                .iter()
                .filter_map(|node| self.as_table(node, key))
                .collect(),
        )
    }

    /// A table from names to strings.
    pub fn text_map(&self, key: &'static str) -> Option<BTreeMap<String, At<String>>> {
        let node = self.node_as(key, Kind::TextMap)?;
        let Raw::Table(table) = &node.raw else {
            return self.wrong(node, key, "a table of strings: `{ name = \"...\" }`");
        };
        let pairs = table.entries.iter().filter_map(|(name, node)| {
            let value = match &node.raw {
                Raw::Text(text) => At::new(node.at, text.clone()),
                _ => self.wrong(node, &name.value, "a string: `\"...\"`")?,
            };
            Some((name.value.clone(), value))
        });
        Some(pairs.collect())
    }

    /// A table from names to plain values; nested tables are read as dotted names.
    pub fn value_map(&self, key: &'static str) -> Option<BTreeMap<String, At<Value>>> {
        let node = self.node_as(key, Kind::ValueMap)?;
        let Raw::Table(table) = &node.raw else {
            return self.wrong(node, key, "a table: `{ \"name\" = value }`");
        };
        let mut values = BTreeMap::new();
        flatten("", table, &mut values);
        Some(values)
    }

    /// Everything that was not asked for so far, as JSON, with the places of its keys.
    pub fn rest(&self) -> (serde_json::Map<String, Value>, BTreeMap<String, Place>) {
        if let Some(shapes) = self.desk.shapes.borrow().as_ref() {
            shapes.takes_rest(&self.path);
        }
        let asked = self.asked.borrow();
        self.table
            .entries
            .iter()
            .filter(|(key, _)| !asked.contains(&key.value.as_str()))
            .map(|(key, node)| {
                (
                    (key.value.clone(), node.json()),
                    (key.value.clone(), node.at),
                )
            })
            .unzip()
    }

    /// Every key that nobody asked for is a problem: a key that does nothing is worse than none.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in &self.table.entries {
            if asked.contains(&key.value.as_str()) {
                continue;
            }
            let help = match values::nearest(&key.value, &asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None if asked.is_empty() => "remove it".to_owned(),
                None => {
                    let mut known: Vec<_> = asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("known keys: {}", known.join(", "))
                }
            };
            self.desk.report(
                key.at,
                Code::UnknownKey,
                format!("`{}` has no key `{}`", self.name, key.value),
                &help,
            );
        }
    }
}

fn flatten(prefix: &str, table: &Table, values: &mut BTreeMap<String, At<Value>>) {
    for (key, node) in &table.entries {
        let name = if prefix.is_empty() {
            key.value.clone()
        } else {
            format!("{prefix}.{}", key.value)
        };
        match &node.raw {
            Raw::Table(inner) => flatten(&name, inner, values),
            _ => {
                values.insert(name, At::new(node.at, node.json()));
            }
        }
    }
}
