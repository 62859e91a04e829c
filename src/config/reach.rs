//! What nobody can ever get: grants out of an agent's reach, facts that nobody proves, patterns and
//! claims that fit nothing, and observations that are no observation.

use super::problem::Code;
use super::whole::Whole;
use super::{agents_table, missions};
use crate::authority::{Authority, Permission};
use crate::identity::IssuerSettings;
use crate::ids::{AgentId, TargetId};
use crate::intent::{IntentIssuer, SignerClass};
use crate::policy::{self, LONGEST_OBSERVATION, Mission, Mode};
use serde_json::Value;
use std::collections::BTreeSet;
use time::Date;

impl Whole<'_> {
    pub(super) fn reach(&self, today: Option<Date>) {
        for decoded in self.missions {
            self.observation(decoded, today);
            self.patterns(decoded);
            self.labels(decoded);
            self.facts(decoded);
            self.signers(decoded);
            self.approvers(decoded);
            self.people(decoded);
        }
        for decoded in self.agents {
            self.tenants(decoded);
            self.usable(decoded, today);
        }
        self.sets();
    }

    /// What could not be read may be what names it.
    fn sets(&self) {
        if self.desk.has_errors() {
            return;
        }
        for (id, target) in self.targets {
            for (name, at) in target.iter().flat_map(|target| target.sets.unused()) {
                let message = format!("nothing names `@{name}` of `target.{id}`");
                let help = "remove it, or name it among the `actions` of a mission";
                self.desk.report(at, Code::UnusedSet, message, help);
            }
        }
    }

    /// A mission for an orchestrator's or an approver's intents needs one who signs them.
    fn signers(&self, decoded: &missions::Decoded) {
        for agent in self.agents_of(&decoded.mission) {
            if self.is_signed(&decoded.mission, agent) {
                continue;
            }
            let (id, signer) = (&agent.agent.id, decoded.mission.signer.as_str());
            let message =
                format!("`agent.{id}` gets nothing here: no {signer} may sign for it and this");
            let help = format!("add an `[intent_issuer.NAME]` with `class = \"{signer}\"`");
            let at = decoded.signer_at;
            self.desk
                .collision(at, Code::NoSigner, message, &help, agent.at);
        }
    }

    /// Nobody approves what an agent of their own gets.
    fn approvers(&self, decoded: &missions::Decoded) {
        // What could not be read may be who approves it.
        let Some(terms) = decoded
            .mission
            .approval
            .as_ref()
            .filter(|_| !self.desk.has_errors())
        else {
            return;
        };
        let at = decoded.approval_at;
        if !self.has_operators {
            let message = "nobody can approve it: there are no operators";
            let help = "add `[operators]` with a role of `reviewer` or more";
            self.desk.report(at, Code::NoApprover, message, help);
            return;
        }
        for decoded in self.agents_of(&decoded.mission) {
            let agent = &decoded.agent;
            let own = |name: &&String| {
                **name == agent.owner || agent.backup_owner.as_ref() == Some(*name)
            };
            let others = terms.by.iter().filter(|name| !own(name)).cloned();
            let others: Vec<String> = others.collect();
            if terms.by.is_empty() || terms.suffice(&others) {
                continue;
            }
            let message = format!("too few of `by` may approve what `agent.{}` gets", agent.id);
            let help = "name others than its owners";
            self.desk
                .collision(at, Code::NoApprover, message, help, decoded.at);
        }
    }

    fn is_signed(&self, mission: &Mission, agent: &agents_table::Decoded) -> bool {
        let id = &agent.agent.id;
        let signs = |issuer: &IntentIssuer| {
            let agents = issuer.agents.as_ref();
            let missions = issuer.missions.as_ref();
            mission.accepts(issuer.class)
                && agents.is_none_or(|agents| agents.contains(id))
                && missions.is_none_or(|missions| missions.contains(&mission.id))
        };
        let by_others = [SignerClass::Orchestrator, SignerClass::Approver];
        !by_others.contains(&mission.signer) || self.intent_issuers.iter().any(signs)
    }

    /// A grant of which no group that the mission is for reaches anything.
    fn people(&self, decoded: &missions::Decoded) {
        for (id, permissions) in &decoded.allowed {
            for (at, permission) in permissions {
                if self.served(&decoded.mission, id, permission) {
                    continue;
                }
                let groups = decoded.mission.on_behalf_of.iter();
                let names: Vec<_> = groups
                    .map(|group| format!("`people.{}`", group.name))
                    .collect();
                let message = format!("the ceiling of {} leaves nothing of this", names.join(", "));
                let help = "raise the ceiling, or remove the grant";
                self.desk.report(*at, Code::Unreachable, message, help);
            }
        }
    }

    fn served(&self, mission: &Mission, target: &TargetId, permission: &Permission) -> bool {
        let Some(Some(known)) = self.targets.get(target.as_str()) else {
            return true;
        };
        let one = Authority(vec![permission.clone()]);
        let reaches = |group: &policy::People| {
            let ceiling = group.ceiling.get(target);
            ceiling.is_some_and(|own| known.target.vocabulary.overlap(&one, own) != Ok(false))
        };
        mission.on_behalf_of.is_empty() || mission.on_behalf_of.iter().any(reaches)
    }

    fn agents_of<'a>(
        &'a self,
        mission: &'a Mission,
    ) -> impl Iterator<Item = &'a agents_table::Decoded> {
        self.agents
            .iter()
            .filter(|decoded| mission.agents.contains(&decoded.agent.id))
    }

    fn observation(&self, decoded: &missions::Decoded, today: Option<Date>) {
        let Mode::Observe { until } = decoded.mission.mode else {
            return;
        };
        let (id, at) = (&decoded.mission.id, decoded.mode_at);
        for agent in self.agents_of(&decoded.mission) {
            let ceiling = agent.agent.ceiling.as_ref();
            let is_bounded = |target| ceiling.is_some_and(|ceiling| ceiling.contains_key(target));
            if !decoded.allowed.keys().all(is_bounded) {
                let name = &agent.agent.id;
                let message = format!("nothing but `mission.{id}` bounds `agent.{name}`");
                let help = "give the agent a `ceiling` on every target of the mission first";
                let code = Code::ObserveUnbounded;
                self.desk.collision(at, code, message, help, agent.at);
            }
        }
        let Some(today) = today else { return };
        if until < today {
            let message = format!("`mission.{id}` was to observe until {until}: it enforces");
            let help = "remove `mode` and `observe_until`";
            self.desk.report(at, Code::Ended, message, help);
        } else if until - today > LONGEST_OBSERVATION {
            let last = today + LONGEST_OBSERVATION;
            let message = format!("`mission.{id}` would observe for more than 14 days");
            let help = format!("write `observe_until = {last}` or earlier; until then it enforces");
            self.desk.report(at, Code::ObserveTooLong, message, &help);
        }
    }

    fn patterns(&self, decoded: &missions::Decoded) {
        for (id, permissions) in &decoded.allowed {
            let Some(Some(target)) = self.targets.get(id.as_str()) else {
                continue;
            };
            for (at, permission) in permissions {
                if let Some((pattern, why)) = target.target.vocabulary.fits_nothing(permission) {
                    let message = format!("`{pattern}` fits nothing: {why}");
                    let help = "compare it with one that was seen";
                    self.desk.report(*at, Code::NeverMatches, message, help);
                }
            }
        }
    }

    /// `require` of a label is decided by the configuration alone.
    fn labels(&self, decoded: &missions::Decoded) {
        let mission = &decoded.mission;
        let agents: Vec<_> = self.agents_of(mission).collect();
        if missions::known(&decoded.allowed, self.targets)
            .next()
            .is_none()
        {
            return;
        }
        let help = "add the label, or remove the requirement";
        let at = decoded.require_at;
        for (name, value) in &mission.require {
            let meets =
                |agent: &&agents_table::Decoded| self.meets(decoded, agent, &[(name, value)]);
            if !agents.is_empty() && !agents.iter().any(meets) {
                let message = format!("`{name}` is not {value} for any agent and target");
                self.desk.report(at, Code::NeverMatches, message, help);
                return;
            }
        }
        let all: Vec<_> = mission.require.iter().collect();
        for agent in agents {
            if !self.meets(decoded, agent, &all) {
                let id = &agent.agent.id;
                let message =
                    format!("`agent.{id}` gets nothing here: the labels are not as required");
                let code = Code::NeverMatches;
                self.desk.collision(at, code, message, help, agent.at);
            }
        }
    }

    /// Whether some target of the mission has, with this agent, all the labels that are asked for.
    fn meets(
        &self,
        decoded: &missions::Decoded,
        agent: &agents_table::Decoded,
        asked: &[(&String, &Value)],
    ) -> bool {
        missions::known(&decoded.allowed, self.targets).any(|target| {
            let labels = [&agent.agent.labels, &decoded.mission.labels, &target.labels];
            asked
                .iter()
                .all(|(name, value)| policy::labels_meet(name, value, labels) != Some(false))
        })
    }

    fn facts(&self, decoded: &missions::Decoded) {
        let mission = &decoded.mission;
        for agent in self.agents_of(mission) {
            let missing = self.unproved(mission, agent);
            let (tethers, required): (Vec<_>, Vec<_>) =
                missing.into_iter().partition(|(is_tether, _)| *is_tether);
            for (missing, at) in [(required, decoded.require_at), (tethers, decoded.tether_at)] {
                if missing.is_empty() {
                    continue;
                }
                let names: Vec<_> = missing
                    .iter()
                    .map(|(_, name)| format!("`{name}`"))
                    .collect();
                let message = format!(
                    "`agent.{}` gets nothing here: no issuer of it proves {}",
                    agent.agent.id,
                    names.join(", ")
                );
                let known: Vec<_> = self.provable(agent).into_iter().flatten().collect();
                let near = missing
                    .iter()
                    .find_map(|(_, name)| super::values::nearest(name, &known));
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "map it in `facts` of the agent's issuer, or do without".to_owned(),
                };
                self.desk
                    .collision(at, Code::UnprovedFact, message, &help, agent.at);
            }
        }
    }

    /// Facts that some issuer of the agent, or an authority, can prove. `None`: one of them is not known here.
    fn provable(&self, agent: &agents_table::Decoded) -> Option<BTreeSet<&str>> {
        let mut facts = BTreeSet::new();
        for identity in &agent.agent.identities {
            let issuer = self.issuer(identity.issuer.as_str())?;
            facts.extend(issuer.facts.keys().map(String::as_str));
        }
        let id = &agent.agent.id;
        let vouch = |agents: &Vec<AgentId>| agents.contains(id);
        for witness in self.witnesses {
            if witness.agents.as_ref().is_none_or(vouch) {
                facts.extend(witness.proves.iter().map(String::as_str));
            }
        }
        Some(facts)
    }

    fn issuer(&self, name: &str) -> Option<&IssuerSettings> {
        self.issuers
            .iter()
            .find(|issuer| issuer.id.as_str() == name)
    }

    /// Facts that the mission needs and the agent cannot prove; `true`: for a tether.
    fn unproved(&self, mission: &Mission, agent: &agents_table::Decoded) -> Vec<(bool, String)> {
        let Some(known) = self.provable(agent) else {
            return Vec::new();
        };
        let is_fact = |name: &&String| !policy::is_label(name);
        let required = mission.require.keys().filter(is_fact);
        let required = required
            .filter(|name| !known.contains(name.as_str()))
            .map(|name| (false, name.clone()));
        let hangs = |tether: &str| {
            let any_of = ["run_id", "id", "uid"].map(|id| format!("{tether}.{id}"));
            known.contains(tether) || any_of.iter().any(|name| known.contains(name.as_str()))
        };
        let tethers = mission.tether.iter().filter(|tether| !hangs(tether));
        required
            .chain(tethers.map(|tether| (true, tether.clone())))
            .collect()
    }

    /// An identity that the issuer's own settings refuse.
    fn tenants(&self, decoded: &agents_table::Decoded) {
        for identity in &decoded.agent.identities {
            let Some(issuer) = self.issuer(identity.issuer.as_str()) else {
                continue;
            };
            for (claim, allowed) in &issuer.tenant {
                let named = identity.claims.get(claim);
                let same = |value: &&Value| allowed.iter().any(|one| text(one) == text(value));
                if let Some(value) = named.filter(|value| !same(value)) {
                    let message = format!(
                        "`agent.{}` is never found: `issuer.{}` does not admit `{claim}` {value}",
                        decoded.agent.id, issuer.id
                    );
                    let help = "add it to `tenant` of the issuer, or correct it";
                    self.desk
                        .report(decoded.at, Code::NeverMatches, message, help);
                }
            }
        }
    }

    /// An agent whose every mission is out of its reach gets nothing, whatever it asks.
    fn usable(&self, decoded: &agents_table::Decoded, today: Option<Date>) {
        let id = &decoded.agent.id;
        let own: Vec<_> = self
            .missions
            .iter()
            .filter(|mission| mission.mission.agents.contains(id))
            .collect();
        let mut usable = false;
        for mission in &own {
            let reached = self.reached(mission, decoded);
            let is_over = |ends: Date| today.is_some_and(|today| ends < today);
            let all: Vec<_> = mission.mission.require.iter().collect();
            let mut grants = mission.allowed.iter().flat_map(|(id, listed)| {
                listed.iter().map(move |(_, permission)| (id, permission))
            });
            usable |= reached
                && self.is_signed(&mission.mission, decoded)
                && (mission.allowed.is_empty() || self.meets(mission, decoded, &all))
                && grants.any(|(id, one)| self.served(&mission.mission, id, one))
                && !mission.mission.ends.is_some_and(is_over)
                && self.unproved(&mission.mission, decoded).is_empty();
        }
        // A problem elsewhere may be the reason; and no mission at all is told already.
        if !usable && !own.is_empty() && !self.desk.has_errors() {
            let message = format!("none of the missions of `agent.{id}` is of use to it");
            let help = "each has ended, is out of its reach, or needs what it cannot prove or nobody signs";
            self.desk.report(decoded.at, Code::NoMission, message, help);
        }
    }

    /// Whether the agent's ceiling leaves anything of the mission; says where it leaves nothing.
    fn reached(&self, mission: &missions::Decoded, agent: &agents_table::Decoded) -> bool {
        let Some(ceilings) = &agent.agent.ceiling else {
            return true;
        };
        let mut any = false;
        for (id, permissions) in &mission.allowed {
            let Some(Some(target)) = self.targets.get(id.as_str()) else {
                any = true;
                continue;
            };
            let nothing = Authority::default();
            let ceiling = ceilings.get(id).unwrap_or(&nothing);
            for (at, permission) in permissions {
                let one = Authority(vec![permission.clone()]);
                if target.target.vocabulary.overlap(&one, ceiling) != Ok(false) {
                    any = true;
                    continue;
                }
                let message = format!(
                    "the ceiling of `agent.{}` leaves nothing of this",
                    agent.agent.id
                );
                let help = "raise the ceiling, or remove one of them";
                self.desk
                    .collision(*at, Code::Unreachable, message, help, agent.at);
            }
        }
        any
    }
}

/// As identities are compared: a number and its digits are one.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
