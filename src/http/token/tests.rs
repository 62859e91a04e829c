use super::*;
use axum::http::HeaderName;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A token exchange as CI sends it.
fn exchange() -> Vec<(&'static str, &'static str)> {
    vec![
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", "aaa.bbb.ccc"),
        ("subject_token_type", JWT),
    ]
}

/// Client credentials as stock clients send them.
fn client_credentials() -> Vec<(&'static str, &'static str)> {
    vec![
        ("grant_type", CLIENT_CREDENTIALS),
        ("client_assertion", "aaa.bbb.ccc"),
        ("client_assertion_type", ASSERTION_TYPE),
    ]
}

fn with(
    mut form: Vec<(&'static str, &'static str)>,
    more: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    form.extend(more);
    form
}

fn without(
    mut form: Vec<(&'static str, &'static str)>,
    name: &str,
) -> Vec<(&'static str, &'static str)> {
    form.retain(|(other, _)| *other != name);
    form
}

fn parsed_with(
    form: &[(&str, &str)],
    headers: &[(&'static str, &str)],
) -> Result<ExchangeRequest, Refusal> {
    let mut encoder = url::form_urlencoded::Serializer::new(String::new());
    encoder.extend_pairs(form);
    let form = Form::parse(encoder.finish().as_bytes())?;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    parse(&map, &form, None)
}

fn parsed(form: &[(&str, &str)]) -> Result<ExchangeRequest, Refusal> {
    parsed_with(form, &[])
}

#[test]
fn a_whole_exchange_is_read() {
    let request = parsed(&with(
        exchange(),
        &[
            ("intent", "i.n.t"),
            ("audience", "aws-prod"),
            ("resource", "https://api.example/x"),
            ("resource", "https://api.example/x"),
            ("scope", "orders:read mission:deploy-checkout orders:write"),
            (
                "authorization_details",
                r#"[{"type":"aws_session","identifier":"aws-prod","actions":["s3:GetObject"],"locations":["arn:aws:s3:::b/k"],"max_ttl":900}]"#,
            ),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("actor_token", ""),
            ("client-request-id", "unknown and ignored"),
        ],
    ))
    .unwrap();
    assert_eq!(request.grant, GrantType::TokenExchange);
    let subject = request.presented.subject_token.unwrap();
    assert_eq!(subject.token_type, TokenType::Jwt);
    assert_eq!(subject.unverified.expose(), "aaa.bbb.ccc");
    let asked = request.asked;
    assert_eq!(asked.unverified_intent.as_deref(), Some("i.n.t"));
    assert_eq!(asked.targets, ["aws-prod", "https://api.example/x"]);
    assert_eq!(asked.scope, ["orders:read", "orders:write"]);
    assert_eq!(asked.mission.unwrap().as_str(), "deploy-checkout");
    assert_eq!(asked.authorization_details.len(), 1);
    assert_eq!(asked.authorization_details[0].max_ttl, Some(900));
}

#[test]
fn what_google_auth_sends_is_read() {
    let request = parsed(&with(
        without(exchange(), "none"),
        &[
            ("audience", "//iam.example/projects/1"),
            ("scope", "https://www.example/auth/cloud-platform"),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
        ],
    ))
    .unwrap();
    assert!(request.presented.client_id.is_none());
}

#[test]
fn client_credentials_are_read() {
    let request = parsed(&with(
        client_credentials(),
        &[("resource", "https://mcp.example/mcp"), ("scope", "read")],
    ))
    .unwrap();
    assert_eq!(request.grant, GrantType::ClientCredentials);
    assert!(request.presented.client_assertion.is_some());
    assert!(request.presented.subject_token.is_none());
}

#[test]
fn a_self_signed_subject_is_the_intent() {
    const SELF_SIGNED: &str = "urn:ietf:params:oauth:token-type:self_signed";
    let form = with(
        client_credentials()[1..].to_vec(),
        &[
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", "i.n.t"),
            ("subject_token_type", SELF_SIGNED),
        ],
    );
    let request = parsed(&form).unwrap();
    assert_eq!(request.asked.unverified_intent.as_deref(), Some("i.n.t"));
    assert!(request.presented.subject_token.is_none());

    let twice = parsed(&with(form.clone(), &[("intent", "i.n.t")])).unwrap_err();
    assert_eq!(twice.reason, Reason::MalformedRequest);
    let alone = parsed(&without(form, "client_assertion")).unwrap_err();
    assert_eq!(
        alone.reason,
        Reason::MalformedRequest,
        "an assertion type is left over"
    );
    let nobody = parsed(&[
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", "i.n.t"),
        ("subject_token_type", SELF_SIGNED),
    ]);
    assert_eq!(nobody.unwrap_err().reason, Reason::NoProof);
}

fn refused(form: &[(&str, &str)], reason: Reason, at: &str) {
    let refusal = parsed(form).unwrap_err();
    assert_eq!(refusal.reason, reason, "{form:?}");
    assert_eq!(refusal.at.as_deref(), Some(at), "{form:?}");
    assert!(refusal.exact);
}

#[test]
fn what_an_exchange_needs_is_named_when_it_is_missing() {
    for name in ["grant_type", "subject_token", "subject_token_type"] {
        refused(&without(exchange(), name), Reason::MalformedRequest, name);
        let empty = with(without(exchange(), name), &[(name, "")]);
        refused(&empty, Reason::MalformedRequest, name);
    }
}

#[test]
fn an_actor_comes_with_its_type_and_a_type_with_its_actor() {
    let actor = [("actor_token", "a.b.c"), ("actor_token_type", JWT)];
    let request = parsed(&with(exchange(), &actor)).unwrap();
    let token = request.presented.actor_token.unwrap();
    assert_eq!(token.unverified.expose(), "a.b.c");
    assert_eq!(token.token_type, TokenType::Jwt);
    let bad = Reason::MalformedRequest;
    refused(&with(exchange(), &actor[..1]), bad, "actor_token_type");
    refused(&with(exchange(), &actor[1..]), bad, "actor_token");
    for kind in ["saml2", "self_signed"] {
        let urn = format!("urn:ietf:params:oauth:token-type:{kind}");
        let form = with(exchange(), &[("actor_token", "a.b.c")]);
        let form = form.into_iter().chain([("actor_token_type", urn.as_str())]);
        let form: Vec<_> = form.collect();
        refused(&form, bad, "actor_token_type");
    }
    refused(&with(client_credentials(), &actor), bad, "actor_token");
}

#[test]
fn what_is_known_and_not_taken_is_refused_and_named() {
    let form = with(exchange(), &[("requested_token_type", "not a uri")]);
    refused(&form, Reason::MalformedRequest, "requested_token_type");
    let form = with(client_credentials(), &[("subject_token", "a.b.c")]);
    refused(&form, Reason::MalformedRequest, "subject_token");
    let form = with(client_credentials(), &[("client_secret", "s")]);
    refused(&form, Reason::InvalidClient, "client_secret");
}

#[test]
fn a_target_is_a_name_or_an_absolute_uri_without_a_fragment() {
    for (name, value) in [
        ("resource", "/relative"),
        ("resource", "aws-prod"),
        ("resource", "https://a.example/#part"),
        ("resource", "https://a.example/a b"),
        ("audience", "a\nb"),
    ] {
        let form = with(exchange(), &[(name, value)]);
        refused(&form, Reason::InvalidTarget, name);
    }
}

#[test]
fn a_scope_has_the_characters_of_a_scope_and_names_one_mission() {
    for value in [
        "read\u{fc}",
        "a\"b",
        "a\\b",
        "a\tb",
        "mission:",
        "mission:Not-A-Name",
        "mission:a mission:b",
    ] {
        let form = with(exchange(), &[("scope", value)]);
        refused(&form, Reason::InvalidScope, "scope");
    }
    let same = parsed(&with(exchange(), &[("scope", "mission:a  mission:a")]));
    assert_eq!(same.unwrap().asked.mission.unwrap().as_str(), "a");
}

#[test]
fn authorization_details_are_a_closed_array() {
    for details in [
        "{}",
        "[1]",
        "[",
        "[] []",
        "null",
        r#"[{"type":"t","identifier":"x","actions":["a"],"colour":"red"}]"#,
        r#"[{"type":"t","type":"u","identifier":"x","actions":["a"]}]"#,
        r#"[{"type":"t","actions":["a"]}]"#,
        r#"[{"type":"t","identifier":"x","actions":"a"}]"#,
    ] {
        let form = with(exchange(), &[("authorization_details", details)]);
        let refusal = parsed(&form).unwrap_err();
        assert_eq!(
            refusal.reason,
            Reason::InvalidAuthorizationDetails,
            "{details}"
        );
        assert!(refusal.at.unwrap().starts_with("authorization_details"));
    }
    let none = parsed(&with(exchange(), &[("authorization_details", "")]));
    assert!(none.unwrap().asked.authorization_details.is_empty());
}

#[test]
fn other_grants_and_other_token_types_are_named_as_such() {
    let other = parsed(&[("grant_type", "password")]).unwrap_err();
    assert_eq!(other.reason, Reason::UnsupportedGrantType);
    for bad in [
        "jwt",
        "urn:ietf:params:oauth:token-type:saml2",
        "urn:ietf:params:oauth:token-type:refresh_token",
        "urn:ietf:params:oauth:token-type:unsigned_json",
    ] {
        let form = with(
            without(exchange(), "subject_token_type"),
            &[("subject_token_type", bad)],
        );
        assert_eq!(
            parsed(&form).unwrap_err().reason,
            Reason::MalformedRequest,
            "{bad}"
        );
    }
}

#[test]
fn too_much_of_anything_is_refused() {
    let long = "a".repeat(MAX_TOKEN + 1);
    for name in ["subject_token", "intent"] {
        let mut form = without(exchange(), name);
        form.push((name, &*long.clone().leak()));
        assert_eq!(
            parsed(&form).unwrap_err().reason,
            Reason::MalformedRequest,
            "{name}"
        );
    }
    let mut many = exchange();
    for n in 0..=MAX_TARGETS {
        many.push(("audience", format!("target-{n}").leak()));
    }
    assert_eq!(parsed(&many).unwrap_err().reason, Reason::InvalidTarget);
    let wide = "a ".repeat(MAX_SCOPE);
    let mut form = exchange();
    form.push(("scope", wide.leak()));
    assert_eq!(parsed(&form).unwrap_err().reason, Reason::InvalidScope);
}

#[test]
fn a_bearer_token_is_no_way_in() {
    let refusal = parsed_with(&exchange(), &[("authorization", "Bearer abc")]).unwrap_err();
    assert_eq!(refusal.reason, Reason::InvalidClient);
}

#[test]
fn without_any_proof_nothing_is_looked_at() {
    let refusal = parsed(&[("grant_type", CLIENT_CREDENTIALS)]).unwrap_err();
    assert_eq!(refusal.reason, Reason::NoProof);
    let empty = format!("Basic {}", STANDARD.encode("agent:"));
    let refusal = parsed_with(
        &[("grant_type", CLIENT_CREDENTIALS)],
        &[("authorization", &empty)],
    );
    assert_eq!(refusal.unwrap_err().reason, Reason::NoProof);
}

/// Pieces that mean something, in any order and number, between anything at all.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange",
        "grant_type=client_credentials",
        "subject_token=a.b.c",
        "subject_token_type=urn:ietf:params:oauth:token-type:jwt",
        "subject_token_type=urn:ietf:params:oauth:token-type:self_signed",
        "client_assertion=a.b.c",
        "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "actor_token=a.b.c",
        "client_secret=s",
        "intent=i.n.t",
        "scope=mission:a",
        "audience=b",
        "resource=https://a.example/",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,20}"]
}

proptest! {
    #[test]
    fn whatever_is_sent_nothing_passes_without_one_proof_and_one_grant(
        pieces in proptest::collection::vec(piece(), 0..8)
    ) {
        let Ok(form) = Form::parse(pieces.join("&").as_bytes()) else { return Ok(()) };
        if let Ok(request) = parse(&HeaderMap::new(), &form, None) {
            let presented = request.presented;
            prop_assert!(presented.subject_token.is_some() || presented.client_assertion.is_some());
            prop_assert!(form.get("grant_type").is_some());
            prop_assert_eq!(form.get("actor_token").is_some(), presented.actor_token.is_some());
            prop_assert!(form.get("client_secret").is_none());
        }
    }
}
