//! A review: somebody says that an agent or a mission is still wanted, should be less, or is over.

use super::show::not_found;
use super::standing::{self, Said, TRIES, entry, remembered};
use super::{Broker, Operator, Reason, Refusal, Role};
use crate::agents::governance::{Decision, Reviewed};
use crate::agents::{Stage, Turn};
use crate::audit::Event;
use crate::wire::{Attention, Page, ReviewRequest, ReviewView, Subject};
use time::{Duration, OffsetDateTime};

/// What is due within this time is in the campaign.
const SOON: Duration = Duration::days(14);
const MAX_NOTE: usize = 500;

impl Broker {
    /// `GET /admin/v1/reviews`: what is due, the most urgent first; or everything.
    pub async fn reviews(&self, everything: bool) -> Result<Page<ReviewView>, Refusal> {
        let now = self.clock.now();
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let agents: Vec<_> = bundle.agents.iter().cloned().collect();
        let missions: Vec<_> = bundle.policy.missions().collect();
        let subjects: Vec<_> = agents
            .iter()
            .map(|agent| Subject::Agent(agent.id.clone()))
            .chain(missions.iter().map(|m| Subject::Mission(m.id.clone())))
            .collect();
        let found = remembered(self.store.as_ref(), &self.sealer, &subjects, now).await?;
        let (of_agents, of_missions) = found.split_at(agents.len());
        let mut items: Vec<(OffsetDateTime, ReviewView)> = Vec::new();
        let is_wanted = |at: OffsetDateTime| everything || at - SOON <= now;
        for (agent, found) in agents.iter().zip(of_agents) {
            let at = found.record.next_review(&agent.terms);
            let stage = standing::stage(&Subject::Agent(agent.id.clone()), &view);
            if is_wanted(at) && (everything || stage != Stage::Retired) {
                let card = self.agent(&agent.id).await?;
                items.push((at, line(&card.attention, now).agent(card)));
            }
        }
        for (mission, found) in missions.iter().zip(of_missions) {
            let at = found.record.next_review(&mission.terms);
            let stage = standing::stage(&Subject::Mission(mission.id.clone()), &view);
            if is_wanted(at) && (everything || stage != Stage::Retired) {
                let card = self.mission_card(&bundle, mission, found).await?;
                let mut item = line(&card.attention, now);
                item.mission = Some(card);
                items.push((at, item));
            }
        }
        items.sort_by_key(|(at, _)| *at);
        let items = items.into_iter().map(|(_, item)| item).collect();
        Ok(Page { items, next: None })
    }

    /// `POST /admin/v1/reviews`, and whether what it holds or lifts is on enough replicas of the store.
    pub async fn review(
        &self,
        by: &Operator,
        request: ReviewRequest,
    ) -> Result<(ReviewView, bool), Refusal> {
        let now = self.clock.now();
        let ReviewRequest {
            subject,
            decision,
            note,
        } = request;
        self.may_review(by, decision)?;
        let is_note =
            |note: &String| note.chars().count() <= MAX_NOTE && !note.chars().any(char::is_control);
        if !note.as_ref().is_none_or(is_note) {
            let malformed = Refusal::new(Reason::MalformedRequest, "at most 500 characters");
            return Err(malformed.exact().at(Some("note".to_owned())));
        }
        self.is_registered(&subject)?;
        for _ in 0..TRIES {
            let stage = standing::stage(&subject, &*self.view()?);
            let turn = match decision {
                Decision::Keep | Decision::Narrow => Turn::Reviewed,
                Decision::Retire => Turn::Retire,
            };
            if stage == Stage::Retired || stage.after(turn).is_none() {
                return Err(Refusal::new(Reason::NotPermitted, "it is retired").exact());
            }
            let mut found = self.remember(&subject, now).await?;
            found.record.reviewed = Some(Reviewed {
                at: now,
                by: by.name.clone(),
                decision,
                note: note.clone(),
            });
            let why = note.as_deref().unwrap_or(decision.as_str());
            // A hold is raised or lifted where there is one to lift; otherwise it is only written down.
            let written = if turn == Turn::Retire || stage == Stage::UnderReview {
                let said = Said::By(by.name.clone());
                let raised = self.turn((&subject, turn), (&said, why), &found, now);
                raised.await?.map(|raised| raised.replicated)
            } else {
                let entry = entry(Event::Reviewed, &subject, now)
                    .operator(by.name.as_str())
                    .reason(decision.as_str())
                    .with("why", why);
                let saved = found.save(self.store.as_ref(), Some(entry), now).await?;
                saved.then_some(true)
            };
            if let Some(replicated) = written {
                return Ok((self.reviewed(&subject, now).await?, replicated));
            }
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many change it at once").after(1))
    }

    fn may_review(&self, by: &Operator, decision: Decision) -> Result<(), Refusal> {
        if by.break_glass {
            let why = "break-glass keeps nothing: what is overdue stays so until a reviewer says";
            return Err(Refusal::new(Reason::NotPermitted, why));
        }
        if decision == Decision::Retire && by.role < Role::Operator {
            let why = "a reviewer keeps or narrows; an operator retires";
            return Err(Refusal::new(Reason::NotPermitted, why).exact());
        }
        Ok(())
    }

    fn is_registered(&self, subject: &Subject) -> Result<(), Refusal> {
        let bundle = self.bundle.load();
        let known = match subject {
            Subject::Agent(id) => bundle.agents.get(id).is_some(),
            Subject::Mission(id) => bundle.policy.mission(id).is_some(),
        };
        known
            .then_some(())
            .ok_or_else(|| not_found(&subject.to_string()))
    }

    async fn reviewed(
        &self,
        subject: &Subject,
        now: OffsetDateTime,
    ) -> Result<ReviewView, Refusal> {
        let bundle = self.bundle.load_full();
        match subject {
            Subject::Agent(id) => {
                let card = self.agent(id).await?;
                Ok(line(&card.attention, now).agent(card))
            }
            Subject::Mission(id) => {
                let mission = bundle.policy.mission(id);
                let mission = mission.ok_or_else(|| not_found(id.as_str()))?;
                let found = self.remember(subject, now).await?;
                let card = self.mission_card(&bundle, mission, &found).await?;
                let mut item = line(&card.attention, now);
                item.mission = Some(card);
                Ok(item)
            }
        }
    }
}

fn line(attention: &Attention, now: OffsetDateTime) -> ReviewView {
    let when = if attention.next_review <= now {
        "overdue"
    } else if attention.next_review - SOON <= now {
        "due"
    } else {
        "later"
    };
    ReviewView {
        when: when.to_owned(),
        agent: None,
        mission: None,
    }
}

impl ReviewView {
    fn agent(mut self, card: crate::wire::AgentView) -> Self {
        self.agent = Some(card);
        self
    }
}
