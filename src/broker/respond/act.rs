//! What a response does by itself: the same fences that an operator raises, once.

use super::queue::Item;
use super::{Action, Message, Responses};
use crate::authority::Authority;
use crate::broker::{Broker, Reason, Refusal};
use crate::fences::{
    By, Dimension, DimensionKind, FenceKind, LONGEST_LIFETIME, MOST_BOUND, NewFence, Restriction,
};
use crate::ids::{AgentId, MissionId};
use crate::wire::{RestrictionRequest, Selector};
use time::{Duration, OffsetDateTime};

impl Broker {
    /// Doing it again does nothing: what is held is held.
    pub(super) async fn act(
        &self,
        responses: &Responses,
        item: &Item,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let message = &item.message;
        let response = responses
            .responses
            .iter()
            .find(|one| one.name == message.response);
        let action = response.and_then(|one| {
            one.actions
                .iter()
                .find(|action| action.word() == item.action)
        });
        // The configuration does not want it any more.
        let Some(action) = action else { return Ok(()) };
        let author = format!("response {}", message.response);
        let what = message.reason.as_deref().unwrap_or(&message.event);
        let reason = match message.count {
            0 | 1 => what.to_owned(),
            count => format!("{count} times {what}"),
        };
        let agent = message
            .agent
            .as_deref()
            .and_then(|name| name.parse::<AgentId>().ok());
        let said = (author, reason);
        match (action, agent) {
            (Action::Notify, _) => Ok(()),
            (Action::Restrict(request), _) => self.restrict_once(request, said, now).await,
            (Action::HoldMission, agent) => {
                let Some(mission) = self.own_mission(message, agent) else {
                    return Ok(());
                };
                let on = Dimension::new(DimensionKind::Mission, mission.as_str());
                let what = (FenceKind::Hold, on);
                self.raise_once(what, Selector::Mission(mission), said, now)
                    .await
            }
            // What is about no agent suspends nobody.
            (
                Action::Suspend
                | Action::EndLeases
                | Action::Shorten { .. }
                | Action::RequireApproval { .. },
                None,
            ) => Ok(()),
            (Action::Suspend, Some(agent)) => {
                let what = (FenceKind::Hold, of_agent(&agent));
                self.raise_once(what, Selector::Agent(agent), said, now)
                    .await
            }
            (Action::EndLeases, Some(agent)) => {
                let what = (FenceKind::Kill, of_agent(&agent));
                self.raise_once(what, Selector::Agent(agent), said, now)
                    .await
            }
            (Action::Shorten { to, lasts }, Some(agent)) => {
                self.bound_once(agent, (Some(seconds(*to)), *lasts), said, now)
                    .await
            }
            (Action::RequireApproval { lasts }, Some(agent)) => {
                self.bound_once(agent, (None, *lasts), said, now).await
            }
        }
    }

    /// What one agent gets is less for a while: it lives `longest` seconds, or, where that is absent,
    /// people approve it.
    async fn bound_once(
        &self,
        agent: AgentId,
        (longest, lasts): (Option<u32>, std::time::Duration),
        (author, reason): (String, String),
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let view = self.view()?;
        let on = of_agent(&agent);
        let restriction = Restriction {
            denied: Authority(Vec::new()),
            ends_leases: false,
            longest,
            approval: longest.is_none(),
        };
        let stands = view.restrictions().any(|fence| {
            fence.dimension == on
                && fence.author == author
                && fence.restriction.as_ref() == Some(&restriction)
                && self::lasts(fence.until, Some(seconds(lasts)), now)
        });
        if stands {
            return Ok(());
        }
        // SECURITY: each decision looks at all of them; where there is no room for one more, it stops.
        if view.of_agents() >= MOST_BOUND {
            tracing::warn!(%agent, "too many agents are kept short: this one is suspended");
            let (what, selector) = ((FenceKind::Hold, on), Selector::Agent(agent));
            return self.raise_once(what, selector, (author, reason), now).await;
        }
        let fence = NewFence {
            restriction: Some(restriction),
            ..NewFence::new(FenceKind::Restrict, on, &author, &reason)
                .by(rule(&author))
                .until(now + lasts)
        };
        let raised = self.fences.raise(fence, now).await?;
        self.record.fenced(&raised.fence);
        Ok(())
    }

    /// SECURITY: a refused request may name any mission. Only one that lists its agent is held, or one agent
    /// could stop the work of others.
    fn own_mission(&self, message: &Message, agent: Option<AgentId>) -> Option<MissionId> {
        let mission = message.mission.as_deref()?.parse::<MissionId>().ok()?;
        let bundle = self.bundle.load();
        let known = bundle.policy.mission(&mission)?;
        agent
            .is_none_or(|agent| known.agents.contains(&agent))
            .then_some(mission)
    }

    async fn raise_once(
        &self,
        (kind, dimension): (FenceKind, Dimension),
        selector: Selector,
        (author, reason): (String, String),
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        // SECURITY: only what stops as much, and as long. A review that is overdue refuses what is new, and
        // what is alive lives on.
        if kind == FenceKind::Hold && self.view()?.is_suspended(&dimension) {
            return Ok(());
        }
        let mut fence = NewFence::new(kind, dimension, &author, &reason).by(rule(&author));
        fence.until = (kind == FenceKind::Kill).then_some(now + LONGEST_LIFETIME);
        self.fence(fence, selector, now).await.map(drop)
    }

    async fn restrict_once(
        &self,
        request: &RestrictionRequest,
        (author, reason): (String, String),
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let request = RestrictionRequest {
            reason,
            ..request.clone()
        };
        let wanted = match self.restriction(&request) {
            // Its target is gone: trying again would not help.
            Err(refusal) if refusal.reason == Reason::NotFound => return Ok(()),
            wanted => wanted?,
        };
        let view = self.view()?;
        let stands = view.denied_on(request.target.as_str()).any(|(fence, _)| {
            fence.author == author
                && fence.restriction.as_ref() == Some(&wanted)
                && lasts(fence.until, request.for_seconds, now)
        });
        if stands {
            return Ok(());
        }
        let by = rule(&author);
        match self.restrict_by((&author, by), request, false).await {
            // Its target is gone, or it was never one: trying again would not help.
            Err(refusal) if refusal.reason == Reason::NotFound => Ok(()),
            done => done.map(drop),
        }
    }
}

fn seconds(span: std::time::Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

fn of_agent(agent: &AgentId) -> Dimension {
    Dimension::new(DimensionKind::Agent, agent.as_str())
}

/// What did it, in the audit: no operator goes by that.
fn rule(author: &str) -> By {
    By::Rule(author.replacen(' ', "/", 1))
}

/// Whether a restriction stands for long enough that another is not needed: for a minute, or for half
/// of what another would last where that is less, so that short ones do not pile up.
fn lasts(until: Option<OffsetDateTime>, another: Option<u32>, now: OffsetDateTime) -> bool {
    const LEAST: Duration = Duration::MINUTE;
    let least = another.map_or(LEAST, |seconds| {
        LEAST.min(Duration::seconds(seconds.into()) / 2)
    });
    until.is_none_or(|until| until - now > least)
}
