//! What operators see: leases, who holds what, and what was done.

use super::{Broker, Reason, Refusal};
use crate::fences::View;
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::leases::{Cursor, Filter, Lease, Leases, Standing};
use crate::wire::{LeaseView, Page, Revocation};
use serde_json::Value;
use time::OffsetDateTime;

/// Which leases to list.
#[derive(Debug, Clone, Default)]
pub struct LeaseFilter {
    pub agent: Option<AgentId>,
    pub mission: Option<MissionId>,
    pub target: Option<TargetId>,
    pub task: Option<String>,
    pub instance: Option<String>,
    pub alive: Option<bool>,
    pub after: Option<String>,
    pub limit: usize,
}

impl Broker {
    pub async fn leases(&self, filter: LeaseFilter) -> Result<Page<LeaseView>, Refusal> {
        let view = self.view()?;
        let now = self.clock.now();
        let from = match &filter.after {
            Some(text) => Some(text.parse::<Cursor>().map_err(|error| {
                Refusal::new(Reason::MalformedRequest, format!("after: {error}")).exact()
            })?),
            None => None,
        };
        let wanted = Filter {
            agent: filter.agent,
            mission: filter.mission,
            target: filter.target,
            task: filter.task,
            instance: filter.instance,
            closed: filter.alive == Some(false),
            ..Filter::default()
        };
        let page = self
            .leases
            .list(&wanted, from.as_ref(), filter.limit.clamp(1, 1000))
            .await?;
        let items = page
            .leases
            .iter()
            .map(|lease| self.show(lease, &view, now))
            .filter(|shown| filter.alive.is_none_or(|alive| alive == shown.alive))
            .collect();
        Ok(Page {
            items,
            next: page.next.map(|cursor| cursor.to_string()),
        })
    }

    pub async fn lease(&self, id: LeaseId) -> Result<LeaseView, Refusal> {
        let view = self.view()?;
        let lease = self
            .leases
            .get(&id)
            .await?
            .ok_or_else(|| not_found(&id.to_string()))?;
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

    /// The newest part of the audit that is still in the store, oldest first.
    pub async fn audit(&self, after: Option<String>, limit: usize) -> Result<Page<Value>, Refusal> {
        let (items, next) =
            crate::audit::recent(self.store.as_ref(), after.as_deref(), limit.clamp(1, 1000))
                .await?;
        Ok(Page { items, next })
    }

    pub(in crate::broker) fn show(
        &self,
        lease: &Lease,
        view: &View,
        now: OffsetDateTime,
    ) -> LeaseView {
        let why_ended = match Leases::standing(lease, view, now) {
            Standing::Live => None,
            Standing::Ended(why) => Some(match &lease.closing {
                Some(closing) => {
                    format!("{}: {} (by {})", why.as_str(), closing.reason, closing.by)
                }
                None => why.as_str().to_owned(),
            }),
            Standing::Fenced(by) => Some(by.reason().to_owned()),
            Standing::Expired => Some("expired".to_owned()),
        };
        let left = u64::try_from((lease.expires_at - now).whole_seconds()).unwrap_or(0);
        LeaseView {
            id: lease.id,
            state: lease.state.as_str().to_owned(),
            alive: why_ended.is_none(),
            why_ended,
            agent: lease.agent.clone(),
            instance: lease.instance.clone(),
            owner: lease.owner.clone(),
            mission: lease.mission.clone(),
            target: lease.target.clone(),
            goal: lease.goal.clone(),
            task: lease.task.clone(),
            issuer: lease.issuer_url.clone(),
            subject: lease.subject.clone(),
            on_behalf_of: lease.chain.clone(),
            parent: lease.parent,
            authorization_details: lease.authority.to_details(
                &lease.detail_type,
                &lease.target,
                None,
            ),
            revocation: Revocation {
                class: lease.class,
                within_seconds: lease.dead_within.unwrap_or(left),
            },
            names: lease.names.clone(),
            created_at: lease.created,
            expires_at: lease.expires_at,
            config_hash: lease.config_hash.clone(),
        }
    }
}

pub(in crate::broker) fn not_found(what: &str) -> Refusal {
    Refusal::new(Reason::NotFound, format!("nothing is known of {what}")).exact()
}
