//! For the platform around us, on a listener of its own.

use super::Doors;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// The process runs and answers; nothing else is asked of it.
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// This replica would answer a request now; otherwise, why not.
pub(super) async fn readyz(State(doors): State<Doors>) -> Response {
    match doors.broker.ready().await {
        Ok(()) => Json(json!({"ready": true})).into_response(),
        Err(why) => {
            let body = Json(json!({"ready": false, "why": why}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// Prometheus text format 0.0.4.
pub(super) async fn metrics(State(doors): State<Doors>) -> Response {
    let text = doors.metrics.as_ref().map(|metrics| metrics.render());
    let mut response = text.unwrap_or_default().into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
