//! The fold against what it must mean, and the following of a log that breaks.

mod anew;
pub(crate) mod fixture;
mod fold;
mod following;
mod forgetting;
mod forks;
mod publishing;
mod registering;
mod restricting;
mod writers;

use super::{Dimension, DimensionKind, Fences, NewFence};
use super::{Fence, FenceKind};
use crate::clock::SystemClock;
use crate::secret::{Sealer, Secret};
use crate::store::Store;
use crate::store::embedded::Embedded;
use fixture::Line;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::datetime;

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

pub(crate) fn store() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory().unwrap())
}

pub(crate) fn sealer() -> Sealer {
    Sealer::new(&[Secret::new(vec![7; 32])]).unwrap()
}

pub(crate) fn agent(name: &str) -> Dimension {
    Dimension::new(DimensionKind::Agent, name)
}

pub(crate) fn fence(kind: FenceKind, dimension: Dimension) -> Fence {
    Fence {
        id: crate::ids::draw_uuid(),
        kind,
        dimension,
        reason: "a test".to_owned(),
        author: "ops@acme.example".to_owned(),
        at: NOW,
        until: None,
        weight: crate::fences::Weight::default(),
        restriction: None,
        rule: None,
        lifts: Vec::new(),
        names: None,
    }
}

pub(crate) fn new(kind: FenceKind, dimension: Dimension) -> NewFence {
    NewFence::new(kind, dimension, "ops@acme.example", "a test")
}

/// A replica that is driven by hand, however slow the machine is.
fn replica(line: &Arc<Line>) -> Fences {
    let store: Arc<dyn Store> = Arc::clone(line) as Arc<dyn Store>;
    let clock = Arc::new(SystemClock::new());
    Fences::idle(store, sealer(), clock, Duration::from_secs(60))
}

async fn follow(fences: &Fences) {
    fences.follow(Duration::ZERO).await.unwrap();
}
