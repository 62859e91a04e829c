//! What only shows when all tables are there: ceilings that leave less than a mission says, agents
//! that get nothing, proofs that fit two agents.

use super::agents_table::{self, Targets};
use super::problem::{Code, Desk};
use super::source::Place;
use super::{missions, targets};
use crate::agents::IdentityMatch;
use crate::authority::{Authority, Permission, Vocabulary};
use crate::identity::{IssuerSettings, claims};
use crate::intent::{IntentIssuer, SignerClass, Witness};
use std::collections::BTreeMap;
use time::Date;

/// Everything together, for what one table cannot know.
pub(in crate::config) struct Whole<'a> {
    pub desk: &'a Desk,
    pub agents: &'a [agents_table::Decoded],
    pub missions: &'a [missions::Decoded],
    pub targets: &'a Targets,
    pub issuers: &'a [IssuerSettings],
    pub witnesses: &'a [Witness],
    pub intent_issuers: &'a [IntentIssuer],
    pub has_operators: bool,
}

impl Whole<'_> {
    pub fn check(&self, today: Option<Date>) {
        self.ceilings();
        self.platform_signers();
        self.same_identity();
        self.without_mission();
        self.reach(today);
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
            let vocabulary = target.target.vocabulary;
            // Where nothing is left, that is what is told.
            let left = vocabulary.overlap(&own, asked) != Ok(false);
            if left && vocabulary.covers(&own, asked) == Ok(false) {
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
///
/// SECURITY: values are compared as they are when somebody is looked for, where 7 is "7".
pub(in crate::config) fn includes(wide: &IdentityMatch, narrow: &IdentityMatch) -> bool {
    wide.issuer == narrow.issuer
        && (wide.subject.is_none() || wide.subject == narrow.subject)
        && wide.claims.iter().all(|(claim, value)| {
            let other = narrow.claims.get(claim);
            other.is_some_and(|other| claims::same(other, value))
        })
}

/// Whether no proof fits both: it would have two values of one thing.
pub(in crate::config) fn apart(one: &IdentityMatch, other: &IdentityMatch) -> bool {
    let subjects = one.subject.as_ref().zip(other.subject.as_ref());
    let mut named = one.claims.iter();
    one.issuer != other.issuer
        || subjects.is_some_and(|(one, other)| one != other)
        || named.any(|(claim, value)| {
            let other = other.claims.get(claim);
            other.is_some_and(|other| claims::text(other) != claims::text(value))
        })
}
