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

/// Whether the signed form is asked for: by name, and no less than JSON (RFC 9110 section 12.5.1). `*/*`
/// means JSON. Where neither will do, JSON is sent: it says what it is.
fn wants_signed(headers: &HeaderMap) -> bool {
    let ranges: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .collect();
    let weight = |media: &str| {
        let named = ranges.iter().filter(|(name, _)| name == media);
        named.map(|(_, weight)| *weight).max()
    };
    // The most precise range counts, whatever a wider one says.
    let json = weight("application/json")
        .or_else(|| weight("application/*"))
        .or_else(|| weight("*/*"))
        .unwrap_or(0);
    weight(SIGNED).is_some_and(|signed| signed > 0 && signed >= json)
}

/// A media range in lower case, and its weight in thousandths. One whose weight is none does not count.
fn range(text: &str) -> Option<(String, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let mut weight = 1000;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if name.trim().eq_ignore_ascii_case("q") {
            weight = thousandths(value.trim())?;
        }
    }
    Some((media, weight))
}

/// RFC 9110 section 12.4.2: from 0 to 1, three digits behind the point at most.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    match (whole, fraction) {
        ("0", fraction) => Some(fraction),
        ("1", 0) => Some(1000),
        _ => None,
    }
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
        for signed in [
            "application/token-introspection+jwt",
            "application/json;q=0.5, Application/Token-Introspection+JWT; q=0.9",
            "application/json, application/token-introspection+jwt",
            "application/token-introspection+jwt;q=0.001",
            "application/token-introspection+jwt, */*;q=0.8",
            "*/*, application/json;q=0.1, application/token-introspection+jwt; Q=0.2",
            "application/token-introspection+jwt;q=1.000;ext=x",
        ] {
            assert!(asked(signed), "{signed}");
        }
        for json in [
            "application/token-introspection+jwt;q=0, */*",
            "application/token-introspection+jwt;Q=0.000",
            "application/json, application/token-introspection+jwt;q=0.5",
            "application/token-introspection+jwt;q=0.5, */*",
            "application/token-introspection+jwt;q=0.5, application/*;q=0.7",
            "application/token-introspection+jwt;q=2",
            "application/token-introspection+jwt;q=0.0001",
            "application/token-introspection+jwt;q=",
            "application/jwt",
            "*/*",
            "application/*",
            "application/json",
            "text/html",
        ] {
            assert!(!asked(json), "{json}");
        }
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
