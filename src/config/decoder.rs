//! What decoding every table needs: the files, the desk for problems, and key sets by reference.

use super::document::Document;
use super::problem::{Code, Desk};
use super::reader::Reader;
use super::secrets::Reference;
use super::shape::Kind;
use super::source::{At, Place};
use super::tree::{Node, Raw};
use super::values::{self, UrlProblem};
use crate::identity::KeySource;
use crate::jose::KeySet;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(in crate::config) struct Decoder<'a> {
    pub doc: &'a Document,
    pub desk: &'a Desk,
    /// Key sets that were read, for the hash: another key set is another configuration.
    pub read: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Files and variables that `[broker]` names.
    pub own: RefCell<BTreeSet<String>>,
    /// Every reference to a secret.
    pub references: RefCell<BTreeSet<String>>,
    /// Whether issuers on loopback may do without TLS.
    pub allow_loopback: bool,
    /// Whether any listener or proxy says which certificate a client shows.
    pub takes_certificates: bool,
    /// It came through the interface, and names no file of this machine.
    pub is_sent: bool,
    /// Files as they were read before, which are not read again.
    pub kept: Option<&'a BTreeMap<String, Vec<u8>>>,
}

impl<'a> Decoder<'a> {
    pub fn new(doc: &'a Document, desk: &'a Desk) -> Self {
        Self {
            doc,
            desk,
            read: RefCell::default(),
            own: RefCell::default(),
            references: RefCell::default(),
            allow_loopback: true,
            takes_certificates: true,
            is_sent: false,
            kept: None,
        }
    }

    /// Relative paths start at the configuration folder.
    pub fn path(&self, text: &str) -> PathBuf {
        self.doc.base.join(text)
    }

    /// The same for a file of the replica's own, that nothing which is published may name.
    pub fn own_path(&self, text: &str) -> PathBuf {
        let path: PathBuf = self.path(text).components().collect();
        let shown = format!("file:{}", path.display());
        self.own.borrow_mut().insert(shown);
        path
    }

    /// A reference to a secret of the replica's own.
    pub fn own_reference(&self, value: At<String>) -> Option<At<String>> {
        let reference = self.checked(value)?;
        self.own.borrow_mut().insert(reference.value.clone());
        self.references.borrow_mut().insert(reference.value.clone());
        Some(reference)
    }

    /// A secret's reference; `file:` paths made absolute.
    pub fn reference(&self, value: At<String>) -> Option<At<String>> {
        if self.doc.attached.is_some() && !self.may_be_published(&value) {
            return None;
        }
        let reference = self.checked(value)?;
        self.references.borrow_mut().insert(reference.value.clone());
        Some(reference)
    }

    fn may_be_published(&self, value: &At<String>) -> bool {
        let (message, help) = match Reference::parse(&value.value) {
            Ok(Reference::Command(_)) => (
                "a published configuration starts no program",
                "use `env:` or `file:`",
            ),
            Ok(Reference::File(path)) => return self.may_read(path, value.at),
            Ok(Reference::Environment(_)) if self.own.borrow().contains(&value.value) => OWN,
            _ => return true,
        };
        self.desk
            .report(value.at, Code::Unpublishable, message, help);
        false
    }

    /// Whether the configuration may have this file read, at this replica: asked each time that the configuration is.
    ///
    /// SECURITY: whoever publishes is not whoever runs the machines: no program of theirs is started, and of
    /// their files those are read that lie with the configuration. Links are followed: what counts is where it lies.
    pub fn may_read(&self, path: &Path, at: Place) -> bool {
        // Where what was read is kept, nothing is read for it again.
        if self.doc.attached.is_none() || self.kept.is_some() {
            return true;
        }
        let there = real(&self.doc.base.join(path));
        let is_own = |own: &String| {
            let own = own.strip_prefix("file:");
            own.is_some_and(|own| real(Path::new(own)) == there)
        };
        let (message, help) = if !is_below(path) || !there.starts_with(real(&self.doc.base)) {
            (
                "a published configuration names files below the folder of each replica",
                "write a relative path without `..`, to what lies there and is no link out of it",
            )
        } else if self.own.borrow().iter().any(is_own) {
            OWN
        } else {
            return true;
        };
        self.desk.report(at, Code::Unpublishable, message, help);
        false
    }

    fn checked(&self, value: At<String>) -> Option<At<String>> {
        match Reference::parse(&value.value) {
            Ok(Reference::File(path)) => {
                // One spelling of each file: without `./`.
                let path: PathBuf = self.doc.base.join(path).components().collect();
                Some(At::new(value.at, format!("file:{}", path.display())))
            }
            Ok(_) => Some(value),
            Err(error) => {
                // SECURITY: whatever stands there may be the secret itself.
                let help = "put the secret where the reference points; it never stands here";
                self.desk
                    .report_unseen(value.at, Code::BadReference, error.to_string(), help);
                None
            }
        }
    }

    pub fn url(&self, value: At<String>) -> Option<At<String>> {
        let wrong = values::url_problem(&value.value);
        let (code, message, help) = match wrong {
            None => {
                let is_http = value.value.starts_with("http:");
                if !is_http || self.allow_loopback {
                    return Some(value);
                }
                (
                    Code::InsecureUrl,
                    "is not https, and the broker is not a loopback one",
                    "write `https://`",
                )
            }
            Some(UrlProblem::Insecure) => (
                Code::InsecureUrl,
                "is neither https nor on loopback",
                "write `https://`: keys that come over plain http prove nothing",
            ),
            Some(UrlProblem::NotAUrl) => (
                Code::BadValue,
                "is not an absolute https URL",
                "write `https://host/path`",
            ),
            Some(UrlProblem::HasQuery) => (
                Code::BadValue,
                "has a query or a fragment",
                "write the URL without `?` and `#`",
            ),
            Some(UrlProblem::HasUser) => (
                Code::BadValue,
                "has a user or a password in it",
                "write the URL without them",
            ),
        };
        let message = format!("`{}` {message}", value.value);
        self.desk.report(value.at, code, message, help);
        None
    }

    /// `file:keys.json`, an https URL, or the set itself as a table.
    pub fn key_source(&self, reader: &Reader<'_>, key: &'static str) -> Option<KeySource> {
        let node = reader.node_as(key, Kind::Keys)?;
        if let Raw::Text(text) = &node.raw
            && text.starts_with("http")
        {
            let url = self.url(At::new(node.at, text.clone()))?;
            return Some(KeySource::JwksUrl(url.value));
        }
        self.keys_of(reader, node, key).map(KeySource::Fixed)
    }

    /// Keys that are registered here: `file:keys.json`, or the set itself as a table.
    pub fn key_set(&self, reader: &Reader<'_>, key: &'static str) -> Option<KeySet> {
        self.keys_of(reader, reader.node_as(key, Kind::Keys)?, key)
    }

    fn keys_of(&self, reader: &Reader<'_>, node: &Node, key: &str) -> Option<KeySet> {
        let bytes = match &node.raw {
            Raw::Text(text) => self.key_file(text, node.at)?,
            Raw::Table(_) => node.json().to_string().into_bytes(),
            _ => return reader.wrong(node, key, "`\"file:keys.json\"` or `{ keys = [...] }`"),
        };
        let help = "a JWK set with public signing keys only: {\"keys\": [...]}";
        let set = match KeySet::parse(&bytes) {
            Ok(set) => set,
            Err(error) => {
                self.desk
                    .report_unseen(node.at, Code::BadKeys, error.to_string(), help);
                return None;
            }
        };
        if set.keys().is_empty() {
            let message = format!(
                "the key set of `{}` holds no key that can be used",
                reader.name
            );
            self.desk.report(node.at, Code::BadKeys, message, help);
            return None;
        }
        Some(set)
    }

    /// PEM certificates: `file:ca.pem`, or themselves.
    pub fn certificates(&self, value: At<String>) -> Option<Vec<u8>> {
        self.pem(value).map(|(pem, _)| pem)
    }

    /// The same in DER, each by itself.
    pub fn certificate_list(&self, value: At<String>) -> Option<Vec<Vec<u8>>> {
        self.pem(value).map(|(_, list)| list)
    }

    fn pem(&self, value: At<String>) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let pem = if value.value.starts_with("-----BEGIN ") {
            value.value.clone().into_bytes()
        } else {
            self.key_file(&value.value, value.at)?
        };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        if let Some(list) = found.ok().filter(|list| !list.is_empty()) {
            let list = list.into_iter().map(|der| der.to_vec()).collect();
            return Some((pem, list));
        }
        let message = format!("`{}` holds no PEM certificate", value.value);
        let help = "a file with `-----BEGIN CERTIFICATE-----`";
        self.desk.report(value.at, Code::BadKeys, message, help);
        None
    }

    fn key_file(&self, text: &str, at: Place) -> Option<Vec<u8>> {
        // SECURITY: whoever registers an agent reads nothing of the machines.
        if self.is_sent {
            let message = "whoever is registered through the interface brings its keys along";
            let help = "send the key set itself";
            self.desk
                .report_unseen(at, Code::BadReference, message, help);
            return None;
        }
        let Ok(Reference::File(path)) = Reference::parse(text) else {
            let message = format!("`{text}` does not name a key set");
            let help = "write `file:keys.json` (relative to the configuration folder)";
            self.desk.report(at, Code::BadKeys, message, help);
            return None;
        };
        let full = self.path(&path.to_string_lossy());
        let name = path.to_string_lossy().into_owned();
        let kept = self.kept.and_then(|kept| kept.get(&name));
        let read = match &self.doc.attached {
            _ if kept.is_some() => Ok(kept.cloned().unwrap_or_default()),
            None => read_bounded(&full).map_err(|error| error.to_string()),
            Some(attached) => match attached.get(&name) {
                Some(text) => Ok(text.clone().into_bytes()),
                None => Err("it was not published with the configuration".to_owned()),
            },
        };
        match read {
            Ok(bytes) => {
                self.read.borrow_mut().insert(name, bytes.clone());
                Some(bytes)
            }
            Err(error) => {
                let message = format!("`{}` cannot be read: {error}", full.display());
                let help = "the path is relative to the configuration folder";
                self.desk.report(at, Code::BadKeys, message, help);
                None
            }
        }
    }
}

const OWN: (&str, &str) = (
    "this is a file or a secret of `[broker]`, and each replica's own",
    "name another one",
);

/// Where it lies, links and all; of what is not there, as much as there is.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => real(parent).join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
    }
}

fn is_below(path: &Path) -> bool {
    use std::path::Component;
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(256 * 1024)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
