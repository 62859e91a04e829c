//! Against a real server, with sessions that are open when they must die.

use super::super::conformance::{Subject, built, context, draw, grant, holds, keyring};
use super::super::{ConnectorSettings, PostgresSettings};
use super::*;
use crate::authority::{Authority, Permission};
use crate::policy::GrantBuilder;
use server::{PASSWORD, Postgres as Server};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_postgres::Client;

#[path = "../../../tests/it/support/postgres.rs"]
mod server;

const PATIENCE: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

fn on(actions: &[&str], locations: &[&str]) -> GrantBuilder {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    grant("orders-db", "postgres_login").authority(Authority(vec![Permission {
        actions: owned(actions),
        locations: owned(locations),
    }]))
}

fn settings(server: &Server) -> PostgresSettings {
    PostgresSettings {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        database: "orders".to_owned(),
        username: "dayfly".to_owned(),
        password: format!("test:{PASSWORD}"),
        ca: Some(format!(
            "test:{}",
            std::fs::read_to_string(&server.ca).unwrap()
        )),
        connections: 2,
        gone: Vec::new(),
    }
}

async fn connector(settings: PostgresSettings) -> Arc<dyn Connector> {
    patient(settings, PATIENCE).await
}

async fn patient(settings: PostgresSettings, patience: Duration) -> Arc<dyn Connector> {
    let keyring = keyring().await;
    let settings = ConnectorSettings::Postgres(settings);
    built(&keyring, "orders-db", settings, patience).await
}

/// As it is itself: nobody stops asking it because of what it said before.
async fn bare(server: &Server) -> Postgres {
    let link = settings(server);
    let keyring = keyring().await;
    let setup = Setup {
        keyring,
        clock: Arc::new(SystemClock::new()),
        broker_url: "https://broker.example",
        fence_view_max_age: Duration::from_secs(1),
        call_timeout: PATIENCE,
        resolve: &|reference| Ok(Secret::new(reference.replacen("test:", "", 1))),
    };
    let promises = ConnectorSettings::Postgres(link.clone()).promises(Duration::from_secs(1));
    Postgres::new(&link, promises, &setup).unwrap()
}

async fn login(server: &Server, minted: &Minted) -> Result<Client, tokio_postgres::Error> {
    let fields: serde_json::Value =
        serde_json::from_str(minted.credential.as_ref().unwrap().expose()).unwrap();
    assert_eq!(fields["type"], "postgres_login");
    assert_eq!(fields["database"], "orders");
    assert_eq!(fields["port"], server.port);
    let text = |name: &str| fields[name].as_str().unwrap().to_owned();
    server.login(&text("username"), &text("password")).await
}

async fn code(client: &Client, statement: &str) -> String {
    let error = client.batch_execute(statement).await.unwrap_err();
    error
        .code()
        .map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

const NOT_ALLOWED: &str = "42501";

/// Logins that are there.
const MADE: &str = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dfl%'";

#[tokio::test]
async fn a_login_keeps_what_connectors_promise_on_a_real_server() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    let subject = Subject {
        connector: connector.as_ref(),
        grant: on(&["select"], &["public.orders"]),
        inexpressible: on(&["usage"], &["public.orders"]),
    };
    holds(&subject, async |minted: &Minted| {
        let Ok(client) = login(&server, minted).await else {
            return false;
        };
        client.query("SELECT item FROM orders", &[]).await.is_ok()
    })
    .await;
    assert_eq!(server.ask(MADE).await, 0);
}

#[tokio::test]
async fn a_login_may_do_what_was_granted_on_the_tables_it_was_granted_on() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    let grant = on(&["select", "insert"], &["public.orders", "billing.inv*"]).build();
    let minted = connector
        .mint(&grant, context(&draw(), MINUTE))
        .await
        .unwrap();
    let client = login(&server, &minted).await.unwrap();
    for allowed in [
        "SELECT * FROM orders",
        "INSERT INTO orders (item) VALUES ('another')",
        "INSERT INTO billing.invoices VALUES (1)",
    ] {
        client.batch_execute(allowed).await.unwrap();
    }
    for refused in [
        "DELETE FROM orders",
        "UPDATE orders SET item = ''",
        "SELECT * FROM order_lines",
        "SELECT * FROM billing.secrets",
        "CREATE TABLE mine (id int)",
        "CREATE ROLE another",
        "SET ROLE dayfly",
    ] {
        assert_eq!(code(&client, refused).await, NOT_ALLOWED, "{refused}");
    }
    // `CONNECTION LIMIT`.
    let _second = login(&server, &minted).await.unwrap();
    assert!(login(&server, &minted).await.is_err(), "a third session");
}

#[tokio::test]
async fn an_open_session_dies_with_its_lease_whatever_it_is_doing() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    let grant = on(&["select", "update"], &["public.orders"]).build();
    let lease = draw();
    let minted = connector
        .mint(&grant, context(&lease, MINUTE))
        .await
        .unwrap();
    let idle = login(&server, &minted).await.unwrap();
    // Whoever would drop what it made waits for it.
    idle.batch_execute("BEGIN; CREATE TEMP TABLE mine (id int); UPDATE orders SET item = 'held'")
        .await
        .unwrap();
    let busy = login(&server, &minted).await.unwrap();
    let running = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(60)").await });
    while server
        .ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        .await
        == 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = connector.end(&lease, minted.handle.as_ref()).await.unwrap();
    assert_eq!(ended, Ended::Dead, "sessions end before the role does");
    assert!(
        running.await.unwrap().is_err(),
        "the statement ran to its end"
    );
    assert!(idle.simple_query("SELECT 1").await.is_err());
    assert!(login(&server, &minted).await.is_err());
    assert_eq!(
        server
            .ask("SELECT count(*) FROM orders WHERE item = 'held'")
            .await,
        0
    );
    assert_eq!(server.ask(MADE).await, 0);
}

/// It owns something in another database, where nobody can drop it from here.
async fn owns_elsewhere<'a>(server: &Server, minted: &'a Minted) -> (&'a str, Client) {
    let name = &minted.names[0];
    let elsewhere = server.connect("postgres", PASSWORD, "postgres").await;
    let elsewhere = elsewhere.unwrap();
    let owns = format!("SET ROLE {name}; SELECT lo_create(0)");
    elsewhere.batch_execute(&owns).await.unwrap();
    (name, elsewhere)
}

/// A login of this lease, which may read the orders.
async fn orders(connector: &dyn Connector, lease: &LeaseId) -> Minted {
    let grant = on(&["select"], &["public.orders"]).build();
    let minted = connector.mint(&grant, context(lease, MINUTE)).await;
    minted.unwrap()
}

#[tokio::test]
async fn a_login_that_cannot_be_dropped_is_dead_all_the_same() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    let lease = draw();
    let minted = orders(connector.as_ref(), &lease).await;
    let (name, elsewhere) = owns_elsewhere(&server, &minted).await;
    let session = login(&server, &minted).await.unwrap();
    // Of what another login gives it nobody has to take anything.
    let other = orders(connector.as_ref(), &draw()).await;
    let other = login(&server, &other).await.unwrap();
    let gives = format!("CREATE TEMP TABLE passing (id int); GRANT SELECT ON passing TO {name}");
    other.batch_execute(&gives).await.unwrap();
    for _ in 0..2 {
        let ended = connector.end(&lease, minted.handle.as_ref()).await.unwrap();
        assert_eq!(ended, Ended::DeadUncollected);
        assert!(session.simple_query("SELECT 1").await.is_err());
        assert!(login(&server, &minted).await.is_err());
    }
    // Once it owns nothing there, it goes.
    elsewhere
        .batch_execute(&format!("RESET ROLE; DROP OWNED BY {name}"))
        .await
        .unwrap();
    assert_eq!(connector.end(&lease, None).await.unwrap(), Ended::Dead);
}

#[tokio::test]
async fn a_session_of_a_login_that_somebody_dropped_by_hand_dies_with_its_lease() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    let lease = draw();
    let minted = orders(connector.as_ref(), &lease).await;
    let session = login(&server, &minted).await.unwrap();
    let name = &minted.names[0];
    let dayfly = server.login("dayfly", PASSWORD).await.unwrap();
    let dropped = format!(
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name}; \
         GRANT {name} TO dayfly; DROP OWNED BY {name}; DROP ROLE {name}"
    );
    dayfly.batch_execute(&dropped).await.unwrap();
    session.simple_query("SELECT 1").await.unwrap();
    let ended = connector.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert!(session.simple_query("SELECT 1").await.is_err());
}

/// The server says this in the middle of the making, with all of it undone.
async fn told(server: &Server, connector: &dyn Connector, code: &str) -> ConnectorError {
    let postgres = server.login("postgres", PASSWORD).await.unwrap();
    let says = format!(
        "CREATE OR REPLACE FUNCTION says() RETURNS event_trigger LANGUAGE plpgsql AS \
         $$BEGIN RAISE EXCEPTION 'a test says so' USING ERRCODE = '{code}'; END$$; \
         DROP EVENT TRIGGER IF EXISTS says; \
         CREATE EVENT TRIGGER says ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION says()"
    );
    postgres.batch_execute(&says).await.unwrap();
    let grant = on(&["select"], &["public.orders"]).build();
    let error = connector
        .mint(&grant, context(&draw(), MINUTE))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("a test says so"), "{error}");
    error
}

#[tokio::test]
async fn what_the_server_says_tells_whether_a_login_may_have_been_made() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = bare(&server).await;
    for code in ["08006", "58030", "XX000", "XX001", "57P01", "57P02"] {
        let error = told(&server, &connector, code).await;
        assert!(
            matches!(error, ConnectorError::Unknown(_)),
            "{code}: {error:?}"
        );
    }
    for code in ["53300", "57014", "57P03", "40001", "55P03"] {
        let error = told(&server, &connector, code).await;
        assert!(
            matches!(error, ConnectorError::Unavailable(_)),
            "{code}: {error:?}"
        );
    }
    for code in ["42501", "23505", "22023"] {
        let error = told(&server, &connector, code).await;
        assert!(
            matches!(error, ConnectorError::Refused(_)),
            "{code}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_login_that_keeps_its_privileges_is_not_called_dead() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = patient(settings(&server), Duration::from_secs(10)).await;
    let lease = draw();
    let minted = orders(connector.as_ref(), &lease).await;
    let _elsewhere = owns_elsewhere(&server, &minted).await;
    // Somebody is at the table's privileges for longer than a statement waits, and not for as long as two do.
    let owner = server.login("shop", PASSWORD).await.unwrap();
    let busy = "BEGIN; GRANT SELECT ON orders TO pg_monitor";
    owner.batch_execute(busy).await.unwrap();
    let ending = connector.end(&lease, minted.handle.as_ref());
    let (ended, ()) = tokio::join!(ending, async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        owner.batch_execute("ROLLBACK").await.unwrap();
    });
    assert!(
        matches!(ended, Err(ConnectorError::Unavailable(_))),
        "{ended:?}"
    );
    let ended = connector.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::DeadUncollected);
}

#[tokio::test]
async fn only_the_server_on_which_a_login_was_made_says_that_it_is_dead() {
    let (Some(server), Some(other)) = (Server::start().await, Server::start().await) else {
        return;
    };
    let moved = connector(settings(&other)).await;
    let connector = connector(settings(&server)).await;
    let lease = draw();
    let minted = orders(connector.as_ref(), &lease).await;
    let identifier = server
        .ask("SELECT system_identifier FROM pg_control_system()")
        .await
        .to_string();
    let error = moved.end(&lease, minted.handle.as_ref()).await.unwrap_err();
    assert!(error.to_string().contains(&identifier), "{error}");
    login(&server, &minted).await.unwrap();

    // A standby knows only what it has heard of.
    let standby = "ALTER ROLE dayfly SET default_transaction_read_only = on";
    let postgres = server.login("postgres", PASSWORD).await.unwrap();
    postgres.batch_execute(standby).await.unwrap();
    let error = connector
        .end(&lease, minted.handle.as_ref())
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    // It has not heard of this one yet, and would call it dead.
    let bare = bare(&server).await;
    let unheard = bare.end(&draw(), minted.handle.as_ref()).await;
    assert!(
        matches!(unheard, Err(ConnectorError::Unavailable(_))),
        "{unheard:?}"
    );
    let primary = "ALTER ROLE dayfly RESET default_transaction_read_only";
    postgres.batch_execute(primary).await.unwrap();

    // Somebody says that it is no more; until then only it can say so.
    let mut given_up = settings(&other);
    given_up.gone = vec![identifier];
    let given_up = patient(given_up, PATIENCE).await;
    // An upgrade in place: another identifier, and the roles came along.
    let admin = other.login("postgres", PASSWORD).await.unwrap();
    let came_along =
        format!("CREATE ROLE {lease} LOGIN; GRANT {lease} TO dayfly WITH ADMIN OPTION");
    admin.batch_execute(&came_along).await.unwrap();
    let ended = given_up.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    let left = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{lease}'");
    assert_eq!(other.ask(&left).await, 0);
    let ended = given_up.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    login(&server, &minted).await.unwrap();
    let ended = connector.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert!(login(&server, &minted).await.is_err());
}

#[tokio::test]
async fn what_is_known_beforehand_names_the_server_and_only_it_is_believed() {
    let (Some(server), Some(other)) = (Server::start().await, Server::start().await) else {
        return;
    };
    let moved = connector(settings(&other)).await;
    let connector = connector(settings(&server)).await;
    let known = connector.beforehand().await.unwrap();
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let identifier = server.ask(identifier).await.to_string();
    let text = String::from_utf8(known.as_ref().unwrap().expose().clone()).unwrap();
    assert!(text.contains(&identifier), "{text}");

    let lease = draw();
    let asked = MintContext {
        beforehand: known.as_ref(),
        ..context(&lease, MINUTE)
    };
    let grant = on(&["select"], &["public.orders"]).build();
    // All that were under way when it was replaced are told so, and nobody after them.
    for _ in 0..6 {
        let error = moved.mint(&grant, asked).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Replaced(_)), "{error}");
    }
    assert_eq!(other.ask(MADE).await, 0);
    let known_now = moved.beforehand().await.unwrap();
    let next = draw();
    let asked_now = MintContext {
        beforehand: known_now.as_ref(),
        ..context(&next, MINUTE)
    };
    moved.mint(&grant, asked_now).await.unwrap();

    // Nobody heard of the login that was made.
    let minted = connector.mint(&grant, asked).await.unwrap();
    let error = moved.end(&lease, known.as_ref()).await.unwrap_err();
    assert!(error.to_string().contains(&identifier), "{error}");
    login(&server, &minted).await.unwrap();
    let ended = connector.end(&lease, known.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert!(login(&server, &minted).await.is_err());
    // And where none was made there is none.
    let ended = connector.end(&draw(), known.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
}

/// Takes connections at this address, and says nothing on them.
async fn hanging(host: &str, port: u16) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((host, port)).await.unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    taken
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_keeps_nobody_from_the_next_one() {
    let Some(server) = Server::start().await else {
        return;
    };
    let taken = hanging("127.0.0.2", server.port).await;
    let mut several = settings(&server);
    several.host = "127.0.0.2,127.0.0.1".to_owned();
    let connector = patient(several.clone(), PATIENCE).await;
    let lease = draw();
    let minted = orders(connector.as_ref(), &lease).await;
    let session = login(&server, &minted).await.unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    let ended = connector.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert!(session.simple_query("SELECT 1").await.is_err());
    orders(connector.as_ref(), &draw()).await;
    assert_eq!(
        taken.load(Ordering::SeqCst),
        1,
        "who takes writes is asked first"
    );
    // Nobody has found the other one yet, and it is ended there all the same.
    let connector = patient(several, PATIENCE).await;
    let ended = connector.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert_eq!(taken.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn where_all_servers_hang_it_is_said_in_time_that_nothing_was_sent() {
    let Some(server) = Server::start().await else {
        return;
    };
    hanging("127.0.0.2", server.port).await;
    hanging("127.0.0.3", server.port).await;
    let mut several = settings(&server);
    several.host = "127.0.0.2,127.0.0.3".to_owned();
    let connector = patient(several, Duration::from_secs(3)).await;
    let grant = on(&["select"], &["public.orders"]).build();
    let lease = draw();
    for error in [
        connector
            .mint(&grant, context(&lease, MINUTE))
            .await
            .unwrap_err(),
        connector.end(&lease, None).await.unwrap_err(),
        connector.beforehand().await.unwrap_err(),
        connector.check().await.unwrap_err(),
    ] {
        let ConnectorError::Unavailable(said) = error else {
            panic!("{error:?}");
        };
        for host in ["127.0.0.2", "127.0.0.3"] {
            let told = format!("{host}:{}: no answer in ", server.port);
            assert!(said.contains(&told), "{said}");
        }
    }
}

#[tokio::test]
async fn each_server_is_named_with_what_it_said_and_no_secret_is() {
    let Some(server) = Server::start().await else {
        return;
    };
    hanging("127.0.0.2", server.port).await;
    let mut several = settings(&server);
    several.host = "127.0.0.2,127.0.0.1".to_owned();
    several.password = "test:what nobody may see".to_owned();
    let connector = patient(several.clone(), Duration::from_secs(12)).await;
    let error = connector.check().await.unwrap_err();
    // The one that hangs may be the one that takes writes.
    let ConnectorError::Unavailable(said) = error else {
        panic!("{error:?}");
    };
    assert!(said.contains("127.0.0.2:"), "{said}");
    assert!(said.contains("no answer in"), "{said}");
    let refuses = format!("127.0.0.1:{}: the broker's own login: ", server.port);
    assert!(said.contains(&refuses), "{said}");
    assert!(!said.contains("what nobody may see"), "{said}");

    several.host = "127.0.0.1,127.0.0.1".to_owned();
    let connector = patient(several, PATIENCE).await;
    let error = connector.check().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
}

/// A login may make temporary tables wherever PostgreSQL is as it comes, and who else there is can be read.
#[tokio::test]
async fn what_a_login_gives_another_one_keeps_neither_alive() {
    let Some(server) = Server::start().await else {
        return;
    };
    let admin = server.connect("postgres", PASSWORD, "orders").await;
    let lax = "GRANT CREATE ON SCHEMA public TO PUBLIC";
    admin.unwrap().batch_execute(lax).await.unwrap();
    let connector = connector(settings(&server)).await;
    let (one, two) = (draw(), draw());
    let a = orders(connector.as_ref(), &one).await;
    let b = orders(connector.as_ref(), &two).await;
    let of_a = login(&server, &a).await.unwrap();
    let of_b = login(&server, &b).await.unwrap();
    let gives = |table: &str, to: &Minted| {
        let to = &to.names[0];
        format!(
            "CREATE TEMP TABLE passing (id int); GRANT SELECT ON passing TO {to}; \
             CREATE TABLE {table} (id int); GRANT ALL ON {table} TO {to}; \
             DO $$BEGIN EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {to}', lo_create(0)); END$$"
        )
    };
    of_b.batch_execute(&gives("of_b", &a)).await.unwrap();
    of_a.batch_execute(&gives("of_a", &b)).await.unwrap();
    let ended = connector.end(&one, a.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert!(of_a.simple_query("SELECT 1").await.is_err());
    // The other one lives, with what it has.
    of_b.batch_execute("SELECT * FROM orders, passing, of_b")
        .await
        .unwrap();
    let members = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid \
                   WHERE r.rolname LIKE 'dfl%' AND pg_has_role(m.member, m.roleid, 'USAGE')";
    assert_eq!(server.ask(members).await, 0);
    let ended = connector.end(&two, b.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert_eq!(server.ask(MADE).await, 0);
}

/// Where there are many, asking what it may grant takes the server longer with each that it is a member of.
#[tokio::test]
async fn the_brokers_role_is_a_member_of_no_login_that_lives() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    let lease = draw();
    let minted = orders(connector.as_ref(), &lease).await;
    let of = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid \
              WHERE r.rolname LIKE 'dfl%' AND pg_has_role(m.member, m.roleid, 'USAGE')";
    assert_eq!(server.ask(of).await, 0);
    // What it has made goes with it all the same.
    let session = login(&server, &minted).await.unwrap();
    session.batch_execute("SELECT lo_create(0)").await.unwrap();
    let ended = connector.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert_eq!(server.ask(MADE).await, 0);
    let left = "SELECT count(*) FROM pg_largeobject_metadata";
    assert_eq!(server.ask(left).await, 0);
}

#[tokio::test]
async fn what_cannot_be_granted_whole_is_not_made_at_all() {
    let Some(server) = Server::start().await else {
        return;
    };
    let connector = connector(settings(&server)).await;
    for (grant, named) in [
        (
            on(&["select"], &["public.orders", "billing.secrets"]),
            "secrets",
        ),
        (on(&["select"], &["public.nothing"]), "public.nothing"),
        (on(&["select"], &["nowhere.*"]), "no table"),
    ] {
        let grant = grant.build();
        let error = connector
            .mint(&grant, context(&draw(), MINUTE))
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    // Without the right to hand it on, PostgreSQL grants nothing and only warns.
    let owner = server.login("shop", PASSWORD).await.unwrap();
    owner
        .batch_execute("REVOKE GRANT OPTION FOR ALL ON order_lines FROM dayfly")
        .await
        .unwrap();
    let grant = on(&["select"], &["public.order_lines"]).build();
    let error = connector
        .mint(&grant, context(&draw(), MINUTE))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
    assert_eq!(server.ask(MADE).await, 0);
}

#[tokio::test]
async fn logins_that_are_made_for_one_table_at_once_are_all_made() {
    let Some(server) = Server::start().await else {
        return;
    };
    let replicas = (0..8).map(|_| async { connector(settings(&server)).await });
    let replicas = futures_util::future::join_all(replicas).await;
    let grant = on(&["select"], &["public.orders"]).build();
    for _ in 0..5 {
        let made = replicas.iter().map(|connector| {
            let (grant, lease) = (grant.clone(), draw());
            async move { connector.mint(&grant, context(&lease, MINUTE)).await }
        });
        for minted in futures_util::future::join_all(made).await {
            login(&server, &minted.unwrap()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_that_refuses_our_own_login_is_named_and_what_lives_there_is_not_called_dead() {
    let Some(server) = Server::start().await else {
        return;
    };
    let postgres = bare(&server).await;
    let lease = draw();
    let grant = on(&["select"], &["public.orders"]).build();
    let minted = postgres
        .mint(&grant, context(&lease, MINUTE))
        .await
        .unwrap();
    let session = login(&server, &minted).await.unwrap();
    let admin = server.login("postgres", PASSWORD).await.unwrap();
    let set = |to: &str| format!("ALTER ROLE dayfly PASSWORD '{to}'");
    admin
        .batch_execute(&set("somebody changed it"))
        .await
        .unwrap();
    for refused in [
        postgres.check().await.unwrap_err(),
        postgres
            .mint(&grant, context(&draw(), MINUTE))
            .await
            .unwrap_err(),
        postgres
            .end(&lease, minted.handle.as_ref())
            .await
            .unwrap_err(),
    ] {
        let said = refused.to_string();
        assert!(said.contains("the broker's own login"), "{said}");
    }
    session.simple_query("SELECT 1").await.unwrap();
    admin.batch_execute(&set(PASSWORD)).await.unwrap();
    let ended = postgres.end(&lease, minted.handle.as_ref()).await;
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert!(session.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_server_whose_clock_is_off_makes_what_comes_in_time_and_nothing_else() {
    let Some(server) = Server::start().await else {
        return;
    };
    let postgres = bare(&server).await;
    let grant = on(&["select"], &["public.orders"]).build();
    // As it looks to the server, by whose clock ours is off.
    for off in [-1, 1].map(time::Duration::hours) {
        let lease = draw();
        let mut context = context(&lease, MINUTE);
        context.now += off;
        context.mint_by += off;
        postgres.mint(&grant, context).await.unwrap();
        context.mint_by = context.now;
        let error = postgres.mint(&grant, context).await.unwrap_err();
        assert!(error.to_string().contains("too late"), "{error}");
    }
}

#[tokio::test]
async fn a_request_that_arrives_too_late_makes_nothing() {
    let Some(server) = Server::start().await else {
        return;
    };
    let postgres = bare(&server).await;
    let lease = draw();
    let mut late = context(&lease, MINUTE);
    late.mint_by = late.now - Duration::from_secs(1);
    let grant = on(&["select"], &["public.orders"]).build();
    // Past every check of ours: the server itself says that it is too late.
    let error = postgres.mint(&grant, late).await.unwrap_err();
    assert!(error.to_string().contains("too late"), "{error}");
    assert_eq!(server.ask(MADE).await, 0);
}

#[tokio::test]
async fn a_check_names_what_the_brokers_role_lacks() {
    let Some(server) = Server::start().await else {
        return;
    };
    connector(settings(&server)).await.check().await.unwrap();
    let mut wrong = settings(&server);
    wrong.password = "test:another".to_owned();
    let error = connector(wrong).await.check().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
    let mut other_ca = settings(&server);
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(vec!["ca".to_owned()]).unwrap();
    other_ca.ca = Some(format!("test:{}", other.self_signed(&key).unwrap().pem()));
    let error = connector(other_ca).await.check().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    let postgres = server.login("postgres", PASSWORD).await.unwrap();
    for (taken, given, named) in [
        (
            "ALTER ROLE dayfly NOCREATEROLE",
            "ALTER ROLE dayfly CREATEROLE",
            "CREATEROLE",
        ),
        (
            "REVOKE pg_signal_backend FROM dayfly",
            "GRANT pg_signal_backend TO dayfly",
            "pg_signal_backend",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
            "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC",
            "pg_control_system()",
        ),
    ] {
        postgres.batch_execute(taken).await.unwrap();
        let error = connector(settings(&server)).await.check().await;
        let error = error.expect_err(named);
        assert!(error.to_string().contains(named), "{error}");
        postgres.batch_execute(given).await.unwrap();
    }
}

#[test]
fn only_a_server_on_loopback_goes_without_tls() {
    let mut settings = PostgresSettings {
        host: "127.0.0.1".to_owned(),
        port: 5432,
        database: "orders".to_owned(),
        username: "dayfly".to_owned(),
        password: "env:PASSWORD".to_owned(),
        ca: None,
        connections: 4,
        gone: Vec::new(),
    };
    let keys = |settings: &PostgresSettings| -> Vec<&str> {
        settings
            .problems()
            .iter()
            .map(|problem| problem.key)
            .collect()
    };
    assert!(keys(&settings).is_empty());
    settings.host = "127.0.0.1,127.0.0.2".to_owned();
    assert!(keys(&settings).is_empty());
    settings.host = "127.0.0.1,db.internal".to_owned();
    assert_eq!(keys(&settings), ["ca"]);
    settings.host = "127.0.0.1,".to_owned();
    assert_eq!(keys(&settings), ["host", "ca"]);
    settings.host = "db.internal".to_owned();
    assert_eq!(keys(&settings), ["ca"]);
    settings.ca = Some("file:ca.pem".to_owned());
    assert!(keys(&settings).is_empty());
    settings.connections = 0;
    settings.database = String::new();
    settings.gone = vec!["7312345678901234567".to_owned(), "db.internal".to_owned()];
    assert_eq!(keys(&settings), ["database", "connections", "gone"]);
}
