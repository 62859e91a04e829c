//! On behalf of a person: who may be served, by whom, how far, and until when.

use super::{CHECKOUT, Cast, asking, claims, token};
use crate::support::broker::{Setup, b64, form, sha256, with, without};
use crate::support::world::{EXCHANGE, JWT, assert_refused, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_says_who_is_served_and_who_acts() {
    let cast = Cast::start().await;
    let person = cast.person();
    let answer = cast
        .granted(&cast.form_for(&person, "fixer", "assist", |_| {}))
        .await;
    let jwt = claims(&token(&answer));
    let act = json!({ "sub": "fixer", "iss": cast.broker.url });
    assert_eq!(jwt["sub"], "corp:00u1");
    assert_eq!(jwt["client_id"], "fixer");
    assert_eq!(jwt["act"], act);
    let told = cast.told(&token(&answer)).await;
    assert_eq!((&told["sub"], &told["act"]), (&json!("corp:00u1"), &act));
    let lease = cast.lease(answer["lease_id"].as_str().unwrap()).await;
    let served = &lease["on_behalf_of"][0]["person"];
    assert_eq!(served["issuer_url"], cast.corp.url);
    assert_eq!(served["subject"], "00u1");
    assert_eq!(served["people"], json!(["oncall"]));
    assert_eq!(served["session"], "session-1");
    assert_eq!(served["in_person"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_may_prove_itself_by_its_platform() {
    let cast = Cast::start().await;
    let broker = &cast.broker;
    let (person, actor) = (cast.person(), broker.platform_token());
    let hash = |token: &str| json!(b64(&sha256(token.as_bytes())));
    let build = |change: &dyn Fn(&mut Value)| {
        let mut intent = broker.intent_claims(&person);
        intent["mission"]["id"] = json!("assist");
        intent["actor_token_hash"] = hash(&actor);
        change(&mut intent);
        form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", &person),
            ("subject_token_type", JWT),
            ("actor_token", &actor),
            ("actor_token_type", JWT),
            ("intent", &broker.sign_intent(&intent)),
        ])
    };
    let bad = Reason::InvalidIntent;
    for (what, name, value) in [
        (
            "no hash of the person's token",
            "subject_token_hash",
            Value::Null,
        ),
        ("another subject token", "subject_token_hash", hash("x")),
        ("no hash of its own token", "actor_token_hash", Value::Null),
        ("another actor token", "actor_token_hash", hash("x")),
        ("somebody else served", "sub", json!("00u2")),
        ("somebody else acts", "act", json!({ "sub": "fixer" })),
    ] {
        let spoiled = build(&|intent| match &value {
            Value::Null => drop(intent.as_object_mut().unwrap().remove(name)),
            value => intent[name] = value.clone(),
        });
        assert_refused(&broker.exchange(&spoiled).await, bad, what);
    }
    let good = build(&|intent| {
        intent["sub"] = json!("00u1");
        intent["act"] = json!({ "sub": "deployer" });
    });
    let answer = cast.granted(&good).await;
    assert_eq!(claims(&token(&answer))["act"]["sub"], "deployer");
    let unsigned = without(good, "intent");
    assert_refused(&broker.exchange(&unsigned).await, bad, "no intent");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_people_of_the_missions_groups_are_served() {
    let cast = Cast::start().await;
    let refused = async |token: String, reason: Reason, what: &str| {
        let form = cast.form_for(&token, "fixer", "assist", |_| {});
        assert_refused(&cast.broker.exchange(&form).await, reason, what);
    };
    let subject = Reason::SubjectNotAccepted;
    refused(
        cast.person_with("groups", json!(["staff"])),
        subject,
        "another group",
    )
    .await;
    refused(cast.person_with("groups", Value::Null), subject, "no group").await;
    let bad = Reason::InvalidToken;
    let now = cast.broker.now();
    refused(
        cast.person_with("aud", json!("other")),
        bad,
        "another audience",
    )
    .await;
    refused(cast.person_with("exp", json!(now - 61)), bad, "expired").await;
    refused(
        cast.person_with("iss", json!("https://x.example")),
        bad,
        "an unknown issuer",
    )
    .await;
    let act = json!({ "sub": "someone" });
    refused(cast.person_with("act", act), bad, "delegated already").await;
    let form = cast.form_for(&cast.person(), "fixer", "alone", |_| {});
    assert_refused(
        &cast.broker.exchange(&form).await,
        subject,
        "a mission for agents alone",
    );
    let alone = cast
        .broker
        .exchange(&cast.root_form("fixer", "assist"))
        .await;
    assert_refused(&alone, subject, "a mission for people, without one");
    cast.granted(&cast.form_for(&cast.person(), "fixer", "assist", |_| {}))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn may_act_names_the_agent_or_nobody_acts() {
    let cast = Cast::start().await;
    let url = cast.broker.url.clone();
    for (may_act, fine) in [
        (json!({ "sub": "fixer" }), true),
        (json!({ "sub": "fixer", "iss": url }), true),
        (json!({ "sub": "helper" }), false),
        (
            json!({ "sub": "fixer", "iss": "https://other.example" }),
            false,
        ),
        (json!({ "sub": "fixer", "tenant": "acme" }), false),
        (json!({ "iss": url }), false),
        (json!({ "sub": 1 }), false),
        (json!({}), false),
        (json!(["fixer"]), false),
        (json!("fixer"), false),
    ] {
        let person = cast.person_with("may_act", may_act.clone());
        let form = cast.form_for(&person, "fixer", "assist", |_| {});
        let answer = cast.broker.exchange(&form).await;
        if fine {
            assert_eq!(answer.status, 200, "{may_act}: {}", answer.body);
        } else {
            assert_refused(&answer, Reason::ActorNotAccepted, &may_act.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_more_than_the_persons_group_reaches() {
    let cast = Cast::start().await;
    let person = cast.person();
    let ask = async |change: Box<dyn FnOnce(&mut Value)>| {
        let form = cast.form_for(&person, "fixer", "assist", change);
        cast.broker.exchange(&form).await
    };
    let over = Reason::ExceedsPeopleCeiling;
    let answer = ask(Box::new(asking(&["deploy:admin"], &[CHECKOUT]))).await;
    assert_refused(&answer, over, "another action");
    assert_eq!(answer.reason(), "exceeds_people_ceiling");
    let answer = ask(Box::new(asking(
        &["deploy:read"],
        &["https://deploy.example/x"],
    )))
    .await;
    assert_refused(&answer, over, "another place");
    let answer = ask(Box::new(asking(
        &["deploy:read", "deploy:write"],
        &[CHECKOUT],
    )))
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_no_agent_and_an_agent_no_person() {
    let cast = Cast::start().await;
    let broker = &cast.broker;
    let (person, platform) = (cast.person(), broker.platform_token());
    let bad = Reason::InvalidToken;
    // A person's token as the actor.
    let form = with(
        cast.form_for(&person, "fixer", "assist", |_| {}),
        "actor_token",
        &person,
    );
    let form = with(form, "actor_token_type", JWT);
    assert_refused(&broker.exchange(&form).await, bad, "a person as the actor");
    // An actor beside an agent's own token.
    let form = with(broker.good_form(), "actor_token", &platform);
    let form = with(form, "actor_token_type", JWT);
    assert_refused(
        &broker.exchange(&form).await,
        bad,
        "an actor for an agent's token",
    );
    // A person alone.
    let alone = without(
        cast.form_for(&person, "fixer", "assist", |_| {}),
        "client_assertion",
    );
    let alone = without(alone, "client_assertion_type");
    let alone = with(alone, "client_id", "fixer");
    assert_refused(
        &broker.exchange(&alone).await,
        bad,
        "a person without an agent",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_sign_in_ends_what_hangs_on_it() {
    let cast = Cast::start().await;
    let (first, second) = (cast.person(), cast.person_with("sid", json!("session-2")));
    let ask = |person: &str| cast.form_for(person, "fixer", "assist", |_| {});
    let one = token(&cast.granted(&ask(&first)).await);
    let other = token(&cast.granted(&ask(&second)).await);
    let ended = json!({ "issuer": "corp", "kind": "session", "id": "session-1" });
    let answer = cast
        .broker
        .admin("POST", "/contexts/end", Some(ended))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!cast.broker.is_active(&one).await);
    assert!(cast.broker.is_active(&other).await);
    let late = cast.broker.exchange(&ask(&first)).await;
    assert_refused(&late, Reason::Held, "signed out");
    let subject = json!({ "subject": { "issuer": cast.corp.url, "subject": "00u1" } });
    cast.broker.revoke(subject).await;
    assert!(!cast.broker.is_active(&other).await);
}

/// The form of a person who runs the agent `fixer`, with a key that the sign-in is bound to.
pub fn in_person(
    cast: &Cast,
    person: &str,
    key: &SigningKey,
    mission: &str,
) -> Vec<(String, String)> {
    let claims = cast.intent_claims("fixer", mission, Some(person));
    let intent = key.sign("intent+jwt", None, &claims, true).unwrap();
    form(&[
        ("grant_type", EXCHANGE),
        ("subject_token", person),
        ("subject_token_type", JWT),
        ("client_id", "fixer"),
        ("intent", &intent),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_runs_an_agent_where_the_mission_says_so() {
    let cast = Cast::start().await;
    let broker = &cast.broker;
    let own = key();
    let bound = cast.person_with("nonce", json!(format!("dayfly-jkt:{}", own.thumbprint())));
    let good = |mission: &str| in_person(&cast, &bound, &own, mission);
    let answer = cast.granted(&good("laptop")).await;
    let jwt = claims(&token(&answer));
    assert_eq!(
        (&jwt["sub"], &jwt["act"]["sub"]),
        (&json!("corp:00u1"), &json!("fixer"))
    );
    assert!(jwt.get("cnf").is_none(), "only a DPoP proof binds: {jwt}");
    let lease = cast.lease(answer["lease_id"].as_str().unwrap()).await;
    assert_eq!(lease["on_behalf_of"][0]["person"]["in_person"], true);

    let subject = Reason::SubjectNotAccepted;
    assert_refused(
        &broker.exchange(&good("assist")).await,
        subject,
        "not in person",
    );
    let unknown = with(good("laptop"), "client_id", "nobody");
    assert_refused(
        &broker.exchange(&unknown).await,
        Reason::UnknownAgent,
        "no such agent",
    );
    let nameless = without(good("laptop"), "client_id");
    assert_refused(
        &broker.exchange(&nameless).await,
        Reason::UnknownAgent,
        "no agent",
    );
    let other = with(good("laptop"), "client_id", "helper");
    assert_refused(
        &broker.exchange(&other).await,
        Reason::UnknownAgent,
        "another agent",
    );

    let unbound = in_person(&cast, &cast.person(), &own, "laptop");
    assert_refused(
        &broker.exchange(&unbound).await,
        Reason::InvalidToken,
        "no key",
    );
    let mut odd = cast.person_claims();
    odd["nonce"] = json!("dayfly-jkt:x");
    let odd = in_person(&cast, &cast.corp.sign(&odd), &own, "laptop");
    assert_refused(
        &broker.exchange(&odd).await,
        Reason::InvalidToken,
        "no thumbprint",
    );
    let stolen = in_person(&cast, &bound, &key(), "laptop");
    assert_refused(
        &broker.exchange(&stolen).await,
        Reason::InvalidIntent,
        "another key",
    );
    let unsigned = without(good("laptop"), "intent");
    assert_refused(
        &broker.exchange(&unsigned).await,
        Reason::InvalidIntent,
        "no intent",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_may_insist_on_a_sign_in_that_can_be_ended() {
    let cast = Cast::start().await;
    let own = key();
    let mut claims = cast.person_claims();
    claims["nonce"] = json!(format!("dayfly-jkt:{}", own.thumbprint()));
    claims.as_object_mut().unwrap().remove("sid");
    let form = in_person(&cast, &cast.corp.sign(&claims), &own, "laptop");
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::TetherMissing, "no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_not_verified_is_nobodys() {
    let cast = Cast::with(Setup {
        more: r#"
[people.alice]
issuer = "corp"
claims = { email = "alice@acme.example" }
ceiling = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }]

[mission.for-alice]
agents = ["fixer"]
on_behalf_of = ["alice"]
owner = "sre@acme.example"
purpose = "For one person"
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }]
"#
        .to_owned(),
        ..Setup::default()
    })
    .await;
    let ask = |person: String| cast.form_for(&person, "fixer", "for-alice", |_| {});
    cast.granted(&ask(cast.person())).await;
    let doubtful = ask(cast.person_with("email_verified", json!(false)));
    let answer = cast.broker.exchange(&doubtful).await;
    assert_refused(&answer, Reason::SubjectNotAccepted, "anybody's address");
}
