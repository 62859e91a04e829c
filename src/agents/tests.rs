use super::*;
use crate::fences::{Fence, FenceKind};
use crate::identity::tokens::{self, GithubSubject};
use crate::identity::{Facts, claims};
use crate::intent::SignerClass;
use proptest::prelude::*;
use serde_json::{Map, json};
use time::macros::{date, datetime};

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const ISSUER: &str = "https://token.actions.githubusercontent.com";

fn agent(name: &str, identities: Vec<IdentityMatch>) -> Agent {
    Agent {
        id: name.parse().unwrap(),
        owner: "payments@acme.example".to_owned(),
        backup_owner: None,
        purpose: "Deploys the checkout service".to_owned(),
        ends: date!(2027 - 03 - 01),
        identities,
        intent_keys: vec!["registered".to_owned()],
        ceiling: None,
        limits: Limits {
            active: 10,
            per_minute: 3,
            instance: Default::default(),
        },
        terms: Terms::of_agent(),
        labels: BTreeMap::new(),
        certificate_bound: false,
        registered: false,
    }
}

fn by_claims(claims: Value) -> IdentityMatch {
    IdentityMatch {
        issuer: "github".parse().unwrap(),
        subject: None,
        claims: serde_json::from_value(claims).unwrap(),
    }
}

fn checkout() -> Agent {
    agent(
        "checkout-deployer",
        vec![by_claims(
            json!({"repository_id": 1234, "ref": "refs/heads/main"}),
        )],
    )
}

fn caller_with(issuer: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Caller {
    let token = tokens::github(NOW.unix_timestamp(), ISSUER, "b", GithubSubject::Immutable);
    let mut claims = token.as_object().unwrap().clone();
    change(&mut claims);
    let subject = claims["sub"].as_str().unwrap().to_owned();
    Caller::stated(
        issuer.parse().unwrap(),
        ISSUER.to_owned(),
        subject,
        claims,
        Facts::new(),
        NOW,
    )
}

fn caller() -> Caller {
    caller_with("github", |_| {})
}

fn intent() -> Intent {
    Intent::stated(SignerClass::Platform, None, Vec::new(), Facts::new(), NOW)
}

fn found(agents: Vec<Agent>, caller: &Caller) -> Option<String> {
    let registry = Registry::new(agents).unwrap();
    registry.find(caller).map(|agent| agent.id.to_string())
}

fn view_with(kind: FenceKind, dimension: Dimension) -> View {
    let fence = Fence {
        id: crate::ids::draw_uuid(),
        kind,
        dimension,
        reason: "left the company".to_owned(),
        author: "ops@acme.example".to_owned(),
        at: NOW,
        until: None,
        weight: crate::fences::Weight::default(),
        restriction: None,
        rule: None,
        lifts: Vec::new(),
        names: None,
    };
    View::of([fence])
}

#[test]
fn an_agent_is_found_by_exact_claims_and_an_id_may_be_written_as_a_number() {
    assert_eq!(
        found(vec![checkout()], &caller()).as_deref(),
        Some("checkout-deployer")
    );
}

/// Each line spoils one thing of a caller that is otherwise the agent.
#[test]
fn one_different_claim_is_enough_to_be_unknown() {
    for (claim, value) in [
        ("repository_id", json!("12345")),
        ("repository_id", json!("01234")),
        ("repository_id", Value::Null),
        ("ref", json!("refs/heads/main2")),
        ("ref", json!("refs/heads/mai")),
        ("ref", json!("refs/heads/MAIN")),
        ("ref", json!(["refs/heads/main"])),
    ] {
        let caller = caller_with("github", |claims| {
            claims.insert(claim.to_owned(), value.clone());
        });
        assert_eq!(found(vec![checkout()], &caller), None, "{claim} = {value}");
    }
    let elsewhere = caller_with("gitlab", |_| {});
    assert_eq!(found(vec![checkout()], &elsewhere), None);
}

#[test]
fn whoever_is_registered_locks_no_agent_of_the_files_out() {
    let on_main = json!({ "ref": "refs/heads/main" });
    let registered = |name: &str| Agent {
        registered: true,
        ..agent(name, vec![by_claims(on_main.clone())])
    };
    for all in [
        vec![checkout(), registered("night")],
        vec![registered("a"), checkout(), registered("night")],
    ] {
        assert_eq!(found(all, &caller()).as_deref(), Some("checkout-deployer"));
    }
    let alone = found(vec![registered("night")], &caller());
    assert_eq!(alone.as_deref(), Some("night"));
    let two = vec![registered("a"), registered("night")];
    assert_eq!(found(two, &caller()), None);
    let of_files = agent("b", vec![by_claims(on_main.clone())]);
    let three = vec![checkout(), of_files, registered("night")];
    assert_eq!(found(three, &caller()), None);
}

#[test]
fn the_subject_is_compared_whole() {
    let subject = caller().subject().to_owned();
    for (wanted, expected) in [
        (subject.clone(), true),
        (format!("{subject}x"), false),
        ("*".to_owned(), false),
    ] {
        let identity = IdentityMatch {
            subject: Some(wanted),
            ..by_claims(json!({"repository_id": "1234"}))
        };
        assert_eq!(
            found(vec![agent("a", vec![identity])], &caller()).is_some(),
            expected
        );
    }
}

#[test]
fn a_caller_that_two_agents_claim_is_neither() {
    let other = agent("other", vec![by_claims(json!({"repository_id": "1234"}))]);
    assert_eq!(found(vec![checkout(), other.clone()], &caller()), None);
    assert_eq!(found(vec![other.clone(), checkout()], &caller()), None);
    assert!(found(vec![other], &caller()).is_some());
}

#[test]
fn an_agent_may_claim_a_caller_twice() {
    let twice = agent(
        "a",
        vec![
            by_claims(json!({"repository_id": "1234"})),
            by_claims(json!({"repository_id": "1234", "ref": "refs/heads/main"})),
        ],
    );
    assert_eq!(found(vec![twice], &caller()).as_deref(), Some("a"));
}

#[test]
fn an_agent_is_registered_only_if_it_can_be_told_apart() {
    let build = |agent: Agent| Registry::new(vec![agent]).unwrap_err();
    let id: AgentId = "a".parse().unwrap();
    assert_eq!(
        build(agent("a", vec![by_claims(json!({}))])),
        RegistryError::MatchesAll(id.clone())
    );
    assert_eq!(
        build(agent("a", vec![by_claims(json!({"x": [1]}))])),
        RegistryError::NotScalar {
            agent: id.clone(),
            claim: "x".to_owned()
        }
    );
    let mut on_client = by_claims(json!({"x": 1}));
    on_client.issuer = IssuerId::client();
    assert_eq!(
        build(agent("a", vec![on_client])),
        RegistryError::ClientIssuer(id.clone())
    );
    let mut silent = agent("a", vec![]);
    silent.limits.per_minute = 0;
    assert_eq!(build(silent), RegistryError::NoRequests(id.clone()));
    let twice = Registry::new(vec![agent("a", vec![]), agent("a", vec![])]);
    assert_eq!(twice.unwrap_err(), RegistryError::SameName(id));
}

#[test]
fn an_agent_in_standing_is_admitted_with_its_caller() {
    let registry = Registry::new(vec![checkout()]).unwrap();
    let admitted = registry
        .admit(caller(), &intent(), &View::origin(), NOW)
        .unwrap();
    assert_eq!(admitted.agent().id.as_str(), "checkout-deployer");
    assert_eq!(admitted.caller().subject(), caller().subject());
}

#[test]
fn an_unknown_caller_is_not_admitted() {
    let registry = Registry::new(vec![]).unwrap();
    let result = registry.admit(caller(), &intent(), &View::origin(), NOW);
    assert_eq!(result.unwrap_err(), AgentError::Unknown);
}

#[test]
fn a_suspended_agent_gets_nothing_and_neither_does_an_agent_of_a_suspended_owner() {
    let registry = Registry::new(vec![checkout()]).unwrap();
    for dimension in [
        Dimension::new(DimensionKind::Agent, "checkout-deployer"),
        Dimension::new(DimensionKind::Owner, "payments@acme.example"),
    ] {
        let held = view_with(FenceKind::Hold, dimension.clone());
        let result = registry.admit(caller(), &intent(), &held, NOW);
        assert!(matches!(result, Err(AgentError::Held { by, .. }) if by.dimension == dimension));
        // A kill ends leases; by itself it suspends nobody.
        let killed = view_with(FenceKind::Kill, dimension);
        assert!(registry.admit(caller(), &intent(), &killed, NOW).is_ok());
    }
    let other = view_with(
        FenceKind::Hold,
        Dimension::new(DimensionKind::Agent, "checkout"),
    );
    assert!(registry.admit(caller(), &intent(), &other, NOW).is_ok());
}

#[test]
fn an_agent_gets_something_on_its_last_day_and_nothing_after_it() {
    let registry = Registry::new(vec![checkout()]).unwrap();
    let admit = |now| registry.admit(caller(), &intent(), &View::origin(), now);
    assert!(admit(datetime!(2027-03-01 23:59:59 UTC)).is_ok());
    // The same instant in another zone is the same day.
    assert!(admit(datetime!(2027-03-02 01:59:59 +2)).is_ok());
    let result = admit(datetime!(2027-03-02 00:00 UTC));
    assert!(matches!(result, Err(AgentError::Ended { .. })));
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    let registry = Registry::new(vec![checkout()]).unwrap();
    let admit = || registry.admit(caller(), &intent(), &View::origin(), NOW);
    for _ in 0..3 {
        assert!(admit().is_ok());
    }
    let Err(AgentError::TooMany { retry_after, .. }) = admit() else {
        panic!("the fourth request of a minute is one too many");
    };
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(20));
}

#[test]
fn whoever_is_turned_away_uses_up_nothing() {
    let registry = Registry::new(vec![checkout()]).unwrap();
    let held = view_with(
        FenceKind::Hold,
        Dimension::new(DimensionKind::Agent, "checkout-deployer"),
    );
    for _ in 0..10 {
        assert!(registry.admit(caller(), &intent(), &held, NOW).is_err());
    }
    assert!(
        registry
            .admit(caller(), &intent(), &View::origin(), NOW)
            .is_ok()
    );
}

/// Callers that a real `Identity` verified.
mod verified {
    use super::*;
    use crate::identity::KeySource;
    use crate::identity::tests::{
        AGENT, BROKER, Bench, NOW, assertion, at, fetcher, github, keys, subject,
    };
    use crate::identity::tokens::Signer;
    use crate::intent::{Asked, Behalf, IntentIssuer, Intents};
    use crate::jose::Algorithm;
    use crate::secret::Secret;

    fn registry(identity: Value) -> Registry {
        let other = agent("other", vec![by_claims(json!({"repository_id": "99"}))]);
        Registry::new(vec![agent(AGENT, vec![by_claims(identity)]), other]).unwrap()
    }

    async fn job(bench: &Bench, change: impl FnOnce(&mut Value)) -> Caller {
        let mut claims = github();
        change(&mut claims);
        let text = bench.platform.sign(&json!({}), &claims);
        bench.token(&text).await.unwrap()
    }

    #[tokio::test]
    async fn a_refused_value_matches_only_an_identity_that_names_it() {
        let bench = Bench::new();
        let caller = job(&bench, |claims| {
            claims["event_name"] = json!("pull_request_target");
        })
        .await;
        let plain = json!({"repository_id": "1234"});
        assert!(registry(plain.clone()).find(&caller).is_none());
        assert!(registry(plain).find(&job(&bench, |_| {}).await).is_some());
        let named = json!({"repository_id": "1234", "event_name": "pull_request_target"});
        assert!(registry(named).find(&caller).is_some());
    }

    #[tokio::test]
    async fn an_agent_with_a_key_needs_no_other_identity() {
        let bench = Bench::new();
        let claims = tokens::assertion(NOW, AGENT, BROKER);
        let presented = assertion(&bench.agent.sign(&json!({}), &claims));
        let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
        let registry = Registry::new(vec![agent(AGENT, vec![])]).unwrap();
        let admitted = registry.admit(caller.clone(), &intent(), &View::origin(), at(0));
        assert_eq!(admitted.unwrap().agent().id.as_str(), AGENT);
        // A client whose agent is not registered is nobody.
        let empty = Registry::new(vec![]).unwrap();
        let refused = empty.admit(caller, &intent(), &View::origin(), at(0));
        assert_eq!(refused.unwrap_err(), AgentError::Unknown);
    }

    #[tokio::test]
    async fn a_client_lends_its_standing_to_nobody_elses_token() {
        let bench = Bench::new();
        let registry = registry(json!({"repository_id": "1234"}));
        let claims = tokens::assertion(NOW, AGENT, BROKER);
        for (repository, accepted) in [("1234", true), ("99", false)] {
            let mut token = github();
            token["repository_id"] = json!(repository);
            let mut presented = subject(&bench.platform.sign(&json!({}), &token));
            let assertion = bench.agent.sign(&json!({}), &claims);
            presented.client_assertion = Some(Secret::new(assertion));
            let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
            let result = registry.admit(caller, &intent(), &View::origin(), at(0));
            assert_eq!(result.is_ok(), accepted, "{repository}: {result:?}");
            if let Err(error) = result {
                assert!(matches!(error, AgentError::OtherClient { .. }));
            }
        }
    }

    #[tokio::test]
    async fn a_client_id_that_is_only_said_must_be_the_agents() {
        let bench = Bench::new();
        let registry = registry(json!({"repository_id": "1234"}));
        for (named, accepted) in [(AGENT, true), ("other", false), ("", false)] {
            let mut presented = subject(&bench.platform.sign(&json!({}), &github()));
            presented.client_id = Some(named.to_owned());
            let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
            let result = registry.admit(caller, &intent(), &View::origin(), at(0));
            assert_eq!(result.is_ok(), accepted, "{named}");
        }
    }

    #[tokio::test]
    async fn an_intent_for_another_agent_is_not_this_ones() {
        let bench = Bench::new();
        let registry = registry(json!({"repository_id": "1234"}));
        let signer = Signer::es256("o");
        let issuer = IntentIssuer {
            issuer: "https://orchestrator.acme.example".to_owned(),
            class: SignerClass::Orchestrator,
            keys: KeySource::Fixed(keys(&signer)),
            algorithms: Algorithm::ALL.to_vec(),
            agents: None,
            missions: Some(vec!["deploy-checkout".parse().unwrap()]),
        };
        let intents =
            Intents::new(BROKER.to_owned(), vec![issuer], Vec::new(), &fetcher()).unwrap();
        let caller = job(&bench, |_| {}).await;
        for (name, accepted) in [(AGENT, true), ("other", false)] {
            let mut claims = tokens::intent(NOW, name, BROKER);
            claims["iss"] = json!("https://orchestrator.acme.example");
            let asked = Asked {
                unverified_intent: Some(signer.sign(&json!({"typ": "intent+jwt"}), &claims)),
                ..Asked::default()
            };
            let intent = intents
                .verify(asked, &caller, Behalf::Nobody, &|_| Vouched::Not, at(0))
                .await
                .unwrap();
            let result = registry.admit(caller.clone(), &intent, &View::origin(), at(0));
            assert_eq!(result.is_ok(), accepted, "{name}");
            if let Err(error) = result {
                assert!(matches!(error, AgentError::OtherIntent { .. }));
            }
        }
    }
}

#[test]
fn a_registered_key_signs_for_its_own_agent_only() {
    let registry = Registry::new(vec![checkout()]).unwrap();
    let vouched = |caller: &Caller, key| registry.vouches(caller, key);
    // Its claims may be several subjects'.
    let several = Vouched::RegisteredForSeveral;
    assert_eq!(vouched(&caller(), "registered"), several);
    assert_eq!(vouched(&caller(), "another"), Vouched::Not);
    let stranger = caller_with("gitlab", |_| {});
    assert_eq!(vouched(&stranger, "registered"), Vouched::Not);
    let mut only = checkout();
    only.identities[0].subject = Some(caller().subject().to_owned());
    let registry = Registry::new(vec![only]).unwrap();
    assert_eq!(
        registry.vouches(&caller(), "registered"),
        Vouched::Registered
    );
}

proptest! {
    #[test]
    fn the_index_finds_exactly_what_a_walk_would(
        identities in prop::collection::vec(
            prop::collection::btree_map("[ab]", prop_oneof![Just("1"), Just("2")], 1..3), 1..12),
        actual in prop::collection::btree_map("[abc]", prop_oneof![Just("1"), Just("2")], 0..3),
    ) {
        let agents: Vec<Agent> = identities.iter().enumerate()
            .map(|(n, claims)| agent(&format!("a{n}"), vec![by_claims(json!(claims))]))
            .collect();
        let caller = caller_with("github", |claims| {
            claims.extend(actual.iter().map(|(name, value)| (name.clone(), json!(value))));
        });
        let walked: Vec<&Agent> = agents.iter()
            .filter(|agent| agent.identities[0].claims.iter().all(|(name, value)| {
                caller.claim(name).is_some_and(|actual| claims::same(actual, value))
            }))
            .collect();
        let expected = match walked.as_slice() {
            [one] => Some(one.id.to_string()),
            _ => None,
        };
        prop_assert_eq!(found(agents.clone(), &caller), expected);
    }
}
