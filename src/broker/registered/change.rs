//! Somebody is registered, changed or removed: one commit of the record, the entry on the log that names it
//! and ends what is to be ended, and the audit's.

use super::super::named::Record;
use super::super::publish::TRIES;
use super::super::refusal::Beside;
use super::super::standing;
use super::super::{Broker, Bundle, Operator, Reason, Refusal};
use super::SLOT;
use crate::agents::registered::{
    Definition, MOST, MOST_BYTES, Set, Told, gives_no_less, with_plain_keys,
};
use crate::fences::{Fences, NewFence, Raised};
use crate::ids::{AgentId, ShardId};
use crate::store::Write;
use crate::wire::{RegistrationReceipt, RegistrationRequest, Selector, Subject};

const MAX_REASON: usize = 500;

/// SECURITY: what is wrong quotes the definition, which may be anything, a secret by mistake: it is told to
/// whoever sent it and to no log.
const NO_STAND: &str = "the definition does not stand beside the files";

/// What somebody wants changed.
struct Change<'a> {
    by: &'a Operator,
    id: AgentId,
    /// `None`: it is to be nobody.
    definition: Option<Definition>,
    reason: String,
    /// Only if the set still has this number.
    after: Option<u64>,
}

impl Broker {
    /// `PUT /admin/v1/agents/{id}`: whoever is new, or another definition of whoever is there.
    pub async fn register(
        &self,
        by: &Operator,
        id: AgentId,
        request: RegistrationRequest,
    ) -> Result<RegistrationReceipt, Refusal> {
        self.change(Change {
            by,
            id,
            definition: Some(with_plain_keys(request.agent)),
            reason: request.reason,
            after: request.after,
        })
        .await
    }

    /// `DELETE /admin/v1/agents/{id}`: it is nobody from here on, and what it holds is dead.
    pub async fn remove_agent(
        &self,
        by: &Operator,
        id: AgentId,
        (reason, after): (String, Option<u64>),
    ) -> Result<RegistrationReceipt, Refusal> {
        self.change(Change {
            by,
            id,
            definition: None,
            reason,
            after,
        })
        .await
    }

    async fn change(&self, mut change: Change<'_>) -> Result<RegistrationReceipt, Refusal> {
        let by = change.by;
        if by.break_glass {
            let why = "break-glass never registers anybody";
            return Err(Refusal::new(Reason::NotPermitted, why).exact());
        }
        let reason = &change.reason;
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            let refusal = Refusal::new(Reason::MalformedRequest, "at most 500 characters");
            return Err(refusal.exact().at(Some("reason".to_owned())));
        }
        for _ in 0..TRIES {
            let (view, bundle) = self.deciding().await?;
            let last = view.registered();
            // INVARIANT: from the very set that the log names: nothing begins anew.
            if bundle.joined.named.as_ref() != last {
                self.fences.reach(view.position().sequence + 1).await?;
                continue;
            }
            let number = last.map_or(0, |last| last.number);
            let old = bundle.joined.set.agents.get(&change.id);
            let old = old.map(|old| &old.definition);
            if *change.after.get_or_insert(number) != number {
                let why = format!("{number} is the number of the registered agents");
                return Err(Refusal::new(Reason::RegisteredMeanwhile, why).exact());
            }
            if old.is_some() && old == change.definition.as_ref() {
                // The same once more: the answer to the first may have been lost. It may not stand any more.
                self.may_stand(&change.id, &bundle.joined.set, 0).await?;
                return Ok(RegistrationReceipt {
                    id: change.id,
                    number,
                    ended: false,
                    replicated: true,
                });
            }
            if old.is_none() && change.definition.is_none() {
                let why = format!("nobody is registered as {}", change.id);
                return Err(Refusal::new(Reason::NotFound, why).exact());
            }
            let ended = match (old, &change.definition) {
                (Some(was), Some(is)) => !gives_no_less(was, is),
                // Whatever a namesake was given is not this one's.
                _ => true,
            };
            let is_new = old.is_none();
            let Some((raised, number)) = self.write(&change, (&bundle, ended, is_new)).await?
            else {
                self.fences.reach(view.position().sequence + 1).await?;
                continue;
            };
            self.record.fenced(&raised.fence);
            if ended {
                let selector = Selector::Agent(change.id.clone());
                self.follow_up(&raised, selector).await;
            }
            // It is written: where this replica cannot read it now, the next request does.
            drop(self.settled().await);
            return Ok(RegistrationReceipt {
                id: change.id,
                number,
                ended,
                replicated: raised.replicated,
            });
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many raise fences at once").after(1))
    }

    /// `None`: somebody raised something, or registered, meanwhile.
    async fn write(
        &self,
        change: &Change<'_>,
        (bundle, ended, is_new): (&Bundle, bool, bool),
    ) -> Result<Option<(Raised, u64)>, Refusal> {
        let internal = |why: String| Refusal::new(Reason::Internal, why);
        let now = self.clock.now();
        let view = self.view()?;
        if view.registered() != bundle.joined.named.as_ref() {
            return Ok(None);
        }
        let found = SLOT.find(self.store.as_ref(), &self.sealer).await?;
        let number = found.next(view.registered().map(|last| last.number));
        let number = number.ok_or_else(|| internal("there is no number after this".to_owned()))?;
        let before = &bundle.joined.set;
        let set = before.with(&change.id, change.definition.as_ref(), number);
        let content = set.content().map_err(internal)?;
        if change.definition.is_some() {
            self.may_stand(&change.id, &set, content.len()).await?;
        }
        let told = Told {
            named: set.named(number).map_err(internal)?,
            agent: change.id.clone(),
            definition: change.definition.clone(),
        };
        let record = Record {
            named: told.named.clone(),
            content,
        };
        let put = SLOT.put(&self.sealer, &record);
        let put = put.map_err(|error| internal(error.to_string()))?;
        let entry = told.entry(now).operator(&change.by.name);
        let entry = entry.reason(&change.reason).with("ended", ended);
        let mut writes = vec![put, entry.append(ShardId::INSTALLATION)];
        if is_new {
            // When a namesake was looked at and used says nothing of this one.
            let subject = Subject::Agent(change.id.clone());
            writes.push(Write::Delete(standing::key(&subject)));
        }
        let said = (change.by.name.as_str(), change.reason.as_str());
        let ends = ended.then(|| change.id.as_str());
        let fence = NewFence::registering(told.named, ends, said);
        let guards = vec![found.guard(), Fences::unmoved(&view)];
        let raised = self.fences.raise_with(fence, guards, writes, now).await?;
        Ok(raised.map(|raised| (raised, number)))
    }

    /// Whether this one stands beside the files, and its owners are there.
    async fn may_stand(&self, id: &AgentId, set: &Set, bytes: usize) -> Result<(), Refusal> {
        let refused = |problems: Vec<serde_json::Value>| {
            Refusal::new(Reason::AgentRefused, NO_STAND)
                .with(Beside::Problems(problems))
                .exact()
        };
        let wrong = |code: &str, message: String| {
            let problem =
                serde_json::json!({ "severity": "error", "code": code, "message": message });
            refused(vec![problem])
        };
        if set.agents.len() > MOST || bytes > MOST_BYTES {
            let why = format!("{MOST} agents and {MOST_BYTES} bytes of them are the most");
            return Err(wrong("bad_value", why));
        }
        let read = self.files.load_full().read(set).await?;
        if let Some(problems) = read.problems.get(id) {
            return Err(refused(problems.clone()));
        }
        let agent = read.agents.iter().find(|agent| agent.id == *id);
        let agent = agent.ok_or_else(|| Refusal::new(Reason::Internal, "it was not read"))?;
        for owner in std::iter::once(&agent.owner).chain(&agent.backup_owner) {
            if self.has_left(owner).await? {
                return Err(wrong("bad_value", format!("`{owner}` has left")));
            }
        }
        Ok(())
    }
}
