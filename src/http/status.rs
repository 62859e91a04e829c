//! `GET /status/{list}` and `GET /status`: token status lists (draft-ietf-oauth-status-list-21
//! sections 8 and 9.3), for anyone, from any page.

use super::Doors;
use super::discovery;
use super::error::Refused;
use crate::broker::Reason;
use crate::broker::Refusal;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

const MEDIA: &str = "application/statuslist+jwt";

/// A part of the time that a revocation takes; most of it is the list's `ttl`.
const CACHE: &str = "public, max-age=5";

pub(super) async fn list(
    State(doors): State<Doors>,
    Path(number): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let answer = found(&doors, &number, query.as_deref(), &headers).await;
    for_any_origin(answer.unwrap_or_else(IntoResponse::into_response))
}

pub(super) async fn all(State(doors): State<Doors>) -> Response {
    let lists = doors.broker.status_lists();
    for_any_origin(discovery::published(&lists, "application/json"))
}

async fn found(
    doors: &Doors,
    number: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Refused> {
    let query = query.unwrap_or_default().as_bytes();
    if url::form_urlencoded::parse(query).any(|(name, _)| name == "time") {
        return Err(Refusal::new(Reason::HistoryNotKept, "a list of the past").into());
    }
    let list = doors.broker.status_list(number).await?;
    let gzip = takes_gzip(headers);
    // RFC 9110 section 8.8.3.3: another encoding is another representation.
    let tag = format!("\"{}{}\"", list.tag, if gzip { "-gzip" } else { "" });
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if gzip {
        let mut response = list.gzip.clone().into_response();
        let encoding = HeaderValue::from_static("gzip");
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, encoding);
        response
    } else {
        list.token.clone().into_response()
    };
    if response.status() == StatusCode::OK {
        let media = HeaderValue::from_static(MEDIA);
        response.headers_mut().insert(header::CONTENT_TYPE, media);
    }
    let told = response.headers_mut();
    told.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE));
    told.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        told.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Section 8.1: pages of other origins check tokens, too. Nothing here depends on who asks.
fn for_any_origin(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("etag"),
    );
    response
}

fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    items(headers, header::ACCEPT_ENCODING).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// RFC 9110 section 13.1.2, whose comparison is the weak one.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    items(headers, header::IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let takes = |value| takes_gzip(&with(header::ACCEPT_ENCODING, value));
        assert!(takes("gzip"));
        assert!(takes("br, GZIP;q=0.5"));
        assert!(!takes("br, gzip;q=0"));
        assert!(!takes("identity"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let known = |value| is_known(&with(header::IF_NONE_MATCH, value), "\"a\"");
        assert!(known("\"a\""));
        assert!(known("\"b\", W/\"a\""));
        assert!(known("*"));
        assert!(!known("\"a-gzip\""));
        assert!(!is_known(&HeaderMap::new(), "\"a\""));
    }
}
