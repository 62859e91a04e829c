//! `check --live`: what the folder names is there and fit for use. It asks, and changes nothing.

use super::compose::sealer;
use super::output::{Failure, Output};
use super::stores::redis_settings;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, CheckReport, Settings, StoreSettings, secret_reference};
use crate::connectors::{ConnectorError, Connectors, Setup};
use crate::identity::{Identity, Recognised};
use crate::jose::{KeyClient, Keyring, KeyringSettings, Reach};
use crate::secret::Sealer;
use crate::store::embedded::Embedded;
use crate::store::redis::Redis;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CALL_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug, Serialize)]
struct Report {
    /// Of the folder and of everything that was looked at.
    ok: bool,
    check: CheckReport,
    live: Vec<Found>,
}

/// One thing that was looked at, or one thing that is wrong with it.
#[derive(Debug, Serialize)]
struct Found {
    what: String,
    /// Advice is no error.
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    message: String,
}

impl Found {
    fn good(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok: true,
            code: None,
            message: message.into(),
        }
    }

    fn bad(what: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok: false,
            code: Some(code),
            message: message.into(),
        }
    }
}

/// 0 if the folder is right and everything that it names is there, 1 otherwise.
pub async fn check(dir: &Path, check: CheckReport, output: &Output) -> Result<u8, Failure> {
    let mut live = Vec::new();
    // What is wrong in the folder is in the report; nobody can be asked about it.
    if let Ok(settings) = config::load(dir).and_then(|document| document.resolve()) {
        live.extend(sealing_keys(&settings));
        live.extend(store(&settings.broker.store).await);
        live.extend(issuers(&settings).await);
        live.extend(targets(&settings).await?);
    }
    let ok = check.ok && live.iter().all(|found| found.ok);
    let report = Report { ok, check, live };
    output.show(&report, told)?;
    Ok(u8::from(!ok))
}

fn told(report: &Report) -> String {
    let mut lines = vec![report.check.to_string(), String::new()];
    lines.extend(report.live.iter().map(|found| {
        let mark = match (found.ok, found.code) {
            (true, None) => "ok  ",
            (true, Some(_)) => "note",
            (false, _) => "FAIL",
        };
        let code = found
            .code
            .map_or_else(String::new, |code| format!("{code}: "));
        format!("{mark} {}: {code}{}", found.what, found.message)
    }));
    lines.join("\n")
}

fn sealing_keys(settings: &Settings) -> Vec<Found> {
    let what = "sealing keys";
    match sealer(settings) {
        Ok(_) => vec![Found::good(what, "can be read")],
        Err(failure) => vec![Found::bad(what, "secret_unreadable", failure.message)],
    }
}

async fn store(settings: &StoreSettings) -> Vec<Found> {
    let what = "store";
    if let StoreSettings::Embedded { path } = settings {
        // Opening it would take it from the broker that runs.
        let message = format!("embedded, {}: not opened", path.display());
        return vec![Found::good(what, message)];
    }
    let settings = match redis_settings(settings) {
        Ok(settings) => settings,
        Err(failure) => return vec![Found::bad(what, "secret_unreadable", failure.message)],
    };
    let found = match Redis::inspect(&settings).await {
        Ok(found) => found,
        Err(error) => vec![error.as_finding()],
    };
    let is_fit = found.iter().all(|finding| finding.fault.is_advice());
    let mut rows: Vec<_> = found
        .into_iter()
        .map(|finding| Found {
            ok: finding.fault.is_advice(),
            ..Found::bad(what, finding.fault.code(), finding.message)
        })
        .collect();
    if is_fit {
        rows.insert(0, Found::good(what, "Redis is there and fit for use"));
    }
    rows
}

async fn issuers(settings: &Settings) -> Vec<Found> {
    let mut recognised = vec![settings.recognised()];
    recognised.extend(settings.operators.iter().map(|table| Recognised {
        issuers: vec![table.issuer.clone()],
        ..Recognised::default()
    }));
    let reach = Reach {
        loopback: settings.broker.allow_loopback,
        private: false,
    };
    let now = SystemClock::new().now();
    let mut rows = Vec::new();
    for recognised in recognised {
        let identity = KeyClient::new(reach, &[])
            .map_err(|error| error.to_string())
            .and_then(|http| {
                Identity::of(recognised, settings.broker.url.clone(), &http)
                    .map_err(|error| error.to_string())
            });
        match identity {
            Ok(identity) => {
                for (name, error) in identity.reach(now).await {
                    let what = format!("issuer {name}");
                    rows.push(match error {
                        None => Found::good(what, "its keys can be had"),
                        Some(error) => Found::bad(what, "issuer_keys", error.to_string()),
                    });
                }
            }
            Err(error) => rows.push(Found::bad("issuers", "issuer_keys", error)),
        }
    }
    rows
}

async fn targets(settings: &Settings) -> Result<Vec<Found>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    // Keys that nobody has heard of: a target is asked whether it is there, not for a credential.
    let store = Arc::new(Embedded::in_memory().map_err(|error| failed(&error))?);
    let sealer = Sealer::new(&[crate::secret::Secret::new(
        crate::ids::random::<32>().to_vec(),
    )])
    .map_err(|error| failed(&error))?;
    let keyring = Keyring::open_with(store, sealer, KeyringSettings::default(), clock.now())
        .await
        .map_err(|error| failed(&error))?;
    let setup = Setup {
        keyring: Arc::new(keyring),
        clock,
        broker_url: &settings.broker.url,
        fence_view_max_age: settings.broker.fence_view_max_age,
        call_timeout: CALL_TIMEOUT,
        resolve: &|text| secret_reference(text).map_err(|error| error.to_string()),
    };
    let mut rows = Vec::new();
    for (target, connector) in &settings.targets {
        let what = format!("target {}", target.id);
        let only = [(target.id.clone(), connector.clone())];
        let connectors = match Connectors::build(&only, &setup) {
            Ok(connectors) => connectors,
            Err(wrong) => {
                let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
                rows.push(Found::bad(what, "target_unusable", wrong.join("; ")));
                continue;
            }
        };
        for (_, connector) in connectors.iter() {
            let what = what.clone();
            rows.push(match connector.check().await {
                Ok(()) => Found::good(what, "is there"),
                Err(error @ ConnectorError::Unavailable(_)) => {
                    Found::bad(what, "target_unreachable", error.to_string())
                }
                Err(error) => Found::bad(what, "target_unusable", error.to_string()),
            });
        }
    }
    Ok(rows)
}
