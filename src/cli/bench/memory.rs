//! `bench memory`: what a store full of live leases costs, and what ends them. Leases come by whole
//! exchanges of brokers in this process; what starts, is killed and starts again is a real one.

use super::{CONFIGURATION, Caller, PATIENCE, Stage, decide, failed, redis, refused};
use crate::cli::output::{Failure, Output, columns};
use crate::client::deliver::{Folder, write_atomically};
use crate::client::http_client;
use crate::clock::{Clock, SystemClock};
use crate::connectors::{
    ACCESS_TOKEN_TYPE, Connector, ConnectorError, Ended, Handle, MintContext, Minted, Promises,
    RevocationClass,
};
use crate::fences::{Dimension, FenceKind, Fences, NewFence};
use crate::ids::{self, LeaseId};
use crate::leases::{Connectors, Leases, Sweeper};
use crate::policy::Grant;
use crate::secret::{Sealer, Secret};
use crate::store::redis::{Redis, RedisSettings, Usage, usage, used_memory};
use crate::store::{Position, Store, Tail};
use crate::wire::{RevocationRequest, Selector};
use async_trait::async_trait;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// Exchanges under way at once.
const ABREAST: u32 = 32;
/// Agents, over all shards.
const AGENTS: u32 = 256;
/// Longer than a start over a million leases may take.
const START: Duration = Duration::from_secs(120);
/// Longer than ending a million leases may take.
pub(super) const ENDING: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub struct MemoryBench {
    /// How many live leases.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    leases: u32,
    /// How many leases a downstream must confirm the end of, one by one.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    native: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    /// How many the store holds: those that were asked for, and those whose answer was lost and
    /// that were asked for again.
    leases: u64,
    /// Exchanges that were asked again, because the answer was to come back later.
    asked_again: u32,
    seed_seconds: f64,
    /// What the server's memory grew by, over the leases: every key counts, proofs that were spent among them.
    redis_bytes_per_lease: f64,
    /// Where it goes, in bytes per lease, by what keys are for.
    bytes_per_lease: BTreeMap<String, f64>,
    keys: BTreeMap<String, u64>,
    /// Resident memory of a broker that has just started on this store.
    broker_rss_mib: f64,
    /// From the start of a process, after SIGKILL of the one before, until it is ready.
    ready_after_sigkill_ms: f64,
    /// Entries of the fence log that end all of them.
    kill_all_entries: u64,
    /// Until another replica says of the last one issued that it is dead.
    kill_all_dead_ms: f64,
    /// Until no lease is open any more.
    kill_all_closed_seconds: f64,
    native: u32,
    /// From the fence until the last downstream end was confirmed and recorded.
    native_ended_seconds: f64,
    /// `release` or `debug`: figures of the latter mean nothing.
    build: &'static str,
}

pub async fn run(args: &MemoryBench, output: &Output) -> Result<u8, Failure> {
    let folder = Folder::make(&std::env::temp_dir())?;
    let (url, server) = redis(&folder).await?;
    let settings = RedisSettings::new(Secret::new(url.clone()));
    let clock = SystemClock::new();
    let stage = Arc::new(Stage::of(&folder, (url, &configuration()), 2).await?);
    let empty = used_memory(&settings).await.map_err(failed)?;
    let began = clock.since_boot();
    let asked_again = stage.seed(args.leases).await?;
    let seed_seconds = (clock.since_boot() - began).as_secs_f64();
    stage.until_sealed().await?;
    let full = usage(&settings).await.map_err(failed)?;
    let (rss, ready) = killed(&folder).await?;
    let killed = stage.kill_all(&settings).await?;
    stage.clear().await;
    drop(server);
    let ended = native(args.native).await?;
    let leases = full.keys.get("lease").copied().unwrap_or_default().max(1);
    let per = |bytes: u64| bytes as f64 / leases as f64;
    let report = Report {
        leases,
        asked_again,
        seed_seconds,
        redis_bytes_per_lease: per(full.used_memory.saturating_sub(empty)),
        bytes_per_lease: full
            .bytes
            .iter()
            .map(|(what, bytes)| (what.clone(), per(*bytes)))
            .collect(),
        keys: full.keys,
        broker_rss_mib: rss,
        ready_after_sigkill_ms: ready.as_secs_f64() * 1000.0,
        kill_all_entries: killed.entries,
        kill_all_dead_ms: killed.dead.as_secs_f64() * 1000.0,
        kill_all_closed_seconds: killed.closed.as_secs_f64(),
        native: args.native,
        native_ended_seconds: ended.as_secs_f64(),
        build: super::BUILD,
    };
    output.show(&report, table)?;
    Ok(0)
}

fn table(report: &Report) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row(
            "Redis, bytes per lease",
            format!("{:.0}", report.redis_bytes_per_lease),
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

    async fn kill_all(&self, settings: &RedisSettings) -> Result<Killed, Failure> {
        let [first, other] = self.replicas.as_slice() else {
            return Err(Failure::failed("there must be two replicas"));
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
            let found = usage(settings).await.map_err(failed)?;
            let closed = self.clock.since_boot().saturating_sub(begun);
            if open(&found) == 0 {
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

/// How many leases are not over yet.
pub(super) fn open(found: &Usage) -> u64 {
    found.members.get("lease-due").copied().unwrap_or(0)
}

/// Resident memory of a broker of its own process, and how soon the next one is ready.
async fn killed(folder: &Folder) -> Result<(f64, Duration), Failure> {
    let port = || {
        std::net::TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map(|address| address.port())
            .map_err(failed)
    };
    let (listen, health) = (port()?, port()?);
    let own = folder.path().join("process");
    std::fs::create_dir(&own).map_err(failed)?;
    let text = configuration()
        .replace(
            "listen        = \"127.0.0.1:0\"\nhealth",
            &format!("listen        = \"127.0.0.1:{listen}\"\nhealth"),
        )
        .replace(
            "health_listen = \"127.0.0.1:0\"",
            &format!("health_listen = \"127.0.0.1:{health}\""),
        )
        .replace("file:", "file:../")
        .replace(
            "keys          =",
            "audit         = { path = \"audit.jsonl\" }\nkeys          =",
        );
    write_atomically(&own.join("dayfly.toml"), &Secret::new(text))?;
    let clock = SystemClock::new();
    let url = format!("http://127.0.0.1:{health}/readyz");
    let mut first = serve(&own)?;
    until_it_is_ready(&url, &mut first).await?;
    let rss = first.id().and_then(resident).unwrap_or_default();
    first.kill().await.map_err(failed)?;
    let began = clock.since_boot();
    let mut again = serve(&own)?;
    until_it_is_ready(&url, &mut again).await?;
    let ready = clock.since_boot() - began;
    again.kill().await.map_err(failed)?;
    Ok((rss, ready))
}

fn serve(folder: &std::path::Path) -> Result<Child, Failure> {
    Command::new(std::env::current_exe().map_err(failed)?)
        .args(["serve", "--log", "error", "--config"])
        .arg(folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}

async fn until_it_is_ready(url: &str, process: &mut Child) -> Result<(), Failure> {
    let http = http_client().map_err(failed)?;
    let clock = SystemClock::new();
    let until = clock.since_boot() + START;
    while clock.since_boot() < until {
        if let Ok(answer) = http.get(url).send().await
            && answer.status().is_success()
        {
            return Ok(());
        }
        if let Some(status) = process.try_wait().map_err(failed)? {
            return Err(Failure::failed(format!("the broker ended with {status}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Failure::failed("the broker does not get ready"))
}

/// In MiB; of Linux alone.
fn resident(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// A downstream that confirms at once: what is measured is the broker's own part.
#[derive(Debug, Default)]
struct Downstream {
    ended: AtomicU32,
}

#[async_trait]
impl Connector for Downstream {
    fn promises(&self) -> Promises {
        Promises {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(3600),
            class: RevocationClass::Native,
            dead_within: Some(Duration::from_secs(5)),
            local: false,
            named_by_lease: true,
            expires_by_itself: true,
            status_list: false,
            detail_type: "access_token",
        }
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        Ok(Minted {
            token: Some(Secret::new(context.lease.to_string())),
            credential: None,
            issued_token_type: ACCESS_TOKEN_TYPE,
            handle: Some(Secret::new(ids::random::<16>().to_vec())),
            names: Vec::new(),
            expires_at: context.now + grant.ttl(),
            token_sha256: None,
            signing_key: None,
        })
    }

    async fn end(&self, _: &LeaseId, _: Option<&Handle>) -> Result<Ended, ConnectorError> {
        self.ended.fetch_add(1, Ordering::Relaxed);
        Ok(Ended::Dead)
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// On a Redis of their own: one fence, and every end told to a downstream and confirmed.
async fn native(count: u32) -> Result<Duration, Failure> {
    let folder = Folder::make(&std::env::temp_dir())?;
    let (url, _server) = redis(&folder).await?;
    let settings = RedisSettings::new(Secret::new(url));
    let store: Arc<dyn Store> = Arc::new(Redis::connect(settings.clone()).await.map_err(failed)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let sealer = Sealer::new(&[Secret::new(ids::random::<32>().to_vec())]).map_err(failed)?;
    let fences = Fences::start(store.clone(), sealer.clone(), clock.clone(), PATIENCE);
    let leases = Arc::new(Leases::new(store, sealer, clock.clone()));
    let downstream = Arc::new(Downstream::default());
    let until = clock.since_boot() + PATIENCE;
    let view = loop {
        match fences.fresh() {
            Ok(view) => break view,
            Err(stale) if clock.since_boot() > until => return Err(failed(stale)),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let grants = decide::Stage::set(AGENTS, clock.now())?.grants(&view, clock.now())?;
    for (_, grant) in (0..count).zip(grants.iter().cycle()) {
        let now = clock.now();
        let draft = leases.draft(grant, &downstream.promises(), now);
        let reserved = leases.reserve(draft, grant, now).await.map_err(failed)?;
        let minted = downstream.mint(grant, reserved.context(now)).await;
        let minted = minted.map_err(failed)?;
        leases
            .activate(reserved, minted, &view, now)
            .await
            .map_err(failed)?;
    }
    let connector = downstream.clone();
    let connectors: Connectors = Arc::new(move |_| Some(connector.clone() as Arc<dyn Connector>));
    let _sweeper = Sweeper::new(leases, fences.clone(), connectors).start(clock.clone());
    let fence = NewFence::new(FenceKind::Kill, Dimension::all(), "bench", "measured");
    let begun = clock.since_boot();
    fences.raise(fence, clock.now()).await.map_err(failed)?;
    loop {
        let took = clock.since_boot() - begun;
        if downstream.ended.load(Ordering::Relaxed) >= count
            && open(&usage(&settings).await.map_err(failed)?) == 0
        {
            return Ok(took);
        }
        if took > ENDING {
            return Err(Failure::failed("leases that were ended stay open"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
