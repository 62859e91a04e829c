//! `/admin/v1/config`: one configuration for all replicas.

use super::Doors;
use super::admin::{Answer, accepted_unless, shown};
use super::form;
use super::gate::Bearer;
use super::to_its_end;
use crate::broker::Operator;
use crate::broker::operators::StillOperator;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

pub(super) async fn publish(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    Extension(bearer): Extension<Bearer>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let request = form::read_json_of(form::MAX_PUBLISHED, &headers, body).await?;
    let Bearer {
        token,
        certificate,
        action,
    } = bearer;
    let by = StillOperator::new(by, token, certificate, action);
    let broker = doors.broker.clone();
    let answer = to_its_end(async move { broker.publish(&by, request).await }).await?;
    Ok(accepted_unless(answer.replicated, shown(&answer)))
}

pub(super) async fn show(State(doors): State<Doors>) -> Answer {
    Ok(shown(&doors.broker.configuration()))
}
