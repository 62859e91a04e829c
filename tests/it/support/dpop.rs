//! DPoP proofs as a client makes them, and requests that carry them.

use super::broker::{Answer, TestBroker, b64, form, sha256, unique};
use dayfly::jose::SigningKey;
use serde_json::{Value, json};

/// Claims of a proof that is good in every way, at this door.
pub fn claims(method: &str, url: &str, now: i64, nonce: &str) -> Value {
    json!({ "jti": unique(), "htm": method, "htu": url, "iat": now, "nonce": nonce })
}

pub fn sign(key: &SigningKey, claims: &Value) -> String {
    key.sign("dpop+jwt", None, claims, true).unwrap()
}

/// The hash of the access token that a proof goes with.
pub fn ath(token: &str) -> Value {
    json!(b64(&sha256(token.as_bytes())))
}

impl TestBroker {
    /// As a client learns it: from any answer to a request that tries a proof.
    pub async fn nonce(&self) -> String {
        let answer = self.proved("/token", &form(&[]), &["x"]).await;
        answer.headers["dpop-nonce"].to_str().unwrap().to_owned()
    }

    /// Claims of a proof for an exchange.
    pub async fn proof_claims(&self) -> Value {
        let url = format!("{}/token", self.url);
        claims("POST", &url, self.now(), &self.nonce().await)
    }

    pub async fn proof(&self, key: &SigningKey) -> String {
        sign(key, &self.proof_claims().await)
    }

    /// The form, with these `DPoP` headers.
    pub async fn proved(&self, path: &str, form: &[(String, String)], proofs: &[&str]) -> Answer {
        let request = self.http.post(format!("{}{path}", self.at)).form(form);
        let request = proofs
            .iter()
            .fold(request, |request, proof| request.header("dpop", *proof));
        Answer::of(request.send().await.unwrap()).await
    }

    /// A good exchange with a proof of this key, granted.
    pub async fn issue_bound(&self, key: &SigningKey) -> Value {
        let proof = self.proof(key).await;
        let answer = self.proved("/token", &self.good_form(), &[&proof]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }
}
