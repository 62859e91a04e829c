//! Operators by their identity provider's token, and the token for when that is down.

use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker, sha256, unique};
use crate::support::issuer::Issuer;
use dayfly::broker::operators::BreakGlass;
use dayfly::store::{Outcome, Transaction, Write};
use serde_json::{Value, json};
use std::sync::Arc;

async fn start() -> TestBroker {
    let issuer = Arc::new(Issuer::start().await);
    let more = format!(
        r#"
[operators]
issuer = "{}"
audience = "dayfly-operators"
algorithms = ["RS256"]
roles = [
  {{ role = "viewer", claims = {{ groups = "staff" }} }},
  {{ role = "reviewer", claims = {{ groups = "reviewers" }} }},
  {{ role = "operator", claims = {{ groups = "sre" }} }},
  {{ role = "admin", claims = {{ groups = "sre", amr = "hwk" }} }},
]
"#,
        issuer.url
    );
    TestBroker::with(Setup {
        issuer: Some(issuer),
        more,
        ..Setup::default()
    })
    .await
}

fn claims(broker: &TestBroker, more: &Value) -> Value {
    let now = broker.now();
    let mut claims = json!({
        "iss": broker.issuer.url, "sub": "octavia", "email": "octavia@acme.example",
        "aud": "dayfly-operators", "iat": now, "exp": now + 300, "jti": unique(),
    });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub async fn ask(
    broker: &TestBroker,
    bearer: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Answer {
    let url = format!("{}/admin/v1{path}", broker.url);
    let request = broker.http.request(method.parse().unwrap(), url);
    let mut request = request.bearer_auth(bearer);
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::of(request.send().await.unwrap()).await
}

fn revocation() -> Option<Value> {
    Some(json!({ "selector": { "task": "none" }, "reason": "x" }))
}

fn explained() -> Option<Value> {
    Some(json!({ "agent": "deployer", "authorization_details": [] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_what_the_claims_say_and_no_more() {
    let broker = start().await;
    let rotate = || Some(json!({ "purpose": "introspection" }));
    for (more, viewer, reviewer, operator, admin) in [
        (json!({ "groups": "staff" }), true, false, false, false),
        (
            json!({ "groups": ["guests", "reviewers"] }),
            true,
            true,
            false,
            false,
        ),
        (
            json!({ "groups": ["staff", "sre"] }),
            true,
            true,
            true,
            false,
        ),
        (
            json!({ "groups": ["sre"], "amr": ["pwd", "hwk"] }),
            true,
            true,
            true,
            true,
        ),
        (json!({ "groups": ["guests"] }), false, false, false, false),
        (json!({ "amr": "hwk" }), false, false, false, false),
    ] {
        let token = broker.issuer.sign(&claims(&broker, &more));
        for (allowed, method, path, body) in [
            (viewer, "GET", "/leases", None),
            (reviewer, "POST", "/explain", explained()),
            (operator, "POST", "/revocations", revocation()),
            (admin, "POST", "/keys/rotate", rotate()),
        ] {
            let answer = ask(&broker, &token, method, path, body).await;
            let expected = if allowed { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{more} {path}: {}", answer.body);
        }
    }
    // Whoever did it is in the audit by name.
    let audit = broker.admin("GET", "/audit", None).await.body.to_string();
    assert!(audit.contains("octavia@acme.example"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_an_operators_opens_nothing() {
    let broker = start().await;
    let sre = json!({ "groups": "sre" });
    let spoil = |name: &str, value: Value| {
        let mut claims = claims(&broker, &sre);
        claims[name] = value;
        broker.issuer.sign(&claims)
    };
    let issued = broker.issue().await;
    for (what, token) in [
        ("a platform's token", broker.platform_token()),
        ("another audience", spoil("aud", json!("other"))),
        ("expired", spoil("exp", json!(broker.now() - 61))),
        (
            "another issuer",
            spoil("iss", json!("https://login.example")),
        ),
        (
            "a credential",
            issued["access_token"].as_str().unwrap().to_owned(),
        ),
        ("a guess", format!("{OPERATOR_TOKEN}x")),
        ("garbage", "x".to_owned()),
    ] {
        let answer = ask(&broker, &token, "GET", "/leases", None).await;
        assert_eq!(
            (answer.status, answer.error()),
            (401, "invalid_client"),
            "{what}"
        );
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer "), "{challenge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_revokes_while_the_identity_provider_is_down_and_never_lifts() {
    let broker = start().await;
    let issued = broker.issue().await;
    let token = "dayflyop_in-case-of-emergency";
    let record = json!({ "name": "safe-in-room-7", "made_at": broker.now() });
    let key = BreakGlass::key(token);
    let until = broker.composed.clock.now() + time::Duration::seconds(30);
    let transaction = Transaction::new(key.shard, until).write(Write::Put {
        key,
        value: record.to_string().into_bytes(),
        expires_at: None,
    });
    let outcome = broker.composed.store.commit(transaction).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    broker.issuer.down(true);
    let sre = broker
        .issuer
        .sign(&claims(&broker, &json!({ "groups": "sre" })));
    let normal = ask(&broker, &sre, "GET", "/leases", None).await;
    assert_eq!(normal.status, 503, "{}", normal.body);

    let selector = json!({ "selector": { "agent": "deployer" }, "reason": "it burns" });
    let done = ask(
        &broker,
        token,
        "POST",
        "/revocations",
        Some(selector.clone()),
    )
    .await;
    assert_eq!(done.status, 200, "{}", done.body);
    let credential = issued["access_token"].as_str().unwrap();
    assert!(!broker.is_active(credential).await);
    let lift = ask(&broker, token, "POST", "/lifts", Some(selector)).await;
    assert_eq!((lift.status, lift.error()), (403, "access_denied"));
    let rotate = json!({ "purpose": "access_token", "compromised": true });
    let rotate = ask(&broker, token, "POST", "/keys/rotate", Some(rotate)).await;
    assert_eq!((rotate.status, rotate.error()), (403, "access_denied"));
    let audit = broker.admin("GET", "/audit", None).await.body.to_string();
    assert!(audit.contains("safe-in-room-7") && !audit.contains(token));
    // Every use is an alarm of its own, whatever it did.
    let page = broker.admin("GET", "/audit", None).await.body;
    let all = page["items"].as_array().unwrap().iter();
    let loud: Vec<_> = all
        .filter(|one| one["event"] == "break_glass_used")
        .map(|one| one["detail"]["action"].as_str().unwrap())
        .collect();
    assert!(
        loud.starts_with(&["revoke"]) && loud.contains(&"lift"),
        "{loud:?}"
    );
    let other = ask(&broker, "dayflyop_another", "GET", "/leases", None).await;
    assert_eq!(other.status, 401);
    assert_ne!(sha256(token.as_bytes()), sha256(b"dayflyop_another"));
}

/// An organisation may forbid its operators what their role allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_forbids_an_operator_what_its_role_allows() {
    let forbids = r#"
@id("no-lifts-alone")
@reason("lifting takes an admin here")
forbid (principal, action == Dayfly::Action::"lift", resource) unless { principal.role == "admin" };
@id("reviewers-are-named")
forbid (principal, action in Dayfly::Action::"write", resource) when { principal.name == "mallory@acme.example" };
"#;
    let issuer = Arc::new(Issuer::start().await);
    let more = format!(
        "[operators]\nissuer = \"{}\"\naudience = \"dayfly-operators\"\nalgorithms = [\"RS256\"]\n\
         roles = [{{ role = \"operator\", claims = {{ groups = \"sre\" }} }}, {{ role = \"admin\", claims = {{ amr = \"hwk\" }} }}]\n",
        issuer.url
    );
    let broker = TestBroker::with(Setup {
        issuer: Some(issuer),
        more,
        policies: vec![("policies/operators.cedar".to_owned(), forbids.to_owned())],
        ..Setup::default()
    })
    .await;
    let bearer = |more: Value| broker.issuer.sign(&claims(&broker, &more));
    let sre = bearer(json!({ "groups": "sre" }));
    let admin = bearer(json!({ "amr": "hwk" }));
    let mallory = bearer(json!({ "groups": "sre", "email": "mallory@acme.example" }));
    let held = ask(&broker, &sre, "POST", "/revocations", revocation()).await;
    assert_eq!(held.status, 200, "{}", held.body);
    for (who, status) in [(&sre, 403), (&admin, 200)] {
        let lifted = ask(&broker, who, "POST", "/lifts", revocation()).await;
        assert_eq!(lifted.status, status, "{}", lifted.body);
    }
    let written = ask(&broker, &mallory, "POST", "/revocations", revocation()).await;
    assert_eq!(written.status, 403, "{}", written.body);
    let read = ask(&broker, &mallory, "GET", "/leases", None).await;
    assert_eq!(read.status, 200, "{}", read.body);
    // What is about operators stops no agent.
    broker.issue().await;
}

/// The schema names each door, so that a misspelt one is an error of the configuration.
#[test]
fn the_operators_schema_names_every_door() {
    use dayfly::http::routes::{TABLE, Who};
    for route in TABLE {
        let named = dayfly::policy::OPERATORS_SCHEMA.contains(&format!("\"{}\"", route.id()));
        let is_admin = matches!(route.who, Who::Operator(_) | Who::Watcher);
        assert_eq!(named, is_admin, "{}", route.id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_is_an_operators_word_and_its_end_an_admins() {
    let broker = start().await;
    let bearer = |more: Value| broker.issuer.sign(&claims(&broker, &more));
    let sre = bearer(json!({ "groups": "sre" }));
    let admin = bearer(json!({ "groups": "sre", "amr": "hwk" }));
    let reviewer = bearer(json!({ "groups": "reviewers" }));
    let review =
        |decision: &str| Some(json!({ "subject": { "agent": "deployer" }, "decision": decision }));
    let narrowed = ask(&broker, &reviewer, "POST", "/reviews", review("narrow")).await;
    assert_eq!(narrowed.status, 200, "{}", narrowed.body);
    // A reviewer ends nothing.
    let retired = ask(&broker, &reviewer, "POST", "/reviews", review("retire")).await;
    assert_eq!(retired.status, 403, "{}", retired.body);
    broker.issue().await;
    let retired = ask(&broker, &sre, "POST", "/reviews", review("retire")).await;
    assert_eq!(retired.status, 200, "{}", retired.body);
    let lift = || Some(json!({ "selector": { "agent": "deployer" }, "reason": "a mistake" }));
    for (who, status) in [(&sre, 403), (&admin, 200)] {
        let lifted = ask(&broker, who, "POST", "/lifts", lift()).await;
        assert_eq!(lifted.status, status, "{}", lifted.body);
    }
    broker.issue().await;
}
