//! What the decoders ask of each table. The JSON Schema is made from it, so the two cannot drift: a key
//! that is decoded is in the schema, and a key that is not is in neither.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// How a key's value is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) enum Kind {
    /// Looked at as it is.
    Any,
    Text,
    /// A list of strings, or one alone.
    Texts,
    Choice(&'static [&'static str]),
    Boolean,
    Number(u64, u64),
    Date,
    Moment,
    Duration,
    /// `file:` or the keys themselves.
    Keys,
    Table,
    /// A list of tables, or one alone.
    Tables,
    TextMap,
    ValueMap,
    /// Names and lists of strings.
    ListMap,
}

#[derive(Debug, Default, Clone)]
pub(in crate::config) struct Key {
    pub kinds: BTreeSet<Kind>,
    pub required: bool,
    /// It was there: what is within was decoded as well.
    pub seen: bool,
}

#[derive(Debug, Default, Clone)]
pub(in crate::config) struct Shape {
    pub keys: BTreeMap<&'static str, Key>,
    /// What nobody asked for by name was read as a whole.
    pub takes_rest: bool,
}

/// By the path of the table: `agent`, `agent.limits`.
#[derive(Debug, Default)]
pub(in crate::config) struct Shapes(RefCell<BTreeMap<String, Shape>>);

impl Shapes {
    pub fn asked(&self, path: &str, key: &'static str, seen: bool) {
        self.with(path, key, |key| key.seen |= seen);
    }

    pub fn read_as(&self, path: &str, key: &'static str, kind: Kind) {
        self.with(path, key, |key| {
            key.kinds.insert(kind);
        });
    }

    pub fn required(&self, path: &str, key: &'static str) {
        self.with(path, key, |key| key.required = true);
    }

    pub fn takes_rest(&self, path: &str) {
        let mut shapes = self.0.borrow_mut();
        shapes.entry(path.to_owned()).or_default().takes_rest = true;
    }

    fn with(&self, path: &str, key: &'static str, change: impl FnOnce(&mut Key)) {
        let mut shapes = self.0.borrow_mut();
        let shape = shapes.entry(path.to_owned()).or_default();
        change(shape.keys.entry(key).or_default());
    }

    pub fn into_inner(self) -> BTreeMap<String, Shape> {
        self.0.into_inner()
    }
}
