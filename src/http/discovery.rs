//! Who we are: metadata (RFC 8414, OpenID Connect Discovery) and public keys (RFC 7517).
//!
//! An issuer with a path has its metadata at both places that clients look: the well-known path
//! before the issuer's (RFC 8414 section 3.1) and behind it (OpenID Connect). What operators' doors say
//! of themselves (RFC 9728) is at the first of the two.

use super::Doors;
use super::error::Refused;
use super::gate;
use super::routes;
use crate::broker::Reason;
use crate::broker::Refusal;
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Uri, header};
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

/// RFC 9728 section 3. Who was sent here by a refusal uses what it finds only if `resource` is the very
/// URL that it asked (section 3.3), so every door for operators has a document of its own.
pub(super) async fn resource_metadata(
    State(doors): State<Doors>,
    uri: Uri,
) -> Result<Response, Refused> {
    let url = doors.broker.url();
    let asked = uri.path().strip_prefix(RESOURCE).unwrap_or_default();
    let own = issuer_path(url).unwrap_or_default();
    let path = asked.strip_prefix(own.as_str()).unwrap_or(asked);
    if !takes_a_token(path) {
        return Err(Refusal::new(Reason::NotFound, "no such resource")
            .exact()
            .into());
    }
    let metadata = doors.broker.protected_resource(&format!("{url}{path}"));
    Ok(published(&metadata, "application/json"))
}

/// The well-known path, before the resource's own.
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// Where the metadata of a door is, for the 401 that it answers (RFC 9728 section 5.1).
pub(super) fn resource_metadata_url(issuer: &str, path: &str) -> Option<String> {
    // SECURITY: it is quoted in a header, and the path is the caller's.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
    let below = issuer_path(issuer).unwrap_or_default();
    let origin = issuer.strip_suffix(below.as_str())?;
    path.chars()
        .all(plain)
        .then(|| format!("{origin}{RESOURCE}{below}{path}"))
}

fn takes_a_token(path: &str) -> bool {
    let fits = |template: &str| {
        let (mut wanted, mut asked) = (template.split('/'), path.split('/'));
        loop {
            match (wanted.next(), asked.next()) {
                (None, None) => return true,
                (Some(wanted), Some(asked)) => {
                    let any = wanted.starts_with('{') && !asked.is_empty();
                    if !any && wanted != asked {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    };
    routes::TABLE
        .iter()
        .any(|route| route.who.operators_come() && fits(route.path))
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
        .filter(|route| route.path.starts_with("/.well-known/") && !route.path.contains('{'));
    known.fold(Router::new(), |router, route| {
        let gate = gate::Gate {
            doors: doors.clone(),
            route,
        };
        let door = get(metadata).route_layer(middleware::from_fn_with_state(gate, gate::enter));
        router.route(&format!("{}{path}", route.path), door)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_door_is_before_the_issuers_path() {
        let at = |issuer: &str, path: &str| resource_metadata_url(issuer, path);
        assert_eq!(
            at("https://broker.example", "/events").unwrap(),
            "https://broker.example/.well-known/oauth-protected-resource/events"
        );
        assert_eq!(
            at("https://broker.example/dayfly", "/admin/v1/leases/a%22").unwrap(),
            "https://broker.example/.well-known/oauth-protected-resource/dayfly/admin/v1/leases/a%22"
        );
    }

    #[test]
    fn what_could_leave_the_quotes_of_a_header_is_not_repeated_there() {
        for path in [
            "/admin/v1/leases/\"",
            "/admin/v1/leases/\\",
            "/a b",
            "/a\r\nb",
            "/\u{e9}",
        ] {
            assert_eq!(
                resource_metadata_url("https://broker.example", path),
                None,
                "{path}"
            );
        }
    }

    #[test]
    fn only_a_door_for_operators_takes_their_token() {
        for path in [
            "/events",
            "/admin/v1/leases",
            "/admin/v1/restrictions/x/lift",
        ] {
            assert!(takes_a_token(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/token",
            "/admin/v1",
            "/admin/v1/leases/",
            "/admin/v1/leases/a/b",
            "events",
        ] {
            assert!(!takes_a_token(path), "{path}");
        }
    }
}
