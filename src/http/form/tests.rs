use super::*;
use axum::http::HeaderValue;
use proptest::prelude::*;

fn refusal(text: &str) -> Refusal {
    Form::parse(text.as_bytes()).err().unwrap()
}

#[test]
fn a_form_is_decoded() {
    let form = Form::parse(b"a=1+2&b=%C3%BC%26&audience=x&audience=y&empty=&flag&&").unwrap();
    assert_eq!(form.get("a"), Some("1 2"));
    assert_eq!(form.get("b"), Some("\u{fc}&"));
    assert_eq!(form.all("audience").collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(form.get("empty"), None);
    assert_eq!(form.get("flag"), None);
    assert_eq!(form.get("absent"), None);
}

#[test]
fn each_malformed_form_is_refused() {
    for (why, text) in [
        ("a known parameter twice", "scope=a&scope=b"),
        ("twice the same", "scope=a&scope=a"),
        ("once empty", "scope=&scope=a"),
        ("twice through an encoded name", "scope=a&%73cope=b"),
        ("an unknown parameter twice", "x=1&x=2"),
        ("a cut escape", "a=%4"),
        ("no hex", "a=%zz"),
        ("a sign in an escape", "a=%+1"),
        ("no UTF-8", "a=%ff"),
        ("an overlong encoding", "a=%c0%af"),
        ("half a surrogate pair", "a=%ed%a0%80"),
        ("no UTF-8 in a name", "%ff=a"),
        ("a bare space", "a=b c"),
        ("a line end", "a=b\r\nc=d"),
        ("a null", "a=\0"),
        ("bare UTF-8", "a=\u{fc}"),
    ] {
        let refusal = refusal(text);
        assert_eq!(refusal.reason, Reason::MalformedRequest, "{why}");
        assert!(refusal.exact, "{why}");
    }
    let many = (0..=MAX_PARAMETERS)
        .map(|n| format!("p{n}=1"))
        .collect::<Vec<_>>();
    refusal(&many.join("&"));
    assert!(Form::parse(many[1..].join("&").as_bytes()).is_ok());
}

#[test]
fn a_refusal_repeats_names_of_ours_alone() {
    assert_eq!(refusal("scope=a&scope=b").at.as_deref(), Some("scope"));
    assert_eq!(refusal("h4x=a&h4x=b").at, None);
}

fn headers(content_type: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in content_type {
        headers.append(header::CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn one_content_type_is_taken() {
    const FORM: &str = "application/x-www-form-urlencoded";
    for good in [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-Urlencoded",
        "application/x-www-form-urlencoded;charset=UTF-8",
        "application/x-www-form-urlencoded; charset=\"utf-8\";",
    ] {
        assert!(expect_type(&headers(&[good]), FORM).is_ok(), "{good}");
    }
    for bad in [
        &[][..],
        &["application/json"],
        &["multipart/form-data; boundary=x"],
        &["application/x-www-form-urlencoded; charset=utf-16"],
        &["application/x-www-form-urlencoded; boundary=x"],
        &["application/x-www-form-urlencoded, application/json"],
        &[FORM, FORM],
    ] {
        let refusal = expect_type(&headers(bad), FORM).unwrap_err();
        assert_eq!(refusal.reason, Reason::UnsupportedMediaType, "{bad:?}");
    }
    let mut zipped = headers(&[FORM]);
    zipped.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert!(expect_type(&zipped, FORM).is_err());
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_announced_or_not() {
    let none = HeaderMap::new();
    let full = vec![b'a'; MAX_BODY];
    assert_eq!(
        read_body(MAX_BODY, &none, Body::from(full.clone()))
            .await
            .unwrap(),
        full
    );
    let over = Body::from(vec![b'a'; MAX_BODY + 1]);
    let refusal = read_body(MAX_BODY, &none, over).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::RequestTooLarge);
    let mut announced = HeaderMap::new();
    announced.insert(header::CONTENT_LENGTH, HeaderValue::from(MAX_BODY + 1));
    let refusal = read_body(MAX_BODY, &announced, Body::empty())
        .await
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::RequestTooLarge);
}

/// A client that is still writing when its connection closes may never read the refusal.
#[tokio::test]
async fn what_is_little_over_the_bound_is_heard_out_and_what_is_far_over_is_not() {
    async fn heard(chunks: usize) -> usize {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = left.clone();
        let chunk = move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b'a'; 10])
        };
        let body = Body::from_stream(futures_util::stream::iter((0..chunks).map(chunk)));
        let refusal = read_body(100, &HeaderMap::new(), body).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::RequestTooLarge);
        left.load(std::sync::atomic::Ordering::Relaxed)
    }
    assert_eq!(heard(11).await, 11);
    assert_eq!(heard(20).await, 20);
    assert_eq!(heard(1_000).await, 21);
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let body = Body::from_stream(futures_util::stream::pending::<
        Result<Vec<u8>, std::io::Error>,
    >());
    let refusal = read_within(Duration::from_millis(5), MAX_BODY, &HeaderMap::new(), body)
        .await
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::RequestTimeout);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Form::parse(&bytes);
    }

    #[test]
    fn what_a_client_encodes_is_what_we_read(name in "[a-z]{1,8}", value in "\\PC{1,40}") {
        let text = url::form_urlencoded::Serializer::new(String::new())
            .append_pair(&name, &value)
            .finish();
        let form = Form::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(form.get(&name), Some(value.as_str()));
    }
}
