//! The request as its sender handed it over: parsed into exactly the one question, or refused.

use crate::jose::{decode, parse_object};
use crate::secret::Secret;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use url::Url;

/// The one question there is.
pub const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
/// The signed header that names this broker, and the key that the proof is bound to:
/// `<audience>` or `<audience>#jkt=<thumbprint>`.
pub const SERVER_ID: &str = "x-dayfly-server-id";
/// A signed header that makes two requests of one second two requests. Optional.
pub const NONCE: &str = "x-dayfly-nonce";

/// A session token has a few hundred bytes, sometimes two thousand.
const MAX_BYTES: usize = 12 * 1024;
const MAX_HEADER: usize = 6 * 1024;
const DATE: &str = "x-amz-date";
const AUTHORIZATION: &str = "authorization";
const ALGORITHM: &str = "AWS4-HMAC-SHA256 ";

type Fault = &'static str;

/// Well formed and unverified: only STS can tell whose it is.
pub(crate) struct SignedRequest {
    /// `https://host` or `https://host:port`.
    pub(crate) origin: String,
    pub(super) server_id: String,
    pub(super) access_key_id: String,
    pub(super) signature: String,
    pub(super) signed_at: OffsetDateTime,
    /// What is sent on, without `host` and `content-length`, which the connection adds.
    headers: BTreeMap<String, Secret<String>>,
}

impl SignedRequest {
    /// base64url without padding of `{"method","url","headers","body"}`.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > MAX_BYTES {
            return Err("it is longer than 12 KiB");
        }
        let bytes = decode(text).ok_or("it is not base64url without padding")?;
        let json = parse_object(&bytes).map_err(|_| "it is not a JSON object")?;
        if json.len() != 4 {
            return Err("its members are `method`, `url`, `headers` and `body`");
        }
        if member(&json, "method")? != "POST" {
            return Err("its method is not POST");
        }
        if member(&json, "body")? != BODY {
            return Err("its body is not that of GetCallerIdentity");
        }
        let (origin, host) = origin(member(&json, "url")?)?;
        let mut headers = headers(&json)?;
        check_headers(&headers, &host)?;
        let authorization = headers.get(AUTHORIZATION).ok_or("it is not signed")?;
        let signed = Signed::parse(authorization.expose())?;
        // SECURITY: nothing goes to STS that the signature is not over, and the header that names
        // this broker above all.
        let sent: BTreeSet<&str> = headers
            .keys()
            .map(String::as_str)
            .filter(|name| *name != AUTHORIZATION)
            .collect();
        if sent != signed.headers {
            return Err("SignedHeaders are not exactly its headers");
        }
        let date = value(&headers, DATE).ok_or("it has no x-amz-date")?;
        let signed_at = moment(date)?;
        if !date.starts_with(signed.day) {
            return Err("its date is not that of its credential scope");
        }
        let server_id = value(&headers, SERVER_ID)
            .ok_or("it has no x-dayfly-server-id")?
            .to_owned();
        let (access_key_id, signature) = (signed.key.to_owned(), signed.signature.to_owned());
        headers.remove("host");
        headers.remove("content-length");
        Ok(Self {
            origin,
            server_id,
            access_key_id,
            signature,
            signed_at,
            headers,
        })
    }

    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose().as_str()))
            .collect()
    }
}

fn member<'a>(json: &'a Map<String, Value>, name: &str) -> Result<&'a str, Fault> {
    json.get(name)
        .and_then(Value::as_str)
        .ok_or("its members are `method`, `url`, `headers` and `body`")
}

/// The origin of a URL that is nothing but an origin, and the `host` that goes with it.
fn origin(text: &str) -> Result<(String, String), Fault> {
    let fault = "its URL is not an endpoint with the path `/` and nothing else";
    let url = Url::parse(text).map_err(|_| fault)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(fault);
    }
    let host = url.host_str().ok_or(fault)?;
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let origin = format!("{}://{host}", url.scheme());
    // SECURITY: compared as text with what was sent, so that no parser's leniency gets in between.
    if text.strip_suffix('/').unwrap_or(text) == origin {
        Ok((origin, host))
    } else {
        Err(fault)
    }
}

fn headers(json: &Map<String, Value>) -> Result<BTreeMap<String, Secret<String>>, Fault> {
    let object = json
        .get("headers")
        .and_then(Value::as_object)
        .ok_or("`headers` is not an object")?;
    let mut headers = BTreeMap::new();
    for (name, value) in object {
        let value = value.as_str().ok_or("a header is not text")?;
        let plain = value.len() <= MAX_HEADER
            && !value.is_empty()
            && value.trim() == value
            && !value.contains("  ")
            && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !plain {
            return Err("a header is empty, too long, or has more than plain characters");
        }
        let name = name.to_ascii_lowercase();
        if headers
            .insert(name, Secret::new(value.to_owned()))
            .is_some()
        {
            return Err("a header stands twice");
        }
    }
    Ok(headers)
}

fn value<'a>(headers: &'a BTreeMap<String, Secret<String>>, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.expose().as_str())
}

/// A closed list, each with the value that goes with the one question.
fn check_headers(headers: &BTreeMap<String, Secret<String>>, host: &str) -> Result<(), Fault> {
    for (name, text) in headers {
        let text = text.expose().as_str();
        let fits = match name.as_str() {
            "host" => text == host,
            "content-type" => matches!(
                text,
                "application/x-www-form-urlencoded"
                    | "application/x-www-form-urlencoded; charset=utf-8"
            ),
            "content-length" => text == BODY.len().to_string(),
            "x-amz-content-sha256" => text == hex(digest(&SHA256, BODY.as_bytes()).as_ref()),
            NONCE => text.len() <= 128,
            SERVER_ID | DATE | AUTHORIZATION | "x-amz-security-token" => true,
            _ => return Err("it has a header that this question does not need"),
        };
        if !fits {
            return Err("a header does not go with the URL or the body");
        }
    }
    if headers.contains_key("host") {
        Ok(())
    } else {
        Err("it has no host")
    }
}

/// `AWS4-HMAC-SHA256 Credential=KEY/DAY/REGION/sts/aws4_request, SignedHeaders=A;B, Signature=HEX`.
struct Signed<'a> {
    key: &'a str,
    day: &'a str,
    headers: BTreeSet<&'a str>,
    signature: &'a str,
}

impl<'a> Signed<'a> {
    fn parse(text: &'a str) -> Result<Self, Fault> {
        let fault = "its Authorization is not one of AWS4-HMAC-SHA256 for sts";
        let parts: Vec<&str> = text
            .strip_prefix(ALGORITHM)
            .ok_or(fault)?
            .split(", ")
            .collect();
        let [credential, headers, signature] = parts.as_slice() else {
            return Err(fault);
        };
        let credential: Vec<&str> = credential
            .strip_prefix("Credential=")
            .ok_or(fault)?
            .split('/')
            .collect();
        let [key, day, region, "sts", "aws4_request"] = credential.as_slice() else {
            return Err(fault);
        };
        let names = headers.strip_prefix("SignedHeaders=").ok_or(fault)?;
        let signature = signature.strip_prefix("Signature=").ok_or(fault)?;
        let is_key = (16..=128).contains(&key.len())
            && key
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        let is_region = !region.is_empty()
            && region
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let is_signature = signature.len() == 64
            && signature
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let listed: Vec<&str> = names.split(';').collect();
        let headers: BTreeSet<&str> = listed.iter().copied().collect();
        if !is_key || !is_region || !is_signature || headers.len() != listed.len() {
            return Err(fault);
        }
        Ok(Self {
            key,
            day,
            headers,
            signature,
        })
    }
}

/// `20261121T120000Z`.
fn moment(text: &str) -> Result<OffsetDateTime, Fault> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    PrimitiveDateTime::parse(text, format)
        .map(PrimitiveDateTime::assume_utc)
        .map_err(|_| "its x-amz-date is not a date such as 20261121T120000Z")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
