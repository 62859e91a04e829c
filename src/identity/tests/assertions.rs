//! The assertion of a `jwt-bearer` grant.

use super::*;

fn grant(text: &str) -> Presented {
    let mut presented = subject(text);
    presented.subject_token.as_mut().unwrap().token_type = TokenType::Assertion;
    presented
}

async fn sent(bench: &Bench, text: &str) -> Result<Caller, IdentityError> {
    bench.identity.verify(&grant(text), at(0)).await
}

fn fault(result: Result<Caller, IdentityError>) -> AssertionFault {
    match result {
        Err(IdentityError::InvalidAssertion(fault)) => fault,
        other => panic!("expected a bad assertion, got {other:?}"),
    }
}

#[tokio::test]
async fn a_platforms_token_is_the_same_caller_as_a_grant_and_as_a_subject() {
    let bench = Bench::with(|issuers, _| issuers[0].single_use = true);
    let text = bench.platform.sign(&json!({}), &github());
    let granted = sent(&bench, &text).await.unwrap();
    let subject = bench.token(&text).await.unwrap();
    assert_eq!(granted.proof(), Proof::WorkloadToken);
    assert_eq!(granted.subject(), subject.subject());
    assert_eq!(granted.facts(), subject.facts());
    assert_eq!(granted.replay(), subject.replay(), "spent once for both");
    assert_eq!(granted.client(), None);
}

#[tokio::test]
async fn only_as_a_grant_may_a_platforms_token_name_the_token_endpoint() {
    let bench = Bench::new();
    let mut claims = github();
    claims["aud"] = json!(format!("{BROKER}/token"));
    let text = bench.platform.sign(&json!({}), &claims);
    assert!(sent(&bench, &text).await.is_ok());
    // Remembered in one slot is not accepted in the other.
    assert_eq!(token_fault(bench.token(&text).await), TokenFault::Audience);
    // An issuer whose tokens are for somebody else than the broker gains nothing.
    let bench = Bench::with(|issuers, _| issuers[0].audiences = vec!["other".to_owned()]);
    let text = bench.platform.sign(&json!({}), &claims);
    let expected = AssertionFault::Platform(TokenFault::Audience);
    assert_eq!(fault(sent(&bench, &text).await), expected);
}

#[tokio::test]
async fn an_agents_own_assertion_is_a_grant_and_spent_with_its_client_assertions() {
    let bench = Bench::new();
    let text = bench.agent.sign(
        &json!({"typ": "JWT"}),
        &tokens::assertion(NOW, AGENT, BROKER),
    );
    let granted = sent(&bench, &text).await.unwrap();
    assert_eq!(granted.proof(), Proof::ClientAssertion);
    assert_eq!(granted.client().unwrap().as_str(), AGENT);
    let client = bench.identity.verify(&assertion(&text), at(0)).await;
    assert_eq!(granted.replay(), client.unwrap().replay());
}

#[tokio::test]
async fn an_agents_own_assertion_names_the_token_endpoint_only_where_it_may() {
    let endpoint = tokens::assertion(NOW, AGENT, &format!("{BROKER}/token"));
    for legacy in [false, true] {
        let bench = Bench::with(|_, client| client.legacy_audience = legacy);
        let result = sent(&bench, &bench.agent.sign(&json!({}), &endpoint)).await;
        if legacy {
            assert!(result.is_ok());
        } else {
            let expected = AssertionFault::Client(ClientFault::Audience);
            assert_eq!(fault(result), expected);
        }
    }
}

#[tokio::test]
async fn what_calls_itself_something_else_is_no_grant() {
    let bench = Bench::new();
    let own = tokens::assertion(NOW, AGENT, BROKER);
    for typ in ["client-authentication+jwt", "intent+jwt", "at+jwt", "JOSE"] {
        let text = bench.agent.sign(&json!({ "typ": typ }), &own);
        let fault = fault(sent(&bench, &text).await);
        assert!(
            matches!(fault, AssertionFault::Client(ClientFault::Jose(_))),
            "{typ}: {fault}"
        );
    }
    let text = bench.platform.sign(&json!({"typ": "at+jwt"}), &github());
    fault(sent(&bench, &text).await);
}

#[tokio::test]
async fn a_grant_is_signed_by_whom_it_names() {
    let bench = Bench::new();
    let own = tokens::assertion(NOW, AGENT, BROKER);
    fault(sent(&bench, &bench.platform.sign(&json!({}), &own)).await);
    fault(sent(&bench, &bench.agent.sign(&json!({}), &github())).await);
    let mut other = own.clone();
    other["sub"] = json!("another");
    let text = bench.agent.sign(&json!({}), &other);
    let expected = AssertionFault::Client(ClientFault::IssuerSubject);
    assert_eq!(fault(sent(&bench, &text).await), expected);
    let mut named = grant(&bench.agent.sign(&json!({}), &own));
    named.client_id = Some("another".to_owned());
    let expected = AssertionFault::Client(ClientFault::OtherClient);
    let result = bench.identity.verify(&named, at(0)).await;
    assert_eq!(fault(result), expected);
}

#[tokio::test]
async fn of_two_agents_that_sign_for_themselves_neither_speaks_for_the_other() {
    let bench = Bench::new();
    let other = Signer::es256("agent-2");
    let clients = [(AGENT, &bench.agent), ("another", &other)].map(|(agent, key)| ClientSettings {
        agent: agent.parse().unwrap(),
        keys: keys(key),
        legacy_audience: false,
        enrol: false,
    });
    let identity = Identity::new(vec![], clients.into(), BROKER.to_owned(), &fetcher()).unwrap();
    let sign =
        |agent: &str, key: &Signer| key.sign(&json!({}), &tokens::assertion(NOW, agent, BROKER));
    let mut presented = grant(&sign(AGENT, &bench.agent));
    presented.client_assertion = Some(Secret::new(sign("another", &other)));
    let result = identity.verify(&presented, at(0)).await;
    assert_eq!(client_fault(result), ClientFault::OtherClient);
    presented.client_assertion = Some(Secret::new(sign(AGENT, &bench.agent)));
    let caller = identity.verify(&presented, at(0)).await.unwrap();
    assert_eq!(caller.replay().len(), 2);
}
