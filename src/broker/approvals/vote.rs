//! What people say to a request that waits for them.

use super::record::{self, Found, Record};
use super::{DEADLINE, TRIES, entry};
use crate::audit::Event;
use crate::broker::{Broker, Operator, Reason, Refusal};
use crate::fences::{By, FenceKind, NewFence};
use crate::ids::ShardId;
use crate::policy::approval_dimension;
use crate::store::{Outcome, Transaction, Write, settle};
use crate::wire::{ApprovalState, ApprovalView, Verdict, Vote, VoteRequest};
use time::OffsetDateTime;

const MAX_REASON: usize = 500;

impl Broker {
    /// `POST /admin/v1/approvals/{id}/approve` and `/deny`, and whether a no is on enough replicas of the
    /// store.
    pub async fn vote(
        &self,
        by: &Operator,
        (id, verdict): (&str, Verdict),
        request: VoteRequest,
    ) -> Result<(ApprovalView, bool), Refusal> {
        let now = self.clock.now();
        let is_text = |text: &String| {
            text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control)
        };
        if !request.reason.as_ref().is_none_or(is_text) {
            let malformed = Refusal::new(Reason::MalformedRequest, "at most 500 characters");
            return Err(malformed.exact().at(Some("reason".to_owned())));
        }
        for _ in 0..TRIES {
            let mut found = self.found(id, now).await?;
            self.may_vote(by, &found.record, verdict)?;
            let before = found.record.clone();
            let vote = Vote {
                by: by.name.clone(),
                verdict,
                at: now,
                reason: request.reason.clone(),
            };
            let terms = self.terms(&found.record);
            found.record.take((vote, by.subject.clone()), &terms);
            let written = match verdict {
                Verdict::Approve => self.say_yes(&found, by, now).await?.then_some(true),
                Verdict::Deny => self.say_no(&found, (by, &before), now).await?,
            };
            if let Some(replicated) = written {
                let record = found.record;
                return Ok((self.approval_view(record, &[]), replicated));
            }
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many change it at once").after(1))
    }

    /// SECURITY: nobody approves what they ask for, or what their own agent does.
    fn may_vote(&self, by: &Operator, record: &Record, verdict: Verdict) -> Result<(), Refusal> {
        let no = |why: String| Err(Refusal::new(Reason::NotPermitted, why).exact());
        if verdict == Verdict::Deny {
            // Whoever may review may stop it, the agent's own people first of all.
            return match record.state {
                ApprovalState::Denied => no(format!("{} is denied already", record.id)),
                _ => Ok(()),
            };
        }
        if record.state == ApprovalState::Denied {
            return no(format!("{} is denied", record.id));
        }
        if by.break_glass {
            return no("break-glass takes away, it never approves".to_owned());
        }
        let mut own = record.requesters.clone();
        // Who owns it now, too.
        let bundle = self.bundle.load();
        if let Some(agent) = bundle.agents.get(&record.what.agent) {
            own.push(agent.owner.clone());
            own.extend(agent.backup_owner.clone());
        }
        let is_own = |name: &String| own.iter().any(|known| record::is_same(known, name));
        if is_own(&by.name) || by.subject.as_ref().is_some_and(is_own) {
            return no(format!(
                "{} asks for it or owns the agent that does",
                by.name
            ));
        }
        // SECURITY: owners are addresses, and a sign-in without one could be anybody's.
        if by.subject.is_some() && !by.name.contains('@') {
            return no(format!(
                "the sign-in of {} has no `email` that its issuer vouches for",
                by.name
            ));
        }
        let terms = self.terms(record);
        if !terms.by.is_empty() && !terms.by.contains(&by.name) {
            return no(format!(
                "{} names others to approve it",
                record.what.mission
            ));
        }
        Ok(())
    }

    /// `false`: somebody else said something meanwhile.
    async fn say_yes(
        &self,
        found: &Found,
        by: &Operator,
        now: OffsetDateTime,
    ) -> Result<bool, Refusal> {
        let record = &found.record;
        let shard = ShardId::INSTALLATION;
        let told = entry(Event::Approved, record, now)
            .operator(by.name.as_str())
            .with("state", state(record.state))
            .with("why", why(record));
        let transaction = Transaction::new(shard, now + DEADLINE)
            .local()
            .guard(found.guard())
            .write(told.append(shard));
        let transaction = self
            .remember_vote(record)?
            .into_iter()
            .fold(transaction, Transaction::write);
        Ok(matches!(
            settle(self.store.as_ref(), transaction).await?,
            Outcome::Applied { .. } | Outcome::Unreplicated { .. }
        ))
    }

    /// A hold on what hangs on it: no failover of the store and no replica that is behind brings a yes back.
    async fn say_no(
        &self,
        found: &Found,
        (by, before): (&Operator, &Record),
        now: OffsetDateTime,
    ) -> Result<Option<bool>, Refusal> {
        let record = &found.record;
        let shard = ShardId::INSTALLATION;
        let why = why(record);
        let fence = NewFence::new(
            FenceKind::Hold,
            approval_dimension(record::key_of(&record.id)),
            &by.name,
            &why,
        );
        let fence = fence.by(By::Operator).until(record.until);
        let told = entry(Event::ApprovalDenied, record, now)
            .operator(by.name.as_str())
            .with("was", state(before.state))
            .with("why", why);
        let mut writes = vec![told.append(shard)];
        writes.extend(self.remember_vote(record)?);
        let raised = self
            .fences
            .raise_with(fence, vec![found.guard()], writes, now);
        let raised = raised.await?;
        if let Some(raised) = &raised {
            self.record.fenced(&raised.fence);
        }
        Ok(raised.map(|raised| raised.replicated))
    }

    fn remember_vote(&self, record: &Record) -> Result<Vec<Write>, Refusal> {
        let member = || record::member(&record.id);
        let mut writes = vec![
            record.put(&self.sealer)?,
            Write::Rank {
                index: record::all(),
                member: member(),
                rank: record::rank(record.until),
            },
        ];
        if record.state != ApprovalState::Pending {
            let index = record::waiting(&record.what);
            let member = member();
            writes.push(Write::Unrank { index, member });
        }
        Ok(writes)
    }
}

fn state(state: ApprovalState) -> &'static str {
    match state {
        ApprovalState::Pending => "pending",
        ApprovalState::Approved => "approved",
        ApprovalState::Denied => "denied",
    }
}

fn why(record: &Record) -> String {
    let last = record.votes.last().and_then(|vote| vote.reason.clone());
    last.unwrap_or_else(|| state(record.state).to_owned())
}
