//! Who is registered, after a loss: exactly as the last change left it, or nobody, where somebody says so.

use super::{Made, failed};
use crate::agents::registered::{Set, Told};
use crate::audit::{Entry, Event};
use crate::broker::named::Record;
use crate::broker::registered::SLOT;
use crate::cli::Failure;
use crate::fences::{By, Named, NewFence};
use crate::ids::{AgentId, ShardId};
use std::collections::BTreeSet;
use time::OffsetDateTime;

const BY: &str = "dayfly recover";

/// What the store has, with the changes behind it that the audit tells of.
///
/// SECURITY: each has to come to the very set whose hash it told. What does not would be a set that never was,
/// with somebody in it who was removed.
fn again(mut set: Set, number: u64, told: &[Told]) -> Result<Set, String> {
    for told in told.iter().filter(|told| told.named.number > number) {
        let next = set.with(&told.agent, told.definition.as_ref(), told.named.number);
        if next.named(told.named.number)? == told.named {
            set = next;
        }
    }
    Ok(set)
}

impl Made<'_> {
    /// The number of the set that counts; `None`: nobody was ever registered.
    pub(super) async fn registered(
        &self,
        entries: &[Entry],
        now: OffsetDateTime,
    ) -> Result<Option<u64>, Failure> {
        let told = Told::in_audit(entries);
        let view = self.fences.last();
        let last = told.last().map(|told| &told.named).max(view.registered());
        let Some(wanted) = last.cloned() else {
            return Ok(None);
        };
        let found = SLOT.find(self.store.as_ref(), self.sealer).await;
        let stored = found.map_err(failed)?.record;
        let own = stored
            .as_ref()
            .and_then(|record| Some((Set::read(&record.content)?, record.named.number)));
        let (before, number) = own.clone().unwrap_or_default();
        // What lies there may be of a time that never counted: then from the first change on.
        let mut found = None;
        for (set, number) in [(before.clone(), number), (Set::default(), 0)] {
            let set = again(set, number, &told).map_err(Failure::failed)?;
            let is_it = set.named(wanted.number).map_err(Failure::failed)? == wanted;
            found = found.or(is_it.then_some(set));
        }
        // Whatever was given to a name that was changed since.
        let mut names: BTreeSet<AgentId> = told.iter().map(|told| told.agent.clone()).collect();
        let (named, set) = match found {
            Some(set) => (wanted, set),
            None if self.args.without_registered => {
                names.extend(before.agents.into_keys());
                let number = wanted.number.max(number).checked_add(1);
                let number =
                    number.ok_or_else(|| Failure::failed("there is no number after this"))?;
                let nobody = Set::default();
                (nobody.named(number).map_err(Failure::failed)?, nobody)
            }
            None => {
                return Err(Failure::failed(format!(
                    "the registered agents cannot be had: neither the store nor the export comes to those of change {}; give `--export` the exports of all replicas, or add --without-registered to give them up",
                    wanted.number
                )));
            }
        };
        let content = set.content().map_err(Failure::failed)?;
        let record = Record {
            named: named.clone(),
            content,
        };
        if stored.as_ref() != Some(&record) {
            self.put_record(SLOT, &record, now).await?;
        }
        if self.fences.last().registered() != Some(&named) {
            self.say_registered(&named, &names, now).await?;
        }
        Ok(Some(named.number))
    }

    /// The entry that names the set, and the end of whatever those had who were changed.
    async fn say_registered(
        &self,
        named: &Named,
        names: &BTreeSet<AgentId>,
        now: OffsetDateTime,
    ) -> Result<(), Failure> {
        let why = match self.args.without_registered {
            true => "--without-registered",
            false => "the store lost it",
        };
        let ended = names.iter().map(|name| Some(name.as_str()));
        for ended in ended.chain([None]) {
            let fence = NewFence::registering(named.clone(), ended, (BY, why))
                .by(By::Rule("recovery".to_owned()));
            let entry = Entry::new(Event::OperatorAction, now)
                .reason(why)
                .with("by", BY)
                .with("action", "registered_agents_recovered")
                .with("number", named.number)
                .with("sha256", named.sha256.as_str())
                .with("ended", ended);
            let writes = vec![entry.append(ShardId::INSTALLATION)];
            let raised = self.fences.raise_with(fence, Vec::new(), writes, now);
            raised.await.map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
