//! A machine without a platform: invited by an operator, enrolled by the real command line, a client
//! like any other from then on, and ended like one.

use crate::cli::dayfly_in;
use crate::support::broker::{Answer, Setup, TestBroker, form, unique};
use dayfly::jose::{Algorithm, SigningKey};
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MACHINES: &str = r#"
[agent.backup]
owner = "storage@acme.example"
purpose = "Copies the database every night"
ends = 2099-01-01
identity = { client = { enrol = true } }

[agent.neighbour]
owner = "storage@acme.example"
purpose = "Enrols keys, too"
ends = 2099-01-01
identity = { client = { enrol = true } }

[mission.copy]
agents = ["backup", "neighbour"]
owner = "sre@acme.example"
purpose = "Copy the database"
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/db"] }]
"#;

fn setup() -> Setup {
    Setup {
        more: MACHINES.to_owned(),
        ..Setup::default()
    }
}

async fn start() -> TestBroker {
    TestBroker::with(setup()).await
}

async fn invited(broker: &TestBroker, agent: &str, body: Value) -> Answer {
    let path = format!("/agents/{agent}/invitations");
    broker.admin("POST", &path, Some(body)).await
}

async fn token(broker: &TestBroker, agent: &str) -> String {
    let answer = invited(broker, agent, json!({ "note": "db-7" })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["join_token"].as_str().unwrap().to_owned()
}

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::Es256)
        .unwrap()
        .named_by_thumbprint()
}

fn proof(broker: &TestBroker, key: &SigningKey, agent: &str, token: &str) -> String {
    use crate::support::broker::{b64, sha256};
    let now = broker.now();
    let claims = json!({
        "iss": agent, "sub": agent, "aud": broker.url, "iat": now, "exp": now + 120,
        "join_token_hash": b64(&sha256(token.as_bytes())),
    });
    key.sign("enrolment+jwt", None, &claims, true).unwrap()
}

async fn enrol(broker: &TestBroker, key: &SigningKey, agent: &str, token: &str) -> Answer {
    let proof = proof(broker, key, agent, token);
    let form = form(&[("join_token", token), ("proof", &proof)]);
    broker.post("/enrol", &form).await
}

/// Asks for a token with this key alone.
async fn ask(broker: &TestBroker, key: &SigningKey, agent: &str, signs: &SigningKey) -> Answer {
    let now = broker.now();
    let assertion = json!({
        "iss": agent, "sub": agent, "aud": broker.url, "iat": now, "exp": now + 60, "jti": unique(),
    });
    let intent = json!({
        "iss": agent, "sub": agent, "client_id": agent, "aud": broker.url,
        "iat": now, "exp": now + 60, "jti": unique(),
        "mission": { "id": "copy" }, "intent": { "goal": "The nightly copy" },
    });
    let sign = |key: &SigningKey, typ: &str, claims: &Value, embed| {
        key.sign(typ, Some(key.thumbprint()), claims, embed)
            .unwrap()
    };
    let form = form(&[
        ("grant_type", "client_credentials"),
        ("client_assertion", &sign(key, "JWT", &assertion, false)),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("audience", "deploy-api"),
        ("intent", &sign(signs, "intent+jwt", &intent, true)),
    ]);
    broker.exchange(&form).await
}

fn assert_unauthenticated(answer: &Answer, what: &str) {
    let told = (answer.status, answer.error(), answer.reason());
    assert_eq!(told, (401, "invalid_client", ""), "{what}: {}", answer.body);
}

async fn audited(broker: &TestBroker, event: &str) -> Vec<Value> {
    let page = broker.admin("GET", "/audit?limit=1000", None).await;
    let items = page.body["items"].as_array().unwrap();
    let found = items.iter().filter(|entry| entry["event"] == event);
    found.cloned().collect()
}

struct Machine<'a> {
    broker: &'a TestBroker,
    folder: tempfile::TempDir,
}

impl Machine<'_> {
    async fn run(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let operator = self.operator();
        let environment = [
            ("DAYFLY_URL", self.broker.url.as_str()),
            ("DAYFLY_OPERATOR_TOKEN_FILE", operator.to_str().unwrap()),
        ];
        let done = dayfly_in(self.folder.path(), arguments, &environment, input).await;
        (
            done.code,
            done.out.trim().to_owned(),
            done.err.trim().to_owned(),
        )
    }

    fn operator(&self) -> PathBuf {
        let path = self.folder.path().join("operator.token");
        std::fs::write(&path, crate::support::broker::OPERATOR_TOKEN).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn machine(broker: &TestBroker) -> Machine<'_> {
    Machine {
        broker,
        folder: tempfile::tempdir().unwrap(),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_by_the_command_line_and_gets_what_its_mission_allows() {
    let broker = start().await;
    let machine = machine(&broker);
    let (code, token, told) = machine
        .run(&["agent", "invite", "backup", "--note", "db-7"], "")
        .await;
    assert_eq!(code, 0, "{told}");
    assert!(token.starts_with("dayflyjoin_"), "{token}");
    assert!(!told.contains(&token), "{told}");

    let (code, out, err) = machine.run(&["agent", "enrol", "backup"], &token).await;
    assert_eq!(code, 0, "{err}");
    let key = machine.path("backup.key.json");
    assert_eq!(mode(&key), 0o600);
    let private = std::fs::read_to_string(&key).unwrap();
    let private: Value = serde_json::from_str(&private).unwrap();
    for shown in [&out, &err] {
        assert!(!shown.contains(private["d"].as_str().unwrap()));
        assert!(!shown.contains(&token));
    }
    // The answer was lost: the same again, with the old spelling.
    let (code, again, err) = machine.run(&["agent", "enroll", "backup"], &token).await;
    assert_eq!((code, &again), (0, &out), "{err}");

    let ask = [
        "token",
        "--agent",
        "backup",
        "--key",
        "backup.key.json",
        "--mission",
        "copy",
        "--target",
        "deploy-api",
        "--goal",
        "The nightly copy",
    ];
    let (code, issued, err) = machine.run(&ask, "").await;
    assert_eq!(code, 0, "{err}");
    assert!(broker.is_active(&issued).await);

    let (code, list, err) = machine
        .run(&["-o", "json", "agent", "keys", "backup"], "")
        .await;
    assert_eq!(code, 0, "{err}");
    let list: Value = serde_json::from_str(&list).unwrap();
    let listed = &list["items"][0];
    assert_eq!(listed["note"], "db-7");
    assert_eq!(listed["invited_by"], "development-operator");
    assert_eq!(listed["expires_at"], "2099-01-02T00:00:00Z");
    let thumbprint = listed["thumbprint"].as_str().unwrap();
    assert!(out.contains(thumbprint), "{out}");
    let entries = audited(&broker, "key_enrolled").await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["detail"]["key"], thumbprint);

    // It ends by its key: what it holds is dead, and it is nobody.
    let (code, _, err) = machine
        .run(
            &[
                "revoke",
                "--issuer-key",
                thumbprint,
                "--reason",
                "db-7 was stolen",
            ],
            "",
        )
        .await;
    assert_eq!(code, 0, "{err}");
    assert!(!broker.is_active(&issued).await);
    let (code, _, err) = machine.run(&ask, "").await;
    assert_eq!(code, 4, "{err}");
    let (_, list, _) = machine.run(&["agent", "keys", "backup"], "").await;
    assert!(list.contains("no: db-7 was stolen"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_that_comes_twice_is_refused_and_raises_an_alarm() {
    let broker = start().await;
    let (honest, thief) = (key(), key());
    let token = token(&broker, "backup").await;
    let first = enrol(&broker, &thief, "backup", &token).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let second = enrol(&broker, &honest, "backup", &token).await;
    assert_unauthenticated(&second, "spent");
    assert_unauthenticated(
        &ask(&broker, &honest, "backup", &honest).await,
        "not enrolled",
    );
    let alarms = audited(&broker, "join_token_reused").await;
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0]["detail"]["first_key"], thief.thumbprint());
    assert_eq!(alarms[0]["detail"]["second_key"], honest.thumbprint());
    assert_eq!(alarms[0]["agent"], "backup");
    let whole = broker.admin("GET", "/audit?limit=1000", None).await.body;
    assert!(!whole.to_string().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_way_in_has_one_face() {
    let broker = start().await;
    let own = key();
    let good = token(&broker, "backup").await;
    let stale = invited(&broker, "backup", json!({ "valid_seconds": 1 })).await;
    let stale = stale.body["join_token"].as_str().unwrap().to_owned();
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    for (what, agent, token) in [
        ("nobody's token", "backup", "dayflyjoin_00"),
        ("another agent's token", "neighbour", good.as_str()),
        ("an agent that enrols none", "deployer", good.as_str()),
        ("an agent that is not there", "nobody", good.as_str()),
        ("too late", "backup", stale.as_str()),
    ] {
        assert_unauthenticated(&enrol(&broker, &own, agent, token).await, what);
    }
    let send = |token: &str, proof: &str| {
        let form = form(&[("join_token", token), ("proof", proof)]);
        let broker = &broker;
        async move { broker.post("/enrol", &form).await }
    };
    let other = proof(&broker, &own, "backup", "dayflyjoin_other");
    assert_unauthenticated(&send(&good, &other).await, "a proof for another token");
    let stranger = key();
    let foreign = {
        let claims = json!({ "iss": "backup" });
        stranger
            .sign("enrolment+jwt", None, &claims, false)
            .unwrap()
    };
    assert_unauthenticated(&send(&good, &foreign).await, "no key");
    for (what, bare) in [
        ("no token", form(&[("proof", &other)])),
        ("no proof", form(&[("join_token", &good)])),
        (
            "a long token",
            form(&[("join_token", &"x".repeat(300)), ("proof", &other)]),
        ),
    ] {
        let answer = broker.post("/enrol", &bare).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "malformed_request"),
            "{what}"
        );
    }
    broker.revoke(json!({ "agent": "backup" })).await;
    assert_unauthenticated(
        &enrol(&broker, &own, "backup", &good).await,
        "a suspended agent",
    );
    let lift = json!({ "selector": { "agent": "backup" }, "reason": "over" });
    assert_eq!(broker.admin("POST", "/lifts", Some(lift)).await.status, 200);
    // None of them spent the token.
    let answer = enrol(&broker, &own, "backup", &good).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machines_key_is_its_own_and_no_other_machine_signs_for_it() {
    let broker = start().await;
    let (one, two) = (key(), key());
    for key in [&one, &two] {
        let token = token(&broker, "backup").await;
        assert_eq!(enrol(&broker, key, "backup", &token).await.status, 200);
    }
    for key in [&one, &two] {
        let answer = ask(&broker, key, "backup", key).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let crossed = ask(&broker, &one, "backup", &two).await;
    assert_eq!((crossed.status, crossed.error()), (400, "invalid_request"));
    // Nor is it another agent's, though that one enrols keys, too.
    assert_unauthenticated(
        &ask(&broker, &one, "neighbour", &one).await,
        "another agent",
    );
    // One machine ends, the other goes on.
    let selector = json!({ "issuer_key": one.thumbprint() });
    assert_eq!(broker.revoke(selector).await.status, 200);
    assert_unauthenticated(&ask(&broker, &one, "backup", &one).await, "held");
    assert_eq!(ask(&broker, &two, "backup", &two).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_invite_and_whom() {
    let broker = start().await;
    let agent_of_a_platform = invited(&broker, "deployer", json!({})).await;
    assert_eq!(
        agent_of_a_platform.status, 403,
        "{}",
        agent_of_a_platform.body
    );
    assert_eq!(invited(&broker, "nobody", json!({})).await.status, 404);
    for body in [
        json!({ "valid_seconds": 0 }),
        json!({ "valid_seconds": 86_401 }),
        json!({ "note": "x".repeat(201) }),
        json!({ "note": "two\nlines" }),
        json!({ "valid": 60 }),
    ] {
        let answer = invited(&broker, "backup", body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
    assert_eq!(
        broker
            .admin("GET", "/agents/nobody/keys", None)
            .await
            .status,
        404
    );
    let none = broker.admin("GET", "/agents/backup/keys", None).await;
    assert_eq!(none.body["items"], json!([]));
    let entries = audited(&broker, "operator_action").await;
    assert!(
        entries
            .iter()
            .all(|e| e["detail"]["action"] != "agent_invited")
    );
    token(&broker, "backup").await;
    let entries = audited(&broker, "operator_action").await;
    let invitation = entries
        .iter()
        .find(|e| e["detail"]["action"] == "agent_invited");
    assert_eq!(invitation.unwrap()["agent"], "backup");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_knows_a_key_and_its_end_at_once_and_so_does_the_next_start() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let shared = |store: &Arc<dyn Store>| Setup {
        store: Some(store.clone()),
        ..setup()
    };
    let one = TestBroker::with(shared(&store)).await;
    let other = TestBroker::with(shared(&store)).await;
    let own = key();
    let token = token(&one, "backup").await;
    // Invited here, enrolled there.
    let answer = enrol(&other, &own, "backup", &token).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for broker in [&one, &other] {
        let answer = ask(broker, &own, "backup", &own).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    // Spent there, spent here.
    assert_unauthenticated(
        &enrol(&one, &key(), "backup", &token).await,
        "spent elsewhere",
    );
    let selector = json!({ "issuer_key": own.thumbprint() });
    assert_eq!(one.revoke(selector).await.status, 200);
    assert_unauthenticated(&ask(&one, &own, "backup", &own).await, "here");
    // A replica may vouch for what another one revoked for a second at most.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_unauthenticated(&ask(&other, &own, "backup", &own).await, "there");
    let third = TestBroker::with(shared(&store)).await;
    assert_unauthenticated(&ask(&third, &own, "backup", &own).await, "after a start");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_takes_back_what_it_gave() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let with = |more: String| Setup {
        store: Some(store.clone()),
        more,
        ..Setup::default()
    };
    let own = key();
    {
        let broker = TestBroker::with(with(MACHINES.to_owned())).await;
        let token = token(&broker, "backup").await;
        assert_eq!(enrol(&broker, &own, "backup", &token).await.status, 200);
        assert_eq!(ask(&broker, &own, "backup", &own).await.status, 200);
    }
    // The key is still in the store; the agent enrols none any more, and has one of its own.
    let fixed = key();
    let keys = crate::support::world::inline_keys(&fixed);
    let text = MACHINES.replacen("enrol = true", &format!("keys = {keys}"), 1);
    let broker = TestBroker::with(with(text)).await;
    assert_unauthenticated(&ask(&broker, &own, "backup", &own).await, "taken back");
    assert_eq!(ask(&broker, &fixed, "backup", &fixed).await.status, 200);
    assert_eq!(invited(&broker, "backup", json!({})).await.status, 403);
}
