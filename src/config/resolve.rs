//! From tables to domain values, and what only shows when all of them are there.

use super::agents_table::{self, Targets};
use super::decoder::Decoder;
use super::document::Document;
use super::issuers::Issuers;
use super::problem::{Code, Desk, Problems};
use super::settings::{BrokerSettings, OperatorsTable, Settings};
use super::source::Place;
use super::{broker_table, missions, tables, targets};
use crate::agents::{IdentityMatch, Registry};
use crate::authority::{Authority, Permission, Vocabulary};
use crate::identity::IssuerSettings;
use crate::intent::{Intents, SignerClass};
use crate::policy::Mission;
use std::collections::BTreeMap;
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

    fn settings(&self, desk: &Desk, today: Option<Date>) -> Option<Settings> {
        let mut decoder = Decoder {
            doc: self,
            desk,
            read: std::cell::RefCell::default(),
            allow_loopback: true,
        };
        let (broker, url) = self.broker(&mut decoder);
        let age = broker
            .as_ref()
            .map_or(Duration::from_secs(1), |broker| broker.fence_view_max_age);
        let mut issuers = Issuers::decode(&decoder, &url);
        let targets: Targets = self
            .of("target")
            .map(|entry| (entry.name.clone(), targets::decode(&decoder, entry, age)))
            .collect();
        let agents: Vec<_> = self
            .of("agent")
            .filter_map(|entry| agents_table::decode(&decoder, entry, &mut issuers, &targets, &url))
            .collect();
        let missions: Vec<_> = self
            .of("mission")
            .filter_map(|entry| missions::decode(&decoder, entry, &targets))
            .collect();
        let intent_issuers = self
            .of("intent_issuer")
            .filter_map(|entry| tables::intent_issuer(&decoder, entry))
            .collect();
        let resource_servers = self
            .of("resource_server")
            .filter_map(|entry| tables::resource_server(&decoder, entry))
            .collect();
        let operators = self
            .find("operators", "")
            .and_then(|entry| tables::operators(&decoder, entry));
        let sources = self
            .of("source")
            .filter_map(|entry| tables::source(&decoder, entry, &mut issuers, &url))
            .collect();
        let cases = self
            .of("case")
            .enumerate()
            .filter_map(|(number, entry)| tables::case(&decoder, entry, number + 1, &targets))
            .collect();
        let whole = Whole {
            desk,
            agents: &agents,
            missions: &missions,
            targets: &targets,
        };
        whole.check(today);
        let issuers = issuers.finish(&decoder);
        self.apart(desk, operators.as_ref(), &issuers);
        let hash = self.hash(&decoder);
        let clients = agents.iter().filter_map(|a| a.client.clone()).collect();
        let settings = Settings {
            broker: broker?,
            issuers,
            clients,
            intent_issuers,
            agents: agents.into_iter().map(|decoded| decoded.agent).collect(),
            missions: missions.iter().map(|d| d.mission.clone()).collect(),
            targets: targets
                .into_values()
                .flatten()
                .map(|decoded| (decoded.target, decoded.connector))
                .collect(),
            forbids: self
                .policies
                .iter()
                .map(|file| (file.name.clone(), file.text.clone()))
                .collect(),
            resource_servers,
            operators,
            sources,
            cases,
            hash,
            warnings: Problems::default(),
        };
        self.compile(desk, &settings, &missions);
        Some(settings)
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
        (broker.filter(|_| url.is_some()), known)
    }

    /// The real compiler has the last word on conditions and policies.
    fn compile(&self, desk: &Desk, settings: &Settings, missions: &[missions::Decoded]) {
        let made = settings.policy();
        // Whatever the rooms themselves refuse, `check` has to say.
        if let Err(error) = Registry::new(settings.agents.clone()) {
            desk.general(Code::BadValue, error.to_string(), "");
        }
        let url = settings.broker.url.clone();
        if let Err(error) = Intents::new(url, settings.intent_issuers.clone()) {
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
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        let mut files: Vec<_> = self.sources.files().iter().collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        for file in files {
            add(file.name.as_bytes());
            add(file.text.as_bytes());
        }
        for (name, bytes) in decoder.read.borrow().iter() {
            add(name.as_bytes());
            add(bytes);
        }
        let digest = context.finish();
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Everything together, for what one table cannot know.
struct Whole<'a> {
    desk: &'a Desk,
    agents: &'a [agents_table::Decoded],
    missions: &'a [missions::Decoded],
    targets: &'a Targets,
}

impl Whole<'_> {
    fn check(&self, today: Option<Date>) {
        self.ceilings();
        self.platform_signers();
        self.same_identity();
        self.without_mission();
        if let Some(today) = today {
            self.ended(today);
        }
    }

    fn ceilings(&self) {
        for decoded in self.missions {
            for (id, permissions) in &decoded.allowed {
                let Some(Some(target)) = self.targets.get(id.as_str()) else {
                    continue;
                };
                for (at, permission) in permissions {
                    let asked = Authority(vec![permission.clone()]);
                    let vocabulary = target.target.vocabulary;
                    match vocabulary.covers(&target.target.ceiling, &asked) {
                        Ok(true) => self.agent_ceilings(decoded, target, *at, &asked),
                        Ok(false) => self.desk.collision(
                            *at,
                            Code::WiderThanTarget,
                            format!(
                                "{} is more than the ceiling of `target.{id}` allows",
                                first_outside(vocabulary, &target.target.ceiling, permission)
                            ),
                            "ask for less here, or have the target's owner raise its ceiling",
                            target.at,
                        ),
                        // Reported where it stands.
                        Err(_) => {}
                    }
                }
            }
        }
    }

    fn agent_ceilings(
        &self,
        mission: &missions::Decoded,
        target: &targets::Decoded,
        at: Place,
        asked: &Authority,
    ) {
        let admitted = self
            .agents
            .iter()
            .filter(|decoded| mission.mission.agents.contains(&decoded.agent.id));
        for decoded in admitted {
            let Some(ceiling) = &decoded.agent.ceiling else {
                continue;
            };
            let own = ceiling.get(&target.target.id).cloned().unwrap_or_default();
            if target.target.vocabulary.covers(&own, asked) == Ok(false) {
                let id = &decoded.agent.id;
                let message = format!("this is more than the ceiling of `agent.{id}` allows");
                let help = "the agent gets what both allow";
                self.desk
                    .collision(at, Code::WiderThanAgent, message, help, decoded.at);
            }
        }
    }

    /// A platform's token is a reusable bearer: the number of leases is bounded by hand, and
    /// production says so itself.
    fn platform_signers(&self) {
        for decoded in self.missions {
            let mission = &decoded.mission;
            if mission.signer != SignerClass::Platform {
                continue;
            }
            let at = decoded.signer_at;
            if mission.max_active.is_none() {
                let message = format!("`mission.{}` has no `max_active`", mission.id);
                let help = "add `max_active = 3`: a platform's token can be sent again and again";
                self.desk.report(at, Code::PlatformSigner, message, help);
            }
            for target in missions::known(&decoded.allowed, self.targets) {
                let label = target.labels.get("env").map(String::as_str);
                if matches!(label, Some("prod" | "production")) && !target.allow_platform_signer {
                    let id = &target.id;
                    let message = format!("`target.{id}` is production and wants a signed intent");
                    let help = "use `signer = \"agent\"`, or have the target's owner write \
                                `allow_platform_signer = true`";
                    self.desk.report(at, Code::PlatformSigner, message, help);
                }
            }
        }
    }

    /// Two agents that one proof fits: neither would be found.
    fn same_identity(&self) {
        let mut seen: Vec<(&IdentityMatch, &agents_table::Decoded)> = Vec::new();
        for decoded in self.agents {
            for identity in &decoded.agent.identities {
                let other = seen.iter().find(|(known, owner)| {
                    owner.agent.id != decoded.agent.id
                        && (includes(known, identity) || includes(identity, known))
                });
                if let Some((_, other)) = other {
                    let message = format!(
                        "a proof that fits `agent.{}` fits `agent.{}`, too",
                        decoded.agent.id, other.agent.id
                    );
                    let help = "name another claim in one of them: whoever fits two agents is none";
                    self.desk
                        .collision(decoded.at, Code::SameIdentity, message, help, other.at);
                }
                seen.push((identity, decoded));
            }
        }
    }

    fn without_mission(&self) {
        // A mission that has problems may be the one that admits it.
        if self.desk.has_errors() {
            return;
        }
        for decoded in self.agents {
            let id = &decoded.agent.id;
            if !self.missions.iter().any(|m| m.mission.agents.contains(id)) {
                let message = format!("no mission admits `agent.{id}`: it gets nothing");
                let help = "add it to `agents` of a mission, or remove it";
                self.desk.report(decoded.at, Code::NoMission, message, help);
            }
        }
    }

    fn ended(&self, today: Date) {
        let agents = self.agents.iter().map(|d| {
            (
                "agent",
                d.agent.id.to_string(),
                Some(d.agent.ends),
                Some(d.ends_at),
            )
        });
        let missions = self.missions.iter().map(|d| {
            (
                "mission",
                d.mission.id.to_string(),
                d.mission.ends,
                d.ends_at,
            )
        });
        let mut said: BTreeMap<String, ()> = BTreeMap::new();
        for (kind, id, ends, at) in agents.chain(missions) {
            if let (Some(ends), Some(at)) = (ends, at)
                && ends < today
                && said.insert(format!("{kind}.{id}"), ()).is_none()
            {
                let message = format!("`{kind}.{id}` ended on {ends}");
                let help = "remove it, or set a later day after a review";
                self.desk.report(at, Code::Ended, message, help);
            }
        }
    }
}

/// One action on one location that the ceiling does not cover, for the message.
fn first_outside(vocabulary: Vocabulary, ceiling: &Authority, asked: &Permission) -> String {
    let pair = |action: &String, location: Option<&String>| Permission {
        actions: vec![action.clone()],
        locations: location.cloned().into_iter().collect(),
    };
    let locations: Vec<_> = match asked.locations.as_slice() {
        [] => vec![None],
        some => some.iter().map(Some).collect(),
    };
    asked
        .actions
        .iter()
        .flat_map(|action| locations.iter().map(move |location| (action, *location)))
        .find(|(action, location)| {
            let one = Authority(vec![pair(action, *location)]);
            vocabulary.covers(ceiling, &one) == Ok(false)
        })
        .map_or_else(
            || "this".to_owned(),
            |(action, location)| match location {
                Some(location) => format!("`{action}` on `{location}`"),
                None => format!("`{action}`"),
            },
        )
}

/// Whether every proof that fits `narrow` fits `wide`, too.
fn includes(wide: &IdentityMatch, narrow: &IdentityMatch) -> bool {
    wide.issuer == narrow.issuer
        && (wide.subject.is_none() || wide.subject == narrow.subject)
        && wide
            .claims
            .iter()
            .all(|(claim, value)| narrow.claims.get(claim) == Some(value))
}
