//! `identity = { certificate = ... }`, `certificate_bound`, and who asks for certificates: each spoiled
//! in one thing.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

const ASKED: &str = "mtls = { url = \"https://mtls.acme.example\" }\n";
const GITHUB: &str = "identity = { github = \"acme/shop\", repository_id = 7 }";

fn pem(is_ca: IsCa) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = is_ca;
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// The codes of what `check` says about `[broker]` with `broker`, and the agent with `agent`.
fn codes(broker: &str, agent: &str) -> Vec<&'static str> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("ca.pem", &pem(IsCa::Ca(BasicConstraints::Unconstrained)));
    write("leaf.pem", &pem(IsCa::NoCa));
    write("none.pem", "nothing");
    let text = spoiled(GITHUB, agent).replacen("[broker]\n", &format!("[broker]\n{broker}"), 1);
    let report = check_files(files(&text), folder.path().to_owned(), NOW);
    let problems = &report.problems.0;
    problems
        .iter()
        .map(|problem| problem.code.as_str())
        .collect()
}

fn identity(certificate: &str) -> Vec<&'static str> {
    codes(
        ASKED,
        &format!("identity = {{ certificate = {{ {certificate} }} }}"),
    )
}

#[test]
fn a_certificate_is_one_name_of_a_ca_or_one_of_its_own() {
    for name in [
        r#"subject_dn = "CN=robot,O=Acme""#,
        r#"san_dns = "robot.acme.example""#,
        r#"san_uri = "urn:acme:robot""#,
        r#"san_ip = "2001:db8::7""#,
        r#"san_email = "robot@acme.example""#,
    ] {
        let good = identity(&format!(r#"ca = "file:ca.pem", {name}"#));
        assert!(good.is_empty(), "{name}: {good:?}");
    }
    assert!(identity(r#"self_signed = "file:leaf.pem""#).is_empty());
    let itself = format!("self_signed = {:?}", pem(IsCa::NoCa));
    assert!(identity(&itself).is_empty(), "{itself}");
    let dns = r#"san_dns = "robot.acme.example""#;
    for (certificate, expected) in [
        (r#"ca = "file:ca.pem""#.to_owned(), "bad_value"),
        (
            format!(r#"ca = "file:ca.pem", {dns}, san_ip = "192.0.2.7""#),
            "bad_value",
        ),
        (dns.to_owned(), "bad_value"),
        (
            format!(r#"self_signed = "file:leaf.pem", {dns}"#),
            "bad_value",
        ),
        (
            format!(r#"self_signed = "file:leaf.pem", ca = "file:ca.pem", {dns}"#),
            "bad_value",
        ),
        (
            r#"ca = "file:ca.pem", san_ip = "robot""#.to_owned(),
            "bad_value",
        ),
        (format!(r#"ca = "file:leaf.pem", {dns}"#), "bad_keys"),
        (format!(r#"ca = "file:none.pem", {dns}"#), "bad_keys"),
        (format!(r#"ca = "file:absent.pem", {dns}"#), "bad_keys"),
        (format!(r#"ca = "ca.pem", {dns}"#), "bad_keys"),
        (r#"self_signed = "file:none.pem""#.to_owned(), "bad_keys"),
        (
            format!(r#"ca = "file:ca.pem", {dns}, cn = "robot""#),
            "unknown_key",
        ),
    ] {
        assert_eq!(identity(&certificate), [expected], "{certificate}");
    }
}

#[test]
fn somebody_must_ask_for_what_an_agent_is_known_by() {
    let own = r#"identity = { certificate = { self_signed = "file:leaf.pem" } }"#;
    let bound = format!("{GITHUB}\ncertificate_bound = true");
    let proxied = "limits = { trusted_proxies = [\"10.0.0.7\"], client_cert_header = true }\n";
    let tls = "tls = { certificate = \"a.pem\", key = \"b.pem\", ask_client = true }\n";
    for agent in [own, &bound] {
        for asked in [ASKED, proxied, tls] {
            assert!(codes(asked, agent).is_empty(), "{asked} {agent}");
        }
        for unasked in ["", "tls = { certificate = \"a.pem\", key = \"b.pem\" }\n"] {
            assert_eq!(codes(unasked, agent), ["bad_value"], "{unasked} {agent}");
        }
    }
    let unbound = format!("{GITHUB}\ncertificate_bound = false");
    assert!(codes("", &unbound).is_empty());
}

/// Who has an address among the proxies says which certificate a client showed.
#[test]
fn few_have_the_address_of_a_proxy_that_tells_of_certificates() {
    let limits = |proxy: &str, header: bool| {
        format!(
            "limits = {{ trusted_proxies = [\"10.0.0.7\", \"{proxy}\"], client_cert_header = {header} }}\n"
        )
    };
    for (proxy, fits) in [
        ("10.1.2.0/24", true),
        ("10.1.2.0/23", false),
        ("10.0.0.0/8", false),
        ("::ffff:10.0.0.0/8", false),
        ("2001:db8::/64", true),
        ("2001:db8::/63", false),
        ("2001:db8::1", true),
    ] {
        let expected: &[&str] = if fits { &[] } else { &["bad_value"] };
        assert_eq!(codes(&limits(proxy, true), GITHUB), expected, "{proxy}");
        // An address to count by is another matter.
        assert!(codes(&limits(proxy, false), GITHUB).is_empty(), "{proxy}");
    }
    for everybody in ["0.0.0.0/0", "::/0", "0.0.0.0/00"] {
        for header in [true, false] {
            let codes = codes(&limits(everybody, header), GITHUB);
            assert_eq!(codes, ["bad_value"], "{everybody} {header}");
        }
    }
}

#[test]
fn doors_for_certificates_are_over_tls_and_headers_from_somebody() {
    let listen = "listen = \"127.0.0.1:8443\"";
    let tls = "tls = { certificate = \"a.pem\", key = \"b.pem\" }\n";
    let mtls = |more: &str| format!("mtls = {{ url = \"https://mtls.acme.example\", {more} }}\n");
    let own = format!("{listen}, certificate = \"a.pem\", key = \"b.pem\"");
    for good in [mtls(&own), tls.to_owned() + &mtls(listen)] {
        assert!(codes(&good, GITHUB).is_empty(), "{good}");
    }
    for (broker, expected) in [
        (mtls(listen), "bad_value"),
        (
            mtls(&format!("{listen}, certificate = \"a.pem\"")),
            "bad_value",
        ),
        (format!("mtls = {{ {listen} }}\n{tls}"), "missing_key"),
        (
            "mtls = { url = \"http://mtls.acme.example\" }\n".to_owned(),
            "insecure_url",
        ),
        (
            "limits = { client_cert_header = true }\n".to_owned(),
            "bad_value",
        ),
    ] {
        assert_eq!(codes(&broker, GITHUB), [expected], "{broker}");
    }
    let settings =
        settings(&GOOD.replacen("[broker]\n", &format!("[broker]\n{tls}{}", mtls(listen)), 1));
    assert!(settings.broker.takes_certificates());
    assert!(!settings.broker.listen.tls.unwrap().ask_client);
    let mtls = settings.broker.mtls.unwrap();
    assert!(mtls.listen.unwrap().tls.unwrap().ask_client);
}
