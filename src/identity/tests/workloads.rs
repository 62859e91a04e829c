use super::*;

#[tokio::test]
async fn a_github_job_is_a_caller_with_its_facts_whatever_its_subject_looks_like() {
    let bench = Bench::new();
    for (form, expected) in [
        (
            GithubSubject::Names,
            "repo:acme/checkout:environment:production",
        ),
        (
            GithubSubject::Immutable,
            "repo:acme@4321/checkout@1234:environment:production",
        ),
    ] {
        let claims = tokens::github(NOW, GITHUB, BROKER, form);
        let text = bench
            .platform
            .sign(&json!({"typ": "JWT", "x5t": "abc"}), &claims);
        let caller = bench.token(&text).await.unwrap();
        assert_eq!(caller.subject(), expected);
        assert_eq!(caller.issuer_url(), GITHUB);
        assert_eq!(caller.issuer_key(), bench.platform.thumbprint());
        assert_eq!(caller.expires_at(), at(300));
        assert_eq!(caller.bound_key(), None);
        assert!(caller.replay().is_empty());
        assert_eq!(caller.facts()["pipeline.provider"], json!("github"));
        assert_eq!(caller.facts()["pipeline.run_id"], json!("9876543210"));
        assert_eq!(caller.facts()["pipeline.environment"], json!("production"));
        assert_eq!(caller.claim("repository_id"), Some(&json!("1234")));
    }
}

#[tokio::test]
async fn a_gitlab_job_and_a_pod_are_callers_with_their_facts() {
    let bench = Bench::new();
    let text = bench
        .platform
        .sign(&json!({"typ": "JWT"}), &tokens::gitlab(NOW, GITLAB, BROKER));
    let caller = bench.token(&text).await.unwrap();
    assert_eq!(caller.facts()["pipeline.run_id"], json!("574"));
    assert_eq!(
        caller.facts()["pipeline.repository"],
        json!("acme/checkout")
    );

    let text = bench
        .platform
        .sign(&json!({}), &tokens::kubernetes(NOW, CLUSTER, BROKER));
    let caller = bench.token(&text).await.unwrap();
    assert_eq!(caller.facts()["kubernetes.namespace"], json!("shop"));
    assert_eq!(caller.facts()["kubernetes.pod"], json!("checkout-7d9f"));
}

#[tokio::test]
async fn a_fact_that_the_token_does_not_carry_is_absent() {
    let bench = Bench::new();
    let mut claims = github();
    claims.as_object_mut().unwrap().remove("environment");
    let caller = bench
        .token(&bench.platform.sign(&json!({}), &claims))
        .await
        .unwrap();
    assert!(!caller.facts().contains_key("pipeline.environment"));
}

/// A token that is good but for one claim; `null` takes the claim away.
async fn spoiled(name: &str, value: Value) -> TokenFault {
    let bench = Bench::new();
    let mut claims = github();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    token_fault(bench.token(&bench.platform.sign(&json!({}), &claims)).await)
}

#[tokio::test]
async fn an_issuer_that_is_not_configured_is_nobody() {
    for value in [
        json!("https://evil.example"),
        json!(format!("{GITHUB}/")),
        json!(GITHUB.to_uppercase()),
        json!([GITHUB]),
        Value::Null,
    ] {
        let fault = spoiled("iss", value.clone()).await;
        assert_eq!(fault, TokenFault::UnknownIssuer, "{value}");
    }
}

#[tokio::test]
async fn a_token_for_someone_else_is_refused() {
    for value in [
        json!("https://other.example"),
        json!(format!("{BROKER}/")),
        json!(["https://other.example"]),
        json!([BROKER, 1]),
        json!({ BROKER: true }),
        json!([]),
        Value::Null,
    ] {
        let fault = spoiled("aud", value.clone()).await;
        assert_eq!(fault, TokenFault::Audience, "{value}");
    }
}

#[tokio::test]
async fn a_bound_key_that_is_unclear_is_refused() {
    let (key, other) = ("0".repeat(43), "1".repeat(43));
    for (name, value) in [
        ("aud", json!(format!("{BROKER}#jkt="))),
        ("aud", json!(format!("{BROKER}#jkt=short"))),
        (
            "aud",
            json!([
                format!("{BROKER}#jkt={key}"),
                format!("{BROKER}#jkt={other}")
            ]),
        ),
        ("cnf", json!({"x5t#S256": "short"})),
        ("cnf", json!({"x5t#S256": key, "jkt": key})),
        ("cnf", json!({"jwk": {}})),
        ("cnf", json!({"jkt": 1})),
        ("cnf", json!("jkt")),
    ] {
        let fault = spoiled(name, value.clone()).await;
        assert_eq!(fault, TokenFault::BoundKey, "{name} = {value}");
    }
}

#[tokio::test]
async fn a_subject_a_token_id_and_a_tenant_are_what_they_must_be() {
    let tenant = || TokenFault::Tenant("repository_owner_id".to_owned());
    for (name, value, expected) in [
        ("sub", Value::Null, TokenFault::Subject),
        ("sub", json!(""), TokenFault::Subject),
        ("sub", json!(7), TokenFault::Subject),
        ("sub", json!("a\nb"), TokenFault::Subject),
        ("sub", json!("a".repeat(1025)), TokenFault::Subject),
        ("repository_owner_id", json!("666"), tenant()),
        ("repository_owner_id", json!(["4321"]), tenant()),
        ("repository_owner_id", Value::Null, tenant()),
        ("jti", json!(7), TokenFault::TokenId),
        ("jti", json!(""), TokenFault::TokenId),
    ] {
        let fault = spoiled(name, value.clone()).await;
        assert_eq!(fault, expected, "{name} = {value}");
    }
}

#[tokio::test]
async fn a_token_out_of_its_time_is_refused() {
    for (name, value) in [
        ("exp", json!(NOW - 61)),
        ("exp", json!("soon")),
        ("exp", Value::Null),
        ("exp", json!(NOW + 2 * 3600)),
        ("nbf", json!(NOW + 61)),
        ("iat", json!(NOW + 61)),
        ("iat", json!(NOW.to_string())),
    ] {
        let fault = spoiled(name, value.clone()).await;
        assert!(
            matches!(fault, TokenFault::Jose(_)),
            "{name} = {value}: {fault}"
        );
    }
}

#[tokio::test]
async fn a_token_made_for_something_else_is_no_subject_token() {
    let bench = Bench::new();
    for typ in [
        "intent+jwt",
        "client-authentication+jwt",
        "dpop+jwt",
        "logout+jwt",
        "secevent+jwt",
        "at+jwt",
        "application/at+jwt",
        "statuslist+jwt",
    ] {
        let text = bench.platform.sign(&json!({"typ": typ}), &github());
        let fault = token_fault(bench.token(&text).await);
        assert!(matches!(fault, TokenFault::Jose(_)), "{typ}: {fault}");
    }
}

#[tokio::test]
async fn an_access_token_passes_only_as_one_and_is_remembered_only_as_one() {
    let bench = Bench::new();
    let text = bench.platform.sign(&json!({"typ": "at+jwt"}), &github());
    let mut presented = subject(&text);
    presented.subject_token.as_mut().unwrap().token_type = TokenType::AccessToken;
    assert!(bench.identity.verify(&presented, at(0)).await.is_ok());
    token_fault(bench.token(&text).await);
}

#[tokio::test]
async fn a_key_and_an_algorithm_count_only_where_they_are_configured() {
    let stranger = Signer::es256("platform-1");
    let bench = Bench::with(|issuers, _| {
        // Both keys are the issuer's, but only one of their algorithms is allowed.
        let platform = Signer::rs256("platform-1");
        let set = json!({"keys": [platform.jwk(), stranger.jwk()]});
        issuers[0].keys = KeySource::Fixed(KeySet::parse(set.to_string().as_bytes()).unwrap());
    });
    token_fault(bench.token(&stranger.sign(&json!({}), &github())).await);

    let bench = Bench::new();
    let other = Signer::es256("platform-1");
    token_fault(bench.token(&other.sign(&json!({}), &github())).await);
    let text = bench
        .platform
        .sign(&json!({"kid": "platform-2"}), &github());
    assert_eq!(
        token_fault(bench.token(&text).await),
        TokenFault::UnknownKey
    );
    let text = bench.platform.sign(&json!({"alg": "HS256"}), &github());
    token_fault(bench.token(&text).await);
    let text = bench.platform.sign(&json!({"kid": null}), &github());
    assert!(bench.token(&text).await.is_ok());
}

#[tokio::test]
async fn keys_of_one_issuer_are_never_tried_on_a_token_of_another() {
    let cluster = Signer::es256("k");
    let bench = Bench::with(|issuers, _| {
        issuers[2].keys = KeySource::Fixed(keys(&cluster));
    });
    let pod = cluster.sign(&json!({}), &tokens::kubernetes(NOW, CLUSTER, BROKER));
    assert!(bench.token(&pod).await.is_ok());
    let forged = cluster.sign(&json!({}), &tokens::gitlab(NOW, GITLAB, BROKER));
    token_fault(bench.token(&forged).await);
}

#[tokio::test]
async fn the_audience_or_a_confirmation_binds_a_key() {
    let bench = Bench::new();
    let key = Signer::es256("k").thumbprint();
    for (aud, cnf) in [
        (json!(format!("{BROKER}#jkt={key}")), None),
        (json!(["other", format!("{BROKER}#jkt={key}")]), None),
        (json!([BROKER, format!("{BROKER}#jkt={key}")]), None),
        (json!(BROKER), Some(json!({"jkt": key}))),
        (
            json!(format!("{BROKER}#jkt={key}")),
            Some(json!({"jkt": key})),
        ),
    ] {
        let mut claims = github();
        claims["aud"] = aud;
        if let Some(cnf) = cnf {
            claims["cnf"] = cnf;
        }
        let text = bench.platform.sign(&json!({}), &claims);
        assert_eq!(
            bench.token(&text).await.unwrap().bound_key(),
            Some(&Confirmation::Jkt(key.clone()))
        );
    }
    // What follows another audience's name is that audience's business.
    let mut claims = github();
    claims["aud"] = json!([BROKER, format!("https://other.example#jkt={key}")]);
    let text = bench.platform.sign(&json!({}), &claims);
    assert_eq!(bench.token(&text).await.unwrap().bound_key(), None);
}

#[tokio::test]
async fn a_single_use_token_is_marked_and_the_same_one_gets_the_same_mark() {
    let bench = Bench::with(|issuers, _| issuers[0].single_use = true);
    let text = bench.platform.sign(&json!({}), &github());
    let first = bench.token(&text).await.unwrap();
    let second = bench.token(&text).await.unwrap();
    assert_eq!(first.replay().len(), 1);
    assert_eq!(first.replay(), second.replay());
}

#[tokio::test]
async fn a_refused_value_is_told_to_whoever_matches() {
    let bench = Bench::new();
    let mut claims = github();
    claims["event_name"] = json!("pull_request_target");
    let caller = bench
        .token(&bench.platform.sign(&json!({}), &claims))
        .await
        .unwrap();
    assert_eq!(caller.barred()["event_name"], json!("pull_request_target"));
    let caller = bench
        .token(&bench.platform.sign(&json!({}), &github()))
        .await
        .unwrap();
    assert!(caller.barred().is_empty());
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_would_have_ended() {
    let bench = Bench::new();
    let text = bench.platform.sign(&json!({}), &github());
    assert!(bench.token(&text).await.is_ok());
    assert!(
        bench
            .identity
            .verify(&subject(&text), at(299))
            .await
            .is_ok()
    );
    let late = bench.identity.verify(&subject(&text), at(361)).await;
    assert!(matches!(token_fault(late), TokenFault::Jose(_)));
}

#[tokio::test]
async fn a_token_that_is_too_large_is_not_even_parsed() {
    let bench = Bench::new();
    let mut claims = github();
    claims["padding"] = json!("x".repeat(16 * 1024));
    let text = bench.platform.sign(&json!({}), &claims);
    assert!(matches!(
        token_fault(bench.token(&text).await),
        TokenFault::Jose(_)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_token_that_is_changed_anywhere_proves_nobody(place in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bench = Bench::new();
        let text = bench.platform.sign(&json!({}), &github());
        // It was seen and remembered before.
        prop_assert!(runtime.block_on(bench.token(&text)).is_ok());
        let mut bytes = text.clone().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(changed != text);
        prop_assert!(runtime.block_on(bench.token(&changed)).is_err());
    }
}
