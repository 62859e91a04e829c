//! `GET /events`: operators are told of everything, resource servers of what is theirs, and nobody is
//! told twice or not at all.

mod clients;
mod ends;
mod failover;
mod resume;

use crate::support::broker::{
    Answer, OPERATOR_TOKEN, SERVER_SECRET, Setup, TestBroker, unique, with,
};
use crate::support::forge::sign;
use crate::support::world::{ASSERTION, assert_refused, inline_keys, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use dayfly::store::embedded::Embedded;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Longer than any event takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One event, as it stood in the stream.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    name: String,
    id: String,
    data: Value,
}

impl Told {
    fn is_about(&self, lease: &Value) -> bool {
        self.data["jti"] == *lease || self.data["lease"] == *lease
    }
}

/// A stream, read as it comes.
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let mut stream = Self {
            response,
            text: String::new(),
        };
        let ready = stream.next().await;
        assert_eq!((ready.name.as_str(), ready.data), ("ready", json!({})));
        stream
    }

    /// Comments are skipped.
    async fn next(&mut self) -> Told {
        self.event().await.expect("the stream ended")
    }

    async fn event(&mut self) -> Option<Told> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = event.lines();
                    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    found
                        .unwrap_or_else(|| panic!("no {name} in {event:?}"))
                        .to_owned()
                };
                let told = Told {
                    name: field("event"),
                    id: field("id"),
                    data: serde_json::from_str(&field("data")).unwrap(),
                };
                self.text = rest.to_owned();
                return Some(told);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk());
            // One that was open for too long ends by itself.
            let chunk = chunk.await.expect("nothing more is told");
            let chunk = chunk.unwrap_or_default()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Everything up to the first that fits, and that one.
    async fn until(&mut self, fits: impl Fn(&Told) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.next().await;
            let done = fits(&told);
            all.push(told);
            if done {
                return all;
            }
        }
    }
}

fn names(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| told.name.as_str()).collect()
}

fn events(broker: &TestBroker, query: &str) -> RequestBuilder {
    broker.http.get(format!("{}/events{query}", broker.at))
}

fn as_server(broker: &TestBroker) -> RequestBuilder {
    events(broker, "").basic_auth("deploy", Some(SERVER_SECRET))
}

fn as_operator(broker: &TestBroker, query: &str) -> RequestBuilder {
    events(broker, query).bearer_auth(OPERATOR_TOKEN)
}

/// Two resource servers that share no audience.
fn servers(key: &SigningKey) -> String {
    let keys = inline_keys(key);
    format!(
        "[resource_server.deploy]\nsecret = \"file:server.secret\"\naudiences = [\"deploy-api\"]\n\
         [resource_server.gateway]\nkeys = {keys}\naudiences = [\"metrics-key\"]\n"
    )
}

async fn start() -> TestBroker {
    with_gateway(&key()).await
}

async fn with_gateway(key: &SigningKey) -> TestBroker {
    TestBroker::with(Setup {
        more: servers(key),
        ..Setup::default()
    })
    .await
}

/// Another replica of it, over the same store.
async fn beside(first: &TestBroker, store: Arc<Embedded>, more: String) -> TestBroker {
    TestBroker::with(Setup {
        store: Some(store),
        public_url: Some(first.url.clone()),
        issuer: Some(first.issuer.clone()),
        key: Some(first.key.clone()),
        more,
        ..Setup::default()
    })
    .await
}

fn as_gateway(broker: &TestBroker, key: &SigningKey, jti: &str) -> RequestBuilder {
    let now = broker.now();
    let claims = json!({
        "iss": "gateway", "sub": "gateway", "aud": broker.url,
        "iat": now, "exp": now + 60, "jti": jti,
    });
    let assertion = sign(key, &json!({ "alg": "ES256", "typ": "JWT" }), &claims);
    broker.http.post(format!("{}/events", broker.at)).form(&[
        ("client_assertion", assertion.as_str()),
        ("client_assertion_type", ASSERTION),
    ])
}

async fn issue_key(broker: &TestBroker) -> Value {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/checkout"],
    }]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let answer = broker
        .exchange(&with(form, "audience", "metrics-key"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_is_told_what_becomes_of_its_own_leases() {
    let broker = start().await;
    let mut stream = Stream::open(as_server(&broker)).await;
    let issued = broker.issue().await;
    let lease = &issued["lease_id"];
    let told = stream.next().await;
    assert_eq!(told.name, "issued");
    let introspected = broker
        .introspect(issued["access_token"].as_str().unwrap())
        .await
        .body;
    for member in ["jti", "aud", "client_id", "mission", "exp"] {
        assert_eq!(told.data[member], introspected[member], "{member}");
    }
    // It is told nothing that introspection does not say, but when.
    let members: Vec<_> = told.data.as_object().unwrap().keys().collect();
    assert!(
        members
            .iter()
            .all(|name| *name == "at" || introspected.get(name.as_str()).is_some()),
        "{members:?}"
    );
    broker.revoke(json!({ "lease": lease })).await;
    let told = stream.until(|told| told.name == "revoked").await;
    assert_eq!(names(&told), ["fenced", "revoked"]);
    assert!(told.iter().all(|told| told.is_about(lease)), "{told:?}");
    // Given back by its holder.
    let issued = broker.issue().await;
    let token = [(
        "token".to_owned(),
        issued["access_token"].as_str().unwrap().to_owned(),
    )];
    assert_eq!(broker.post("/revoke", &token).await.status, 200);
    let told = stream.until(|told| told.name == "ended").await;
    assert_eq!(names(&told), ["issued", "fenced", "ended"]);
    assert!(told.iter().all(|told| told.is_about(&issued["lease_id"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_is_told_nothing_of_other_audiences() {
    let key = key();
    let broker = with_gateway(&key).await;
    let mut server = Stream::open(as_server(&broker)).await;
    let mut gateway = Stream::open(as_gateway(&broker, &key, &unique())).await;
    let mine = broker.issue().await;
    let theirs = issue_key(&broker).await;
    broker.revoke(json!({ "lease": mine["lease_id"] })).await;
    broker.revoke(json!({ "lease": theirs["lease_id"] })).await;
    // A request that is refused is nobody's but the operators'.
    let refused = broker
        .exchange(&with(broker.good_form(), "scope", "deploy:never"))
        .await;
    assert_eq!(refused.status, 400);
    for (stream, own) in [(&mut server, &mine), (&mut gateway, &theirs)] {
        let told = stream.until(|told| told.name == "revoked").await;
        assert_eq!(names(&told), ["issued", "fenced", "revoked"]);
        assert!(
            told.iter().all(|told| told.is_about(&own["lease_id"])),
            "{told:?}"
        );
    }
    let third = broker.issue().await;
    let told = server.next().await;
    assert_eq!(told.name, "issued", "nothing came in between");
    assert!(told.is_about(&third["lease_id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_many_is_told_at_once_without_names_and_then_lease_by_lease() {
    let key = key();
    let broker = with_gateway(&key).await;
    let (one, other) = (broker.issue().await, broker.issue().await);
    let theirs = issue_key(&broker).await;
    let mut server = Stream::open(as_server(&broker)).await;
    let revoked = broker.revoke(json!({ "agent": "deployer" })).await;
    assert_eq!(revoked.status, 200);
    let fenced = server.next().await;
    assert_eq!(fenced.name, "fenced");
    let members: Vec<_> = fenced.data.as_object().unwrap().keys().collect();
    assert_eq!(members, ["at"], "not on what, not by whom, not why");
    let mut ended = Vec::new();
    for _ in 0..2 {
        let told = server.next().await;
        assert_eq!(told.name, "revoked");
        ended.push(told);
    }
    for lease in [&one, &other] {
        assert!(
            ended.iter().any(|told| told.is_about(&lease["lease_id"])),
            "{ended:?}"
        );
    }
    assert!(!ended.iter().any(|told| told.is_about(&theirs["lease_id"])));
    // A lift brings nothing back, and a kill of another target concerns another.
    let lift = json!({ "selector": { "agent": "deployer" }, "reason": "a test" });
    assert_eq!(broker.admin("POST", "/lifts", Some(lift)).await.status, 200);
    broker.revoke(json!({ "target": "metrics-key" })).await;
    broker.issue().await;
    assert_eq!(server.next().await.name, "issued");
    broker.revoke(json!({ "target": "deploy-api" })).await;
    assert_eq!(server.next().await.name, "fenced");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_what_the_audit_says() {
    let broker = start().await;
    let mut all = Stream::open(as_operator(&broker, "")).await;
    let mut refusals = Stream::open(as_operator(&broker, "?event=refused&agent=deployer")).await;
    let mut others = Stream::open(as_operator(&broker, "?agent=nobody")).await;
    let issued = broker.issue().await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"][0]["actions"] = json!(["deploy:never"]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    let refused = broker.exchange(&form).await;
    assert_eq!(refused.status, 400);
    broker.revoke(json!({ "agent": "deployer" })).await;
    let told = all.until(|told| told.name == "revoked").await;
    let told_names = names(&told);
    for name in ["issued", "refused", "fence_raised"] {
        assert!(told_names.contains(&name), "{told_names:?}");
    }
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    for told in &told {
        assert!(
            audit["items"].as_array().unwrap().contains(&told.data),
            "{told:?}"
        );
    }
    assert!(told.iter().any(|told| told.is_about(&issued["lease_id"])));
    let told = refusals.next().await;
    assert_eq!(told.data["reason"], "exceeds_mission");
    assert_eq!(
        told.data["detail"]["refusal_id"],
        refused.body["refusal_id"]
    );
    let nothing = tokio::time::timeout(Duration::from_secs(3), others.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_opens_for_whom_it_is_and_says_to_others_how_to_ask() {
    let broker = start().await;
    let send =
        |request: RequestBuilder| async move { Answer::of(request.send().await.unwrap()).await };
    let nobody = send(events(&broker, "")).await;
    assert_refused(&nobody, Reason::NotAuthenticated, "nobody");
    let asked = nobody.headers["www-authenticate"].to_str().unwrap();
    assert!(asked.starts_with("Bearer "), "{asked}");
    for request in [
        events(&broker, "").basic_auth("deploy", Some("wrong")),
        events(&broker, "").basic_auth("nobody", Some(SERVER_SECRET)),
        events(&broker, "?client_id=deploy"),
        events(&broker, "").bearer_auth("dayflyop_wrong"),
        events(&broker, "").bearer_auth(broker.platform_token()),
        events(&broker, "").header("authorization", "Bearer"),
    ] {
        let answer = send(request).await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
    }
    // A resource server has no filters, and an operator no other ones than there are.
    for request in [
        events(&broker, "?agent=deployer").basic_auth("deploy", Some(SERVER_SECRET)),
        as_operator(&broker, "?agents=deployer"),
        as_operator(&broker, "?agent="),
    ] {
        assert_refused(&send(request).await, Reason::MalformedRequest, "the query");
    }
    let token = broker.issue().await["access_token"].clone();
    let agent = send(events(&broker, "").bearer_auth(token.as_str().unwrap())).await;
    assert_eq!(
        (agent.status, agent.error()),
        (401, "invalid_client"),
        "an agent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_opens_one_stream() {
    let key = key();
    let broker = with_gateway(&key).await;
    let jti = unique();
    let _stream = Stream::open(as_gateway(&broker, &key, &jti)).await;
    let again = as_gateway(&broker, &key, &jti).send().await.unwrap();
    assert_eq!(again.status(), 401);
}

/// What one replica revoked is told by the other, whose store and keys are the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_revoked_is_told_by_the_other() {
    let store = Arc::new(Embedded::in_memory().unwrap());
    let more = servers(&key());
    let first = TestBroker::with(Setup {
        store: Some(store.clone()),
        more: more.clone(),
        ..Setup::default()
    })
    .await;
    let second = beside(&first, store, more).await;
    let mut stream = Stream::open(as_server(&second)).await;
    let issued = first.issue().await;
    first.revoke(json!({ "lease": issued["lease_id"] })).await;
    let told = stream.until(|told| told.name == "revoked").await;
    assert_eq!(names(&told), ["issued", "fenced", "revoked"]);
    // An id of the one is good at the other.
    let last = told[1].id.clone();
    drop(stream);
    let again = as_server(&first).header("last-event-id", last);
    let mut stream = Stream::open(again).await;
    assert_eq!(stream.next().await.data, told[2].data);
}
