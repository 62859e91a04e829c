//! What is the same for every answer: its count, its time, its headers, and a face for what no
//! door answers.

use super::error::Refused;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::telemetry;
use crate::telemetry::field;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use std::any::Any;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

pub(super) async fn observe(request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let method = method_name(request.method());
    // The table's path: what a caller made up must not become a label.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", method, route, { field::PEER } = Empty);
    let mut response = next.run(request).instrument(span).await;
    telemetry::answered(
        method,
        &route,
        response.status().as_u16(),
        started.elapsed(),
    );
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    }
}

pub(super) async fn no_such_path() -> Refused {
    Refusal::new(Reason::NotFound, "no such path")
        .exact()
        .into()
}

pub(super) async fn no_such_method() -> Refused {
    Refusal::new(Reason::MethodNotAllowed, "no such method here")
        .exact()
        .into()
}

/// SECURITY: what a panic says may quote the request; it goes neither out nor into the log.
pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response<Body> {
    telemetry::panicked();
    Refused::from(Refusal::new(Reason::Internal, "a handler panicked")).into_response()
}
