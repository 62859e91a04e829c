use super::*;
use crate::identity::tokens::sha256;
use serde_json::json;

const ORIGIN: &str = "https://sts.eu-west-1.amazonaws.com";

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

fn good() -> Value {
    json!({
        "method": "POST",
        "url": format!("{ORIGIN}/"),
        "headers": {
            "Authorization": authorization("host;x-amz-date;x-amz-security-token;x-dayfly-server-id"),
            "Host": "sts.eu-west-1.amazonaws.com",
            "X-Amz-Date": "20261121T120000Z",
            "X-Amz-Security-Token": "IQoJb3JpZ2luX2VjE",
            "X-Dayfly-Server-Id": "https://broker.acme.example",
        },
        "body": BODY,
    })
}

fn authorization(signed: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLEEXAMPLE12/20261121/eu-west-1/sts/aws4_request, SignedHeaders={signed}, Signature={}",
        "0f".repeat(32)
    )
}

fn parse(request: &Value) -> Result<SignedRequest, Fault> {
    SignedRequest::parse(&encoded(&request.to_string()))
}

/// What `spoil` makes of the good one is refused, for this reason.
#[track_caller]
fn refused(why: &str, spoil: impl FnOnce(&mut Value)) {
    let mut request = good();
    spoil(&mut request);
    let fault = parse(&request).err().expect("refused");
    assert!(fault.contains(why), "{fault}");
}

#[test]
fn a_request_is_parsed_into_the_one_question() {
    let request = parse(&good()).unwrap();
    assert_eq!(request.origin, ORIGIN);
    assert_eq!(request.server_id, "https://broker.acme.example");
    assert_eq!(request.access_key_id, "ASIAEXAMPLEEXAMPLE12");
    assert_eq!(request.signed_at.unix_timestamp(), 1_795_262_400);
    let names: Vec<_> = request.headers().iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "authorization",
            "x-amz-date",
            "x-amz-security-token",
            "x-dayfly-server-id"
        ]
    );
}

#[test]
fn what_sdks_also_sign_is_taken_where_it_fits() {
    let mut request = good();
    let more = "content-length;content-type;host;x-amz-content-sha256;x-amz-date;x-dayfly-nonce;x-dayfly-server-id";
    let headers = &mut request["headers"];
    headers
        .as_object_mut()
        .unwrap()
        .remove("X-Amz-Security-Token");
    headers["Authorization"] = json!(authorization(more));
    headers["Content-Type"] = json!("application/x-www-form-urlencoded; charset=utf-8");
    headers["Content-Length"] = json!("43");
    headers["X-Dayfly-Nonce"] = json!("6f1c");
    headers["X-Amz-Content-Sha256"] =
        json!("ab821ae955788b0e33ebd34c208442ccfc2d406e2edc5e7a39bd6458fbb4f843");
    assert!(parse(&request).is_ok(), "{:?}", parse(&request).err());
    for (name, wrong) in [
        ("Content-Type", "application/json"),
        ("Content-Length", "44"),
        ("X-Amz-Content-Sha256", &sha256(b"")),
    ] {
        let mut spoiled = request.clone();
        spoiled["headers"][name] = json!(wrong);
        let fault = parse(&spoiled).err().unwrap();
        assert!(fault.contains("does not go with"), "{name}: {fault}");
    }
}

#[test]
fn it_asks_the_one_question_and_no_other() {
    refused("method", |request| request["method"] = json!("GET"));
    for body in [
        "",
        "Action=GetCallerIdentity",
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15",
        "Version=2011-06-15&Action=GetCallerIdentity",
        "Action=GetCallerIdentity&Version=2011-06-15&Action=AssumeRole",
    ] {
        refused("body", |request| request["body"] = json!(body));
    }
    refused("members", |request| request["more"] = json!("x"));
    refused("members", |request| {
        request.as_object_mut().unwrap().remove("body");
    });
    refused("members", |request| request["url"] = json!(1));
    refused("headers", |request| request["headers"] = json!([]));
}

#[test]
fn its_url_is_an_origin_and_nothing_else() {
    for url in [
        "https://sts.eu-west-1.amazonaws.com/other",
        "https://sts.eu-west-1.amazonaws.com/?Action=AssumeRole",
        "https://sts.eu-west-1.amazonaws.com/#x",
        "https://user@sts.eu-west-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com@evil.example/",
        "https://evil.example\\@sts.eu-west-1.amazonaws.com/",
        "https://STS.eu-west-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com:443/",
        "https:/sts.eu-west-1.amazonaws.com/",
        "https://sts.eu-west-1.amazonaws.com//",
        "file:///etc/passwd",
        "httpq://sts.eu-west-1.amazonaws.com",
        "",
    ] {
        refused("URL", |request| request["url"] = json!(url));
    }
    // A wrong host is another URL's.
    refused("does not go with", |request| {
        request["headers"]["Host"] = json!("evil.example");
    });
}

#[test]
fn every_header_is_known_signed_and_there_once() {
    refused("does not need", |request| {
        request["headers"]["Accept"] = json!("application/json");
    });
    refused("does not need", |request| {
        request["headers"]["X-Amz-Target"] = json!("x");
    });
    refused("twice", |request| {
        request["headers"]["host"] = json!("sts.eu-west-1.amazonaws.com");
    });
    for text in ["", " x", "x ", "a  b", "a\r\nX-Evil: 1", "ä"] {
        refused("plain", |request| {
            request["headers"]["X-Amz-Security-Token"] = json!(text);
        });
    }
    for signed in [
        "host;x-amz-date;x-amz-security-token",
        "host;x-amz-date;x-dayfly-server-id",
        "x-amz-date;x-amz-security-token;x-dayfly-server-id",
        "accept;host;x-amz-date;x-amz-security-token;x-dayfly-server-id",
    ] {
        refused("SignedHeaders", |request| {
            request["headers"]["Authorization"] = json!(authorization(signed));
        });
    }
    for (name, why) in [
        ("Authorization", "not signed"),
        ("Host", "no host"),
        ("X-Amz-Date", "SignedHeaders"),
        ("X-Dayfly-Server-Id", "SignedHeaders"),
    ] {
        refused(why, |request| {
            request["headers"].as_object_mut().unwrap().remove(name);
        });
    }
}

#[test]
fn its_authorization_is_of_signature_version_4_for_sts() {
    let whole = authorization("host;x-amz-date;x-amz-security-token;x-dayfly-server-id");
    for (from, to) in [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ("/sts/", "/s3/"),
        ("aws4_request", "aws4_other"),
        ("/20261121/", "/"),
        ("0f0f", "0F0F"),
        ("0f0f", ""),
        (", Signature", ",Signature"),
        ("ASIAEXAMPLEEXAMPLE12", "asia"),
        ("host;", "host;host;"),
        ("eu-west-1", "eu west 1"),
    ] {
        refused("Authorization", |request| {
            request["headers"]["Authorization"] = json!(whole.replacen(from, to, 1));
        });
    }
    refused("credential scope", |request| {
        request["headers"]["X-Amz-Date"] = json!("20261122T120000Z");
    });
    refused("not a date", |request| {
        request["headers"]["X-Amz-Date"] = json!("2026-11-21T12:00:00Z");
    });
}

#[test]
fn its_encoding_has_one_spelling_and_a_bound() {
    let text = encoded(&good().to_string());
    assert!(SignedRequest::parse(&text).is_ok());
    for bad in [
        format!("{text}="),
        format!(" {text}"),
        good().to_string(),
        String::new(),
    ] {
        assert!(SignedRequest::parse(&bad).is_err());
    }
    let twice = good().to_string().replacen('{', r#"{"method":"POST","#, 1);
    let fault = SignedRequest::parse(&encoded(&twice)).err().unwrap();
    assert!(fault.contains("JSON"), "{fault}");
    let long = encoded(&format!("{}{}", " ".repeat(12 * 1024), good()));
    let fault = SignedRequest::parse(&long).err().unwrap();
    assert!(fault.contains("12 KiB"), "{fault}");
}
