//! `/admin/v1/approvals`: what waits for people, and what they say.

use super::Doors;
use super::admin::{Answer, accepted_unless, shown};
use super::form;
use super::to_its_end;
use crate::broker::Operator;
use crate::wire::{Verdict, VoteRequest};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;

pub(super) async fn all(State(doors): State<Doors>) -> Answer {
    Ok(shown(&doors.broker.approvals().await?))
}

pub(super) async fn one(State(doors): State<Doors>, Path(id): Path<String>) -> Answer {
    Ok(shown(&doors.broker.approval(&id).await?))
}

pub(super) async fn approve(
    state: State<Doors>,
    by: Extension<Operator>,
    id: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    vote(state, by, (id, Verdict::Approve), (headers, body)).await
}

/// 202 where it is in force but not yet acknowledged by enough replicas of the store.
pub(super) async fn deny(
    state: State<Doors>,
    by: Extension<Operator>,
    id: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    vote(state, by, (id, Verdict::Deny), (headers, body)).await
}

async fn vote(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    (Path(id), verdict): (Path<String>, Verdict),
    (headers, body): (HeaderMap, Body),
) -> Answer {
    let request: VoteRequest = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let voted = to_its_end(async move { broker.vote(&by, (&id, verdict), request).await });
    let (view, replicated) = voted.await?;
    Ok(accepted_unless(replicated, shown(&view)))
}
