//! Operators shrink what is there: something is taken away on one target, from everybody, for a while.

use super::{Broker, Operator, Reason, Refusal};
use crate::authority::{Authority, Permission, Vocabulary};
use crate::fences::{
    By, Dimension, DimensionKind, Fence, FenceKind, MOST_RESTRICTIONS, NewFence, Restriction,
};
use crate::leases::{Filter, Leases, Standing};
use crate::wire::{
    LeaseView, Page, RestrictionReceipt, RestrictionRequest, RestrictionState, RestrictionView,
};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// Leases named in a receipt.
const LISTED: usize = 1000;
const LONGEST: Duration = Duration::days(30);

impl Broker {
    /// `POST /admin/v1/restrictions`.
    pub async fn restrict(
        &self,
        by: &Operator,
        request: RestrictionRequest,
        dry_run: bool,
    ) -> Result<RestrictionReceipt, Refusal> {
        self.restrict_by((&by.name, By::Operator), request, dry_run)
            .await
    }

    pub(in crate::broker) async fn restrict_by(
        &self,
        (author, by): (&str, By),
        request: RestrictionRequest,
        dry_run: bool,
    ) -> Result<RestrictionReceipt, Refusal> {
        let now = self.clock.now();
        let restriction = self.restriction(&request)?;
        let known = self.fences.last();
        let on_targets = |fence: &&Arc<Fence>| fence.dimension.kind == DimensionKind::Target;
        if known.restrictions().filter(on_targets).count() >= MOST_RESTRICTIONS {
            let problem = format!("{MOST_RESTRICTIONS} restrictions stand: lift one first");
            return Err(Refusal::new(Reason::NotPermitted, problem).exact());
        }
        let target = Dimension::new(DimensionKind::Target, request.target.as_str());
        let lasts = request
            .for_seconds
            .map(|seconds| Duration::seconds(seconds.into()));
        let new = NewFence {
            by,
            until: lasts.map(|lasts| now + lasts),
            restriction: Some(restriction.clone()),
            ..NewFence::new(FenceKind::Restrict, target, author, &request.reason)
        };
        let (view, state) = if dry_run {
            let said = (restriction.clone(), new.reason, new.author);
            (
                shown(None, (&new.dimension, said), (now, new.until))?,
                RestrictionState::DryRun,
            )
        } else {
            // INVARIANT: first the restriction, which is one append; only then is anything counted.
            let raised = self.fences.raise(new, now).await?;
            self.record.fenced(&raised.fence);
            let state = if raised.replicated {
                RestrictionState::InForce
            } else {
                RestrictionState::NotYetReplicated
            };
            (view(&raised.fence, &restriction)?, state)
        };
        let (leases, all_listed) = self.touched(&view, &restriction.denied, now).await?;
        Ok(RestrictionReceipt {
            restriction: view,
            state,
            leases,
            all_listed,
        })
    }

    /// `GET /admin/v1/restrictions`.
    pub fn restrictions(&self) -> Result<Page<RestrictionView>, Refusal> {
        let known = self.view()?;
        let all = known.restrictions().filter_map(|fence| {
            let restriction = fence.restriction.as_ref()?;
            Some(view(fence, restriction))
        });
        Ok(Page {
            items: all.collect::<Result<_, _>>()?,
            next: None,
        })
    }

    /// Ends a restriction before its time. What it ended stays dead.
    pub async fn lift_restriction(
        &self,
        by: &Operator,
        id: uuid::Uuid,
        reason: String,
    ) -> Result<RestrictionReceipt, Refusal> {
        if by.break_glass {
            let problem = "break-glass restricts, it never lifts";
            return Err(Refusal::new(Reason::NotPermitted, problem));
        }
        let now = self.clock.now();
        let known = self.view()?;
        let standing = known.restrictions().find(|fence| fence.id == id);
        let unknown = || Refusal::new(Reason::NotFound, "no such restriction stands").exact();
        let standing = standing.ok_or_else(unknown)?;
        let restriction = standing.restriction.as_ref().ok_or_else(unknown)?;
        let on = Dimension::new(DimensionKind::Restriction, id.to_string());
        let lift = NewFence::new(FenceKind::Lift, on, &by.name, &reason);
        let raised = self.fences.raise(lift, now).await?;
        self.record.fenced(&raised.fence);
        Ok(RestrictionReceipt {
            restriction: view(standing, restriction)?,
            state: if raised.replicated {
                RestrictionState::Lifted
            } else {
                RestrictionState::NotYetReplicated
            },
            leases: Vec::new(),
            all_listed: true,
        })
    }

    pub(in crate::broker) fn restriction(
        &self,
        request: &RestrictionRequest,
    ) -> Result<Restriction, Refusal> {
        let bundle = self.bundle.load();
        let malformed = |what: String, at: &str| {
            let refusal = Refusal::new(Reason::MalformedRequest, what).exact();
            refusal.at(Some(at.to_owned()))
        };
        let target = bundle.policy.target(&request.target).ok_or_else(|| {
            Refusal::new(Reason::NotFound, format!("no target {}", request.target)).exact()
        })?;
        let longest = LONGEST.whole_seconds();
        if request
            .for_seconds
            .is_some_and(|seconds| seconds == 0 || i64::from(seconds) > longest)
        {
            return Err(malformed(format!("from 1 to {longest}"), "for_seconds"));
        }
        if request.reason.trim().is_empty() {
            return Err(malformed("say why".to_owned(), "reason"));
        }
        let mut locations = request.locations.clone();
        if locations.is_empty() {
            locations.push("*".to_owned());
        }
        let denied = Authority(vec![Permission {
            actions: request.actions.clone(),
            locations,
        }]);
        let checked = target.vocabulary.check(&denied);
        checked.map_err(|error| malformed(error.to_string(), "actions"))?;
        Ok(Restriction {
            denied,
            ends_leases: request.end_leases,
            longest: None,
            approval: false,
        })
    }

    /// The live leases that could do any of what is denied, as they were a moment before.
    async fn touched(
        &self,
        restriction: &RestrictionView,
        denied: &Authority,
        now: OffsetDateTime,
    ) -> Result<(Vec<LeaseView>, bool), Refusal> {
        // Shown, never decided on.
        let known = self.fences.last();
        let filter = Filter {
            target: restriction.target.clone(),
            ..Filter::default()
        };
        let mut found = Vec::new();
        let mut next = None;
        loop {
            let page = self.leases.list(&filter, next.as_ref(), 1000).await?;
            for lease in &page.leases {
                let vocabulary = Vocabulary::of_detail_type(&lease.detail_type);
                let free = vocabulary.is_some_and(|vocabulary| {
                    matches!(vocabulary.without(&lease.authority, denied), Ok((_, None)))
                });
                let standing = Leases::standing(lease, &known, now);
                let by_this = lease.ended_by(&known).is_some_and(|ended| {
                    matches!(&ended, crate::fences::EndedBy::Fence(fence) if Some(fence.id) == restriction.id)
                });
                if free || !(standing == Standing::Live || by_this) {
                    continue;
                }
                if found.len() == LISTED {
                    return Ok((found, false));
                }
                found.push(self.show(lease, &known, now));
            }
            next = page.next;
            if next.is_none() {
                return Ok((found, true));
            }
        }
    }
}

fn view(fence: &Fence, restriction: &Restriction) -> Result<RestrictionView, Refusal> {
    let said = (
        restriction.clone(),
        fence.reason.clone(),
        fence.author.clone(),
    );
    let times = (fence.at, fence.until);
    shown(Some(fence.id), (&fence.dimension, said), times)
}

fn shown(
    id: Option<uuid::Uuid>,
    (on, (restriction, reason, by)): (&Dimension, (Restriction, String, String)),
    (at, until): (OffsetDateTime, Option<OffsetDateTime>),
) -> Result<RestrictionView, Refusal> {
    let (target, agent) = match on.kind {
        DimensionKind::Agent => (None, on.value.parse().ok()),
        _ => (on.value.parse().ok(), None),
    };
    if target.is_none() && agent.is_none() {
        let why = "a restriction of no target and no agent";
        return Err(Refusal::new(Reason::Internal, why));
    }
    let mut actions = Vec::new();
    let mut locations = Vec::new();
    for permission in restriction.denied.0 {
        actions.extend(permission.actions);
        locations.extend(permission.locations);
    }
    Ok(RestrictionView {
        id,
        target,
        agent,
        max_ttl: restriction.longest,
        approval: restriction.approval,
        actions,
        locations,
        ends_leases: restriction.ends_leases,
        reason,
        by,
        at,
        until,
    })
}
