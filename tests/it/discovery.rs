//! What the broker says of itself to whoever asks.

use crate::support::broker::{Answer, Setup, TestBroker, form};
use crate::support::issuer::Issuer;
use crate::support::world::{assert_refused, inline_keys};
use dayfly::broker::Reason;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const AWS: &str = r#"
[target.aws-prod]
kind = "aws"
role = "arn:aws:iam::111122223333:role/deploy"
ceiling = { actions = ["ecs:*"], locations = ["arn:aws:ecs:*:111122223333:*"] }

[target.aws-other]
kind = "aws"
role = "arn:aws:iam::111122223333:role/other"
method = "assume_role"
access_key_id = "file:hook.secret"
secret_access_key = "file:hook.secret"
ceiling = { actions = ["ecs:*"], locations = ["arn:aws:ecs:*:111122223333:*"] }
"#;

async fn get(broker: &TestBroker, path: &str) -> Answer {
    let request = broker.http.get(format!("{}{path}", broker.url));
    Answer::of(request.send().await.unwrap()).await
}

fn kids(jwks: &Value) -> BTreeSet<String> {
    let keys = jwks["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_metadata_documents_name_the_issuer_that_served_them() {
    let broker = TestBroker::start().await;
    let oauth = get(&broker, "/.well-known/oauth-authorization-server").await;
    let openid = get(&broker, "/.well-known/openid-configuration").await;
    for answer in [&oauth, &openid] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.body["issuer"], broker.url.as_str());
        for endpoint in [
            "token_endpoint",
            "introspection_endpoint",
            "revocation_endpoint",
            "jwks_uri",
        ] {
            let url = answer.body[endpoint].as_str().unwrap();
            let path = url.strip_prefix(&broker.url).unwrap();
            // Each of them is there: it answers something else than 404.
            assert_ne!(get(&broker, path).await.status, 404, "{endpoint}");
        }
    }
    assert_eq!(oauth.body, openid.body);
    assert_eq!(
        oauth.body["authorization_details_types_supported"],
        json!(["access_token", "api_key"])
    );
    // The issuer in every token is the same, byte for byte.
    let issued = broker.issue().await;
    let claims = crate::exchange::claims_of(issued["access_token"].as_str().unwrap());
    assert_eq!(claims["iss"], oauth.body["issuer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_claims_what_is_there_and_no_browsers_flow() {
    let broker = TestBroker::start().await;
    let told = get(&broker, "/.well-known/oauth-authorization-server").await;
    // Both MCP SDKs refuse a document without the endpoint; it says to everyone what it offers.
    let url = told.body["authorization_endpoint"].as_str().unwrap();
    let path = url.strip_prefix(&broker.url).unwrap();
    let asked =
        format!("{path}?response_type=code&client_id=x&redirect_uri=https%3A%2F%2Fx.example");
    for path in [path, &asked] {
        let answer = get(&broker, path).await;
        assert_refused(&answer, Reason::UnsupportedResponseType, path);
        assert!(!answer.headers.contains_key("location"), "never a redirect");
    }
    assert_eq!(told.body["response_types_supported"], json!([]));
    for absent in [
        // Their absence tells clients of that flow to stop before they begin.
        "code_challenge_methods_supported",
        "registration_endpoint",
        "authorization_response_iss_parameter_supported",
        "client_id_metadata_document_supported",
        "authorization_grant_profiles_supported",
        // RFC 8414 section 3.2: no empty lists.
        "scopes_supported",
    ] {
        assert!(told.body.get(absent).is_none(), "{absent}");
    }
    // Each grant that it names is one: refused for what is missing, not for its name.
    for grant in told.body["grant_types_supported"].as_array().unwrap() {
        let form = form(&[("grant_type", grant.as_str().unwrap())]);
        let answer = broker.exchange(&form).await;
        assert_ne!(answer.error(), "unsupported_grant_type", "{grant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_set_has_every_signing_key_and_no_private_half() {
    let broker = TestBroker::start().await;
    let answer = get(&broker, "/jwks").await;
    assert_eq!(answer.headers["content-type"], "application/jwk-set+json");
    let keys = kids(&answer.body);
    assert_eq!(
        keys.len(),
        4,
        "access tokens, introspection, checkpoints, status lists"
    );
    let status = broker
        .composed
        .keyring
        .status(broker.composed.clock.now())
        .unwrap();
    let ours: BTreeSet<_> = status.into_iter().map(|key| key.kid).collect();
    assert_eq!(keys, ours);
    for key in answer.body["keys"].as_array().unwrap() {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "{private}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_target_that_trusts_one_has_an_issuer_of_its_own() {
    let broker = TestBroker::with(Setup {
        more: AWS.to_owned(),
        ..Setup::default()
    })
    .await;
    let base = "/federation/aws-prod";
    let metadata = get(&broker, &format!("{base}/.well-known/openid-configuration")).await;
    assert_eq!(metadata.status, 200, "{}", metadata.body);
    let issuer = format!("{}{base}", broker.url);
    assert_eq!(metadata.body["issuer"], issuer.as_str());
    assert_eq!(metadata.body["jwks_uri"], format!("{issuer}/jwks"));
    let federated = get(&broker, &format!("{base}/jwks")).await;
    assert_eq!(federated.status, 200);
    let federated = kids(&federated.body);
    assert!(!federated.is_empty(), "a cloud that is set up finds keys");
    // An access token must never be a federation token, nor the other way round.
    assert!(federated.is_disjoint(&kids(&get(&broker, "/jwks").await.body)));
    for other in [
        "deploy-api",
        "metrics-key",
        "aws-other",
        "no-such",
        "..%2Fx",
        "AWS-PROD",
    ] {
        for file in [".well-known/openid-configuration", "jwks"] {
            let answer = get(&broker, &format!("/federation/{other}/{file}")).await;
            assert_eq!(
                (answer.status, answer.error()),
                (404, "not_found"),
                "{other}"
            );
        }
    }
}

/// RFC 9728 section 3.3: what was found by a 401 is used only if it names the URL that was asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_at_an_operators_door_leads_to_the_metadata_of_that_very_door() {
    for below in ["", "/dayfly"] {
        let issuer = Arc::new(Issuer::named("https://ci.example").await);
        let broker = TestBroker::with(Setup {
            public_url: Some(format!("https://broker.example{below}")),
            more: format!(
                "[operators]\nissuer = \"{}\"\naudience = \"operators\"\nalgorithms = [\"RS256\"]\n\
                 roles = [{{ role = \"viewer\", claims = {{ groups = \"staff\" }} }}]\n\
                 keys = {}\n",
                issuer.url,
                inline_keys(&issuer.key()),
            ),
            issuer: Some(Arc::clone(&issuer)),
            ..Setup::default()
        })
        .await;
        for path in ["/admin/v1/leases", "/admin/v1/agents/deployer", "/events"] {
            let url = format!("{}{below}{path}", broker.at);
            for request in [
                broker.http.get(&url),
                broker.http.get(&url).bearer_auth("x"),
            ] {
                let refused = Answer::of(request.send().await.unwrap()).await;
                assert_eq!(refused.status, 401, "{path}");
                for challenge in refused.headers.get_all("www-authenticate") {
                    let challenge = challenge.to_str().unwrap();
                    let (_, named) = challenge.split_once("resource_metadata=\"").unwrap();
                    let named = named.strip_suffix('"').unwrap();
                    let known = format!(
                        "https://broker.example/.well-known/oauth-protected-resource{below}{path}"
                    );
                    assert_eq!(named, known);
                }
            }
            let known = format!(
                "{}/.well-known/oauth-protected-resource{below}{path}",
                broker.at
            );
            let told = Answer::of(broker.http.get(known).send().await.unwrap()).await;
            assert_eq!(told.status, 200, "{path}: {}", told.body);
            assert_eq!(told.headers["content-type"], "application/json");
            assert_eq!(
                told.body,
                json!({
                    "resource": format!("https://broker.example{below}{path}"),
                    "resource_name": "Dayfly",
                    "authorization_servers": [issuer.url],
                    "bearer_methods_supported": ["header"],
                    "dpop_signing_alg_values_supported": told.body["dpop_signing_alg_values_supported"],
                    "tls_client_certificate_bound_access_tokens": false,
                })
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_no_operators_token_has_no_such_metadata() {
    let broker = TestBroker::start().await;
    for path in [
        "/token",
        "/introspect",
        "/admin/v1",
        "/admin/v1/leases/",
        "/admin/v1/leases/a/b",
        "/x",
        "/",
    ] {
        let known = format!("/.well-known/oauth-protected-resource{path}");
        assert_eq!(get(&broker, &known).await.status, 404, "{path}");
    }
    // Without an issuer there is none to name.
    let told = get(&broker, "/.well-known/oauth-protected-resource/events").await;
    assert!(told.body.get("authorization_servers").is_none());
    let refused = broker.post("/introspect", &form(&[("token", "x")])).await;
    assert!(refused.headers.get("www-authenticate").is_none());
}
