//! People say yes before something is issued: `approval` of a mission, or a response.
//!
//! Whoever asks for what must be approved is told to ask again: with a new proof, a new intent and a new
//! decision each time, so that nothing is issued on a yes that the world has overtaken. What was asked is
//! found by what it is. What people say is theirs ([`vote`]).

mod record;
mod vote;

use super::refusal::{Beside, Pending};
use super::show::not_found;
use super::{Broker, Bundle, Reason, Refusal, operators};
use crate::agents::{AdmittedAgent, Agent};
use crate::audit::{Entry, Event};
use crate::fences::View;
use crate::identity::Person;
use crate::ids::ShardId;
use crate::intent::{Behalf, Intent, Principal};
use crate::policy::{ApprovalTerms, Denied, Grant, Unapproved, approval_dimension};
use crate::store::{Guard, MAX_RANK, Outcome, Transaction, Write, settle};
use crate::wire::{ApprovalState, ApprovalView, Page};
use record::{Found, Record};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

/// Of one agent that wait at once: people who are asked all the time say yes to everything.
const MOST_WAITING: u64 = 20;
/// Shown in one list.
const MOST_LISTED: usize = 1000;
/// Old members that one write clears away.
const CLEARED: usize = 64;
const DEADLINE: Duration = Duration::seconds(10);
const TRIES: usize = 8;

/// What is asked, by whom, and everybody whom that is from.
type Asking<'a> = (
    &'a Unapproved,
    (&'a AdmittedAgent, &'a Intent),
    &'a [String],
);

impl Broker {
    /// The decision, and where people have to approve what it allows, theirs.
    pub(in crate::broker) async fn decide_with_people(
        &self,
        bundle: &Bundle,
        agent: &AdmittedAgent,
        intent: &Intent,
        (view, now): (&View, OffsetDateTime),
    ) -> Result<Grant, Refusal> {
        let denied = match bundle.policy.decide(agent, intent, view, now) {
            Ok(grant) => return Ok(grant),
            Err(denied) => denied,
        };
        let Some(unapproved) = denied.unapproved.clone() else {
            return Err(denied.into());
        };
        let asked = record::asked(&unapproved.what, intent.goal())?;
        let found = self.asked_before(&asked, now).await?;
        let is_denied = found
            .as_ref()
            .is_some_and(|found| found.record.state == ApprovalState::Denied);
        // INVARIANT: a no is a hold, which is put back where the store has lost the record.
        if is_denied || view.held(&[approval_dimension(&asked).hash()]).is_some() {
            let mut refusal =
                Refusal::new(Reason::ApprovalDenied, format!("{asked} is denied")).exact();
            refusal.mission = denied.mission;
            return Err(refusal);
        }
        let of = requesters(bundle, agent, intent);
        let asking = (&*unapproved, (agent, intent), of.as_slice());
        let Some(found) = found else {
            return Err(self.ask(None, asking, denied, now).await);
        };
        match (found.record.state, found.record.approval(&of)) {
            (ApprovalState::Approved, Some(approval)) => {
                let approved = intent.clone().approved(approval);
                match bundle.policy.decide(agent, &approved, view, now) {
                    Ok(grant) => Ok(grant),
                    // More people are needed by now, others, or what is left of it is too short.
                    Err(denied) if denied.unapproved.is_some() => {
                        Err(self.ask(Some(found), asking, denied, now).await)
                    }
                    Err(denied) => Err(denied.into()),
                }
            }
            _ => Err(pending(denied, (&found.record, false), now)),
        }
    }

    /// What is remembered under an id and not over; its MAC checked.
    async fn asked_before(&self, id: &str, now: OffsetDateTime) -> Result<Option<Found>, Refusal> {
        let found = self.store.get(&[record::key(id)]).await?;
        let Some(stored) = found.into_iter().next().flatten() else {
            return Ok(None);
        };
        // SECURITY: what somebody else wrote into the store is asked about once more, never believed.
        let record = record::read(&self.sealer, id, &stored.value);
        let version = stored.version;
        let record = record.filter(|record| !record.is_over(now));
        Ok(record.map(|record| Found { record, version }))
    }

    /// Puts it to people. What comes out is why nothing is issued now.
    async fn ask(
        &self,
        old: Option<Found>,
        asking: Asking<'_>,
        denied: Denied,
        now: OffsetDateTime,
    ) -> Refusal {
        match self.put_to_people(old, asking, now).await {
            Ok((record, is_new)) => pending(denied, (&record, is_new), now),
            Err(refusal) => refusal,
        }
    }

    /// `false`: somebody else was faster with the same.
    async fn put_to_people(
        &self,
        old: Option<Found>,
        (unapproved, (agent, intent), of): Asking<'_>,
        now: OffsetDateTime,
    ) -> Result<(Record, bool), Refusal> {
        let asked_for = record::asked(&unapproved.what, intent.goal())?;
        let id = record::draw(&asked_for);
        let caller = agent.caller();
        let who = (agent.agent().owner.as_str(), caller.issuer_url());
        let record = Record::new(id, unapproved, intent, who, (of.to_vec(), now));
        let shard = ShardId::INSTALLATION;
        let waiting = record::waiting(&record.what);
        let key = record::key(&asked_for);
        let foreign = match &old {
            Some(_) => None,
            None => self
                .store
                .get(std::slice::from_ref(&key))
                .await?
                .into_iter()
                .next()
                .flatten(),
        };
        let guard = match (&old, foreign) {
            (Some(old), _) => old.guard(),
            (None, Some(stored)) => Guard::Unchanged(key, stored.version),
            (None, None) => Guard::Absent(key),
        };
        let mut transaction = Transaction::new(shard, now + DEADLINE)
            .local()
            .guard(guard)
            .guard(Guard::Fewer {
                index: waiting.clone(),
                above_rank: record::rank(now),
                than: MOST_WAITING,
            })
            .write(record.put(&self.sealer)?)
            .write(asked(&record, &unapproved.terms, now).append(shard));
        let member = record::member(&record.id);
        for index in [waiting, record::all()] {
            let over = -MAX_RANK..=record::rank(now);
            for old in self.store.range(&index, over, CLEARED).await? {
                if old.member != member {
                    let (index, old) = (index.clone(), old.member);
                    transaction = transaction.write(Write::Unrank { index, member: old });
                }
            }
            transaction = transaction.write(Write::Rank {
                index,
                member: member.clone(),
                rank: record::rank(record.until),
            });
        }
        match settle(self.store.as_ref(), transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok((record, true)),
            Outcome::Conflict { guard: 1 } => {
                let why = format!("{MOST_WAITING} requests of the agent wait for people already");
                Err(Refusal::new(Reason::TooManyRequests, why).exact().after(60))
            }
            Outcome::Conflict { .. } | Outcome::TooLate => {
                let found = self.asked_before(&asked_for, now).await?;
                let why = "it is being asked for already";
                let later = || Refusal::new(Reason::StoreUnavailable, why).after(1);
                Ok((found.ok_or_else(later)?.record, false))
            }
        }
    }

    /// `GET /admin/v1/approvals`: what waits and what is good, the first that is over first.
    pub async fn approvals(&self) -> Result<Page<ApprovalView>, Refusal> {
        let records = self.remembered_approvals(self.clock.now()).await?;
        let views = records
            .iter()
            .map(|one| self.approval_view(one.clone(), &records));
        Ok(Page {
            items: views.collect(),
            next: None,
        })
    }

    async fn remembered_approvals(&self, now: OffsetDateTime) -> Result<Vec<Record>, Refusal> {
        let ranks = record::rank(now)..=MAX_RANK;
        let ranked = self.store.range(&record::all(), ranks, MOST_LISTED).await?;
        let ids: Vec<String> = ranked
            .into_iter()
            .filter_map(|one| String::from_utf8(one.member).ok())
            .filter(|asked| record::is_asked(asked))
            .collect();
        let keys: Vec<_> = ids.iter().map(|id| record::key(id)).collect();
        let found = self.store.get(&keys).await?;
        let records = ids.iter().zip(found).filter_map(|(id, stored)| {
            let record = record::read(&self.sealer, id, &stored?.value)?;
            (!record.is_over(now)).then_some(record)
        });
        Ok(records.collect())
    }

    /// `GET /admin/v1/approvals/{id}`.
    pub async fn approval(&self, id: &str) -> Result<ApprovalView, Refusal> {
        let now = self.clock.now();
        // By its own id: a list may be too full to hold it. The others are for what people said to its like.
        let found = self.found(id, now).await?;
        let others = self.remembered_approvals(now).await?;
        Ok(self.approval_view(found.record, &others))
    }

    async fn found(&self, id: &str, now: OffsetDateTime) -> Result<Found, Refusal> {
        let nothing = || not_found("this approval");
        if !record::is_id(id) {
            return Err(nothing());
        }
        let found = self.asked_before(id, now).await?;
        // Asked anew is another: whoever has looked at the one before has not looked at it.
        let found = found.filter(|found| found.record.id == id);
        found.ok_or_else(nothing)
    }

    /// As the mission says now; the plain terms where a response asked.
    fn terms(&self, record: &Record) -> ApprovalTerms {
        let bundle = self.bundle.load();
        let mission = bundle.policy.mission(&record.what.mission);
        let terms = mission.and_then(|mission| mission.approval.clone());
        terms.unwrap_or_default()
    }

    fn approval_view(&self, record: Record, others: &[Record]) -> ApprovalView {
        let terms = self.terms(&record);
        let alike = |other: &&Record| {
            let (one, two) = (&record.what, &other.what);
            other.state == ApprovalState::Denied
                && other.id != record.id
                && (&one.agent, &one.mission, &one.target)
                    == (&two.agent, &two.mission, &two.target)
        };
        let denied = others.iter().filter(alike);
        let denied_before = denied.map(|other| other.id.clone()).collect();
        let what = record.what;
        let seconds = u32::try_from(record.max_ttl).unwrap_or(u32::MAX);
        let details = what
            .authority
            .to_details(&what.detail_type, &what.target, Some(seconds));
        ApprovalView {
            id: record.id,
            state: record.state,
            agent: what.agent,
            owner: record.owner,
            instance: what.instance,
            mission: what.mission,
            target: what.target,
            authorization_details: details,
            audience: what.audience,
            task: what.task,
            on_behalf_of: what.chain,
            in_person: what.in_person,
            hangs_on: what
                .contexts
                .into_iter()
                .map(|(kind, id)| format!("{kind} {id}"))
                .collect(),
            bound: what.bound,
            denied_before,
            goal: record.goal,
            facts: record.facts.into_iter().collect(),
            issuer: record.issuer_url,
            subject: what.subject,
            asked_at: record.asked_at,
            needed: terms.count,
            approvers: terms.by.into_iter().collect(),
            votes: record.votes,
            until: record.until,
        }
    }
}

/// Why nothing is issued yet, and what to do about it.
fn pending(denied: Denied, (record, is_new): (&Record, bool), now: OffsetDateTime) -> Refusal {
    let by_response = denied
        .unapproved
        .as_ref()
        .and_then(|one| one.by_response.clone());
    let mut refusal = Refusal::from(denied);
    let left = (record.until - now).whole_seconds();
    let waited = u64::try_from((now - record.asked_at).whole_seconds()).unwrap_or(0);
    let waits = Pending {
        approval: record.id.clone(),
        by_response,
        // RFC 8628 section 3.2 begins with 5, too. Whoever has waited for long may wait a little longer.
        interval: (waited / 20).clamp(5, 30),
        expires_in: u64::try_from(left).unwrap_or(0),
        is_new,
    };
    refusal.detail = format!("{} ({})", refusal.detail, record.id);
    refusal.with(Beside::Pending(waits))
}

/// Everybody whom it is from, under each of their names, and the owners of every agent on the way.
fn requesters(bundle: &Bundle, agent: &AdmittedAgent, intent: &Intent) -> Vec<String> {
    let caller = agent.caller();
    let subject = caller.subject().to_owned();
    let mut all = vec![operators::name(&subject, caller.claims()), subject];
    all.extend(owners(agent.agent()));
    let named = |person: &Person| {
        let subject = person.subject().to_owned();
        [operators::name(&subject, person.claims()), subject]
    };
    all.extend(intent.behalf().person().map(named).into_iter().flatten());
    if let Behalf::Parent(parent) = intent.behalf() {
        for principal in parent.extended() {
            match principal {
                Principal::Person { subject, .. } => all.push(subject),
                Principal::Agent { agent, .. } => {
                    let known = bundle.agents.get(&agent);
                    all.extend(
                        known
                            .into_iter()
                            .flat_map(|agent| owners(&agent).collect::<Vec<_>>()),
                    );
                }
            }
        }
    }
    all.sort();
    all.dedup();
    all
}

fn owners(agent: &Agent) -> impl Iterator<Item = String> {
    let owner = std::iter::once(agent.owner.clone());
    owner.chain(agent.backup_owner.clone())
}

fn asked(record: &Record, terms: &ApprovalTerms, now: OffsetDateTime) -> Entry {
    let mut entry = entry(Event::ApprovalAsked, record, now)
        .caller(&record.issuer_url, &record.what.subject)
        .with("goal", record.goal.as_str())
        .with("needed", terms.count);
    let details = record.what.authority.to_details(
        &record.what.detail_type,
        &record.what.target,
        u32::try_from(record.max_ttl).ok(),
    );
    let mut tell = |name: &str, value: Value| {
        entry.detail.insert(name.to_owned(), value);
    };
    tell("authorization_details", json!(details));
    if let Some(task) = &record.what.task {
        tell("task", json!(task));
    }
    entry
}

fn entry(event: Event, record: &Record, now: OffsetDateTime) -> Entry {
    Entry::new(event, now)
        .agent(record.what.agent.as_str())
        .mission(record.what.mission.as_str())
        .target(record.what.target.as_str())
        .with("approval", record.id.as_str())
}

#[cfg(test)]
mod tests;
