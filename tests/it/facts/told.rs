//! Facts that a webhook tells: what they prove, for how long, what ends with them, and who is not believed.

use super::{CAREFUL, ask, beside, issue, kills};
use crate::contexts::{hmac, send};
use crate::support::broker::{Answer, Setup, TestBroker, without};
use crate::support::gate::Gate;
use crate::support::process::until;
use crate::support::time::Manual;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Store, Transaction, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn told_text() -> String {
    let webhook = "{ hmac = \"file:hook.secret\", max_age = \"4m\", pointers = { \"freeze.state\" = \"/state\" } }";
    format!(
        "\n[facts.calendar]\nwebhook = {webhook}\nended_when = {{ \"freeze.state\" = \"over\" }}\n{CAREFUL}"
    )
}

async fn start(setup: Setup) -> TestBroker {
    TestBroker::with(Setup {
        more: told_text(),
        ..setup
    })
    .await
}

/// Says this, signed as of so many seconds from now.
async fn tell(broker: &TestBroker, body: &Value, ahead: i64) -> Answer {
    tell_text(broker, &body.to_string(), ahead).await
}

async fn tell_text(broker: &TestBroker, body: &str, ahead: i64) -> Answer {
    let sent = (broker.now() + ahead).to_string();
    let signature = hmac(format!("{sent}.{body}").as_bytes());
    let headers = [
        ("x-dayfly-timestamp", &*sent),
        ("x-dayfly-signature", &*signature),
    ];
    send(broker, "calendar", &headers, body).await
}

#[track_caller]
fn assert_taken(answer: &Answer) {
    assert_eq!(answer.status, 204, "{}", answer.body);
}

async fn told_in_the_audit(broker: &TestBroker) -> Vec<Value> {
    let page = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let mut entries = page["items"].as_array().unwrap().clone();
    entries.retain(|entry| entry["event"] == "facts_told");
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_proves_and_what_is_told_otherwise_ends() {
    let broker = start(Setup::default()).await;
    assert_refused(&ask(&broker).await, Reason::TetherMissing, "not told");
    assert_taken(&tell(&broker, &json!({ "state": "open" }), -30).await);
    let token = issue(&broker).await;
    let other = broker.issue().await["access_token"].clone();
    assert_taken(&tell(&broker, &json!({ "state": "open", "more": 1 }), -20).await);
    assert!(broker.is_active(&token).await, "it says the same");
    assert_taken(&tell(&broker, &json!({ "state": "frozen" }), -10).await);
    assert!(!broker.is_active(&token).await, "before it was answered");
    assert!(broker.is_active(other.as_str().unwrap()).await, "it alone");
    assert_refused(&ask(&broker).await, Reason::RequirementUnmet, "frozen");
    assert_taken(&tell(&broker, &json!({ "state": "open" }), 0).await);
    issue(&broker).await;
    let told = told_in_the_audit(&broker).await;
    assert_eq!(told.len(), 4);
    let frozen = json!({ "freeze.state": "frozen" });
    assert!(told.iter().any(|entry| entry["detail"]["facts"] == frozen));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_end_proves_nothing_and_ends_what_hung_on_it() {
    let broker = start(Setup::default()).await;
    assert_taken(&tell(&broker, &json!({ "state": "open" }), -10).await);
    let token = issue(&broker).await;
    assert_taken(&tell(&broker, &json!({ "state": "over" }), 0).await);
    assert!(!broker.is_active(&token).await);
    assert_refused(&ask(&broker).await, Reason::TetherMissing, "over");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_is_told_and_all_know() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let one = start(Setup {
        store: Some(Arc::clone(&store)),
        ..Setup::default()
    })
    .await;
    let two = beside(&one, &store, told_text()).await;
    assert_taken(&tell(&one, &json!({ "state": "open" }), -10).await);
    until("the other knows", || async {
        ask(&two).await.status == 200
    })
    .await;
    let tokens = [issue(&one).await, issue(&two).await];
    assert_taken(&tell(&one, &json!({ "state": "frozen" }), 0).await);
    let refused = Reason::RequirementUnmet.code();
    until("the other knows", || async {
        ask(&two).await.reason() == refused
    })
    .await;
    for token in &tokens {
        until("it is dead", || async {
            !one.is_active(token).await && !two.is_active(token).await
        })
        .await;
    }
    // And one that starts later.
    drop(two);
    let three = beside(&one, &store, told_text()).await;
    until("it knows, too", || async {
        ask(&three).await.reason() == refused
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_too_long_ago_proves_nothing_and_ends_nothing() {
    let broker = start(Setup::default()).await;
    // Of its four minutes a few seconds are left.
    assert_taken(&tell(&broker, &json!({ "state": "open" }), -234).await);
    let token = issue(&broker).await;
    until("it is too old", || async {
        ask(&broker).await.reason() == Reason::TetherMissing.code()
    })
    .await;
    assert!(broker.is_active(&token).await);
}

type Headers = Vec<(String, String)>;

fn headers(sent: &str, signature: &str) -> Headers {
    let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        named("x-dayfly-timestamp", sent),
        named("x-dayfly-signature", signature),
    ]
}

async fn post(broker: &TestBroker, source: &str, headers: &Headers, body: &str) -> Answer {
    let headers: Vec<_> = headers.iter().map(|(a, b)| (&**a, &**b)).collect();
    send(broker, source, &headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_believed() {
    let broker = start(Setup::default()).await;
    let body = json!({ "state": "open" }).to_string();
    let at = |ahead: i64| (broker.now() + ahead).to_string();
    let signed = |sent: &str, body: &str| hmac(format!("{sent}.{body}").as_bytes());
    let (now, old, late) = (at(0), at(-310), at(310));
    let good = signed(&now, &body);
    let bare = good.trim_start_matches("sha256=");
    for (headers, what) in [
        (headers(&now, &signed(&now, "{}")), "another body"),
        (headers(&at(-1), &good), "another time"),
        (headers(&now, &hmac(body.as_bytes())), "no time is signed"),
        (headers(&now, bare), "no algorithm"),
        (headers(&now, "sha256="), "no tag"),
        (headers(&old, &signed(&old, &body)), "too long ago"),
        (headers(&late, &signed(&late, &body)), "from the future"),
        (
            without(headers(&now, &good), "x-dayfly-timestamp"),
            "no time",
        ),
        (
            without(headers(&now, &good), "x-dayfly-signature"),
            "no signature",
        ),
    ] {
        let answer = post(&broker, "calendar", &headers, &body).await;
        let told = (answer.status, answer.error());
        assert_eq!(told, (401, "invalid_client"), "{what}");
    }
    let good = headers(&now, &good);
    assert_eq!(post(&broker, "nobody", &good, &body).await.status, 401);
    assert_refused(&ask(&broker).await, Reason::TetherMissing, "not told");
    assert_taken(&post(&broker, "calendar", &good, &body).await);
    issue(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_message_is_not_brought_back() {
    let broker = start(Setup {
        clock: Manual::start(),
        ..Setup::default()
    })
    .await;
    let (open, frozen) = (json!({ "state": "open" }), json!({ "state": "frozen" }));
    assert_taken(&tell(&broker, &open, -20).await);
    assert_taken(&tell(&broker, &frozen, -10).await);
    // Whole and well signed, as whoever saw it has it; and another one of the same second.
    for ahead in [-20, -10] {
        let answer = tell(&broker, &open, ahead).await;
        let told = (answer.status, answer.reason());
        assert_eq!(told, (400, "malformed_request"), "{}", answer.body);
        assert_eq!(answer.body["at"], "x-dayfly-timestamp");
        assert_refused(&ask(&broker).await, Reason::RequirementUnmet, "frozen");
    }
    assert_taken(&tell(&broker, &open, -9).await);
    issue(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_twice_is_taken_once() {
    let clock = Manual::start();
    let broker = start(Setup {
        clock,
        ..Setup::default()
    })
    .await;
    for _ in 0..3 {
        assert_taken(&tell(&broker, &json!({ "state": "open" }), 0).await);
    }
    assert_eq!(told_in_the_audit(&broker).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_ends_though_whoever_was_told_died_behind_it() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let gate = Gate::before(&store);
    let broker = start(Setup {
        store: Some(Arc::clone(&gate) as Arc<dyn Store>),
        ..Setup::default()
    })
    .await;
    assert_taken(&tell(&broker, &json!({ "state": "open" }), -10).await);
    let token = issue(&broker).await;
    // It takes the message, and its end never comes to the log.
    gate.refuse("fences");
    let frozen = json!({ "state": "frozen" });
    let told = tell(&broker, &frozen, -5);
    drop(tokio::time::timeout(Duration::from_secs(1), told).await);
    assert_eq!(told_in_the_audit(&broker).await.len(), 2);
    let after = beside(&broker, &store, told_text()).await;
    until("it is dead", || async { !after.is_active(&token).await }).await;
    // And that is done once.
    let ended = || kills(&after);
    let before = ended().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ended().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_of_a_time_to_come() {
    let broker = start(Setup::default()).await;
    let answer = tell(&broker, &json!({ "state": "open" }), 60).await;
    let told = (answer.status, answer.reason());
    assert_eq!(told, (400, "malformed_request"), "{}", answer.body);
    assert_eq!(answer.body["at"], "x-dayfly-timestamp");
    // It would have kept this one from being heard.
    assert_taken(&tell(&broker, &json!({ "state": "open" }), 0).await);
    assert_taken(&tell(&broker, &json!({ "state": "frozen" }), 20).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_object_of_facts_is_refused_or_proves_nothing() {
    let broker = start(Setup::default()).await;
    for body in ["", "open", "[]", "\"open\"", "{\"state\":"] {
        let answer = tell_text(&broker, body, -20).await;
        let told = (answer.status, answer.reason());
        assert_eq!(told, (400, "malformed_request"), "{body}");
    }
    let long = json!({ "state": "open", "more": "x".repeat(65 * 1024) });
    let answer = tell(&broker, &long, -20).await;
    let told = (answer.status, answer.reason());
    assert_eq!(told, (413, "request_too_large"));
    let odd = [
        (-30, json!({})),
        (-20, json!({ "state": { "deep": "open" } })),
        (-10, json!({ "state": null })),
    ];
    for (ahead, odd) in odd {
        assert_taken(&tell(&broker, &odd, ahead).await);
        let answer = ask(&broker).await;
        assert_refused(&answer, Reason::TetherMissing, &odd.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_the_store_proves_nothing() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let broker = start(Setup {
        store: Some(Arc::clone(&store)),
        ..Setup::default()
    })
    .await;
    assert_taken(&tell(&broker, &json!({ "state": "frozen" }), -10).await);
    let key = Key {
        shard: ShardId::INSTALLATION,
        name: b"facts/calendar".to_vec(),
    };
    let found = store.get(std::slice::from_ref(&key)).await.unwrap();
    let mut value = found[0].clone().unwrap().value;
    let at = value.windows(6).position(|part| part == b"frozen").unwrap();
    value[at + 5] = b'N';
    let deadline = SystemClock::new().now() + Duration::from_secs(30);
    let put = Write::Put {
        key,
        value,
        expires_at: None,
    };
    let transaction = Transaction::new(ShardId::INSTALLATION, deadline).write(put);
    store.commit(transaction).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_refused(&ask(&broker).await, Reason::RequirementUnmet, "as told");
    let later = beside(&broker, &store, told_text()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_refused(&ask(&later).await, Reason::TetherMissing, "nobody's word");
    // The next message goes over it.
    assert_taken(&tell(&broker, &json!({ "state": "open" }), 0).await);
    until("it knows", || async { ask(&later).await.status == 200 }).await;
}
