//! `bench revoke`: how long a credential that is revoked at one replica is still vouched for at the
//! others. Real brokers on a real Redis, in this process: each has its own connections, its own view
//! and its own follower of the fence log, as it would on a machine of its own.

mod decide;
mod end;
mod memory;

use super::compose::Composed;
use super::output::{Failure, Output, columns};
use crate::authority::AuthorizationDetail;
use crate::broker::{
    Broker, ExchangeRequest, GrantType, Operator, Reason, Refusal, ResourceServer, Role,
};
use crate::client::deliver::{Folder, write_atomically};
use crate::client::proof::{Prover, Source};
use crate::client::request::{Wanted, form};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Settings};
use crate::identity::Presented;
use crate::ids;
use crate::intent::Asked;
use crate::jose::{Algorithm, SigningKey};
use crate::secret::Secret;
use crate::store::Store;
use crate::wire::{RevocationRequest, Selector, TokenResponse};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};

const CONFIGURATION: &str = include_str!("bench.toml");
const URL: &str = "http://127.0.0.1:1";
const AGENT: &str = "agent";
const TARGET: &str = "api";
/// Revocations that are made first and not counted: connections are opened and scripts loaded.
const WARM_UP: usize = 20;
const BUILD: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};
/// Between two questions of whoever waits for an answer to change.
const ASKS_EVERY: Duration = Duration::from_micros(50);
/// Longer than any bound that a broker promises.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Revoke at one replica and measure until every other one says that it is dead.
    #[command(after_help = "Example:\n  dayfly bench revoke --replicas 2 -o json")]
    Revoke(RevokeBench),
    /// Decide among few and among many missions: it should cost the same.
    #[command(after_help = "Example:\n  dayfly bench decide --missions 10,1000,10000 -o json")]
    Decide(decide::DecideBench),
    /// Hold a million leases, kill the broker, end all of them: what it costs and how long it takes.
    #[command(after_help = "Example:\n  dayfly bench memory --leases 1000000 -o json")]
    Memory(memory::MemoryBench),
    /// Mint at a real downstream, end all of it at once, and measure until every end is confirmed.
    #[command(after_help = "Example:\n  dayfly bench end --target target.toml -o json")]
    End(end::EndBench),
}

#[derive(Debug, Args)]
pub struct RevokeBench {
    /// How many brokers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=16))]
    replicas: u16,
    /// How many revocations are measured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    samples: u32,
    /// An empty Redis to use; it is left full. Default: a `redis-server` of its own, with an
    /// append-only file, ended and removed afterwards.
    #[arg(long)]
    redis: Option<String>,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    replicas: u16,
    samples: usize,
    /// From the operator's request until the last of the other replicas said `"active": false`.
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// From the operator's request until its receipt.
    receipt_p50_ms: f64,
    receipt_p99_ms: f64,
    /// `release` or `debug`: figures of the latter mean nothing.
    build: &'static str,
}

pub async fn bench(command: BenchCommand, output: &Output) -> Result<u8, Failure> {
    let args = match command {
        BenchCommand::Revoke(args) => args,
        BenchCommand::Decide(args) => return decide::run(&args, output),
        BenchCommand::Memory(args) => return memory::run(&args, output).await,
        BenchCommand::End(args) => return end::run(&args, output).await,
    };
    let folder = Folder::make(&std::env::temp_dir())?;
    let (url, server) = match args.redis {
        Some(url) => (url, None),
        None => {
            let (url, child) = redis(&folder).await?;
            (url, Some(child))
        }
    };
    let stage = Stage::of(&folder, (url, CONFIGURATION), args.replicas).await?;
    let report = stage.measure(args.samples).await;
    stage.clear().await;
    drop(server);
    output.show(&report?, table)?;
    Ok(0)
}

fn table(report: &Report) -> String {
    let row = |name: &str, value: f64| vec![name.to_owned(), format!("{value:.2} ms")];
    let rows = [
        row("dead everywhere, p50", report.p50_ms),
        row("dead everywhere, p90", report.p90_ms),
        row("dead everywhere, p99", report.p99_ms),
        row("dead everywhere, max", report.max_ms),
        row("receipt, p50", report.receipt_p50_ms),
        row("receipt, p99", report.receipt_p99_ms),
    ];
    let head = format!(
        "{} REPLICAS, {} REVOCATIONS, {} BUILD",
        report.replicas,
        report.samples,
        report.build.to_uppercase()
    );
    columns(&[&head, "TIME"], &rows)
}

/// An agent that asks.
struct Caller {
    agent: String,
    prover: Prover,
}

/// Brokers on one store, an agent, an operator and a resource server.
struct Stage {
    clock: Arc<dyn Clock>,
    replicas: Vec<Composed>,
    key: SigningKey,
    caller: Caller,
    operator: Operator,
    resource_server: ResourceServer,
    /// What agents ask for.
    target: String,
    /// Which parts of it, one after the other; none: all that they may have there.
    parts: Vec<AuthorizationDetail>,
    asked: AtomicUsize,
}

/// A folder with a configuration, what it names, and the key of its agents. Brokers may be started on it again.
struct Ground {
    settings: Settings,
    folder: PathBuf,
    key: SigningKey,
    clock: Arc<dyn Clock>,
}

impl Ground {
    fn of(folder: &Folder, url: String, configuration: &str) -> Result<Self, Failure> {
        let key = SigningKey::generate(Algorithm::Es256)
            .map_err(failed)?
            .named_by_thumbprint();
        let sealing = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(ids::random::<32>())
        };
        let keys = json!({ "keys": [key.public_jwk()] }).to_string();
        for (name, text) in [
            ("sealing.key", sealing),
            ("redis.url", url),
            ("agent.jwks.json", keys),
        ] {
            write_atomically(&folder.path().join(name), &Secret::new(text))?;
        }
        let files = vec![("bench.toml".to_owned(), configuration.to_owned())];
        let settings = config::load_with(files, folder.path().to_owned())
            .and_then(|document| document.resolve())
            .map_err(failed)?;
        Ok(Self {
            settings,
            folder: folder.path().to_owned(),
            key,
            clock: Arc::new(SystemClock::new()),
        })
    }

    /// Of the replica of this number.
    fn own(&self, number: u16) -> Settings {
        let mut own = self.settings.clone();
        own.broker.audit_path = self.folder.join(format!("audit-{number}.jsonl"));
        own
    }
}

impl Stage {
    async fn of(
        folder: &Folder,
        (url, configuration): (String, &str),
        replicas: u16,
    ) -> Result<Self, Failure> {
        Self::start(&Ground::of(folder, url, configuration)?, replicas).await
    }

    async fn start(ground: &Ground, replicas: u16) -> Result<Self, Failure> {
        let mut composed = Vec::new();
        for number in 0..replicas {
            let (own, clock) = (ground.own(number), ground.clock.clone());
            composed.push(Composed::open(&own, clock, Vec::new()).await?);
        }
        Self::on(ground, composed).await
    }

    /// One broker on a store that is open already.
    async fn over(ground: &Ground, store: Arc<dyn Store>) -> Result<Self, Failure> {
        let clock = ground.clock.clone();
        let composed = Composed::over(store, &ground.own(0), clock, Vec::new()).await?;
        Self::on(ground, vec![composed]).await
    }

    async fn on(ground: &Ground, composed: Vec<Composed>) -> Result<Self, Failure> {
        for replica in &composed {
            until_ready(&replica.broker).await?;
        }
        Ok(Self {
            clock: ground.clock.clone(),
            replicas: composed,
            caller: caller(AGENT, &ground.key)?,
            key: ground.key.clone(),
            operator: Operator {
                subject: None,
                name: "bench".to_owned(),
                role: Role::Operator,
                break_glass: false,
            },
            resource_server: ResourceServer {
                name: TARGET.to_owned(),
                audiences: vec![TARGET.to_owned()],
            },
            target: TARGET.to_owned(),
            parts: Vec::new(),
            asked: AtomicUsize::new(0),
        })
    }

    async fn measure(&self, samples: u32) -> Result<Report, Failure> {
        let samples = usize::try_from(samples).unwrap_or(usize::MAX);
        let mut dead = Vec::with_capacity(samples);
        let mut receipts = Vec::with_capacity(samples);
        for number in 0..WARM_UP.saturating_add(samples) {
            let (everywhere, receipt) = self.sample().await?;
            if number >= WARM_UP {
                dead.push(everywhere);
                receipts.push(receipt);
            }
        }
        dead.sort_unstable();
        receipts.sort_unstable();
        Ok(Report {
            replicas: u16::try_from(self.replicas.len()).unwrap_or(u16::MAX),
            samples,
            p50_ms: percentile(&dead, 50),
            p90_ms: percentile(&dead, 90),
            p99_ms: percentile(&dead, 99),
            max_ms: percentile(&dead, 100),
            receipt_p50_ms: percentile(&receipts, 50),
            receipt_p99_ms: percentile(&receipts, 99),
            build: BUILD,
        })
    }

    /// One credential, alive at every replica, revoked at the first one.
    async fn sample(&self) -> Result<(Duration, Duration), Failure> {
        let Some((first, others)) = self.replicas.split_first() else {
            return Err(Failure::failed("there are no replicas"));
        };
        let issued = self.exchange(&first.broker, &self.caller).await;
        let issued = issued.map_err(refused)?;
        let token = issued.access_token.as_str();
        for replica in others {
            self.until_active(&replica.broker, token, true).await?;
        }
        let request = RevocationRequest {
            selector: Selector::Lease(issued.lease_id),
            reason: "measured".to_owned(),
            kill_only: true,
            retire: false,
        };
        let begun = self.clock.since_boot();
        let revoking = async {
            first
                .broker
                .revoke(&self.operator, request, false)
                .await
                .map_err(refused)?;
            Ok::<_, Failure>(self.clock.since_boot())
        };
        let watching = others
            .iter()
            .map(|replica| self.until_active(&replica.broker, token, false));
        let (receipt, died) = tokio::join!(revoking, futures_util::future::join_all(watching));
        let mut last = begun;
        for moment in died {
            last = last.max(moment?);
        }
        Ok((last - begun, receipt? - begun))
    }

    /// Asks again and again; answers when the wanted answer came.
    async fn until_active(
        &self,
        broker: &Broker,
        token: &str,
        wanted: bool,
    ) -> Result<Duration, Failure> {
        let until = self.clock.since_boot() + PATIENCE;
        loop {
            let answer = broker
                .introspect(&self.resource_server, token)
                .await
                .map_err(refused)?;
            let now = self.clock.since_boot();
            if answer.active == wanted {
                return Ok(now);
            }
            if now > until {
                return Err(Failure::failed(format!(
                    "a replica still says `active: {}` after {} s",
                    !wanted,
                    PATIENCE.as_secs()
                )));
            }
            // An answer from memory waits for nothing: whoever asks on and on has a core to itself, and the
            // brokers and the store that are measured want it.
            #[expect(
                clippy::disallowed_methods,
                reason = "it is a thread of its own that waits"
            )]
            let pause = tokio::task::spawn_blocking(|| std::thread::sleep(ASKS_EVERY));
            pause
                .await
                .map_err(|error| Failure::failed(error.to_string()))?;
        }
    }

    /// A proof and an intent of this agent, and what the broker gives for them.
    async fn exchange(&self, broker: &Broker, caller: &Caller) -> Result<TokenResponse, Refusal> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let part = self.parts.get(asked % self.parts.len().max(1));
        let wanted = Wanted {
            mission: "measure".to_owned(),
            target: self.target.clone(),
            authorization_details: part.into_iter().cloned().collect(),
            goal: "Measure revocation".to_owned(),
            task: None,
            instance: None,
            context: serde_json::Map::new(),
            evidence: Vec::new(),
            platform_signed: false,
            on_behalf_of: None,
            agent: caller.agent.clone(),
        };
        let form = form(URL, &caller.prover, &wanted, self.clock.now()).await;
        let form = form.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        let field = |name: &str| {
            let found = form.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        let request = ExchangeRequest {
            grant: GrantType::ClientCredentials,
            presented: Presented {
                client_assertion: field("client_assertion").map(Secret::new),
                client_id: field("client_id"),
                ..Presented::default()
            },
            asked: Asked {
                unverified_intent: field("intent"),
                targets: vec![self.target.clone()],
                ..Asked::default()
            },
            requested_token_type: None,
        };
        broker.exchange(request).await
    }

    async fn clear(&self) {
        for replica in &self.replicas {
            replica.finish().await;
        }
    }
}

/// Whoever makes one reads the certificates of all authorities: once for each agent, not for each question.
fn caller(agent: &str, key: &SigningKey) -> Result<Caller, Failure> {
    let agent = agent.to_owned();
    let source = Source::Key {
        agent: agent.clone(),
    };
    let prover = Prover::new(source, Some(key.clone())).map_err(failed)?;
    Ok(Caller { agent, prover })
}

async fn until_ready(broker: &Broker) -> Result<(), Failure> {
    let mut problems = Vec::new();
    for _ in 0..500 {
        match broker.ready().await {
            Ok(()) => return Ok(()),
            Err(found) => problems = found,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Failure::failed(format!(
        "a replica does not get ready: {}",
        problems.join("; ")
    )))
}

/// A `redis-server` on a free loopback port, with its data in the folder. Dropped, it is killed.
async fn redis(folder: &Folder) -> Result<(String, Child), Failure> {
    let problem = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::failed(
            "there is no `redis-server` on the PATH; install it, or give an empty one with --redis",
        ),
        _ => Failure::failed(format!("redis-server: {error}")),
    };
    let port = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .and_then(|listener| listener.local_addr())
        .map_err(problem)?
        .port();
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "yes", "--dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(problem)?;
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok()
        {
            return Ok((format!("redis://127.0.0.1:{port}"), child));
        }
        if let Some(status) = child.try_wait().map_err(problem)? {
            return Err(Failure::failed(format!("redis-server ended with {status}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Failure::failed("redis-server does not listen"))
}

/// The value that this many of a hundred samples do not exceed, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted
        .get(rank - 1)
        .map_or(0.0, |found| found.as_secs_f64() * 1000.0)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

fn refused(refusal: Refusal) -> Failure {
    Failure::failed(format!("{}: {}", refusal.reason.code(), refusal.detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample_that_was_seen() {
        let samples: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        for (percent, expected) in [(50, 100.0), (90, 180.0), (99, 198.0), (100, 200.0)] {
            assert!((percentile(&samples, percent) - expected).abs() < 1e-9);
        }
        let one = [Duration::from_millis(7)];
        assert!((percentile(&one, 1) - 7.0).abs() < 1e-9);
        assert!((percentile(&[], 99)).abs() < 1e-9);
    }
}
