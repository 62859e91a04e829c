//! The document says what the doors do: an independent tool reads it and tries them.

use crate::support::broker::{Answer, SERVER_SECRET, Setup, TestBroker, b64, sha256, unique, with};
use crate::support::issuer::Issuer;
use crate::support::tools;
use crate::support::world::{ASKS_PEOPLE, EXCHANGE, JWT, World};
use dayfly::http::routes::{Listener, TABLE};
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::process::Command;

/// A world with an operator who may do everything, and a target with an issuer of its own.
async fn world() -> (World, String) {
    let issuer = Arc::new(Issuer::start().await);
    let more = format!(
        r#"
[operators]
issuer = "{}"
audience = "operators"
algorithms = ["RS256"]
roles = [{{ role = "admin", claims = {{ groups = "admins" }} }}]

[target.aws-prod]
kind = "aws"
role = "arn:aws:iam::111122223333:role/deploy"
ceiling = {{ actions = ["ecs:*"], locations = ["arn:aws:ecs:*:111122223333:*"] }}

[agent.backup]
owner = "storage@acme.example"
purpose = "Copies the database every night"
ends = 2099-01-01
identity = {{ client = {{ enrol = true }} }}

[mission.tidy]
agents = []
allow_registered = true
owner = "sre@acme.example"
purpose = "Tidy up"
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/x"] }}]

[source.gitlab]
kind = "gitlab"
secret = "file:hook.secret"
issuer = "ci"
ends = ["1234"]

[source.people]
kind = "scim"
secret = "file:hook.secret"
ends = ["acme.example"]
"#,
        issuer.url
    ) + ASKS_PEOPLE;
    let world = World::with(Setup {
        issuer: Some(issuer),
        // Who tries every door may ask often.
        broker: "config = \"published\"\nlimits = { requests_per_second = 100000, requests_burst = 100000 }".to_owned(),
        more,
        ..Setup::default()
    })
    .await;
    let now = world.broker.now();
    let operator = world.broker.issuer.sign(&json!({
        "iss": world.broker.issuer.url, "sub": "octavia", "aud": "operators",
            "email": "octavia@acme.example",
        "iat": now, "exp": now + 300, "jti": unique(), "groups": ["admins"],
    }));
    (world, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn anyone_reads_it_and_it_speaks_of_this_broker() {
    let (world, _) = world().await;
    let url = format!("{}/openapi.json", world.broker.url);
    let answer = Answer::of(world.broker.http.get(url).send().await.unwrap()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.body["openapi"], "3.1.1");
    assert_eq!(answer.body["servers"], json!([{ "url": world.broker.url }]));
    // What the metadata of this broker offers, the document of its version has.
    let metadata = format!(
        "{}/.well-known/oauth-authorization-server",
        world.broker.url
    );
    let metadata = Answer::of(world.broker.http.get(metadata).send().await.unwrap()).await;
    let form = "/paths/~1token/post/requestBody/content/application~1x-www-form-urlencoded/schema";
    for (field, member) in [
        ("grant_type", "grant_types_supported"),
        ("client_assertion_type", "client_assertion_types_supported"),
    ] {
        let named = answer
            .body
            .pointer(&format!("{form}/properties/{field}/enum"));
        let named = named.unwrap().as_array().unwrap();
        let offered = metadata.body[member].as_array().unwrap();
        assert!(offered.iter().all(|value| named.contains(value)), "{field}");
    }
    // Nothing of the configuration is in it.
    let text = answer.body.to_string();
    for secret in ["robot-work", "once.example", "111122223333"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// A machine that was invited, and proves the key it brings.
async fn machine(broker: &TestBroker) -> Value {
    let path = "/agents/backup/invitations";
    let answer = broker.admin("POST", path, Some(json!({}))).await;
    let join_token = answer.body["join_token"].as_str().unwrap();
    let now = broker.now();
    let claims = json!({
        "iss": "backup", "sub": "backup", "aud": broker.url, "iat": now, "exp": now + 300,
        "join_token_hash": b64(&sha256(join_token.as_bytes())),
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let proof = key
        .named_by_thumbprint()
        .sign("enrolment+jwt", None, &claims, true);
    json!({ "join_token": join_token, "proof": proof.unwrap() })
}

/// What exists, for the cases that shall meet it.
async fn things(world: &World) -> Value {
    let broker = &world.broker;
    let issued = broker.issue().await;
    let receipt = broker.revoke(json!({ "task": unique() })).await;
    let restriction =
        json!({ "target": "deploy-api", "actions": ["deploy:x"], "reason": "a test" });
    let restricted = broker.admin("POST", "/restrictions", Some(restriction));
    let restricted = restricted.await.body;
    let lease = issued["lease_id"].clone();
    let mut stranger = broker.platform_claims();
    stranger["sub"] = json!("stranger");
    let knock = with(
        broker.good_form(),
        "subject_token",
        &broker.issuer.sign(&stranger),
    );
    assert_eq!(broker.exchange(&knock).await.status, 400);
    let sighting = crate::agents::sighted(broker, "stranger").await;
    let registration = json!({
        "agent": {
            "owner": "nights@acme.example", "purpose": "Tidies up", "ends": "2099-01-01",
            "identity": { "issuer": "ci", "subject": "night" }, "missions": ["tidy"],
        },
        "reason": "a test",
    });
    let registered = broker.admin("PUT", "/agents/night-worker", Some(registration.clone()));
    assert_eq!(registered.await.status, 200);
    let unreadable = crate::revocations::given_up::damaged(broker.composed.store.as_ref()).await;
    json!({
        "hook": "hook-secret",
        "paths": {
            "/admin/v1/leases/{id}": lease,
            "/admin/v1/leases/{id}/give-up": unreadable,
            "/admin/v1/revocations/{id}": receipt.body["id"],
            "/admin/v1/restrictions/{id}/lift": restricted["id"],
            "/admin/v1/agents/{id}": "night-worker",
            "/admin/v1/sightings/{id}": sighting["id"],
            "/admin/v1/approvals/{id}": world.put_to_people().await,
            "/admin/v1/approvals/{id}/approve": world.put_to_people().await,
            "/admin/v1/approvals/{id}/deny": world.put_to_people().await,
            "/federation/{target}/.well-known/openid-configuration": "aws-prod",
            "/federation/{target}/jwks": "aws-prod",
            "/.well-known/oauth-protected-resource/{resource}": "events",
            "/hooks/{source}": "gitlab",
            "/scim/v2/Users/{id}": "ann@acme.example",
            "/status/{list}": 0,
        },
        "bodies": {
            "/token": {
                "grant_type": EXCHANGE, "subject_token_type": JWT,
                "subject_token": broker.platform_token(),
                "audience": ["deploy-api"], "scope": "mission:nightly deploy:read",
            },
            "/enrol": machine(broker).await,
            "/introspect": { "token": issued["access_token"] },
            "/revoke": { "token": broker.issue().await["access_token"] },
            "/admin/v1/find": { "query": lease },
            "/admin/v1/explain": { "agent": "deployer" },
            "/admin/v1/keys/rotate": { "purpose": "checkpoint" },
            "/admin/v1/agents/{id}": registration,
            "/admin/v1/config": broker.publication(),
            "/scim/v2/Users/{id}": {
                "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
                "Operations": [{ "op": "replace", "path": "active", "value": false }],
            },
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_door_that_is_not_as_documented() {
    let Some(python) = tools::python() else {
        return;
    };
    let (world, operator) = world().await;
    let seen = world.broker.folder.path().join("seen");
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command
        .arg("--config-file")
        .arg(tools::script("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", world.broker.url))
        .current_dir(world.broker.folder.path())
        .env("DAYFLY_HOOKS", tools::script("schemathesis_hooks.py"))
        .env("DAYFLY_OPERATOR", operator)
        .env("DAYFLY_SERVER_SECRET", SERVER_SECRET)
        .env("DAYFLY_SEEN", &seen)
        .env("DAYFLY_WORLD", things(&world).await.to_string());
    let output = command.output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let more = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{more}");
    // It did not only knock: every door let it in. One is always shut, one is the document, which
    // the tool reads and does not try, and one has no end.
    let seen = std::fs::read_to_string(seen).unwrap();
    for route in TABLE.iter().filter(|route| {
        route.listener == Listener::Public
            && !["/authorize", "/openapi.json", "/events"].contains(&route.path)
    }) {
        let path = route.path.replace("{*", "{");
        let wanted = format!("{} {path} 20", route.method);
        assert!(
            seen.lines().any(|line| line.starts_with(&wanted)),
            "{} {} was never passed",
            route.method,
            route.path
        );
    }
}
