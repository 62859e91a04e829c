//! `bench memory`: what a store full of live leases costs, and what ends them. Leases come by whole
//! exchanges of brokers in this process; what starts, is killed and starts again is a real one.

mod native;
mod process;

use super::{CONFIGURATION, Caller, Ground, Stage, failed, redis, refused};
use crate::cli::output::{Failure, Output, columns};
use crate::client::deliver::Folder;
use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::secret::Secret;
use crate::store::embedded::Embedded;
use crate::store::redis::{Redis, RedisSettings, Usage, usage, used_memory};
use crate::store::{Index, MAX_RANK, Position, Store, StoreError, Tail};
use crate::wire::{RevocationRequest, Selector};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Exchanges under way at once.
const ABREAST: u32 = 32;
/// Agents, over all shards.
const AGENTS: u32 = 256;
/// The index that open leases are in.
const DUE: &str = "lease-due";
/// The file of an embedded store.
const FILE: &str = "store.redb";
/// Longer than a file takes to be closed.
const CLOSING: Duration = Duration::from_secs(60);
/// Longer than ending a million leases may take.
pub(super) const ENDING: Duration = Duration::from_secs(3600);

/// Where the leases lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A `redis-server` of its own.
    Redis,
    /// One file, and one broker.
    Embedded,
}

#[derive(Debug, Args)]
pub struct MemoryBench {
    /// Where the leases lie: on a `redis-server` of its own, or in the file of an embedded store.
    #[arg(long, value_enum, default_value_t = Kind::Redis)]
    store: Kind,
    /// How many live leases.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    leases: u32,
    /// How many leases a downstream must confirm the end of, one by one.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    native: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    store: Kind,
    /// How many the store holds: those that were asked for, and those whose answer was lost and
    /// that were asked for again.
    leases: u64,
    /// Exchanges that were asked again, because the answer was to come back later.
    asked_again: u32,
    seed_seconds: f64,
    /// What the server's memory grew by, over the leases: every key counts, proofs that were spent among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_bytes_per_lease: Option<f64>,
    /// What the file grew by, over the leases: with what is kept free in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedded_bytes_per_lease: Option<f64>,
    /// Where it goes, in bytes per lease, by what keys are for.
    bytes_per_lease: BTreeMap<String, f64>,
    keys: BTreeMap<String, u64>,
    /// Resident memory of a broker that has just started on this store.
    broker_rss_mib: f64,
    /// From the start of a process, after SIGKILL of the one before, until it is ready.
    ready_after_sigkill_ms: f64,
    /// Entries of the fence log that end all of them.
    kill_all_entries: u64,
    /// Until another replica says of the last one issued that it is dead; on an embedded store, which has none,
    /// until the same one does.
    kill_all_dead_ms: f64,
    /// Until no lease is open any more.
    kill_all_closed_seconds: f64,
    native: u32,
    /// From the fence until the last downstream end was confirmed and recorded.
    native_ended_seconds: f64,
    /// `release` or `debug`: figures of the latter mean nothing.
    build: &'static str,
}

/// What was found of a store that is full.
struct Found {
    asked_again: u32,
    seeding: Duration,
    /// What it grew by, in bytes.
    grown: u64,
    bytes: BTreeMap<String, u64>,
    keys: BTreeMap<String, u64>,
    rss: f64,
    ready: Duration,
    killed: Killed,
}

pub async fn run(args: &MemoryBench, output: &Output) -> Result<u8, Failure> {
    let (found, ended) = match args.store {
        Kind::Redis => {
            let found = on_redis(args).await?;
            let folder = Folder::make(&std::env::temp_dir())?;
            let (url, _server) = redis(&folder).await?;
            let settings = RedisSettings::new(Secret::new(url));
            let store = Redis::connect(settings).await.map_err(failed)?;
            (found, native::ended(args.native, Arc::new(store)).await?)
        }
        Kind::Embedded => {
            let found = on_file(args).await?;
            let folder = Folder::make(&std::env::temp_dir())?;
            let store = Embedded::open(&folder.path().join(FILE)).map_err(failed)?;
            (found, native::ended(args.native, Arc::new(store)).await?)
        }
    };
    let leases = found.keys.get("lease").copied().unwrap_or_default().max(1);
    let per = |bytes: u64| bytes as f64 / leases as f64;
    let of = |kind| (args.store == kind).then(|| per(found.grown));
    let report = Report {
        store: args.store,
        leases,
        asked_again: found.asked_again,
        seed_seconds: found.seeding.as_secs_f64(),
        redis_bytes_per_lease: of(Kind::Redis),
        embedded_bytes_per_lease: of(Kind::Embedded),
        bytes_per_lease: found
            .bytes
            .iter()
            .map(|(what, bytes)| (what.clone(), per(*bytes)))
            .collect(),
        keys: found.keys,
        broker_rss_mib: found.rss,
        ready_after_sigkill_ms: found.ready.as_secs_f64() * 1000.0,
        kill_all_entries: found.killed.entries,
        kill_all_dead_ms: found.killed.dead.as_secs_f64() * 1000.0,
        kill_all_closed_seconds: found.killed.closed.as_secs_f64(),
        native: args.native,
        native_ended_seconds: ended.as_secs_f64(),
        build: super::BUILD,
    };
    output.show(&report, table)?;
    Ok(0)
}

/// Two brokers in this process, on a server that a third one is started on.
async fn on_redis(args: &MemoryBench) -> Result<Found, Failure> {
    let folder = Folder::make(&std::env::temp_dir())?;
    let (url, _server) = redis(&folder).await?;
    let settings = RedisSettings::new(Secret::new(url.clone()));
    let stage = Arc::new(Stage::of(&folder, (url, &configuration()), 2).await?);
    let empty = used_memory(&settings).await.map_err(failed)?;
    let (asked_again, seeding) = stage.fill(args.leases).await?;
    let full = usage(&settings).await.map_err(failed)?;
    let (rss, ready) = process::killed(&folder, &configuration()).await?;
    let killed = stage.kill_all().await?;
    stage.clear().await;
    Ok(Found {
        asked_again,
        seeding,
        grown: full.used_memory.saturating_sub(empty),
        bytes: full.bytes,
        keys: full.keys,
        rss,
        ready,
        killed,
    })
}

/// One broker in this process, and while that is away one of its own: the file is open in one alone.
async fn on_file(args: &MemoryBench) -> Result<Found, Failure> {
    let folder = Folder::make(&std::env::temp_dir())?;
    let path = folder.path().join(FILE);
    let text = configuration().replace(
        "{ redis = \"file:redis.url\" }",
        &format!("{{ embedded = \"{}\" }}", path.display()),
    );
    let ground = Ground::of(&folder, String::new(), &text)?;
    let store = opened(&path).await?;
    let stage = Arc::new(Stage::over(&ground, store.clone()).await?);
    let empty = size(&path)?;
    let (asked_again, seeding) = stage.fill(args.leases).await?;
    let full = store.usage().await.map_err(failed)?;
    let grown = size(&path)?.saturating_sub(empty);
    stage.clear().await;
    drop((stage, store));
    drop(opened(&path).await?);
    let (rss, ready) = process::killed(&folder, &text).await?;
    let stage = Stage::over(&ground, opened(&path).await?).await?;
    let killed = stage.kill_all().await?;
    stage.clear().await;
    Ok(Found {
        asked_again,
        seeding,
        grown,
        bytes: full.bytes,
        keys: full.rows,
        rss,
        ready,
        killed,
    })
}

fn size(path: &Path) -> Result<u64, Failure> {
    let found = std::fs::metadata(path).map_err(failed)?;
    Ok(found.len())
}

/// As soon as whoever had it open has closed it.
async fn opened(path: &Path) -> Result<Arc<Embedded>, Failure> {
    let clock = SystemClock::new();
    let until = clock.since_boot() + CLOSING;
    loop {
        match Embedded::open(path) {
            Ok(store) => return Ok(Arc::new(store)),
            Err(error) if clock.since_boot() > until => return Err(failed(error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn table(report: &Report) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let per_lease = report
        .redis_bytes_per_lease
        .or(report.embedded_bytes_per_lease);
    let mut rows = vec![
        row(
            match report.store {
                Kind::Redis => "Redis, bytes per lease",
                Kind::Embedded => "the file, bytes per lease",
            },
            format!("{:.0}", per_lease.unwrap_or_default()),
        ),
        row(
            "a broker's memory",
            format!("{:.0} MiB", report.broker_rss_mib),
        ),
        row(
            "ready after SIGKILL",
            format!("{:.0} ms", report.ready_after_sigkill_ms),
        ),
        row("kill --all, entries", report.kill_all_entries.to_string()),
        row(
            "kill --all, dead",
            format!("{:.1} ms", report.kill_all_dead_ms),
        ),
        row(
            "kill --all, closed",
            format!("{:.1} s", report.kill_all_closed_seconds),
        ),
        row(
            "native, all confirmed",
            format!("{:.1} s", report.native_ended_seconds),
        ),
    ];
    rows.extend(
        report
            .bytes_per_lease
            .iter()
            .map(|(what, bytes)| row(&format!("bytes for {what}"), format!("{bytes:.0}"))),
    );
    let head = format!(
        "{} LEASES, {} BUILD",
        report.leases,
        report.build.to_uppercase()
    );
    columns(&[&head, "FIGURE"], &rows)
}

/// The same mission, for agents over all shards, with an hour to live.
pub(super) fn configuration() -> String {
    let agents: Vec<_> = (0..AGENTS)
        .map(|number| format!("\"agent-{number}\""))
        .collect();
    let mut text = CONFIGURATION
        .replace(
            "agents  = [\"agent\"]",
            &format!("agents  = [{}]", agents.join(", ")),
        )
        .replace("ttl     = \"10m\"", "ttl     = \"60m\"");
    for number in 0..AGENTS {
        text.push_str(&format!(
            "\n[agent.agent-{number}]\nowner = \"bench@localhost\"\npurpose = \"Holds leases\"\n\
             ends = 2099-12-31\nidentity = {{ client = {{ keys = \"file:agent.jwks.json\" }} }}\n\
             limits = {{ active = 100000, per_minute = 100000 }}\n"
        ));
    }
    text
}

/// How all of them ended.
struct Killed {
    entries: u64,
    dead: Duration,
    closed: Duration,
}

impl Stage {
    /// That many leases, and nothing that waits to be sealed. How many had to be asked for again, and how long it
    /// took.
    async fn fill(self: &Arc<Self>, leases: u32) -> Result<(u32, Duration), Failure> {
        let began = self.clock.since_boot();
        let asked_again = self.seed(leases).await?;
        let seeding = self.clock.since_boot() - began;
        self.until_sealed().await?;
        Ok((asked_again, seeding))
    }

    /// Says how many exchanges had to be asked again. Each of those may have made a lease before:
    /// where the store did not answer in time, nobody knows.
    pub(super) async fn seed(self: &Arc<Self>, leases: u32) -> Result<u32, Failure> {
        let callers: Result<Vec<_>, _> = (0..AGENTS)
            .map(|number| super::caller(&format!("agent-{number}"), &self.key))
            .collect();
        let callers = Arc::new(callers?);
        let (next, again) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..ABREAST {
            let (stage, callers) = (self.clone(), callers.clone());
            let (next, again) = (next.clone(), again.clone());
            workers.spawn(async move {
                for caller in callers.iter().cycle() {
                    if next.fetch_add(1, Ordering::Relaxed) >= leases {
                        break;
                    }
                    stage.lease(caller, &again).await?;
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(done) = workers.join_next().await {
            done.map_err(failed)??;
        }
        Ok(again.load(Ordering::Relaxed))
    }

    /// Where the audit is behind, the broker says later.
    async fn lease(&self, caller: &Caller, again: &AtomicU32) -> Result<(), Failure> {
        let Some(first) = self.replicas.first() else {
            return Ok(());
        };
        let mut tries = 0_u32;
        loop {
            match self.exchange(&first.broker, caller).await {
                Ok(_) => return Ok(()),
                Err(refusal) if refusal.retry_after.is_some() && tries < 600 => {
                    tries += 1;
                    again.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(refusal) => return Err(refused(refusal)),
            }
        }
    }

    /// What waits to be sealed would be counted as if it stayed.
    async fn until_sealed(&self) -> Result<(), Failure> {
        let until = self.clock.since_boot() + ENDING;
        while self.clock.since_boot() < until {
            tokio::time::sleep(Duration::from_secs(3)).await;
            if self.replicas.iter().all(|replica| replica.waiting() == 0) {
                return Ok(());
            }
        }
        Err(Failure::failed("the audit is not sealed"))
    }

    async fn kill_all(&self) -> Result<Killed, Failure> {
        let (Some(first), Some(other)) = (self.replicas.first(), self.replicas.last()) else {
            return Err(Failure::failed("there must be a replica"));
        };
        let caller = super::caller("agent-0", &self.key)?;
        let issued = self.exchange(&first.broker, &caller).await;
        let issued = issued.map_err(refused)?;
        let token = issued.access_token.as_str();
        self.until_active(&other.broker, token, true).await?;
        let request = RevocationRequest {
            selector: Selector::All,
            reason: "measured".to_owned(),
            kill_only: true,
            retire: false,
        };
        let before = fences(first.store.as_ref()).await?;
        let begun = self.clock.since_boot();
        let revoking = first.broker.revoke(&self.operator, request, false);
        let watching = self.until_active(&other.broker, token, false);
        let (receipt, dead) = tokio::join!(revoking, watching);
        let receipt = receipt.map_err(refused)?;
        let dead = dead?.saturating_sub(begun);
        loop {
            let open = any_open(first.store.as_ref()).await.map_err(failed)?;
            let closed = self.clock.since_boot().saturating_sub(begun);
            if !open {
                return Ok(Killed {
                    entries: receipt.position.unwrap_or_default().saturating_sub(before),
                    dead,
                    closed,
                });
            }
            if closed > ENDING {
                return Err(Failure::failed("leases that were ended stay open"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// How many entries the fence log has had.
async fn fences(store: &dyn Store) -> Result<u64, Failure> {
    let log = crate::fences::log();
    let mut after = Position::ORIGIN;
    loop {
        let tail = store.tail(&log, after, 0, Duration::ZERO).await;
        match tail.map_err(failed)? {
            Tail::Entries { head, .. } | Tail::Forked { head } => return Ok(head.sequence),
            Tail::Trimmed { oldest } => after = oldest,
        }
    }
}

/// Whether a lease is not over yet. Looked at where they lie by when something has to be done about them.
async fn any_open(store: &dyn Store) -> Result<bool, StoreError> {
    for shard in ShardId::all() {
        let index = Index {
            shard,
            name: Cow::Borrowed(DUE),
        };
        if !store
            .range(&index, -MAX_RANK..=MAX_RANK, 1)
            .await?
            .is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many leases are not over yet.
pub(super) fn open(found: &Usage) -> u64 {
    found.members.get(DUE).copied().unwrap_or(0)
}
