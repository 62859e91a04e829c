//! Clients that speak https alone.

use super::{STOCK, both_grants, key_file};
use crate::support::broker::{Setup, TestBroker};
use crate::support::tools;
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::json;
use tokio::process::Command;

/// An agent whose only key is RSA's, whose clients name the token endpoint.
const SERVICE: &str = r#"
[agent.service]
owner = "platform@acme.example"
purpose = "Uses requests-oauthlib"
ends = 2099-01-01
identity = { client = { keys = "file:deployer.jwks.json", legacy_audience = true } }

[mission.service]
agents = ["service"]
owner = "sre@acme.example"
purpose = "Read what is deployed"
signer = "platform"
max_active = 5
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/checkout"] }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn requests_oauthlib_is_granted_by_its_assertion_in_either_place() {
    let Some(python) = tools::python() else {
        return;
    };
    let key = SigningKey::generate(Algorithm::Rs256).unwrap();
    let key = key.named_by_thumbprint();
    let broker = TestBroker::with(Setup {
        key: Some(key),
        more: SERVICE.to_owned(),
        tls: true,
        ..Setup::default()
    })
    .await;
    let key = key_file(&broker);
    let mut command = Command::new(python);
    command
        .arg(tools::script("requests_oauthlib_client.py"))
        .args([broker.url.as_str(), "service", &key])
        .args(["https://deploy.example", "deploy:read"])
        .env("REQUESTS_CA_BUNDLE", broker.folder.path().join("ca.pem"));
    let said = tools::json_of(command).await;
    for way in ["grant", "client"] {
        let token = &said[way];
        assert_eq!(token["token_type"], "Bearer");
        assert_eq!(token["mission"], "service");
        assert!(
            broker
                .is_active(token["access_token"].as_str().unwrap())
                .await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oauth4webapi_finds_nothing_to_object_to() {
    let Some(folder) = tools::node_folder() else {
        return;
    };
    let broker = TestBroker::with(Setup {
        more: STOCK.to_owned(),
        tls: true,
        ..Setup::default()
    })
    .await;
    let arguments = both_grants(&broker);
    let arguments = arguments.each_ref().map(String::as_str);
    let trusted = broker.folder.path().join("ca.pem");
    let trusted = [("NODE_EXTRA_CA_CERTS", trusted.as_path())];
    let said = tools::node_with(&folder, "oauth4webapi_client.mjs", &arguments, &trusted).await;
    assert!(broker.is_active(said["granted"].as_str().unwrap()).await);
    assert_eq!(said["before"], true);
    assert_eq!(said["signed"], true);
    assert_eq!(said["after"], json!({ "active": false }));
    // The same intent again.
    let spent = json!({ "error": "invalid_request", "status": 400 });
    assert_eq!(said["refused"], spent);
}
