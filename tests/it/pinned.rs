//! Pods and jobs whose tokens cannot name a key: the first key that each signs with is its key, and whoever
//! comes with another is refused and told of.

use crate::exec::{dayfly, run};
use crate::support::broker::{Answer, Setup, TestBroker, b64, form, sha256, unique};
use crate::support::issuer::Issuer;
use crate::support::redis::RedisServer;
use crate::support::tokens;
use dayfly::broker::Reason;
use dayfly::jose::{Algorithm, SigningKey};
use dayfly::secret::Secret;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use dayfly::store::redis::{Redis, RedisSettings};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::process::Command;

const POD: &str = "/kubernetes.io/pod/uid";
const OTHER_POD: &str = "0b1f6a0e-0000-4000-8000-22765a53f7f3";

/// Two platforms with agents that have no key, one whose agent has, and one that pins nothing.
fn configuration([gitlab, kubernetes, unpinned]: [&str; 3]) -> String {
    let agent = |name: &str, identity: &str, more: &str| {
        format!(
            r#"
[agent.{name}]
owner = "payments@acme.example"
purpose = "Runs on a platform"
ends = 2099-01-01
identity = {identity}
{more}
limits = {{ active = 1000, per_minute = 100000 }}

[mission.of-{name}]
agents = ["{name}"]
owner = "sre@acme.example"
purpose = "Deploy from a platform"
allow = [{{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }}]
"#
        )
    };
    format!(
        r#"
[issuer.gitlab]
url = "{gitlab}"

[issuer.kubernetes]
url = "{kubernetes}"

[issuer.unpinned]
preset = "kubernetes"
url = "{unpinned}"
pin = false
"#
    ) + &agent(
        "job",
        r#"{ gitlab = "acme/checkout", project_id = 20 }"#,
        "",
    ) + &agent("pod", r#"{ kubernetes = "shop/checkout" }"#, "")
        + &agent(
            "keyed",
            r#"{ kubernetes = "shop/keyed" }"#,
            r#"intent_keys = "file:deployer.jwks.json""#,
        )
        + &agent(
            "unpinned",
            r#"{ issuer = "unpinned", namespace = "shop", service_account = "checkout" }"#,
            "",
        )
}

struct Platforms {
    ci: Arc<Issuer>,
    gitlab: Issuer,
    kubernetes: Issuer,
    unpinned: Issuer,
    key: SigningKey,
}

impl Platforms {
    async fn start() -> Self {
        Self {
            ci: Arc::new(Issuer::start().await),
            gitlab: Issuer::start().await,
            kubernetes: Issuer::start().await,
            unpinned: Issuer::start().await,
            key: key(),
        }
    }

    /// One of the replicas over this store, known by this URL, or by the one where it listens.
    async fn replica(&self, store: Arc<dyn Store>, url: Option<&str>) -> TestBroker {
        let urls = [&self.gitlab.url, &self.kubernetes.url, &self.unpinned.url];
        TestBroker::with(Setup {
            store: Some(store),
            issuer: Some(self.ci.clone()),
            key: Some(self.key.clone()),
            public_url: url.map(str::to_owned),
            more: configuration(urls.map(String::as_str)),
            ..Setup::default()
        })
        .await
    }

    /// A token of this agent with one claim of it changed.
    fn token(&self, broker: &TestBroker, agent: &str, change: Option<(&str, Value)>) -> String {
        let (now, own) = (broker.now(), &broker.url);
        let (issuer, mut claims) = match agent {
            "job" => (&self.gitlab, tokens::gitlab(now, &self.gitlab.url, own)),
            "unpinned" => {
                let url = &self.unpinned.url;
                (&self.unpinned, tokens::kubernetes(now, url, own))
            }
            _ => {
                let url = &self.kubernetes.url;
                (&self.kubernetes, tokens::kubernetes(now, url, own))
            }
        };
        // Each is a token of its own, as when a kubelet renews it.
        claims["jti"] = json!(unique());
        if agent == "keyed" {
            claims["kubernetes.io"]["serviceaccount"]["name"] = json!("keyed");
        }
        if let Some((pointer, value)) = change {
            *claims.pointer_mut(pointer).unwrap() = value;
        }
        issuer.sign(&claims)
    }
}

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::Es256)
        .unwrap()
        .named_by_thumbprint()
}

fn intent(broker: &TestBroker, agent: &str, token: &str) -> Value {
    let now = broker.now();
    json!({
        "iss": agent, "sub": agent, "client_id": agent, "aud": broker.url,
        "iat": now, "exp": now + 120, "jti": unique(),
        "mission": { "id": format!("of-{agent}") },
        "authorization_details": [{
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
        }],
        "intent": { "goal": "Deploy checkout 1.42" },
        "subject_token_hash": b64(&sha256(token.as_bytes())),
    })
}

fn request(token: &str, intent: &str) -> Vec<(String, String)> {
    form(&[
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token", token),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("audience", "deploy-api"),
        ("intent", intent),
    ])
}

fn signed(key: &SigningKey, claims: &Value) -> String {
    key.sign("intent+jwt", Some(key.thumbprint()), claims, true)
        .unwrap()
}

/// Once the broker can vouch for an answer: a slow machine says 503 first, which spends nothing.
async fn ask(broker: &TestBroker, agent: &str, token: &str, key: &SigningKey) -> Answer {
    loop {
        let claims = intent(broker, agent, token);
        let form = request(token, &signed(key, &claims));
        let answer = broker.exchange(&form).await;
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn assert_granted(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
}

fn assert_refused(answer: &Answer, reason: Reason, what: &str) {
    let told = (answer.status, answer.error(), answer.reason());
    let expected = (400, "invalid_request", reason.code());
    assert_eq!(told, expected, "{what}: {}", answer.body);
}

/// Before the key is anybody's: the face of every intent that does not do.
fn assert_not_vouched(answer: &Answer, what: &str) {
    let told = (answer.status, answer.reason());
    assert_eq!(told, (400, ""), "{what}: {}", answer.body);
    let why = &answer.body["error_description"];
    assert_eq!(why, "The intent was not accepted.", "{what}");
}

async fn audited(broker: &TestBroker, event: &str) -> Vec<Value> {
    let page = broker.admin("GET", "/audit?limit=1000", None).await;
    let items = page.body["items"].as_array().unwrap();
    let found = items.iter().filter(|entry| entry["event"] == event);
    found.cloned().collect()
}

async fn start() -> (Platforms, TestBroker) {
    let platforms = Platforms::start().await;
    let store = Arc::new(Embedded::in_memory().unwrap());
    let broker = platforms.replica(store, None).await;
    (platforms, broker)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_of_a_pod_or_a_job_is_its_key_and_another_raises_an_alarm() {
    for (agent, pointer, other, named) in [
        (
            "pod",
            POD,
            OTHER_POD,
            "kubernetes.io.pod.uid 5e0bd49b-f040-43b0-99b7-22765a53f7f3",
        ),
        ("job", "/job_id", "303", "job_id 302"),
    ] {
        let (platforms, broker) = start().await;
        let (first, second) = (key(), key());
        let token = platforms.token(&broker, agent, None);
        assert_granted(&ask(&broker, agent, &token, &first).await, agent);
        // The same token, and the next one of the same instance.
        let renewed = platforms.token(&broker, agent, None);
        for token in [&token, &renewed] {
            assert_granted(&ask(&broker, agent, token, &first).await, agent);
            let answer = ask(&broker, agent, token, &second).await;
            assert_refused(&answer, Reason::OtherKeyPinned, agent);
            assert_eq!(answer.body["at"], "intent");
            assert_eq!(answer.body["retry"], "never");
        }
        let pinned = audited(&broker, "key_pinned").await;
        assert_eq!(pinned.len(), 1, "{agent}");
        assert_eq!(pinned[0]["detail"]["key"], first.thumbprint());
        assert_eq!(pinned[0]["detail"]["instance"], named);
        let alarms = audited(&broker, "other_key_pinned").await;
        assert_eq!(alarms.len(), 2, "{agent}");
        for alarm in &alarms {
            assert_eq!(alarm["agent"], agent);
            assert_eq!(alarm["reason"], "other_key_pinned");
            assert_eq!(alarm["detail"]["instance"], named);
            assert_eq!(alarm["detail"]["first_key"], first.thumbprint());
            assert_eq!(alarm["detail"]["second_key"], second.thumbprint());
        }
        // Another instance of the same agent is held to a key of its own.
        let token = platforms.token(&broker, agent, Some((pointer, json!(other))));
        assert_granted(&ask(&broker, agent, &token, &second).await, other);
        let answer = ask(&broker, agent, &token, &first).await;
        assert_refused(&answer, Reason::OtherKeyPinned, other);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pinned_where_something_else_vouches_or_nothing_tells_the_instance() {
    let (platforms, broker) = start().await;
    let stranger = key();
    let token = platforms.token(&broker, "keyed", None);
    let answer = ask(&broker, "keyed", &token, &stranger).await;
    assert_not_vouched(&answer, "an agent with a registered key");
    assert_granted(
        &ask(&broker, "keyed", &token, &broker.key).await,
        "its own key",
    );
    for (what, pointer, value) in [
        ("no pod", "/kubernetes.io/pod", json!({})),
        ("an empty uid", POD, json!("")),
        ("a long uid", POD, json!("x".repeat(257))),
        ("a uid that is none", POD, json!(["a"])),
    ] {
        let token = platforms.token(&broker, "pod", Some((pointer, value)));
        assert_not_vouched(&ask(&broker, "pod", &token, &stranger).await, what);
    }
    let token = platforms.token(&broker, "unpinned", None);
    let answer = ask(&broker, "unpinned", &token, &stranger).await;
    assert_not_vouched(&answer, "pin = false");
    assert_eq!(audited(&broker, "key_pinned").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_key_is_held_to_like_one_that_the_token_names() {
    let (platforms, broker) = start().await;
    let own = key();
    let token = platforms.token(&broker, "pod", None);
    // Without the token's hash a key signs for nothing.
    let mut loose = intent(&broker, "pod", &token);
    loose.as_object_mut().unwrap().remove("subject_token_hash");
    let answer = broker
        .exchange(&request(&token, &signed(&own, &loose)))
        .await;
    assert_not_vouched(&answer, "no hash of the token");
    // Whoever stole the token and the intent cannot bind the credential to a key of theirs.
    let thief = key();
    let claims = intent(&broker, "pod", &token);
    let form = request(&token, &signed(&own, &claims));
    let proof = broker.proof(&thief).await;
    let answer = broker.proved("/token", &form, &[&proof]).await;
    assert_not_vouched(&answer, "a proof of another key");
    assert_eq!(audited(&broker, "key_pinned").await, Vec::<Value>::new());
    // Refused for what it asks, and all the same its first key.
    let mut greedy = intent(&broker, "pod", &token);
    greedy["authorization_details"][0]["actions"] = json!(["deploy:everything"]);
    let answer = broker
        .exchange(&request(&token, &signed(&own, &greedy)))
        .await;
    assert_eq!(answer.reason(), "exceeds_mission", "{}", answer.body);
    let answer = ask(&broker, "pod", &token, &key()).await;
    assert_refused(&answer, Reason::OtherKeyPinned, "after a refusal");
    assert_granted(&ask(&broker, "pod", &token, &own).await, "its own key");
    // A key that is revoked is out, and makes no room for another.
    broker
        .revoke(json!({ "issuer_key": own.thumbprint() }))
        .await;
    assert_ne!(ask(&broker, "pod", &token, &own).await.status, 200);
    let answer = ask(&broker, "pod", &token, &key()).await;
    assert_refused(&answer, Reason::OtherKeyPinned, "after a revocation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_outlives_a_restart() {
    let platforms = Platforms::start().await;
    let store = Arc::new(Embedded::in_memory().unwrap());
    let broker = platforms.replica(store.clone(), None).await;
    let own = key();
    let token = platforms.token(&broker, "job", None);
    assert_granted(&ask(&broker, "job", &token, &own).await, "first");
    let url = broker.url.clone();
    drop(broker);
    let broker = platforms.replica(store, Some(&url)).await;
    let answer = ask(&broker, "job", &token, &key()).await;
    assert_refused(&answer, Reason::OtherKeyPinned, "after a restart");
    assert_granted(&ask(&broker, "job", &token, &own).await, "the same key");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keys_that_race_at_two_replicas_on_redis_exactly_one_is_pinned() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let platforms = Platforms::start().await;
    let connect = async || {
        let url = Secret::new(redis.url());
        Arc::new(Redis::connect(RedisSettings::new(url)).await.unwrap())
    };
    let here = platforms.replica(connect().await, None).await;
    let there = platforms.replica(connect().await, Some(&here.url)).await;
    for round in 0..8 {
        let job = json!(format!("race-{round}"));
        let token = platforms.token(&here, "job", Some(("/job_id", job)));
        let keys = [key(), key()];
        let asked = (0..8).map(|place| {
            let broker = if place % 4 < 2 { &here } else { &there };
            ask(broker, "job", &token, &keys[place % 2])
        });
        let answers = join_all(asked).await;
        let granted: Vec<bool> = answers.iter().map(|answer| answer.status == 200).collect();
        let winner = granted.iter().position(|granted| *granted).unwrap() % 2;
        for (place, answer) in answers.iter().enumerate() {
            let what = format!("round {round}, request {place}");
            if place % 2 == winner {
                assert_granted(answer, &what);
            } else {
                assert_refused(answer, Reason::OtherKeyPinned, &what);
            }
        }
        for broker in [&here, &there] {
            let answer = ask(broker, "job", &token, &keys[1 - winner]).await;
            assert_refused(&answer, Reason::OtherKeyPinned, "afterwards");
        }
    }
    assert_eq!(audited(&here, "key_pinned").await.len(), 8);
}

/// `dayfly token` in a job of GitLab's, whose folder of temporary files is this.
fn job(broker: &TestBroker, token: &str, temporary: &Path) -> Command {
    let mut command = dayfly();
    command
        .args(["token", "--url", &broker.url, "--agent", "job"])
        .args(["--mission", "of-job", "--target", "deploy-api"])
        .args(["--goal", "Deploy"])
        .env("DAYFLY_ID_TOKEN", token)
        .env("TMPDIR", temporary);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_gitlab_job_every_command_signs_with_the_job_s_key() {
    let (platforms, broker) = start().await;
    let token = platforms.token(&broker, "job", None);
    let temporary = tempfile::tempdir().unwrap();
    // Two that begin at once, and one after them.
    let (one, other) = tokio::join!(
        run(job(&broker, &token, temporary.path())),
        run(job(&broker, &token, temporary.path()))
    );
    let last = run(job(&broker, &token, temporary.path())).await;
    for (code, out, err) in [one, other, last] {
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("ey"), "{out}");
    }
    // The next job finds the folder and has a key of its own.
    let next = platforms.token(&broker, "job", Some(("/job_id", json!("303"))));
    let (code, _, err) = run(job(&broker, &next, temporary.path())).await;
    assert_eq!(code, 0, "{err}");
    let pinned = audited(&broker, "key_pinned").await;
    assert_eq!(pinned.len(), 2);
    assert_ne!(pinned[0]["detail"]["key"], pinned[1]["detail"]["key"]);
    // Somebody else with the job's token.
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, out, err) = run(job(&broker, &token, elsewhere.path())).await;
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("other_key_pinned"), "{err}");
    assert_eq!(audited(&broker, "other_key_pinned").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_started_again_in_its_pod_finds_the_pod_s_key() {
    let (platforms, broker) = start().await;
    let volume = tempfile::tempdir().unwrap();
    let folder = volume.path().join("keys");
    let file = volume.path().join("token");
    let exec = || {
        // As the kubelet does from time to time.
        std::fs::write(&file, platforms.token(&broker, "pod", None)).unwrap();
        let mut command = dayfly();
        command
            .args(["exec", "--url", &broker.url, "--agent", "pod"])
            .args(["--mission", "of-pod", "--target", "deploy-api"])
            .args(["--goal", "Deploy"])
            .env("DAYFLY_SUBJECT_TOKEN_FILE", &file)
            .env("DAYFLY_KEY_FOLDER", &folder)
            // Each container has its own.
            .env("TMPDIR", tempfile::tempdir().unwrap().keep())
            .args(["--", "sh", "-c", "cat $DAYFLY_TOKEN_DEPLOY_API_FILE"]);
        command
    };
    for _ in 0..2 {
        let (code, out, err) = run(exec()).await;
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("ey"), "{out}");
    }
    // The volume is gone, and the key with it.
    std::fs::remove_dir_all(&folder).unwrap();
    let (code, out, err) = run(exec()).await;
    assert_eq!((code, out.as_str()), (121, ""), "{err}");
    assert!(err.contains("other_key_pinned"), "{err}");
}
