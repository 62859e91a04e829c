//! An agent or a mission on one card: who answers for it, how it stands, what it can reach, what of
//! that it ever asked for, when somebody must look at it.

use super::revoke::Coverage;
use super::show::not_found;
use super::standing::{Found, dimension, remembered};
use super::{Broker, Bundle, Refusal};
use crate::agents::governance::{Record, Use};
use crate::agents::{Agent, Stage, Terms};
use crate::authority::{Authority, Permission};
use crate::fences::{Dimension, DimensionKind, HeldBy, View};
use crate::ids::AgentId;
use crate::leases::Filter;
use crate::policy::{Access, Mission};
use crate::wire::{
    AgentView, Attention, LastReview, MissionView, Page, ReachPeople, ReachView, Subject,
};
use std::collections::BTreeMap;
use time::{Date, OffsetDateTime};

/// Its stage, and the hold behind it.
struct Standing {
    stage: Stage,
    why: Option<String>,
    by: Option<String>,
    rule: Option<String>,
}

impl Broker {
    pub async fn agents(&self) -> Result<Page<AgentView>, Refusal> {
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let agents: Vec<_> = bundle.agents.iter().collect();
        let subjects: Vec<_> = agents
            .iter()
            .map(|agent| Subject::Agent(agent.id.clone()))
            .collect();
        let found = remembered(
            self.store.as_ref(),
            &self.sealer,
            &subjects,
            self.clock.now(),
        )
        .await?;
        let mut items = Vec::new();
        for (agent, found) in agents.into_iter().zip(found) {
            items.push(self.agent_card(&bundle, agent, &found, &view).await?);
        }
        for id in bundle.inert() {
            items.push(self.inert_card(&bundle, id).await?);
        }
        items.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Page { items, next: None })
    }

    pub async fn agent(&self, id: &AgentId) -> Result<AgentView, Refusal> {
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let Some(agent) = bundle.agents.get(id) else {
            return self.inert_card(&bundle, id).await;
        };
        let subject = Subject::Agent(id.clone());
        let found = self.remember(&subject, self.clock.now()).await?;
        let mut card = self.agent_card(&bundle, &agent, &found, &view).await?;
        let own = [(agent.as_ref(), &found.record)];
        card.reach = reach(&bundle, own, |_| true, self.clock.now());
        Ok(card)
    }

    /// What its agents may and ever did is each agent's own: what one asked for, another did not.
    pub(in crate::broker) async fn mission_card(
        &self,
        bundle: &Bundle,
        mission: &Mission,
        found: &Found,
    ) -> Result<MissionView, Refusal> {
        let now = self.clock.now();
        let view = self.view()?;
        let listed = mission.agents.iter();
        let agents: Vec<_> = listed.filter_map(|id| bundle.agents.get(id)).collect();
        let subjects = agents.iter().map(|agent| Subject::Agent(agent.id.clone()));
        let subjects: Vec<_> = subjects.collect();
        let known = remembered(self.store.as_ref(), &self.sealer, &subjects, now).await?;
        let agents = agents.iter().zip(&known);
        let agents = agents.map(|(agent, own)| (agent.as_ref(), &own.record));
        let own = dimension(&Subject::Mission(mission.id.clone()));
        let standing = standing(own, &mission.owner, mission.ends, &view, now);
        Ok(MissionView {
            id: mission.id.clone(),
            owner: mission.owner.clone(),
            purpose: mission.purpose.clone(),
            ends: mission.ends.map(|ends| ends.to_string()),
            state: standing.stage.as_str().to_owned(),
            why: standing.why,
            by: standing.by,
            rule: standing.rule,
            labels: mission.labels.clone(),
            agents: mission.agents.clone(),
            attention: attention(&found.record, &mission.terms),
            reach: reach(bundle, agents, |other| other.id == mission.id, now),
        })
    }

    pub(in crate::broker) async fn agent_card(
        &self,
        bundle: &Bundle,
        agent: &Agent,
        found: &Found,
        view: &View,
    ) -> Result<AgentView, Refusal> {
        let now = self.clock.now();
        let own = dimension(&Subject::Agent(agent.id.clone()));
        let standing = standing(own, &agent.owner, Some(agent.ends), view, now);
        let filter = Filter {
            agent: Some(agent.id.clone()),
            ..Filter::default()
        };
        let mut coverage = Coverage::default();
        self.cover(&filter, &mut coverage, view, now).await?;
        let missions = bundle.policy.of_agent(&agent.id);
        Ok(AgentView {
            id: agent.id.clone(),
            owner: agent.owner.clone(),
            purpose: agent.purpose.clone(),
            ends: agent.ends.to_string(),
            state: standing.stage.as_str().to_owned(),
            why: standing.why,
            by: standing.by,
            rule: standing.rule,
            labels: agent.labels.clone(),
            missions: missions.map(|mission| mission.id.clone()).collect(),
            live_leases: coverage.live,
            attention: attention(&found.record, &agent.terms),
            reach: Vec::new(),
            registered: bundle.registered(&agent.id),
        })
    }

    /// Somebody who is registered and gets nothing: why, and as much as the definition says.
    async fn inert_card(&self, bundle: &Bundle, id: &AgentId) -> Result<AgentView, Refusal> {
        let registered = bundle.registered(id);
        let registered = registered.ok_or_else(|| not_found(id.as_str()))?;
        let subject = Subject::Agent(id.clone());
        let found = self.remember(&subject, self.clock.now()).await?;
        let text = |value: &serde_json::Value, key: &str| {
            let text = value.get(key).and_then(|value| value.as_str());
            text.unwrap_or_default().to_owned()
        };
        let said = |key: &str| {
            let value = registered.definition.get(key);
            value
                .and_then(|value| value.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let mut problems = registered.problems.iter();
        Ok(AgentView {
            id: id.clone(),
            owner: said("owner"),
            purpose: said("purpose"),
            ends: said("ends"),
            state: "inert".to_owned(),
            why: problems.next().map(|problem| text(problem, "message")),
            by: None,
            rule: None,
            labels: BTreeMap::new(),
            missions: Vec::new(),
            live_leases: 0,
            attention: attention(&found.record, &Terms::of_agent()),
            reach: Vec::new(),
            registered: Some(registered),
        })
    }
}

/// The strongest of what stands on it, on its owner and on everything, and of its last day.
fn standing(
    own: Dimension,
    owner: &str,
    ends: Option<Date>,
    view: &View,
    now: OffsetDateTime,
) -> Standing {
    let owner = Dimension::new(DimensionKind::Owner, owner);
    let held: Option<HeldBy> = view.held(&[own.hash(), owner.hash(), Dimension::all().hash()]);
    let stage = Stage::of(held.as_ref().map(|hold| hold.weight));
    let today = now.to_offset(time::UtcOffset::UTC).date();
    match (held, ends) {
        (held, Some(ends)) if ends < today && stage != Stage::Retired => Standing {
            stage: Stage::Retired,
            why: Some(format!("its last day was {ends}")),
            rule: held.as_ref().and_then(|hold| hold.rule.clone()),
            by: held.map(|hold| hold.author),
        },
        (held, _) => Standing {
            stage,
            why: held.as_ref().map(|hold| hold.reason.clone()),
            rule: held.as_ref().and_then(|hold| hold.rule.clone()),
            by: held.map(|hold| hold.author),
        },
    }
}

fn attention(record: &Record, terms: &Terms) -> Attention {
    let next_review = record.next_review(terms);
    Attention {
        next_review,
        refused_from: next_review.checked_add(terms.grace).unwrap_or(next_review),
        last_review: record.reviewed.as_ref().map(|reviewed| LastReview {
            at: reviewed.at,
            by: reviewed.by.clone(),
            decision: reviewed.decision,
            note: reviewed.note.clone(),
        }),
        last_used: record.used,
        dormant_at: record.dormant_at(terms),
    }
}

fn reach<'a>(
    bundle: &Bundle,
    agents: impl IntoIterator<Item = (&'a Agent, &'a Record)>,
    is_asked: impl Fn(&Mission) -> bool,
    now: OffsetDateTime,
) -> Vec<ReachView> {
    let mut all = Vec::new();
    for (agent, record) in agents {
        let own = bundle.policy.access(std::iter::once(agent));
        let asked = own.iter().filter(|access| is_asked(access.mission));
        all.extend(asked.map(|access| ReachView {
            never: bundle.policy.barred(access, now),
            ..seen(access, &record.uses)
        }));
    }
    all
}

fn seen(access: &Access<'_>, uses: &BTreeMap<String, Use>) -> ReachView {
    let Access {
        agent,
        mission,
        target,
        may,
        within,
        people,
    } = access;
    let known = uses.get(&format!("{}/{}", mission.id, target.id));
    let details =
        |authority: &Authority| authority.to_details(target.detail_type, &target.id, None);
    ReachView {
        agent: agent.id.clone(),
        mission: mission.id.clone(),
        target: target.id.clone(),
        revocation: target.class.to_owned(),
        may: details(may),
        within: within.as_ref().map(details).unwrap_or_default(),
        require: mission.require.clone(),
        when: mission.when.clone(),
        on_behalf_of: people
            .iter()
            .map(|through| ReachPeople {
                group: through.group.name.clone(),
                issuer: through.group.issuer.clone(),
                within: through.within.as_ref().map(details).unwrap_or_default(),
            })
            .collect(),
        in_person: mission.in_person,
        tether: mission.tether.clone(),
        approvals: mission.approval.as_ref().map(|terms| terms.count),
        never: Vec::new(),
        labels: target.labels.clone(),
        last_used: known.map(|known| known.last),
        asked: known
            .map(|known| known.actions.iter().cloned().collect())
            .unwrap_or_default(),
        never_asked: never_asked(access, known),
    }
}

/// Actions of the mission that fit nothing of what was asked for, wherever. Undecidable counts as asked.
fn never_asked(access: &Access<'_>, known: Option<&Use>) -> Vec<String> {
    let vocabulary = access.target.vocabulary;
    let mut found = Vec::new();
    for permission in &access.may.0 {
        for action in &permission.actions {
            let one = |action: &String| {
                Authority(vec![Permission {
                    actions: vec![action.clone()],
                    locations: permission.locations.clone(),
                }])
            };
            let was_asked = known.is_some_and(|known| {
                let mut actions = known.actions.iter();
                actions.any(|asked| vocabulary.overlap(&one(action), &one(asked)) != Ok(false))
            });
            if !was_asked && !found.contains(action) {
                found.push(action.clone());
            }
        }
    }
    found
}
