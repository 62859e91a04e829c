//! `POST /enrol`: a machine spends its join token for a key of its own.

use super::Doors;
use super::error::Refused;
use super::form;
use super::form::malformed;
use super::to_its_end;
use crate::secret::Secret;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

const MAX_TOKEN: usize = 256;
const MAX_PROOF: usize = 8 * 1024;

pub(super) async fn enrol(
    State(doors): State<Doors>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let form = form::read_form(&headers, body).await?;
    let token = form.require("join_token")?;
    let proof = form.require("proof")?;
    for (name, value, most) in [
        ("join_token", token, MAX_TOKEN),
        ("proof", proof, MAX_PROOF),
    ] {
        if value.len() > most {
            return Err(malformed("a parameter is too long", Some(name)).into());
        }
    }
    let (token, proof) = (Secret::new(token.to_owned()), proof.to_owned());
    let broker = doors.broker.clone();
    let answer = to_its_end(async move { broker.enrol(&token, &proof).await }).await?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(answer)).into_response())
}
