//! `/admin/v1/restrictions`: shrink instead of kill.

use super::Doors;
use super::admin::{Answer, accepted_unless, nothing, shown, switch};
use super::form;
use super::to_its_end;
use crate::broker::Operator;
use crate::wire;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;

pub(super) async fn restrict(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let dry_run = switch(query, "dry_run")?;
    let request = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let receipt = to_its_end(async move { broker.restrict(&by, request, dry_run).await }).await?;
    Ok(received(&receipt))
}

pub(super) async fn standing(State(doors): State<Doors>) -> Answer {
    Ok(shown(&doors.broker.restrictions()?))
}

pub(super) async fn lift(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    // What is no request has one face at every door, whatever its path names.
    let request: wire::RestrictionLift = form::read_json(&headers, body).await?;
    let id = id.parse().map_err(|_| nothing())?;
    let broker = doors.broker.clone();
    let reason = request.reason;
    let receipt = to_its_end(async move { broker.lift_restriction(&by, id, reason).await }).await?;
    Ok(received(&receipt))
}

fn received(receipt: &wire::RestrictionReceipt) -> Response {
    let replicated = receipt.state != wire::RestrictionState::NotYetReplicated;
    accepted_unless(replicated, shown(receipt))
}
