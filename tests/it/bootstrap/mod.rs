//! Where a caller's identity comes from before Dayfly knows it: each platform's own proof, in its
//! real shape, through a whole exchange.

mod aws;
mod keys;
mod presets;
mod single_use;
mod token_review;

use crate::support::broker::{Answer, TestBroker, b64, form, sha256, unique};
use serde_json::{Value, json};

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// An agent of this name and identity, and a mission for it alone on `deploy-api`.
fn agent(name: &str, identity: &str, more: &str) -> String {
    format!(
        r#"
[agent.{name}]
owner = "payments@acme.example"
purpose = "Runs on a platform"
ends = 2099-01-01
identity = {identity}
intent_keys = "file:deployer.jwks.json"
limits = {{ active = 100, per_minute = 100000 }}

[mission.of-{name}]
agents = ["{name}"]
owner = "sre@acme.example"
purpose = "Deploy from a platform"
allow = [{{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }}]
{more}
"#
    )
}

/// The claims of this agent's intent; `token` ties it to the proof beside it.
fn intent(broker: &TestBroker, agent: &str, token: Option<&str>) -> Value {
    let now = broker.now();
    let mut claims = json!({
        "iss": agent, "sub": agent, "client_id": agent, "aud": broker.url,
        "iat": now, "exp": now + 120, "jti": unique(),
        "mission": { "id": format!("of-{agent}") },
        "authorization_details": [{
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
        }],
        "intent": { "goal": "Deploy checkout 1.42" },
    });
    if let Some(token) = token {
        claims["subject_token_hash"] = json!(b64(&sha256(token.as_bytes())));
    }
    claims
}

fn exchange_form(token: &str, kind: &str, intent: &str) -> Vec<(String, String)> {
    form(&[
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token", token),
        ("subject_token_type", kind),
        ("audience", "deploy-api"),
        ("intent", intent),
    ])
}

/// An exchange of this proof, with an intent of the agent's registered key.
async fn ask(broker: &TestBroker, agent: &str, token: &str, kind: &str) -> Answer {
    let intent = broker.sign_intent(&intent(broker, agent, Some(token)));
    broker.exchange(&exchange_form(token, kind, &intent)).await
}

/// One claim of a token changed, by its JSON pointer; `null` takes it out.
fn changed(claims: &Value, pointer: &str, value: &Value) -> Value {
    let mut claims = claims.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    let name = name.replace("~1", "/");
    assert!(parent.contains_key(&name), "{pointer} is not in the token");
    match value {
        Value::Null => drop(parent.remove(&name)),
        value => drop(parent.insert(name, value.clone())),
    }
    claims
}
