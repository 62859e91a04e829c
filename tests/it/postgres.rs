//! A login of a real PostgreSQL, from the exchange to its end: what a revocation means where a
//! session is open.

use crate::support::broker::{Answer, Setup, TestBroker, form};
use crate::support::postgres::{PASSWORD, Postgres};
use serde_json::{Value, json};
use std::time::Duration;

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

struct World {
    broker: TestBroker,
    server: Postgres,
}

impl World {
    async fn start() -> Option<Self> {
        let server = Postgres::start().await?;
        let ca = std::fs::read_to_string(&server.ca).unwrap();
        let more = mission(&server, "orders-db.ca");
        let files = vec![
            ("orders-db.password".to_owned(), PASSWORD.to_owned()),
            ("orders-db.ca".to_owned(), ca),
        ];
        let broker = TestBroker::with(Setup {
            more,
            files,
            ..Setup::default()
        })
        .await;
        Some(Self { broker, server })
    }

    async fn ask(&self, table: &str) -> Answer {
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
    let made = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dfl%'";
    assert_eq!(world.server.ask(made).await, 0);
}
