//! Who is registered, after a loss: exactly as the last change left it, or nobody, where somebody says so.

use super::{Made, failed};
use crate::agents::registered::{Set, Told};
use crate::audit::{self, Entry, Event};
use crate::broker::named::Record;
use crate::broker::registered::SLOT;
use crate::cli::Failure;
use crate::fences::{By, Dimension, DimensionKind, FenceKind, LONGEST_LIFETIME, Named, NewFence};
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

/// Whose leases are ended.
enum Ended {
    /// Whatever was given to names that were changed since.
    Of(BTreeSet<AgentId>),
    /// SECURITY: where nobody can tell who was registered, nobody can tell whose leases those were.
    Everybodys,
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
        let (before, number) = own.unwrap_or_default();
        let names = told.iter().map(|told| told.agent.clone()).collect();
        let (named, set, ended) = match self.made_again((before, number), &told, &wanted)? {
            Some(set) => (wanted, set, Ended::Of(names)),
            None if self.args.without_registered => {
                let number = wanted.number.max(number).checked_add(1);
                let number =
                    number.ok_or_else(|| Failure::failed("there is no number after this"))?;
                let nobody = Set::default();
                let named = nobody.named(number).map_err(Failure::failed)?;
                (named, nobody, Ended::Everybodys)
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
        let is_said = view.registered() == Some(&named);
        // INVARIANT: ends first, and the entry that names the set last. Whoever is interrupted here begins again
        // with all of them, and what the record that is replaced tells is not needed any more.
        if !is_said {
            self.end(&ended, now).await?;
        }
        if stored.as_ref() != Some(&record) {
            self.put_record(SLOT, &record, now).await?;
        }
        if !is_said {
            self.say_registered(&named, &ended, now).await?;
        }
        Ok(Some(named.number))
    }

    /// The set of this name, of what the store has and what the audit tells.
    fn made_again(
        &self,
        (before, number): (Set, u64),
        told: &[Told],
        wanted: &Named,
    ) -> Result<Option<Set>, Failure> {
        let comes_to = |set: Set, number: u64, told: &[Told]| {
            let set = again(set, number, told)?;
            let is_it = set.named(wanted.number)? == *wanted;
            Ok::<_, String>(is_it.then_some(set))
        };
        let own = comes_to(before.clone(), number, told).map_err(Failure::failed)?;
        if own.is_some() {
            return Ok(own);
        }
        // The record may be gone where the logs are whole, and the export has what the store's audit trimmed. What
        // lies there may be of a time that never counted, too: then from the first change on.
        let all = audit::entries(self.export).map_err(failed)?;
        let all = Told::in_audit(&all);
        for (set, number) in [(before, number), (Set::default(), 0)] {
            let made = comes_to(set, number, &all).map_err(Failure::failed)?;
            if made.is_some() {
                return Ok(made);
            }
        }
        Ok(None)
    }

    async fn end(&self, ended: &Ended, now: OffsetDateTime) -> Result<(), Failure> {
        let on = |name: &AgentId| Dimension::new(DimensionKind::Agent, name.as_str());
        let all = match ended {
            Ended::Of(names) => names.iter().map(on).collect(),
            Ended::Everybodys => vec![Dimension::all()],
        };
        for on in all {
            let fence = NewFence::new(FenceKind::Kill, on, BY, self.why_registered())
                .by(By::Rule("recovery".to_owned()))
                .until(now + LONGEST_LIFETIME);
            self.fences.raise(fence, now).await.map_err(failed)?;
        }
        Ok(())
    }

    fn why_registered(&self) -> &'static str {
        match self.args.without_registered {
            true => "--without-registered",
            false => "the store lost it",
        }
    }

    /// The entry that names the set.
    async fn say_registered(
        &self,
        named: &Named,
        ended: &Ended,
        now: OffsetDateTime,
    ) -> Result<(), Failure> {
        let why = self.why_registered();
        let fence = NewFence::registering(named.clone(), None, (BY, why))
            .by(By::Rule("recovery".to_owned()));
        let entry = Entry::new(Event::OperatorAction, now)
            .reason(why)
            .with("by", BY)
            .with("action", "registered_agents_recovered")
            .with("number", named.number)
            .with("sha256", named.sha256.as_str());
        let entry = match ended {
            Ended::Of(names) => {
                entry.with("ended", Vec::from_iter(names.iter().map(AgentId::as_str)))
            }
            Ended::Everybodys => entry.with("ended", "everything"),
        };
        let writes = vec![entry.append(ShardId::INSTALLATION)];
        let raised = self.fences.raise_with(fence, Vec::new(), writes, now);
        raised.await.map(drop).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
