//! Clients from their registries, unmodified, complete their flows.

mod mcp;
mod secure;

use crate::support::broker::{Setup, TestBroker};
use crate::support::tools;
use serde_json::{Value, json};
use tokio::process::Command;

/// A mission for clients that can send nothing but their platform's token, and an agent that
/// authenticates with its own key, as authlib does it.
const STOCK: &str = r#"
[agent.robot]
owner = "platform@acme.example"
purpose = "Uses stock OAuth clients"
ends = 2099-01-01
identity = [
  { client = { keys = "file:deployer.jwks.json", legacy_audience = true } },
  { issuer = "ci", subject = "robot" },
]
limits = { active = 100, per_minute = 100000 }

[mission.stock]
agents = ["deployer", "robot"]
owner = "sre@acme.example"
purpose = "Read what is deployed"
signer = "platform"
max_active = 50
ttl = "5m"
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/checkout"] }]

[mission.robot]
agents = ["robot"]
owner = "sre@acme.example"
purpose = "Deploy with a signed intent"
ttl = "5m"
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]

[resource_server.openid]
secret = "file:server.secret"
audiences = ["deploy-api"]
"#;

async fn broker() -> TestBroker {
    TestBroker::with(Setup {
        more: STOCK.to_owned(),
        ..Setup::default()
    })
    .await
}

fn write(broker: &TestBroker, name: &str, text: &str) -> String {
    let path = broker.folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The private key with its id, as JOSE libraries expect it.
fn key_file(broker: &TestBroker) -> String {
    let mut jwk: Value = serde_json::from_str(broker.key.to_private_jwk().expose()).unwrap();
    jwk["kid"] = json!(broker.key.verifying().kid());
    write(broker, "agent.jwk.json", &jwk.to_string())
}

/// The robot has a platform, too: where a client sends a workload token and an assertion, both must
/// be the same agent's.
fn robot_token(broker: &TestBroker) -> String {
    let mut claims = broker.platform_claims();
    claims["sub"] = json!("robot");
    claims["repository_id"] = json!("5678");
    broker.issuer.sign(&claims)
}

/// An intent of the robot, bound to a subject token where there is one.
fn robot_intent(broker: &TestBroker, subject_token: Option<&str>) -> String {
    let mut claims = broker.intent_claims(subject_token.unwrap_or(""));
    for name in ["iss", "sub", "client_id"] {
        claims[name] = json!("robot");
    }
    claims["mission"]["id"] = json!("robot");
    if subject_token.is_none() {
        claims.as_object_mut().unwrap().remove("subject_token_hash");
    }
    broker.sign_intent(&claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn google_auth_in_python_gets_and_refreshes_a_credential() {
    let Some(python) = tools::python() else {
        return;
    };
    let broker = broker().await;
    let file = write(&broker, "token", &broker.platform_token());
    let mut command = Command::new(python);
    command.arg(tools::script("google_auth.py")).args([
        broker.url.as_str(),
        &file,
        "deploy-api",
        "mission:stock",
    ]);
    let said = tools::json_of(command).await;
    assert_eq!(said["expires"], true);
    assert!(broker.is_active(said["token"].as_str().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn google_auth_in_node_gets_a_credential() {
    let Some(folder) = tools::node_folder() else {
        return;
    };
    let broker = broker().await;
    let file = write(&broker, "token", &broker.platform_token());
    let arguments = [broker.url.as_str(), &file, "deploy-api", "mission:stock"];
    let said = tools::node(&folder, "google_auth.mjs", &arguments).await;
    assert!(broker.is_active(said["token"].as_str().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn authlib_completes_both_grants_introspects_and_revokes() {
    let Some(python) = tools::python() else {
        return;
    };
    let broker = broker().await;
    let key = key_file(&broker);
    let intent = robot_intent(&broker, None);
    let token = robot_token(&broker);
    let mut command = Command::new(python);
    command.arg(tools::script("authlib_client.py")).args([
        broker.url.as_str(),
        "robot",
        &key,
        &token,
        &intent,
    ]);
    let said = tools::json_of(command).await;
    assert!(broker.is_active(said["plain"].as_str().unwrap()).await);
    assert!(broker.is_active(said["signed"].as_str().unwrap()).await);
    assert_eq!(said["before"], true);
    assert_eq!(said["revoked"], 200);
    assert_eq!(said["after"], json!({ "active": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn openid_client_discovers_completes_both_grants_introspects_and_revokes() {
    let Some(folder) = tools::node_folder() else {
        return;
    };
    let broker = broker().await;
    let key = key_file(&broker);
    let token = robot_token(&broker);
    let intent = robot_intent(&broker, None);
    let exchange_intent = robot_intent(&broker, Some(&token));
    let arguments = [
        broker.url.as_str(),
        "robot",
        &key,
        &token,
        &intent,
        &exchange_intent,
    ];
    let said = tools::node(&folder, "openid_client.mjs", &arguments).await;
    assert!(broker.is_active(said["granted"].as_str().unwrap()).await);
    assert_eq!(said["type"], "bearer");
    assert_eq!(said["before"], true);
    assert_eq!(said["audience"], "https://deploy.example");
    assert_eq!(said["after"], json!({ "active": false }));
}
