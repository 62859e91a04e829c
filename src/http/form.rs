//! `application/x-www-form-urlencoded`, strictly.
//!
//! In: a body or a query string. Out: a [`Form`] in which every parameter that we know appears once
//! (`resource` and `audience` apart, RFC 8693 section 2.1), an empty value counts as absent, and
//! what we do not know is ignored, but not when it repeats (RFC 6749 section 3.2).

use crate::broker::Reason;
use crate::broker::Refusal;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use std::time::Duration;

/// Of any request but a webhook.
pub const MAX_BODY: usize = 64 * 1024;

/// Of a configuration to publish, in JSON.
pub const MAX_PUBLISHED: usize = 2 * 1024 * 1024;

/// GitHub says much about a finished workflow.
pub const MAX_WEBHOOK: usize = 1024 * 1024;

/// More than any client sends.
const MAX_PARAMETERS: usize = 64;

/// From a request's head to the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters that may repeat.
const REPEATABLE: &[&str] = &["resource", "audience"];

/// A decoded form. Values may be secrets, so there is no `Debug`.
#[derive(Clone)]
pub struct Form {
    pairs: Vec<(String, String)>,
}

impl Form {
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|p| !p.is_empty()) {
            if pairs.len() == MAX_PARAMETERS {
                return Err(malformed("more than 64 parameters", None));
            }
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default())
                .ok_or_else(|| malformed("a parameter's name is not encoded well", None))?;
            let value = decode(halves.next().unwrap_or_default()).ok_or_else(|| {
                malformed("a parameter's value is not encoded well", known(&name))
            })?;
            let repeats = pairs.iter().any(|(other, _)| *other == name);
            if repeats && !REPEATABLE.contains(&name.as_str()) {
                return Err(malformed("a parameter is repeated", known(&name)));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The parameter's value. RFC 6749 section 3.2: sent without a value is not sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// A parameter that must be there.
    pub fn require(&self, name: &'static str) -> Result<&str, Refusal> {
        self.get(name)
            .ok_or_else(|| malformed("a parameter is missing", Some(name)))
    }

    pub fn all<'form>(&'form self, name: &str) -> impl Iterator<Item = &'form str> {
        self.pairs
            .iter()
            .filter(move |(other, value)| other == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// Every name that was sent, with its value, which may be empty.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A request that is not well formed. It says nothing about who exists, so the caller may be told
/// exactly; `at` is a name of ours, never the caller's text.
pub fn malformed(detail: &str, at: Option<&'static str>) -> Refusal {
    Refusal::new(Reason::MalformedRequest, detail)
        .exact()
        .at(at.map(str::to_owned))
}

/// Parameter names that a refusal may repeat.
const KNOWN: &[&str] = &[
    "grant_type",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "audience",
    "resource",
    "scope",
    "authorization_details",
    "intent",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "token",
    "token_type_hint",
    "after",
    "limit",
    "agent",
    "mission",
    "target",
    "task",
    "instance",
    "alive",
    "dry_run",
    "join_token",
    "proof",
];

fn known(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|known| **known == name).copied()
}

/// `+` is a space, `%XX` a byte, and the bytes are UTF-8. Nothing is replaced or let through.
fn decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            // Whatever is not a visible ASCII character has to be encoded.
            0x21..=0x7e => *byte,
            _ => return None,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The body of a form request.
pub async fn read_form(headers: &HeaderMap, body: Body) -> Result<Form, Refusal> {
    expect_type(headers, "application/x-www-form-urlencoded")?;
    Form::parse(&read_body(MAX_BODY, headers, body).await?)
}

/// The body of a JSON request, closed: unknown and repeated members are refused.
pub async fn read_json<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Refusal> {
    read_json_of(MAX_BODY, headers, body).await
}

/// The same, of at most so many bytes.
pub async fn read_json_of<T: serde::de::DeserializeOwned>(
    most: usize,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Refusal> {
    expect_type(headers, "application/json")?;
    let bytes = read_body(most, headers, body).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        // serde_json quotes unknown names and bad values: for our log alone.
        malformed(
            &format!("the JSON body is not what this endpoint takes: {error}"),
            None,
        )
    })
}

/// Reads at most `most` bytes, in bounded time.
pub async fn read_body(most: usize, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Refusal> {
    read_within(BODY_TIMEOUT, most, headers, body).await
}

async fn read_within(
    bound: Duration,
    most: usize,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<u8>, Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok())
        .unwrap_or(0);
    // Whoever still writes when the connection closes may never read why: what is little over the
    // bound is heard out, and dropped.
    let heard = most.saturating_mul(2);
    if announced > heard {
        return Err(too_large());
    }
    let reading = async {
        let mut bytes = Vec::with_capacity(announced.min(most));
        let mut seen: usize = 0;
        let mut stream = body.into_data_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| malformed("the body broke off", None))?;
            seen = seen.saturating_add(chunk.len());
            if seen > heard {
                return Err(too_large());
            }
            if seen <= most {
                bytes.extend_from_slice(&chunk);
            }
        }
        if seen > most {
            return Err(too_large());
        }
        Ok(bytes)
    };
    let read = tokio::time::timeout(bound, reading).await;
    if announced > most {
        return Err(too_large());
    }
    read.unwrap_or_else(|_| {
        Err(Refusal::new(Reason::RequestTimeout, "the body did not arrive in time").exact())
    })
}

fn too_large() -> Refusal {
    Refusal::new(Reason::RequestTooLarge, "the body is over its bound").exact()
}

/// One content type, this one, in UTF-8 if it says; and no content encoding.
fn expect_type(headers: &HeaderMap, wanted: &str) -> Result<(), Refusal> {
    let refused = |detail: &str| Refusal::new(Reason::UnsupportedMediaType, detail).exact();
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(refused("a content encoding is named"));
    }
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused("there is not one content type"));
    };
    let text = value
        .to_str()
        .map_err(|_| refused("the content type is not ASCII"))?;
    let mut parts = text.split(';').map(str::trim);
    if !parts
        .next()
        .is_some_and(|media| media.eq_ignore_ascii_case(wanted))
    {
        return Err(refused("the content type is another one"));
    }
    let harmless = |part: &str| {
        part.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("charset")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    if parts.filter(|part| !part.is_empty()).all(harmless) {
        Ok(())
    } else {
        Err(refused(
            "the content type has other parameters than a charset of UTF-8",
        ))
    }
}

#[cfg(test)]
mod tests;
