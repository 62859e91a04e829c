//! What a receipt may say: nothing is called dead while something that it covers may still come, or while nobody
//! could count it.

use crate::cli::dayfly;
use crate::postgres::World;
use crate::support::broker::{OPERATOR_TOKEN, Setup, TestBroker};
use crate::support::gate::Gate;
use crate::support::postgres::PASSWORD;
use crate::support::process::until;
use crate::support::time::Manual;
use dayfly::broker::Reason;
use dayfly::clock::{Clock, SystemClock};
use dayfly::ids::{LeaseId, ShardId};
use dayfly::store::embedded::Embedded;
use dayfly::store::{Index, Key, MAX_RANK, Ranked, Store, Transaction, Write};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// A receipt is looked at after one second, then after two.
const TWO_LOOKS: Duration = Duration::from_millis(4500);

fn gated(store: &Arc<dyn Store>) -> (Arc<Gate>, Setup) {
    let gate = Gate::before(store);
    let setup = Setup {
        store: Some(gate.clone()),
        ..Setup::default()
    };
    (gate, setup)
}

fn gate() -> (Arc<Gate>, Setup) {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    gated(&store)
}

/// Its receipt.
async fn revoked(broker: &TestBroker, selector: Value) -> Value {
    let answer = broker.revoke(selector).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

pub async fn asked(broker: &TestBroker, receipt: &Value) -> Value {
    let path = format!("/revocations/{}", receipt["id"].as_str().unwrap());
    let answer = broker.admin("GET", &path, None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

pub async fn until_confirmed(broker: &TestBroker, receipt: &Value) {
    until("it is confirmed", || async {
        asked(broker, receipt).await["state"] == "confirmed"
    })
    .await;
}

async fn is_only_revoking(broker: &TestBroker, receipt: &Value) {
    tokio::time::sleep(TWO_LOOKS).await;
    assert_eq!(asked(broker, receipt).await["state"], "revoking");
    let told = broker.audited("revocation_confirmed").await;
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_confirmed_while_a_login_that_was_decided_before_may_still_be_made() {
    let (gate, setup) = gate();
    let Some(world) = World::with(setup).await else {
        return;
    };
    let broker = &world.broker;
    // It is decided, and its reservation is not written yet.
    gate.hold_writes("lease/");
    let ending = async {
        gate.until_waiting(1).await;
        // Nor does a sweeper see to it that it never is.
        gate.hold_writes("lease-swept");
        let receipt = revoked(broker, json!({ "mission": "read-orders" })).await;
        assert_eq!(receipt["state"], "revoking", "{receipt}");
        assert_eq!(receipt["leases"], json!({}));
        is_only_revoking(broker, &receipt).await;
        gate.let_writes("lease/");
        receipt
    };
    let (answer, receipt) = tokio::join!(world.ask("public.orders"), ending);
    let reason = Reason::RevokedMeanwhile.code();
    assert_eq!((answer.status, answer.reason()), (400, reason));
    // Another one might be on its way all the same.
    assert_eq!(asked(broker, &receipt).await["state"], "revoking");
    gate.open();
    until_confirmed(broker, &receipt).await;
    assert_eq!(world.made().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_before_is_refused_once_a_revocation_is_confirmed() {
    let (gate, setup) = gate();
    let broker = TestBroker::with(setup).await;
    gate.hold_writes("lease/");
    let ending = async {
        gate.until_waiting(1).await;
        let receipt = revoked(&broker, json!({ "agent": "deployer" })).await;
        until_confirmed(&broker, &receipt).await;
        gate.let_writes("lease/");
    };
    let form = broker.good_form();
    let (answer, ()) = tokio::join!(broker.exchange(&form), ending);
    // "Decide again", and then it is refused for good.
    assert_eq!(answer.status, 503, "{}", answer.body);
    let again = broker.exchange(&broker.good_form()).await;
    assert_eq!(again.status, 400, "{}", again.body);
    let leases = broker.admin("GET", "/leases", None).await;
    assert_eq!(leases.body["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_out_where_a_revocation_is_not_read_yet_is_not_called_dead_before() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let ((gate, setup), (network, behind)) = (gated(&store), gated(&store));
    let view_age = "20s";
    let ahead = TestBroker::with(Setup { view_age, ..setup }).await;
    let behind = TestBroker::with(Setup {
        view_age,
        issuer: Some(ahead.issuer.clone()),
        ..behind
    })
    .await;
    network.hold_tails();
    for gate in [&gate, &network] {
        gate.hold_writes("lease-swept");
    }
    let receipt = revoked(&ahead, json!({ "agent": "deployer" })).await;
    assert_eq!(receipt["state"], "revoking", "{receipt}");
    let issued = behind.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    let now = asked(&ahead, &receipt).await;
    assert_eq!(now["state"], "revoking", "{now}");
    assert_eq!(now["leases"], json!({ "broker": 1 }));
    gate.open();
    network.open();
    until_confirmed(&ahead, &receipt).await;
    assert!(!ahead.is_active(token).await);
    until("it is read there, too", || async {
        !behind.is_active(token).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_lease_waits_for_its_own_record_alone() {
    let (gate, setup) = gate();
    let broker = TestBroker::with(setup).await;
    let issued = broker.issue().await;
    gate.hold_writes("lease-swept");
    // Until the record says so it could still be handed on.
    gate.hold_writes("lease/");
    let receipt = revoked(&broker, json!({ "lease": issued["lease_id"] })).await;
    is_only_revoking(&broker, &receipt).await;
    gate.let_writes("lease/");
    until_confirmed(&broker, &receipt).await;
    gate.open();
}

/// One shard of leases, and not the one of this lease.
fn another_shard(issued: &Value) -> ShardId {
    let lease: LeaseId = issued["lease_id"].as_str().unwrap().parse().unwrap();
    ShardId::all()
        .find(|shard| *shard != lease.shard())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_while_a_part_of_the_store_is_away_has_a_receipt() {
    let (gate, setup) = gate();
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        ..setup
    })
    .await;
    let issued = broker.issue().await;
    gate.lose(another_shard(&issued));
    let receipt = revoked(&broker, json!({ "mission": "deploy-checkout" })).await;
    assert!(
        !broker
            .is_active(issued["access_token"].as_str().unwrap())
            .await
    );
    // What follows from something else is told of, too.
    let end = json!({ "issuer": "ci", "kind": "pipeline", "id": "1234:77" });
    let ended = broker.admin("POST", "/contexts/end", Some(end)).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    for receipt in [&receipt, &ended.body, &asked(&broker, &receipt).await] {
        assert_eq!(receipt["state"], "revoking", "{receipt}");
        assert_eq!(receipt["holds"], true);
        let counted = ["leases", "outstanding", "unreadable", "agents", "targets"];
        let members = receipt.as_object().unwrap();
        assert!(counted.iter().all(|name| !members.contains_key(*name)));
    }
    clock.advance(Duration::from_secs(2));
    is_only_revoking(&broker, &receipt).await;

    gate.open();
    until_confirmed(&broker, &receipt).await;
    let now = asked(&broker, &receipt).await;
    assert_eq!(
        (&now["outstanding"], &now["agents"]),
        (&json!(0), &json!([]))
    );
    clock.advance(Duration::from_secs(40));
    broker.is_confirmed("mission", "deploy-checkout", 1).await;
    let told = broker.audited("revocation_confirmed").await;
    let why = told[0]["detail"]["why"].as_str().unwrap();
    assert!(
        why.ends_with("were left when they could be counted"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_and_has_no_receipt_is_not_called_undone() {
    let (gate, setup) = gate();
    let broker = TestBroker::with(setup).await;
    let issued = broker.issue().await;
    gate.refuse_records("revocation/");
    let answer = broker.revoke(json!({ "mission": "deploy-checkout" })).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["state"], "revoking");
    assert!(answer.body.get("id").is_none(), "{}", answer.body);
    assert!(answer.body["position"].is_u64(), "{}", answer.body);
    assert_eq!(answer.body["leases"], json!({ "broker": 1 }));
    assert!(
        !broker
            .is_active(issued["access_token"].as_str().unwrap())
            .await
    );
    // Whoever waits is told that it stands, and not that it is done.
    let token = broker.folder.path().join("operator.token");
    std::fs::write(&token, format!("{OPERATOR_TOKEN}\n")).unwrap();
    let environment = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let arguments = ["revoke", "--agent", "deployer", "--wait", "5"];
    let waited = dayfly(&arguments, &environment, "").await;
    waited.is(6);
    assert!(waited.err.contains("it is in force"), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_behind_a_revocation_that_only_kills_is_none_of_its_own() {
    let Some(world) = World::with(Setup::default()).await else {
        return;
    };
    let broker = &world.broker;
    let selector = json!({ "mission": "read-orders" });
    let body = json!({ "selector": selector, "reason": "a leak", "kill_only": true });
    let receipt = broker.admin("POST", "/revocations", Some(body)).await.body;
    until_confirmed(broker, &receipt).await;
    // Somebody is at the table's privileges: the next login is on its way for a while.
    let owner = world.server.login("shop", PASSWORD).await.unwrap();
    let busy = "BEGIN; GRANT SELECT ON orders TO pg_monitor";
    owner.batch_execute(busy).await.unwrap();
    let looking = async {
        until("it is on its way", || async {
            let leases = broker.admin("GET", "/leases", None).await.body;
            leases["items"][0]["state"] == "reserved"
        })
        .await;
        let seen = asked(broker, &receipt).await;
        owner.batch_execute("ROLLBACK").await.unwrap();
        seen
    };
    let (answer, seen) = tokio::join!(world.ask("public.orders"), looking);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        (&seen["state"], &seen["outstanding"]),
        (&json!("confirmed"), &json!(0)),
        "{seen}"
    );
}

/// Receipts that are looked after, by when.
fn waiting() -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("revocations"),
    }
}

async fn next_looks(store: &dyn Store) -> Vec<Ranked> {
    let all = -MAX_RANK..=MAX_RANK;
    store.range(&waiting(), all, 10).await.unwrap()
}

async fn write(store: &dyn Store, write: Write) {
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(transaction).await.unwrap();
}

/// One that takes as much longer as there are leases; somebody else looks meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_covered_is_told_however_long_it_takes_to_count_it() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let ((gate, setup), (others, other)) = (gated(&store), gated(&store));
    let one = TestBroker::with(setup).await;
    let issuer = Some(one.issuer.clone());
    let _two = TestBroker::with(Setup { issuer, ..other }).await;
    one.issue().await;
    // Nothing is confirmed yet, and its own leases are counted before those that were handed on.
    for gate in [&gate, &others] {
        gate.hold_writes("lease-swept");
    }
    gate.hold_ranges("lease-children");
    let looking = async {
        until("there is a receipt", || async {
            !next_looks(store.as_ref()).await.is_empty()
        })
        .await;
        let first = next_looks(store.as_ref()).await.remove(0);
        let now = SystemClock::new().now().unix_timestamp() * 1000;
        let is_late = first.rank > now + 20_000;
        assert!(is_late, "it is looked at while it is counted");
        // Somebody looks all the same.
        let (index, member) = (waiting(), first.member);
        let rank = 0;
        write(
            store.as_ref(),
            Write::Rank {
                index,
                member,
                rank,
            },
        )
        .await;
        until("it was looked at", || async {
            next_looks(store.as_ref()).await[0].rank > 0
        })
        .await;
        gate.open();
        gate.hold_writes("lease-swept");
    };
    let (receipt, ()) = tokio::join!(revoked(&one, json!({ "agent": "deployer" })), looking);
    assert_eq!(receipt["leases"], json!({ "broker": 1 }), "{receipt}");
    gate.open();
    others.open();
    until_confirmed(&one, &receipt).await;
    until("it is told", || async {
        !one.audited("revocation_confirmed").await.is_empty()
    })
    .await;
    let told = one.audited("revocation_confirmed").await;
    assert_eq!(told[0]["detail"]["leases"], json!({ "broker": 1 }));
    let why = told[0]["detail"]["why"].as_str().unwrap();
    assert!(why.ends_with("1 when it was revoked"), "{why}");
}

/// A replica that has not read it vouches for what it covers for as long as its view is fresh.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_confirmed_before_every_replica_has_read_it_or_refuses() {
    let view_age = "4s";
    let broker = TestBroker::with(Setup {
        view_age,
        ..Setup::default()
    })
    .await;
    broker.issue().await;
    let begun = tokio::time::Instant::now();
    let receipt = revoked(&broker, json!({ "agent": "deployer" })).await;
    assert_eq!(receipt["state"], "revoking", "{receipt}");
    until_confirmed(&broker, &receipt).await;
    assert!(begun.elapsed() >= Duration::from_secs(4));
    // And it is not looked at in vain before.
    broker.is_confirmed("agent", "deployer", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_would_lose_of_a_receipt_is_not_promised() {
    let (gate, setup) = gate();
    let broker = TestBroker::with(setup).await;
    let issued = broker.issue().await;
    gate.replicate_nothing("revocation/");
    let answer = broker.revoke(json!({ "mission": "deploy-checkout" })).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["state"], "not_yet_replicated");
    assert_eq!(answer.body["leases"], json!({ "broker": 1 }));
    let token = issued["access_token"].as_str().unwrap();
    assert!(!broker.is_active(token).await);
    // It is there, for as long as it is.
    gate.open();
    until_confirmed(&broker, &answer.body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_receipt_that_was_lost_is_told_that_it_was_revoked() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let (gate, setup) = gated(&store);
    let broker = TestBroker::with(setup).await;
    gate.hold_writes("lease-swept");
    let token = broker.folder.path().join("operator.token");
    std::fs::write(&token, format!("{OPERATOR_TOKEN}\n")).unwrap();
    let environment = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let losing = async {
        until("there is a receipt", || async {
            !next_looks(store.as_ref()).await.is_empty()
        })
        .await;
        // Whoever raised it is answered first.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let id = next_looks(store.as_ref()).await.remove(0).member;
        let key = Key {
            shard: ShardId::INSTALLATION,
            name: [b"revocation/".as_slice(), &id].concat(),
        };
        write(store.as_ref(), Write::Delete(key)).await;
    };
    let arguments = ["revoke", "--agent", "deployer", "--wait", "60"];
    let (waited, ()) = tokio::join!(dayfly(&arguments, &environment, ""), losing);
    waited.is(6);
    assert!(waited.err.contains("it was revoked"), "{waited:?}");
    assert!(waited.err.contains("not known any more"), "{waited:?}");
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_ready_for_an_index_that_cannot_be_read_names_it() {
    let (gate, setup) = gate();
    let lost = ShardId::all().nth(7).unwrap();
    gate.lose(lost);
    let named = format!("index `lease-ending` of shard {}:", lost.number());
    // It is never ready, and the test's own broker says why.
    let starts = tokio::spawn(TestBroker::with(setup)).await;
    let why = starts.err().unwrap().into_panic();
    let why = why.downcast::<String>().unwrap();
    assert!(why.contains(&named), "{why}");
    gate.open();
}
