//! Clients from their registries, unmodified, complete their flows.

mod gateways;
mod mcp;
mod secure;

use crate::support::broker::{Setup, TestBroker};
use crate::support::tools;
use crate::support::world::key;
use dayfly::jose::SigningKey;
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

/// An intent that confirms the key of the client's DPoP proofs.
fn confirming(broker: &TestBroker, subject_token: Option<&str>, key: &SigningKey) -> String {
    let mut claims = robot_claims(broker, subject_token);
    claims["cnf"] = json!({ "jkt": key.thumbprint() });
    broker.sign_intent(&claims)
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
    broker.sign_intent(&robot_claims(broker, subject_token))
}

/// What a client needs for `client_credentials` and for an exchange.
fn both_grants(broker: &TestBroker) -> [String; 6] {
    let token = robot_token(broker);
    let (intent, exchange_intent) = (
        robot_intent(broker, None),
        robot_intent(broker, Some(&token)),
    );
    [
        broker.url.clone(),
        "robot".to_owned(),
        key_file(broker),
        token,
        intent,
        exchange_intent,
    ]
}

fn robot_claims(broker: &TestBroker, subject_token: Option<&str>) -> Value {
    let mut claims = broker.intent_claims(subject_token.unwrap_or(""));
    for name in ["iss", "sub", "client_id"] {
        claims[name] = json!("robot");
    }
    claims["mission"]["id"] = json!("robot");
    if subject_token.is_none() {
        claims.as_object_mut().unwrap().remove("subject_token_hash");
    }
    claims
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
    let arguments = both_grants(&broker);
    let arguments = arguments.each_ref().map(String::as_str);
    let said = tools::node(&folder, "openid_client.mjs", &arguments).await;
    assert!(broker.is_active(said["granted"].as_str().unwrap()).await);
    assert_eq!(said["type"], "bearer");
    assert_eq!(said["before"], true);
    assert_eq!(said["audience"], "https://deploy.example");
    assert_eq!(said["after"], json!({ "active": false }));
}

/// Its first request has no nonce: it is refused, learns one, and is sent again by the library itself.
#[tokio::test(flavor = "multi_thread")]
async fn openid_client_proves_its_key_by_dpop_and_takes_the_nonce_it_is_given() {
    let Some(folder) = tools::node_folder() else {
        return;
    };
    let broker = broker().await;
    let proof_key = key();
    let proof_file = write(
        &broker,
        "proof.jwk.json",
        proof_key.to_private_jwk().expose(),
    );
    assert!(!broker.nonce().await.is_empty(), "nonces are demanded");
    let token = robot_token(&broker);
    let arguments = [
        broker.url.as_str(),
        "robot",
        &key_file(&broker),
        &proof_file,
        &token,
        &confirming(&broker, None, &proof_key),
        &confirming(&broker, Some(&token), &proof_key),
    ];
    let said = tools::node(&folder, "openid_dpop.mjs", &arguments).await;
    assert!(
        said["algorithms"]
            .as_array()
            .unwrap()
            .contains(&json!("ES256"))
    );
    let tokens = said["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2);
    for issued in tokens {
        assert_eq!(issued[0], "dpop");
        let told = broker.introspect(issued[1].as_str().unwrap()).await.body;
        assert_eq!(
            (&told["active"], &told["token_type"]),
            (&json!(true), &json!("DPoP"))
        );
        assert_eq!(told["cnf"], json!({ "jkt": proof_key.thumbprint() }));
    }
}
