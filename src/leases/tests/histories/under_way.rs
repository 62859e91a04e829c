//! Requests that go on only after something else has happened, and what was said of ends before they did.
//!
//! A request was decided, or its lease is reserved, or its credential is made; then it is paused for as long as the
//! history likes. What it may become is known all the same: a fence that came between ends it. And once whoever
//! asks was told that all of an end is dead, nothing of what was decided before may come to life: what receipts
//! are made of (how far the shards were swept, what is open, whether the log is replicated) is asked in their order.

use super::{Known, Said, World, of_somebody};
use crate::connectors::{Connector, Minted, RevocationClass};
use crate::fences::{Dimension, DimensionHash, FenceKind};
use crate::leases::{Filter, Lease, LeaseError, MINT_WITHIN, Reserved};
use crate::policy::Grant;
use crate::store::Position;
use std::time::Duration;
use uuid::Uuid;

/// What the store took in: all of it, or the place of what is yet to be made.
enum Taken {
    Issued(Box<Lease>),
    Reserved(Box<Reserved>),
}

enum Stage {
    Decided,
    Reserved(Box<Reserved>),
    Made(Box<Reserved>, Box<Minted>),
}

/// Nobody was answered yet.
pub(super) struct UnderWay {
    at: usize,
    /// Which process of that replica.
    process: u32,
    grant: Grant,
    /// When it was decided.
    since: Duration,
    hashes: Vec<DimensionHash>,
    stage: Stage,
    /// Something that came between is in force.
    ended: bool,
}

/// Of a fence: all that was decided before it is dead.
pub(super) struct Word {
    on: DimensionHash,
    place: Position,
    /// It was counted, too: what was alive is dead downstream.
    confirmed: bool,
}

impl Word {
    fn is_of(&self, hashes: &[DimensionHash], decided: Position) -> bool {
        hashes.contains(&self.on) && decided.sequence < self.place.sequence
    }
}

impl World {
    /// Decides, and does this many of the steps that follow.
    pub(super) async fn begin(&mut self, at: usize, (agent, work): (u8, u8), far: u8) {
        let bench = &self.replicas[at];
        let Ok(view) = bench.fences.fresh() else {
            assert!(!self.doubtful.is_empty());
            return;
        };
        let grant = of_somebody(agent, work).position(view.position());
        let grant = grant.now(bench.now()).max_active(1000).build();
        let hashes: Vec<_> = grant.dimensions().iter().map(Dimension::hash).collect();
        if view.held(&hashes).is_some() {
            return;
        }
        let started = UnderWay {
            at,
            process: self.started[at],
            since: self.since_boot(),
            grant,
            hashes,
            stage: Stage::Decided,
            ended: false,
        };
        self.step_on(started, far).await;
    }

    pub(super) async fn go_on(&mut self, which: usize, far: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let which = which % self.under_way.len();
        let one = self.under_way.swap_remove(which);
        // It was a process that is no more.
        if one.process == self.started[one.at] && !self.replicas[one.at].line.is_dead() {
            self.step_on(one, far).await;
        }
    }

    async fn step_on(&mut self, mut one: UnderWay, far: u8) {
        for _ in 0..far {
            match self.step(one).await {
                Some(next) => one = next,
                None => return,
            }
        }
        self.under_way.push(one);
    }

    /// `None`: it is over, answered or not.
    async fn step(&mut self, mut one: UnderWay) -> Option<UnderWay> {
        // Neither the store nor a downstream takes what comes so late. What was made is always recorded.
        let late = self.since_boot() > one.since + MINT_WITHIN;
        one.stage = match std::mem::replace(&mut one.stage, Stage::Decided) {
            Stage::Decided if late => return None,
            Stage::Decided => self.reserves(&one).await?,
            Stage::Reserved(reserved) => self.makes(&one, (reserved, late)).await?,
            Stage::Made(reserved, minted) => {
                self.activates(&one, (*reserved, *minted)).await;
                return None;
            }
        };
        Some(one)
    }

    async fn reserves(&mut self, one: &UnderWay) -> Option<Stage> {
        let (bench, promises) = (&self.replicas[one.at], self.downstream.promises);
        let draft = bench.leases.draft(&one.grant, &promises, bench.now());
        let taken = if promises.local {
            let context = draft.context(bench.now());
            let minted = self.downstream.mint(&one.grant, context).await.unwrap();
            let issued = bench.leases.issue(draft, &one.grant, minted, bench.now());
            issued
                .await
                .map(|issued| Taken::Issued(Box::new(issued.lease)))
        } else {
            let reserved = bench.leases.reserve(draft, &one.grant, bench.now());
            reserved
                .await
                .map(|reserved| Taken::Reserved(Box::new(reserved)))
        };
        let decided = one.grant.position();
        match taken {
            Ok(taken) => {
                let mut words = self.words.iter();
                // INVARIANT: what a shard was swept past it never takes in.
                let broken = words.any(|word| word.is_of(&one.hashes, decided));
                assert!(!broken, "taken in behind the word that nothing comes");
                match taken {
                    Taken::Reserved(reserved) => return Some(Stage::Reserved(reserved)),
                    Taken::Issued(lease) => self.answers(one, *lease).await,
                }
            }
            // It is decided again, by whoever asks again.
            Err(LeaseError::DecideAgain | LeaseError::Unreplicated) => {}
            Err(error) => {
                let known = self.buried(one.at).await || !self.is_settled();
                assert!(known, "{error}");
            }
        }
        None
    }

    async fn makes(
        &mut self,
        one: &UnderWay,
        (reserved, late): (Box<Reserved>, bool),
    ) -> Option<Stage> {
        let bench = &self.replicas[one.at];
        let made = if late {
            let late = "it did not answer in time".to_owned();
            Err(crate::connectors::ConnectorError::Unknown(late))
        } else {
            let context = reserved.context(bench.now());
            self.downstream.mint(&one.grant, context).await
        };
        match made {
            Ok(minted) => return Some(Stage::Made(reserved, Box::new(minted))),
            Err(error) => {
                let failed = bench.leases.fail(*reserved, &error, bench.now()).await;
                if let Err(error) = failed {
                    let known = self.buried(one.at).await || !self.is_settled();
                    assert!(known, "{error}");
                }
            }
        }
        None
    }

    async fn activates(&mut self, one: &UnderWay, (reserved, minted): (Reserved, Minted)) {
        let bench = &self.replicas[one.at];
        let id = reserved.lease().id;
        if let Ok(Some(lease)) = bench.leases.get(&id).await
            && !lease.state.is_open()
        {
            // It was given up, and has to be ended once more.
            self.given_up.insert(id);
        }
        let view = bench.fences.last();
        let activated = bench.leases.activate(reserved, minted, &view, bench.now());
        match activated.await {
            Ok(issued) => self.answers(one, issued.lease).await,
            Err(LeaseError::Fenced(lease)) => {
                // By the sweeper where this fails.
                drop(bench.sweeper.end_now(&lease.id, bench.now()).await);
                self.buried(one.at).await;
            }
            Err(LeaseError::Unreplicated) => {}
            Err(error) => {
                let known = self.buried(one.at).await || !self.is_settled();
                assert!(known, "{error}");
            }
        }
    }

    /// The view is looked at last; whoever it says is over is given nothing.
    async fn answers(&mut self, one: &UnderWay, lease: Lease) {
        assert!(!self.apart, "handed out, and a failover can lose it");
        let bench = &self.replicas[one.at];
        let view = bench.fences.fresh();
        if view.is_ok_and(|view| lease.ended_by(&view).is_none()) {
            let alive = !one.ended;
            self.known.push(Known { lease, alive });
        } else {
            bench.leases.withhold(&lease, bench.now()).await;
        }
    }

    /// What came between ends what was decided before.
    pub(super) fn ends_under_way(&mut self, said: &Said, place: u64) {
        let hash = said.dimension.hash();
        for one in &mut self.under_way {
            let before = one.grant.position().sequence < place;
            one.ended |= before && one.hashes.contains(&hash);
        }
    }

    /// As a receipt is made: how far the shards were swept, then what is open, then whether all of it is replicated.
    pub(super) async fn ask(&mut self, at: usize, which: usize) {
        let Some((id, on)) = self
            .standing
            .get(which % self.standing.len().max(1))
            .copied()
        else {
            return;
        };
        let bench = &self.replicas[at];
        let Ok(swept) = bench.leases.swept_to().await else {
            return;
        };
        let filter = Filter {
            dimension: Some(on),
            ..Filter::default()
        };
        let Ok(open) = bench.leases.list(&filter, None, 1000).await else {
            return;
        };
        let view = bench.fences.last();
        let Some(place) = view.place_of(&id) else {
            return;
        };
        let past = swept.is_past(place.sequence, view.position().sequence);
        if !past || !bench.fences.all_replicated().await {
            return;
        }
        let before = |lease: &&Lease| {
            let decided = lease.position();
            decided.sequence < place.sequence || !view.knows(decided)
        };
        let mut left = open.leases.iter().filter(before);
        // The broker's own word ends what it made itself.
        let confirmed = left.all(|lease| lease.class == RevocationClass::Broker);
        let confirmed = confirmed && open.unreadable.is_empty();
        self.words.push(Word {
            on,
            place,
            confirmed,
        });
    }

    /// What was said to be dead is dead, and stays so.
    pub(super) fn words_hold(&self) {
        for word in &self.words {
            for known in &self.known {
                let is_of = word.is_of(known.lease.hashes(), known.lease.position());
                assert!(!(is_of && known.alive), "{}", known.lease.id);
            }
            if !word.confirmed || self.lives_on {
                continue;
            }
            let works = self.works();
            for known in &self.known {
                let is_of = word.is_of(known.lease.hashes(), known.lease.position());
                assert!(!is_of || !works.contains(&known.lease.id));
            }
            for one in &self.under_way {
                let id = match &one.stage {
                    Stage::Decided => continue,
                    Stage::Reserved(reserved) | Stage::Made(reserved, _) => reserved.lease().id,
                };
                let is_of = word.is_of(&one.hashes, one.grant.position());
                assert!(
                    !is_of || !works.contains(&id),
                    "{id} works, and was said to be dead"
                );
            }
        }
    }

    fn since_boot(&self) -> Duration {
        use crate::clock::Clock as _;
        self.clock.since_boot()
    }
}

/// A fence that stands, by what a receipt goes by.
pub(super) type Standing = (Uuid, DimensionHash);

pub(super) fn standing(said: &Said) -> Option<Standing> {
    let ends = said.kind != FenceKind::Lift;
    Some((said.id.filter(|_| ends)?, said.dimension.hash()))
}
