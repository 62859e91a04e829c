//! Random histories of two replicas on one store, against a plain set of what is alive.
//!
//! Minting, handing on, ending by every selector, holding, lifting, expiring; requests that are paused half way
//! and go on later; whether what was ended is all dead, asked at any time; processes that die at
//! a commit, answers that are lost; of the embedded store, its file as a crash leaves it; of Redis,
//! restarts, replicas that are cut off and failovers that lose what nobody was told is safe; a downstream that
//! makes what nobody hears of, refuses, hangs, leaves rubbish or ends nothing, whose credentials can be
//! named, or found by their handle alone, or ended by nobody. After every step every replica must say of
//! every credential what the set says, and whatever works downstream is on an open record; in the end
//! nothing works, each lease has one end in the audit, and the audit verifies. `PROPTEST_CASES` tries
//! more of them.
//!
//! What was acknowledged holds, whatever happens. What was not is in force where it was raised, and
//! is put back by whoever holds it; it is lost only with everybody who does.

mod lost_marks;
mod under_way;

use super::bench::{Bench, Downstream, store};
use crate::audit::{self, Sealing};
use crate::clock::Clock;
use crate::connectors::RevocationClass;
use crate::fences::tests::fixture::{Advanced, Death};
use crate::fences::{Dimension, DimensionKind, FenceKind, NewFence, log};
use crate::ids::{self, LeaseId, ShardId};
use crate::leases::{Filter, Lease, LeaseError, Leases, Standing, State};
use crate::policy::Grant;
use crate::secret::{Sealer, Secret};
use crate::store::embedded::Embedded;
use crate::store::redis::tests::support::RedisServer;
use crate::store::redis::{Redis, RedisSettings};
use crate::store::{Position, Store, Tail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use under_way::{Standing as Stands, UnderWay, Word};
use uuid::Uuid;

/// What an end stands on: everything that `revoke` can select by.
const SELECTORS: [DimensionKind; 14] = [
    DimensionKind::Lease,
    DimensionKind::Agent,
    DimensionKind::Instance,
    DimensionKind::Mission,
    DimensionKind::Target,
    DimensionKind::Owner,
    DimensionKind::Issuer,
    DimensionKind::IssuerKey,
    DimensionKind::Subject,
    DimensionKind::Task,
    DimensionKind::Context,
    DimensionKind::Label,
    DimensionKind::SigningKey,
    DimensionKind::All,
];

/// `at`: the replica that is asked.
#[derive(Debug, Clone)]
enum Op {
    Mint {
        at: usize,
        agent: u8,
        work: u8,
        of: Option<usize>,
    },
    End {
        at: usize,
        which: usize,
        selector: usize,
        hold: bool,
    },
    Release {
        at: usize,
        which: usize,
    },
    Lift {
        at: usize,
        which: usize,
    },
    Sweep {
        at: usize,
    },
    Later(u64),
    /// At one of its next commits.
    Dies {
        at: usize,
        commit: i64,
        applied: bool,
    },
    LosesAnAnswer {
        at: usize,
    },
    /// Decides, and does so many of the steps that follow; the rest waits.
    Begin {
        at: usize,
        agent: u8,
        work: u8,
        far: u8,
    },
    /// Of a request that waits, the next steps.
    GoOn {
        which: usize,
        far: u8,
    },
    /// Whether all of an end is dead.
    Ask {
        at: usize,
        which: usize,
    },
    /// Redis: the primary is killed, and started again on what its disk has.
    Restart,
    /// Redis: nobody acknowledges what the primary writes.
    Apart,
    Together,
    /// Redis: whoever was cut off takes over with what it has. Before anybody reads on, something
    /// may be written to it.
    Failover(Option<Box<Op>>),
    /// The embedded store: everything dies, and the file is opened again; or, as it is at that
    /// moment, a copy of it.
    Crash {
        copied: bool,
    },
    /// From now on, or no more.
    Downstream(Trouble, bool),
}

/// What a downstream may be like.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// It makes nothing and ends nothing, and says so.
    OutOfOrder,
    /// It makes one and nobody hears of it.
    LosesAnswers,
    LeavesRubbish,
    /// It says that what it made lives on until it expires.
    CannotEnd,
    /// Whoever wants something ended hears nothing.
    Hangs,
}

const TROUBLES: [Trouble; 5] = [
    Trouble::OutOfOrder,
    Trouble::LosesAnswers,
    Trouble::LeavesRubbish,
    Trouble::CannotEnd,
    Trouble::Hangs,
];

fn op() -> impl Strategy<Value = Op> {
    let at = 0..2_usize;
    let mint = (at.clone(), 0..3_u8, 0..2_u8, 0..1000_usize, 0..4_u8).prop_map(
        |(at, agent, work, of, handed)| Op::Mint {
            at,
            agent,
            work,
            of: (handed == 0).then_some(of),
        },
    );
    let end = (at.clone(), 0..1000_usize, 0..SELECTORS.len(), any::<bool>()).prop_map(
        |(at, which, selector, hold)| Op::End {
            at,
            which,
            selector,
            hold,
        },
    );
    let which = (at.clone(), 0..1000_usize);
    let begin = (at.clone(), 0..3_u8, 0..2_u8, 0..3_u8);
    let begin = begin.prop_map(|(at, agent, work, far)| Op::Begin {
        at,
        agent,
        work,
        far,
    });
    let go_on = (0..1000_usize, 1..4_u8).prop_map(|(which, far)| Op::GoOn { which, far });
    let meanwhile = prop::option::of(prop_oneof![mint.clone(), end.clone()].prop_map(Box::new));
    prop_oneof![
        8 => mint,
        4 => end,
        5 => begin,
        5 => go_on,
        4 => which.clone().prop_map(|(at, which)| Op::Ask { at, which }),
        1 => Just(Op::Restart),
        2 => which.clone().prop_map(|(at, which)| Op::Release { at, which }),
        3 => which.prop_map(|(at, which)| Op::Lift { at, which }),
        3 => at.clone().prop_map(|at| Op::Sweep { at }),
        2 => (1..400_u64).prop_map(Op::Later),
        2 => (at.clone(), 1..4_i64, any::<bool>())
            .prop_map(|(at, commit, applied)| Op::Dies { at, commit, applied }),
        1 => at.prop_map(|at| Op::LosesAnAnswer { at }),
        2 => Just(Op::Apart),
        1 => Just(Op::Together),
        2 => meanwhile.prop_map(Op::Failover),
        1 => any::<bool>().prop_map(|copied| Op::Crash { copied }),
        3 => (0..TROUBLES.len(), any::<bool>())
            .prop_map(|(trouble, on)| Op::Downstream(TROUBLES[trouble], on)),
    ]
}

/// A credential that somebody was given.
struct Known {
    lease: Lease,
    alive: bool,
}

/// What was raised.
#[derive(Clone)]
struct Said {
    /// `None`: whoever raised it died before it said so.
    id: Option<Uuid>,
    kind: FenceKind,
    dimension: Dimension,
    /// The holds that it ends.
    lifts: Vec<Uuid>,
    /// Credentials that were known before it.
    known: usize,
}

/// Nobody was told that it stays.
struct Doubtful {
    said: Said,
    /// Replicas that have it, and as which process.
    holders: Vec<(usize, u32)>,
}

/// Where it all lies.
enum Place {
    File(tempfile::TempDir, u32),
    /// The second one follows the first, or is cut off.
    Redis(RedisServer, RedisServer),
}

struct World {
    store: Arc<dyn Store>,
    place: Place,
    /// Nobody acknowledges anything.
    apart: bool,
    doubtful: Vec<Doubtful>,
    /// How often each replica was started.
    started: Vec<u32>,
    downstream: Arc<Downstream>,
    clock: Arc<Advanced>,
    replicas: Vec<Bench>,
    known: Vec<Known>,
    held: Vec<(Uuid, Dimension)>,
    under_way: Vec<UnderWay>,
    /// Closed before what was made for it was recorded.
    given_up: BTreeSet<LeaseId>,
    /// What ends something, and what was said of it.
    standing: Vec<Stands>,
    words: Vec<Word>,
    /// Forks that were mended.
    forks: u32,
    /// Something that was made may live until it expires, and nobody can help it.
    lives_on: bool,
}

fn follower_of(port: u16) -> RedisServer {
    let port = port.to_string();
    let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    let follow = ["--replicaof", "127.0.0.1", port.as_str()];
    RedisServer::start(&[arguments.as_slice(), follow.as_slice()].concat())
        .unwrap()
        .unwrap()
}

/// Until it follows, so that it acknowledges.
async fn until_online(primary: &RedisServer) {
    for _ in 0..500 {
        let told = primary.command("INFO replication").unwrap_or_default();
        if told.contains("state=online") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody follows");
}

async fn connect(primary: &RedisServer) -> Arc<dyn Store> {
    until_online(primary).await;
    let settings = RedisSettings {
        min_replicas: 1,
        replica_timeout: Duration::from_millis(100),
        ..RedisSettings::new(Secret::new(primary.url()))
    };
    Arc::new(Redis::connect(settings).await.unwrap())
}

fn open(folder: &tempfile::TempDir, number: u32) -> Arc<dyn Store> {
    Arc::new(Embedded::open(&file(folder, number)).unwrap())
}

fn file(folder: &tempfile::TempDir, number: u32) -> PathBuf {
    folder.path().join(format!("{number}.redb"))
}

impl World {
    async fn new((class, named): (RevocationClass, bool), place: Place) -> Self {
        let store = match &place {
            Place::Redis(primary, _) => connect(primary).await,
            Place::File(folder, number) => open(folder, *number),
        };
        let (downstream, clock) = (Downstream::new(class, named), Advanced::new());
        let mut world = Self {
            store,
            place,
            apart: false,
            doubtful: Vec::new(),
            started: vec![0; 2],
            downstream,
            clock,
            replicas: Vec::new(),
            known: Vec::new(),
            held: Vec::new(),
            under_way: Vec::new(),
            given_up: BTreeSet::new(),
            standing: Vec::new(),
            words: Vec::new(),
            forks: 0,
            lives_on: class == RevocationClass::Expiry || !named,
        };
        for _ in 0..2 {
            let started = world.start().await;
            world.replicas.push(started);
        }
        world
    }

    async fn start(&self) -> Bench {
        // A replica that has just come, or is busy, acknowledges late.
        let log = log();
        for _ in 0..100 {
            let read = self.store.tail(&log, Position::ORIGIN, 1, Duration::ZERO);
            if read.await.is_ok() {
                break;
            }
        }
        let (store, downstream) = (Arc::clone(&self.store), Arc::clone(&self.downstream));
        let mut bench = Bench::on(store, downstream, Arc::clone(&self.clock)).await;
        bench.sweeper.patience = Duration::from_millis(20);
        bench
    }

    /// A process that died is started anew on the same store, as soon as that says anything for
    /// certain. Whether it had.
    async fn buried(&mut self, at: usize) -> bool {
        if !self.replicas[at].line.is_dead() {
            return false;
        }
        if !self.apart {
            self.replicas[at] = self.start().await;
            self.started[at] += 1;
        }
        true
    }

    async fn play(&mut self, op: &Op) {
        let asked = match op {
            Op::Mint { at, .. }
            | Op::Begin { at, .. }
            | Op::Ask { at, .. }
            | Op::End { at, .. }
            | Op::Release { at, .. }
            | Op::Lift { at, .. }
            | Op::Sweep { at } => Some(*at),
            _ => None,
        };
        // It died while nobody could be started.
        if asked.is_some_and(|at| self.replicas[at].line.is_dead()) {
            return;
        }
        match op {
            Op::Mint {
                at,
                agent,
                work,
                of,
            } => self.mint(*at, *agent, *work, *of).await,
            Op::End {
                at,
                which,
                selector,
                hold,
            } => self.end(*at, *which, SELECTORS[*selector], *hold).await,
            Op::Release { at, which } => self.release(*at, *which).await,
            Op::Lift { at, which } => self.lift(*at, *which).await,
            Op::Sweep { at } => self.sweep(*at).await,
            Op::Later(seconds) => self.clock.advance(Duration::from_secs(*seconds)),
            Op::Dies {
                at,
                commit,
                applied,
            } => {
                let death = if *applied {
                    Death::After
                } else {
                    Death::Before
                };
                self.replicas[*at].line.die_at(*commit, death);
            }
            Op::LosesAnAnswer { at } => {
                let lost = &self.replicas[*at].line.lose_answers;
                lost.store(1, Ordering::SeqCst);
            }
            Op::Begin {
                at,
                agent,
                work,
                far,
            } => self.begin(*at, (*agent, *work), *far).await,
            Op::GoOn { which, far } => self.go_on(*which, *far).await,
            Op::Ask { at, which } => self.ask(*at, *which).await,
            Op::Restart => self.restart().await,
            Op::Apart => self.part(),
            Op::Together => self.reunite().await,
            Op::Failover(meanwhile) => self.fail_over(meanwhile.as_deref()).await,
            Op::Crash { copied } => self.crash(*copied).await,
            Op::Downstream(trouble, on) => self.trouble(*trouble, *on),
        }
    }

    fn trouble(&mut self, trouble: Trouble, on: bool) {
        let downstream = &self.downstream;
        let switch = match trouble {
            // The broker itself has none of them.
            _ if downstream.promises.local => return,
            Trouble::OutOfOrder => &downstream.out_of_order,
            Trouble::LosesAnswers => &downstream.loses_answers,
            Trouble::LeavesRubbish => &downstream.leaves_rubbish,
            Trouble::CannotEnd => &downstream.cannot_end,
            Trouble::Hangs => &downstream.hangs,
        };
        switch.store(on, Ordering::SeqCst);
        self.lives_on |= on && matches!(trouble, Trouble::CannotEnd);
    }

    /// It may have made something, or nothing, and says neither.
    fn makes_nothing_sure(&self) -> bool {
        let downstream = &self.downstream;
        let troubles = [&downstream.out_of_order, &downstream.loses_answers];
        troubles.iter().any(|on| on.load(Ordering::SeqCst))
    }

    /// What works downstream.
    fn works(&self) -> Vec<LeaseId> {
        match self.lives_on {
            true => self.downstream.live_at(self.clock.now()),
            // Not even what nobody could use any more is left.
            false => self.downstream.live(),
        }
    }

    /// As the corridor does: the view first, what is held on it, then the lease.
    async fn mint(&mut self, at: usize, agent: u8, work: u8, of: Option<usize>) {
        let bench = &self.replicas[at];
        // It has raised what it could not read back: it decides nothing.
        let Ok(view) = bench.fences.fresh() else {
            assert!(!self.doubtful.is_empty());
            return;
        };
        let now = bench.now();
        let mut grant = of_somebody(agent, work)
            .position(view.position())
            .now(now)
            .max_active(1000);
        let of = of.filter(|_| !self.known.is_empty() && self.is_settled());
        if let Some(of) = of {
            let parent = &self.known[of % self.known.len()];
            let handed = parent.lease.as_parent([1; 32], &view, now);
            let may = parent.alive && now < parent.lease.expires_at;
            assert_eq!(handed.ended().is_none(), may, "a parent's standing");
            let left = parent.lease.expires_at - now;
            if !may || left < Duration::from_secs(60) || parent.lease.chain.len() > 2 {
                return;
            }
            match bench.leases.hand_on(&parent.lease.id, now).await {
                Ok(marked) => assert!(marked, "a live parent can be handed on"),
                Err(LeaseError::Unreplicated) => return,
                Err(error) => {
                    assert!(self.buried(at).await, "{error}");
                    return;
                }
            }
            grant = grant.child_of(&handed).ttl(left.unsigned_abs());
        }
        let grant = grant.build();
        let hashes: Vec<_> = grant.dimensions().iter().map(Dimension::hash).collect();
        let ours = self.held.iter();
        let ours = ours.filter(|(_, held)| hashes.contains(&held.hash()));
        let (ours, held) = (ours.count() > 0, view.held(&hashes).is_some());
        // What is in doubt may hold it here, or have lifted it.
        assert!(ours == held || !self.is_settled(), "{:?}", self.held);
        if held {
            return;
        }
        match bench.issue(&grant).await {
            Ok(issued) => {
                assert!(!self.apart, "handed out, and a failover can lose it");
                self.known.push(Known {
                    lease: issued.lease,
                    alive: true,
                });
            }
            // Nobody was given it.
            Err(LeaseError::Unreplicated) => {}
            Err(LeaseError::Closed(_)) if self.makes_nothing_sure() => {}
            Err(error) => assert!(self.buried(at).await || !self.is_settled(), "{error}"),
        }
    }

    async fn end(&mut self, at: usize, which: usize, kind: DimensionKind, hold: bool) {
        let Some(known) = self.known.get(which % self.known.len().max(1)) else {
            return;
        };
        let own = known.lease.id.to_string();
        let named = known.lease.dimensions.iter().find(|dimension| {
            dimension.kind == kind && (kind != DimensionKind::Lease || dimension.value == own)
        });
        let dimension = named.unwrap().clone();
        let holds = hold && kind != DimensionKind::Lease;
        let fence = if holds {
            FenceKind::Hold
        } else {
            FenceKind::Kill
        };
        self.raise(at, fence, &dimension).await;
    }

    async fn lift(&mut self, at: usize, which: usize) {
        if self.held.is_empty() {
            return;
        }
        let dimension = self.held[which % self.held.len()].1.clone();
        self.raise(at, FenceKind::Lift, &dimension).await;
    }

    async fn raise(&mut self, at: usize, kind: FenceKind, dimension: &Dimension) {
        let bench = &self.replicas[at];
        let mut fence = NewFence::new(kind, dimension.clone(), "ops@acme.example", "a test");
        let id = ids::draw_uuid();
        fence.id = Some(id);
        let stands = bench.fences.last().holds_on(dimension);
        let lifts = stands.iter().map(|held| held.fence_id);
        let said = Said {
            id: Some(id),
            kind,
            dimension: dimension.clone(),
            lifts: lifts.filter(|_| kind == FenceKind::Lift).collect(),
            known: self.known.len(),
        };
        let raised = bench.fences.raise(fence, bench.now()).await;
        let acknowledged = raised.as_ref().is_ok_and(|raised| raised.replicated);
        let died = self.buried(at).await;
        if let Err(error) = raised {
            assert!(died, "{error}");
        }
        self.said(said, acknowledged);
    }

    async fn release(&mut self, at: usize, which: usize) {
        let Some(known) = self.known.get(which % self.known.len().max(1)) else {
            return;
        };
        let lease = known.lease.clone();
        let bench = &self.replicas[at];
        let (by, now) = (lease.agent.as_str(), bench.now());
        let released = bench.leases.release(&lease, &bench.fences, by, now).await;
        let died = self.buried(at).await;
        let (id, acknowledged) = match released {
            // It was over.
            Ok(None) => return,
            Ok(Some(raised)) => (Some(raised.fence.id), raised.replicated),
            Err(error) => {
                assert!(died || self.apart, "{error}");
                (None, false)
            }
        };
        let said = Said {
            id,
            kind: FenceKind::Kill,
            dimension: Dimension::new(DimensionKind::Lease, lease.id.to_string()),
            lifts: Vec::new(),
            known: self.known.len(),
        };
        self.said(said, acknowledged);
    }

    /// Acknowledged, it is in force from now on. Otherwise it is so where it was raised.
    fn said(&mut self, said: Said, acknowledged: bool) {
        if acknowledged {
            assert!(!self.apart, "acknowledged, and a failover can lose it");
            self.in_force(&said, u64::MAX);
            return;
        }
        let holds = |at: &usize| {
            let (bench, id) = (&self.replicas[*at], said.id.as_ref());
            let view = bench.fences.last();
            !bench.line.is_dead() && id.is_some_and(|id| view.place_of(id).is_some())
        };
        let holders = (0..self.replicas.len()).filter(holds);
        let holders = holders.map(|at| (at, self.started[at])).collect();
        self.doubtful.push(Doubtful { said, holders });
    }

    /// It stands at this place of the log.
    fn in_force(&mut self, said: &Said, place: u64) {
        if said.kind == FenceKind::Lift {
            self.held.retain(|(id, _)| !said.lifts.contains(id));
            return;
        }
        if let Some(id) = said.id.filter(|_| said.kind == FenceKind::Hold) {
            self.held.push((id, said.dimension.clone()));
        }
        self.ends_under_way(said, place);
        self.standing.extend(under_way::standing(said));
        let hash = said.dimension.hash();
        for (number, known) in self.known.iter_mut().enumerate() {
            let before = number < said.known || known.lease.position().sequence < place;
            known.alive &= !(before && known.lease.hashes().contains(&hash));
        }
    }

    /// Nothing is in doubt.
    fn is_settled(&self) -> bool {
        !self.apart && self.doubtful.is_empty()
    }

    async fn sweep(&mut self, at: usize) {
        let bench = &self.replicas[at];
        let began = self.clock.since_boot();
        match bench.sweeper.run_once(bench.now()).await {
            Ok(_) if self.is_settled() => self.lists_are_true(at, began).await,
            Ok(_) | Err(LeaseError::Unreplicated) => {}
            Err(error) => assert!(self.buried(at).await || self.apart, "{error}"),
        }
    }

    /// After a sweep, each status list says of every token that points there what the set says.
    async fn lists_are_true(&self, at: usize, swept: Duration) {
        let bench = &self.replicas[at];
        let now = bench.now();
        for known in &self.known {
            let Some(place) = known.lease.status.filter(|_| now < known.lease.expires_at) else {
                continue;
            };
            let list = bench.sweeper.status(known.lease.id.shard(), now).await;
            // Of a shard that another replica is at, it says nothing new.
            let Some((bits, as_of)) = list.unwrap() else {
                continue;
            };
            if as_of < swept {
                continue;
            }
            let over = bits.ended().contains(&place);
            assert_eq!(over, !known.alive, "place {place} of {}", known.lease.id);
        }
    }

    /// The replica hears nothing more of the primary.
    fn part(&mut self) {
        if let Place::Redis(_, heir) = &self.place {
            assert!(heir.command("REPLICAOF NO ONE").unwrap().starts_with("+OK"));
            self.apart = true;
        }
    }

    /// It has everything again.
    async fn reunite(&mut self) {
        if let Place::Redis(primary, heir) = &self.place {
            let follow = format!("REPLICAOF 127.0.0.1 {}", primary.port());
            assert!(heir.command(&follow).unwrap().starts_with("+OK"));
            until_online(primary).await;
            self.apart = false;
        }
    }

    /// Killed, and what its disk has is all that there is.
    async fn restart(&mut self) {
        let Place::Redis(primary, _) = &mut self.place else {
            return;
        };
        primary.kill();
        primary.run().unwrap();
        // Whoever took over once was started as a follower of somebody who is no more.
        let alone = primary.command("REPLICAOF NO ONE").unwrap();
        assert!(alone.starts_with("+OK"), "{alone}");
        if !self.apart {
            until_online(primary).await;
        }
        for _ in 0..100 {
            if self.replicas[0].leases.swept_to().await.is_ok() || self.replicas[0].line.is_dead() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it is back and cannot be reached");
    }

    /// The replica takes over with what it has, and has a new one of its own.
    async fn fail_over(&mut self, meanwhile: Option<&Op>) {
        let folder = || tempfile::tempdir().unwrap();
        let place = std::mem::replace(&mut self.place, Place::File(folder(), 0));
        let Place::Redis(mut primary, heir) = place else {
            self.place = place;
            return;
        };
        primary.kill();
        assert!(heir.command("REPLICAOF NO ONE").unwrap().starts_with("+OK"));
        let follower = follower_of(heir.port());
        self.store = connect(&heir).await;
        for bench in &self.replicas {
            bench.line.point_to(Arc::clone(&self.store));
        }
        self.place = Place::Redis(heir, follower);
        self.apart = false;
        self.forks += u32::from(!self.doubtful.is_empty());
        if let Some(op) = meanwhile {
            Box::pin(self.play(op)).await;
        }
    }

    /// Everybody dies, and the file is what it was at that moment.
    async fn crash(&mut self, copied: bool) {
        let Place::File(folder, number) = &mut self.place else {
            return;
        };
        if copied {
            std::fs::copy(file(folder, *number), file(folder, *number + 1)).unwrap();
        }
        // Nothing else may have it open.
        self.replicas.clear();
        self.store = store();
        *number += u32::from(copied);
        self.store = open(folder, *number);
        for at in 0..self.started.len() {
            self.started[at] += 1;
            let started = self.start().await;
            self.replicas.push(started);
        }
    }

    /// Until every replica has read to the end, and puts nothing back any more.
    async fn until_followed(&self) {
        let mut failures = Vec::new();
        for _ in 0..100 {
            failures.clear();
            for bench in &self.replicas {
                failures.extend(bench.fences.follow(Duration::ZERO).await.err());
            }
            let heads = self.replicas.iter().map(|bench| {
                let view = bench.fences.fresh();
                view.map(|view| view.position()).ok()
            });
            let heads: Vec<_> = heads.collect();
            if failures.is_empty() && heads.iter().all(|head| head.is_some() && *head == heads[0]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the fences cannot be followed: {failures:?}");
    }

    /// Whether what was in doubt is on the log.
    async fn find_out(&mut self) {
        let view = self.replicas[0].fences.fresh().unwrap();
        for Doubtful { said, holders } in std::mem::take(&mut self.doubtful) {
            let place = match &said.id {
                Some(id) => view.place_of(id).map(|place| place.sequence),
                // There is no other kind of fence on one lease.
                None => view
                    .ended_by(&[said.dimension.hash()], Position::ORIGIN)
                    .map(|_| u64::MAX),
            };
            match place {
                Some(place) => self.in_force(&said, place),
                None => {
                    let lives = |(at, number): &(usize, u32)| self.started[*at] == *number;
                    let lost = !holders.iter().any(lives);
                    assert!(lost, "{:?} is put back by whoever has it", said.dimension);
                }
            }
        }
        // Dead for good: what it was decided on is no more.
        let log = log();
        let read = self
            .store
            .tail(&log, Position::ORIGIN, 10_000, Duration::ZERO);
        let Tail::Entries { entries, .. } = read.await.unwrap() else {
            panic!("the log was trimmed or lost");
        };
        let mut there: BTreeSet<_> = entries
            .iter()
            .map(|entry| (entry.position.sequence, entry.position.link.0))
            .collect();
        there.insert((0, Position::ORIGIN.link.0));
        for known in &mut self.known {
            let decided = known.lease.position();
            known.alive &= there.contains(&(decided.sequence, decided.link.0));
        }
    }

    /// Nobody acknowledges anything: no reading is proven. What was acknowledged before is in force
    /// everywhere, what was raised since where it was raised.
    async fn holds_apart(&self) {
        for (at, bench) in self.replicas.iter().enumerate() {
            if bench.line.is_dead() {
                continue;
            }
            let proven = bench.fences.follow(Duration::ZERO).await;
            assert!(proven.is_err(), "by nobody but the primary itself");
            let (now, view) = (bench.now(), bench.fences.last());
            let ours = self.doubtful.iter().filter(|doubtful| {
                let holders = &doubtful.holders;
                doubtful.said.kind != FenceKind::Lift && holders.contains(&(at, self.started[at]))
            });
            let ours: Vec<_> = ours.map(|doubtful| &doubtful.said).collect();
            for (number, known) in self.known.iter().enumerate() {
                let ended = ours.iter().any(|said| {
                    number < said.known && known.lease.hashes().contains(&said.dimension.hash())
                });
                if ended || !known.alive {
                    let kept = Leases::standing(&known.lease, &view, now);
                    assert_ne!(kept, Standing::Live, "{}", known.lease.id);
                }
            }
        }
    }

    /// Every replica, as soon as it has read on, says what the set says: of the record as it was
    /// issued, which a replica may have kept, and of the record as it is.
    async fn agrees(&mut self) {
        if self.apart {
            self.holds_apart().await;
            return;
        }
        for at in 0..self.replicas.len() {
            self.buried(at).await;
        }
        self.until_followed().await;
        self.find_out().await;
        for bench in &self.replicas {
            let (now, view) = (bench.now(), bench.fences.fresh().unwrap());
            for known in &self.known {
                let alive = known.alive && now < known.lease.expires_at;
                let kept = Leases::standing(&known.lease, &view, now);
                assert_eq!(kept == Standing::Live, alive, "{kept:?} {}", known.lease.id);
                let read = bench.leases.get(&known.lease.id).await.unwrap().unwrap();
                let read = Leases::standing(&read, &view, now);
                assert_eq!(read == Standing::Live, alive, "{read:?} {}", known.lease.id);
            }
            let held: BTreeSet<_> = view.holds().iter().map(|held| held.fence_id).collect();
            let wanted: BTreeSet<_> = self.held.iter().map(|(id, _)| *id).collect();
            assert_eq!(held, wanted);
        }
        self.words_hold();
        let bench = &self.replicas[0];
        let open = bench.leases.list(&Filter::default(), None, 1000).await;
        let open: Vec<_> = open.unwrap().leases.iter().map(|lease| lease.id).collect();
        for made in self.works() {
            assert!(
                open.contains(&made),
                "{made} works and is on no open record"
            );
        }
    }

    /// Everything has run out.
    async fn is_over(&mut self) {
        if self.apart {
            self.reunite().await;
        }
        self.agrees().await;
        // Whatever waits goes on to its end.
        while !self.under_way.is_empty() {
            self.go_on(0, 4).await;
            self.agrees().await;
        }
        for at in 0..self.replicas.len() {
            self.replicas[at].line.mend();
        }
        for trouble in TROUBLES {
            self.trouble(trouble, false);
        }
        // The last but one: the longest that anything of this downstream lives.
        let longest = self.downstream.promises.max_ttl.as_secs();
        for seconds in [80, 1000, 400, 400, longest, 100] {
            self.clock.advance(Duration::from_secs(seconds));
            self.agrees().await;
            for at in 0..self.replicas.len() {
                self.sweep(at).await;
            }
        }
        assert!(self.works().is_empty(), "something still works");
        let bench = &self.replicas[0];
        let open = bench.leases.list(&Filter::default(), None, 10).await;
        assert!(open.unwrap().leases.is_empty());
        let ends = self.ends().await;
        for known in &self.known {
            let id = known.lease.id.to_string();
            assert_eq!(ends.get(&id), Some(&1), "ends of {id} in the audit");
        }
        let given_up: BTreeSet<_> = self.given_up.iter().map(ToString::to_string).collect();
        for (id, ends) in ends {
            let most = if given_up.contains(&id) { 2 } else { 1 };
            assert!(
                (1..=most).contains(&ends),
                "{ends} ends of {id} in the audit"
            );
        }
        self.audit_is_sound().await;
    }

    /// How often the audit says of a lease that it is over.
    async fn ends(&self) -> BTreeMap<String, u32> {
        let mut ends = BTreeMap::new();
        for shard in ShardId::all() {
            let log = audit::log(shard);
            let read = self
                .store
                .tail(&log, Position::ORIGIN, 10_000, Duration::ZERO);
            let Tail::Entries { entries, .. } = read.await.unwrap() else {
                panic!("the audit was trimmed or lost");
            };
            for entry in entries {
                let entry: audit::Entry = serde_json::from_slice(&entry.value).unwrap();
                let state = entry.detail.get("state").and_then(|state| state.as_str());
                let over = state
                    .and_then(State::parse)
                    .is_some_and(|state| !state.is_open());
                if let Some(lease) = entry.lease.filter(|_| over) {
                    *ends.entry(lease).or_default() += 1;
                }
            }
        }
        ends
    }

    async fn audit_is_sound(&self) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let sign = |claims: &[u8]| Ok(format!("e30.{}.AA", URL_SAFE_NO_PAD.encode(claims)));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let store = Arc::clone(&self.store);
        let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
        let sealing = Sealing::start(store, sealer, clock, path.clone(), Box::new(sign));
        sealing.finish().await;
        let report = audit::verify(&path, &|_| true).unwrap();
        assert!(report.is_sound() && report.unsealed == 0, "{report:?}");
    }
}

/// One of three agents with one of two missions, with something for every selector.
fn of_somebody(agent: u8, work: u8) -> crate::policy::GrantBuilder {
    let (agent, issuer) = (format!("agent-{agent}"), format!("https://{agent}.example"));
    let task = format!("task-{work}");
    Grant::for_tests()
        .agent(&agent)
        .instance("pod-1")
        .mission(&format!("mission-{work}"))
        .target(&format!("target-{work}"))
        .task(&task)
        .dimension(Dimension::instance(&agent, "pod-1"))
        .dimension(Dimension::new(
            DimensionKind::Owner,
            format!("{agent}@acme"),
        ))
        .dimension(Dimension::new(DimensionKind::Issuer, issuer.as_str()))
        .dimension(Dimension::new(DimensionKind::IssuerKey, "thumbprint"))
        .dimension(Dimension::subject(&issuer, "job"))
        .dimension(Dimension::new(DimensionKind::Task, task.as_str()))
        .dimension(Dimension::context(&issuer, "pipeline", &task))
        .dimension(Dimension::label("team", &task))
}

/// How many forks were mended.
fn live(what: (RevocationClass, bool), ops: &[Op], place: Place) -> u32 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(what, place).await;
        for op in ops {
            world.play(op).await;
            world.agrees().await;
        }
        world.is_over().await;
        world.forks
    })
}

fn in_a_file() -> Place {
    Place::File(tempfile::tempdir().unwrap(), 0)
}

fn on_redis() -> Option<Place> {
    let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    let primary = RedisServer::start(&arguments).unwrap()?;
    let follower = follower_of(primary.port());
    Some(Place::Redis(primary, follower))
}

/// `PROPTEST_CASES` has the last word.
fn cases(few: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if config.cases == 256 {
        config.cases = few;
    }
    config
}

/// How it can die, and whether it can be named by its lease.
fn what() -> impl Strategy<Value = (RevocationClass, bool)> {
    prop_oneof![
        2 => Just((RevocationClass::Native, true)),
        2 => Just((RevocationClass::Native, false)),
        2 => Just((RevocationClass::Broker, true)),
        1 => Just((RevocationClass::Expiry, true)),
        1 => Just((RevocationClass::Expiry, false)),
    ]
}

proptest! {
    #![proptest_config(cases(48))]
    #[test]
    fn whatever_happens_every_replica_says_what_is_alive(
        what in what(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        live(what, &ops, in_a_file());
    }
}

proptest! {
    #![proptest_config(cases(12))]
    #[test]
    fn whatever_happens_on_redis_failovers_included_every_replica_says_what_is_alive(
        what in what(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        if let Some(place) = on_redis() {
            live(what, &ops, place);
        }
    }
}

/// One replica ends and holds what nobody acknowledges; then the other one writes to whoever took
/// over before either has read on.
#[test]
fn what_a_failover_lost_is_put_back_behind_what_was_written_meanwhile() {
    for class in [RevocationClass::Native, RevocationClass::Broker] {
        for meanwhile in [
            mint_at(0),
            mint_at(1),
            end_at(1, 2, false),
            end_at(0, 2, true),
        ] {
            let Some(place) = on_redis() else {
                return;
            };
            let mut ops: Vec<_> = (0..4).map(|_| mint_at(0)).collect();
            ops.extend([end_at(0, 0, false), Op::Apart]);
            ops.extend([
                end_at(0, 1, true),
                mint_at(0),
                mint_at(1),
                Op::Sweep { at: 0 },
            ]);
            ops.push(Op::Failover(Some(Box::new(meanwhile))));
            ops.extend([mint_at(0), mint_at(1), Op::Sweep { at: 1 }, Op::Apart]);
            // Whoever raised it dies with it.
            ops.extend([
                end_at(1, 3, false),
                Op::Dies {
                    at: 1,
                    commit: 1,
                    applied: true,
                },
            ]);
            ops.extend([end_at(1, 3, false), Op::Failover(None), mint_at(1)]);
            assert_eq!(live((class, true), &ops, place), 2);
        }
    }
}

fn mint_at(at: usize) -> Op {
    Op::Mint {
        at,
        agent: 1,
        work: 1,
        of: None,
    }
}

/// By its mission where it is held, otherwise by its lease.
fn end_at(at: usize, which: usize, hold: bool) -> Op {
    Op::End {
        at,
        which,
        selector: if hold { 3 } else { 0 },
        hold,
    }
}
