//! `bench end`: how long one revocation of everything takes until a real downstream has confirmed the
//! end of each credential. Whole exchanges, the sweeper of a broker and the target's own connector.

use super::memory::{ENDING, configuration, open};
use super::{Ground, Stage, failed, redis, refused};
use crate::authority::AuthorizationDetail;
use crate::cli::output::{Failure, Output, columns};
use crate::client::deliver::Folder;
use crate::secret::Secret;
use crate::store::redis::{RedisSettings, usage};
use crate::wire::{RevocationRequest, Selector};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the missions of the other benches allow.
const ALLOWED: &str =
    r#"{ target = "api", actions = ["api:call"], locations = ["http://127.0.0.1/*"] }"#;

#[derive(Debug, Args)]
pub struct EndBench {
    /// A file with one `[target.NAME]`, as in a configuration. Credentials for its whole ceiling are made there, and
    /// ended. What it refers to with `file:` is named from the root.
    #[arg(long, value_name = "FILE")]
    target: PathBuf,
    /// How many credentials.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    leases: u32,
    /// Each credential for one of the ceiling's locations, one after the other, and not for all of them.
    #[arg(long)]
    spread: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    target: String,
    /// How many locations they were spread over; 1: each is for all of the ceiling.
    spread_over: usize,
    leases: u64,
    /// Exchanges that were asked again, because the answer was to come back later: what was made for them is a credential, too.
    asked_again: u32,
    mint_seconds: f64,
    /// From the operator's request until half of them were confirmed and recorded.
    half_ended_seconds: f64,
    /// The same until the last one was.
    ended_seconds: f64,
    /// `release` or `debug`: figures of the latter mean nothing.
    build: &'static str,
}

pub async fn run(args: &EndBench, output: &Output) -> Result<u8, Failure> {
    let text = std::fs::read_to_string(&args.target)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.target.display())))?;
    let (target, allowed) = mission(&text)
        .map_err(|what| Failure::usage(format!("{}: {what}", args.target.display())))?;
    let folder = Folder::make(&std::env::temp_dir())?;
    let (url, server) = redis(&folder).await?;
    let settings = RedisSettings::new(Secret::new(url.clone()));
    let text = format!("{}\n{text}", configuration().replace(ALLOWED, &allowed));
    let ground = Ground::of(&folder, url, &text)?;
    let mut stage = Stage::start(&ground, 1).await?;
    stage.target.clone_from(&target);
    if args.spread {
        stage.parts = parts(&ground, &target);
    }
    let spread_over = stage.parts.len().max(1);
    let stage = Arc::new(stage);
    let begun = stage.clock.since_boot();
    let asked_again = stage.seed(args.leases).await?;
    let minted = stage.clock.since_boot() - begun;
    let (leases, half, ended) = stage.end_all(&settings).await?;
    stage.clear().await;
    drop(server);
    let report = Report {
        target,
        spread_over,
        leases,
        asked_again,
        mint_seconds: minted.as_secs_f64(),
        half_ended_seconds: half.as_secs_f64(),
        ended_seconds: ended.as_secs_f64(),
        build: super::BUILD,
    };
    output.show(&report, table)?;
    Ok(0)
}

fn table(report: &Report) -> String {
    let row = |name: &str, seconds: f64| vec![name.to_owned(), format!("{seconds:.1} s")];
    let rows = [
        row("minted", report.mint_seconds),
        row("half of them confirmed dead", report.half_ended_seconds),
        row("all confirmed dead", report.ended_seconds),
    ];
    let head = format!(
        "{} CREDENTIALS OF {}, {} BUILD",
        report.leases,
        report.target,
        report.build.to_uppercase()
    );
    columns(&[&head, "TIME"], &rows)
}

/// The target's name, and its whole ceiling as a mission allows it.
fn mission(text: &str) -> Result<(String, String), String> {
    let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
    let targets = table.get("target").and_then(toml::Value::as_table);
    let only = targets.filter(|targets| targets.len() == 1);
    let (name, target) = only
        .and_then(|targets| targets.iter().next())
        .ok_or("there must be one `[target.NAME]` in it")?;
    let ceiling = target.get("ceiling").and_then(toml::Value::as_table);
    let mut allowed = ceiling.ok_or("its target has no `ceiling`")?.clone();
    allowed.insert("target".to_owned(), toml::Value::String(name.clone()));
    Ok((name.clone(), toml::Value::Table(allowed).to_string()))
}

/// The target's ceiling in parts of one location.
fn parts(ground: &Ground, name: &str) -> Vec<AuthorizationDetail> {
    let targets = ground.settings.targets.iter().map(|(target, _)| target);
    let permissions = targets
        .filter(|target| target.id.as_str() == name)
        .flat_map(|target| target.ceiling.0.iter().map(move |part| (target, part)));
    permissions
        .flat_map(|(target, permission)| {
            let part = move |location: &String| AuthorizationDetail {
                kind: target.detail_type.to_owned(),
                identifier: name.to_owned(),
                actions: permission.actions.clone(),
                locations: vec![location.clone()],
                max_ttl: None,
            };
            permission.locations.iter().map(part)
        })
        .collect()
}

impl Stage {
    async fn end_all(
        &self,
        settings: &RedisSettings,
    ) -> Result<(u64, Duration, Duration), Failure> {
        let [first] = self.replicas.as_slice() else {
            return Err(Failure::failed("there must be one replica"));
        };
        let left = async || Ok::<_, Failure>(open(&usage(settings).await.map_err(failed)?));
        let leases = left().await?;
        let request = RevocationRequest {
            selector: Selector::All,
            reason: "measured".to_owned(),
            kill_only: true,
            retire: false,
        };
        let begun = self.clock.since_boot();
        let receipt = first.broker.revoke(&self.operator, request, false).await;
        receipt.map_err(refused)?;
        let mut half = None;
        loop {
            let left = left().await?;
            let took = self.clock.since_boot() - begun;
            if left <= leases / 2 {
                half.get_or_insert(took);
            }
            if left == 0 {
                return Ok((leases, half.unwrap_or(took), took));
            }
            if took > ENDING {
                return Err(Failure::failed(format!("{left} credentials are not ended")));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
