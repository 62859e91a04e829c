//! Random histories of two replicas on one store, against a plain set of what is alive.
//!
//! Minting, handing on, ending by every selector, holding, lifting, expiring; processes that die at
//! a commit, answers that are lost, and on Redis failovers. After every step every replica must say
//! of every credential what the set says; in the end nothing works, each lease has one end in the
//! audit, and the audit verifies. `PROPTEST_CASES` tries more of them.

use super::bench::{Bench, Downstream, store};
use crate::audit::{self, Sealing};
use crate::clock::Clock;
use crate::connectors::RevocationClass;
use crate::fences::tests::fixture::{Advanced, Death};
use crate::fences::{Dimension, DimensionHash, DimensionKind, FenceKind, NewFence};
use crate::ids::ShardId;
use crate::leases::{Filter, Lease, LeaseError, Leases, Standing, State};
use crate::policy::Grant;
use crate::secret::{Sealer, Secret};
use crate::store::redis::tests::support::RedisServer;
use crate::store::redis::{Redis, RedisSettings};
use crate::store::{Position, Store, Tail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
        of: Option<Index>,
    },
    End {
        at: usize,
        which: Index,
        selector: usize,
        hold: bool,
    },
    Release {
        at: usize,
        which: Index,
    },
    Lift {
        at: usize,
        which: Index,
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
    Failover,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..2_usize;
    let mint = (at.clone(), 0..3_u8, 0..2_u8, any::<Index>(), 0..4_u8).prop_map(
        |(at, agent, work, of, handed)| Op::Mint {
            at,
            agent,
            work,
            of: (handed == 0).then_some(of),
        },
    );
    let end = (
        at.clone(),
        any::<Index>(),
        0..SELECTORS.len(),
        any::<bool>(),
    )
        .prop_map(|(at, which, selector, hold)| Op::End {
            at,
            which,
            selector,
            hold,
        });
    let which = (at.clone(), any::<Index>());
    prop_oneof![
        8 => mint,
        4 => end,
        2 => which.clone().prop_map(|(at, which)| Op::Release { at, which }),
        3 => which.prop_map(|(at, which)| Op::Lift { at, which }),
        3 => at.clone().prop_map(|at| Op::Sweep { at }),
        2 => (1..400_u64).prop_map(Op::Later),
        2 => (at.clone(), 1..4_i64, any::<bool>())
            .prop_map(|(at, commit, applied)| Op::Dies { at, commit, applied }),
        1 => at.prop_map(|at| Op::LosesAnAnswer { at }),
        1 => Just(Op::Failover),
    ]
}

/// A credential that somebody was given.
struct Known {
    lease: Lease,
    alive: bool,
}

struct World {
    store: Arc<dyn Store>,
    servers: Option<(RedisServer, RedisServer)>,
    downstream: Arc<Downstream>,
    clock: Arc<Advanced>,
    replicas: Vec<Bench>,
    known: Vec<Known>,
    held: Vec<Dimension>,
}

fn follower_of(port: u16) -> RedisServer {
    let port = port.to_string();
    let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    let follow = ["--replicaof", "127.0.0.1", port.as_str()];
    RedisServer::start(&[arguments.as_slice(), follow.as_slice()].concat())
        .unwrap()
        .unwrap()
}

/// A replica that has just come, or is busy, acknowledges late.
async fn until_followed(bench: &Bench) {
    let mut failure = None;
    for _ in 0..100 {
        match bench.fences.follow(Duration::ZERO).await {
            Ok(()) => return,
            Err(error) => failure = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the fences cannot be followed: {failure:?}");
}

async fn connect(primary: &RedisServer) -> Arc<dyn Store> {
    for _ in 0..500 {
        let told = primary.command("INFO replication").unwrap_or_default();
        if told.contains("state=online") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let settings = RedisSettings {
        min_replicas: 1,
        ..RedisSettings::new(Secret::new(primary.url()))
    };
    Arc::new(Redis::connect(settings).await.unwrap())
}

impl World {
    async fn new(class: RevocationClass, servers: Option<(RedisServer, RedisServer)>) -> Self {
        let store = match &servers {
            Some((primary, _)) => connect(primary).await,
            None => store(),
        };
        let (downstream, clock) = (Downstream::new(class, true), Advanced::new());
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let at = (Arc::clone(&store), Arc::clone(&downstream));
            replicas.push(Bench::on(at.0, at.1, Arc::clone(&clock)).await);
        }
        Self {
            store,
            servers,
            downstream,
            clock,
            replicas,
            known: Vec::new(),
            held: Vec::new(),
        }
    }

    /// A process that died is started anew on the same store. Whether it had.
    async fn buried(&mut self, at: usize) -> bool {
        if !self.replicas[at].line.is_dead() {
            return false;
        }
        let (store, downstream) = (Arc::clone(&self.store), Arc::clone(&self.downstream));
        self.replicas[at] = Bench::on(store, downstream, Arc::clone(&self.clock)).await;
        true
    }

    async fn play(&mut self, op: &Op) {
        match op {
            Op::Mint {
                at,
                agent,
                work,
                of,
            } => self.mint(*at, *agent, *work, of.as_ref()).await,
            Op::End {
                at,
                which,
                selector,
                hold,
            } => self.end(*at, which, SELECTORS[*selector], *hold).await,
            Op::Release { at, which } => self.release(*at, which).await,
            Op::Lift { at, which } => self.lift(*at, which).await,
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
                lost.store(1, std::sync::atomic::Ordering::SeqCst);
            }
            Op::Failover => self.fail_over().await,
        }
    }

    /// As the corridor does: the view first, what is held on it, then the lease.
    async fn mint(&mut self, at: usize, agent: u8, work: u8, of: Option<&Index>) {
        let bench = &self.replicas[at];
        let (now, view) = (bench.now(), bench.fences.fresh().unwrap());
        let mut grant = of_somebody(agent, work)
            .position(view.position())
            .now(now)
            .max_active(1000);
        if let Some(of) = of.filter(|_| !self.known.is_empty()) {
            let parent = of.get(&self.known);
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
        let held = self.held.iter().any(|held| hashes.contains(&held.hash()));
        assert_eq!(view.held(&hashes).is_some(), held, "{:?}", self.held);
        if held {
            return;
        }
        match bench.issue(&grant).await {
            Ok(issued) => self.known.push(Known {
                lease: issued.lease,
                alive: true,
            }),
            // Nobody was given it.
            Err(LeaseError::Unreplicated) => {}
            Err(error) => assert!(self.buried(at).await, "{error}"),
        }
    }

    async fn end(&mut self, at: usize, which: &Index, kind: DimensionKind, hold: bool) {
        let Some(known) = self.known.get(which.index(self.known.len().max(1))) else {
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
        if self.raise(at, fence, &dimension).await {
            self.ended(&dimension);
            if holds && !self.held.contains(&dimension) {
                self.held.push(dimension);
            }
        }
    }

    async fn lift(&mut self, at: usize, which: &Index) {
        if self.held.is_empty() {
            return;
        }
        let dimension = which.get(&self.held).clone();
        if self.raise(at, FenceKind::Lift, &dimension).await {
            self.held.retain(|held| *held != dimension);
        }
    }

    /// Whether it is on the log. Where nobody was told, the log says it.
    async fn raise(&mut self, at: usize, kind: FenceKind, dimension: &Dimension) -> bool {
        let bench = &self.replicas[at];
        let fence = NewFence::new(kind, dimension.clone(), "ops@acme.example", "a test");
        let before = bench.fences.last().position().sequence;
        let raised = bench.fences.raise(fence, bench.now()).await;
        match raised {
            // In force, even where a busy replica has not said so: whoever holds it puts it back.
            Ok(_) => {}
            Err(error) => {
                assert!(self.buried(at).await, "{error}");
                let now = self.replicas[at].fences.last().position().sequence;
                return now > before;
            }
        }
        self.buried(at).await;
        true
    }

    async fn release(&mut self, at: usize, which: &Index) {
        let Some(known) = self.known.get(which.index(self.known.len().max(1))) else {
            return;
        };
        let lease = known.lease.clone();
        let bench = &self.replicas[at];
        let before = bench.fences.last().position().sequence;
        let (by, now) = (lease.agent.as_str(), bench.now());
        let released = bench.leases.release(&lease, &bench.fences, by, now).await;
        let died = self.buried(at).await;
        let on_log = match released {
            Ok(raised) => raised.is_some(),
            Err(error) => {
                assert!(died, "{error}");
                self.replicas[at].fences.last().position().sequence > before
            }
        };
        if on_log {
            let own = Dimension::new(DimensionKind::Lease, lease.id.to_string());
            self.ended(&own);
        }
    }

    fn ended(&mut self, dimension: &Dimension) {
        let hash = dimension.hash();
        for known in &mut self.known {
            known.alive &= !known.lease.hashes().contains(&hash);
        }
    }

    async fn sweep(&mut self, at: usize) {
        let bench = &self.replicas[at];
        let began = self.clock.since_boot();
        match bench.sweeper.run_once(bench.now()).await {
            Ok(_) => self.lists_are_true(at, began).await,
            Err(LeaseError::Unreplicated) => {}
            Err(error) => assert!(self.buried(at).await, "{error}"),
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

    /// The replica takes over, and has a new one of its own.
    async fn fail_over(&mut self) {
        let Some((mut primary, heir)) = self.servers.take() else {
            return;
        };
        primary.kill();
        assert!(heir.command("REPLICAOF NO ONE").unwrap().starts_with("+OK"));
        let follower = follower_of(heir.port());
        self.store = connect(&heir).await;
        for bench in &self.replicas {
            bench.line.point_to(Arc::clone(&self.store));
        }
        self.servers = Some((heir, follower));
    }

    /// Every replica, as soon as it has read on, says what the set says: of the record as it was
    /// issued, which a replica may have kept, and of the record as it is.
    async fn agrees(&mut self) {
        for at in 0..self.replicas.len() {
            self.buried(at).await;
            let bench = &self.replicas[at];
            until_followed(bench).await;
            let (now, view) = (bench.now(), bench.fences.fresh().unwrap());
            for known in &self.known {
                let alive = known.alive && now < known.lease.expires_at;
                let kept = Leases::standing(&known.lease, &view, now);
                assert_eq!(kept == Standing::Live, alive, "{kept:?} {}", known.lease.id);
                let read = bench.leases.get(&known.lease.id).await.unwrap().unwrap();
                let read = Leases::standing(&read, &view, now);
                assert_eq!(read == Standing::Live, alive, "{read:?} {}", known.lease.id);
            }
            let held: BTreeSet<_> = view
                .holds()
                .iter()
                .map(|held| held.dimension.hash())
                .collect();
            let wanted: BTreeSet<DimensionHash> = self.held.iter().map(Dimension::hash).collect();
            assert_eq!(held, wanted);
        }
        let bench = &self.replicas[0];
        let open = bench.leases.list(&Filter::default(), None, 1000).await;
        let open: Vec<_> = open.unwrap().leases.iter().map(|lease| lease.id).collect();
        for made in self.downstream.live() {
            assert!(
                open.contains(&made),
                "{made} works and is on no open record"
            );
        }
    }

    /// Everything has run out.
    async fn is_over(&mut self) {
        for at in 0..self.replicas.len() {
            self.replicas[at].line.mend();
        }
        for seconds in [80, 1000, 400, 400] {
            self.clock.advance(Duration::from_secs(seconds));
            self.agrees().await;
            for at in 0..self.replicas.len() {
                self.sweep(at).await;
            }
        }
        assert!(self.downstream.live().is_empty(), "something still works");
        let bench = &self.replicas[0];
        let open = bench.leases.list(&Filter::default(), None, 10).await;
        assert!(open.unwrap().leases.is_empty());
        let ends = self.ends().await;
        for known in &self.known {
            let id = known.lease.id.to_string();
            assert_eq!(ends.get(&id), Some(&1), "ends of {id} in the audit");
        }
        assert!(ends.values().all(|ends| *ends == 1), "{ends:?}");
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

fn live(class: RevocationClass, ops: &[Op], on_redis: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let servers = match on_redis {
            false => None,
            true => {
                let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
                let Some(primary) = RedisServer::start(&arguments).unwrap() else {
                    return;
                };
                let follower = follower_of(primary.port());
                Some((primary, follower))
            }
        };
        let mut world = World::new(class, servers).await;
        for op in ops {
            world.play(op).await;
            world.agrees().await;
        }
        world.is_over().await;
    });
}

/// `PROPTEST_CASES` has the last word.
fn cases(few: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if config.cases == 256 {
        config.cases = few;
    }
    config
}

fn class() -> impl Strategy<Value = RevocationClass> {
    prop_oneof![Just(RevocationClass::Native), Just(RevocationClass::Broker)]
}

proptest! {
    #![proptest_config(cases(24))]
    #[test]
    fn whatever_happens_every_replica_says_what_is_alive(
        class in class(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        live(class, &ops, false);
    }
}

proptest! {
    #![proptest_config(cases(4))]
    #[test]
    fn whatever_happens_on_redis_failovers_included_every_replica_says_what_is_alive(
        class in class(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        live(class, &ops, true);
    }
}
