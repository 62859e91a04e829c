//! `POST /introspect` (RFC 7662), signed where it is asked for (RFC 9701).

use super::Doors;
use super::certificate::Shown;
use super::client_auth;
use super::error::Refused;
use super::form;
use super::form::Form;
use super::form::malformed;
use crate::broker::Refusal;
use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// RFC 9701 section 4.
const SIGNED: &str = "application/token-introspection+jwt";

/// The longest credential of ours.
const MAX_TOKEN: usize = 16 * 1024;

pub(super) async fn introspect(
    State(doors): State<Doors>,
    Extension(shown): Extension<Shown>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let refused = |refusal: Refusal| Refused::new(refusal, client_auth::challenge(&headers));
    let form = form::read_form(&headers, body).await.map_err(refused)?;
    let presented = client_auth::read(&headers, &form, shown.0).map_err(refused)?;
    let token = token(&form).map_err(refused)?;
    let caller = doors
        .broker
        .resource_server(&presented)
        .await
        .map_err(refused)?;
    let mut response = if wants_signed(&headers) {
        let answer = doors
            .broker
            .introspect_signed(&caller, token)
            .await
            .map_err(refused)?;
        (
            [(header::CONTENT_TYPE, HeaderValue::from_static(SIGNED))],
            answer,
        )
            .into_response()
    } else {
        let answer = doors
            .broker
            .introspect(&caller, token)
            .await
            .map_err(refused)?;
        Json(answer).into_response()
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `token_type_hint` is a hint, and needs none here: our credentials say what they are.
pub(super) fn token(form: &Form) -> Result<&str, Refusal> {
    let token = form.require("token")?;
    if token.len() > MAX_TOKEN {
        return Err(malformed("the token is too long", Some("token")));
    }
    Ok(token)
}

/// Whether the signed form is asked for by name; `*/*` means JSON.
fn wants_signed(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|media| media.eq_ignore_ascii_case(SIGNED));
            named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_form_is_asked_for_by_name() {
        let asked = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_signed(&headers)
        };
        assert!(asked("application/token-introspection+jwt"));
        assert!(asked(
            "application/json;q=0.5, Application/Token-Introspection+JWT; q=0.9"
        ));
        assert!(!asked("application/token-introspection+jwt;q=0, */*"));
        assert!(!asked("*/*"));
        assert!(!asked("application/json"));
        assert!(!wants_signed(&HeaderMap::new()));
    }

    #[test]
    fn the_token_must_be_there_and_bounded() {
        let form = |text: &str| Form::parse(text.as_bytes()).unwrap();
        assert_eq!(token(&form("token=a&token_type_hint=x")).unwrap(), "a");
        assert!(token(&form("token=")).is_err());
        assert!(token(&form("token_type_hint=access_token")).is_err());
        assert!(token(&form(&format!("token={}", "a".repeat(MAX_TOKEN + 1)))).is_err());
    }
}
