//! Who may sign for whom beside the agents themselves.

use super::*;
use crate::jose::KeySet;

pub(super) fn orchestrator(signer: &Signer) -> IntentIssuer {
    IntentIssuer {
        issuer: ORCHESTRATOR.to_owned(),
        class: SignerClass::Orchestrator,
        keys: KeySource::Fixed(keys(signer)),
        algorithms: Algorithm::ALL.to_vec(),
        agents: Some(vec![AGENT.parse().unwrap()]),
        missions: Some(vec!["deploy-checkout".parse().unwrap()]),
    }
}

/// What the orchestrator's intent comes to.
async fn signed(desk: &Desk, change: impl FnOnce(&mut Value)) -> Result<Intent, IntentError> {
    let mut claims = claims();
    claims["iss"] = json!(ORCHESTRATOR);
    change(&mut claims);
    let text = desk.orchestrator.sign(&json!({"typ": TYP}), &claims);
    desk.verify(sent(text), &desk.unbound().await)
}

#[tokio::test]
async fn an_orchestrator_signs_for_an_agent_with_its_own_keys_only() {
    let desk = Desk::new();
    let caller = desk.unbound().await;
    let mut claims = claims();
    claims["iss"] = json!(ORCHESTRATOR);
    let header = json!({"typ": TYP});
    let intent = desk
        .verify(sent(desk.orchestrator.sign(&header, &claims)), &caller)
        .unwrap();
    assert_eq!(intent.signer(), SignerClass::Orchestrator);
    let key = desk.orchestrator.thumbprint();
    for (kind, value) in [
        (DimensionKind::Issuer, ORCHESTRATOR),
        (DimensionKind::IssuerKey, key.as_str()),
    ] {
        let own = Dimension::new(kind, value);
        assert!(intent.dimensions().contains(&own), "{own:?}");
    }
    assert_eq!(intent.client_id(), Some(AGENT));

    // The agent's key does not become the orchestrator's by being in the header.
    let result = desk.verify_registered(desk.signed(&claims), &caller);
    assert_eq!(result.unwrap_err(), IntentError::UnknownKey);
    let result = desk.verify(sent(desk.bench.agent.sign(&header, &claims)), &caller);
    assert!(result.is_err());
    // The orchestrator's key does not sign as the agent.
    claims["iss"] = json!(AGENT);
    let result = desk.verify(sent(desk.orchestrator.sign(&header, &claims)), &caller);
    assert_eq!(result.unwrap_err(), IntentError::UnknownKey);
    // It cannot confirm a key that this request did not prove.
    claims["iss"] = json!(ORCHESTRATOR);
    claims["cnf"] = json!({"jkt": desk.orchestrator.thumbprint()});
    let result = desk.verify(sent(desk.orchestrator.sign(&header, &claims)), &caller);
    assert_eq!(result.unwrap_err(), IntentError::OtherKey);
    // Its word does not stand for the key that the token is bound to.
    claims.as_object_mut().unwrap().remove("cnf");
    let text = desk.orchestrator.sign(&header, &claims);
    let result = desk.verify(sent(text), &desk.bound().await);
    assert_eq!(result.unwrap_err(), IntentError::KeyNotProved);
}

#[tokio::test]
async fn an_orchestrator_signs_for_its_own_agents_and_missions_only() {
    let other = |issuer: &mut IntentIssuer| {
        issuer.agents = Some(vec!["somebody-else".parse().unwrap()]);
    };
    let error = signed(&Desk::with(other, |_| {}), |_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, IntentError::NotItsAgent { .. }), "{error}");

    let other = |issuer: &mut IntentIssuer| {
        issuer.missions = Some(vec!["read-logs".parse().unwrap()]);
    };
    let error = signed(&Desk::with(other, |_| {}), |_| {})
        .await
        .unwrap_err();
    assert!(
        matches!(error, IntentError::NotItsMission { .. }),
        "{error}"
    );

    // A mission that the agent adds beside the intent is not the orchestrator's word.
    let desk = Desk::new();
    let error = signed(&desk, |claims| set(claims, "/mission", Value::Null)).await;
    let bare = IntentError::MissionNotSigned(ORCHESTRATOR.to_owned());
    assert_eq!(error.unwrap_err(), bare);
    let mut claims = claims();
    claims["iss"] = json!(ORCHESTRATOR);
    set(&mut claims, "/mission", Value::Null);
    let asked = Asked {
        mission: Some("deploy-checkout".parse().unwrap()),
        ..sent(desk.orchestrator.sign(&json!({"typ": TYP}), &claims))
    };
    let error = desk.verify(asked, &desk.unbound().await).unwrap_err();
    assert_eq!(error, bare);

    // One bound is enough.
    for change in [
        (|issuer: &mut IntentIssuer| issuer.agents = None) as fn(&mut IntentIssuer),
        |issuer| issuer.missions = None,
    ] {
        assert!(signed(&Desk::with(change, |_| {}), |_| {}).await.is_ok());
    }
}

#[tokio::test]
async fn an_orchestrator_signs_with_its_algorithms_only() {
    let desk = Desk::with(
        |issuer| issuer.algorithms = vec![Algorithm::Ed25519],
        |_| {},
    );
    let error = signed(&desk, |_| {}).await.unwrap_err();
    assert_eq!(error, IntentError::Jose(JoseError::AlgorithmRefused));
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_refuse_for_now() {
    let issuer = IntentIssuer {
        keys: KeySource::JwksUrl("http://127.0.0.1:1/jwks".to_owned()),
        ..orchestrator(&Signer::es256("o"))
    };
    let intents = Intents::new(BROKER.to_owned(), vec![issuer], Vec::new(), &fetcher()).unwrap();
    let desk = Desk::new();
    let mut claims = claims();
    claims["iss"] = json!(ORCHESTRATOR);
    let text = desk.orchestrator.sign(&json!({"typ": TYP}), &claims);
    let caller = desk.unbound().await;
    let result = intents
        .verify(
            sent(text),
            &caller,
            Behalf::Nobody,
            &|_| Vouched::Not,
            at(0),
        )
        .await;
    let error = result.unwrap_err();
    assert!(matches!(error, IntentError::Unavailable { .. }), "{error}");
}

#[test]
fn an_intent_issuer_is_a_url_of_a_signing_class_with_keys_and_a_bound() {
    let good = || orchestrator(&Signer::es256("k"));
    let refused = |issuers: Vec<IntentIssuer>| check(&issuers, &[]).unwrap_err();
    assert_eq!(check(&[good()], &[]), Ok(()));
    let name = ORCHESTRATOR.to_owned();
    assert_eq!(
        refused(vec![good(), good()]),
        IntentsError::SameIssuer(name.clone())
    );
    for class in [SignerClass::Agent, SignerClass::Platform] {
        let error = refused(vec![IntentIssuer { class, ..good() }]);
        assert_eq!(error, IntentsError::Class(name.clone()));
    }
    let keys = KeySource::Fixed(KeySet::default());
    let error = refused(vec![IntentIssuer { keys, ..good() }]);
    assert_eq!(error, IntentsError::NoKey(name.clone()));
    let algorithms = Vec::new();
    let error = refused(vec![IntentIssuer {
        algorithms,
        ..good()
    }]);
    assert_eq!(error, IntentsError::NoAlgorithm(name.clone()));
    let unbound = IntentIssuer {
        agents: None,
        missions: None,
        ..good()
    };
    assert_eq!(refused(vec![unbound]), IntentsError::Unbound(name));
    let issuer = AGENT.to_owned();
    let error = refused(vec![IntentIssuer {
        issuer: issuer.clone(),
        ..good()
    }]);
    assert_eq!(error, IntentsError::NotUrl(issuer));
}
