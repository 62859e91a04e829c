//! `PATCH /scim/v2/Users/{id}`: an identity provider says that somebody has left, or is back.
//!
//! A refusal has SCIM's shape (RFC 7644 section 3.12) and the broker's own members beside it.

use super::Doors;
use super::error::{Refused, told};
use super::form;
use super::to_its_end;
use crate::broker::{Reason, Refusal};
use crate::wire::ErrorBody;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

pub(super) const MEDIA_TYPE: &str = "application/scim+json";
const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";

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
