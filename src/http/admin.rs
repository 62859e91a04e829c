//! `/admin/v1`: what operators see and do. The gate has authenticated them and checked the role.
//!
//! JSON in, JSON out, closed both in the body and in the query: a mistyped `dry_run` must not
//! become the real thing. What could be a credential comes in a body, never in a URL.

use super::Doors;
use super::error::Refused;
use super::form;
use super::form::Form;
use super::form::malformed;
use super::to_its_end;
use crate::broker::Operator;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::broker::show::LeaseFilter;
use crate::ids::AgentId;
use crate::ids::LeaseId;
use crate::wire;
use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::str::FromStr;

const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) type Answer = Result<Response, Refused>;

/// 202 where it is in force but not yet acknowledged by enough replicas of the store.
pub(super) async fn revoke(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let dry_run = switch(query, "dry_run")?;
    let request = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let receipt = to_its_end(async move { broker.revoke(&by, request, dry_run).await }).await?;
    Ok(received(&receipt))
}

pub(super) async fn lift(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let request: wire::LiftRequest = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let receipt =
        to_its_end(async move { broker.lift(&by, request.selector, request.reason).await }).await?;
    Ok(received(&receipt))
}

pub(super) async fn receipt(State(doors): State<Doors>, Path(id): Path<String>) -> Answer {
    let id = id.parse().map_err(|_| nothing())?;
    Ok(shown(&doors.broker.receipt(id).await?))
}

pub(super) async fn end_context(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let request = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let receipt = to_its_end(async move { broker.end_context(&by.name, request).await }).await?;
    Ok(received(&receipt))
}

pub(super) async fn leases(State(doors): State<Doors>, RawQuery(query): RawQuery) -> Answer {
    let known = [
        "agent", "mission", "target", "task", "instance", "alive", "after", "limit",
    ];
    let query = closed(query, &known)?;
    let filter = LeaseFilter {
        agent: parsed(&query, "agent")?,
        mission: parsed(&query, "mission")?,
        target: parsed(&query, "target")?,
        task: query.get("task").map(str::to_owned),
        instance: query.get("instance").map(str::to_owned),
        alive: flag(&query, "alive")?,
        after: query.get("after").map(str::to_owned),
        limit: limit(&query)?,
    };
    Ok(shown(&doors.broker.leases(filter).await?))
}

pub(super) async fn lease(State(doors): State<Doors>, Path(id): Path<String>) -> Answer {
    let id: LeaseId = id.parse().map_err(|_| nothing())?;
    Ok(shown(&doors.broker.lease(id).await?))
}

pub(super) async fn give_up(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    // What is no request has one face at every door, whatever its path names.
    let request: wire::GiveUpRequest = form::read_json(&headers, body).await?;
    let id: LeaseId = id.parse().map_err(|_| nothing())?;
    let broker = doors.broker.clone();
    let reason = request.reason;
    let answer = to_its_end(async move { broker.give_up_lease(&by, id, &reason).await }).await?;
    Ok(accepted_unless(answer.replicated, shown(&answer)))
}

/// By credential, handle, access key, session name, lease id.
pub(super) async fn find(State(doors): State<Doors>, headers: HeaderMap, body: Body) -> Answer {
    let request: wire::FindRequest = form::read_json(&headers, body).await?;
    Ok(shown(&doors.broker.find(&request.query).await?))
}

pub(super) async fn agents(State(doors): State<Doors>) -> Answer {
    Ok(shown(&doors.broker.agents().await?))
}

pub(super) async fn agent(State(doors): State<Doors>, Path(id): Path<String>) -> Answer {
    let id: AgentId = id.parse().map_err(|_| nothing())?;
    Ok(shown(&doors.broker.agent(&id).await?))
}

/// The answer holds the join token, and nobody is told it again.
pub(super) async fn invite(
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
    let answer = to_its_end(async move { broker.invite(&by, id, request).await }).await?;
    Ok(shown(&answer))
}

pub(super) async fn enrolled_keys(State(doors): State<Doors>, Path(id): Path<String>) -> Answer {
    let id: AgentId = id.parse().map_err(|_| nothing())?;
    Ok(shown(&doors.broker.enrolled_keys(&id).await?))
}

pub(super) async fn sightings(State(doors): State<Doors>) -> Answer {
    Ok(shown(&doors.broker.sightings().await?))
}

pub(super) async fn sighting(State(doors): State<Doors>, Path(id): Path<String>) -> Answer {
    Ok(shown(&doors.broker.sighting(&id).await?))
}

pub(super) async fn reviews(State(doors): State<Doors>, RawQuery(query): RawQuery) -> Answer {
    let everything = switch(query, "all")?;
    Ok(shown(&doors.broker.reviews(everything).await?))
}

pub(super) async fn review(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let request = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let reviewed = to_its_end(async move { broker.review(&by, request).await }).await?;
    let (answer, replicated) = reviewed;
    Ok(accepted_unless(replicated, shown(&answer)))
}

pub(super) async fn explain(State(doors): State<Doors>, headers: HeaderMap, body: Body) -> Answer {
    let request = form::read_json(&headers, body).await?;
    Ok(shown(&doors.broker.explain(request).await?))
}

pub(super) async fn audit(State(doors): State<Doors>, RawQuery(query): RawQuery) -> Answer {
    let query = closed(query, &["after", "limit"])?;
    let after = query.get("after").map(str::to_owned);
    Ok(shown(&doors.broker.audit(after, limit(&query)?).await?))
}

pub(super) async fn rotate(
    State(doors): State<Doors>,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let request = form::read_json(&headers, body).await?;
    let broker = doors.broker.clone();
    let answer = to_its_end(async move { broker.rotate(&by, request).await }).await?;
    Ok(accepted_unless(answer.replicated, shown(&answer)))
}

/// 202 where it is in force, and not on enough replicas of the store yet.
pub(super) fn accepted_unless(replicated: bool, mut response: Response) -> Response {
    if !replicated {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

pub(super) fn shown(value: &impl Serialize) -> Response {
    let mut response = Json(value).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn received(receipt: &wire::RevocationReceipt) -> Response {
    let replicated = receipt.state != wire::RevocationState::NotYetReplicated;
    // It stands, and there is nothing to ask about later.
    let unwritten = receipt.id.is_none() && receipt.position.is_some();
    accepted_unless(replicated && !unwritten, shown(receipt))
}

/// A name that cannot exist does not.
pub(super) fn nothing() -> Refusal {
    Refusal::new(Reason::NotFound, "not a name of anything").exact()
}

/// The query, in which nothing unknown stands, and nothing without a value: `?dry_run` is not the
/// real thing, and `?agent=` is not everyone's.
pub(super) fn closed(query: Option<String>, known: &[&str]) -> Result<Form, Refusal> {
    let form = Form::parse(query.unwrap_or_default().as_bytes())?;
    if form.pairs().any(|(name, _)| !known.contains(&name)) {
        return Err(malformed("an unknown query parameter", None));
    }
    if form.pairs().any(|(_, value)| value.is_empty()) {
        return Err(malformed("a query parameter without a value", None));
    }
    Ok(form)
}

pub(super) fn parsed<T: FromStr>(query: &Form, name: &'static str) -> Result<Option<T>, Refusal> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| malformed("a query parameter is not a name", Some(name)))
    };
    query.get(name).map(parse).transpose()
}

/// A query of one flag, off unless it is set.
pub(super) fn switch(query: Option<String>, name: &'static str) -> Result<bool, Refusal> {
    let query = closed(query, &[name])?;
    Ok(flag(&query, name)?.unwrap_or(false))
}

fn flag(query: &Form, name: &'static str) -> Result<Option<bool>, Refusal> {
    parsed(query, name)
}

fn limit(query: &Form) -> Result<usize, Refusal> {
    let limit = parsed(query, "limit")?.unwrap_or(LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(malformed("limit is from 1 to 1000", Some("limit")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_mistyped_dry_run_is_refused() {
        assert!(closed(query("dryrun=true"), &["dry_run"]).is_err());
        assert!(closed(query("dry_run=true&dry_run=false"), &["dry_run"]).is_err());
        assert!(closed(query("dry_run"), &["dry_run"]).is_err());
        assert!(closed(query("dry_run="), &["dry_run"]).is_err());
        let yes = closed(query("dry_run=true"), &["dry_run"]).unwrap();
        assert_eq!(flag(&yes, "dry_run").unwrap(), Some(true));
        let odd = closed(query("dry_run=yes"), &["dry_run"]).unwrap();
        assert!(flag(&odd, "dry_run").is_err());
    }

    #[test]
    fn a_page_has_a_size() {
        let size = |text: &str| limit(&closed(query(text), &["limit"]).unwrap());
        assert_eq!(size("").unwrap(), LIMIT);
        assert_eq!(size("limit=1").unwrap(), 1);
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
