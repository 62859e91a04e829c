//! Logs and metrics: how they are set up, and every name in them.
//!
//! In: a format, a filter. Out: one subscriber for the process, one recorder whose text the health
//! listener serves. Names are constants so that dashboards and alarms can rely on them. Values are
//! of small closed sets: nothing that a caller chose becomes a label, no secret a field.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Names of log fields.
pub mod field {
    pub const REFUSAL_ID: &str = "refusal_id";
    pub const REASON: &str = "reason";
    pub const DETAIL: &str = "detail";
    pub const PEER: &str = "peer";
}

/// Names of metrics, and of their labels.
pub mod metric {
    /// Requests answered; labels `method`, `route`, `status`.
    pub const HTTP_REQUESTS: &str = "dayfly_http_requests_total";
    /// Seconds from a request's head to its answer; labels `method`, `route`.
    pub const HTTP_SECONDS: &str = "dayfly_http_request_seconds";
    /// Connections open now.
    pub const HTTP_CONNECTIONS: &str = "dayfly_http_connections";
    /// Decisions at the token endpoint; labels `decision` (`issued`, `refused`), `reason`.
    pub const MINTS: &str = "dayfly_mint_total";
    /// Refusals at any door; label `reason`.
    pub const REFUSALS: &str = "dayfly_refusals_total";
    /// Leases that their holders gave back; label `target`.
    pub const RELEASES: &str = "dayfly_releases_total";
    /// Entries appended to the fence log here; label `kind` (`kill`, `hold`, `lift`).
    pub const FENCES: &str = "dayfly_fences_total";
    /// Conditions that were only observed and would have refused; labels `mission`, `reason`.
    pub const OBSERVED: &str = "dayfly_observed_refusals_total";
    /// Refusals of known agents past their quota of audit entries.
    pub const UNAUDITED_REFUSALS: &str = "dayfly_unaudited_refusals_total";
    /// What `[[response]]` did; label `outcome` (`done`, `failed`, `dropped`).
    pub const RESPONSES: &str = "dayfly_responses_total";
    /// What somebody must look at now; label `kind` (`join_token_reused`, `other_key_pinned`, `drift`, `break_glass_used`, `record_unreadable`, `revocation_overdue`, `source_silent`, `not_asked_about`).
    pub const ALARMS: &str = "dayfly_alarms_total";
    /// What somebody was told before it happens; label `kind` (`ends_soon`, `review_due`, ...).
    pub const NOTICES: &str = "dayfly_notices_total";
    /// The store's clock minus this replica's, in seconds.
    pub const CLOCK_SKEW: &str = "dayfly_clock_skew_seconds";
    /// How old this replica's view of revocations is, in seconds.
    pub const VIEW_AGE: &str = "dayfly_fence_view_age_seconds";
    /// Credentials that must be dead downstream and are not confirmed yet; label `target`.
    pub const ENDING: &str = "dayfly_ending_backlog";
    /// How long the oldest of them has had to be dead, in seconds; label `target`.
    pub const ENDING_OLDEST: &str = "dayfly_ending_oldest_seconds";
    /// 1 while a target is overdue and mints nothing, else 0; label `target`.
    pub const OVERDUE: &str = "dayfly_target_overdue";
    /// Credentials that a target may have made and nobody was given; label `target`.
    pub const UNCLAIMED: &str = "dayfly_unclaimed";
    /// 1 while a target that did not answer is not asked for new ones, else 0; label `target`.
    pub const BREAKER_OPEN: &str = "dayfly_breaker_open";
    /// Entries of the audit that wait in the store to be exported and sealed.
    pub const AUDIT_BACKLOG: &str = "dayfly_audit_backlog";
    /// Revocations of which all was confirmed.
    pub const CONFIRMED: &str = "dayfly_revocations_confirmed_total";
    /// Streams of events open now.
    pub const LISTENERS: &str = "dayfly_event_listeners";
    /// The number of the published configuration that decides here; 0: the replica's own folder does.
    pub const CONFIG_REVISION: &str = "dayfly_config_revision";
    /// 1 while another configuration was published than decides here, else 0.
    pub const CONFIG_BEHIND: &str = "dayfly_config_behind";
    /// Handlers that panicked.
    pub const PANICS: &str = "dayfly_panics_total";
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter `{filter}` is not understood: {why}")]
    Filter { filter: String, why: String },
    #[error("logging is already set up in this process")]
    LogTaken,
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
}

/// Sets up logging for the process, to standard error. `filter` is a level, or directives such as
/// `info,dayfly::leases=debug`.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter).map_err(|why| TelemetryError::Filter {
        filter: filter.to_owned(),
        why: why.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        // Else a line that cannot be written is told to stderr by a macro that panics where that fails:
        // the disk that the log is on may be full.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|_| TelemetryError::LogTaken)?;
    // SECURITY: a panic's message may quote what a caller sent; its place is enough to find it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref().unwrap_or("unknown"), "a panic");
    }));
    Ok(())
}

/// The process's metrics, as the health listener shows them.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Seconds. Half a millisecond is a local mint, ten seconds a cloud in trouble.
const LATENCY_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

impl Metrics {
    /// Becomes the process's recorder. At most once.
    pub fn install() -> Result<Self, TelemetryError> {
        let handle = builder()?
            .install_recorder()
            .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
        describe();
        Ok(Self { handle })
    }

    /// Records nothing of the process: for a router without one.
    pub fn detached() -> Result<Self, TelemetryError> {
        let handle = builder()?.build_recorder().handle();
        Ok(Self { handle })
    }

    /// For ever: folds what was recorded into buckets, or memory would grow where nobody scrapes.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            self.handle.run_upkeep();
        }
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn builder() -> Result<PrometheusBuilder, TelemetryError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS)
        .map_err(|error| TelemetryError::Metrics(error.to_string()))
}

fn describe() {
    metrics::describe_counter!(metric::HTTP_REQUESTS, "Requests answered");
    metrics::describe_histogram!(
        metric::HTTP_SECONDS,
        metrics::Unit::Seconds,
        "From a request's head to its answer"
    );
    metrics::describe_gauge!(metric::HTTP_CONNECTIONS, "Connections open now");
    metrics::describe_gauge!(
        metric::AUDIT_BACKLOG,
        "Entries of the audit that wait to be exported and sealed"
    );
    metrics::describe_gauge!(
        metric::CLOCK_SKEW,
        metrics::Unit::Seconds,
        "The store's clock minus this replica's"
    );
    metrics::describe_counter!(metric::MINTS, "Decisions at the token endpoint");
    metrics::describe_counter!(metric::REFUSALS, "Refusals at any door");
    metrics::describe_counter!(metric::PANICS, "Handlers that panicked");
}

/// One request was answered. `route` is the table's path, never the caller's.
pub fn answered(method: &'static str, route: &str, status: u16, took: Duration) {
    let route = route.to_owned();
    metrics::counter!(
        metric::HTTP_REQUESTS,
        "method" => method,
        "route" => route.clone(),
        "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!(metric::HTTP_SECONDS, "method" => method, "route" => route)
        .record(took.as_secs_f64());
}

/// Told where it is looked at. Of a view that never was, the age is not a number.
pub fn view_age(age: Option<Duration>) {
    let seconds = age.map_or(f64::NAN, |age| age.as_secs_f64());
    metrics::gauge!(metric::VIEW_AGE).set(seconds);
}

/// Told where it is looked at, like the age of the view.
pub fn audit_backlog(entries: u64) {
    #[expect(clippy::cast_precision_loss, reason = "minting stops at 80,000")]
    metrics::gauge!(metric::AUDIT_BACKLOG).set(entries as f64);
}

/// The token endpoint decided. `reason` is a reason code, `None` when it issued.
pub fn decided(reason: Option<&'static str>) {
    let decision = if reason.is_none() {
        "issued"
    } else {
        "refused"
    };
    metrics::counter!(
        metric::MINTS,
        "decision" => decision,
        "reason" => reason.unwrap_or("none")
    )
    .increment(1);
}

/// Something was refused at a door.
pub fn refused(reason: &'static str) {
    metrics::counter!(metric::REFUSALS, "reason" => reason).increment(1);
}

/// A handler panicked.
pub fn panicked() {
    metrics::counter!(metric::PANICS).increment(1);
}

/// A connection was opened (`1.0`) or closed (`-1.0`).
pub fn connections(change: f64) {
    metrics::gauge!(metric::HTTP_CONNECTIONS).increment(change);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init_log(LogFormat::Human, "dayfly=loudest").unwrap_err();
        assert!(error.to_string().contains("dayfly=loudest"), "{error}");
    }

    #[test]
    fn decisions_are_counted_by_reason() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            decided(None);
            decided(Some("exceeds_mission"));
            decided(Some("exceeds_mission"));
            answered("POST", "/token", 200, Duration::from_millis(3));
        });
        let text = handle.render();
        assert!(
            text.contains(r#"dayfly_mint_total{decision="issued",reason="none"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"dayfly_mint_total{decision="refused",reason="exceeds_mission"} 2"#),
            "{text}"
        );
        assert!(
            text.contains("dayfly_http_request_seconds_bucket"),
            "{text}"
        );
    }
}
