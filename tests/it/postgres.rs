//! A login of a real PostgreSQL, from the exchange to its end: what a revocation means where a
//! session is open.

mod standbys;

use crate::cli::dayfly;
use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker, form};
use crate::support::held_back::HeldBack;
use crate::support::network::Network;
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::time::Manual;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What somebody may want done about it.
const LATE: &str = r#"
[[response]]
name = "late"
on = "revocation_overdue"
do = ["shorten"]
shorten = { to = "4m", for = "1h" }
"#;

/// A mission that reads a table of this server, and its target. `ca`: its file, from the configuration's folder.
pub fn mission(server: &Postgres, ca: &str) -> String {
    format!(
        r#"
[mission.read-orders]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Look at orders"
ttl = "5m"
allow = [{{ target = "orders-db", actions = ["select"], locations = ["public.orders"] }}]

[target.orders-db]
kind = "postgres"
host = "127.0.0.1"
port = {}
database = "orders"
username = "dayfly"
password = "file:orders-db.password"
ca = "file:{ca}"
ceiling = {{ actions = ["select"], locations = ["public.*"] }}
"#,
        server.port
    )
}

pub struct World {
    pub broker: TestBroker,
    pub server: Postgres,
}

impl World {
    async fn start() -> Option<Self> {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Option<Self> {
        let server = Postgres::start().await?;
        let more = mission(&server, "orders-db.ca");
        Some(Self::over(server, Setup { more, ..setup }).await)
    }

    /// With a network between the broker and the server, and a clock that is set forward by hand.
    async fn far() -> Option<(Self, Network, Arc<Manual>)> {
        let server = Postgres::start().await?;
        let network = Network::to(server.port).await;
        let near = network.url.rsplit(':').next().unwrap();
        let there = format!("port = {}", server.port);
        let more = mission(&server, "orders-db.ca").replace(&there, &format!("port = {near}"));
        let clock = Manual::start();
        let setup = Setup {
            more: more + LATE,
            clock: clock.clone(),
            ..Setup::default()
        };
        let world = Self::over(server, setup).await;
        Some((world, network, clock))
    }

    async fn over(server: Postgres, setup: Setup) -> Self {
        let ca = std::fs::read_to_string(&server.ca).unwrap();
        let files = vec![
            ("orders-db.password".to_owned(), PASSWORD.to_owned()),
            ("orders-db.ca".to_owned(), ca),
        ];
        let broker = TestBroker::with(Setup { files, ..setup }).await;
        Self { broker, server }
    }

    async fn audited(&self, event: &str) -> Vec<Value> {
        let page = self.broker.admin("GET", "/audit?limit=1000", None).await;
        let items = page.body["items"].as_array().unwrap().iter();
        items
            .filter(|item| item["event"] == event)
            .cloned()
            .collect()
    }

    /// Waits for the first of these in the audit.
    async fn told(&self, event: &str) -> Value {
        for _ in 0..300 {
            if let Some(entry) = self.audited(event).await.pop() {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no {event}");
    }

    /// Waits for the fence that this rule raised.
    async fn told_by(&self, rule: &str) -> Value {
        for _ in 0..300 {
            let raised = self.audited("fence_raised").await;
            let mut raised = raised.into_iter();
            if let Some(entry) = raised.find(|entry| entry["detail"]["rule"] == rule) {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nothing by {rule}");
    }

    async fn receipt(&self, id: &Value) -> Value {
        let path = format!("/revocations/{}", id.as_str().unwrap());
        self.broker.admin("GET", &path, None).await.body
    }

    pub async fn ask(&self, table: &str) -> Answer {
        let token = self.broker.platform_token();
        let mut claims = self.broker.intent_claims(&token);
        claims["mission"]["id"] = json!("read-orders");
        claims["authorization_details"] = json!([{
            "type": "postgres_login", "identifier": "orders-db",
            "actions": ["select"], "locations": [table],
        }]);
        let intent = self.broker.sign_intent(&claims);
        let fields = form(&[
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("subject_token", &token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", "orders-db"),
            ("intent", &intent),
        ]);
        self.broker.exchange(&fields).await
    }

    async fn granted(&self) -> Value {
        let answer = self.ask("public.orders").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    async fn login(&self, answer: &Value) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let field = |name: &str| answer["credential"][name].as_str().unwrap();
        self.server
            .login(field("username"), field("password"))
            .await
    }

    /// Logins that were made here and are still there.
    pub async fn made(&self) -> i64 {
        let made = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dfl%'";
        self.server.ask(made).await
    }

    async fn state(&self, answer: &Value) -> String {
        let path = format!("/leases/{}", answer["lease_id"].as_str().unwrap());
        let shown = self.broker.admin("GET", &path, None).await;
        shown.body["state"].as_str().unwrap_or("").to_owned()
    }

    async fn until(&self, answer: &Value, state: &str) {
        for _ in 0..300 {
            if self.state(answer).await == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it is {}", self.state(answer).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_loses_the_session_that_it_has_open() {
    let Some(world) = World::start().await else {
        return;
    };
    let answer = world.granted().await;
    assert_eq!(answer["token_type"], "N_A");
    assert_eq!(
        answer["issued_token_type"],
        "urn:dayfly:params:token-type:postgres-login"
    );
    assert_eq!(
        answer["revocation"],
        json!({ "class": "native", "within_seconds": 10 })
    );
    let session = world.login(&answer).await.unwrap();
    let rows = session.query("SELECT item FROM orders", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, String>(0), "a dayfly");

    let revoked = world.broker.revoke(json!({ "agent": "deployer" })).await;
    assert!(revoked.status < 300, "{}", revoked.body);
    world.until(&answer, "revoked").await;
    // "Revoked" is said once it is so, and not before.
    assert!(session.simple_query("SELECT 1").await.is_err());
    assert!(world.login(&answer).await.is_err());
    assert_eq!(
        world.ask("public.orders").await.status,
        400,
        "the agent is held"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_done_with_a_login_releases_it_by_its_handle() {
    let Some(world) = World::start().await else {
        return;
    };
    let answer = world.granted().await;
    let handle = answer["access_token"].as_str().unwrap();
    let released = world
        .broker
        .post("/revoke", &form(&[("token", handle)]))
        .await;
    assert_eq!(released.status, 200, "{}", released.body);
    world.until(&answer, "released").await;
    assert!(world.login(&answer).await.is_err());
    // It is said when it began, and when the server had confirmed it.
    for (event, state) in [("released", "revoking"), ("ended", "released")] {
        let told = world.told(event).await;
        assert_eq!(
            (&told["lease"], &told["detail"]["state"]),
            (&answer["lease_id"], &json!(state))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_beyond_the_mission_is_refused_before_the_server_is_asked() {
    let Some(world) = World::start().await else {
        return;
    };
    for table in ["public.order_lines", "public.*", "*"] {
        let answer = world.ask(table).await;
        assert_eq!(
            answer.reason(),
            "exceeds_mission",
            "{table}: {}",
            answer.body
        );
    }
    assert_eq!(world.made().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_cannot_be_told_is_an_alarm_stops_its_target_and_is_confirmed_in_the_end() {
    let Some((world, network, clock)) = World::far().await else {
        return;
    };
    let answer = world.granted().await;
    let session = world.login(&answer).await.unwrap();
    network.lead_to(0);
    let lease = json!({ "lease": answer["lease_id"] });
    let revoked = world.broker.revoke(lease).await;
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    assert_eq!(
        (&revoked.body["state"], &revoked.body["outstanding"]),
        (&json!("revoking"), &json!(1))
    );
    let id = &revoked.body["id"];
    world.until(&answer, "revoking").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let broker = &world.broker.composed.broker;
    assert_eq!(broker.watch_targets().await.unwrap(), 0);
    assert_eq!(world.audited("revocation_overdue").await, [] as [Value; 0]);
    session.simple_query("SELECT 1").await.unwrap();

    // Past the target's bound somebody is told, once.
    clock.advance(Duration::from_secs(61));
    let alarm = world.told("revocation_overdue").await;
    assert_eq!(alarm["target"], "orders-db");
    assert_eq!(alarm["lease"], answer["lease_id"]);
    assert_eq!(alarm["agent"], "deployer");
    assert_eq!(alarm["detail"]["waiting"], 1);
    assert_eq!(broker.watch_targets().await.unwrap(), 0);
    let restricted = world.told_by("response/late").await;
    assert_eq!(restricted["detail"]["longest"], 240);
    assert_eq!(world.receipt(id).await["state"], "revoking");

    // After two minutes the target is given nothing more to end, although it is there again.
    clock.advance(Duration::from_secs(61));
    tokio::time::sleep(Duration::from_secs(3)).await;
    network.lead_to(world.server.port);
    let refused = world.ask("public.orders").await;
    assert_eq!(
        (refused.status, refused.reason()),
        (503, "target_unavailable"),
        "{}",
        refused.body
    );
    let entry = world.told("refused").await;
    let why = entry["detail"]["why"].as_str().unwrap();
    assert!(
        why.starts_with("a credential that must be dead is not"),
        "{why}"
    );
    assert_eq!(world.made().await, 1, "it was not asked for another");

    clock.advance(Duration::from_secs(60));
    for _ in 0..300 {
        if world.receipt(id).await["state"] == "confirmed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let receipt = world.receipt(id).await;
    assert_eq!(
        (&receipt["state"], &receipt["outstanding"]),
        (&json!("confirmed"), &json!(0))
    );
    assert!(session.simple_query("SELECT 1").await.is_err());
    clock.advance(Duration::from_secs(60));
    let told = world.told("revocation_confirmed").await;
    assert_eq!(told["lease"], answer["lease_id"]);
    assert_eq!(told["detail"]["leases"], json!({ "native": 1 }));
    world.granted().await;
    assert_eq!(world.audited("revocation_overdue").await.len(), 1);
    assert_eq!(world.audited("revocation_confirmed").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_revocation_is_told_whether_it_is_confirmed() {
    let Some((world, network, clock)) = World::far().await else {
        return;
    };
    let token = world.broker.folder.path().join("operator.token");
    std::fs::write(&token, format!("{OPERATOR_TOKEN}\n")).unwrap();
    let environment = [
        ("DAYFLY_URL", world.broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let revoke = async |answer: &Value, seconds: &str| {
        let lease = answer["lease_id"].as_str().unwrap();
        let arguments = ["revoke", "--lease", lease, "--wait", seconds];
        dayfly(&arguments, &environment, "").await
    };
    let answer = world.granted().await;
    network.lead_to(0);
    let late = revoke(&answer, "2").await;
    late.is(6);
    assert!(
        late.out.contains("not everything is confirmed dead yet"),
        "{late:?}"
    );
    assert!(
        late.err.contains("not everything is confirmed dead yet"),
        "{late:?}"
    );
    network.lead_to(world.server.port);
    clock.advance(Duration::from_secs(60));
    world.until(&answer, "revoked").await;
    let answer = world.granted().await;
    let done = revoke(&answer, "60").await;
    done.is(0);
    assert!(done.out.contains("dead everywhere, confirmed"), "{done:?}");
    assert_eq!(world.state(&answer).await, "revoked");
}

/// The server makes it, and the link is cut before it says so. The broker lives, and nobody has heard the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_answer_was_lost_is_on_record_and_ended_while_the_broker_lives() {
    let Some((world, network, clock)) = World::far().await else {
        return;
    };
    let held = HeldBack::on(&world.server, "read-orders").await;
    let losing = async {
        held.until_it_waits().await;
        network.swallow_answers(true);
        held.let_go().await;
        // Nobody comes to end it until we say so.
        network.lead_to(0);
        network.hang_up();
    };
    let (answer, ()) = tokio::join!(world.ask("public.orders"), losing);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert!(answer.body.get("credential").is_none());
    assert_eq!(world.made().await, 1);
    let open = world.broker.admin("GET", "/leases", None).await.body;
    let lease = open["items"][0].clone();
    assert_eq!(open["items"].as_array().unwrap().len(), 1, "{open}");
    assert_eq!(
        (&lease["state"], &lease["alive"]),
        (&json!("revoking"), &json!(false)),
        "{lease}"
    );
    let login = lease["id"].as_str().unwrap();
    let named = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{login}'");
    assert_eq!(world.server.ask(&named).await, 1, "it has the lease's name");

    network.swallow_answers(false);
    network.lead_to(world.server.port);
    clock.advance(Duration::from_secs(30));
    for _ in 0..300 {
        if world.made().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.made().await, 0);
    // A request may be on its way for as long as a mint is: "gone" is believed after that.
    let lease = json!({ "lease_id": login });
    assert_eq!(world.state(&lease).await, "revoking");
    clock.advance(Duration::from_secs(60));
    world.until(&lease, "revoked").await;
}
