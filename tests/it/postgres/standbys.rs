//! Servers that follow another one and take its place, and other servers that get its name.

use super::{World, mission};
use crate::support::broker::{Setup, TestBroker};
use crate::support::held_back::HeldBack;
use crate::support::network::Network;
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::redis::free_port;
use crate::support::time::Manual;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

const MADE: &str = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dfl%'";

impl World {
    /// With a network that leads to the one and can lead to the other, whose certificate is as good.
    async fn before(other: &Postgres) -> Option<(Self, Network, Arc<Manual>)> {
        let server = Postgres::start().await?;
        let network = Network::to(server.port).await;
        let near = network.url.rsplit(':').next().unwrap();
        let there = format!("port = {}", server.port);
        let more = mission(&server, "orders-db.ca").replace(&there, &format!("port = {near}"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let files = vec![
            ("orders-db.password".to_owned(), PASSWORD.to_owned()),
            (
                "orders-db.ca".to_owned(),
                read(&server.ca) + &read(&other.ca),
            ),
        ];
        let clock = Manual::start();
        let setup = Setup {
            more,
            files,
            clock: clock.clone(),
            ..Setup::default()
        };
        let broker = TestBroker::with(setup).await;
        Some((Self { broker, server }, network, clock))
    }

    /// With a standby at 127.0.0.2; the target names both of them.
    async fn with_standby(hosts: &str) -> Option<(Self, Postgres)> {
        let server = Postgres::start().await?;
        let standby = server.standby(("127.0.0.2", server.port)).await;
        let named = format!("host = \"{hosts}\"");
        let more = mission(&server, "orders-db.ca").replace("host = \"127.0.0.1\"", &named);
        let setup = Setup {
            more,
            ..Setup::default()
        };
        Some((Self::over(server, setup).await, standby))
    }

    /// As an agent does it: on a busy machine, and right after a failover, it may be told to ask later.
    async fn granted_at_last(&self) -> Value {
        for _ in 0..20 {
            let answer = self.ask("public.orders").await;
            if answer.status == 200 {
                return answer.body;
            }
            assert_eq!(answer.status, 503, "{}", answer.body);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{:?}", self.audited("refused").await.pop());
    }

    /// What the audit says of each that was refused.
    async fn why(&self) -> Vec<String> {
        let refused = self.audited("refused").await.into_iter();
        let why = refused.map(|entry| entry["detail"]["why"].as_str().unwrap_or("").to_owned());
        why.collect()
    }

    /// A server that follows this one, on a port of its own.
    async fn standby(&self) -> Postgres {
        let port = free_port().unwrap();
        self.server.standby(("127.0.0.1", port)).await
    }

    async fn revoke(&self, answer: &Value) {
        let lease = json!({ "lease": answer["lease_id"] });
        let revoked = self.broker.revoke(lease).await;
        assert!(revoked.status < 300, "{}", revoked.body);
    }
}

/// From now on the target's address is this server's.
fn lead(network: &Network, to: &Postgres) {
    network.lead_to(to.port);
    network.hang_up();
}

async fn login(server: &Postgres, answer: &Value) -> Result<Client, tokio_postgres::Error> {
    let field = |name: &str| answer["credential"][name].as_str().unwrap();
    server.login(field("username"), field("password")).await
}

async fn is_open(session: &Client) -> bool {
    session.simple_query("SELECT 1").await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_makes_nothing_and_its_word_ends_nothing() {
    let Some((world, network, clock)) = World::far().await else {
        return;
    };
    let answer = world.granted_at_last().await;
    let session = world.login(&answer).await.unwrap();
    let standby = world.standby().await;
    standby.until_it_has_heard(&world.server).await;
    lead(&network, &standby);

    let refused = world.ask("public.orders").await;
    assert_eq!(
        (refused.status, refused.reason()),
        (503, "target_unavailable"),
        "{}",
        refused.body
    );
    let why = world.why().await;
    let is_it = |why: &String| why.contains("takes no writes: it is a standby");
    assert!(why.iter().any(is_it), "{why:?}");
    assert_eq!(world.made().await, 1, "the one from before");

    world.revoke(&answer).await;
    for _ in 0..3 {
        clock.advance(Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(world.state(&answer).await, "revoking");
    }
    assert!(is_open(&session).await);

    lead(&network, &world.server);
    clock.advance(Duration::from_secs(60));
    world.until(&answer, "revoked").await;
    assert!(!is_open(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_took_over_ends_what_was_made_before() {
    let Some((mut world, network, _clock)) = World::far().await else {
        return;
    };
    let answer = world.granted_at_last().await;
    let standby = world.standby().await;
    standby.until_it_has_heard(&world.server).await;
    world.server.stop();
    standby.promote().await;
    lead(&network, &standby);
    let session = login(&standby, &answer).await.unwrap();
    world.revoke(&answer).await;
    world.until(&answer, "revoked").await;
    assert!(!is_open(&session).await);
    assert!(login(&standby, &answer).await.is_err());
    assert_eq!(standby.ask(MADE).await, 0);

    // To the broker it is the same server.
    let answer = world.granted_at_last().await;
    let session = login(&standby, &answer).await.unwrap();
    assert!(is_open(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_one_that_takes_writes_is_found() {
    let Some((mut world, standby)) = World::with_standby("127.0.0.2,127.0.0.1").await else {
        return;
    };
    let answer = world.granted_at_last().await;
    assert_eq!(answer["credential"]["host"], "127.0.0.2,127.0.0.1");
    let session = world.login(&answer).await.unwrap();
    assert!(is_open(&session).await);
    let other = world.granted_at_last().await;
    standby.until_it_has_heard(&world.server).await;
    world.revoke(&other).await;
    world.until(&other, "revoked").await;
    standby.until_it_has_heard(&world.server).await;

    world.server.stop();
    standby.promote().await;
    let session = login(&standby, &answer).await.unwrap();
    world.revoke(&answer).await;
    world.until(&answer, "revoked").await;
    assert!(!is_open(&session).await);
    assert_eq!(standby.ask(MADE).await, 0);
    world.granted_at_last().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_holds_up_nothing_where_another_one_took_its_place() {
    let Some((world, standby)) = World::with_standby("127.0.0.1,127.0.0.2").await else {
        return;
    };
    let answer = world.granted_at_last().await;
    standby.until_it_has_heard(&world.server).await;
    world.server.hang();
    standby.promote().await;
    let session = login(&standby, &answer).await.unwrap();
    world.revoke(&answer).await;
    world.until(&answer, "revoked").await;
    assert!(!is_open(&session).await);
    assert_eq!(standby.ask(MADE).await, 0);
    world.granted_at_last().await;
    assert_eq!(standby.ask(MADE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_a_failover_lost_is_dead_where_the_target_leads_and_nowhere_else() {
    let Some((world, network, _clock)) = World::far().await else {
        return;
    };
    let standby = world.standby().await;
    standby.cut_off().await;
    let answer = world.granted_at_last().await;
    let session = world.login(&answer).await.unwrap();
    standby.promote().await;
    lead(&network, &standby);
    assert!(login(&standby, &answer).await.is_err());
    world.revoke(&answer).await;
    world.until(&answer, "revoked").await;
    assert_eq!(standby.ask(MADE).await, 0);
    // Nobody has stopped the old primary: that it lets in whom it knows is what the page on connectors says.
    assert!(is_open(&session).await);
    assert_eq!(world.made().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_a_failover_brings_back_lets_nobody_in_after_its_time() {
    let Some((mut world, network, _clock)) = World::far().await else {
        return;
    };
    let answer = world.granted_at_last().await;
    let standby = world.standby().await;
    standby.until_it_has_heard(&world.server).await;
    standby.cut_off().await;
    world.revoke(&answer).await;
    world.until(&answer, "revoked").await;
    world.server.stop();
    standby.promote().await;
    lead(&network, &standby);
    // What the page on connectors says of a standby that follows asynchronously.
    let session = login(&standby, &answer).await.unwrap();
    drop(session);
    let ends = "SELECT extract(epoch FROM rolvaliduntil - now())::bigint FROM pg_roles WHERE rolname LIKE 'dfl%'";
    let left = standby.ask(ends).await;
    assert!((1..=300).contains(&left), "{left}");
    let over = "UPDATE pg_authid SET rolvaliduntil = now() WHERE rolname LIKE 'dfl%'";
    let postgres = standby.login("postgres", PASSWORD).await.unwrap();
    postgres.batch_execute(over).await.unwrap();
    assert!(login(&standby, &answer).await.is_err());
}

/// The server makes it, the link is cut before it says so, and another server gets the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_answer_was_lost_is_not_called_dead_by_another_server() {
    let Some(other) = Postgres::start().await else {
        return;
    };
    let (world, network, clock) = World::before(&other).await.unwrap();
    let held = HeldBack::on(&world.server, "read-orders").await;
    let losing = async {
        held.until_it_waits().await;
        network.swallow_answers(true);
        held.let_go().await;
        network.lead_to(other.port);
        network.hang_up();
        network.swallow_answers(false);
    };
    let (answer, ()) = tokio::join!(world.ask("public.orders"), losing);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(world.made().await, 1);
    let open = world.broker.admin("GET", "/leases", None).await.body;
    let lease = json!({ "lease_id": open["items"][0]["id"] });
    // No mint can be on its way any more: whoever could say that there is none would be believed.
    for _ in 0..4 {
        clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(world.state(&lease).await, "revoking");
    }
    assert_eq!(world.made().await, 1);

    lead(&network, &world.server);
    clock.advance(Duration::from_secs(300));
    world.until(&lease, "revoked").await;
    assert_eq!(world.made().await, 0);
}

/// Which server it is was asked long ago, and meanwhile it is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_reserved_for_one_server_gets_its_login_on_no_other() {
    let Some(other) = Postgres::start().await else {
        return;
    };
    let (world, network, _clock) = World::before(&other).await.unwrap();
    world.granted_at_last().await;
    lead(&network, &other);
    let refused = world.ask("public.orders").await;
    assert_eq!(
        (refused.status, refused.reason()),
        (503, "target_unavailable"),
        "{}",
        refused.body
    );
    assert_eq!(other.ask(MADE).await, 0);
    let why = world.why().await;
    let is_it = |why: &String| why.contains("the lease was reserved for");
    assert!(why.iter().any(is_it), "{why:?}");
    // Asked again it is known.
    world.granted_at_last().await;
    assert_eq!(other.ask(MADE).await, 1);
}
