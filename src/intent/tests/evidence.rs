//! Evidence with exactly one thing wrong, and declared facts that are otherwise.

use super::*;
use crate::intent::evidence::TYP as EVIDENCE;

const CHANGES: &str = "https://changes.acme.example";

pub(super) fn authority(signer: &Signer) -> Witness {
    Witness {
        name: "changes".parse().unwrap(),
        issuer: CHANGES.to_owned(),
        keys: KeySource::Fixed(keys(signer)),
        algorithms: Algorithm::ALL.to_vec(),
        proves: ["change.id", "change.state", "change.approvers"]
            .map(str::to_owned)
            .into(),
        agents: None,
        poll: None,
    }
}

fn piece() -> Value {
    json!({
        "iss": CHANGES, "client_id": AGENT, "aud": BROKER,
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "jti": "evidence-1",
        "txn": "7f0c", "mission": "deploy-checkout",
        "facts": {"change.id": "CHG0031337", "change.state": "approved", "change.approvers": ["a", "b"]},
    })
}

/// An intent that carries this evidence.
fn with(desk: &Desk, evidence: &[String], change: impl FnOnce(&mut Value)) -> Asked {
    let mut claims = claims();
    claims["tctx"]["evidence"] = json!(evidence);
    change(&mut claims);
    desk.signed(&claims)
}

fn sign(desk: &Desk, piece: &Value) -> String {
    desk.changes.sign(&json!({"typ": EVIDENCE}), piece)
}

async fn carried(desk: &Desk, texts: &[String]) -> Result<Intent, IntentError> {
    desk.verify(with(desk, texts, |_| {}), &desk.bound().await)
}

fn fault(result: Result<Intent, IntentError>) -> EvidenceFault {
    match result {
        Err(IntentError::Evidence { place: 0, fault }) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn evidence_makes_facts_of_what_was_only_said() {
    let desk = Desk::new();
    let text = sign(&desk, &piece());
    let intent = carried(&desk, std::slice::from_ref(&text)).await.unwrap();
    assert_eq!(intent.facts()["change.state"], "approved");
    assert_eq!(intent.facts()["pipeline.run_id"], "9876543210");
    assert_eq!(intent.declared()["change"]["id"], "CHG0031337");
    assert!(!intent.declared().contains_key("evidence"));
    let prover = ("changes".parse().unwrap(), CHANGES.to_owned());
    assert_eq!(intent.provers().get("change"), Some(&prover));
    assert_eq!(intent.provers().get("pipeline"), None);
    let [seen] = intent.evidence() else {
        panic!("{:?}", intent.evidence())
    };
    assert_eq!(
        (seen.authority.as_str(), seen.jti.as_str()),
        ("changes", "evidence-1")
    );
    let key = desk.changes.thumbprint();
    for (kind, value) in [
        (DimensionKind::Issuer, CHANGES),
        (DimensionKind::Issuer, "changes"),
        (DimensionKind::IssuerKey, key.as_str()),
    ] {
        let own = Dimension::new(kind, value);
        assert!(intent.dimensions().contains(&own), "{own:?}");
    }
    // Without evidence the same words are only words.
    let intent = carried(&desk, &[]).await.unwrap();
    assert!(!intent.facts().contains_key("change.id"));
    assert!(intent.evidence().is_empty());
}

#[tokio::test]
async fn evidence_may_leave_out_what_it_need_not_say() {
    let desk = Desk::new();
    for member in ["nbf", "txn", "mission"] {
        let mut piece = piece();
        set(&mut piece, &format!("/{member}"), Value::Null);
        let result = carried(&desk, &[sign(&desk, &piece)]).await;
        assert!(result.is_ok(), "{member}: {result:?}");
    }
}

#[tokio::test]
async fn one_wrong_claim_spoils_evidence() {
    use EvidenceFault as F;
    let desk = Desk::new();
    let jose = |error| F::Jose(error);
    for (pointer, value, expected) in [
        ("/iss", json!("https://other.example"), F::UnknownAuthority),
        ("/iss", Value::Null, F::UnknownAuthority),
        ("/aud", json!("https://other.example"), F::Audience),
        ("/aud", json!([BROKER, CHANGES]), F::Audience),
        ("/aud", Value::Null, F::Audience),
        ("/iat", Value::Null, F::IssuedAt),
        ("/iat", json!(NOW + 61), jose(JoseError::NotYetValid)),
        ("/nbf", json!(NOW + 61), jose(JoseError::NotYetValid)),
        ("/exp", json!(NOW + 3601), jose(JoseError::LivesTooLong)),
        ("/exp", json!(NOW - 61), jose(JoseError::Expired)),
        ("/exp", Value::Null, jose(JoseError::ClaimMissing("exp"))),
        ("/jti", json!(""), F::TokenId),
        ("/jti", json!("a".repeat(257)), F::TokenId),
        ("/client_id", json!("somebody-else"), F::OtherAgent),
        ("/txn", json!("another"), F::OtherTask),
        ("/mission", json!("read-logs"), F::OtherMission),
        ("/facts", json!({}), F::Count),
        (
            "/facts/change.risk",
            json!("low"),
            F::NotItsFact("change.risk".to_owned()),
        ),
        (
            "/facts/pipeline.run_id",
            json!("1"),
            F::NotItsFact("pipeline.run_id".to_owned()),
        ),
        (
            "/facts/change.id",
            json!({"n": 1}),
            F::Value("change.id".to_owned()),
        ),
        (
            "/facts/change.id",
            json!(1.5),
            F::Value("change.id".to_owned()),
        ),
        (
            "/facts/change.id",
            json!("x".repeat(1024)),
            F::Value("change.id".to_owned()),
        ),
    ] {
        let mut piece = piece();
        set(&mut piece, pointer, value.clone());
        let found = fault(carried(&desk, &[sign(&desk, &piece)]).await);
        assert_eq!(found, expected, "{pointer} = {value}");
    }
    for (pointer, value) in [
        ("/jti", Value::Null),
        ("/jti", json!(7)),
        ("/client_id", Value::Null),
        ("/facts", Value::Null),
        ("/facts", json!(["approved"])),
        ("/sub", json!(AGENT)),
        ("/admin", json!(true)),
    ] {
        let mut piece = piece();
        set(&mut piece, pointer, value.clone());
        let found = fault(carried(&desk, &[sign(&desk, &piece)]).await);
        assert!(matches!(found, F::Shape(_)), "{pointer} = {value}: {found}");
    }
}

#[tokio::test]
async fn evidence_is_signed_by_its_authority_as_evidence() {
    let desk = Desk::new();
    for typ in [
        json!(null),
        json!("JWT"),
        json!("intent+jwt"),
        json!("at+jwt"),
    ] {
        let text = desk.changes.sign(&json!({"typ": typ}), &piece());
        let found = fault(carried(&desk, &[text]).await);
        assert_eq!(found, EvidenceFault::Jose(JoseError::Typ), "{typ}");
    }
    // An intent is no evidence, and evidence no intent.
    let error = desk.verify(sent(sign(&desk, &piece())), &desk.bound().await);
    assert_eq!(error.unwrap_err(), IntentError::Jose(JoseError::Typ));
    let embedded = json!({"typ": EVIDENCE, "jwk": desk.changes.bare_jwk()});
    let found = fault(carried(&desk, &[desk.changes.sign(&embedded, &piece())]).await);
    assert_eq!(found, EvidenceFault::Jose(JoseError::HeaderMember("jwk")));
    // The agent cannot vouch for itself, under its own key's name or under the authority's.
    let own = desk.key.sign(&json!({"typ": EVIDENCE}), &piece());
    let found = fault(carried(&desk, &[own]).await);
    assert_eq!(found, EvidenceFault::UnknownKey);
    let own = desk
        .key
        .sign(&json!({"typ": EVIDENCE, "kid": "c-1"}), &piece());
    let found = fault(carried(&desk, &[own]).await);
    assert_eq!(found, EvidenceFault::Jose(JoseError::Signature));
    for text in ["", "a.b.c"] {
        let found = fault(carried(&desk, &[text.to_owned()]).await);
        assert!(matches!(found, EvidenceFault::Jose(_)), "{text}: {found}");
    }
    let narrow = |witness: &mut Witness| witness.algorithms = vec![Algorithm::Ed25519];
    let desk = Desk::with(|_| {}, narrow);
    let found = fault(carried(&desk, &[sign(&desk, &piece())]).await);
    assert_eq!(found, EvidenceFault::Jose(JoseError::AlgorithmRefused));
}

#[tokio::test]
async fn an_authority_vouches_for_its_own_agents_only() {
    let own = |witness: &mut Witness| witness.agents = Some(vec![AGENT.parse().unwrap()]);
    let desk = Desk::with(|_| {}, own);
    assert!(carried(&desk, &[sign(&desk, &piece())]).await.is_ok());
    let others = |witness: &mut Witness| {
        witness.agents = Some(vec!["somebody-else".parse().unwrap()]);
    };
    let desk = Desk::with(|_| {}, others);
    let found = fault(carried(&desk, &[sign(&desk, &piece())]).await);
    assert_eq!(found, EvidenceFault::NotForAgent);
}

#[tokio::test]
async fn every_piece_must_be_good_and_agree_with_the_others() {
    let desk = Desk::new();
    let good = sign(&desk, &piece());
    assert!(carried(&desk, &[good.clone(), good.clone()]).await.is_ok());
    let mut expired = piece();
    expired["exp"] = json!(NOW - 61);
    let result = carried(&desk, &[good.clone(), sign(&desk, &expired)]).await;
    assert!(
        matches!(result, Err(IntentError::Evidence { place: 1, .. })),
        "{result:?}"
    );
    let mut other = piece();
    other["facts"]["change.state"] = json!("withdrawn");
    let result = carried(&desk, &[good, sign(&desk, &other)]).await;
    let contradiction = IntentError::Contradiction("change.state".to_owned());
    assert_eq!(result.unwrap_err(), contradiction);
}

#[tokio::test]
async fn what_is_declared_must_not_contradict_what_is_proved() {
    let desk = Desk::new();
    let evidence = [sign(&desk, &piece())];
    let caller = desk.bound().await;
    for (pointer, value, accepted) in [
        ("/tctx/change/id", json!("CHG0031337"), true),
        ("/tctx/change/id", json!("CHG1"), false),
        ("/tctx/change/id", json!({"n": 1}), false),
        ("/tctx/change.id", json!("CHG1"), false),
        ("/tctx/change/risk", json!("low"), true),
        ("/tctx/change/approvers", json!(["a", "b"]), true),
        ("/tctx/change/approvers", json!(["a"]), false),
        (
            "/tctx/pipeline",
            json!({"run_id": "9876543210", "run_attempt": 1}),
            true,
        ),
        ("/tctx/pipeline", json!({"run_id": "1"}), false),
        ("/tctx/pipeline", json!({"run_id": null}), false),
    ] {
        let asked = with(&desk, &evidence, |claims| {
            set(claims, pointer, value.clone());
        });
        match desk.verify(asked, &caller) {
            Ok(_) => assert!(accepted, "{pointer} = {value}"),
            Err(IntentError::Contradiction(_)) => assert!(!accepted, "{pointer} = {value}"),
            Err(other) => panic!("{pointer} = {value}: {other}"),
        }
    }
}

#[tokio::test]
async fn an_authority_proves_nothing_that_the_platform_speaks_of() {
    let wide = |witness: &mut Witness| {
        witness.proves.insert("pipeline.risk".to_owned());
    };
    let desk = Desk::with(|_| {}, wide);
    let mut piece = piece();
    piece["facts"] = json!({"pipeline.risk": "low"});
    let result = carried(&desk, &[sign(&desk, &piece)]).await;
    assert!(
        matches!(result, Err(IntentError::Contradiction(_))),
        "{result:?}"
    );
}

#[test]
fn authorities_are_apart_in_name_and_in_what_they_prove() {
    let good = || authority(&Signer::es256("c"));
    let refused = |witnesses: &[Witness]| check(&[], witnesses).unwrap_err();
    let named = |name: &str, url: &str, fact: &str| Witness {
        name: name.parse().unwrap(),
        issuer: url.to_owned(),
        proves: [fact.to_owned()].into(),
        ..good()
    };
    let other = "https://other.example";
    assert_eq!(
        check(&[], &[good(), named("b", other, "risk.level")]),
        Ok(())
    );
    assert!(matches!(
        refused(&[good(), named("b", CHANGES, "risk.level")]),
        IntentsError::SameWitness { .. }
    ));
    assert!(matches!(
        refused(&[good(), named("b", other, "change.risk")]),
        IntentsError::SameGroup { .. }
    ));
    let proves = std::collections::BTreeSet::new();
    assert!(matches!(
        refused(&[Witness { proves, ..good() }]),
        IntentsError::ProvesNothing(_)
    ));
    let algorithms = Vec::new();
    assert!(matches!(
        refused(&[Witness {
            algorithms,
            ..good()
        }]),
        IntentsError::NoAlgorithm(_)
    ));
}
