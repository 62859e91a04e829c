//! Operators whose tokens are bound to a key, where Dayfly is the resource (RFC 9449 section 7).

use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker, unique};
use crate::support::dpop;
use crate::support::forge::spoiled;
use crate::support::issuer::Issuer;
use crate::support::world::key;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::sync::Arc;

const DOOR: &str = "/admin/v1/leases";

struct Desk {
    broker: TestBroker,
    key: SigningKey,
}

impl Desk {
    async fn start() -> Self {
        let issuer = Arc::new(Issuer::start().await);
        let more = format!(
            "[operators]\nissuer = \"{}\"\naudience = \"operators\"\nalgorithms = [\"RS256\"]\n\
             roles = [{{ role = \"viewer\", claims = {{ groups = \"oncall\" }} }}]\n",
            issuer.url
        );
        let setup = Setup {
            issuer: Some(issuer),
            more,
            ..Setup::default()
        };
        Self {
            broker: TestBroker::with(setup).await,
            key: key(),
        }
    }

    fn token(&self, bound: Option<&SigningKey>) -> String {
        let now = self.broker.now();
        let mut claims = json!({
            "iss": self.broker.issuer.url, "sub": "octavia", "aud": "operators", "iat": now,
            "exp": now + 300, "jti": unique(), "groups": "oncall",
        });
        if let Some(key) = bound {
            claims["cnf"] = json!({ "jkt": key.thumbprint() });
        }
        self.broker.issuer.sign(&claims)
    }

    async fn claims(&self, token: &str) -> Value {
        let url = format!("{}{DOOR}", self.broker.url);
        let nonce = self.broker.nonce().await;
        let mut claims = dpop::claims("GET", &url, self.broker.now(), &nonce);
        claims["ath"] = dpop::ath(token);
        claims
    }

    async fn ask(&self, scheme: &str, token: &str, proof: Option<&str>) -> Answer {
        let url = format!("{}{DOOR}?alive=true", self.broker.at);
        let request = self.broker.http.get(url);
        let mut request = request.header("authorization", format!("{scheme} {token}"));
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        Answer::of(request.send().await.unwrap()).await
    }
}

fn challenges(answer: &Answer) -> Vec<&str> {
    let asked = answer.headers.get_all("www-authenticate").iter();
    asked.map(|value| value.to_str().unwrap()).collect()
}

#[track_caller]
fn assert_challenged(answer: &Answer, error: &str, what: &str) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.body);
    let asked = challenges(answer);
    let error = format!("error=\"{error}\"");
    assert!(
        asked.len() == 1 && asked[0].starts_with("DPoP ") && asked[0].contains(&error),
        "{what}: {asked:?}"
    );
    assert!(
        asked[0].contains("algs=\"") && asked[0].contains("ES256"),
        "{what}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_comes_with_a_proof_of_its_key() {
    let desk = Desk::start().await;
    let token = desk.token(Some(&desk.key));
    // Sent as a bearer token it is worth nothing.
    let answer = desk.ask("Bearer", &token, None).await;
    assert_challenged(&answer, "invalid_dpop_proof", "as a bearer token");
    let answer = desk.ask("DPoP", &token, None).await;
    assert_challenged(&answer, "invalid_dpop_proof", "no proof");
    let proof = dpop::sign(&desk.key, &desk.claims(&token).await);
    let answer = desk.ask("Bearer", &token, Some(&proof)).await;
    assert_challenged(&answer, "invalid_dpop_proof", "the wrong scheme");
    let answer = desk.ask("dpop", &token, Some(&proof)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.headers.contains_key("dpop-nonce"));
    let answer = desk.ask("DPoP", &token, Some(&proof)).await;
    assert_challenged(&answer, "invalid_dpop_proof", "the same proof");
    assert_eq!(answer.reason(), "dpop_proof_spent");
    let proof = dpop::sign(&desk.key, &desk.claims(&token).await);
    assert_eq!(desk.ask("DPoP", &token, Some(&proof)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_of_the_tokens_key_for_this_token_at_this_door() {
    let desk = Desk::start().await;
    let token = desk.token(Some(&desk.key));
    let other_door = json!(format!("{}/admin/v1/agents", desk.broker.url));
    for (what, name, value, error) in [
        ("no ath", "ath", Value::Null, "invalid_dpop_proof"),
        (
            "another token's",
            "ath",
            dpop::ath("another"),
            "invalid_dpop_proof",
        ),
        ("another method", "htm", json!("POST"), "invalid_dpop_proof"),
        ("another door", "htu", other_door, "invalid_dpop_proof"),
        ("no nonce", "nonce", Value::Null, "use_dpop_nonce"),
    ] {
        let claims = spoiled(&desk.claims(&token).await, name, value);
        let answer = desk
            .ask("DPoP", &token, Some(&dpop::sign(&desk.key, &claims)))
            .await;
        assert_challenged(&answer, error, what);
        assert_eq!(answer.body["at"], format!("DPoP.{name}"), "{what}");
        assert!(answer.headers.contains_key("dpop-nonce"), "{what}");
    }
    let proof = dpop::sign(&key(), &desk.claims(&token).await);
    let answer = desk.ask("DPoP", &token, Some(&proof)).await;
    assert_challenged(&answer, "invalid_dpop_proof", "another key");
    // A token that is no good is not the proof's fault.
    let wrong = format!("{token}x");
    let proof = dpop::sign(&desk.key, &desk.claims(&wrong).await);
    let answer = desk.ask("DPoP", &wrong, Some(&proof)).await;
    assert_challenged(&answer, "invalid_token", "no token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_bound_to_nothing_is_a_bearer_token() {
    let desk = Desk::start().await;
    for token in [desk.token(None), OPERATOR_TOKEN.to_owned()] {
        assert_eq!(desk.ask("Bearer", &token, None).await.status, 200);
        let proof = dpop::sign(&desk.key, &desk.claims(&token).await);
        let answer = desk.ask("DPoP", &token, Some(&proof)).await;
        assert_challenged(&answer, "invalid_token", "dressed up");
    }
    // Whoever sends nothing is told both ways.
    let answer = desk.ask("Basic", "eDp5", None).await;
    assert_eq!(answer.status, 401);
    let asked = challenges(&answer);
    assert!(
        asked[0].starts_with("Bearer ") && asked[1].starts_with("DPoP "),
        "{asked:?}"
    );
}
