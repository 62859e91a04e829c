use super::*;
use axum::http::HeaderValue;

fn headers(leaf: &[&str], chain: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in [(LEAF, leaf), (CHAIN, chain)] {
        for value in values {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
    }
    headers
}

fn chain(ders: &[&[u8]]) -> ClientCertificate {
    ClientCertificate::new(ders.iter().map(|der| der.to_vec()).collect()).unwrap()
}

fn seen(
    connected: &str,
    handshake: Option<ClientCertificate>,
    headers: &HeaderMap,
    is_on: bool,
) -> Result<Option<ClientCertificate>, String> {
    let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap()];
    let rule = HeaderRule {
        is_on,
        trusted: &trusted,
    };
    let connected = Some(connected.parse().unwrap());
    match shown(connected, handshake, headers, rule) {
        Ok(shown) => Ok(shown.0),
        Err(refusal) => {
            assert_eq!(refusal.reason, Reason::MalformedRequest);
            assert_eq!(refusal.at.as_deref(), Some("Client-Cert"));
            Err(refusal.detail)
        }
    }
}

const PROXY: &str = "10.0.0.7";
const STRANGER: &str = "192.0.2.7";

#[test]
fn a_trusted_proxy_says_whose_certificate_it_saw() {
    let given = headers(&[":bGVhZg==:"], &[" :cm9vdDE=: , :cm9vdDI=:", ":cm9vdDM=:"]);
    let expected = chain(&[b"leaf", b"root1", b"root2", b"root3"]);
    assert_eq!(seen(PROXY, None, &given, true), Ok(Some(expected.clone())));
    // The handshake was the proxy's own.
    let own = chain(&[b"proxy"]);
    assert_eq!(
        seen(PROXY, Some(own.clone()), &given, true),
        Ok(Some(expected))
    );
    let none = headers(&[], &[]);
    for is_on in [true, false] {
        assert_eq!(seen(PROXY, Some(own.clone()), &none, is_on), Ok(None));
        assert_eq!(
            seen(STRANGER, Some(own.clone()), &none, is_on),
            Ok(Some(own.clone()))
        );
    }
}

#[test]
fn from_anyone_else_the_header_is_refused() {
    let given = headers(&[":bGVhZg==:"], &[]);
    for (connected, is_on) in [(STRANGER, true), (STRANGER, false), (PROXY, false)] {
        let why = seen(connected, None, &given, is_on).unwrap_err();
        assert!(why.contains("from whom it is not taken"), "{why}");
    }
    let own = Some(chain(&[b"own"]));
    assert!(seen(STRANGER, own, &given, true).is_err());
    let mut forwarded = given;
    forwarded.append("x-forwarded-for", HeaderValue::from_static(PROXY));
    assert!(seen(STRANGER, None, &forwarded, true).is_err());
    assert!(seen(STRANGER, None, &headers(&[], &[":cm9vdDE=:"]), true).is_err());
}

#[test]
fn a_header_that_is_not_well_formed_is_refused() {
    let whole = format!(":{}:", STANDARD.encode(vec![0; 16 * 1024 + 1]));
    for (leaf, chain) in [
        (&["bGVhZg=="][..], &[][..]),
        (&[":bGVhZg==:", ":bGVhZg==:"], &[]),
        (&[":bGVhZg==:, :bGVhZg==:"], &[]),
        (&[":bGVhZg==:;a=b"], &[]),
        (&[":bGVhZg:"], &[]),
        (&[":bGVh-_==:"], &[]),
        (&["::"], &[]),
        (&[":"], &[]),
        (&[""], &[]),
        (&["\"bGVhZg==\""], &[]),
        (&["-----BEGIN%20CERTIFICATE-----"], &[]),
        (&[whole.as_str()], &[]),
        (&[":bGVhZg==:"], &[""]),
        (&[":bGVhZg==:"], &[":cm9vdDE=:,"]),
        (&[":bGVhZg==:"], &["cm9vdDE="]),
        (&[], &[":cm9vdDE=:"]),
    ] {
        let given = headers(leaf, chain);
        assert!(
            seen(PROXY, None, &given, true).is_err(),
            "{leaf:?} {chain:?}"
        );
    }
    let many = vec![":cm9vdDE=:"; 8];
    assert!(seen(PROXY, None, &headers(&[":bGVhZg==:"], &many), true).is_err());
}
