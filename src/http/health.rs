//! For the platform around us, on a listener of its own.

use super::Doors;
use crate::telemetry;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// The process runs and answers; nothing else is asked of it.
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// This replica would answer a request now; otherwise, why not. What stops no answer is a warning.
pub(super) async fn readyz(State(doors): State<Doors>) -> Response {
    let ready = doors.broker.ready().await;
    let warnings = doors.broker.warnings();
    // How old what it knows of revocations is: `null` until it has read the log once.
    let age = doors.broker.view_age();
    let age = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    match ready {
        Ok(()) => {
            Json(json!({"ready": true, "warnings": warnings, "view_age_ms": age})).into_response()
        }
        Err(why) => {
            let body =
                Json(json!({"ready": false, "why": why, "warnings": warnings, "view_age_ms": age}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// Prometheus text format 0.0.4.
pub(super) async fn metrics(State(doors): State<Doors>) -> Response {
    telemetry::view_age(doors.broker.view_age());
    telemetry::audit_backlog(doors.broker.audit_backlog());
    let text = doors.metrics.as_ref().map(|metrics| metrics.render());
    let mut response = text.unwrap_or_default().into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
