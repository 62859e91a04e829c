//! A replica of the store is connected and hears nothing. Whatever ends then is in force, and no door says
//! that it is done: whoever said so says it again, until a failover would not bring it back.

use crate::postgres::mission;
use crate::support::broker::{Answer, SERVER_SECRET, form};
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::process::{Installation, Process, now, secret_file, until};
use crate::support::redis::RedisServer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

const MORE: &str = r#"
[source.runs]
kind = "generic"
secret = "file:server.secret"
issuer = "ci"
ends = ["pipeline"]

[source.people]
kind = "scim"
secret = "file:server.secret"
ends = ["acme.example"]

[facts.freeze]
webhook = { hmac = "file:server.secret", max_age = "15m", pointers = { "freeze.state" = "/state" } }
"#;

/// A broker on the store of the installation.
async fn serve(
    installation: &Arc<Installation>,
    name: &str,
    view_age: &str,
    more: &str,
    files: &[(&str, &str)],
) -> Process {
    let store = format!(
        r#"{{ redis = "file:../redis.url", min_replicas = 1, fence_view_max_age = "{view_age}" }}"#
    );
    let broker = installation.replica(name, &store, &format!("{MORE}{more}"));
    for (name, text) in files {
        secret_file(&broker.folder.join(name), text);
    }
    broker.edit("ttl = \"10m\"", "ttl = \"10m\"\ntether = [\"pipeline\"]");
    broker.serve().await
}

struct House {
    installation: Arc<Installation>,
    process: Process,
    primary: RedisServer,
    replica: RedisServer,
}

impl House {
    async fn start() -> Option<Self> {
        // Fresh for long enough that what is known is not said again for want of a view.
        Self::with("20s", "", &[]).await
    }

    async fn with(view_age: &str, more: &str, files: &[(&str, &str)]) -> Option<Self> {
        let quick = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
        let primary = RedisServer::start(&quick).unwrap()?;
        let port = primary.port().to_string();
        let follow = [quick.as_slice(), &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = RedisServer::start(&follow).unwrap()?;
        primary.until_followed_by(1).unwrap();
        let installation = Installation::start().await;
        secret_file(
            &installation.folder.path().join("redis.url"),
            &primary.url(),
        );
        let process = serve(&installation, "one", view_age, more, files).await;
        Some(Self {
            installation,
            process,
            primary,
            replica,
        })
    }

    /// Connected, and it hears nothing.
    fn stop_the_replica(&self) {
        self.replica.freeze();
        let told = self.primary.command("INFO replication").unwrap();
        assert!(told.contains("state=online"), "{told}");
    }

    async fn release(&self, token: &str) -> Answer {
        let url = format!("{}/revoke", self.process.base);
        let request = self.installation.http.post(url);
        let request = request.form(&form(&[("token", token)]));
        Answer::of(request.send().await.unwrap()).await
    }

    /// A message that is signed as generic sources and facts sign theirs.
    async fn hook(&self, source: &str, sent: i64, body: &Value) -> Answer {
        let (sent, body) = (sent.to_string(), body.to_string());
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SERVER_SECRET.as_bytes());
        let tag = ring::hmac::sign(&key, format!("{sent}.{body}").as_bytes());
        let hex: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let url = format!("{}/hooks/{source}", self.process.base);
        let request = self.installation.http.post(url);
        let request = request
            .header("x-dayfly-timestamp", sent)
            .header("x-dayfly-signature", format!("sha256={hex}"))
            .body(body);
        Answer::of(request.send().await.unwrap()).await
    }

    async fn leaves(&self, who: &str) -> Answer {
        let url = format!("{}/scim/v2/Users/{who}", self.process.base);
        let body = json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
            "Operations": [{ "op": "replace", "path": "active", "value": false }],
        });
        let request = self.installation.http.patch(url).bearer_auth(SERVER_SECRET);
        let request = request
            .header("content-type", "application/scim+json")
            .body(body.to_string());
        Answer::of(request.send().await.unwrap()).await
    }

    async fn is_not_vouched_for(&self, token: &str) {
        let answer = self.installation.introspect(&self.process, token).await;
        assert_ne!(answer.body["active"], true, "{}", answer.body);
    }

    async fn audited(&self, event: &str) -> Vec<Value> {
        let path = "/audit?limit=1000";
        let page = self
            .installation
            .admin(&self.process, "GET", path, None)
            .await;
        let page = page.unwrap().body;
        let items = page["items"].as_array().unwrap().iter();
        items
            .filter(|item| item["event"] == event)
            .cloned()
            .collect()
    }
}

/// "Later", and when.
fn assert_later(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 503, "{what}: {}", answer.body);
    let seconds = answer.headers["retry-after"].to_str().unwrap();
    assert!((1..=60).contains(&seconds.parse().unwrap()), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_not_called_done_before_a_replica_has_it() {
    let Some(house) = House::start().await else {
        return;
    };
    let issued = house.installation.issue(&house.process).await;
    let token = issued["access_token"].as_str().unwrap();
    house.stop_the_replica();
    for what in ["the first time", "once more"] {
        assert_later(&house.release(token).await, what);
        house.is_not_vouched_for(token).await;
    }
    house.replica.thaw();
    until("a release that is done", || async {
        house.release(token).await.status == 200
    })
    .await;
    house.is_not_vouched_for(token).await;
    let released = house.audited("fence_raised").await;
    assert_eq!(released.len(), 1, "one fence is enough: {released:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_not_taken_before_a_replica_has_what_it_ends() {
    let Some(house) = House::start().await else {
        return;
    };
    let issued = house.installation.issue(&house.process).await;
    let token = issued["access_token"].as_str().unwrap();
    let sent = now();
    let open = json!({ "state": "open" });
    assert_eq!(house.hook("freeze", sent - 1, &open).await.status, 204);
    house.stop_the_replica();
    let (over, frozen) = (
        json!({ "kind": "pipeline", "id": "1234:77" }),
        json!({ "state": "frozen" }),
    );
    // The second time it is known already, and that says nothing of the replica.
    for what in ["the first time", "once more"] {
        assert_later(&house.hook("runs", sent, &over).await, what);
        house.is_not_vouched_for(token).await;
        assert_later(&house.hook("freeze", sent, &frozen).await, what);
        assert_later(&house.leaves("payments@acme.example").await, what);
    }
    house.replica.thaw();
    until("every message is taken", || async {
        house.hook("runs", sent, &over).await.status == 204
            && house.hook("freeze", sent, &frozen).await.status == 204
            && house.leaves("payments@acme.example").await.status == 204
    })
    .await;
    let held = house.audited("fence_raised").await;
    let runs = |fence: &&Value| fence["detail"]["by"] == "source runs";
    assert_eq!(held.iter().filter(runs).count(), 1, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_says_so_until_a_replica_has_it_and_then_that_it_is_confirmed() {
    let Some(house) = House::start().await else {
        return;
    };
    house.installation.issue(&house.process).await;
    house.stop_the_replica();
    let agent = json!({ "agent": "deployer" });
    let answer = house.installation.revoke(&house.process, agent).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["state"], "not_yet_replicated");
    assert_eq!(answer.body["leases"], json!({ "broker": 1 }));
    let path = format!("/revocations/{}", answer.body["id"].as_str().unwrap());
    let state = || async {
        let found = house
            .installation
            .admin(&house.process, "GET", &path, None)
            .await;
        found.unwrap().body["state"].clone()
    };
    assert_eq!(state().await, "not_yet_replicated");
    // Nor is it in the export: only what is replicated is sealed.
    let export = house.installation.folder.path().join("one/audit.jsonl");
    let exported = || std::fs::read_to_string(&export).unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(state().await, "not_yet_replicated");
    assert!(!exported().contains("fence_raised"), "{}", exported());
    house.replica.thaw();
    until("confirmed", || async { state().await == "confirmed" }).await;
    until("exported", || async { exported().contains("fence_raised") }).await;
    until("told", || async {
        !house.audited("revocation_confirmed").await.is_empty()
    })
    .await;
    let told = house.audited("revocation_confirmed").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["agent"], "deployer");
    assert_eq!(told[0]["reason"], "confirmed");
    assert_eq!(told[0]["detail"]["leases"], json!({ "broker": 1 }));
}

/// What two exchanges answered, each with an open session of its login.
async fn two_sessions(house: &House, server: &Postgres) -> Vec<(Value, Client)> {
    let detail = json!({
        "type": "postgres_login", "identifier": "orders-db",
        "actions": ["select"], "locations": ["public.orders"],
    });
    let mut open = Vec::new();
    for _ in 0..2 {
        let form = house.installation.form_with_mission("read-orders", &detail);
        let answer = house.installation.exchange(&house.process, &form).await;
        let body = answer.unwrap().body;
        let field = |name: &str| body["credential"][name].as_str().unwrap();
        let session = server.login(field("username"), field("password")).await;
        open.push((body.clone(), session.unwrap()));
    }
    open
}

/// The session is closed within the time that the answer names.
async fn dies((answer, session): &(Value, Client), why: &str, broker: &Process) {
    let within = answer["revocation"]["within_seconds"].as_u64().unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(within);
    while session.simple_query("SELECT 1").await.is_ok() {
        assert!(
            tokio::time::Instant::now() < until,
            "{why}\n{}",
            broker.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The view is past its bound, and nothing brings it back: what its target can end is ended all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_ended_while_no_replica_of_the_store_hears_anything() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let ca = std::fs::read_to_string(&server.ca).unwrap();
    let files = [
        ("orders-db.password", PASSWORD),
        ("orders-db.ca", ca.as_str()),
    ];
    let more = mission(&server, "orders-db.ca");
    let Some(house) = House::with("1s", &more, &files).await else {
        return;
    };
    let (installation, process) = (&house.installation, &house.process);
    let open = two_sessions(&house, &server).await;
    // Tokens, whose ends have to be on a replica, are no hindrance to them.
    installation.issue(process).await;
    house.stop_the_replica();
    let token = installation.platform_token();
    until("a view that is too old", || async {
        installation.introspect(process, &token).await.status == 503
    })
    .await;
    let one = json!({ "lease": open[0].0["lease_id"] });
    for (selector, open) in [one, json!({ "agent": "deployer" })].iter().zip(&open) {
        open.1.simple_query("SELECT 1").await.unwrap();
        let revoked = installation
            .revoke(process, selector.clone())
            .await
            .unwrap();
        assert_eq!(revoked.status, 202, "{}", revoked.body);
        assert_eq!(revoked.body["state"], "not_yet_replicated");
        dies(open, &selector.to_string(), process).await;
        let told = installation.introspect(process, &token).await;
        assert_eq!(
            told.status, 503,
            "the view is as old as it was: {}",
            told.body
        );
    }
}

/// The broker that raised a fence dies. Another one raises the next behind it, and can prove neither.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_revokes_while_no_replica_hears_is_ended_by_another_one() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let ca = std::fs::read_to_string(&server.ca).unwrap();
    let files = [
        ("orders-db.password", PASSWORD),
        ("orders-db.ca", ca.as_str()),
    ];
    let more = mission(&server, "orders-db.ca");
    let Some(house) = House::with("1s", &more, &files).await else {
        return;
    };
    let installation = Arc::clone(&house.installation);
    let other = serve(&installation, "two", "1s", &more, &files).await;
    let open = two_sessions(&house, &server).await;
    house.stop_the_replica();
    let token = installation.platform_token();
    for process in [&house.process, &other] {
        until("a view that is too old", || async {
            installation.introspect(process, &token).await.status == 503
        })
        .await;
    }
    let one = json!({ "lease": open[0].0["lease_id"] });
    let revoked = installation.revoke(&house.process, one).await.unwrap();
    assert_eq!(revoked.status, 202, "{}", revoked.body);
    house.process.kill();
    let all = json!({ "agent": "deployer" });
    let revoked = installation.revoke(&other, all).await.unwrap();
    assert_eq!(revoked.status, 202, "{}", revoked.body);
    for open in &open {
        dies(open, "what either had revoked", &other).await;
    }
    let told = installation.introspect(&other, &token).await;
    assert_eq!(told.status, 503, "nothing was proved: {}", told.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_retired_is_accepted_and_what_was_compromised_is_not_called_done() {
    let Some(house) = House::start().await else {
        return;
    };
    house.installation.issue(&house.process).await;
    house.stop_the_replica();
    let subject = json!({ "subject": { "mission": "deploy-checkout" }, "decision": "retire" });
    let at = &house.process;
    let answer = house
        .installation
        .admin(at, "POST", "/reviews", Some(subject))
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    let rotated = json!({ "purpose": "access_token", "compromised": true });
    let answer = house
        .installation
        .admin(at, "POST", "/keys/rotate", Some(rotated))
        .await;
    let answer = answer.unwrap();
    // Accepted, or to be sent again where the view has grown old meanwhile.
    match answer.status {
        202 => assert_eq!(answer.body["replicated"], false, "{}", answer.body),
        status => assert_eq!(
            (status, &answer.body["error"]),
            (503, &json!("temporarily_unavailable"))
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_old_a_view_is_shows_in_readiness_and_metrics() {
    let Some(house) = House::start().await else {
        return;
    };
    let ask = async |path: &str| {
        let url = format!("{}{path}", house.process.health);
        let answer = house.installation.http.get(url).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let ready = async || {
        let told: Value = serde_json::from_str(&ask("/readyz").await).unwrap();
        told["view_age_ms"].as_u64().unwrap()
    };
    let metric = async || {
        let text = ask("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("dayfly_fence_view_age_seconds "));
        line.unwrap().parse::<f64>().unwrap()
    };
    // A quarter of the bound is how long it waits for news.
    assert!(ready().await < 7_000 && metric().await < 7.0);
    house.stop_the_replica();
    until("an older view", || async { ready().await > 8_000 }).await;
    assert!(metric().await > 8.0);
    house.replica.thaw();
    until("a fresh view", || async { ready().await < 7_000 }).await;
}
