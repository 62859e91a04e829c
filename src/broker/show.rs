//! What operators see: leases, agents, who holds what, and why a request would be refused.

use super::{Broker, Reason, Refusal};
use crate::agents::Agent;
use crate::fences::{Dimension, DimensionKind, View};
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::leases::{Filter, Lease, Standing};
use crate::wire::{AgentView, ExplainAnswer, ExplainRequest, LeaseView, Page, Revocation};
use serde_json::Value;
use time::OffsetDateTime;

/// Which leases to list.
#[derive(Debug, Clone, Default)]
pub struct LeaseFilter {
    pub agent: Option<AgentId>,
    pub mission: Option<MissionId>,
    pub target: Option<TargetId>,
    pub alive: Option<bool>,
    pub after: Option<String>,
    pub limit: usize,
}

impl Broker {
    pub async fn leases(&self, filter: LeaseFilter) -> Result<Page<LeaseView>, Refusal> {
        let view = self.view()?;
        let now = self.clock.now();
        let after = match &filter.after {
            Some(text) => Some(text.parse::<LeaseId>().map_err(|error| {
                Refusal::new(Reason::MalformedRequest, format!("after: {error}")).exact()
            })?),
            None => None,
        };
        let limit = filter.limit.clamp(1, 1000);
        let wanted = Filter { agent: filter.agent, mission: filter.mission, target: filter.target };
        let mut items = Vec::new();
        let mut cursor = after;
        loop {
            let page = self.leases.list(&wanted, cursor, limit).await?;
            let last = page.last().map(|lease| *lease.id());
            let ended = page.len() < limit;
            for lease in page {
                let shown = self.show(&lease, &view, now);
                if filter.alive.is_none_or(|alive| alive == shown.alive) {
                    items.push(shown);
                }
                if items.len() == limit {
                    let next = items.last().map(|item| item.id.to_string());
                    return Ok(Page { items, next });
                }
            }
            if ended {
                return Ok(Page { items, next: None });
            }
            cursor = last;
        }
    }

    pub async fn lease(&self, id: LeaseId) -> Result<LeaseView, Refusal> {
        let view = self.view()?;
        let lease = self.leases.get(&id).await?.ok_or_else(|| not_found(&id.to_string()))?;
        Ok(self.show(&lease, &view, self.clock.now()))
    }

    /// From anything a person may hold: a credential, a handle, a lease id, an AWS access key id, a
    /// session name.
    pub async fn find(&self, query: &str) -> Result<LeaseView, Refusal> {
        let view = self.view()?;
        let found = match self.locate(query).await? {
            Some(lease) => Some(lease),
            None => self.leases.find(query).await?,
        };
        // SECURITY: the query may be a credential, so it is not repeated.
        let lease = found.ok_or_else(|| not_found("this"))?;
        Ok(self.show(&lease, &view, self.clock.now()))
    }

    pub async fn agents(&self) -> Result<Page<AgentView>, Refusal> {
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let mut items = Vec::new();
        for agent in bundle.agents.iter() {
            items.push(self.show_agent(agent, &view).await?);
        }
        items.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Page { items, next: None })
    }

    pub async fn agent(&self, id: &AgentId) -> Result<AgentView, Refusal> {
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let agent = bundle.agents.get(id).ok_or_else(|| not_found(id.as_str()))?;
        self.show_agent(&agent, &view).await
    }

    /// The same decision as the corridor's, on stated claims, with every check told.
    pub async fn explain(&self, request: ExplainRequest) -> Result<ExplainAnswer, Refusal> {
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let agent = bundle
            .agents
            .get(&request.agent)
            .ok_or_else(|| not_found(request.agent.as_str()))?;
        Ok(bundle.policy.explain_stated(&agent, request, &view, self.clock.now()))
    }

    /// The newest part of the audit that is still in the store, oldest first.
    pub async fn audit(&self, after: Option<String>, limit: usize) -> Result<Page<Value>, Refusal> {
        let (items, next) =
            crate::audit::recent(self.store.as_ref(), after.as_deref(), limit.clamp(1, 1000)).await?;
        Ok(Page { items, next })
    }

    async fn show_agent(&self, agent: &Agent, view: &View) -> Result<AgentView, Refusal> {
        let now = self.clock.now();
        let own = Dimension::new(DimensionKind::Agent, agent.id.as_str());
        let owner = Dimension::new(DimensionKind::Owner, &agent.owner);
        let held = view.held(&[own.hash(), owner.hash(), Dimension::all().hash()]);
        let coverage = self.leases.covered(&own, view, now).await?;
        let bundle = self.bundle.load();
        let missions = bundle
            .policy
            .missions()
            .filter(|mission| mission.agents.contains(&agent.id))
            .map(|mission| mission.id.clone())
            .collect();
        let (state, why) = match &held {
            Some(hold) => ("suspended", Some(hold.reason.clone())),
            None if agent.ends < now.date() => ("ended", None),
            None => ("active", None),
        };
        Ok(AgentView {
            id: agent.id.clone(),
            owner: agent.owner.clone(),
            purpose: agent.purpose.clone(),
            ends: agent.ends.to_string(),
            state: state.to_owned(),
            why,
            missions,
            live_leases: coverage.live,
        })
    }

    fn show(&self, lease: &Lease, view: &View, now: OffsetDateTime) -> LeaseView {
        let (alive, why_ended) = match self.leases.standing(lease, view, now) {
            Standing::Live => (true, None),
            Standing::Ended(why) => (false, Some(why)),
            Standing::Expired => (false, Some("expired".to_owned())),
        };
        LeaseView {
            id: *lease.id(),
            state: lease.state().code().to_owned(),
            alive,
            why_ended,
            agent: lease.agent().clone(),
            instance: lease.instance().map(str::to_owned),
            owner: lease.owner().to_owned(),
            mission: lease.mission().clone(),
            target: lease.target().clone(),
            goal: lease.goal().to_owned(),
            task: lease.task().map(str::to_owned),
            issuer: lease.issuer_url().to_owned(),
            subject: lease.subject().to_owned(),
            authorization_details: lease.to_details(),
            revocation: Revocation {
                class: lease.class(),
                within_seconds: lease.dead_within_seconds(now),
            },
            names: lease.names().to_vec(),
            created_at: lease.created_at(),
            expires_at: lease.expires_at(),
            config_hash: lease.config_hash().to_owned(),
        }
    }
}

fn not_found(what: &str) -> Refusal {
    Refusal::new(Reason::NotFound, format!("nothing is known of {what}")).exact()
}
