//! A person's token in the hands of somebody else: who may run what, and what a token is bound to.

use super::people::in_person;
use super::{Cast, asking, token};
use crate::contexts::signed;
use crate::support::broker::{Answer, Setup, form, with};
use crate::support::world::{EXCHANGE, JWT, assert_refused, inline_keys, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::time::Duration;

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// An agent that may ask twice a minute, that people on call may run, and that is suspended as soon as
/// anything is refused to it.
fn tight(key: &SigningKey) -> String {
    format!(
        r#"
[agent.tight]
owner = "tight@acme.example"
purpose = "Asks seldom"
ends = 2099-01-01
identity = {{ client = {{ keys = {} }} }}
limits = {{ active = 100, per_minute = 2 }}

[mission.tight-laptop]
agents = ["tight"]
on_behalf_of = ["oncall"]
in_person = true
owner = "sre@acme.example"
purpose = "What people on call do by hand"
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]

[mission.tight-work]
agents = ["tight"]
owner = "sre@acme.example"
purpose = "What it does itself"
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]

[[response]]
on = "refused"
do = ["suspend"]
"#,
        inline_keys(key)
    )
}

async fn with_tight() -> Cast {
    let own = key();
    let more = tight(&own);
    let mut cast = Cast::with(Setup {
        more,
        ..Setup::default()
    })
    .await;
    cast.keys.insert("tight", own);
    cast
}

/// The person's token with these claims, and a nonce of this key.
fn signed_in(cast: &Cast, key: &SigningKey, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = cast.person_claims();
    claims["nonce"] = json!(format!("dayfly-jkt:{}", key.thumbprint()));
    change(&mut claims);
    cast.corp.sign(&claims)
}

/// A person runs this agent, with the key of the sign-in.
fn running(
    cast: &Cast,
    (person, key): (&str, &SigningKey),
    (agent, mission): (&str, &str),
    change: impl FnOnce(&mut Value),
) -> Vec<(String, String)> {
    let mut claims = cast.intent_claims(agent, mission, Some(person));
    change(&mut claims);
    let intent = key.sign("intent+jwt", None, &claims, true).unwrap();
    form(&[
        ("grant_type", EXCHANGE),
        ("subject_token", person),
        ("subject_token_type", JWT),
        ("client_id", agent),
        ("intent", &intent),
    ])
}

/// All that an answer tells, but for what is drawn anew each time.
fn face(answer: Answer) -> (u16, Value) {
    let mut body = answer.body;
    body.as_object_mut().unwrap().remove("refusal_id");
    (answer.status, body)
}

async fn audit(cast: &Cast) -> String {
    let answer = cast.broker.admin("GET", "/audit", None).await;
    answer.body.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_run_an_agent_cannot_tell_it_from_none_and_does_nothing_to_it() {
    let cast = with_tight().await;
    // Only what comes after the first look is answered.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let own = key();
    let stranger = signed_in(&cast, &own, |claims| claims["groups"] = json!(["sales"]));
    let oncall = signed_in(&cast, &own, |_| {});
    let ask = async |person: &str, agent: &str, mission: &str| {
        let form = running(&cast, (person, &own), (agent, mission), |_| {});
        face(cast.broker.exchange(&form).await)
    };
    let nobody = ask(&stranger, "nobody", "tight-laptop").await;
    assert_eq!((nobody.0, nobody.1.get("dayfly_reason")), (400, None));
    for mission in ["tight-laptop", "tight-work", "none", "tight-laptop"] {
        assert_eq!(ask(&stranger, "tight", mission).await, nobody, "{mission}");
    }
    // Of the group, and no mission of this agent is in person.
    assert_eq!(ask(&oncall, "helper", "relay").await, nobody);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // They are counted, of nobody.
    let written = audit(&cast).await;
    for word in ["fence_raised", "\"refused\"", "\"agent\":", "tight"] {
        assert!(!written.contains(word), "{word}: {written}");
    }
    for _ in 0..2 {
        cast.granted(&cast.root_form("tight", "tight-work")).await;
    }
    // What is refused to a person who may run it is the agent's, and answered.
    let wide = asking(&["deploy:admin"], &["https://deploy.example/checkout"]);
    let form = running(&cast, (&oncall, &own), ("tight", "tight-laptop"), wide);
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::ExceedsMission, "more than the mission");
    for _ in 0..100 {
        if audit(&cast).await.contains("fence_raised") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it was not suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_uses_up_nobody_elses_requests() {
    let cast = with_tight().await;
    let (own, other) = (key(), key());
    let alice = signed_in(&cast, &own, |_| {});
    let bob = signed_in(&cast, &other, |claims| claims["sub"] = json!("00u2"));
    let ask = async |person: &str, key: &SigningKey| {
        let form = running(&cast, (person, key), ("tight", "tight-laptop"), |_| {});
        cast.broker.exchange(&form).await
    };
    for _ in 0..2 {
        assert_eq!(ask(&alice, &own).await.status, 200);
    }
    let answer = ask(&alice, &own).await;
    assert_refused(&answer, Reason::TooManyRequests, "a third");
    assert_eq!(ask(&bob, &other).await.status, 200);
    cast.granted(&cast.root_form("tight", "tight-work")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_persons_token_is_not_that_person() {
    let cast = Cast::start().await;
    let own = key();
    let jkt = json!({ "jkt": own.thumbprint() });
    let bound = |change: &dyn Fn(&mut Value)| {
        let mut claims = cast.person_claims();
        change(&mut claims);
        cast.corp.sign(&claims)
    };
    let of_client = bound(&|claims| {
        claims["cnf"] = jkt.clone();
        claims["azp"] = json!("helper");
    });
    let of_us = bound(&|claims| {
        claims["cnf"] = jkt.clone();
        claims["azp"] = json!("dayfly-people");
    });
    let by_certificate = bound(&|claims| claims["cnf"] = json!({ "x5t#S256": "0".repeat(43) }));
    let audience = format!("dayfly-people#jkt={}", own.thumbprint());
    let by_audience = bound(&|claims| claims["aud"] = json!(audience));
    let anothers =
        |name: &'static str| signed_in(&cast, &own, move |claims| claims[name] = json!("helper"));
    let two = json!(["dayfly-people", "helper"]);
    let two_keys = signed_in(&cast, &own, |claims| {
        claims["cnf"] = json!({ "jkt": key().thumbprint() });
    });
    for (what, person) in [
        ("the key of another client", of_client),
        ("the key of our client", of_us),
        ("a certificate", by_certificate),
        ("a key in the audience", by_audience),
        ("another client asked for it", anothers("azp")),
        ("another client's", anothers("client_id")),
        (
            "of two, nobody says who asked",
            signed_in(&cast, &own, |claims| claims["aud"] = two.clone()),
        ),
        ("two keys", two_keys),
    ] {
        let form = in_person(&cast, &person, &own, "laptop");
        assert_refused(
            &cast.broker.exchange(&form).await,
            Reason::InvalidToken,
            what,
        );
    }
    let good = in_person(&cast, &signed_in(&cast, &own, |_| {}), &own, "laptop");
    let as_access_token = with(good.clone(), "subject_token_type", ACCESS_TOKEN);
    let answer = cast.broker.exchange(&as_access_token).await;
    assert_refused(&answer, Reason::InvalidToken, "as an access token");
    cast.granted(&good).await;
    let named = signed_in(&cast, &own, |claims| {
        claims["aud"] = two.clone();
        claims["azp"] = json!("dayfly-people");
        claims["cnf"] = jkt.clone();
    });
    cast.granted(&in_person(&cast, &named, &own, "laptop"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_of_a_laptop_serves_no_agent_elsewhere() {
    let cast = Cast::start().await;
    let person = signed_in(&cast, &key(), |_| {});
    let form = cast.form_for(&person, "fixer", "assist", |_| {});
    let as_access_token = with(form.clone(), "subject_token_type", ACCESS_TOKEN);
    for form in [form, as_access_token] {
        let answer = cast.broker.exchange(&form).await;
        assert_refused(&answer, Reason::InvalidToken, "on behalf of it");
    }
    // Nor with its key: that key is the person's.
    let person = signed_in(&cast, cast.key("fixer"), |_| {});
    let form = cast.form_for(&person, "fixer", "assist", |_| {});
    let answer = cast.broker.exchange(&form).await;
    assert_refused(&answer, Reason::InvalidToken, "with its key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_token_that_is_bound_serves_whoever_has_its_key() {
    let cast = Cast::start().await;
    let broker = &cast.broker;
    let own = key();
    let to = |key: &SigningKey| cast.person_with("cnf", json!({ "jkt": key.thumbprint() }));
    let ask = |person: &str| cast.form_for(person, "fixer", "assist", |_| {});
    let bad = Reason::InvalidIntent;
    let answer = broker.exchange(&ask(&to(&own))).await;
    assert_refused(&answer, bad, "nothing proves the key");
    let proof = broker.proof(&key()).await;
    let answer = broker.proved("/token", &ask(&to(&own)), &[&proof]).await;
    assert_refused(&answer, bad, "another key");
    let proof = broker.proof(&own).await;
    let answer = broker.proved("/token", &ask(&to(&own)), &[&proof]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // The agent's own key, which signs the intent.
    let answer = cast.granted(&ask(&to(cast.key("fixer")))).await;
    assert!(!token(&answer).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_message_that_a_sign_in_is_over_ends_what_hangs_on_it() {
    let cast = Cast::with(Setup {
        more: r#"
[source.sso]
kind   = "generic"
secret = "file:hook.secret"
issuer = "corp"
ends   = ["session"]
"#
        .to_owned(),
        ..Setup::default()
    })
    .await;
    let broker = &cast.broker;
    let (first, second) = (cast.person(), cast.person_with("sid", json!("session-2")));
    let ask = |person: &str| cast.form_for(person, "fixer", "assist", |_| {});
    let one = token(&cast.granted(&ask(&first)).await);
    let other = token(&cast.granted(&ask(&second)).await);
    let over = |kind: &str, id: &str| json!({ "kind": kind, "id": id }).to_string();
    let now = broker.now();
    let foreign = signed(broker, "sso", now, &over("pipeline", "1234:77")).await;
    assert_eq!((foreign.status, foreign.error()), (403, "access_denied"));
    let elsewhere = signed(broker, "ci", now, &over("session", "session-1")).await;
    assert_eq!(
        (elsewhere.status, elsewhere.error()),
        (403, "access_denied")
    );
    assert!(broker.is_active(&one).await);
    let ended = signed(broker, "sso", now, &over("session", "session-1")).await;
    assert_eq!(ended.status, 204, "{}", ended.body);
    assert!(!broker.is_active(&one).await);
    assert!(broker.is_active(&other).await, "another sign-in of theirs");
    let late = broker.exchange(&ask(&first)).await;
    assert_refused(&late, Reason::Held, "signed out");
}
