//! Proofs with exactly one thing wrong, at the token endpoint.

use crate::support::broker::TestBroker;
use crate::support::dpop;
use crate::support::forge::{self, flipped, spoiled};
use crate::support::world::{assert_refused, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};

struct Desk {
    broker: TestBroker,
    key: SigningKey,
}

impl Desk {
    async fn start() -> Self {
        Self {
            broker: TestBroker::start().await,
            key: key(),
        }
    }

    fn header(&self) -> Value {
        json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": bare(&self.key) })
    }

    /// Sends a spoiled proof, then a good one with the same form: nothing was spent.
    async fn refused(&self, what: &str, at: &str, spoil: impl Fn(&Value) -> String) {
        self.refused_as(Reason::InvalidDpopProof, what, at, spoil)
            .await;
    }

    async fn refused_as(
        &self,
        reason: Reason,
        what: &str,
        at: &str,
        spoil: impl Fn(&Value) -> String,
    ) {
        let claims = self.broker.proof_claims().await;
        let form = self.broker.good_form();
        let bad = spoil(&claims);
        let answer = self.broker.proved("/token", &form, &[&bad]).await;
        assert_refused(&answer, reason, what);
        assert_eq!(answer.reason(), reason.code(), "{what}");
        assert_eq!(answer.body["at"], at, "{what}");
        let good = dpop::sign(&self.key, &claims);
        let answer = self.broker.proved("/token", &form, &[&good]).await;
        assert_eq!(answer.status, 200, "after {what}: {}", answer.body);
        assert_eq!(answer.body["token_type"], "DPoP");
    }

    async fn claim(&self, what: &str, name: &str, value: Value) {
        let at = format!("DPoP.{name}");
        let spoil = |claims: &Value| dpop::sign(&self.key, &spoiled(claims, name, value.clone()));
        let reason = match name {
            "nonce" => Reason::UseDpopNonce,
            _ => Reason::InvalidDpopProof,
        };
        self.refused_as(reason, what, &at, spoil).await;
    }

    async fn headed(&self, what: &str, name: &str, value: Value) {
        let header = spoiled(&self.header(), name, value);
        self.refused(what, "DPoP", |claims| {
            forge::sign(&self.key, &header, claims)
        })
        .await;
    }
}

fn bare(key: &SigningKey) -> Value {
    let mut jwk = key.public_jwk();
    for name in ["kid", "alg", "use"] {
        jwk.as_object_mut().unwrap().remove(name);
    }
    jwk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_what_a_proofs_must_and_no_more() {
    let desk = Desk::start().await;
    desk.headed("no typ", "typ", Value::Null).await;
    desk.headed("a token's typ", "typ", json!("JWT")).await;
    desk.headed("an intent's typ", "typ", json!("intent+jwt"))
        .await;
    desk.headed("no key", "jwk", Value::Null).await;
    desk.headed("another's key", "jwk", bare(&key())).await;
    desk.headed("keys elsewhere", "jku", json!("https://keys.example"))
        .await;
    desk.headed("a chain elsewhere", "x5u", json!("https://keys.example"))
        .await;
    desk.headed("a chain", "x5c", json!(["MIIB"])).await;
    desk.headed("what is critical", "crit", json!(["exp"]))
        .await;
    let mut private = bare(&desk.key);
    private["d"] = json!("AAAA");
    desk.headed("a private key", "jwk", private).await;
    let secret = json!({ "kty": "oct", "k": "AAAA" });
    desk.headed("a secret key", "jwk", secret).await;
    desk.headed("no algorithm", "alg", json!("none")).await;
    let header = spoiled(&desk.header(), "alg", json!("HS256"));
    desk.refused("a MAC with the public key", "DPoP", |claims| {
        forge::sign_with_public_key(&desk.key, &header, claims)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_that_of_the_key_over_these_bytes() {
    let desk = Desk::start().await;
    let good = |claims: &Value| dpop::sign(&desk.key, claims);
    desk.refused("a bit of the signature", "DPoP", |c| flipped(&good(c)))
        .await;
    desk.refused("no signature", "DPoP", |c| {
        format!("{}.", good(c).rsplit_once('.').unwrap().0)
    })
    .await;
    desk.refused("other claims", "DPoP", |claims| {
        let (signed, other) = (good(claims), good(&spoiled(claims, "jti", json!("other"))));
        let claims = other.split('.').nth(1).unwrap();
        let parts: Vec<_> = signed.split('.').collect();
        format!("{}.{claims}.{}", parts[0], parts[2])
    })
    .await;
    desk.refused("no JWS", "DPoP", |_| "x".to_owned()).await;
    desk.refused("two in one header", "DPoP", |c| {
        format!("{}, {}", good(c), good(c))
    })
    .await;
    desk.refused("9 KiB", "DPoP", |claims| {
        good(&spoiled(claims, "x", json!("x".repeat(9 * 1024))))
    })
    .await;
    desk.refused("a claim twice", "DPoP", |claims| {
        let text = claims.to_string().replacen('{', r#"{"jti":"first","#, 1);
        forge::sign_raw(&desk.key, &desk.header().to_string(), text.as_bytes())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_header() {
    let desk = Desk::start().await;
    let (broker, form) = (&desk.broker, desk.broker.good_form());
    let (one, two) = (broker.proof(&desk.key).await, broker.proof(&desk.key).await);
    for proofs in [[&one, &two], [&one, &one]] {
        let proofs = proofs.map(String::as_str);
        let answer = broker.proved("/token", &form, &proofs).await;
        assert_refused(&answer, Reason::InvalidDpopProof, "two headers");
    }
    let answer = broker.proved("/token", &form, &[&one]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_for_this_door() {
    let desk = Desk::start().await;
    let url = &desk.broker.url;
    desk.claim("no method", "htm", Value::Null).await;
    desk.claim("another method", "htm", json!("GET")).await;
    desk.claim("a method in lower case", "htm", json!("post"))
        .await;
    desk.claim("no URL", "htu", Value::Null).await;
    desk.claim("another host", "htu", json!("http://other.example/token"))
        .await;
    let localhost = url.replace("127.0.0.1", "localhost");
    desk.claim("another name", "htu", json!(format!("{localhost}/token")))
        .await;
    desk.claim("another port", "htu", json!("http://127.0.0.1:9/token"))
        .await;
    desk.claim("another path", "htu", json!(format!("{url}/revoke")))
        .await;
    desk.claim("a slash more", "htu", json!(format!("{url}/token/")))
        .await;
    let https = url.replace("http://", "https://");
    desk.claim("another scheme", "htu", json!(format!("{https}/token")))
        .await;
    // What RFC 3986 takes for the same is the same.
    let mut claims = desk.broker.proof_claims().await;
    claims["htu"] = json!(format!(
        "{}/x/../%74oken?query#fragment",
        url.to_uppercase()
    ));
    let proof = dpop::sign(&desk.key, &claims);
    let answer = desk
        .broker
        .proved("/token", &desk.broker.good_form(), &[&proof])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_made_now_and_named() {
    let desk = Desk::start().await;
    let now = desk.broker.now();
    desk.claim("no time", "iat", Value::Null).await;
    desk.claim("a time in words", "iat", json!(now.to_string()))
        .await;
    desk.claim("too old", "iat", json!(now - 130)).await;
    desk.claim("of the future", "iat", json!(now + 90)).await;
    desk.claim("no name", "jti", Value::Null).await;
    desk.claim("an empty name", "jti", json!("")).await;
    desk.claim("a long name", "jti", json!("x".repeat(257)))
        .await;
    desk.claim("a name that is a number", "jti", json!(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_one_of_this_brokers() {
    let desk = Desk::start().await;
    let elsewhere = TestBroker::start().await;
    desk.claim("no nonce", "nonce", Value::Null).await;
    desk.claim("an invented one", "nonce", json!("nonce")).await;
    desk.claim("another broker's", "nonce", json!(elsewhere.nonce().await))
        .await;
    desk.claim(
        "a nonce that is a list",
        "nonce",
        json!([desk.broker.nonce().await]),
    )
    .await;
}
