//! Who we are: metadata (RFC 8414, OpenID Connect Discovery) and public keys (RFC 7517).
//!
//! An issuer with a path has its metadata at both places that clients look: the well-known path
//! before the issuer's (RFC 8414 section 3.1) and behind it (OpenID Connect).

use super::Doors;
use super::error::Refused;
use super::gate;
use super::routes;
use crate::broker::Reason;
use crate::broker::Refusal;
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use url::Url;

/// Clients may keep keys and metadata this long: a minute less than a new key is published before
/// it signs, for what is on its way.
pub(super) const CACHE: &str = "public, max-age=240";

pub(super) async fn metadata(State(doors): State<Doors>) -> Response {
    published(&doors.broker.metadata(), "application/json")
}

pub(super) async fn jwks(State(doors): State<Doors>) -> Response {
    published(&doors.broker.jwks(), "application/jwk-set+json")
}

pub(super) async fn federation_metadata(
    State(doors): State<Doors>,
    Path(target): Path<String>,
) -> Result<Response, Refused> {
    let found = doors.broker.federation_metadata(&target);
    let value = found.ok_or_else(nothing)?;
    Ok(published(&value, "application/json"))
}

pub(super) async fn federation_jwks(
    State(doors): State<Doors>,
    Path(target): Path<String>,
) -> Result<Response, Refused> {
    let value = doors.broker.federation_jwks(&target).ok_or_else(nothing)?;
    Ok(published(&value, "application/jwk-set+json"))
}

/// RFC 6749 section 4.1.2.1: with no client to go back to, whoever stands there is told.
///
/// The metadata names this door because clients of the Model Context Protocol do not read a
/// document without one; what they then ask for is `client_credentials`.
pub(super) async fn authorize() -> Refused {
    Refusal::new(Reason::UnsupportedResponseType, "a browser's flow")
        .exact()
        .into()
}

fn nothing() -> Refusal {
    Refusal::new(Reason::NotFound, "no such federation target").exact()
}

pub(super) fn published(value: &Value, content_type: &'static str) -> Response {
    let mut response = Json(value).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE));
    response
}

/// The issuer's path, if it has one: `/dayfly` of `https://broker.example/dayfly`.
pub(super) fn issuer_path(issuer: &str) -> Option<String> {
    let url = Url::parse(issuer).ok()?;
    let path = url.path().trim_end_matches('/');
    // Braces are the router's own signs.
    (!path.is_empty() && !path.contains(['{', '}'])).then(|| path.to_owned())
}

/// The well-known paths with the issuer's path behind them.
pub(super) fn inserted(doors: &Doors, path: &str) -> Router<Doors> {
    let known = routes::TABLE
        .iter()
        .filter(|route| route.path.starts_with("/.well-known/"));
    known.fold(Router::new(), |router, route| {
        let gate = gate::Gate {
            doors: doors.clone(),
            route,
        };
        let door = get(metadata).route_layer(middleware::from_fn_with_state(gate, gate::enter));
        router.route(&format!("{}{path}", route.path), door)
    })
}
