//! The Cedar schema: what a policy may say, and how verified facts become its context.

use crate::identity::Facts;
use cedar_policy::RestrictedExpression;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The schema as published, with the facts that the built-in issuer presets prove. Facts of the
/// configuration's own are added to its `Verified`.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

const BEGIN: &str = "    // facts: begin\n";
const END: &str = "    // facts: end\n";

/// The facts that `Verified` knows, as a tree: `pipeline.run_id` is `run_id` within `pipeline`.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<String, Node>);

#[derive(Debug)]
enum Node {
    /// The fact's full name.
    Fact(String),
    Group(Known),
}

/// A fact by a name that no schema can have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadFact {
    pub name: String,
    pub why: &'static str,
}

impl Known {
    pub fn new(names: &BTreeSet<String>) -> (Self, Vec<BadFact>) {
        let mut known = Self::default();
        let mut bad = Vec::new();
        for name in names {
            let path: Vec<&str> = name.split('.').collect();
            if let Err(why) = known.insert(name, &path) {
                let name = name.clone();
                bad.push(BadFact { name, why });
            }
        }
        (known, bad)
    }

    fn insert(&mut self, name: &str, path: &[&str]) -> Result<(), &'static str> {
        let Some((first, rest)) = path.split_first() else {
            return Ok(());
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if first.is_empty() || first.starts_with("__") || !first.chars().all(fits) {
            return Err("a fact is named by letters, digits, `_` and `-`, in parts between dots");
        }
        let both = "is a fact and also the beginning of another fact's name";
        if rest.is_empty() {
            let fact = Node::Fact(name.to_owned());
            return match self.0.insert((*first).to_owned(), fact) {
                Some(_) => Err(both),
                None => Ok(()),
            };
        }
        let group = self
            .0
            .entry((*first).to_owned())
            .or_insert_with(|| Node::Group(Self::default()));
        match group {
            Node::Group(group) => group.insert(name, rest),
            Node::Fact(_) => Err(both),
        }
    }

    /// The whole schema with these facts in it.
    pub fn schema(&self) -> String {
        let (before, rest) = SCHEMA.split_once(BEGIN).unwrap_or((SCHEMA, ""));
        let after = rest.split_once(END).map_or("", |(_, after)| after);
        let mut text = format!("{before}{BEGIN}");
        self.write(&mut text, 4);
        text.push_str(END);
        text.push_str(after);
        text
    }

    fn write(&self, text: &mut String, indent: usize) {
        for (name, node) in &self.0 {
            // Writing to a String cannot fail.
            let _ = match node {
                Node::Fact(_) => writeln!(text, "{:indent$}\"{name}\"?: String,", ""),
                Node::Group(group) => {
                    let _ = writeln!(text, "{:indent$}\"{name}\"?: {{", "");
                    group.write(text, indent + 2);
                    writeln!(text, "{:indent$}}},", "")
                }
            };
        }
    }

    /// `context.verified`. What no policy can name is left out; a group without a fact is absent.
    pub fn context(&self, facts: &Facts) -> Result<RestrictedExpression, String> {
        let members = self.0.iter().filter_map(|(name, node)| {
            let value = match node {
                Node::Fact(full) => Ok(RestrictedExpression::new_string(text(facts.get(full)?))),
                Node::Group(group) => group.any(facts).then(|| group.context(facts))?,
            };
            Some(value.map(|value| (name.clone(), value)))
        });
        let members: Vec<_> = members.collect::<Result<_, _>>()?;
        RestrictedExpression::new_record(members).map_err(|error| error.to_string())
    }

    fn any(&self, facts: &Facts) -> bool {
        self.0.values().any(|node| match node {
            Node::Fact(full) => facts.contains_key(full),
            Node::Group(group) => group.any(facts),
        })
    }
}

/// The facts of the published schema.
pub(super) fn standard() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut group = "";
    let listed = SCHEMA
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END))
        .map_or("", |(listed, _)| listed);
    for line in listed.lines() {
        let Some((name, kind)) = line.trim().split_once("?: ") else {
            continue;
        };
        let name = name.trim_matches('"');
        if kind.starts_with('{') {
            group = name;
        } else {
            names.insert(format!("{group}.{name}"));
        }
    }
    names
}

/// A fact as text. Platforms disagree on whether a number or a truth is one: GitHub says
/// `"run_id": "17"`, others say 17. In text they agree.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
