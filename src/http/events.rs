//! `GET /events` and `POST /events`: server-sent events (WHATWG HTML section 9.2), one stream for each
//! who listens. What is told whom is decided in the corridor.

use super::Doors;
use super::admin;
use super::certificate::Shown;
use super::client_auth;
use super::error::Challenge;
use super::error::Refused;
use super::form;
use super::form::Form;
use super::form::malformed;
use super::gate::Bearer;
use super::listen::Line;
use crate::audit::Event;
use crate::broker::Refusal;
use crate::broker::events::{Filter, Listener, Word};
use crate::broker::operators::StillOperator;
use crate::broker::{Operator, Reason};
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::fmt::Write as _;
use tokio::sync::mpsc;

const LAST: HeaderName = HeaderName::from_static("last-event-id");
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Milliseconds after which whoever lost its stream comes again.
const RETRY: &str = "retry: 2000\n";

/// Operators, by their token; resource servers, by their secret or their certificate.
pub(super) async fn watch(
    State(doors): State<Doors>,
    by: Option<Extension<(Operator, Bearer)>>,
    line: Option<Extension<Line>>,
    Extension(shown): Extension<Shown>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let listener = match by {
        Some(Extension((operator, bearer))) => {
            let filter = filter(query)?;
            let Bearer {
                token,
                certificate,
                action,
            } = bearer;
            let still = StillOperator::new(operator, token, certificate, action);
            Listener::Operator(still, filter)
        }
        None => {
            let form = admin::closed(query, &["client_id"])?;
            if !headers.contains_key(header::AUTHORIZATION) && form.get("client_id").is_none() {
                let refusal = Refusal::new(Reason::NotAuthenticated, "nobody's").exact();
                return Err(Refused::new(refusal, Challenge::Token(false)));
            }
            resource_server(&doors, &headers, &form, shown).await?
        }
    };
    stream_to(&doors, listener, &headers, line).await
}

/// Resource servers that prove themselves in a form, as at `/introspect`: `private_key_jwt`.
pub(super) async fn watch_by_form(
    State(doors): State<Doors>,
    line: Option<Extension<Line>>,
    Extension(shown): Extension<Shown>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let form = form::read_form(&headers, body).await?;
    let listener = resource_server(&doors, &headers, &form, shown).await?;
    stream_to(&doors, listener, &headers, line).await
}

async fn resource_server(
    doors: &Doors,
    headers: &HeaderMap,
    form: &Form,
    shown: Shown,
) -> Result<Listener, Refused> {
    let refused = |refusal: Refusal| Refused::new(refusal, client_auth::challenge(headers));
    let presented = client_auth::read(headers, form, shown.0).map_err(refused)?;
    let server = doors.broker.staying_server(&presented).await;
    Ok(Listener::ResourceServer(server.map_err(refused)?))
}

fn filter(query: Option<String>) -> Result<Filter, Refusal> {
    let known = ["event", "agent", "mission", "target", "lease"];
    let query = admin::closed(query, &known)?;
    let wanted = |name: &str| query.get(name).map(str::to_owned);
    // A name that cannot be is a mistake, and nothing would ever be told of it.
    let event = wanted("event");
    if event
        .as_deref()
        .is_some_and(|name| Event::named(name).is_none())
    {
        return Err(malformed("no event has this name", Some("event")));
    }
    Ok(Filter {
        event,
        agent: admin::parsed::<AgentId>(&query, "agent")?.map(|id| id.to_string()),
        mission: admin::parsed::<MissionId>(&query, "mission")?.map(|id| id.to_string()),
        target: admin::parsed::<TargetId>(&query, "target")?.map(|id| id.to_string()),
        lease: admin::parsed::<LeaseId>(&query, "lease")?.map(|id| id.to_string()),
    })
}

async fn stream_to(
    doors: &Doors,
    listener: Listener,
    headers: &HeaderMap,
    line: Option<Extension<Line>>,
) -> Result<Response, Refused> {
    let last = last_id(headers)?;
    let line = line.map(|Extension(line)| line);
    let held = line.as_ref().map(Line::busy);
    let stopped = async move {
        match line {
            Some(line) => line.stopped().await,
            None => std::future::pending().await,
        }
    };
    let words = doors.broker.listen(listener, last, stopped, held).await?;
    let mut response = Body::from_stream(stream::unfold((words, true), next)).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (UNBUFFERED, "no"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Sent empty by some before their first event.
fn last_id(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(LAST).iter();
    let (first, None) = (values.next(), values.next()) else {
        return Err(malformed("several Last-Event-ID headers", None));
    };
    // What is no text is no id of ours, which is answered in the stream.
    let text = first.map(|value| value.to_str().unwrap_or("?"));
    Ok(text.filter(|text| !text.is_empty()))
}

type Words = (mpsc::Receiver<Word>, bool);

async fn next((mut words, first): Words) -> Option<(Result<Bytes, Infallible>, Words)> {
    let word = words.recv().await?;
    let text = if first { RETRY } else { "" };
    Some((Ok(written(text, &word).into()), (words, false)))
}

fn written(before: &str, word: &Word) -> String {
    let mut text = before.to_owned();
    match word {
        // A comment; without an empty line behind it, which some would take for an event.
        Word::Alive => text.push_str(":\n"),
        // INVARIANT: JSON in one line: a line break in it would begin a field.
        Word::Event { name, id, data } => {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "event: {name}\nid: {id}\ndata: {data}\n\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_it_says_an_event_is_three_lines() {
        let word = Word::Event {
            name: "issued".to_owned(),
            id: "AQ".to_owned(),
            data: json!({ "said": "a\nid: x\r\n\ndata: y\u{2028}" }),
        };
        let text = written("", &word);
        assert!(text.ends_with("\n\n"), "{text:?}");
        assert_eq!(text.matches('\n').count(), 4, "{text:?}");
        assert!(!text.contains('\r'), "{text:?}");
        assert_eq!(written("", &Word::Alive), ":\n");
    }

    #[test]
    fn the_last_id_comes_once_or_not_at_all() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_id(&headers).unwrap(), None);
        headers.append(LAST, HeaderValue::from_static(""));
        assert_eq!(last_id(&headers).unwrap(), None);
        headers.insert(LAST, HeaderValue::from_static("AQ"));
        assert_eq!(last_id(&headers).unwrap(), Some("AQ"));
        headers.append(LAST, HeaderValue::from_static("AQ"));
        assert_eq!(
            last_id(&headers).unwrap_err().reason,
            Reason::MalformedRequest
        );
    }

    #[test]
    fn an_operators_query_is_closed() {
        let asked = filter(Some("agent=deployer&event=issued".to_owned())).unwrap();
        assert_eq!(asked.agent.as_deref(), Some("deployer"));
        assert_eq!(asked.event.as_deref(), Some("issued"));
        assert_eq!(asked.lease, None);
        assert!(filter(Some("agents=deployer".to_owned())).is_err());
        for wrong in ["agent=", "event=isued", "agent=a%20b", "lease=x"] {
            assert!(filter(Some(wrong.to_owned())).is_err(), "{wrong}");
        }
    }
}
