//! `POST /revoke` (RFC 7009): the holder is done with its credential.

use super::Doors;
use super::certificate::Shown;
use super::client_auth;
use super::dpop;
use super::error::Refused;
use super::form;
use super::introspect;
use super::to_its_end;
use crate::broker::Refusal;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// 200 = dead at the broker, durably; or never alive. Whoever presents the credential may end it:
/// a job that is over often has no proof left but the credential itself.
pub(super) async fn release(
    State(doors): State<Doors>,
    Extension(shown): Extension<Shown>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let refused = |refusal: Refusal| Refused::new(refusal, client_auth::challenge(&headers));
    let form = form::read_form(&headers, body).await.map_err(refused)?;
    let mut presented = client_auth::read(&headers, &form, shown.0).map_err(refused)?;
    let token = introspect::token(&form).map_err(refused)?.to_owned();
    let broker = doors.broker.clone();
    presented.dpop = dpop::read(&headers, &broker, &Method::POST, "/revoke").map_err(refused)?;
    to_its_end(async move { broker.release(&token, &presented).await })
        .await
        .map_err(refused)?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::OK, no_store).into_response())
}
