//! `dayfly serve`: listens until it is told to stop, drains, and swaps its configuration on SIGHUP.

use super::compose::{Composed, open_fit};
use super::output::{Failure, Output};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Settings};
use crate::http::{Bound, ListenSettings, health_router, router};
use crate::store::Store;
use crate::telemetry::{LogFormat, Metrics, init_log};
use clap::Args;
use clap::builder::FalseyValueParser;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration folder. Without it: a development broker on loopback with its state in
    /// `--state`, that knows no agent yet.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: Option<PathBuf>,
    /// Where the development broker keeps its state.
    #[arg(long, default_value = ".dayfly", conflicts_with = "config")]
    state: PathBuf,
    /// Log lines as JSON.
    #[arg(long, env = "DAYFLY_LOG_JSON", value_parser = FalseyValueParser::new())]
    log_json: bool,
    /// A level, or directives such as `info,dayfly::leases=debug`.
    #[arg(long, env = "DAYFLY_LOG", default_value = "info")]
    log: String,
}

/// What stands in for the store that the settings name: itself.
pub type OfStore = dyn Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync;

impl ServeArgs {
    pub(super) fn of(config: PathBuf) -> Self {
        Self {
            config: Some(config),
            state: PathBuf::new(),
            log_json: false,
            log: "info".to_owned(),
        }
    }
}

pub async fn serve(args: ServeArgs, output: &Output) -> Result<u8, Failure> {
    let clock = Arc::new(SystemClock::new());
    serve_by((clock, &|store| store), args, output).await
}

pub(super) async fn serve_by(
    (clock, store): (Arc<dyn Clock>, &OfStore),
    args: ServeArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let format = if args.log_json {
        LogFormat::Json
    } else {
        LogFormat::Human
    };
    init_log(format, &args.log).map_err(|error| Failure::usage(error.to_string()))?;
    let metrics = Metrics::install().map_err(|error| Failure::failed(error.to_string()))?;
    tokio::spawn(metrics.clone().upkeep());
    // Taken, and nothing more: a file that may not grow is an answer then, as a full disk is, and not
    // the end of the process.
    let _grown = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))
        .map_err(|error| Failure::failed(error.to_string()))?;
    let (settings, tokens) = match &args.config {
        Some(dir) => (load(dir)?, Vec::new()),
        None => development(&args.state, output)?,
    };
    for warning in &settings.warnings.0 {
        tracing::warn!("{}", warning.message);
    }

    let opened = store(open_fit(&settings.broker.store).await?);
    let composed = Composed::over(opened, &settings, clock, tokens).await?;
    let doors = settings.broker.doors.clone();
    let public = bind(settings.broker.listen.clone()).await?;
    let health = bind(settings.broker.health_listen.clone()).await?;
    let mtls = settings.broker.mtls.as_ref();
    let mtls = match mtls.and_then(|mtls| mtls.listen.clone()) {
        Some(listen) => Some(bind(listen).await?),
        None => None,
    };
    tracing::info!(
        url = settings.broker.url,
        listen = %public.address(),
        health = %health.address(),
        mtls = mtls.as_ref().map(|mtls| mtls.address().to_string()),
        config = composed.broker.config_hash(),
        "dayfly serves"
    );

    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // The sender is dropped only when this process ends: that is a stop, too.
        drop(stopped.wait_for(|stop| *stop).await);
    };
    let app = router(composed.broker.clone(), &doors);
    let (mut serving, mut certificates) = (Vec::new(), Vec::new());
    for bound in std::iter::once(public).chain(mtls) {
        certificates.extend(bound.tls_reload());
        serving.push(tokio::spawn(
            bound.serve(app.clone(), wait(stopped.clone())),
        ));
    }
    let watching = tokio::spawn(health.serve(
        health_router(composed.broker.clone(), metrics, &doors),
        wait(stopped),
    ));

    until_told_to_stop(async || {
        if let Some(dir) = &args.config {
            reload(dir, &composed).await;
        }
        for tls in &certificates {
            if let Err(error) = tls.reload().await {
                tracing::error!(%error, "a certificate was not swapped");
            }
        }
    })
    .await
    .map_err(|error| Failure::failed(error.to_string()))?;
    tracing::info!("stopping: requests under way are finished, new ones are refused");
    let _ = stop.send(true);
    for serving in serving {
        drop(serving.await);
    }
    drop(watching.await);
    composed.finish().await;
    Ok(0)
}

/// `reload` at each SIGHUP. One that hangs on a slow secret keeps nobody from stopping: what it does not end is as if it
/// had not begun.
async fn until_told_to_stop(reload: impl AsyncFn()) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reloads = async {
        while hangup.recv().await.is_some() {
            reload().await;
        }
    };
    tokio::select! {
        () = reloads => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn load(dir: &Path) -> Result<Settings, Failure> {
    config::load(dir)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(format!("{problems}\nnothing was started")))
}

/// Everything or nothing: a folder with a mistake in it leaves the broker as it was.
async fn reload(dir: &Path, composed: &Composed) {
    let swapped = match load(dir) {
        Ok(settings) => composed.reload(&settings).await,
        Err(failure) => Err(failure),
    };
    match swapped {
        Ok(hash) => tracing::info!(config = hash, "the configuration was swapped"),
        Err(failure) => tracing::error!(
            kept = composed.broker.config_hash(),
            "the configuration was kept: {}",
            failure.message
        ),
    }
}

fn development(state: &Path, output: &Output) -> Result<(Settings, Vec<[u8; 32]>), Failure> {
    let made = config::development(state.to_owned())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let token = super::operator_token(&made.dir)?;
    output.notice(&format!(
        "DEVELOPMENT BROKER: loopback, one node, no agents. State: {}. Operator token: {}",
        made.dir.display(),
        token.path.display()
    ));
    Ok((made.settings, vec![token.sha256]))
}

pub async fn bind(settings: ListenSettings) -> Result<Bound, Failure> {
    Bound::bind(settings)
        .await
        .map_err(|error| Failure::failed(error.to_string()))
}
