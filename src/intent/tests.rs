use super::*;
use crate::identity::tests::{
    AGENT, BROKER, Bench, NOW, assertion, at, fetcher, github, keys, subject,
};
use crate::identity::tokens::{self, Signer};
use crate::identity::{KeySource, Person, PresentedToken, TokenType};
use crate::jose::Algorithm;
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use proptest::prelude::*;
use serde_json::json;

mod evidence;
mod issuers;

const ORCHESTRATOR: &str = "https://orchestrator.acme.example";

/// A GitHub job, an agent key, and who else may sign.
struct Desk {
    bench: Bench,
    key: Signer,
    orchestrator: Signer,
    /// The key of the authority that proves changes.
    changes: Signer,
    intents: Intents,
}

impl Desk {
    fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    /// With another orchestrator, or another authority.
    fn with(issuer: impl FnOnce(&mut IntentIssuer), witness: impl FnOnce(&mut Witness)) -> Self {
        let (orchestrator, changes) = (Signer::es256("o-1"), Signer::es256("c-1"));
        let mut one = issuers::orchestrator(&orchestrator);
        issuer(&mut one);
        let mut other = evidence::authority(&changes);
        witness(&mut other);
        let url = BROKER.to_owned();
        Self {
            bench: Bench::new(),
            key: Signer::es256("k-1"),
            orchestrator,
            changes,
            intents: Intents::new(url, vec![one], vec![other], &fetcher()).unwrap(),
        }
    }

    /// A job whose token is bound to the agent's key.
    async fn bound(&self) -> Caller {
        self.job(&self.bound_claims()).await
    }

    fn bound_claims(&self) -> Value {
        let mut claims = github();
        claims["aud"] = json!(format!("{BROKER}#jkt={}", self.key.thumbprint()));
        claims
    }

    /// The job also proves this key by DPoP.
    async fn proving(&self, claims: &Value, key: &Signer) -> Caller {
        let text = self.bench.platform.sign(&json!({}), claims);
        self.bench.proving(&text, key).await
    }

    /// A job whose token is bound to nothing.
    async fn unbound(&self) -> Caller {
        self.job(&github()).await
    }

    async fn job(&self, claims: &Value) -> Caller {
        let text = self.bench.platform.sign(&json!({}), claims);
        self.bench.token(&text).await.unwrap()
    }

    /// An agent with a registered key of its own.
    async fn client(&self) -> Caller {
        let claims = tokens::assertion(NOW, AGENT, BROKER);
        let text = self.bench.agent.sign(&json!({}), &claims);
        self.bench
            .identity
            .verify(&assertion(&text), at(0))
            .await
            .unwrap()
    }

    /// Signed by the agent's key, which stands in the header.
    fn signed(&self, claims: &Value) -> Asked {
        let header = json!({"typ": TYP, "jwk": self.key.bare_jwk(), "kid": null});
        sent(self.key.sign(&header, claims))
    }

    /// Where every key is fixed, nothing is waited for.
    fn verify(&self, asked: Asked, caller: &Caller) -> Result<Intent, IntentError> {
        self.verify_with(asked, caller, &|_| Vouched::Not)
    }

    fn for_other(
        &self,
        asked: Asked,
        caller: &Caller,
        behalf: Behalf,
    ) -> Result<Intent, IntentError> {
        self.intents
            .verify(asked, caller, behalf, &|_| Vouched::Not, at(0))
            .now_or_never()
            .expect("every key is fixed")
    }

    fn verify_registered(&self, asked: Asked, caller: &Caller) -> Result<Intent, IntentError> {
        let own = self.key.thumbprint();
        self.verify_with(asked, caller, &|key| match key == own {
            true => Vouched::Registered,
            false => Vouched::Not,
        })
    }

    fn verify_with(
        &self,
        asked: Asked,
        caller: &Caller,
        vouched: &(dyn Fn(&str) -> Vouched + Sync),
    ) -> Result<Intent, IntentError> {
        self.intents
            .verify(asked, caller, Behalf::Nobody, vouched, at(0))
            .now_or_never()
            .expect("every key is fixed")
    }
}

fn sent(text: String) -> Asked {
    Asked {
        unverified_intent: Some(text),
        ..Asked::default()
    }
}

fn claims() -> Value {
    tokens::intent(NOW, AGENT, BROKER)
}

fn set(claims: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => drop(parent.remove(name)),
        value => drop(parent.insert(name.to_owned(), value)),
    }
}

#[tokio::test]
async fn an_intent_signed_with_the_bound_key_says_what_it_is_for() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    let asked = desk.signed(&claims());
    let text = asked.unverified_intent.clone().unwrap();
    let intent = desk.verify(asked, &caller).unwrap();
    assert_eq!(intent.signer(), SignerClass::Agent);
    assert_eq!(intent.client_id(), Some(AGENT));
    assert_eq!(intent.mission().unwrap().as_str(), "deploy-checkout");
    assert_eq!(intent.goal(), "Deploy checkout 1.42 to production");
    assert_eq!(intent.task(), Some("7f0c"));
    assert_eq!(intent.instance(), Some("worker-1"));
    assert_eq!(intent.authorization_details().len(), 1);
    assert_eq!(intent.authorization_details()[0].max_ttl, Some(900));
    assert_eq!(intent.declared()["change"]["id"], json!("CHG0031337"));
    assert_eq!(intent.signing_key(), Some(desk.key.thumbprint().as_str()));
    assert_eq!(intent.sha256(), &sha256(&text));
    assert_eq!(intent.expires_at(), at(120));
    assert_eq!(intent.goal_ends(), None);
    assert!(intent.replay().is_some());
}

/// An intent that is good but for one member; `null` takes the member away.
async fn spoiled(pointer: &str, value: &Value) -> IntentError {
    let desk = Desk::new();
    let mut claims = claims();
    set(&mut claims, pointer, value.clone());
    match desk.verify(desk.signed(&claims), &desk.bound().await) {
        Err(error) => error,
        Ok(_) => panic!("{pointer} = {value} was accepted"),
    }
}

#[tokio::test]
async fn who_signs_for_whom_must_be_one_and_the_same_agent() {
    for (pointer, value, expected) in [
        ("/iss", json!("another"), Some(IntentError::UnknownSigner)),
        ("/iss", Value::Null, None),
        ("/sub", json!("another"), Some(ClaimFault::OnBehalf.into())),
        ("/sub", Value::Null, None),
        (
            "/client_id",
            json!("another"),
            Some(IntentError::UnknownSigner),
        ),
        ("/client_id", Value::Null, None),
        (
            "/act",
            json!({"sub": "someone"}),
            Some(ClaimFault::OnBehalf.into()),
        ),
    ] {
        let error = spoiled(pointer, &value).await;
        match expected {
            Some(expected) => assert_eq!(error, expected, "{pointer} = {value}"),
            None => assert!(matches!(error, IntentError::Claim(ClaimFault::Shape(..)))),
        }
    }
}

#[tokio::test]
async fn an_intent_for_a_person_names_the_person_and_the_token() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    let claims = json!({ "sub": "alice", "groups": ["oncall"] });
    let claims = claims.as_object().unwrap().clone();
    let alice = Person::stated("corp".parse().unwrap(), claims, at(0));
    let behalf = || Behalf::Person(Box::new(alice.clone()));
    let good = || {
        let mut claims = tokens::intent(NOW, AGENT, BROKER);
        claims["subject_token_hash"] = json!(URL_SAFE_NO_PAD.encode(alice.token_sha256()));
        claims
    };
    let verify = |claims: &Value, behalf| {
        let refused = desk.for_other(desk.signed(claims), &caller, behalf);
        refused.err()
    };
    for (what, name, value, expected) in [
        ("as it is", "txn", json!("t"), None),
        ("the person", "sub", json!("alice"), None),
        ("the actor", "act", json!({ "sub": AGENT }), None),
        (
            "another person",
            "sub",
            json!("bob"),
            Some(ClaimFault::OnBehalf.into()),
        ),
        (
            "another actor",
            "act",
            json!({ "sub": "bob" }),
            Some(ClaimFault::OnBehalf.into()),
        ),
        (
            "no token",
            "subject_token_hash",
            Value::Null,
            Some(IntentError::NoSubjectHash),
        ),
        (
            "another token",
            "subject_token_hash",
            json!(URL_SAFE_NO_PAD.encode([9; 32])),
            Some(IntentError::OtherToken),
        ),
        (
            "a token that is not there",
            "actor_token_hash",
            json!(URL_SAFE_NO_PAD.encode([9; 32])),
            Some(IntentError::OtherActorToken),
        ),
    ] {
        let mut claims = good();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        assert_eq!(verify(&claims, behalf()), expected, "{what}");
    }
    let error = verify(&good(), Behalf::Nobody);
    assert_eq!(error, Some(IntentError::OtherToken), "for nobody");
    let unsigned = desk.for_other(Asked::default(), &caller, behalf());
    assert_eq!(unsigned.unwrap_err(), IntentError::NotSigned);
}

#[tokio::test]
async fn an_intent_for_someone_else_is_refused() {
    for value in [
        json!("https://other.example"),
        json!([BROKER, "https://other.example"]),
        json!(format!("{BROKER}/token")),
        json!(format!("{BROKER}/")),
        Value::Null,
    ] {
        let error = spoiled("/aud", &value).await;
        assert_eq!(error, ClaimFault::Audience.into(), "{value}");
    }
}

#[tokio::test]
async fn an_intent_out_of_its_time_is_refused() {
    assert_eq!(
        spoiled("/iat", &Value::Null).await,
        ClaimFault::IssuedAt.into()
    );
    for (pointer, value) in [
        ("/iat", json!(NOW + 61)),
        ("/iat", json!(NOW.to_string())),
        ("/exp", Value::Null),
        ("/exp", json!(NOW + 301)),
        ("/exp", json!(NOW - 61)),
        ("/nbf", json!(NOW + 61)),
    ] {
        let error = spoiled(pointer, &value).await;
        assert!(
            matches!(error, IntentError::Jose(_)),
            "{pointer} = {value}: {error}"
        );
    }
}

/// Each line spoils one member.
#[tokio::test]
async fn one_malformed_member_is_enough() {
    let deep = json!({"a": {"b": {"c": {"d": {"e": 1}}}}});
    for (pointer, value) in [
        ("/jti", Value::Null),
        ("/jti", json!("")),
        ("/jti", json!(7)),
        ("/jti", json!("a".repeat(257))),
        ("/txn", json!("a b")),
        ("/txn", json!("a".repeat(129))),
        ("/instance", json!("")),
        ("/instance", json!("a".repeat(64))),
        ("/cnf", json!({"jkt": "short"})),
        ("/cnf", json!({"x5t#S256": "short"})),
        (
            "/cnf",
            json!({"x5t#S256": "0".repeat(43), "jkt": "0".repeat(43)}),
        ),
        ("/cnf", json!({})),
        ("/mission", json!({"id": "Not A Name"})),
        ("/mission", json!("deploy-checkout")),
        ("/mission/issuer", json!("https://missions.example")),
        ("/intent", Value::Null),
        ("/intent/goal", Value::Null),
        ("/intent/goal", json!(" ")),
        ("/intent/goal", json!("g".repeat(4097))),
        ("/intent/goal", json!("deploy \u{202e}gnihton")),
        ("/intent/goal", json!("deploy\u{1b}[2J")),
        ("/intent/expires_at", json!("tomorrow")),
        ("/intent/expires_at", json!("2020-01-01T00:00:00Z")),
        ("/intent/allow", json!("everything")),
        ("/tctx", json!([])),
        ("/tctx/deep", deep),
        ("/tctx/evidence", json!(["a", "b", "c", "d", "e"])),
        ("/tctx/evidence", json!("a")),
        ("/tctx/large", json!(vec!["x".repeat(100); 76])),
        ("/subject_token_hash", json!("short")),
        ("/scope", json!("admin")),
    ] {
        let error = spoiled(pointer, &value).await;
        assert!(
            matches!(error, IntentError::Claim(_)),
            "{pointer} = {value}: {error}"
        );
    }
    let other = json!(tokens::sha256(b"another token"));
    assert_eq!(
        spoiled("/subject_token_hash", &other).await,
        IntentError::OtherToken
    );
    let other = json!({"jkt": "0".repeat(43)});
    assert_eq!(spoiled("/cnf", &other).await, IntentError::OtherKey);
}

/// Each line spoils one thing about the authority asked.
#[tokio::test]
async fn an_intent_without_details_must_name_its_mission() {
    let desk = Desk::new();
    let mut claims = claims();
    set(&mut claims, "/authorization_details", Value::Null);
    let caller = desk.bound().await;
    let intent = desk.verify(desk.signed(&claims), &caller).unwrap();
    assert!(intent.authorization_details().is_empty());
    assert!(intent.mission().is_some());
    set(&mut claims, "/mission", Value::Null);
    let refused = desk.verify(desk.signed(&claims), &caller).unwrap_err();
    assert!(matches!(refused, IntentError::Details(_)), "{refused}");
}

#[tokio::test]
async fn authority_that_is_not_exactly_put_is_refused_with_its_place() {
    let good = claims()["authorization_details"][0].clone();
    let with = |member: &str, value: Value| {
        let mut detail = good.clone();
        set(&mut detail, &format!("/{member}"), value);
        detail
    };
    for (details, at) in [
        (json!([]), "[]"),
        (json!(vec![good.clone(); 17]), "[]"),
        (
            json!([good, with("identifier", json!("aws-dev"))]),
            "[1].identifier",
        ),
        (
            json!([good, with("type", json!("access_token"))]),
            "[1].identifier",
        ),
        (json!([with("privileges", json!(["admin"]))]), "[0]"),
        (json!([with("type", Value::Null)]), "[0]"),
        (json!([with("type", json!(""))]), "[0].type"),
        (json!([with("identifier", Value::Null)]), "[0]"),
        (json!([with("identifier", json!(""))]), "[0].identifier"),
        (json!([with("actions", Value::Null)]), "[0]"),
        (json!([with("actions", json!("ecs:UpdateService"))]), "[0]"),
        (json!([with("actions", json!([]))]), "[0].actions"),
        (json!([with("actions", json!([""]))]), "[0].actions"),
        (
            json!([with("locations", json!(["a\u{0}b"]))]),
            "[0].locations",
        ),
        (json!([with("max_ttl", json!(0))]), "[0].max_ttl"),
        (json!([with("max_ttl", json!(-1))]), "[0]"),
        (json!([with("max_ttl", json!("900"))]), "[0]"),
    ] {
        match spoiled("/authorization_details", &details).await {
            IntentError::Details(fault) => assert_eq!(fault.at, at, "{details}"),
            other => panic!("{details}: {other}"),
        }
    }
    for value in [json!({}), json!("all")] {
        assert!(matches!(
            spoiled("/authorization_details", &value).await,
            IntentError::Claim(ClaimFault::Shape(..))
        ));
    }
}

#[tokio::test]
async fn what_is_within_the_bounds_is_accepted() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    let detail = claims()["authorization_details"][0].clone();
    for (pointer, value) in [
        ("/aud", json!([BROKER])),
        ("/exp", json!(NOW + 300)),
        ("/nbf", json!(NOW)),
        ("/txn", Value::Null),
        ("/instance", Value::Null),
        ("/mission", Value::Null),
        ("/tctx", Value::Null),
        ("/cnf", json!({"jkt": desk.key.thumbprint()})),
        ("/intent/goal", json!("g".repeat(4096))),
        ("/intent/goal", json!("zwei Zeilen\nmit Umlaut: äöü")),
        ("/intent/expires_at", json!("2030-01-01T00:00:00Z")),
        ("/tctx/evidence", json!([])),
        ("/authorization_details", json!([detail, detail])),
    ] {
        let mut claims = claims();
        set(&mut claims, pointer, value);
        let result = desk.verify(desk.signed(&claims), &caller);
        assert!(result.is_ok(), "{pointer}: {result:?}");
    }
}

#[tokio::test]
async fn a_member_that_stands_twice_is_refused() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    let text = claims().to_string();
    let twice = text.replacen('{', r#"{"client_id":"root","#, 1);
    let header = json!({"typ": TYP, "alg": "ES256", "jwk": desk.key.bare_jwk()}).to_string();
    assert!(
        desk.verify(sent(desk.key.sign_raw(&header, &text)), &caller)
            .is_ok()
    );
    let result = desk.verify(sent(desk.key.sign_raw(&header, &twice)), &caller);
    assert!(matches!(result, Err(IntentError::Jose(_))), "{result:?}");
}

#[tokio::test]
async fn only_a_jwt_that_says_it_is_an_intent_is_one() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    for typ in [
        json!(null),
        json!("JWT"),
        json!("at+jwt"),
        json!("client-authentication+jwt"),
    ] {
        let header = json!({"typ": typ, "jwk": desk.key.bare_jwk()});
        let result = desk.verify(sent(desk.key.sign(&header, &claims())), &caller);
        assert_eq!(result.unwrap_err(), IntentError::Jose(JoseError::Typ));
    }
}

#[tokio::test]
async fn a_key_that_nothing_vouches_for_signs_nothing() {
    let desk = Desk::new();
    let stranger = Signer::es256("k-1");
    let header = json!({"typ": TYP, "jwk": stranger.bare_jwk()});
    for caller in [
        desk.bound().await,
        desk.unbound().await,
        desk.client().await,
    ] {
        let result = desk.verify(sent(stranger.sign(&header, &claims())), &caller);
        assert_eq!(result.unwrap_err(), IntentError::UnknownKey);
    }
    // The right key in the header, another one under the signature.
    let header = json!({"typ": TYP, "jwk": desk.key.bare_jwk()});
    let result = desk.verify(sent(stranger.sign(&header, &claims())), &desk.bound().await);
    assert_eq!(result.unwrap_err(), IntentError::Jose(JoseError::Signature));
    // No key in the header and none registered.
    let header = json!({"typ": TYP});
    let result = desk.verify(sent(desk.key.sign(&header, &claims())), &desk.bound().await);
    assert_eq!(result.unwrap_err(), IntentError::UnknownKey);
}

#[tokio::test]
async fn a_registered_client_signs_with_its_registered_key() {
    let desk = Desk::new();
    let caller = desk.client().await;
    for header in [
        json!({"typ": TYP}),
        json!({"typ": TYP, "kid": null}),
        json!({"typ": TYP, "jwk": desk.bench.agent.bare_jwk()}),
    ] {
        let intent = desk.verify(sent(desk.bench.agent.sign(&header, &claims())), &caller);
        assert_eq!(intent.unwrap().signer(), SignerClass::Agent, "{header}");
    }
}

#[tokio::test]
async fn a_registered_key_signs_for_one_subject_token_only() {
    let desk = Desk::new();
    let caller = desk.unbound().await;
    let result = desk.verify_registered(desk.signed(&claims()), &caller);
    assert_eq!(result.unwrap_err(), IntentError::NoTokenHash);

    let mut tied = claims();
    tied["subject_token_hash"] = json!(URL_SAFE_NO_PAD.encode(caller.token_sha256()));
    assert!(desk.verify_registered(desk.signed(&tied), &caller).is_ok());
    assert_eq!(
        desk.verify(desk.signed(&tied), &caller).unwrap_err(),
        IntentError::UnknownKey
    );
    let mut another = github();
    another["run_id"] = json!("1");
    let result = desk.verify_registered(desk.signed(&tied), &desk.job(&another).await);
    assert_eq!(result.unwrap_err(), IntentError::OtherToken);
    // A client that has no subject token cannot have signed for one.
    let header = json!({"typ": TYP});
    let text = desk.bench.agent.sign(&header, &tied);
    let result = desk.verify(sent(text), &desk.client().await);
    assert_eq!(result.unwrap_err(), IntentError::OtherToken);
}

#[tokio::test]
async fn a_bound_token_goes_with_its_key_and_with_no_other() {
    let desk = Desk::new();
    let other = Signer::es256("other");
    let mut bound_elsewhere = github();
    bound_elsewhere["cnf"] = json!({"jkt": other.thumbprint()});
    let caller = desk.job(&bound_elsewhere).await;
    let mut claims = claims();
    claims["subject_token_hash"] = json!(URL_SAFE_NO_PAD.encode(caller.token_sha256()));

    // A registered key does not stand in for the bound one, nor does the platform.
    let result = desk.verify_registered(desk.signed(&claims), &caller);
    assert_eq!(result.unwrap_err(), IntentError::KeyNotProved);
    let result = desk.verify(Asked::default(), &caller);
    assert_eq!(result.unwrap_err(), IntentError::KeyNotProved);
    // Proved otherwise (DPoP), both pass; by another key, neither.
    let proved = desk.proving(&bound_elsewhere, &other).await;
    assert!(
        desk.verify_registered(desk.signed(&claims), &proved)
            .is_ok()
    );
    assert!(desk.verify(Asked::default(), &proved).is_ok());
    let proved = desk.proving(&bound_elsewhere, &desk.key).await;
    let result = desk.verify_registered(desk.signed(&claims), &proved);
    assert_eq!(result.unwrap_err(), IntentError::KeyNotProved);
    let result = desk.verify(Asked::default(), &proved);
    assert_eq!(result.unwrap_err(), IntentError::KeyNotProved);
}

#[tokio::test]
async fn a_confirmed_key_is_the_one_that_the_request_proves() {
    let desk = Desk::new();
    let (bound, proof) = (desk.bound_claims(), Signer::es256("dpop"));
    let without = desk.bound().await;
    let with = desk.proving(&bound, &proof).await;
    let mut claims = claims();
    claims["cnf"] = json!({"jkt": proof.thumbprint()});
    assert_eq!(
        desk.verify(desk.signed(&claims), &without).unwrap_err(),
        IntentError::OtherKey
    );
    let intent = desk.verify(desk.signed(&claims), &with).unwrap();
    let confirmed = Confirmation::Jkt(proof.thumbprint());
    assert_eq!(intent.confirmed_key(), Some(&confirmed));
    claims["cnf"] = json!({"jkt": desk.key.thumbprint()});
    assert_eq!(
        desk.verify(desk.signed(&claims), &with).unwrap_err(),
        IntentError::OtherKey
    );
}

#[tokio::test]
async fn a_bound_token_and_its_intent_do_not_bind_the_credential_to_a_thiefs_key() {
    let desk = Desk::new();
    let (bound, thief) = (desk.bound_claims(), Signer::es256("thief"));
    // The agent's own signature shows the bound key, and the intent confirms no other.
    let stolen = desk.signed(&claims());
    let result = desk.verify(stolen.clone(), &desk.proving(&bound, &thief).await);
    assert_eq!(result.unwrap_err(), IntentError::KeyNotProved);
    let own = desk.proving(&bound, &desk.key).await;
    assert!(desk.verify(stolen, &own).is_ok());
    // Where nothing names a key, the request's own is as good as any.
    let caller = desk.proving(&github(), &thief).await;
    let mut claims = claims();
    claims["subject_token_hash"] = json!(URL_SAFE_NO_PAD.encode(caller.token_sha256()));
    assert!(
        desk.verify_registered(desk.signed(&claims), &caller)
            .is_ok()
    );
}

#[tokio::test]
async fn without_an_intent_the_platforms_token_stands_for_it() {
    let desk = Desk::new();
    let caller = desk.unbound().await;
    let asked = Asked {
        mission: Some("deploy-checkout".parse().unwrap()),
        ..Asked::default()
    };
    let intent = desk.verify(asked, &caller).unwrap();
    assert_eq!(intent.signer(), SignerClass::Platform);
    assert_eq!(intent.mission().unwrap().as_str(), "deploy-checkout");
    assert_eq!(intent.sha256(), caller.token_sha256());
    assert_eq!(intent.expires_at(), caller.expires_at());
    assert_eq!(intent.client_id(), None);
    assert_eq!(intent.signing_key(), None);
    assert!(intent.authorization_details().is_empty());
    assert!(intent.replay().is_none());
}

#[tokio::test]
async fn the_request_may_name_a_mission_but_not_another_one() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    let with = |mission: &str, claims: &Value| Asked {
        mission: Some(mission.parse().unwrap()),
        ..desk.signed(claims)
    };
    assert!(
        desk.verify(with("deploy-checkout", &claims()), &caller)
            .is_ok()
    );
    assert!(matches!(
        desk.verify(with("read-logs", &claims()), &caller),
        Err(IntentError::OtherMission { .. })
    ));
    let mut none = claims();
    none.as_object_mut().unwrap().remove("mission");
    let intent = desk.verify(with("read-logs", &none), &caller).unwrap();
    assert_eq!(intent.mission().unwrap().as_str(), "read-logs");
}

#[tokio::test]
async fn an_intent_is_spent_by_its_signer_and_jti() {
    let desk = Desk::new();
    let caller = desk.bound().await;
    let mark = |claims: &Value| {
        let intent = desk.verify(desk.signed(claims), &caller).unwrap();
        intent.replay().unwrap().hash
    };
    // The same jti with another goal is the same intent as far as spending goes.
    let mut other_goal = claims();
    other_goal["intent"]["goal"] = json!("Something else");
    assert_eq!(mark(&claims()), mark(&other_goal));
    let mut other_jti = claims();
    other_jti["jti"] = json!("another");
    assert_ne!(mark(&claims()), mark(&other_jti));
}

#[tokio::test]
async fn a_self_signed_subject_token_is_taken_for_the_intent() {
    let desk = Desk::new();
    let text = desk.bench.agent.sign(&json!({"typ": TYP}), &claims());
    let mut presented = subject(&text);
    presented.subject_token = Some(PresentedToken {
        unverified: Secret::new(text.clone()),
        token_type: TokenType::SelfSigned,
    });
    let asked = Asked::default().or_self_signed(&presented).unwrap();
    assert_eq!(asked.unverified_intent.as_deref(), Some(text.as_str()));
    assert!(desk.verify(asked, &desk.client().await).is_ok());
    let result = sent(text.clone()).or_self_signed(&presented);
    assert_eq!(result.unwrap_err(), IntentError::TwoIntents);
    let asked = sent(text.clone())
        .or_self_signed(&subject("a.b.c"))
        .unwrap();
    assert_eq!(asked.unverified_intent, Some(text));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_intent_that_is_changed_anywhere_is_refused(place in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let desk = Desk::new();
        let caller = runtime.block_on(desk.bound());
        let text = desk.signed(&claims()).unverified_intent.unwrap();
        let mut bytes = text.clone().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(changed != text);
        prop_assert!(desk.verify(sent(changed), &caller).is_err());
    }

    #[test]
    fn no_unknown_member_gets_in(name in "[a-z_]{1,12}") {
        let known = ["iss", "sub", "client_id", "aud", "iat", "nbf", "exp", "jti", "txn", "instance",
            "cnf", "act", "mission", "authorization_details", "intent", "tctx", "subject_token_hash"];
        prop_assume!(!known.contains(&name.as_str()));
        let mut claims = claims();
        claims[&name] = json!(1);
        let result = claims::Signed::read(claims.as_object().unwrap(), BROKER, at(0));
        prop_assert!(matches!(result, Err(IntentError::Claim(ClaimFault::Shape(..)))));
    }
}
