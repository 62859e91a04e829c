//! Workloads of a SPIFFE trust domain: by JWT-SVID, with bundles that rotate and go away.

use crate::support::broker::{Answer, Setup, TestBroker, form, with, without};
use crate::support::forge;
use crate::support::time::Manual;
use crate::support::tools;
use crate::support::world::{EXCHANGE, JWT, assert_refused, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
const ID: &str = "spiffe://acme.test/ns/shop/sa/checkout";

const CONFIGURATION: &str = r#"
[trust_domain."acme.test"]
bundle = "file:bundle.json"

[trust_domain.partner]
domain = "partner.test"
bundle = "file:partner.json"

[agent.checkout]
owner = "payments@acme.example"
purpose = "Runs in the shop"
ends = 2099-01-01
identity = { spiffe = "spiffe://acme.test/ns/shop/sa/checkout" }
intent_keys = "file:deployer.jwks.json"
limits = { active = 100, per_minute = 100000 }

[agent.other]
owner = "payments@acme.example"
purpose = "Runs elsewhere in the shop"
ends = 2099-01-01
identity = { spiffe = "spiffe://acme.test/ns/shop/sa/other" }

[mission.shop]
agents = ["checkout", "other"]
owner = "sre@acme.example"
purpose = "Deploy from the shop"
require = { "spiffe.trust_domain" = "acme.test" }
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]

[mission.stock]
agents = ["checkout"]
owner = "sre@acme.example"
purpose = "Read what is deployed"
signer = "platform"
max_active = 50
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/checkout"] }]
"#;

struct Shop {
    broker: TestBroker,
    /// Signs JWT-SVIDs of `acme.test`.
    key: SigningKey,
    partner: SigningKey,
    clock: Arc<Manual>,
}

fn bundle(keys: &[&SigningKey]) -> String {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| {
            let mut jwk = key.public_jwk();
            jwk["use"] = json!("jwt-svid");
            jwk.as_object_mut().unwrap().remove("alg");
            jwk
        })
        .collect();
    json!({ "keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 300 }).to_string()
}

impl Shop {
    async fn start() -> Self {
        let (signer, partner) = (key(), key());
        let clock = Manual::start();
        let broker = TestBroker::with(Setup {
            more: CONFIGURATION.to_owned(),
            files: vec![
                ("bundle.json".to_owned(), bundle(&[&signer])),
                ("partner.json".to_owned(), bundle(&[&partner])),
            ],
            clock: clock.clone(),
            ..Setup::default()
        })
        .await;
        Self {
            broker,
            key: signer,
            partner,
            clock,
        }
    }

    fn claims(&self, id: &str) -> Value {
        let now = self.broker.now();
        json!({ "sub": id, "aud": [self.broker.url], "iat": now, "exp": now + 300 })
    }

    fn svid(&self, id: &str) -> String {
        sign(&self.key, &self.claims(id))
    }

    fn intent(&self, svid: &str) -> String {
        let mut claims = self.broker.intent_claims(svid);
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!("checkout");
        }
        claims["mission"]["id"] = json!("shop");
        self.broker.sign_intent(&claims)
    }

    fn exchange(&self, svid: &str) -> Vec<(String, String)> {
        form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", svid),
            ("subject_token_type", JWT),
            ("audience", "deploy-api"),
            ("intent", &self.intent(svid)),
        ])
    }

    fn assertion(&self, svid: &str) -> Vec<(String, String)> {
        form(&[
            ("grant_type", "client_credentials"),
            ("client_assertion", svid),
            ("client_assertion_type", JWT_SPIFFE),
            ("audience", "deploy-api"),
            ("intent", &self.intent(svid)),
        ])
    }

    fn publish(&self, name: &str, text: &str) {
        std::fs::write(self.broker.folder.path().join(name), text).unwrap();
    }

    async fn both(&self, svid: &str) -> [Answer; 2] {
        [
            self.broker.exchange(&self.exchange(svid)).await,
            self.broker.exchange(&self.assertion(svid)).await,
        ]
    }

    async fn granted(&self, svid: &str, what: &str) {
        for answer in self.both(svid).await {
            assert_eq!(answer.status, 200, "{what}: {}", answer.body);
        }
    }

    async fn refused(&self, svid: &str, what: &str) {
        let [exchanged, asserted] = self.both(svid).await;
        assert_refused(&exchanged, Reason::InvalidToken, what);
        assert_refused(&asserted, Reason::InvalidClient, what);
    }
}

fn sign(key: &SigningKey, claims: &Value) -> String {
    let kid = key.verifying().kid();
    forge::sign(
        key,
        &json!({ "alg": "ES256", "kid": kid, "typ": "JWT" }),
        claims,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_a_credential_with_its_jwt_svid() {
    let shop = Shop::start().await;
    let svid = shop.svid(ID);
    for answer in shop.both(&svid).await {
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.body["mission"], "shop");
        let token = answer.body["access_token"].as_str().unwrap();
        assert!(shop.broker.is_active(token).await);
    }
    // RFC 7523 calls the same proof an assertion.
    let granted = form(&[
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", &svid),
        ("audience", "deploy-api"),
        ("intent", &shop.intent(&svid)),
    ]);
    let answer = shop.broker.exchange(&granted).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // SPIRE hands out the same SVID until it is half over: it is good again.
    shop.granted(&svid, "again").await;
    // Everything of the trust domain ends by its name.
    let issued = shop.broker.exchange(&shop.exchange(&svid)).await;
    let token = issued.body["access_token"].as_str().unwrap();
    shop.broker
        .revoke(json!({ "issuer": "spiffe://acme.test" }))
        .await;
    assert!(!shop.broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_is_of_the_right_trust_domain_and_of_now() {
    let shop = Shop::start().await;
    shop.granted(&shop.svid(ID), "a good one").await;
    let now = shop.broker.now();
    for (what, name, value) in [
        (
            "another trust domain",
            "sub",
            json!("spiffe://partner.test/ns/shop/sa/checkout"),
        ),
        (
            "an unknown trust domain",
            "sub",
            json!("spiffe://third.test/ns/shop/sa/checkout"),
        ),
        ("no path", "sub", json!("spiffe://acme.test")),
        ("another broker", "aud", json!(["https://other.example"])),
        ("expired", "exp", json!(now - 61)),
        ("no exp", "exp", Value::Null),
        ("two hours", "exp", json!(now + 7200)),
        ("of tomorrow", "nbf", json!(now + 86_400)),
    ] {
        let claims = forge::spoiled(&shop.claims(ID), name, value);
        shop.refused(&sign(&shop.key, &claims), what).await;
    }
    let foreign = sign(&shop.partner, &shop.claims(ID));
    shop.refused(&foreign, "the other trust domain's key").await;
    shop.refused(&sign(&key(), &shop.claims(ID)), "a stranger's key")
        .await;
    shop.granted(&shop.svid(ID), "the good one still").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_of_nobody_registered_looks_like_any_unknown_agent() {
    let shop = Shop::start().await;
    for id in [
        "spiffe://acme.test/ns/shop/sa/stranger",
        "spiffe://acme.test/ns/shop",
    ] {
        for answer in shop.both(&shop.svid(id)).await {
            // Its intent is not its own, either.
            assert_eq!(answer.status, 400, "{}", answer.body);
            assert_eq!(answer.error(), "invalid_request");
        }
    }
    let partner = shop.claims("spiffe://partner.test/ns/shop/sa/checkout");
    let svid = sign(&shop.partner, &partner);
    for answer in shop.both(&svid).await {
        assert_eq!(answer.status, 400, "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_named_by_its_spiffe_id_or_its_agents_name() {
    let shop = Shop::start().await;
    let svid = shop.svid(ID);
    for good in [ID, "checkout"] {
        for form in [shop.exchange(&svid), shop.assertion(&svid)] {
            let answer = shop.broker.exchange(&with(form, "client_id", good)).await;
            assert_eq!(answer.status, 200, "{good}: {}", answer.body);
        }
    }
    for form in [shop.exchange(&svid), shop.assertion(&svid)] {
        let other = with(
            form.clone(),
            "client_id",
            "spiffe://acme.test/ns/shop/sa/other",
        );
        let answer = shop.broker.exchange(&other).await;
        assert_refused(&answer, Reason::InvalidClient, "another SPIFFE ID");
        let answer = shop
            .broker
            .exchange(&with(form, "client_id", "other"))
            .await;
        assert_refused(&answer, Reason::UnknownAgent, "another agent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_beside_a_platforms_token_must_be_the_same_agents() {
    let shop = Shop::start().await;
    let beside = |svid: &str| {
        let form = with(shop.broker.good_form(), "client_assertion", svid);
        with(form, "client_assertion_type", JWT_SPIFFE)
    };
    let answer = shop.broker.exchange(&beside(&shop.svid(ID))).await;
    assert_refused(
        &answer,
        Reason::UnknownAgent,
        "the deployer's token, the shop's SVID",
    );
    let mut form = shop.exchange(&shop.svid(ID));
    form = with(form, "client_assertion", &shop.svid(ID));
    form = with(form, "client_assertion_type", JWT_SPIFFE);
    let answer = shop.broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let bad = with(form, "client_assertion", "a.b.c");
    let answer = shop.broker.exchange(&bad).await;
    assert_refused(
        &answer,
        Reason::InvalidClient,
        "a bad one beside a good one",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_of_client_authentication_at_a_time() {
    let shop = Shop::start().await;
    let form = shop.assertion(&shop.svid(ID));
    let request = shop
        .broker
        .http
        .post(format!("{}/token", shop.broker.url))
        .basic_auth("checkout", Some("secret"))
        .form(&form);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_refused(&answer, Reason::MalformedRequest, "Basic and an SVID");
    let other = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer";
    let answer = with(form.clone(), "client_assertion_type", other);
    let answer = shop.broker.exchange(&answer).await;
    assert_refused(&answer, Reason::InvalidClient, "another type");
    let untyped = without(form.clone(), "client_assertion_type");
    let answer = shop.broker.exchange(&untyped).await;
    assert_refused(&answer, Reason::MalformedRequest, "no type");
    // A JWT-SVID is no private_key_jwt, and the other way round.
    let bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let answer = with(form, "client_assertion_type", bearer);
    let answer = shop.broker.exchange(&answer).await;
    assert_refused(&answer, Reason::InvalidClient, "an SVID as private_key_jwt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_rotates_under_the_running_broker() {
    let shop = Shop::start().await;
    let old = shop.svid(ID);
    shop.granted(&old, "the first key").await;
    let next = key();
    let by_next = || sign(&next, &shop.claims(ID));
    shop.refused(&by_next(), "not published yet").await;
    // Both, then the new one alone: an SVID of the old key is worth nothing from then on.
    shop.publish("bundle.json", &bundle(&[&shop.key, &next]));
    shop.clock.advance(Duration::from_secs(3));
    shop.granted(&by_next(), "the next key").await;
    shop.granted(&old, "the first key beside it").await;
    shop.publish("bundle.json", &bundle(&[&next]));
    shop.clock.advance(Duration::from_secs(3));
    shop.refused(&old, "withdrawn").await;
    shop.granted(&by_next(), "the next key alone").await;
    // The trust domain withdraws everything.
    shop.publish("bundle.json", r#"{"keys":[],"spiffe_sequence":2}"#);
    shop.clock.advance(Duration::from_secs(3));
    shop.refused(&by_next(), "an empty bundle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_bridged_by_the_last_good_bundle_and_not_for_ever() {
    let shop = Shop::start().await;
    shop.granted(&shop.svid(ID), "before").await;
    shop.publish("bundle.json", "{ half a bund");
    shop.clock.advance(Duration::from_secs(60));
    shop.granted(&shop.svid(ID), "broken for a minute").await;
    shop.clock.advance(Duration::from_secs(3600));
    for answer in shop.both(&shop.svid(ID)).await {
        assert_refused(&answer, Reason::IssuerUnavailable, "broken for an hour");
    }
    shop.publish("bundle.json", &bundle(&[&shop.key]));
    shop.clock.advance(Duration::from_secs(10));
    shop.granted(&shop.svid(ID), "mended").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_names_what_a_workload_may_authenticate_with() {
    let shop = Shop::start().await;
    let metadata = |broker: &TestBroker| {
        let url = format!("{}/.well-known/oauth-authorization-server", broker.url);
        let request = broker.http.get(url);
        async { Answer::of(request.send().await.unwrap()).await.body }
    };
    let said = metadata(&shop.broker).await;
    let methods = json!(["private_key_jwt", "spiffe_jwt", "none"]);
    assert_eq!(said["token_endpoint_auth_methods_supported"], methods);
    let plain = metadata(&TestBroker::start().await).await;
    let methods = json!(["private_key_jwt", "none"]);
    assert_eq!(plain["token_endpoint_auth_methods_supported"], methods);
}

#[tokio::test(flavor = "multi_thread")]
async fn py_spiffe_accepts_the_same_bundle_and_svid_and_gets_a_credential() {
    let Some(python) = tools::python() else {
        return;
    };
    let shop = Shop::start().await;
    let svid = shop.svid(ID);
    let file = shop.broker.folder.path().join("bundle.json");
    let mut command = Command::new(python);
    command.arg(tools::script("spiffe_jwt.py")).args([
        shop.broker.url.as_str(),
        file.to_str().unwrap(),
        &svid,
        &shop.intent(&svid),
    ]);
    let said = tools::json_of(command).await;
    for way in ["assertion", "subject"] {
        assert_eq!(said[way]["status"], 200, "{said}");
        let token = said[way]["access_token"].as_str().unwrap();
        assert!(shop.broker.is_active(token).await);
    }
}
