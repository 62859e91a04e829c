//! How a client says who it is, read from header and form. Nothing is verified here.
//!
//! In: an `Authorization` header, the form. Out: a [`Presented`] with at most one
//! mechanism (RFC 6749 section 2.3). Offered: Basic, `private_key_jwt` (RFC 7523) and JWT-SVIDs. Secrets
//! in the body and bearer tokens are not.

use super::error::Challenge;
use super::form;
use super::form::Form;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::identity::Basic;
use crate::identity::ClientCertificate;
use crate::identity::Presented;
use crate::secret::Secret;
use crate::wire::ASSERTION_JWT_BEARER;
use crate::wire::ASSERTION_JWT_SPIFFE;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest client id; a SPIFFE id fits.
const MAX_CLIENT_ID: usize = 2048;

/// A 401 of a form door: a client that used the header is asked in the header.
pub fn challenge(headers: &HeaderMap) -> Challenge {
    if headers.contains_key(header::AUTHORIZATION) {
        Challenge::Basic
    } else {
        Challenge::None
    }
}

/// The client's part of what is presented: who it says it is, and its proof.
///
/// A certificate beside another way of authentication is none itself, but what a credential may be
/// bound to (RFC 8705 section 3).
pub fn read(
    headers: &HeaderMap,
    form: &Form,
    certificate: Option<ClientCertificate>,
) -> Result<Presented, Refusal> {
    let basic = basic(headers)?;
    let (client_assertion, client_svid) = assertion(form)?;
    if form.get("client_secret").is_some() {
        return Err(unsupported(
            "client_secret in the body is not offered",
            Some("client_secret"),
        ));
    }
    if basic.is_some() && (client_assertion.is_some() || client_svid.is_some()) {
        return Err(form::malformed(
            "two ways of client authentication",
            Some("client_assertion"),
        ));
    }
    let client_id = form.get("client_id").map(str::to_owned);
    if client_id
        .as_ref()
        .is_some_and(|id| id.len() > MAX_CLIENT_ID)
    {
        return Err(form::malformed("client_id is too long", Some("client_id")));
    }
    Ok(Presented {
        subject_token: None,
        actor_token: None,
        basic,
        client_assertion,
        client_svid,
        client_id,
        dpop: None,
        certificate,
    })
}

/// `private_key_jwt`, or a JWT-SVID. There is one parameter for both.
type Assertions = (Option<Secret<String>>, Option<Secret<String>>);

fn assertion(form: &Form) -> Result<Assertions, Refusal> {
    match (
        form.get("client_assertion"),
        form.get("client_assertion_type"),
    ) {
        (None, None) => Ok((None, None)),
        (Some(assertion), Some(ASSERTION_JWT_BEARER)) => {
            Ok((Some(Secret::new(assertion.to_owned())), None))
        }
        (Some(assertion), Some(ASSERTION_JWT_SPIFFE)) => {
            Ok((None, Some(Secret::new(assertion.to_owned()))))
        }
        (Some(_), Some(_)) => Err(unsupported(
            "another client_assertion_type",
            Some("client_assertion_type"),
        )),
        (Some(_), None) => Err(form::malformed(
            "client_assertion without its type",
            Some("client_assertion_type"),
        )),
        (None, Some(_)) => Err(form::malformed(
            "client_assertion_type without the assertion",
            Some("client_assertion"),
        )),
    }
}

/// User and password as they are: whether they were form-encoded first is for `identity` to try.
///
/// An empty password is no authentication: stock clients send `Basic client_id:` beside an
/// assertion.
fn basic(headers: &HeaderMap) -> Result<Option<Basic>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(form::malformed("several Authorization headers", None));
    }
    let refused = || {
        unsupported(
            "an Authorization header that is not well-formed Basic",
            None,
        )
    };
    let (scheme, encoded) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(refused());
    }
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| refused())?;
    let text = Secret::new(String::from_utf8(decoded).map_err(|_| refused())?);
    let (id, secret) = text.expose().split_once(':').ok_or_else(refused)?;
    if id.len() > MAX_CLIENT_ID || text.expose().chars().any(char::is_control) {
        return Err(refused());
    }
    if secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(Basic {
        id: id.to_owned(),
        secret: Secret::new(secret.to_owned()),
    }))
}

/// RFC 6749 section 5.2: an unsupported way to authenticate is `invalid_client`.
fn unsupported(detail: &str, at: Option<&'static str>) -> Refusal {
    Refusal::new(Reason::InvalidClient, detail)
        .exact()
        .at(at.map(str::to_owned))
}

#[cfg(test)]
mod tests;
