//! Agents that are registered through the interface, over the wire: the same at both replicas at once, read
//! as a file is read, and never against the files.

mod apart;
mod definitions;
mod kept;
mod offline;
mod recovered;

use crate::support::broker::{Answer, Setup, TestBroker, form, unique};
use crate::support::issuer::Issuer;
use crate::support::process::until;
use crate::support::world::{ASSERTION, assert_refused, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;

const MISSIONS: &str = r#"
[mission.tidy]
agents           = []
allow_registered = true
owner            = "sre@acme.example"
purpose          = "Tidy up at night"
allow            = [{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }]
"#;

fn memory() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory().unwrap())
}

fn setup(store: &Arc<dyn Store>) -> Setup {
    Setup {
        store: Some(Arc::clone(store)),
        more: MISSIONS.to_owned(),
        ..Setup::default()
    }
}

/// Another replica of the same installation.
async fn beside(broker: &TestBroker, store: &Arc<dyn Store>, setup: Setup) -> TestBroker {
    TestBroker::with(Setup {
        store: Some(Arc::clone(store)),
        issuer: Some(broker.issuer.clone()),
        key: Some(broker.key.clone()),
        public_url: Some(broker.url.clone()),
        ..setup
    })
    .await
}

async fn start() -> (TestBroker, Arc<dyn Store>) {
    let store = memory();
    (TestBroker::with(setup(&store)).await, store)
}

async fn two() -> (TestBroker, TestBroker, Arc<dyn Store>) {
    let (one, store) = start().await;
    let other = beside(&one, &store, setup(&store)).await;
    (one, other, store)
}

/// Good in every way.
fn definition(key: &SigningKey) -> Value {
    json!({
        "owner": "nights@acme.example",
        "purpose": "Tidies up at night",
        "ends": "2099-01-01",
        "identity": { "client": { "keys": { "keys": [key.public_jwk()] } } },
        "limits": { "per_minute": 1000 },
        "missions": ["tidy"],
    })
}

fn with(definition: &Value, key: &str, value: Value) -> Value {
    let mut changed = definition.clone();
    changed[key] = value;
    changed
}

async fn put(broker: &TestBroker, name: &str, agent: &Value) -> Answer {
    let body = json!({ "agent": agent, "reason": "a test says so" });
    broker
        .admin("PUT", &format!("/agents/{name}"), Some(body))
        .await
}

async fn registered(broker: &TestBroker, name: &str, agent: &Value) -> Value {
    let answer = put(broker, name, agent).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

async fn remove(broker: &TestBroker, name: &str) -> Answer {
    let path = format!("/agents/{name}?reason=over");
    broker.admin("DELETE", &path, None).await
}

fn codes(answer: &Answer) -> Vec<&str> {
    let problems = answer.body["problems"].as_array().unwrap().iter();
    problems.map(|one| one["code"].as_str().unwrap()).collect()
}

fn request(
    broker: &TestBroker,
    name: &str,
    key: &SigningKey,
    mission: &str,
) -> Vec<(String, String)> {
    let (now, kid) = (broker.now(), key.verifying().kid());
    let assertion = json!({
        "iss": name, "sub": name, "aud": broker.url, "iat": now, "exp": now + 60, "jti": unique(),
    });
    let intent = json!({
        "iss": name, "sub": name, "client_id": name, "aud": broker.url,
        "iat": now, "exp": now + 120, "jti": unique(), "mission": { "id": mission },
        "authorization_details": [{
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:read"], "locations": ["https://deploy.example/night"],
        }],
        "intent": { "goal": "Tidy up" },
    });
    form(&[
        ("grant_type", "client_credentials"),
        (
            "client_assertion",
            &key.sign("JWT", kid, &assertion, false).unwrap(),
        ),
        ("client_assertion_type", ASSERTION),
        ("audience", "deploy-api"),
        (
            "intent",
            &key.sign("intent+jwt", kid, &intent, false).unwrap(),
        ),
    ])
}

async fn ask(broker: &TestBroker, name: &str, key: &SigningKey) -> Answer {
    broker.exchange(&request(broker, name, key, "tidy")).await
}

async fn token(broker: &TestBroker, name: &str, key: &SigningKey) -> String {
    let answer = ask(broker, name, key).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_registered_gets_what_its_missions_allow_at_every_replica_and_after_a_start() {
    let (one, other, store) = two().await;
    let key = key();
    let before = ask(&one, "night-worker", &key).await;
    assert_refused(&before, Reason::InvalidClient, "before");
    registered(&one, "night-worker", &definition(&key)).await;
    let issued = token(&one, "night-worker", &key).await;
    until("the other replica has it", || async {
        ask(&other, "night-worker", &key).await.status == 200
    })
    .await;
    assert!(other.is_active(&issued).await);
    // A mission that it did not join is none of its own.
    let form = request(&one, "night-worker", &key, "deploy-checkout");
    let refused = one.exchange(&form).await;
    assert_refused(&refused, Reason::UnknownMission, "not its mission");
    let third = beside(&one, &store, setup(&store)).await;
    token(&third, "night-worker", &key).await;
    // The agents of the files go on.
    one.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_it_where_they_see_the_agents_of_the_files_and_review_it() {
    let (broker, _) = start().await;
    let key = key();
    let receipt = registered(&broker, "night-worker", &definition(&key)).await;
    token(&broker, "night-worker", &key).await;
    let shown = broker.admin("GET", "/agents/night-worker", None).await.body;
    assert_eq!(shown["state"], "active", "{shown}");
    assert_eq!(shown["missions"], json!(["tidy"]));
    assert_eq!(shown["live_leases"], 1);
    assert_eq!(shown["reach"][0]["target"], "deploy-api");
    assert_eq!(shown["registered"]["since"], receipt["number"]);
    assert_eq!(shown["registered"]["definition"], definition(&key));
    let all = broker.admin("GET", "/agents", None).await.body;
    let all = all["items"].as_array().unwrap().iter();
    let names: Vec<_> = all.map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["deployer", "night-worker"]);
    let asked = json!({
        "agent": "night-worker", "mission": "tidy",
        "authorization_details": [{
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:read"], "locations": ["https://deploy.example/x"],
        }],
    });
    let told = broker.admin("POST", "/explain", Some(asked)).await.body;
    assert_eq!(told["granted"], true, "{told}");
    let reviews = broker.admin("GET", "/reviews?all=true", None).await.body;
    let mut all = reviews["items"].as_array().unwrap().iter();
    assert!(all.any(|one| one["agent"]["id"] == "night-worker"));
    let keep = json!({ "subject": { "agent": "night-worker" }, "decision": "keep" });
    let reviewed = broker.admin("POST", "/reviews", Some(keep)).await;
    assert_eq!(reviewed.status, 200, "{}", reviewed.body);
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let mut all = audit["items"].as_array().unwrap().iter();
    let entry = all.find(|one| one["event"] == "agent_registered").unwrap();
    assert_eq!(entry["operator"], "development-operator", "{entry}");
    assert_eq!(entry["reason"], "a test says so");
    assert_eq!(entry["detail"]["definition"], definition(&key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_that_lets_nobody_join_a_name_of_the_files_and_labels_are_refused() {
    let (broker, _) = start().await;
    let good = definition(&key());
    let answer = put(&broker, "deployer", &good).await;
    assert_refused(&answer, Reason::AgentRefused, "a name of the files");
    assert_eq!(codes(&answer), ["duplicate"]);
    let unlisted = with(&good, "missions", json!(["deploy-checkout"]));
    let answer = put(&broker, "night-worker", &unlisted).await;
    assert_refused(&answer, Reason::AgentRefused, "a mission that says nothing");
    assert_eq!(codes(&answer), ["unknown_mission"]);
    let labelled = with(&good, "labels", json!({ "env": "dev" }));
    let answer = put(&broker, "night-worker", &labelled).await;
    assert!(codes(&answer).contains(&"unknown_key"), "{}", answer.body);
    let reads = with(&good, "intent_keys", json!("file:sealing.key"));
    let answer = put(&broker, "night-worker", &reads).await;
    assert_eq!(codes(&answer), ["bad_reference"], "{}", answer.body);
    let shown = broker.admin("GET", "/agents/night-worker", None).await;
    assert_eq!(shown.status, 404);
    let removed = remove(&broker, "deployer").await;
    assert_refused(&removed, Reason::NotFound, "an agent of the files");
    broker.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_removed_holds_nothing_at_any_replica_and_a_namesake_inherits_nothing() {
    let (one, other, _) = two().await;
    let (first, second) = (key(), key());
    registered(&one, "night-worker", &definition(&first)).await;
    let held = token(&one, "night-worker", &first).await;
    until("the other knows it", || async {
        other.is_active(&held).await
    })
    .await;
    let removed = remove(&one, "night-worker").await;
    assert_eq!(removed.status, 200, "{}", removed.body);
    assert!(!one.is_active(&held).await);
    let refused = ask(&one, "night-worker", &first).await;
    assert_refused(&refused, Reason::InvalidClient, "removed");
    until("it is dead at the other", || async {
        !other.is_active(&held).await
    })
    .await;
    let refused = ask(&other, "night-worker", &first).await;
    assert_refused(&refused, Reason::InvalidClient, "removed");
    let again = remove(&one, "night-worker").await;
    assert_refused(&again, Reason::NotFound, "nobody");
    // Before the name comes again, which ends what is not confirmed dead yet once more.
    one.is_confirmed("agent", "night-worker", 1).await;
    registered(&other, "night-worker", &definition(&second)).await;
    assert!(!other.is_active(&held).await);
    token(&other, "night-worker", &second).await;
    let refused = ask(&other, "night-worker", &first).await;
    assert_refused(&refused, Reason::InvalidClient, "a namesake's key");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_namesake_of_the_files_held_is_dead_when_somebody_is_registered() {
    let (one, store) = start().await;
    let (files, own) = (key(), key());
    let namesake = format!(
        "{MISSIONS}\n[agent.night-worker]\nowner = \"sre@acme.example\"\npurpose = \"Was there\"\n\
         ends = 2099-01-01\nidentity = {{ client = {{ keys = {} }} }}\n",
        crate::support::world::inline_keys(&files)
    )
    .replace("agents           = []", "agents = [\"night-worker\"]");
    let before = Setup {
        more: namesake,
        ..setup(&store)
    };
    let older = beside(&one, &store, before).await;
    let held = token(&older, "night-worker", &files).await;
    assert!(one.is_active(&held).await);
    registered(&one, "night-worker", &definition(&own)).await;
    assert!(!one.is_active(&held).await);
    // And where the files have the name neither gets anything, until the one that is registered is removed.
    let refused = ask(&older, "night-worker", &own).await;
    assert_refused(&refused, Reason::InvalidClient, "the files' name");
    until("the other knows it", || async {
        ask(&older, "night-worker", &files).await.status != 200
    })
    .await;
    let refused = ask(&older, "night-worker", &files).await;
    assert_refused(&refused, Reason::AgentNotInStanding, "two of one name");
    let shown = older.admin("GET", "/agents/night-worker", None).await.body;
    assert_eq!(shown["owner"], "sre@acme.example");
    assert_eq!(shown["registered"]["problems"][0]["code"], "duplicate");
    assert_eq!(remove(&older, "night-worker").await.status, 200);
    token(&older, "night-worker", &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_something_away_ends_what_it_holds_and_what_only_says_something_does_not() {
    let (broker, _) = start().await;
    let (first, second) = (key(), key());
    let good = definition(&first);
    registered(&broker, "night-worker", &good).await;
    let held = token(&broker, "night-worker", &first).await;
    let renamed = with(&good, "purpose", json!("Tidies up"));
    let receipt = registered(&broker, "night-worker", &renamed).await;
    assert_eq!(receipt["ended"], false);
    assert!(broker.is_active(&held).await);
    // The same once more is the same: its answer may have been lost.
    let again = registered(&broker, "night-worker", &renamed).await;
    assert_eq!(again["number"], receipt["number"]);
    let stale = json!({ "agent": renamed, "reason": "a test says so", "after": 0 });
    let stale = broker.admin("PUT", "/agents/night-worker", Some(stale));
    let stale = stale.await;
    assert_refused(&stale, Reason::RegisteredMeanwhile, "the same, late");
    let receipt = registered(&broker, "night-worker", &definition(&second)).await;
    assert_eq!(receipt["ended"], true);
    assert!(!broker.is_active(&held).await);
    let refused = ask(&broker, "night-worker", &first).await;
    assert_refused(&refused, Reason::InvalidClient, "a key that is gone");
    token(&broker, "night-worker", &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_register_at_once_one_is_told_and_asks_again() {
    let (one, other, _) = two().await;
    let keys = [key(), key()];
    let body = |key: &SigningKey| {
        let agent = definition(key);
        Some(json!({ "agent": agent, "reason": "a test says so", "after": 0 }))
    };
    let (a, b) = tokio::join!(
        one.admin("PUT", "/agents/first", body(&keys[0])),
        other.admin("PUT", "/agents/second", body(&keys[1])),
    );
    let mut told = [a.status, b.status];
    told.sort_unstable();
    assert_eq!(told, [200, 409], "{} {}", a.body, b.body);
    let (lost, name, key) = match a.status == 409 {
        true => (a, "first", &keys[0]),
        false => (b, "second", &keys[1]),
    };
    assert_refused(&lost, Reason::RegisteredMeanwhile, "the slower one");
    registered(&one, name, &definition(key)).await;
    for (name, key) in ["first", "second"].iter().zip(&keys) {
        until("the other has both", || async {
            ask(&other, name, key).await.status == 200
        })
        .await;
    }
    let path = "/agents/first?reason=over&after=1";
    let stale = one.admin("DELETE", path, None).await;
    assert_refused(&stale, Reason::RegisteredMeanwhile, "not what stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_registers_and_never_by_break_glass_and_a_policy_may_forbid_it() {
    let store = memory();
    let issuer = Arc::new(Issuer::start().await);
    let rules = ["viewer", "reviewer", "operator", "admin"]
        .map(|role| format!("{{ role = \"{role}\", claims = {{ groups = \"{role}\" }} }}"))
        .join(", ");
    let operators = format!(
        "[operators]\nissuer = \"{}\"\naudience = \"operators\"\nalgorithms = [\"RS256\"]\nroles = [{rules}]\n",
        issuer.url,
    );
    let forbid = "@reason(\"freeze\")\nforbid (principal, action == Dayfly::Action::\"removeAgent\", resource);";
    let broker = TestBroker::with(Setup {
        issuer: Some(issuer.clone()),
        more: format!("{MISSIONS}{operators}"),
        policies: vec![("policies/freeze.cedar".to_owned(), forbid.to_owned())],
        ..setup(&store)
    })
    .await;
    let now = broker.now();
    let url = format!("{}/admin/v1/agents/night-worker", broker.at);
    let body = json!({ "agent": definition(&key()), "reason": "a test says so" });
    for (role, allowed) in [
        ("viewer", 403),
        ("reviewer", 403),
        ("operator", 403),
        ("admin", 200),
    ] {
        let signed = broker.issuer.sign(&json!({
            "iss": issuer.url, "sub": "octavia", "aud": "operators",
            "iat": now, "exp": now + 300, "jti": unique(), "groups": role,
        }));
        let sent = broker.http.put(&url).bearer_auth(&signed).json(&body);
        let sent = sent.send().await.unwrap();
        assert_eq!(sent.status().as_u16(), allowed, "{role}");
        let over = format!("{url}?reason=over");
        let sent = broker.http.delete(&over).bearer_auth(&signed).send().await;
        assert_eq!(sent.unwrap().status().as_u16(), 403, "{role}");
    }
    let glass = dayfly::broker::Operator {
        subject: None,
        name: "glass".to_owned(),
        role: dayfly::broker::Role::Admin,
        break_glass: true,
    };
    let request = serde_json::from_value(body).unwrap();
    let door = &broker.composed.broker;
    let refused = door.register(&glass, "other".parse().unwrap(), request);
    assert_eq!(refused.await.unwrap_err().reason, Reason::NotPermitted);
    let said = ("over".to_owned(), None);
    let refused = door.remove_agent(&glass, "night-worker".parse().unwrap(), said);
    assert_eq!(refused.await.unwrap_err().reason, Reason::NotPermitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_left_owns_nothing_new_and_what_they_registered_is_held() {
    let store = memory();
    let source = "[source.people]\nkind = \"scim\"\nsecret = \"file:scim.secret\"\nends = [\"acme.example\"]\n";
    let broker = TestBroker::with(Setup {
        more: format!("{MISSIONS}{source}"),
        files: vec![(
            "scim.secret".to_owned(),
            "scim-secret-of-the-tests".to_owned(),
        )],
        ..setup(&store)
    })
    .await;
    let key = key();
    registered(&broker, "night-worker", &definition(&key)).await;
    let held = token(&broker, "night-worker", &key).await;
    let left = json!({ "userName": "nights@acme.example", "active": false });
    let sent = broker
        .http
        .post(format!("{}/hooks/people", broker.at))
        .bearer_auth("scim-secret-of-the-tests")
        .json(&left)
        .send()
        .await
        .unwrap();
    assert!(sent.status().is_success(), "{}", sent.status());
    assert!(!broker.is_active(&held).await);
    let refused = ask(&broker, "night-worker", &key).await;
    assert_refused(&refused, Reason::AgentNotInStanding, "its owner has left");
    let again = put(&broker, "night-worker", &definition(&key)).await;
    assert_refused(&again, Reason::AgentRefused, "the same once more");
    let another = with(
        &definition(&self::key()),
        "owner",
        json!("Nights@acme.example"),
    );
    let answer = put(&broker, "other", &another).await;
    assert_refused(&answer, Reason::AgentRefused, "their owner has left");
    assert_eq!(codes(&answer), ["bad_value"]);
}
