//! A person who runs an agent: a DPoP proof beside the sign-in, and whom the sign-in lets act.

use super::people::in_person;
use super::{Cast, claims, token};
use crate::support::broker::form;
use crate::support::dpop;
use crate::support::forge::spoiled;
use crate::support::world::{EXCHANGE, JWT, assert_refused, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};

/// The person's token, bound to this key.
fn bound_to(cast: &Cast, key: &SigningKey) -> String {
    cast.person_with("nonce", json!(format!("dayfly-jkt:{}", key.thumbprint())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_the_persons_key_binds_the_credential() {
    let cast = Cast::start().await;
    let own = key();
    let form = in_person(&cast, &bound_to(&cast, &own), &own, "laptop");
    let proof = cast.broker.proof(&own).await;
    let answer = cast.broker.proved("/token", &form, &[&proof]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["token_type"], "DPoP");
    let jwt = claims(&token(&answer.body));
    assert_eq!(jwt["cnf"], json!({ "jkt": own.thumbprint() }));
    assert_eq!(jwt["sub"], "corp:00u1");
    assert!(
        answer.headers.contains_key("dpop-nonce"),
        "for the next one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_in_person_has_to_be_good_and_a_bad_one_spends_nothing() {
    let cast = Cast::start().await;
    let broker = &cast.broker;
    let own = key();
    let form = in_person(&cast, &bound_to(&cast, &own), &own, "laptop");
    let good = broker.proof_claims().await;
    let invalid = Reason::InvalidDpopProof;
    for (what, name, value, reason) in [
        ("another method", "htm", json!("GET"), invalid),
        (
            "another door",
            "htu",
            json!(format!("{}/revoke", broker.url)),
            invalid,
        ),
        ("long ago", "iat", json!(broker.now() - 600), invalid),
        ("no name", "jti", Value::Null, invalid),
        ("no nonce", "nonce", Value::Null, Reason::UseDpopNonce),
        ("another nonce", "nonce", json!("x"), Reason::UseDpopNonce),
    ] {
        let proof = dpop::sign(&own, &spoiled(&good, name, value));
        let answer = broker.proved("/token", &form, &[&proof]).await;
        assert_refused(&answer, reason, what);
        assert_eq!(answer.body["at"], format!("DPoP.{name}"), "{what}");
    }
    let proof = dpop::sign(&own, &good);
    let answer = broker.proved("/token", &form, &[&proof]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Another request, the same proof.
    let form = in_person(&cast, &bound_to(&cast, &own), &own, "laptop");
    let answer = broker.proved("/token", &form, &[&proof]).await;
    assert_refused(&answer, Reason::DpopProofSpent, "a copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_proved_in_person_only_where_the_intent_names_it() {
    let cast = Cast::start().await;
    let broker = &cast.broker;
    let (own, other) = (key(), key());
    let person = bound_to(&cast, &own);
    let ask = |cnf: Option<&SigningKey>| {
        let mut intent = cast.intent_claims("fixer", "laptop", Some(&person));
        if let Some(key) = cnf {
            intent["cnf"] = json!({ "jkt": key.thumbprint() });
        }
        form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", &person),
            ("subject_token_type", JWT),
            ("client_id", "fixer"),
            (
                "intent",
                &own.sign("intent+jwt", None, &intent, true).unwrap(),
            ),
        ])
    };
    let bad = Reason::InvalidIntent;
    let proof = broker.proof(&other).await;
    let answer = broker.proved("/token", &ask(None), &[&proof]).await;
    assert_refused(&answer, bad, "a key that nobody named");
    let answer = broker.proved("/token", &ask(Some(&own)), &[&proof]).await;
    assert_refused(&answer, bad, "the intent names the person's");
    let answer = broker.exchange(&ask(Some(&other))).await;
    assert_refused(&answer, bad, "named, and not proved");
    let answer = broker.proved("/token", &ask(Some(&other)), &[&proof]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let jwt = claims(&token(&answer.body));
    assert_eq!(jwt["cnf"], json!({ "jkt": other.thumbprint() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_person_only_the_agents_name_lets_it_act() {
    let cast = Cast::start().await;
    let own = key();
    let url = cast.broker.url.clone();
    for (may_act, fine) in [
        (json!({ "sub": "fixer" }), true),
        (json!({ "sub": "fixer", "iss": url }), true),
        (json!({ "sub": "helper" }), false),
        // The person is not the actor, and its token says nothing of it.
        (json!({ "sub": "00u1", "iss": cast.corp.url }), false),
        (
            json!({ "sub": "fixer", "email": "alice@acme.example" }),
            false,
        ),
    ] {
        let mut person = cast.person_claims();
        person["nonce"] = json!(format!("dayfly-jkt:{}", own.thumbprint()));
        person["may_act"] = may_act.clone();
        let form = in_person(&cast, &cast.corp.sign(&person), &own, "laptop");
        let answer = cast.broker.exchange(&form).await;
        if fine {
            assert_eq!(answer.status, 200, "{may_act}: {}", answer.body);
        } else {
            assert_refused(&answer, Reason::ActorNotAccepted, &may_act.to_string());
        }
    }
}

/// A person whose proof names nobody's key is refused for that, whatever proof stands beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_binds_no_sign_in() {
    let cast = Cast::start().await;
    let own = key();
    let form = in_person(&cast, &cast.person(), &own, "laptop");
    let proof = cast.broker.proof(&own).await;
    let answer = cast.broker.proved("/token", &form, &[&proof]).await;
    assert_refused(&answer, Reason::InvalidToken, "no key");
}
