//! Operators end things: one append, whatever the number of leases, and a receipt that tells the
//! truth about what is dead where.

use super::receipts::receipt;
use super::standing::{Said, TRIES};
use super::{Broker, Operator, Reason, Refusal, Role};
use crate::agents::{Stage, Turn};
use crate::connectors::RevocationClass;
use crate::fences::{
    Dimension, DimensionKind, FenceKind, LONGEST_LIFETIME, NewFence, View, Weight,
};
use crate::ids::{AgentId, LeaseId, TargetId};
use crate::intent::Principal;
use crate::leases::{Filter, Lease, Leases, LookedUp, Standing, State};
use crate::wire::{RevocationReceipt, RevocationRequest, RevocationState, Selector, Subject};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use time::OffsetDateTime;

/// Open leases that a fence covers.
#[derive(Debug, Default)]
pub(in crate::broker) struct Coverage {
    /// Where the fence lies on the log, once it does: what was decided behind it, it does not cover.
    pub fence: Option<u64>,
    pub live: u64,
    /// Must be dead downstream and are not confirmed yet.
    pub outstanding: u64,
    /// Cannot be ended downstream: they die of age.
    pub until_expiry: u64,
    pub by_class: BTreeMap<String, u64>,
    /// Those of them that something has ended, and not what was made since.
    pub owed: BTreeMap<String, u64>,
    pub agents: BTreeSet<AgentId>,
    pub targets: BTreeSet<TargetId>,
    /// Nobody can say whether it covers these.
    pub unreadable: BTreeSet<LeaseId>,
    /// The same, but an operator has said that nobody waits for them any more.
    pub given_up: BTreeSet<LeaseId>,
    /// What else may come of what was decided before the fence.
    pub to_come: ToCome,
}

/// What a request that has not read a fence may still write that the fence covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::broker) enum ToCome {
    /// Leases on any shard, until the shard was swept.
    #[default]
    Anything,
    /// The one lease that the fence is on may be handed on: its record does not say yet that it is over.
    Handing,
    /// It was handed on to nobody, and is over.
    Nothing,
}

impl Coverage {
    fn add(&mut self, lease: &Lease, view: &View, now: OffsetDateTime) {
        let decided = lease.position();
        let is_behind = self.fence.is_some_and(|fence| decided.sequence >= fence);
        if is_behind && view.knows(decided) {
            return;
        }
        let live = Leases::standing(lease, view, now) == Standing::Live;
        self.live += u64::from(live);
        // INVARIANT: a lease that a fence covers is owed an end from the fence on, not only once
        // the sweeper has marked it: until then its credential works downstream all the same.
        let owed = lease.state != State::Active || !live;
        match lease.class {
            _ if !owed => {}
            _ if lease.state == State::Unclaimed => self.until_expiry += 1,
            RevocationClass::Expiry => self.until_expiry += 1,
            RevocationClass::Native | RevocationClass::Deny => self.outstanding += 1,
            // The broker's own word ended it.
            RevocationClass::Broker => {}
        }
        let class = lease.class.as_str();
        *self.by_class.entry(class.to_owned()).or_default() += 1;
        if owed {
            *self.owed.entry(class.to_owned()).or_default() += 1;
        }
        self.agents.insert(lease.agent.clone());
        self.targets.insert(lease.target.clone());
    }
}

impl Broker {
    /// `POST /admin/v1/revocations`.
    pub async fn revoke(
        &self,
        by: &Operator,
        request: RevocationRequest,
        dry_run: bool,
    ) -> Result<RevocationReceipt, Refusal> {
        let now = self.clock.now();
        let dimension = self.dimension(&request.selector).await?;
        let holds = !request.kill_only && holds_by_default(&request.selector);
        let retires = request.retire;
        if retires && (!holds || subject(&request.selector).is_none()) {
            let why = "an agent or a mission is retired, and not by a kill alone";
            let at = Some("retire".to_owned());
            return Err(Refusal::new(Reason::MalformedRequest, why).exact().at(at));
        }
        if dry_run {
            let coverage = self.covered(&dimension, None, now).await?;
            let state = RevocationState::DryRun;
            return Ok(receipt(
                (None, None),
                request.selector,
                state,
                (holds, Some(coverage)),
            ));
        }
        let kind = if holds {
            FenceKind::Hold
        } else {
            FenceKind::Kill
        };
        let mut fence = NewFence::new(kind, dimension, &by.name, &request.reason);
        fence.until = (!holds).then_some(now + LONGEST_LIFETIME);
        if retires {
            fence = fence.weight(Weight::Retirement);
        }
        self.fence(fence, request.selector, now).await
    }

    /// Ends a hold. What it killed stays dead.
    pub async fn lift(
        &self,
        by: &Operator,
        selector: Selector,
        reason: String,
    ) -> Result<RevocationReceipt, Refusal> {
        if by.break_glass {
            return Err(Refusal::new(
                Reason::NotPermitted,
                "break-glass holds, it never lifts",
            ));
        }
        let now = self.clock.now();
        let dimension = dimension(&selector);
        let held = self.view()?.held(&[dimension.hash()]);
        let stage = Stage::of(held.map(|hold| hold.weight));
        let turn = match stage {
            Stage::Active => {
                return Err(Refusal::new(Reason::NotFound, "no hold stands on it").exact());
            }
            Stage::UnderReview | Stage::Suspended => Turn::Resume,
            Stage::Retired => Turn::Reinstate,
        };
        if stage.after(turn).is_none() {
            let why = "its review is overdue: review it, that lifts the hold";
            return Err(Refusal::new(Reason::NotPermitted, why).exact());
        }
        if turn == Turn::Reinstate && by.role < Role::Admin {
            let why = "it is retired: only an admin takes that back";
            return Err(Refusal::new(Reason::NotPermitted, why).exact());
        }
        let Some(subject) = subject(&selector) else {
            if let Selector::Owner(owner) = &selector {
                let raised = self.lift_owner(by, owner, &reason).await?;
                return Ok(self.receive(raised, selector).await);
            }
            let fence = NewFence::new(FenceKind::Lift, dimension, &by.name, &reason);
            return self.fence(fence, selector, now).await;
        };
        for _ in 0..TRIES {
            let mut found = self.remember(&subject, now).await?;
            found.begin_anew();
            found.record.resume(now);
            let said = Said::By(by.name.clone());
            let said = (&said, reason.as_str());
            if let Some(raised) = self.turn((&subject, turn), said, &found, now).await? {
                return Ok(self.receive(raised, selector).await);
            }
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many change it at once").after(1))
    }

    /// Raises the fence and keeps what its receipt needs.
    pub(in crate::broker) async fn fence(
        &self,
        fence: NewFence,
        selector: Selector,
        now: OffsetDateTime,
    ) -> Result<RevocationReceipt, Refusal> {
        // INVARIANT: first the fence, which is one append; only then is anything counted.
        let raised = self.fences.raise(fence, now).await?;
        self.record.fenced(&raised.fence);
        Ok(self.receive(raised, selector).await)
    }

    /// What a fence on this dimension covers: what is alive, what is being ended, what cannot be.
    pub(in crate::broker) async fn covered(
        &self,
        dimension: &Dimension,
        fence: Option<u64>,
        now: OffsetDateTime,
    ) -> Result<Coverage, Refusal> {
        // Shown, never decided on: whoever revokes while the view is stale is told what was done.
        let view = self.fences.last();
        let mut coverage = Coverage {
            fence,
            ..Coverage::default()
        };
        let mut filter = Filter {
            dimension: Some(dimension.hash()),
            ..Filter::default()
        };
        match dimension.kind {
            DimensionKind::Lease => {
                let Some(lease) = self.only_lease(dimension, &mut coverage).await? else {
                    // INVARIANT: one that cannot be read may have been handed on.
                    if coverage.to_come == ToCome::Anything {
                        filter.children = true;
                        self.cover(&filter, &mut coverage, &view, now).await?;
                    }
                    return Ok(coverage);
                };
                // INVARIANT: ids are drawn anew, so a fence on a lease can only hit one that is there, and what it
                // was handed on to. Of that nothing can come any more once the record says that it is over.
                coverage.to_come = match lease.state {
                    State::Reserved | State::Active => ToCome::Handing,
                    _ if lease.handed_on => ToCome::Anything,
                    _ => ToCome::Nothing,
                };
                // One that was handed on itself is found among those.
                let found = lease.handed_on && lease.parent.is_some();
                if lease.state.is_open() && !found {
                    coverage.add(&lease, &view, now);
                }
                if lease.handed_on {
                    filter.children = true;
                    self.cover(&filter, &mut coverage, &view, now).await?;
                }
            }
            // An agent's leases are on one shard; what was handed on from them may be anywhere.
            DimensionKind::Agent => {
                filter.agent = dimension.value.parse().ok();
                self.cover(&filter, &mut coverage, &view, now).await?;
                filter.not_agent = filter.agent.take();
                filter.children = true;
                self.cover(&filter, &mut coverage, &view, now).await?;
            }
            _ => self.cover(&filter, &mut coverage, &view, now).await?,
        }
        Ok(coverage)
    }

    async fn only_lease(
        &self,
        dimension: &Dimension,
        coverage: &mut Coverage,
    ) -> Result<Option<Lease>, Refusal> {
        coverage.to_come = ToCome::Nothing;
        let Ok(id) = dimension.value.parse::<LeaseId>() else {
            return Ok(None);
        };
        match self.leases.look_up(&id).await? {
            LookedUp::Nothing => return Ok(None),
            LookedUp::Lease(lease) => return Ok(Some(*lease)),
            LookedUp::Unreadable => coverage.unreadable.insert(id),
            LookedUp::GivenUp => coverage.given_up.insert(id),
        };
        coverage.to_come = ToCome::Anything;
        Ok(None)
    }

    /// A delegation goes by any of its leases, and is ended from its root on.
    async fn dimension(&self, selector: &Selector) -> Result<Dimension, Refusal> {
        if let Selector::Delegation(id) = selector
            && let Some(lease) = self.leases.get(id).await?
            && let Some(root) = lease.chain.iter().find_map(Principal::lease)
        {
            return Ok(Dimension::new(DimensionKind::Lease, root.to_string()));
        }
        Ok(dimension(selector))
    }

    pub(in crate::broker) async fn cover(
        &self,
        filter: &Filter,
        coverage: &mut Coverage,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let mut told = HashSet::new();
        // INVARIANT: whoever is marked moves to the front of its index, once. A walk that was behind it misses
        // it; a second one does not. Nothing may be called confirmed that was missed.
        for _ in 0..2 {
            let mut next = None;
            loop {
                let page = self.leases.list(filter, next.as_ref(), 1000).await?;
                for lease in page.leases.iter().filter(|lease| told.insert(lease.id)) {
                    coverage.add(lease, view, now);
                }
                coverage.unreadable.extend(page.unreadable);
                coverage.given_up.extend(page.given_up);
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
            if coverage.outstanding > 0 || !coverage.unreadable.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// Every selector but those of single credentials also refuses new ones until lifted.
fn holds_by_default(selector: &Selector) -> bool {
    !matches!(
        selector,
        Selector::Lease(_) | Selector::Delegation(_) | Selector::SigningKey(_)
    )
}

/// What has a stage: an agent or a mission.
fn subject(selector: &Selector) -> Option<Subject> {
    match selector {
        Selector::Agent(id) => Some(Subject::Agent(id.clone())),
        Selector::Mission(id) => Some(Subject::Mission(id.clone())),
        _ => None,
    }
}

pub(in crate::broker) fn dimension(selector: &Selector) -> Dimension {
    use DimensionKind as Kind;
    match selector {
        // Everything that was handed on from a lease hangs on it.
        Selector::Lease(id) | Selector::Delegation(id) => {
            Dimension::new(Kind::Lease, id.to_string())
        }
        Selector::Agent(id) => Dimension::new(Kind::Agent, id.as_str()),
        Selector::Mission(id) => Dimension::new(Kind::Mission, id.as_str()),
        Selector::Target(id) => Dimension::new(Kind::Target, id.as_str()),
        Selector::Owner(owner) => Dimension::new(Kind::Owner, owner),
        Selector::Issuer(url) => Dimension::new(Kind::Issuer, url),
        Selector::Subject { issuer, subject } => Dimension::subject(issuer, subject),
        Selector::Task(task) => Dimension::new(Kind::Task, task),
        Selector::Instance { agent, instance } => Dimension::instance(agent.as_str(), instance),
        Selector::Context { issuer, kind, id } => Dimension::context(issuer, kind, id),
        Selector::Label { name, value } => Dimension::label(name, value),
        Selector::SigningKey(kid) => Dimension::new(Kind::SigningKey, kid),
        Selector::IssuerKey(thumbprint) => Dimension::new(Kind::IssuerKey, thumbprint),
        Selector::All => Dimension::all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    #[test]
    fn only_a_single_credential_is_ended_without_a_hold() {
        let lease = LeaseId::draw(ShardId::of(&"a".parse().unwrap(), None));
        assert!(!holds_by_default(&Selector::Lease(lease)));
        assert!(!holds_by_default(&Selector::Delegation(lease)));
        assert!(holds_by_default(&Selector::Agent("a".parse().unwrap())));
        assert!(holds_by_default(&Selector::All));
    }

    #[test]
    fn selectors_of_different_kinds_never_meet() {
        let name = "same";
        let kinds = [
            Selector::Agent(name.parse().unwrap()),
            Selector::Mission(name.parse().unwrap()),
            Selector::Target(name.parse().unwrap()),
            Selector::Owner(name.to_owned()),
            Selector::Issuer(name.to_owned()),
            Selector::Task(name.to_owned()),
            Selector::IssuerKey(name.to_owned()),
            Selector::SigningKey(name.to_owned()),
        ];
        let hashes: BTreeSet<_> = kinds
            .iter()
            .map(|selector| dimension(selector).hash())
            .collect();
        assert_eq!(hashes.len(), kinds.len());
    }
}
