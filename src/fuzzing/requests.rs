//! Requests as they come in at the door.

use crate::http::form::Form;
use crate::http::token;
use axum::http::{HeaderMap, HeaderValue, header};
use url::form_urlencoded;

/// The body of `POST /token`; before the first newline, if there is one, the `Authorization` header.
pub fn form(bytes: &[u8]) {
    let (authorization, body) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (bytes.get(..end), bytes.get(end + 1..).unwrap_or_default()),
        None => (None, bytes),
    };
    let Ok(form) = Form::parse(body) else {
        return;
    };
    // The lenient reader of the URL standard has no other view of what was let through.
    let lenient: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    assert!(
        form.pairs()
            .map(|(name, _)| name)
            .eq(lenient.iter().map(|(name, _)| name.as_str()))
    );
    for (name, value) in &lenient {
        let repeats = lenient.iter().filter(|(other, _)| other == name).count() > 1;
        assert!(!repeats || ["resource", "audience"].contains(&name.as_str()));
        assert!(value.is_empty() || form.all(name).any(|own| own == value));
    }
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization.and_then(|text| HeaderValue::from_bytes(text).ok()) {
        headers.insert(header::AUTHORIZATION, value);
    }
    let Ok(request) = token::parse(&headers, &form, None) else {
        return;
    };
    let presented = &request.presented;
    assert!(
        presented.basic.is_none()
            || (presented.client_assertion.is_none() && presented.client_svid.is_none()),
        "two ways of client authentication"
    );
    assert!(
        presented.subject_token.is_some()
            || presented.basic.is_some()
            || presented.client_assertion.is_some()
            || presented.client_svid.is_some(),
        "nothing was presented"
    );
    assert!(request.asked.targets.len() <= 8 && request.asked.authorization_details.len() <= 16);
    assert!(form.get("client_secret").is_none() && form.get("actor_token").is_none());
}
