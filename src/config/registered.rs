//! Agents that are registered through the interface: each is read as if one more file had its table, by the
//! same decoders, and stands beside the files, or does not.
//!
//! The files win: a definition that contradicts them is told so and gets nothing. It names no file and no
//! secret, nobody who could vouch that the files do not name, and no mission that does not let it join.

use super::agents_table::{self, Targets, Vouchers};
use super::decoder::Decoder;
use super::document::{Document, Entry};
use super::issuers::Issuers;
use super::problem::{Code, Desk, Problem, Severity};
use super::settings::Settings;
use super::source::{Place, Source, Sources};
use super::tree::Table;
use super::trust_domains::TrustDomains;
use super::whole::apart;
use crate::agents::registered::{Definition, MOST_IDENTITIES};
use crate::agents::{Agent, IdentityMatch, Registry};
use crate::identity::claims;
use crate::ids::{AgentId, MissionId};
use crate::policy::spoken_of;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// These settings with registered agents among them.
#[derive(Debug)]
pub struct Joined {
    pub settings: Settings,
    /// Whose definition does not stand, and why.
    pub problems: BTreeMap<AgentId, Vec<Problem>>,
}

impl Settings {
    /// In the order in which they came, so that every replica lets the same one of two that contradict each
    /// other stand. `Err`: the files cannot be read again just now.
    pub fn joined(&self, definitions: &[(AgentId, Definition)]) -> Result<Joined, String> {
        let mut joined = Joined {
            settings: self.clone(),
            problems: BTreeMap::new(),
        };
        let Some(document) = &self.document else {
            return Err("no mission says `allow_registered = true`".to_owned());
        };
        let sources = document.beside(definitions);
        let files = document.sources.files().len();
        let mut beside = Beside::read(document, self)?;
        for (number, (id, definition)) in definitions.iter().enumerate() {
            let desk = Desk::new(sources.clone());
            let at = Place {
                file: files + number,
                start: 0,
                end: 0,
            };
            let read = beside.one(&desk, (id, definition, at), &joined.settings);
            let problems = desk.finish().0;
            let is_error = |problem: &Problem| problem.severity == Severity::Error;
            match read {
                Some(read) if !problems.iter().any(is_error) => joined.settings.join(read),
                _ => {
                    joined.problems.insert(id.clone(), problems);
                }
            }
        }
        Ok(joined)
    }

    fn join(&mut self, (decoded, missions): (agents_table::Decoded, Vec<MissionId>)) {
        for mission in &mut self.missions {
            if missions.contains(&mission.id) {
                mission.agents.push(decoded.agent.id.clone());
            }
        }
        self.clients.extend(decoded.client);
        self.agents.push(decoded.agent);
    }
}

impl Document {
    /// The files, and each definition as a source of its own behind them.
    fn beside(&self, definitions: &[(AgentId, Definition)]) -> Sources {
        let more = definitions.iter().map(|(id, definition)| Source {
            name: format!("registered:{id}"),
            text: serde_json::to_string(definition).unwrap_or_default(),
        });
        Sources::new(self.sources.files().iter().cloned().chain(more).collect())
    }
}

/// What of the files a definition is read with.
struct Beside<'a> {
    document: &'a Document,
    files: &'a Settings,
    targets: Targets,
    issuers: Issuers,
    trust_domains: TrustDomains,
    /// Names that policies speak of.
    spoken_of: BTreeSet<String>,
}

impl<'a> Beside<'a> {
    fn read(document: &'a Document, files: &'a Settings) -> Result<Self, String> {
        let desk = Desk::new(document.sources.clone());
        let mut decoder = Decoder::new(document, &desk);
        let url = &files.broker.url;
        decoder.allow_loopback = url.starts_with("http:");
        decoder.kept = Some(&files.read);
        let beside = Self {
            document,
            files,
            targets: document.targets(&decoder, files.broker.fence_view_max_age),
            issuers: Issuers::decode(&decoder, url),
            trust_domains: TrustDomains::decode(&decoder, url),
            spoken_of: spoken_of(&files.missions, &files.forbids)
                .map_err(|error| error.to_string())?,
        };
        drop(decoder);
        let problems = desk.finish();
        if problems.has_errors() {
            return Err(problems.to_string());
        }
        Ok(beside)
    }

    fn one(
        &mut self,
        desk: &Desk,
        (id, definition, at): (&AgentId, &Definition, Place),
        before: &Settings,
    ) -> Option<(agents_table::Decoded, Vec<MissionId>)> {
        if let Some(own) = self.document.find("agent", id.as_str()) {
            let message = format!("`agent.{id}` is in the files");
            let help = "register it under another name";
            desk.collision(at, Code::Duplicate, message, help, own.at);
            return None;
        }
        self.unspoken(desk, id, at);
        let mut decoder = Decoder::new(self.document, desk);
        decoder.is_sent = true;
        let mut entry = Entry {
            kind: "agent",
            name: id.to_string(),
            at,
            table: Table::of(definition, at),
        };
        if has_null(&Value::Object(definition.clone())) {
            desk.report(
                at,
                Code::BadValue,
                "`null` is no value",
                "leave the key out",
            );
        }
        let missions = self.missions(desk, &mut entry);
        // SECURITY: policies and missions go by labels, and whoever registers would choose them.
        if entry.table.get("labels").is_some() {
            let help = "remove them: labels are for the files to give";
            desk.report(
                at,
                Code::UnknownKey,
                "a registered agent has no `labels`",
                help,
            );
        }
        let vouchers = &mut Vouchers {
            issuers: &mut self.issuers,
            trust_domains: &self.trust_domains,
            broker_url: &self.files.broker.url,
        };
        let decoded = agents_table::decode(&decoder, &entry, vouchers, &self.targets)?;
        // SECURITY: an enrolled key is kept under the agent's name, and a namesake's would be as good.
        let enrols = decoded.client.as_ref().is_some_and(|client| client.enrol);
        if enrols || !decoded.certificates.is_empty() {
            let message =
                "a registered agent proves itself by keys that stand here, or by its platform";
            let help = "write `identity = { client = { keys = { keys = [...] } } }`";
            desk.report(at, Code::BadValue, message, help);
        }
        if decoded.agent.identities.len() > MOST_IDENTITIES {
            let message = format!("it has more than {MOST_IDENTITIES} identities");
            let help = "register more than one agent";
            desk.report(at, Code::BadValue, message, help);
            return None;
        }
        self.vouched(desk, &decoded);
        alone(desk, &decoded, before);
        if let Err(error) = Registry::new(vec![decoded.agent.clone()]) {
            desk.report(at, Code::BadValue, error.to_string(), "");
        }
        Some((decoded, missions))
    }

    /// SECURITY: a policy may make an exception for somebody, who need not be there any more.
    fn unspoken(&self, desk: &Desk, id: &AgentId, at: Place) {
        if self.spoken_of.contains(id.as_str()) {
            let message = format!("`{id}` stands in a policy or in the `when` of a mission");
            let help = "register it under another name: what stands there is not about this one";
            desk.report(at, Code::BadName, message, help);
        }
    }

    /// Those that it joins.
    fn missions(&self, desk: &Desk, entry: &mut Entry) -> Vec<MissionId> {
        let reader = entry.reader(desk);
        let names = reader.required("missions", reader.texts("missions"), "[\"NAME\"]");
        let mut joined = Vec::new();
        for name in names.unwrap_or_default() {
            let mut all = self.files.missions.iter();
            let mission = all.find(|mission| mission.id.as_str() == name.value);
            match mission.filter(|mission| mission.allow_registered) {
                Some(mission) => joined.push(mission.id.clone()),
                None => {
                    let message = format!("no registered agent joins mission `{}`", name.value);
                    let help = "name missions that say `allow_registered = true`";
                    desk.report(name.at, Code::UnknownMission, message, help);
                }
            }
        }
        let is_other = |(key, _): &(super::source::At<String>, _)| key.value != "missions";
        entry.table.entries.retain(is_other);
        joined
    }

    /// SECURITY: who may vouch is for the files to say: a platform that no file names would bring its whole
    /// world of tokens in.
    fn vouched(&self, desk: &Desk, decoded: &agents_table::Decoded) {
        for identity in &decoded.agent.identities {
            let named = &identity.issuer;
            let mut issuers = self.files.issuers.iter().map(|issuer| &issuer.id);
            let mut domains = self.files.trust_domains.iter().map(|domain| &domain.id);
            if !issuers.any(|id| id == named) && !domains.any(|id| id == named) {
                let message = format!("no file names the issuer `{named}`");
                let help = format!("add `[issuer.{named}]` to a file");
                desk.report(decoded.at, Code::UnknownIssuer, message, &help);
            }
            self.accepted(desk, identity, decoded.at);
        }
    }

    /// SECURITY: what an issuer refuses unless an identity names it, the files alone name.
    fn accepted(&self, desk: &Desk, identity: &IdentityMatch, at: Place) {
        let mut issuers = self.files.issuers.iter();
        let issuer = issuers.find(|issuer| issuer.id == identity.issuer);
        for (claim, value) in &identity.claims {
            let refused = issuer.and_then(|issuer| issuer.refused.get(claim));
            let is_it = |refused: &Value| claims::same(refused, value);
            if refused.into_iter().flatten().any(is_it) {
                let message = format!("the issuer refuses this value of `{claim}`");
                let help = "name it in a file: no registered agent is let in by it";
                desk.report(at, Code::BadValue, message, help);
            }
        }
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

/// Whoever fits two agents is neither, and the other one was there first.
///
/// SECURITY: it is not enough that no identity includes the other: a proof that has what both ask for would
/// lock the other one out.
fn alone(desk: &Desk, decoded: &agents_table::Decoded, before: &Settings) {
    let fits = |other: &&Agent| {
        let own = decoded.agent.identities.iter();
        own.clone().any(|own| {
            let mut others = other.identities.iter();
            others.any(|other| !apart(own, other))
        })
    };
    if let Some(other) = before.agents.iter().find(fits) {
        let message = format!(
            "a proof that fits this agent may fit `agent.{}`, too",
            other.id
        );
        let help = "name the subject or a claim that the other one names, with another value";
        desk.report(decoded.at, Code::SameIdentity, message, help);
    }
}

#[cfg(test)]
mod tests;
