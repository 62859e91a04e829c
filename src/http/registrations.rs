//! Agents that are registered through the interface: put and removed, by their name.

use super::Doors;
use super::admin::{Answer, accepted_unless, closed, nothing, parsed, shown};
use super::form;
use super::to_its_end;
use crate::broker::Operator;
use crate::ids::AgentId;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;

pub(super) async fn register(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    // What is no request has one face at every door, whatever its path names.
    let request = form::read_json(&headers, body).await?;
    let id: AgentId = id.parse().map_err(|_| nothing())?;
    let broker = doors.broker.clone();
    let receipt = to_its_end(async move { broker.register(&by, id, request).await }).await?;
    Ok(accepted_unless(receipt.replicated, shown(&receipt)))
}

pub(super) async fn remove(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = closed(query, &["reason", "after"])?;
    let reason = query.get("reason").unwrap_or("removed by an operator");
    let reason = reason.to_owned();
    let after = parsed(&query, "after")?;
    let id: AgentId = id.parse().map_err(|_| nothing())?;
    let broker = doors.broker.clone();
    let removed =
        to_its_end(async move { broker.remove_agent(&by, id, (reason, after)).await }).await?;
    Ok(accepted_unless(removed.replicated, shown(&removed)))
}
