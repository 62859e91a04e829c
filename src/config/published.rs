//! A configuration that is common to all replicas: what of a folder is published, and what a replica
//! makes of it together with its own `[broker]`.

use super::check::{self, CheckReport};
use super::document::Document;
use super::problem::{Code, Desk, Problems};
use super::secrets::{Reference, secret_reference};
use super::settings::{Node, Settings};
use crate::broker::publish::Files;
use std::path::Path;
use time::OffsetDateTime;

/// Shorter values stand in files by chance.
const SHORTEST_SECRET: usize = 8;

impl Document {
    /// The file with `[broker]` in it.
    pub(in crate::config) fn node(&self) -> Node {
        let entry = self.find("broker", "");
        let file = entry.and_then(|entry| self.sources.files().get(entry.at.file));
        Node {
            file: file
                .map(|file| (file.name.clone(), file.text.clone()))
                .unwrap_or_default(),
            base: self.base.clone(),
        }
    }
}

/// What of this folder is published: every file but those that hold `[broker]` alone, and the key sets
/// and certificates that they name.
pub fn publishable(dir: &Path) -> Result<Files, Problems> {
    let document = super::load(dir)?;
    let settings = document.resolve()?;
    let desk = Desk::new(document.sources.clone());
    let mut texts = Vec::new();
    for (number, file) in document.sources.files().iter().enumerate() {
        let mut kinds = document
            .entries
            .iter()
            .filter(|entry| entry.at.file == number);
        let broker = document
            .find("broker", "")
            .filter(|entry| entry.at.file == number);
        if let Some(broker) = broker {
            if kinds.any(|entry| entry.kind != "broker") {
                let message = "this file holds `[broker]`, which is each replica's own, and more";
                let help = "put `[broker]` into a file of its own, which is left out";
                desk.report(broker.at, Code::Unpublishable, message, help);
            }
            continue;
        }
        texts.push((file.name.clone(), file.text.clone()));
    }
    let mut attached = Vec::new();
    for (name, bytes) in settings.read {
        match String::from_utf8(bytes) {
            Ok(text) => attached.push((name, text)),
            Err(_) => {
                let message = format!("`{name}` is no text");
                desk.general(Code::Unpublishable, message, "use JSON or PEM");
            }
        }
    }
    let problems = desk.finish();
    if problems.has_errors() {
        return Err(problems);
    }
    Ok(Files { texts, attached })
}

/// Published files as this replica reads them.
pub fn published(node: &Node, files: &Files) -> Document {
    let mut all = vec![node.file.clone()];
    all.extend(files.texts.iter().cloned());
    let attached = files.attached.iter().cloned().collect();
    Document::sorted(all, node.base.clone(), &[], Some(attached))
}

/// The report of `dayfly check` on published files, policy tests and all.
pub fn check_published(document: &Document, now: OffsetDateTime) -> CheckReport {
    check::report(document, now)
}

/// The name of the first file in which a secret's value stands, of those that this replica can have.
// SECURITY: what is published is read by every replica and lies in the store: references, never values.
pub fn secret_within(settings: &Settings, files: &Files) -> Option<String> {
    let all = || files.texts.iter().chain(&files.attached);
    if let Some((name, _)) = all().find(|(_, text)| text.contains("PRIVATE KEY-----")) {
        return Some(name.clone());
    }
    for reference in &settings.references {
        if matches!(
            Reference::parse(reference),
            Ok(Reference::Command(_)) | Err(_)
        ) {
            continue;
        }
        let Ok(secret) = secret_reference(reference) else {
            continue;
        };
        let value = secret.expose().trim();
        if value.len() < SHORTEST_SECRET {
            continue;
        }
        if let Some((name, _)) = all().find(|(_, text)| text.contains(value)) {
            return Some(name.clone());
        }
    }
    None
}
