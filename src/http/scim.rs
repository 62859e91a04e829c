//! `PATCH /scim/v2/Users/{id}`: an identity provider says that somebody has left, or is back; `GET` there and
//! at `/scim/v2/Users?filter=userName eq "..."`: it looks first.
//!
//! A refusal has SCIM's shape (RFC 7644 section 3.12) and the broker's own members beside it.

use super::Doors;
use super::error::{Refused, told};
use super::form;
use super::to_its_end;
use crate::broker::{Reason, Refusal};
use crate::wire::ErrorBody;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

pub(super) const MEDIA_TYPE: &str = "application/scim+json";
const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";

#[derive(Serialize)]
struct ScimError<'a> {
    schemas: [&'a str; 1],
    status: &'a str,
    #[serde(rename = "scimType", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    detail: &'a str,
    #[serde(flatten)]
    own: &'a ErrorBody,
}

pub(super) async fn patch(
    State(doors): State<Doors>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match patched(&doors, id, headers, body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => answer(refusal),
    }
}

pub(super) async fn user(
    State(doors): State<Doors>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    match doors.broker.is_active_user(&id, &headers).await {
        Ok(Some(active)) => shown(&resource(&id, active)),
        Ok(None) => answer(Refusal::new(Reason::NotFound, "not the source's to speak of").exact()),
        Err(refusal) => answer(refusal),
    }
}

pub(super) async fn users(
    State(doors): State<Doors>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match found(&doors, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(resources) => shown(&json!({
            "schemas": [LIST],
            "totalResults": resources.len(),
            "startIndex": 1,
            "itemsPerPage": resources.len(),
            "Resources": resources,
        })),
        Err(refusal) => answer(refusal),
    }
}

async fn found(doors: &Doors, query: &str, headers: &HeaderMap) -> Result<Vec<Value>, Refusal> {
    let form = form::Form::parse(query.as_bytes())?;
    let name = form.get("filter").and_then(named);
    // Whoever has no secret is told nothing, of filters either.
    let active = doors
        .broker
        .is_active_user(name.as_deref().unwrap_or_default(), headers);
    let active = active.await?;
    let Some(name) = name else {
        let why = "nobody is listed here: write `filter=userName eq \"NAME\"`";
        return Err(form::malformed(why, Some("filter")));
    };
    Ok(active
        .map(|active| resource(&name, active))
        .into_iter()
        .collect())
}

/// RFC 7644 section 3.4.2.2: `userName eq "NAME"`, and no other filter.
fn named(filter: &str) -> Option<String> {
    let mut words = filter.trim().splitn(3, ' ');
    let (attribute, operator, value) = (words.next()?, words.next()?, words.next()?);
    let asks = attribute.eq_ignore_ascii_case("userName") && operator.eq_ignore_ascii_case("eq");
    let name: String = serde_json::from_str(value).ok().filter(|_| asks)?;
    Some(name).filter(|name| !name.trim().is_empty())
}

fn resource(name: &str, active: bool) -> Value {
    json!({
        "schemas": [USER],
        "id": name,
        "userName": name,
        "active": active,
        "meta": { "resourceType": "User" },
    })
}

fn shown(body: &Value) -> Response {
    let mut response = body.to_string().into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, MEDIA_TYPE),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn patched(doors: &Doors, id: String, headers: HeaderMap, body: Body) -> Result<(), Refusal> {
    let bytes = form::read_body(form::MAX_BODY, &headers, body).await?;
    let broker = doors.broker.clone();
    to_its_end(async move { broker.patch_user(&id, &headers, &bytes).await }).await
}

fn answer(refusal: Refusal) -> Response {
    let (_, own) = told(&refusal);
    // Whoever is known is told what to change.
    let detail = match refusal.reason {
        Reason::MalformedRequest | Reason::NotPermitted if refusal.exact => refusal.detail.clone(),
        _ => own.error_description.clone(),
    };
    let kind = match (refusal.reason, refusal.at.as_deref()) {
        (Reason::MalformedRequest, Some("path")) => Some("invalidPath"),
        (Reason::MalformedRequest, Some("value")) => Some("invalidValue"),
        (Reason::MalformedRequest, Some("filter")) => Some("invalidFilter"),
        (Reason::MalformedRequest, _) => Some("invalidSyntax"),
        _ => None,
    };
    let mut response = Refused::from(refusal).into_response();
    let status = response.status();
    let said = ScimError {
        schemas: [ERROR],
        status: status.as_str(),
        kind,
        detail: &detail,
        own: &own,
    };
    if let Ok(body) = serde_json::to_vec(&said) {
        *response.body_mut() = Body::from(body);
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        let media = HeaderValue::from_static(MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, media);
    }
    response
}
