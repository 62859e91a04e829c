//! `/introspect`: what is alive is told to whom it is for, everything else is `{"active": false}`.

use crate::exchange::claims_of;
use crate::support::broker::{Answer, SERVER_SECRET, Setup, TestBroker, form, unique, with};
use crate::support::forge::{flipped, sign};
use crate::support::time::Manual;
use crate::support::world::{ASSERTION, inline_keys, key};
use dayfly::jose::{Algorithm, Compact, KeySet, SigningKey, TypRule};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::time::Duration;

const SIGNED: &str = "application/token-introspection+jwt";

/// A second resource server, with a key, for another audience.
struct Gateway {
    broker: TestBroker,
    key: SigningKey,
}

impl Gateway {
    async fn start() -> Self {
        let key = key();
        let keys = inline_keys(&key);
        let more = format!(
            "[resource_server.gateway]\nkeys = {keys}\naudiences = [\"metrics-key\"]\n\
             [resource_server.\"odd.name\"]\nsecret = \"file:odd.secret\"\naudiences = [\"deploy-api\"]\n"
        );
        let broker = TestBroker::with(Setup {
            more,
            files: vec![("odd.secret".to_owned(), "a+b%2Fc d&e".to_owned())],
            ..Setup::default()
        })
        .await;
        Self { broker, key }
    }

    fn claims(&self) -> Value {
        let now = self.broker.now();
        json!({
            "iss": "gateway", "sub": "gateway", "aud": self.broker.url,
            "iat": now, "exp": now + 60, "jti": unique(),
        })
    }

    async fn ask(&self, token: &str, claims: &Value) -> Answer {
        let assertion = sign(&self.key, &json!({ "alg": "ES256", "typ": "JWT" }), claims);
        let fields = form(&[
            ("token", token),
            ("client_assertion", &assertion),
            ("client_assertion_type", ASSERTION),
        ]);
        self.broker.post("/introspect", &fields).await
    }
}

fn inactive(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    assert_eq!(answer.body, json!({ "active": false }), "{what}");
    assert_eq!(answer.headers["cache-control"], "no-store", "{what}");
}

async fn key_form(broker: &TestBroker) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/checkout"],
    }]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    with(form, "audience", "metrics-key")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_token_is_told_with_all_that_a_resource_server_needs() {
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    let answer = broker.introspect(token).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let told = answer.body;
    let own = claims_of(token);
    assert_eq!(told["active"], true);
    assert_eq!(told["iss"], broker.url.as_str());
    assert_eq!(told["sub"], "deployer");
    assert_eq!(told["client_id"], "deployer");
    assert_eq!(told["jti"], issued["lease_id"]);
    assert_eq!(told["mission"], json!({ "id": "deploy-checkout" }));
    assert_eq!(told["token_type"], "Bearer");
    assert_eq!(
        told["authorization_details"],
        issued["authorization_details"]
    );
    for same in ["iss", "sub", "aud", "jti", "exp"] {
        assert_eq!(told[same], own[same], "{same}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_live_token_of_this_audience_is_inactive_and_nothing_else() {
    let gateway = Gateway::start().await;
    let broker = &gateway.broker;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    let lease = issued["lease_id"].as_str().unwrap();
    let api_key = broker.exchange(&key_form(broker).await).await.body;
    let api_key = api_key["access_token"].as_str().unwrap();

    inactive(
        &gateway.ask(token, &gateway.claims()).await,
        "of another audience",
    );
    let own = gateway.ask(api_key, &gateway.claims()).await;
    assert_eq!(own.body["active"], true, "{}", own.body);

    let stranger = key();
    let forged = sign(
        &stranger,
        &json!({ "alg": "ES256", "typ": "at+jwt" }),
        &claims_of(token),
    );
    let other_lease = broker.issue().await;
    let mut claims = claims_of(token);
    claims["jti"] = other_lease["lease_id"].clone();
    for (what, text) in [
        ("garbage", "x".to_owned()),
        ("a bare lease id", lease.to_owned()),
        ("a changed signature", flipped(token)),
        ("a forged token", forged),
        (
            "an API key that is cut",
            api_key[..api_key.len() - 1].to_owned(),
        ),
        ("an API key with more", format!("{api_key}A")),
        ("a handle nobody made", format!("dayflyh_{lease}")),
        ("a platform's token", broker.platform_token()),
        (
            "an operator's token",
            crate::support::broker::OPERATOR_TOKEN.to_owned(),
        ),
        ("a blank behind", format!("{token} ")),
        ("15 KiB", "a".repeat(15 * 1024)),
    ] {
        inactive(&broker.introspect(&text).await, what);
    }
    let long = broker.introspect(&"a".repeat(17 * 1024)).await;
    assert_eq!((long.status, long.error()), (400, "invalid_request"));
    assert!(broker.is_active(token).await);
    broker.revoke(json!({ "lease": lease })).await;
    inactive(&broker.introspect(token).await, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_inactive_from_its_last_second() {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    let token = broker.issue().await["access_token"].clone();
    let token = token.as_str().unwrap();
    clock.advance(Duration::from_secs(10 * 60 - 2));
    assert!(broker.is_active(token).await);
    clock.advance(Duration::from_secs(2));
    inactive(&broker.introspect(token).await, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_who_it_is_is_told_nothing() {
    let gateway = Gateway::start().await;
    let broker = &gateway.broker;
    let token = broker.issue().await["access_token"].clone();
    let token = token.as_str().unwrap();
    let post = || broker.http.post(format!("{}/introspect", broker.url));
    let send = |request: RequestBuilder| async move {
        let answer = request.form(&[("token", token)]).send().await.unwrap();
        Answer::of(answer).await
    };
    let anonymous = send(post()).await;
    assert_eq!(
        (anonymous.status, anonymous.error()),
        (401, "invalid_client")
    );
    let used = [
        post().basic_auth("deploy-api", Some("wrong")),
        post().basic_auth("nobody", Some(SERVER_SECRET)),
        post().basic_auth("gateway", Some(SERVER_SECRET)),
        post().basic_auth("deploy-api", None::<&str>),
        post().bearer_auth(token),
        post().bearer_auth(crate::support::broker::OPERATOR_TOKEN),
        post().header("authorization", "Basic !!!"),
    ];
    for request in used {
        let answer = send(request).await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Basic "), "{challenge}");
        assert!(answer.body.get("active").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_taken_as_it_is_and_form_encoded() {
    let gateway = Gateway::start().await;
    let broker = &gateway.broker;
    let token = broker.issue().await["access_token"].clone();
    let token = token.as_str().unwrap();
    for (name, secret) in [
        ("odd.name", "a+b%2Fc d&e"),
        ("odd.name", "a%2Bb%252Fc+d%26e"),
        ("odd%2Ename", "a%2Bb%252Fc%20d%26e"),
    ] {
        let request = broker.http.post(format!("{}/introspect", broker.url));
        let request = request
            .basic_auth(name, Some(secret))
            .form(&[("token", token)]);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.body["active"], true, "{secret}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_with_a_key_signs_each_of_its_questions_once() {
    let gateway = Gateway::start().await;
    let broker = &gateway.broker;
    let issued = broker.exchange(&key_form(broker).await).await.body;
    let token = issued["access_token"].as_str().unwrap();
    let claims = gateway.claims();
    let first = gateway.ask(token, &claims).await;
    assert_eq!(first.body["active"], true, "{}", first.body);
    let again = gateway.ask(token, &claims).await;
    assert_eq!((again.status, again.error()), (401, "invalid_client"));
    for (name, value) in [
        ("aud", json!("https://other.example")),
        ("exp", json!(broker.now() - 61)),
        ("iss", json!("deployer")),
    ] {
        let mut claims = gateway.claims();
        claims[name] = value;
        let answer = gateway.ask(token, &claims).await;
        assert_eq!(
            (answer.status, answer.error()),
            (401, "invalid_client"),
            "{name}"
        );
    }
    // An agent is not a resource server.
    let mut claims = gateway.claims();
    claims["iss"] = json!("deployer");
    claims["sub"] = json!("deployer");
    let answer = gateway.ask(token, &claims).await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
}

/// RFC 9701 section 5 asks for the signed form of answers alone; a refusal is RFC 6749's JSON.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_decides_the_form_of_an_answer_and_never_of_a_refusal() {
    let broker = TestBroker::start().await;
    let token = broker.issue().await["access_token"].clone();
    let ask = |secret: &str, accept: &str| {
        let request = broker.http.post(format!("{}/introspect", broker.url));
        let request = request
            .basic_auth("deploy-api", Some(secret))
            .header("accept", accept)
            .form(&[("token", token.as_str().unwrap())]);
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    for (accept, media) in [
        (SIGNED, SIGNED),
        (
            "application/json, application/token-introspection+jwt;q=0.5",
            "application/json",
        ),
        (
            "application/json;q=0.5, application/token-introspection+jwt",
            SIGNED,
        ),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
    ] {
        let answer = ask(SERVER_SECRET, accept).await;
        assert_eq!(answer.status, 200, "{accept}");
        assert_eq!(answer.headers["content-type"], media, "{accept}");
    }
    let refused = ask("wrong", SIGNED).await;
    assert_eq!((refused.status, refused.error()), (401, "invalid_client"));
    assert_eq!(refused.headers["content-type"], "application/json");
    assert_eq!(refused.headers["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_answer_is_for_its_reader_and_no_token() {
    let broker = TestBroker::start().await;
    let token = broker.issue().await["access_token"].clone();
    let ask = |token: String| {
        let broker = &broker;
        async move {
            let request = broker.http.post(format!("{}/introspect", broker.url));
            let request = request
                .basic_auth("deploy-api", Some(SERVER_SECRET))
                .header("accept", SIGNED)
                .form(&[("token", &token)]);
            Answer::of(request.send().await.unwrap()).await
        }
    };
    let jwks = broker.http.get(format!("{}/jwks", broker.url));
    let jwks = jwks.send().await.unwrap().bytes().await.unwrap();
    let keys = KeySet::parse(&jwks).unwrap();
    for (token, active) in [(token.as_str().unwrap(), true), ("x", false)] {
        let answer = ask(token.to_owned()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.headers["content-type"], SIGNED);
        assert_eq!(answer.headers["cache-control"], "no-store");
        let rule = TypRule::Exactly("token-introspection+jwt");
        let jwt = Compact::parse(answer.body.as_str().unwrap(), 16 * 1024, &rule).unwrap();
        let candidates = keys.candidates(jwt.kid(), jwt.alg());
        let verified = jwt.verify(&candidates, &Algorithm::ALL).unwrap();
        let claims = verified.claims();
        assert_eq!(claims["iss"], broker.url.as_str());
        assert_eq!(claims["aud"], "deploy-api");
        assert!(claims["iat"].is_i64());
        assert!(!claims.contains_key("sub") && !claims.contains_key("exp"));
        let told = &claims["token_introspection"];
        assert_eq!(told["active"], active);
        assert_eq!(told.as_object().unwrap().len() > 1, active);
        // Nor is it one here.
        inactive(
            &broker.introspect(answer.body.as_str().unwrap()).await,
            "the answer",
        );
    }
}
