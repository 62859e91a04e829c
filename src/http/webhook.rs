//! `POST /hooks/{source}`: a platform says that something outside is over.
//!
//! The signature is over the exact bytes, so the body goes to the corridor as it came.

use super::Doors;
use super::error::Refused;
use super::form;
use super::to_its_end;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

pub(super) async fn receive(
    State(doors): State<Doors>,
    Path(source): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let bytes = form::read_body(form::MAX_WEBHOOK, &headers, body).await?;
    let broker = doors.broker.clone();
    to_its_end(async move { broker.webhook(&source, &headers, &bytes).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
