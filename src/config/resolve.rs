//! From tables to domain values, and what only shows when all of them are there.

use super::agents_table::{self, Targets, Vouchers};
use super::broker_table::{self, FENCE_VIEW_MAX_AGE};
use super::decoder::Decoder;
use super::document::{Document, Entry};
use super::issuers::Issuers;
use super::people::People;
use super::problem::{Code, Desk, Problems};
use super::settings::{BrokerSettings, Case, OperatorsTable, Settings, SourceTable};
use super::source::Place;
use super::tree::{Node, Raw};
use super::trust_domains::TrustDomains;
use super::whole::Whole;
use super::{missions, responses, signers, sources, tables, targets};
use crate::agents::Registry;
use crate::identity::IssuerSettings;
use crate::intent;
use crate::policy::Mission;
use std::sync::Arc;
use std::time::Duration;
use time::{Date, OffsetDateTime};

impl Document {
    /// The domain values, or everything that is wrong.
    pub fn resolve(&self) -> Result<Settings, Problems> {
        self.resolve_at(None)
    }

    /// Like `resolve`, and warns of what has ended by `now`.
    pub(in crate::config) fn resolve_at(
        &self,
        now: Option<OffsetDateTime>,
    ) -> Result<Settings, Problems> {
        let desk = Desk::new(self.sources.clone());
        let settings = self.settings(&desk, now.map(|now| now.to_utc().date()));
        let mut problems = self.early.clone();
        problems.0.extend(desk.finish().0);
        problems.sort();
        if let (Some(mut settings), false) = (settings, problems.has_errors()) {
            settings.warnings = problems;
            return Ok(settings);
        }
        Err(problems)
    }

    pub(in crate::config) fn settings(&self, desk: &Desk, today: Option<Date>) -> Option<Settings> {
        let mut decoder = Decoder::new(self, desk);
        let (broker, url) = self.broker(&mut decoder);
        let age = broker.as_ref().map(|broker| broker.fence_view_max_age);
        let age = age.unwrap_or(FENCE_VIEW_MAX_AGE);
        let mut issuers = Issuers::decode(&decoder, &url);
        let trust_domains = TrustDomains::decode(&decoder, &url);
        let targets = self.targets(&decoder, age);
        let vouchers = Vouchers {
            issuers: &mut issuers,
            trust_domains: &trust_domains,
            broker_url: &url,
        };
        let agents = agents_table::decode_all(&decoder, vouchers, &targets);
        let people = People::decode(&decoder, &mut issuers, &targets, &url);
        let missions = self.each("mission", |entry| {
            missions::decode(&decoder, entry, &targets, &people)
        });
        let (intent_issuers, witnesses) = signers::decode_all(&decoder);
        let resource_servers =
            self.each("resource_server", |e| tables::resource_server(&decoder, e));
        let operators = self
            .find("operators", "")
            .and_then(|entry| tables::operators(&decoder, entry));
        let sources = self.each("source", |e| {
            sources::source(&decoder, e, &mut issuers, &witnesses, &url)
        });
        let sources = sources
            .into_iter()
            .chain(witnesses.iter().filter_map(SourceTable::telling));
        let sources = sources.collect();
        let (notify, responses) = responses::decode_all(&decoder, &targets);
        let cases = self.cases(&decoder, &targets);
        let issuers = issuers.finish(&decoder);
        let whole = Whole {
            desk,
            issuers: &issuers,
            witnesses: &witnesses,
            intent_issuers: &intent_issuers,
            agents: &agents,
            missions: &missions,
            targets: &targets,
            has_operators: operators.is_some(),
        };
        whole.check(today);
        self.apart(desk, operators.as_ref(), &issuers);
        signers::apart(&decoder, &witnesses, &issuers);
        let (hash, decides) = (self.hash(&decoder), self.decides(&decoder));
        let clients = agents.iter().filter_map(|a| a.client.clone()).collect();
        let settings = Settings {
            broker: broker?,
            issuers,
            trust_domains: trust_domains.finish(),
            clients,
            certificates: agents.iter().flat_map(|a| a.certificates.clone()).collect(),
            intent_issuers,
            witnesses,
            agents: agents.into_iter().map(|decoded| decoded.agent).collect(),
            missions: missions.iter().map(|d| d.mission.clone()).collect(),
            targets: targets
                .into_values()
                .flatten()
                .map(|decoded| (decoded.target, decoded.connector))
                .collect(),
            forbids: self.forbids(),
            resource_servers,
            operators,
            sources,
            notify,
            responses,
            cases,
            hash,
            decides,
            warnings: Problems::default(),
            node: self.node(),
            references: decoder.references.take(),
            read: decoder.read.take(),
            document: self.joinable(&missions),
        };
        self.compile(desk, &settings, &missions);
        Some(settings)
    }

    /// What registered agents are read beside.
    fn joinable(&self, missions: &[missions::Decoded]) -> Option<Arc<Self>> {
        let mut all = missions.iter();
        let joins = all.any(|decoded| decoded.mission.allow_registered);
        joins.then(|| Arc::new(self.clone()))
    }

    pub(in crate::config) fn targets(
        &self,
        decoder: &Decoder<'_>,
        fence_view_max_age: Duration,
    ) -> Targets {
        self.of("target")
            .map(|entry| {
                (
                    entry.name.clone(),
                    targets::decode(decoder, entry, fence_view_max_age),
                )
            })
            .collect()
    }

    fn cases(&self, decoder: &Decoder<'_>, targets: &Targets) -> Vec<Case> {
        self.of("case")
            .enumerate()
            .filter_map(|(number, entry)| tables::case(decoder, entry, number + 1, targets))
            .collect()
    }

    fn each<T>(&self, kind: &'static str, decode: impl FnMut(&Entry) -> Option<T>) -> Vec<T> {
        self.of(kind).filter_map(decode).collect()
    }

    fn forbids(&self) -> Vec<(String, String)> {
        self.policies
            .iter()
            .map(|file| (file.name.clone(), file.text.clone()))
            .collect()
    }

    // SECURITY: one token must not open the doors of operators and those of agents.
    fn apart(&self, desk: &Desk, operators: Option<&OperatorsTable>, issuers: &[IssuerSettings]) {
        let (Some(table), Some(entry)) = (operators, self.find("operators", "")) else {
            return;
        };
        let audiences = &table.issuer.audiences;
        let shared = |issuer: &&IssuerSettings| {
            issuer.url == table.issuer.url
                && issuer
                    .audiences
                    .iter()
                    .any(|audience| audiences.contains(audience))
        };
        if let Some(issuer) = issuers.iter().find(shared) {
            let message = format!(
                "operators and the workloads of `issuer.{}` have one issuer and one audience",
                issuer.id
            );
            let help = "give operators an `audience` of their own";
            desk.report(entry.at, Code::OperatorsAreWorkloads, message, help);
        }
    }

    fn broker(&self, decoder: &mut Decoder<'_>) -> (Option<BrokerSettings>, String) {
        let fallback = "https://broker.invalid".to_owned();
        let Some(entry) = self.find("broker", "") else {
            let help = "add `[broker]` with `url`, `store` and `keys`";
            decoder
                .desk
                .general(Code::Incomplete, "there is no table `[broker]`", help);
            return (None, fallback);
        };
        let reader = entry.reader(decoder.desk);
        let url = broker_table::url(&reader, decoder);
        decoder.allow_loopback = url.as_ref().is_none_or(|url| url.starts_with("http:"));
        let known = url.clone().unwrap_or(fallback);
        let broker = broker_table::decode(&reader, decoder, known.clone());
        reader.finish();
        let takes = broker.as_ref().map(BrokerSettings::takes_certificates);
        decoder.takes_certificates = takes.unwrap_or(true);
        (broker.filter(|_| url.is_some()), known)
    }

    /// The real compiler has the last word on conditions and policies.
    fn compile(&self, desk: &Desk, settings: &Settings, missions: &[missions::Decoded]) {
        let made = settings.policy();
        // Whatever the rooms themselves refuse, `check` has to say.
        if let Err(error) = Registry::new(settings.agents.clone()) {
            desk.general(Code::BadValue, error.to_string(), "");
        }
        if let Err(error) = intent::check(&settings.intent_issuers, &settings.witnesses) {
            desk.general(Code::BadValue, error.to_string(), "");
        }
        // What follows from a problem that was reported is noise; conditions and policies are only
        // compiled here.
        let is_torn = self.early.has_errors() || desk.has_errors();
        for error in made.err().unwrap_or_default() {
            let whole_mission = missions.iter().any(|decoded| {
                let Mission {
                    id,
                    agents,
                    allow,
                    when,
                    ..
                } = &decoded.mission;
                let is_whole = when.is_some() && !agents.is_empty() && !allow.is_empty();
                is_whole && error.place == format!("mission.{id}.when")
            });
            let is_cedar = whole_mission || error.place.starts_with("policies/");
            if is_torn && !is_cedar {
                continue;
            }
            let message = format!("`{}`: {}", error.place, error.problem);
            match self.place_of(&error.place, missions) {
                Some(at) => desk.report(at, Code::BadPolicy, message, ""),
                None => desk.general(Code::BadPolicy, message, ""),
            }
        }
    }

    /// `mission.NAME.when`, `policies/NAME.cedar`.
    fn place_of(&self, place: &str, missions: &[missions::Decoded]) -> Option<Place> {
        let named = |prefix: &str, name: &str| {
            place
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if let Some(mission) = missions
            .iter()
            .find(|decoded| named("mission.", decoded.mission.id.as_str()))
        {
            let is_condition = place.ends_with(".when");
            let when = is_condition.then_some(mission.when_at);
            return Some(when.unwrap_or(mission.at));
        }
        if let Some(entry) = self.of("target").find(|e| named("target.", &e.name)) {
            return Some(entry.at);
        }
        let files = self.sources.files();
        let file = files
            .iter()
            .position(|file| place.starts_with(&file.name))?;
        Some(Place {
            file,
            start: 0,
            end: 0,
        })
    }

    // INVARIANT: whatever can change a decision is in the hash, each part with its length before it.
    fn hash(&self, decoder: &Decoder<'_>) -> String {
        let mut parts = Vec::new();
        let mut add = |bytes: &[u8]| parts.push(bytes.to_vec());
        // What is published is the same for all: the first file is the replica's own.
        let own = usize::from(self.attached.is_some());
        let mut files: Vec<_> = self.sources.files().iter().skip(own).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        for file in files {
            add(file.name.as_bytes());
            add(file.text.as_bytes());
        }
        for (name, bytes) in decoder.read.borrow().iter() {
            add(name.as_bytes());
            add(bytes);
        }
        hash_of(&parts)
    }

    /// The tables as they were read, in no file's order, with what is beside them.
    fn decides(&self, decoder: &Decoder<'_>) -> String {
        let tables = self.entries.iter().filter(|entry| entry.kind != "broker");
        let mut parts: Vec<Vec<u8>> = tables
            .map(|entry| format!("{} {} {}", entry.kind, entry.name, json(entry)).into_bytes())
            .chain(
                self.policies
                    .iter()
                    .map(|policy| policy.text.clone().into_bytes()),
            )
            .chain(decoder.read.borrow().values().cloned())
            .collect();
        parts.sort();
        hash_of(&parts)
    }
}

fn json(entry: &Entry) -> serde_json::Value {
    let raw = Raw::Table(entry.table.clone());
    let at = entry.at;
    Node { at, raw }.json()
}

fn hash_of(parts: &[Vec<u8>]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
