//! Gathers the files of one configuration: which table stands where, and none of them twice.

use super::problem::{Code, Desk, Problems};
use super::reader::Reader;
use super::source::{At, Place, Source, Sources};
use super::tree::{self, Node, Raw, Table};
use super::values;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tables that stand once: `[broker]`.
pub(in crate::config) const SINGLE: &[&str] = &["broker", "operators"];
/// Tables that have names: `[agent.NAME]`.
pub(in crate::config) const NAMED: &[&str] = &[
    "issuer",
    "trust_domain",
    "intent_issuer",
    "facts",
    "agent",
    "people",
    "mission",
    "target",
    "resource_server",
    "source",
];
/// Tables that stand in a list: `[[case]]`.
pub(in crate::config) const LISTED: &[&str] = &["case", "notify", "response"];

/// The files of a configuration, read and sorted by table; their values are not looked at yet.
#[derive(Debug, Clone)]
pub struct Document {
    pub(in crate::config) sources: Sources,
    /// What `file:` and `path` are relative to.
    pub(in crate::config) base: PathBuf,
    pub(in crate::config) entries: Vec<Entry>,
    pub(in crate::config) policies: Vec<Source>,
    pub(in crate::config) early: Problems,
    /// What the files came with, where they were published: then no other key set is read.
    pub(in crate::config) attached: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone)]
pub(in crate::config) struct Entry {
    /// `agent`.
    pub kind: &'static str,
    /// `checkout-deployer`; empty for tables without a name.
    pub name: String,
    pub at: Place,
    pub table: Table,
}

impl Document {
    /// Reads every `*.toml` below the folder, and `policies/*.cedar`. Problems stay within.
    pub(in crate::config) fn read(dir: &Path) -> Self {
        let mut unreadable = Vec::new();
        let mut paths = Vec::new();
        walk(dir, &mut paths, &mut unreadable, 0);
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let name = path.strip_prefix(dir).unwrap_or(&path);
            let name = name.to_string_lossy().replace('\\', "/");
            match std::fs::read_to_string(&path) {
                Ok(text) => files.push((name, text)),
                Err(error) => unreadable.push(format!("`{}`: {error}", path.display())),
            }
        }
        if files.is_empty() && unreadable.is_empty() {
            unreadable.push(format!("`{}` holds no *.toml file", dir.display()));
        }
        Self::gather(files, dir.to_path_buf(), &unreadable)
    }

    /// Sorts files that were read elsewhere.
    pub(in crate::config) fn gather(
        files: Vec<(String, String)>,
        base: PathBuf,
        unreadable: &[String],
    ) -> Self {
        Self::sorted(files, base, unreadable, None)
    }

    /// With `attached`, the first file is the replica's own, of which `[broker]` counts, and the others
    /// were published.
    pub(in crate::config) fn sorted(
        files: Vec<(String, String)>,
        base: PathBuf,
        unreadable: &[String],
        attached: Option<BTreeMap<String, String>>,
    ) -> Self {
        let (policies, files): (Vec<_>, Vec<_>) = files
            .into_iter()
            .map(|(name, text)| Source { name, text })
            .partition(|file| is_policy(&file.name));
        let sources = Sources::new(files.iter().chain(&policies).cloned().collect());
        let desk = Desk::new(sources.clone());
        for problem in unreadable {
            let help = "check the path and the permissions";
            desk.general(Code::Unreadable, problem.as_str(), help);
        }
        let mut entries = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let table = tree::parse(number, &file.text, &desk);
            for (key, node) in table.entries {
                sort(&key, node, &desk, &mut entries);
            }
        }
        if attached.is_some() {
            entries.retain(|entry| is_where_it_belongs(entry, &desk));
        }
        let entries = twice(entries, &desk);
        Self {
            sources,
            base,
            entries,
            policies,
            early: desk.finish(),
            attached,
        }
    }

    pub(in crate::config) fn of<'a>(
        &'a self,
        kind: &'static str,
    ) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    pub(in crate::config) fn find(&self, kind: &'static str, name: &str) -> Option<&Entry> {
        self.of(kind).find(|entry| entry.name == name)
    }
}

impl Entry {
    pub fn reader<'a>(&'a self, desk: &'a Desk) -> Reader<'a> {
        let name = if self.name.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.name)
        };
        Reader::new(desk, &self.table, self.at, (name, self.kind.to_owned()))
    }
}

/// `[broker]` is each replica's own, and everything else is what was published.
fn is_where_it_belongs(entry: &Entry, desk: &Desk) -> bool {
    let (own, broker) = (entry.at.file == 0, entry.kind == "broker");
    if broker && !own {
        let message = "`[broker]` is each replica's own, and never published";
        let help = "put it into a file of its own, which is left out";
        desk.report(entry.at, Code::Unpublishable, message, help);
    }
    broker == own
}

fn is_policy(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == "cedar")
}

/// Hidden folders and files are left alone, so that a git work tree can be the folder.
fn walk(dir: &Path, paths: &mut Vec<PathBuf>, unreadable: &mut Vec<String>, depth: usize) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            unreadable.push(format!("`{}`: {error}", dir.display()));
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let is_wanted = path.extension().is_some_and(|e| e == "toml")
            || (path.extension().is_some_and(|e| e == "cedar")
                && dir.file_name().is_some_and(|name| name == "policies"));
        if path.is_dir() && depth < 8 {
            walk(&path, paths, unreadable, depth + 1);
        } else if is_wanted && path.is_file() {
            paths.push(path);
        }
    }
}

/// Puts one top-level key of a file where it belongs.
fn sort(key: &At<String>, node: Node, desk: &Desk, entries: &mut Vec<Entry>) {
    let known = |list: &[&'static str]| list.iter().copied().find(|kind| *kind == key.value);
    let mut add = |kind, name: &str, at, node: &Node| {
        let Raw::Table(table) = &node.raw else {
            let (message, help) = match name {
                "" => (format!("`{kind}` is {}", node.kind()), format!("[{kind}]")),
                _ => (
                    format!("`{kind}.{name}` is {}", node.kind()),
                    format!("[{kind}.{name}]"),
                ),
            };
            let help = format!("write a table: `{help}`");
            desk.report(node.at, Code::WrongType, message, &help);
            return;
        };
        entries.push(Entry {
            kind,
            name: name.to_owned(),
            at,
            table: table.clone(),
        });
    };
    if let Some(kind) = known(SINGLE) {
        add(kind, "", key.at, &node);
    } else if let Some(kind) = known(NAMED) {
        let Raw::Table(table) = &node.raw else {
            add(kind, "NAME", key.at, &node);
            return;
        };
        for (name, node) in &table.entries {
            check_name(kind, name, desk);
            add(kind, &name.value, name.at, node);
        }
    } else if let Some(kind) = known(LISTED) {
        match &node.raw {
            Raw::List(nodes) => nodes.iter().for_each(|node| add(kind, "", node.at, node)),
            _ => desk.report(
                node.at,
                Code::WrongType,
                format!("`{kind}` is {}", node.kind()),
                &format!("write it with two brackets: `[[{kind}]]`"),
            ),
        }
    } else {
        let all: Vec<_> = [SINGLE, NAMED, LISTED].concat();
        let help = match values::nearest(&key.value, &all) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known tables: {}", all.join(", ")),
        };
        let message = format!("there is no table `{}`", key.value);
        desk.report(key.at, Code::UnknownTable, message, &help);
    }
}

fn check_name(kind: &str, name: &At<String>, desk: &Desk) {
    if let Err(error) = name.value.parse::<crate::ids::AgentId>() {
        let help = format!("rename `[{kind}.{}]`", name.value);
        desk.report(name.at, Code::BadName, error.to_string(), &help);
    }
}

/// The same table in two files: both places are named, and the first one counts.
fn twice(entries: Vec<Entry>, desk: &Desk) -> Vec<Entry> {
    let mut first: BTreeMap<(&str, String), Place> = BTreeMap::new();
    let keep = |entry: &Entry| {
        if LISTED.contains(&entry.kind) {
            return true;
        }
        let key = (entry.kind, entry.name.clone());
        let Some(other) = first.get(&key) else {
            first.insert(key, entry.at);
            return true;
        };
        let shown = match entry.name.as_str() {
            "" => format!("[{}]", entry.kind),
            name => format!("[{}.{name}]", entry.kind),
        };
        let message = format!("`{shown}` stands twice");
        let help = "keep one of them";
        desk.collision(entry.at, Code::Duplicate, message, help, *other);
        false
    };
    let mut entries = entries;
    entries.retain(keep);
    entries
}
