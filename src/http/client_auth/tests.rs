use super::*;
use axum::http::HeaderValue;

fn with(authorization: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in authorization {
        headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn form(text: &str) -> Form {
    Form::parse(text.as_bytes()).unwrap()
}

fn encoded(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

const ASSERTION: &str = "client_assertion=a.b.c&client_assertion_type=\
    urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";

#[test]
fn basic_is_kept_as_it_came() {
    let headers = with(&[&encoded("spiffe%3A%2F%2Facme%2Ftest:p%2Bw:d")]);
    let presented = read(&headers, &form(""), None).unwrap();
    let basic = presented.basic.unwrap();
    assert_eq!(basic.id, "spiffe%3A%2F%2Facme%2Ftest");
    assert_eq!(basic.secret.expose(), "p%2Bw:d");
}

#[test]
fn an_assertion_needs_no_client_id() {
    let presented = read(&HeaderMap::new(), &form(ASSERTION), None).unwrap();
    assert_eq!(presented.client_assertion.unwrap().expose(), "a.b.c");
    assert_eq!(presented.client_id, None);
}

#[test]
fn two_mechanisms_at_once_are_refused() {
    let refusal = read(&with(&[&encoded("id:secret")]), &form(ASSERTION), None).unwrap_err();
    assert_eq!(refusal.reason, Reason::MalformedRequest);
}

#[test]
fn basic_with_an_empty_password_is_no_mechanism() {
    let headers = with(&[&encoded("id:")]);
    let presented = read(&headers, &form(ASSERTION), None).unwrap();
    assert!(presented.client_assertion.is_some() && presented.basic.is_none());
    let presented = read(&headers, &form(""), None).unwrap();
    assert!(presented.client_assertion.is_none() && presented.basic.is_none());
}

#[test]
fn other_ways_to_authenticate_are_refused_as_invalid_client() {
    for (why, headers, body) in [
        ("a bearer token", with(&["Bearer abc"]), ""),
        ("a bare word", with(&["Basic"]), ""),
        ("no base64", with(&["Basic ***"]), ""),
        ("no colon", with(&[&encoded("id")]), ""),
        ("a control character", with(&[&encoded("id:a\0b")]), ""),
        (
            "a secret in the body",
            HeaderMap::new(),
            "client_id=a&client_secret=b",
        ),
        (
            "another kind of assertion",
            HeaderMap::new(),
            "client_assertion=a&client_assertion_type=saml2",
        ),
    ] {
        let refusal = read(&headers, &form(body), None).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidClient, "{why}");
        assert!(!refusal.detail.contains("abc"), "{why}");
    }
}

#[test]
fn halves_of_an_assertion_and_repeated_headers_are_malformed() {
    for (headers, body) in [
        (HeaderMap::new(), "client_assertion=a"),
        (HeaderMap::new(), "client_assertion_type=a"),
        (with(&[&encoded("a:b"), &encoded("a:b")]), ""),
    ] {
        let refusal = read(&headers, &form(body), None).unwrap_err();
        assert_eq!(refusal.reason, Reason::MalformedRequest, "{body}");
    }
    let long = format!("client_id={}", "a".repeat(MAX_CLIENT_ID + 1));
    assert!(read(&HeaderMap::new(), &form(&long), None).is_err());
}

#[test]
fn the_challenge_answers_the_header() {
    assert_eq!(challenge(&with(&["Bearer x"])), Challenge::Basic);
    assert_eq!(challenge(&HeaderMap::new()), Challenge::None);
}
