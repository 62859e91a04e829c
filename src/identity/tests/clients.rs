use super::*;

fn claims() -> Value {
    tokens::assertion(NOW, AGENT, BROKER)
}

async fn sent(bench: &Bench, text: &str) -> Result<Caller, IdentityError> {
    bench.identity.verify(&assertion(text), at(0)).await
}

#[tokio::test]
async fn an_agent_with_a_key_is_a_caller_of_its_own_name() {
    let bench = Bench::new();
    let text = bench.agent.sign(&json!({}), &claims());
    let caller = sent(&bench, &text).await.unwrap();
    assert_eq!(caller.proof(), Proof::ClientAssertion);
    assert_eq!(caller.issuer(), &IssuerId::client());
    assert_eq!(caller.issuer_url(), BROKER);
    assert_eq!(caller.subject(), AGENT);
    assert_eq!(caller.client().unwrap().as_str(), AGENT);
    assert_eq!(caller.client_keys().unwrap().keys().len(), 1);
    assert_eq!(caller.issuer_key(), bench.agent.thumbprint());
    assert!(caller.facts().is_empty());
    assert_eq!(caller.replay().len(), 1);
}

/// What openid-client, authlib, the MCP SDKs and oauthlib leave out or add.
#[tokio::test]
async fn real_clients_are_understood() {
    let bench = Bench::new();
    for header in [
        json!({}),
        json!({"typ": "JWT"}),
        json!({"typ": "JWT", "kid": null}),
        json!({"typ": "client-authentication+jwt"}),
        json!({"typ": "application/client-authentication+jwt"}),
    ] {
        let text = bench.agent.sign(&header, &claims());
        assert!(sent(&bench, &text).await.is_ok(), "{header}");
    }
    for (name, value) in [
        ("aud", json!([BROKER])),
        ("exp", json!(NOW + 3600)),
        ("jti", Value::Null),
        ("nbf", json!(NOW)),
        ("anything", json!({"else": true})),
    ] {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        let text = bench.agent.sign(&json!({}), &claims);
        assert!(sent(&bench, &text).await.is_ok(), "{name}");
    }
    let mut presented = assertion(&bench.agent.sign(&json!({}), &claims()));
    presented.client_id = Some(AGENT.to_owned());
    presented.basic = Some(Basic {
        id: AGENT.to_owned(),
        secret: Secret::new(String::new()),
    });
    assert!(bench.identity.verify(&presented, at(0)).await.is_ok());
}

/// Each line spoils one thing of an assertion that is otherwise good.
#[tokio::test]
async fn one_wrong_claim_is_enough() {
    let bench = Bench::new();
    let token_endpoint = format!("{BROKER}/token");
    for (name, value, expected) in [
        ("iss", json!("another"), Some(ClientFault::IssuerSubject)),
        ("sub", json!("another"), Some(ClientFault::IssuerSubject)),
        ("iss", Value::Null, Some(ClientFault::IssuerSubject)),
        ("sub", Value::Null, Some(ClientFault::IssuerSubject)),
        ("sub", json!([AGENT]), Some(ClientFault::IssuerSubject)),
        ("aud", json!(token_endpoint), Some(ClientFault::Audience)),
        (
            "aud",
            json!([BROKER, "https://other.example"]),
            Some(ClientFault::Audience),
        ),
        ("aud", json!([BROKER, BROKER]), Some(ClientFault::Audience)),
        ("aud", json!([]), Some(ClientFault::Audience)),
        (
            "aud",
            json!(format!("{BROKER}/")),
            Some(ClientFault::Audience),
        ),
        ("aud", Value::Null, Some(ClientFault::Audience)),
        ("jti", json!(1), Some(ClientFault::TokenId)),
        ("jti", json!("a".repeat(257)), Some(ClientFault::TokenId)),
        ("exp", json!(NOW + 3661), None),
        ("exp", json!(NOW - 61), None),
        ("exp", Value::Null, None),
        ("nbf", json!(NOW + 61), None),
    ] {
        let mut claims = claims();
        match value.clone() {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        let fault = client_fault(sent(&bench, &bench.agent.sign(&json!({}), &claims)).await);
        match expected {
            Some(expected) => assert_eq!(fault, expected, "{name} = {value}"),
            None => assert!(
                matches!(fault, ClientFault::Jose(_)),
                "{name} = {value}: {fault}"
            ),
        }
    }
}

#[tokio::test]
async fn a_jwt_made_for_something_else_is_no_client_assertion() {
    let bench = Bench::new();
    for typ in ["intent+jwt", "at+jwt", "dpop+jwt", "JOSE", "logout+jwt"] {
        let text = bench.agent.sign(&json!({"typ": typ}), &claims());
        let fault = client_fault(sent(&bench, &text).await);
        assert!(matches!(fault, ClientFault::Jose(_)), "{typ}");
    }
}

#[tokio::test]
async fn an_unknown_client_and_a_wrong_key_are_one_error_outside() {
    let bench = Bench::new();
    let stranger = Signer::es256("agent-1");
    let wrong_key = sent(&bench, &stranger.sign(&json!({}), &claims())).await;
    assert!(matches!(client_fault(wrong_key), ClientFault::Jose(_)));
    let unknown = tokens::assertion(NOW, "nobody", BROKER);
    let unknown = sent(&bench, &bench.agent.sign(&json!({}), &unknown)).await;
    assert_eq!(client_fault(unknown), ClientFault::UnknownClient);
    let other_kid = bench.agent.sign(&json!({"kid": "agent-2"}), &claims());
    client_fault(sent(&bench, &other_kid).await);
}

#[tokio::test]
async fn the_token_endpoint_is_an_audience_only_where_the_client_may() {
    let bench = Bench::with(|_, client| client.legacy_audience = true);
    for (audience, accepted) in [
        (BROKER.to_owned(), true),
        (format!("{BROKER}/token"), true),
        (format!("{BROKER}/introspect"), false),
        (format!("{BROKER}/token/"), false),
    ] {
        let claims = tokens::assertion(NOW, AGENT, &audience);
        let result = sent(&bench, &bench.agent.sign(&json!({}), &claims)).await;
        assert_eq!(result.is_ok(), accepted, "{audience}");
    }
}

#[tokio::test]
async fn the_client_id_beside_an_assertion_must_be_its_own() {
    let bench = Bench::new();
    let mut presented = assertion(&bench.agent.sign(&json!({}), &claims()));
    presented.client_id = Some("another".to_owned());
    let result = bench.identity.verify(&presented, at(0)).await;
    assert_eq!(client_fault(result), ClientFault::OtherClient);
}

#[tokio::test]
async fn a_shared_secret_authenticates_no_agent() {
    let bench = Bench::new();
    let basic = Basic {
        id: AGENT.to_owned(),
        secret: Secret::new("hunter2".to_owned()),
    };
    let alone = Presented {
        basic: Some(basic.clone()),
        ..Presented::default()
    };
    let mut beside_token = subject(&bench.platform.sign(&json!({}), &github()));
    beside_token.basic = Some(basic.clone());
    let mut beside_assertion = assertion(&bench.agent.sign(&json!({}), &claims()));
    beside_assertion.basic = Some(basic);
    for presented in [alone, beside_token, beside_assertion] {
        let result = bench.identity.verify(&presented, at(0)).await;
        assert_eq!(client_fault(result), ClientFault::SharedSecret);
    }
}

#[tokio::test]
async fn an_assertion_without_jti_is_known_by_what_was_signed() {
    let bench = Bench::new();
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove("jti");
    // ECDSA signs the same bytes differently every time.
    let (one, two) = (
        bench.agent.sign(&json!({}), &claims),
        bench.agent.sign(&json!({}), &claims),
    );
    assert_ne!(one, two);
    let one = sent(&bench, &one).await.unwrap();
    let two = sent(&bench, &two).await.unwrap();
    assert_eq!(one.replay(), two.replay());
    claims["nbf"] = json!(NOW - 1);
    let other = bench.agent.sign(&json!({}), &claims);
    assert_ne!(sent(&bench, &other).await.unwrap().replay(), one.replay());
}

#[tokio::test]
async fn what_an_agent_says_of_itself_is_no_verified_claim() {
    let bench = Bench::new();
    let mut claims = claims();
    claims["repository_id"] = json!("1234");
    claims["cnf"] = json!({"jkt": "0".repeat(43)});
    let caller = sent(&bench, &bench.agent.sign(&json!({}), &claims))
        .await
        .unwrap();
    assert_eq!(caller.claim("repository_id"), None);
    assert_eq!(caller.bound_key(), None);
}
