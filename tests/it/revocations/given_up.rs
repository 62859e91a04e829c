//! A lease that cannot be read, and an operator who looked for its credential: nobody waits for it any more, and
//! nothing else is any different.

use super::receipts::{asked, until_confirmed};
use super::unreadable::{over, store, write};
use crate::cli::dayfly;
use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker};
use crate::support::process::until;
use crate::support::time::Manual;
use crate::support::world::assert_refused;
use dayfly::broker::{Operator, Reason, Role};
use dayfly::clock::{Clock, SystemClock};
use dayfly::ids::{LeaseId, ShardId};
use dayfly::store::{Index, Key, MAX_RANK, Outcome, Ranked, Store, Transaction, Write};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Duration;

const WHY: &str = "INC-4711: no such login at orders-db";

fn index(shard: ShardId, name: &'static str) -> Index {
    Index {
        shard,
        name: Cow::Borrowed(name),
    }
}

fn key(id: &LeaseId, of: &str) -> Key {
    Key {
        shard: id.shard(),
        name: [of.as_bytes(), id.as_bytes()].concat(),
    }
}

/// A lease that is open, and that nobody can read.
pub async fn damaged(store: &dyn Store) -> LeaseId {
    let lease = LeaseId::draw(ShardId::all().next().unwrap());
    let at = SystemClock::new().now() + Duration::from_secs(3600);
    let rank = (at.unix_timestamp() * 1000) << 11;
    let place = (index(lease.shard(), "lease-due"), lease.as_bytes().to_vec());
    write(store, key(&lease, "lease/").name, place, rank).await;
    lease
}

async fn put(store: &dyn Store, key: Key, value: Vec<u8>) {
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    let transaction = Transaction::new(key.shard, deadline).write(Write::Put {
        key,
        value,
        expires_at: None,
    });
    let done = store.commit(transaction).await.unwrap();
    assert!(matches!(done, Outcome::Applied { .. }), "{done:?}");
}

async fn all_of(store: &dyn Store, index: &Index) -> Vec<Ranked> {
    let all = -MAX_RANK..=MAX_RANK;
    store.range(index, all, 100).await.unwrap()
}

async fn give_up(broker: &TestBroker, lease: &LeaseId) -> Answer {
    let path = format!("/leases/{lease}/give-up");
    let body = json!({ "reason": WHY });
    broker.admin("POST", &path, Some(body)).await
}

async fn revoked(broker: &TestBroker, selector: Value) -> Value {
    let answer = broker.revoke(selector).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// Every shard is swept behind it, and one record is in the way.
async fn until_only_that_is_in_the_way(broker: &TestBroker, receipt: &Value) {
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let now = asked(broker, receipt).await;
    assert_eq!(now["state"], "revoking", "{now}");
    let counted = (&now["outstanding"], &now["unreadable"], &now["given_up"]);
    assert_eq!(counted, (&json!(0), &json!(1), &json!(0)), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_keeps_no_revocation_back_and_is_counted() {
    let store = store();
    let broker = over(store.clone()).await;
    let lease = damaged(store.as_ref()).await;
    broker.issue().await;
    let of_all = revoked(&broker, json!({ "mission": "deploy-checkout" })).await;
    let of_it = revoked(&broker, json!({ "lease": lease })).await;
    until_only_that_is_in_the_way(&broker, &of_all).await;
    until_only_that_is_in_the_way(&broker, &of_it).await;

    let given_up = give_up(&broker, &lease).await;
    assert_eq!(given_up.status, 200, "{}", given_up.body);
    assert_eq!(given_up.body["lease"], json!(lease));
    assert_eq!(given_up.body["reason"], WHY);
    for receipt in [&of_all, &of_it] {
        until_confirmed(&broker, receipt).await;
        let now = asked(&broker, receipt).await;
        assert_eq!(
            (&now["unreadable"], &now["given_up"]),
            (&json!(0), &json!(1))
        );
    }
    broker.is_confirmed("mission", "deploy-checkout", 1).await;
    let told = broker.audited("revocation_confirmed").await;
    assert_eq!(told[0]["detail"]["given_up"], 1, "{told:?}");

    // Said again it is the same, and the audit has heard of it.
    let path = format!("/leases/{lease}/give-up");
    let other = json!({ "reason": "somebody else says so" });
    let again = broker.admin("POST", &path, Some(other)).await;
    assert_eq!((again.status, &again.body), (200, &given_up.body));
    let told = broker.audited("lease_given_up").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["operator"], given_up.body["by"]);
    assert_eq!(told[0]["lease"], json!(lease));
    assert_eq!(told[0]["detail"]["said"], WHY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_can_be_read_is_given_up_by_nobody() {
    let store = store();
    let broker = over(store.clone()).await;
    let issued = broker.issue().await;
    let id: LeaseId = issued["lease_id"].as_str().unwrap().parse().unwrap();
    let readable = give_up(&broker, &id).await;
    assert_refused(&readable, Reason::LeaseReadable, "it can be read");
    let nothing = LeaseId::draw(id.shard());
    let unknown = give_up(&broker, &nothing).await;
    assert_refused(&unknown, Reason::NotFound, "there is none");

    let lease = damaged(store.as_ref()).await;
    let path = format!("/leases/{lease}/give-up");
    let silent = broker
        .admin("POST", &path, Some(json!({ "reason": " " })))
        .await;
    assert_refused(&silent, Reason::MalformedRequest, "nobody says why");
    let by = Operator {
        name: "break-glass".to_owned(),
        subject: None,
        role: Role::Admin,
        break_glass: true,
    };
    let inner = &broker.composed.broker;
    let broken = inner.give_up_lease(&by, lease, WHY).await.unwrap_err();
    assert_eq!(broken.reason, Reason::NotPermitted);

    assert!(broker.audited("lease_given_up").await.is_empty());
    for id in [&id, &nothing, &lease] {
        let mark = store.get(&[key(id, "lease-given-up/")]).await.unwrap();
        assert!(mark[0].is_none(), "{id}");
    }
    let token = issued["access_token"].as_str().unwrap();
    assert!(broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_of_one_lease_as_it_was_and_outlives_a_restart() {
    let store = store();
    let (lease, other) = {
        let broker = over(store.clone()).await;
        let lease = damaged(store.as_ref()).await;
        assert_eq!(give_up(&broker, &lease).await.status, 200);
        (lease, damaged(store.as_ref()).await)
    };
    // Somebody who writes to the store has it stand for another one.
    let of = |lease| key(lease, "lease-given-up/");
    let mark = store.get(&[of(&lease)]).await.unwrap().pop().flatten();
    put(store.as_ref(), of(&other), mark.unwrap().value).await;

    let broker = over(store.clone()).await;
    let receipt = revoked(&broker, json!({ "mission": "deploy-checkout" })).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let now = asked(&broker, &receipt).await;
    let counted = (&now["state"], &now["unreadable"], &now["given_up"]);
    assert_eq!(counted, (&json!("revoking"), &json!(1), &json!(1)));

    // It is damaged in another way: nobody has looked at that.
    assert_eq!(give_up(&broker, &other).await.status, 200);
    until_confirmed(&broker, &receipt).await;
    put(store.as_ref(), key(&lease, "lease/"), b"[".to_vec()).await;
    let now = asked(&broker, &receipt).await;
    assert_eq!(
        (&now["state"], &now["unreadable"]),
        (&json!("revoking"), &json!(1))
    );
    assert_eq!(give_up(&broker, &lease).await.status, 200);
    until_confirmed(&broker, &receipt).await;
    assert_eq!(broker.audited("lease_given_up").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_what_was_given_up_is_accepted() {
    let store = store();
    let setup = || Setup {
        store: Some(store.clone()),
        ..Setup::default()
    };
    let one = TestBroker::with(setup()).await;
    let issued = one.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    assert!(one.is_active(token).await);
    let lease: LeaseId = issued["lease_id"].as_str().unwrap().parse().unwrap();
    put(store.as_ref(), key(&lease, "lease/"), b"{".to_vec()).await;
    // Another one, which has not heard of it yet.
    let issuer = Some(one.issuer.clone());
    let two = TestBroker::with(Setup { issuer, ..setup() }).await;
    let ask = async || {
        let answer = two.introspect(token).await;
        let active = answer.body["active"].clone();
        (answer.status, active)
    };
    let before = ask().await;
    assert_ne!(before.1, json!(true), "{before:?}");
    assert_eq!(give_up(&two, &lease).await.status, 200);
    assert_eq!(ask().await, before);
    let found = two.admin("GET", &format!("/leases/{lease}"), None).await;
    assert_ne!(found.status, 200, "{}", found.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_target_is_overdue_for_what_was_given_up_and_it_stays_where_it_is_due() {
    let store = store();
    let broker = over(store.clone()).await;
    let lease = damaged(store.as_ref()).await;
    let (shard, other) = (lease.shard(), LeaseId::draw(lease.shard()));
    let ending = index(shard, "lease-ending");
    for id in [&lease, &other] {
        let member = [id.as_bytes().as_slice(), b"orders-db"].concat();
        let at = SystemClock::new().now();
        let rank = (at.unix_timestamp() * 1000) << 11;
        write(
            store.as_ref(),
            key(id, "lease/").name,
            (ending.clone(), member),
            rank,
        )
        .await;
    }
    assert_eq!(give_up(&broker, &lease).await.status, 200);
    let left = all_of(store.as_ref(), &ending).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].member.starts_with(other.as_bytes()));
    let due = all_of(store.as_ref(), &index(shard, "lease-due")).await;
    assert!(due.iter().any(|one| one.member == lease.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_and_was_given_up_is_no_alarm() {
    let store = store();
    let broker = over(store.clone()).await;
    let lease = damaged(store.as_ref()).await;
    assert_eq!(give_up(&broker, &lease).await.status, 200);
    let alarming = damaged(store.as_ref()).await;
    let due = index(lease.shard(), "lease-due");
    let deadline = SystemClock::new().now() + Duration::from_secs(10);
    let now = [&lease, &alarming].map(|id| Write::Rank {
        index: due.clone(),
        member: id.as_bytes().to_vec(),
        rank: 0,
    });
    let transaction = Transaction::new(lease.shard(), deadline);
    let transaction = now.into_iter().fold(transaction, Transaction::write);
    store.commit(transaction).await.unwrap();
    until("both are put off", || async {
        let left = all_of(store.as_ref(), &due).await;
        left.len() == 2 && left.iter().all(|one| one.rank > 0)
    })
    .await;
    let told = broker.audited("record_unreadable").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["lease"], json!(alarming));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_somebody_can_mend_is_looked_at_once_an_hour_in_the_end() {
    let (store, clock) = (store(), Manual::start());
    let setup = Setup {
        store: Some(store.clone()),
        clock: clock.clone(),
        ..Setup::default()
    };
    let broker = TestBroker::with(setup).await;
    let lease = damaged(store.as_ref()).await;
    let receipt = revoked(&broker, json!({ "mission": "deploy-checkout" })).await;
    let waiting = index(ShardId::INSTALLATION, "revocations");
    let next = async || all_of(store.as_ref(), &waiting).await[0].rank;
    let milliseconds = || clock.now().unix_timestamp_nanos() / 1_000_000;
    let mut pauses = Vec::new();
    while pauses.last() != Some(&3600) {
        assert!(pauses.len() < 20, "{pauses:?}");
        until("it was looked at", || async {
            i128::from(next().await) > milliseconds()
        })
        .await;
        let pause = i128::from(next().await) - milliseconds();
        let pause = u64::try_from(pause).unwrap();
        pauses.push(pause.div_ceil(1000));
        // Every shard is swept meanwhile, and the log is read everywhere.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        clock.advance(Duration::from_millis(pause + 1));
    }
    let all = [1, 2, 4, 8, 16, 60, 120, 240, 480, 960, 1920, 3600];
    assert_eq!(pauses, all);
    assert_eq!(give_up(&broker, &lease).await.status, 200);
    until_confirmed(&broker, &receipt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_who_gave_it_up() {
    let store = store();
    let broker = over(store.clone()).await;
    let lease = damaged(store.as_ref()).await;
    let token = broker.folder.path().join("operator.token");
    std::fs::write(&token, format!("{OPERATOR_TOKEN}\n")).unwrap();
    let environment = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let id = lease.to_string();
    let done = dayfly(
        &["lease", "give-up", &id, "--reason", WHY],
        &environment,
        "",
    )
    .await;
    done.is(0);
    assert!(done.out.contains(&id) && done.out.contains(WHY), "{done:?}");
    assert_eq!(broker.audited("lease_given_up").await.len(), 1);
    let issued = broker.issue().await;
    let live = issued["lease_id"].as_str().unwrap();
    let refused = dayfly(
        &["lease", "give-up", live, "--reason", WHY],
        &environment,
        "",
    )
    .await;
    refused.is(3);
    assert!(refused.err.contains("revoke it"), "{refused:?}");
}
