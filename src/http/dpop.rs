//! The `DPoP` header on its way in, and the nonce on its way out (RFC 9449 sections 4.1, 8 and 9).
//!
//! Nothing is verified here.

use crate::broker::{Broker, Reason, Refusal};
use crate::identity::DpopProof;
use crate::secret::Secret;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;

pub(super) const HEADER: HeaderName = HeaderName::from_static("dpop");
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// `path` is the door's own, below the broker's public URL.
pub(super) fn read(
    headers: &HeaderMap,
    broker: &Broker,
    method: &Method,
    path: &str,
) -> Result<Option<DpopProof>, Refusal> {
    let Some(unverified) = sole(headers)? else {
        return Ok(None);
    };
    Ok(Some(DpopProof {
        unverified: Secret::new(unverified.to_owned()),
        method: method.as_str().to_owned(),
        url: format!("{}{path}", broker.url()),
        access_token: None,
    }))
}

/// RFC 9449 section 4.3, check 1.
fn sole(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(refused("several DPoP headers"));
    }
    let text = value
        .to_str()
        .map_err(|_| refused("a DPoP header that is not text"))?;
    Ok(Some(text))
}

pub(super) fn refused(detail: &str) -> Refusal {
    Refusal::new(Reason::InvalidDpopProof, detail)
        .exact()
        .at(Some("DPoP".to_owned()))
}

/// Whoever sent a proof learns the nonce for its next one with every answer, good or bad, so that one
/// that is about to end is replaced before it does.
pub(super) fn offer(broker: &Broker, response: &mut Response) {
    let nonce = broker
        .dpop_nonce()
        .map(|nonce| HeaderValue::from_str(&nonce));
    if let Some(Ok(nonce)) = nonce {
        response.headers_mut().insert(NONCE, nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_header_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(sole(&headers).unwrap(), None);
        headers.append(HEADER, HeaderValue::from_static("a.b.c"));
        assert_eq!(sole(&headers).unwrap(), Some("a.b.c"));
        headers.append(HEADER, HeaderValue::from_static("a.b.c"));
        assert_eq!(sole(&headers).unwrap_err().reason, Reason::InvalidDpopProof);
        let mut headers = HeaderMap::new();
        headers.append(HEADER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(sole(&headers).unwrap_err().reason, Reason::InvalidDpopProof);
    }
}
