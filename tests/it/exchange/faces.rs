//! Who may not know what exists is told one thing.

use crate::support::broker::{Answer, with, without};
use crate::support::world::{World, assert_refused, key};
use dayfly::broker::Reason;
use serde_json::{Value, json};

/// Everything that the wire carried, without what must differ.
fn face(answer: &Answer) -> (u16, Vec<String>, Value) {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    let mut body = answer.body.clone();
    body["refusal_id"] = json!("");
    (answer.status, headers, body)
}

/// A request with a key of its own, which proves everything but that it is somebody.
fn bound(world: &World, subject: &str, agent: &str, mission: &str) -> Vec<(String, String)> {
    let broker = &world.broker;
    let own = key();
    let mut claims = broker.platform_claims();
    claims["sub"] = json!(subject);
    claims["aud"] = json!(format!("{}#jkt={}", broker.url, own.thumbprint()));
    let token = broker.issuer.sign(&claims);
    let mut claims = broker.intent_claims(&token);
    for name in ["iss", "sub", "client_id"] {
        claims[name] = json!(agent);
    }
    claims["mission"]["id"] = json!(mission);
    let intent = own.sign("intent+jwt", None, &claims, true).unwrap();
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &intent)
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_suspended_agents_and_foreign_missions_look_alike() {
    const DEPLOYER: &str = "repo:acme/checkout:ref:refs/heads/main";
    const SLEEPER: &str = "repo:acme/sleeper";
    let world = World::start().await;
    let broker = &world.broker;
    let ask = |subject: &str, agent: &str, mission: &str| {
        let form = bound(&world, subject, agent, mission);
        async move { broker.exchange(&form).await }
    };
    let fine = ask(DEPLOYER, "deployer", "deploy-checkout").await;
    assert_eq!(fine.status, 200, "{}", fine.body);
    let held = broker.revoke(json!({ "agent": "sleeper" })).await;
    assert_eq!(held.status, 200, "{}", held.body);

    let unknown = ask("repo:evil/fork", "deployer", "deploy-checkout").await;
    assert_refused(&unknown, Reason::UnknownAgent, "unknown");
    let expected = face(&unknown);
    let elsewhere = "https://nowhere.example";
    let others = [
        ("suspended", ask(SLEEPER, "sleeper", "robot-work").await),
        (
            "a foreign mission",
            ask(DEPLOYER, "deployer", "robot-work").await,
        ),
        (
            "no such mission",
            ask(DEPLOYER, "deployer", "no-such").await,
        ),
        (
            "another agent's name",
            ask(DEPLOYER, "robot", "deploy-checkout").await,
        ),
        (
            "an unknown agent's name",
            ask(DEPLOYER, "nobody", "deploy-checkout").await,
        ),
        (
            "suspended, and named wrongly",
            ask(SLEEPER, "deployer", "deploy-checkout").await,
        ),
        ("an unknown target and no mission", {
            let bare = without(broker.good_form(), "intent");
            broker.exchange(&with(bare, "audience", "no-such")).await
        }),
        ("a target of somebody else's and no mission", {
            let form = world.once_form(&world.sign_once(&world.once_claims()));
            broker
                .exchange(&with(form, "audience", "metrics-key"))
                .await
        }),
        ("a client_id that is another agent's", {
            let form = with(broker.good_form(), "client_id", "robot");
            broker.exchange(&form).await
        }),
        ("a resource that nobody has and no mission", {
            let bare = without(without(broker.good_form(), "intent"), "audience");
            broker.exchange(&with(bare, "resource", elsewhere)).await
        }),
    ];
    for (what, answer) in &others {
        assert_eq!(face(answer), expected, "{what}");
    }
    let held = broker
        .revoke(json!({ "owner": "nights@acme.example" }))
        .await;
    assert_eq!(held.status, 200, "{}", held.body);
    let answer = ask(SLEEPER, "sleeper", "robot-work").await;
    assert_eq!(face(&answer), expected, "an owner that is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_learns_exactly_what_is_wrong_within_its_own_mission() {
    let world = World::start().await;
    let broker = &world.broker;
    let ask = |pointer: &str, value: Value| {
        let token = broker.platform_token();
        let mut claims = broker.intent_claims(&token);
        *claims.pointer_mut(pointer).unwrap() = value;
        let form = with(broker.good_form(), "subject_token", &token);
        let form = with(form, "intent", &broker.sign_intent(&claims));
        async move { broker.exchange(&form).await }
    };
    let details = "/authorization_details/0";
    let cases = [
        (
            Reason::ExceedsMission,
            "actions",
            json!(["deploy:write", "deploy:delete"]),
            "authorization_details[0].actions[1]",
        ),
        (
            Reason::ExceedsMission,
            "locations",
            json!(["https://deploy.example/payroll"]),
            "authorization_details[0].locations[0]",
        ),
        (
            Reason::InvalidAuthorizationDetails,
            "type",
            json!("api_key"),
            "authorization_details[0].type",
        ),
        (
            Reason::UnknownTarget,
            "identifier",
            json!("no-such"),
            "authorization_details[0].identifier",
        ),
    ];
    for (reason, name, value, at) in cases {
        let answer = ask(&format!("{details}/{name}"), value).await;
        assert_refused(&answer, reason, at);
        assert_eq!(answer.reason(), reason.code(), "{}", answer.body);
        assert_eq!(answer.body["at"], at, "{}", answer.body);
    }
    let mut claims = broker.platform_claims();
    claims["environment"] = json!("staging");
    let token = broker.issuer.sign(&claims);
    let form = with(broker.good_form(), "subject_token", &token);
    let intent = broker.sign_intent(&broker.intent_claims(&token));
    let answer = broker.exchange(&with(form, "intent", &intent)).await;
    assert_refused(&answer, Reason::RequirementUnmet, "another environment");
    assert_eq!(answer.reason(), "requirement_unmet");
    claims.as_object_mut().unwrap().remove("run_id");
    claims["environment"] = json!("production");
    let token = broker.issuer.sign(&claims);
    let form = with(broker.good_form(), "subject_token", &token);
    let intent = broker.sign_intent(&broker.intent_claims(&token));
    let answer = broker.exchange(&with(form, "intent", &intent)).await;
    assert_refused(&answer, Reason::TetherMissing, "no run");
}
