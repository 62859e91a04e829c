//! Governance by the clock, over the wire: two replicas on one store, one clock that the test sets
//! forward, and exactly one of them acts.

use crate::support::broker::{Setup, TestBroker, with};
use crate::support::issuer::Issuer;
use crate::support::redis::RedisServer;
use crate::support::time::Manual;
use dayfly::ids::ShardId;
use dayfly::jose::{Algorithm, SigningKey};
use dayfly::secret::Secret;
use dayfly::store::embedded::Embedded;
use dayfly::store::redis::{Redis, RedisSettings};
use dayfly::store::{Key, Outcome, Store, Transaction, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const DAY: u64 = 24 * 3600;

pub struct Pair {
    pub one: TestBroker,
    pub other: TestBroker,
    pub clock: Arc<Manual>,
    pub issuer: Arc<Issuer>,
    key: SigningKey,
    store: Arc<dyn Store>,
    more: String,
}

impl Pair {
    pub async fn start(more: &str) -> Self {
        Self::over(Arc::new(Embedded::in_memory().unwrap()), more).await
    }

    async fn over(store: Arc<dyn Store>, more: &str) -> Self {
        let clock = Manual::start();
        let issuer = Arc::new(Issuer::start().await);
        let key = SigningKey::generate(Algorithm::Es256)
            .unwrap()
            .named_by_thumbprint();
        let start = || replica(&store, &issuer, &key, &clock, more);
        let (one, other) = (start().await, start().await);
        Self {
            one,
            other,
            clock,
            issuer,
            key,
            store,
            more: more.to_owned(),
        }
    }

    async fn third(&self) -> TestBroker {
        replica(
            &self.store,
            &self.issuer,
            &self.key,
            &self.clock,
            &self.more,
        )
        .await
    }

    /// Both look at once. How often something was told and done, both replicas' own rounds included.
    pub async fn round(&self) -> (usize, usize) {
        let before = self.counted().await;
        let (a, b) = (&self.one.composed.broker, &self.other.composed.broker);
        let (a, b) = tokio::join!(a.govern(), b.govern());
        a.unwrap();
        b.unwrap();
        let after = self.counted().await;
        (after.0 - before.0, after.1 - before.1)
    }

    async fn counted(&self) -> (usize, usize) {
        let told = ["ends_soon", "review_due", "review_overdue", "dormant_soon"];
        let page = self.one.admin("GET", "/audit?limit=1000", None).await.body;
        let count = |kinds: &[&str]| {
            let all = page["items"].as_array().unwrap().iter();
            all.filter(|one| kinds.contains(&one["event"].as_str().unwrap()))
                .count()
        };
        (
            count(&told),
            count(&["suspended", "under_review", "retired"]),
        )
    }

    /// Days go by; both look often enough to tell first and to act then.
    pub async fn days(&self, days: u64) -> (usize, usize) {
        let before = self.counted().await;
        self.clock.advance(Duration::from_secs(days * DAY));
        for _ in 0..4 {
            self.round().await;
        }
        let after = self.counted().await;
        (after.0 - before.0, after.1 - before.1)
    }

    pub async fn seen(&self, event: &str) -> Vec<Value> {
        let page = self.one.admin("GET", "/audit?limit=1000", None).await.body;
        let all = page["items"].as_array().unwrap().clone();
        all.into_iter()
            .filter(|one| one["event"] == event)
            .collect()
    }

    pub async fn state(&self, agent: &str) -> Value {
        let path = format!("/agents/{agent}");
        self.one.admin("GET", &path, None).await.body["state"].clone()
    }
}

async fn replica(
    store: &Arc<dyn Store>,
    issuer: &Arc<Issuer>,
    key: &SigningKey,
    clock: &Arc<Manual>,
    more: &str,
) -> TestBroker {
    TestBroker::with(Setup {
        store: Some(store.clone()),
        issuer: Some(issuer.clone()),
        key: Some(key.clone()),
        clock: clock.clone(),
        more: more.to_owned(),
        ..Setup::default()
    })
    .await
}

async fn on_redis() -> Option<(RedisServer, Arc<dyn Store>)> {
    let server = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
    let settings = RedisSettings::new(Secret::new(server.url()));
    let store = Redis::connect(settings).await.unwrap();
    Some((server, Arc::new(store)))
}

/// Refused by both, by the same face as anybody whom nobody knows.
async fn refused_everywhere(pair: &Pair) {
    for broker in [&pair.one, &pair.other] {
        let mut refused = false;
        for _ in 0..100 {
            let answer = broker.exchange(&broker.good_form()).await;
            refused = answer.status == 400 && answer.body.get("dayfly_reason").is_none();
            if refused {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_nobody_uses_is_suspended_once_by_two_replicas_on_redis() {
    let Some((_server, store)) = on_redis().await else {
        return;
    };
    let pair = Pair::over(store, "").await;
    assert_eq!(pair.round().await, (0, 0));
    // A week before it is told, once; nothing happens.
    assert_eq!(pair.days(24).await, (1, 0));
    assert_eq!(pair.seen("dormant_soon").await.len(), 1);
    assert_eq!(pair.state("deployer").await, "active");
    assert_eq!(pair.days(7).await, (0, 1));
    let done = pair.seen("suspended").await;
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(done[0]["reason"], "dormant");
    assert_eq!(done[0]["agent"], "deployer");
    assert_eq!(pair.seen("fence_raised").await.len(), 1);
    refused_everywhere(&pair).await;
    assert_eq!(pair.state("deployer").await, "suspended");
    // A replica that starts now knows it, too; and nothing is done twice.
    let third = pair.third().await;
    let answer = third.exchange(&third.good_form()).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(third.composed.broker.govern().await.unwrap().turned, 0);
    // Resumed, it has its whole time again.
    let lift = json!({ "selector": { "agent": "deployer" }, "reason": "needed again" });
    let lifted = pair.one.admin("POST", "/lifts", Some(lift)).await;
    assert_eq!(lifted.status, 200, "{}", lifted.body);
    assert_eq!(pair.days(1).await, (0, 0));
    pair.one.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_used_is_not_dormant() {
    let pair = Pair::start("").await;
    pair.round().await;
    pair.days(20).await;
    pair.one.issue().await;
    // It is written beside the answer.
    let mut used = Value::Null;
    for _ in 0..200 {
        used = pair.one.admin("GET", "/agents/deployer", None).await.body["last_used"].clone();
        if used.is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(used.is_string(), "its use was never written down");
    assert_eq!(pair.days(11).await, (0, 0));
    pair.other.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overdue_review_refuses_what_is_new_and_leaves_what_is_alive() {
    let terms = "[agent.other]\nowner = \"x@acme.example\"\npurpose = \"Waits\"\nends = 2099-01-01\n\
                 identity = { issuer = \"ci\", subject = \"other\" }\n\
                 review_every = \"10d\"\noverdue = \"warn 5d, then refuse\"\ndormant = \"3650d\"\n\
                 [mission.short]\nagents = [\"deployer\"]\nowner = \"sre@acme.example\"\n\
                 purpose = \"Looked at often\"\nreview_every = \"10d\"\noverdue = \"warn 5d, then refuse\"\n\
                 allow = [{ target = \"deploy-api\", actions = [\"deploy:read\"], locations = [\"https://deploy.example/checkout\"] }]\n";
    let pair = Pair::start(terms).await;
    pair.round().await;
    assert_eq!(pair.days(8).await, (2, 0));
    assert_eq!(pair.seen("review_due").await.len(), 2);
    assert_eq!(pair.days(3).await, (2, 0));
    assert_eq!(pair.seen("review_overdue").await.len(), 2);
    let ask = || {
        let token = pair.one.platform_token();
        let mut claims = pair.one.intent_claims(&token);
        claims["mission"]["id"] = json!("short");
        claims["authorization_details"][0]["actions"] = json!(["deploy:read"]);
        let intent = pair.one.sign_intent(&claims);
        let form = with(pair.one.good_form(), "subject_token", &token);
        with(form, "intent", &intent)
    };
    // Warned of, it still gets what it asks for.
    let issued = pair.one.exchange(&ask()).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    pair.clock.advance(Duration::from_secs(4 * DAY - 60));
    let late = pair.one.exchange(&ask()).await;
    assert_eq!(late.status, 200, "{}", late.body);
    pair.clock.advance(Duration::from_secs(120));
    assert_eq!(pair.round().await, (0, 2));
    let held = pair.one.exchange(&ask()).await;
    assert_eq!(held.status, 400, "{}", held.body);
    assert_eq!(held.reason(), "held");
    assert_eq!(pair.state("other").await, "under_review");
    let token = late.body["access_token"].as_str().unwrap();
    assert!(pair.one.is_active(token).await, "what is alive lives on");
    // A review that is overdue is made, not lifted.
    let lift = json!({ "selector": { "mission": "short" }, "reason": "in a hurry" });
    let lifted = pair.one.admin("POST", "/lifts", Some(lift)).await;
    assert_eq!(lifted.status, 403, "{}", lifted.body);
}

const WAITING: &str = "[agent.other]\nowner = \"x@acme.example\"\npurpose = \"Waits\"\nends = 2099-01-01\n\
    identity = { issuer = \"ci\", subject = \"other\" }\nintent_keys = \"file:deployer.jwks.json\"\n\
    review_every = \"10d\"\noverdue = \"warn 5d, then refuse\"\ndormant = \"3650d\"\n";

async fn spoil(pair: &Pair, value: Vec<u8>) {
    let key = governed("deployer");
    let until = pair.one.composed.clock.now() + time::Duration::seconds(30);
    let garbage = Transaction::new(key.shard, until).write(Write::Put {
        key,
        value,
        expires_at: None,
    });
    let outcome = pair.store.commit(garbage).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
}

fn governed(agent: &str) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: format!("governed/agent/{agent}").into_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_somebody_changed_holds_its_agent_and_nobody_else_goes_unlooked_after() {
    let pair = Pair::start(WAITING).await;
    pair.round().await;
    let places = [governed("deployer"), governed("other")];
    let read = pair.store.get(&places).await.unwrap();
    let [own, others] = [&read[0], &read[1]].map(|one| one.as_ref().unwrap().value.clone());
    let mut one_bit = own.clone();
    *one_bit.last_mut().unwrap() ^= 1;
    // Garbage; its own with one bit changed; another's, which is authentic in its place.
    for value in [b"nothing that was written".to_vec(), one_bit, others] {
        let before = pair.counted().await.1;
        spoil(&pair, value.clone()).await;
        pair.round().await;
        let card = pair.one.admin("GET", "/agents/deployer", None).await.body;
        assert_eq!(card["state"], "suspended");
        assert_eq!(card["rule"], "governance/record_unreadable");
        // A use, a review or another round does not make it look like ours.
        pair.round().await;
        assert_eq!(pair.counted().await.1 - before, 1, "held, once");
        let kept = pair.store.get(&places).await.unwrap();
        assert_eq!(kept[0].as_ref().unwrap().value, value);
        // An operator who has looked begins anew.
        let lift = json!({ "selector": { "agent": "deployer" }, "reason": "looked into it" });
        let lifted = pair.one.admin("POST", "/lifts", Some(lift)).await;
        assert_eq!(lifted.status, 200, "{}", lifted.body);
        pair.round().await;
        assert_eq!(pair.state("deployer").await, "active");
    }
    spoil(&pair, b"nothing that was written".to_vec()).await;
    for days in [11, 5] {
        pair.clock.advance(Duration::from_secs(days * DAY));
        for _ in 0..4 {
            pair.one.composed.broker.govern().await.unwrap();
        }
    }
    assert_eq!(pair.state("other").await, "under_review");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retired_and_whose_owner_is_held_stays_so_on_redis() {
    let Some((_server, store)) = on_redis().await else {
        return;
    };
    let pair = Pair::over(store, WAITING).await;
    pair.round().await;
    let retire = json!({
        "selector": { "agent": "other" }, "reason": "not needed any more", "retire": true,
    });
    let retired = pair.one.admin("POST", "/revocations", Some(retire)).await;
    assert_eq!(retired.status, 200, "{}", retired.body);
    let held = pair
        .other
        .revoke(json!({ "owner": "payments@acme.example" }))
        .await;
    assert_eq!(held.status, 200, "{}", held.body);
    refused_everywhere(&pair).await;
    // One that starts now knows both, and the clock takes neither back.
    let third = pair.third().await;
    pair.days(40).await;
    for broker in [&pair.one, &pair.other, &third] {
        let of = async |name: &str| {
            let path = format!("/agents/{name}");
            broker.admin("GET", &path, None).await.body
        };
        assert_eq!(of("other").await["state"], "retired");
        assert_eq!(of("deployer").await["state"], "suspended");
    }
    let lift = json!({ "selector": { "owner": "payments@acme.example" }, "reason": "over" });
    let lifted = third.admin("POST", "/lifts", Some(lift)).await;
    assert_eq!(lifted.status, 200, "{}", lifted.body);
    // Forty days without a credential: what is left is the clock's.
    let card = third.admin("GET", "/agents/deployer", None).await.body;
    assert_eq!(card["rule"], "governance/dormant", "{card}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_suspends_what_an_overdue_review_only_keeps_from_anything_new() {
    let response =
        "[[response]]\nname = \"knocks\"\non = \"agent_not_in_standing\"\ndo = [\"suspend\"]\n";
    let pair = Pair::start(&format!("{WAITING}{response}")).await;
    pair.round().await;
    pair.days(11).await;
    pair.days(5).await;
    assert_eq!(pair.state("other").await, "under_review");
    // Only what comes after the first look is answered.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for _ in 0..100 {
        let mut claims = pair.one.platform_claims();
        claims["sub"] = json!("other");
        let token = pair.issuer.sign(&claims);
        let mut intent = pair.one.intent_claims(&token);
        for name in ["iss", "sub", "client_id"] {
            intent[name] = json!("other");
        }
        let intent = pair.one.sign_intent(&intent);
        let form = with(pair.one.good_form(), "subject_token", &token);
        let form = with(with(form, "intent", &intent), "client_id", "other");
        assert_eq!(pair.one.exchange(&form).await.status, 400);
        if pair.state("other").await == "suspended" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{}", pair.state("other").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_moves_the_next_one_and_lifts_what_was_overdue() {
    let pair = Pair::start("").await;
    pair.round().await;
    // The agent is overdue first, then asleep; the mission is overdue.
    assert_eq!(pair.days(105).await.1, 3);
    assert_eq!(pair.seen("under_review").await.len(), 2);
    let due = pair.one.admin("GET", "/reviews", None).await.body;
    let names: Vec<_> = due["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let id = item["mission"]["id"]
                .as_str()
                .or(item["agent"]["id"].as_str());
            (
                id.unwrap().to_owned(),
                item["when"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert!(
        names.contains(&("deploy-checkout".to_owned(), "overdue".to_owned())),
        "{names:?}"
    );
    let mission = json!({ "mission": "deploy-checkout" });
    let done = pair
        .other
        .admin("POST", "/reviews", review(mission.clone(), "keep"))
        .await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(done.body["when"], "later");
    assert_eq!(done.body["mission"]["state"], "active");
    assert_eq!(done.body["mission"]["last_review"]["decision"], "keep");
    let reach = &done.body["mission"]["reach"][0];
    assert_eq!(
        reach["never_asked"],
        json!(["deploy:write", "deploy:read"]),
        "{reach}"
    );
    let entry = &pair.seen("reviewed").await[0];
    assert_eq!(
        (&entry["mission"], &entry["reason"]),
        (&json!("deploy-checkout"), &json!("keep"))
    );
    // A suspended agent that is kept stays suspended.
    let kept = pair
        .one
        .admin(
            "POST",
            "/reviews",
            review(json!({ "agent": "deployer" }), "narrow"),
        )
        .await;
    assert_eq!(kept.body["agent"]["state"], "suspended", "{}", kept.body);
    assert_eq!(
        kept.body["when"], "due",
        "narrowed, it is looked at again within two weeks"
    );
    let lift = json!({ "selector": { "agent": "deployer" }, "reason": "needed again" });
    assert_eq!(
        pair.one.admin("POST", "/lifts", Some(lift)).await.status,
        200
    );
    pair.one.issue().await;
}

fn review(subject: Value, decision: &str) -> Option<Value> {
    Some(json!({ "subject": subject, "decision": decision, "note": "seen by a test" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_review_retires_is_over() {
    let pair = Pair::start("").await;
    let mission = json!({ "mission": "deploy-checkout" });
    // Retired by its review, it is over.
    let over = pair
        .one
        .admin("POST", "/reviews", review(mission.clone(), "retire"))
        .await;
    assert_eq!(over.body["mission"]["state"], "retired", "{}", over.body);
    let held = pair.one.exchange(&pair.one.good_form()).await;
    assert_eq!(held.reason(), "held", "{}", held.body);
    let again = pair
        .one
        .admin("POST", "/reviews", review(mission, "keep"))
        .await;
    assert_eq!(again.status, 403, "{}", again.body);
    for (body, status) in [
        (review(json!({ "agent": "nobody" }), "keep"), 404),
        (review(json!({ "agent": "deployer" }), "later"), 400),
        (
            Some(
                json!({ "subject": { "agent": "deployer" }, "decision": "keep", "note": "x".repeat(501) }),
            ),
            400,
        ),
    ] {
        assert_eq!(
            pair.one.admin("POST", "/reviews", body).await.status,
            status
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_last_day_an_agent_and_a_mission_are_retired_with_what_they_hold() {
    let clock = Manual::start();
    let today = dayfly::clock::Clock::now(clock.as_ref()).date();
    let last = today + time::Duration::days(3);
    let more = format!(
        "[mission.ending]\nagents = [\"deployer\"]\nowner = \"sre@acme.example\"\npurpose = \"Ends\"\nends = {last}\n\
         allow = [{{ target = \"deploy-api\", actions = [\"deploy:read\"], locations = [\"https://deploy.example/checkout\"] }}]\n\
         [agent.ending]\nowner = \"x@acme.example\"\npurpose = \"Ends\"\nends = {last}\n\
         identity = {{ issuer = \"ci\", subject = \"ending\" }}\n"
    );
    let pair = Pair::start(&more).await;
    assert_eq!(pair.round().await, (2, 0));
    assert_eq!(pair.seen("ends_soon").await.len(), 2);
    assert_eq!(pair.days(4).await, (2, 2));
    assert_eq!(pair.state("ending").await, "retired");
    let retired = pair.seen("retired").await;
    assert_eq!(retired.len(), 2, "{retired:?}");
    assert!(retired.iter().all(|one| one["reason"] == "ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_retires_only_an_admin_takes_back() {
    let pair = Pair::start("").await;
    let token = pair.one.issue().await["access_token"].clone();
    let request =
        json!({ "selector": { "agent": "deployer" }, "reason": "replaced", "retire": true });
    let answer = pair.one.admin("POST", "/revocations", Some(request)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(pair.state("deployer").await, "retired");
    assert!(!pair.one.is_active(token.as_str().unwrap()).await);
    refused_everywhere(&pair).await;
    // A suspension on top takes nothing from it.
    pair.one.revoke(json!({ "agent": "deployer" })).await;
    assert_eq!(pair.state("deployer").await, "retired");
    let lift = json!({ "selector": { "agent": "deployer" }, "reason": "a mistake" });
    let lifted = pair.one.admin("POST", "/lifts", Some(lift)).await;
    assert_eq!(lifted.status, 200, "{}", lifted.body);
    assert_eq!(pair.state("deployer").await, "active");
    pair.one.issue().await;
    // What has no stage is not retired.
    for (selector, kill_only) in [
        (json!({ "task": "t" }), false),
        (json!({ "agent": "deployer" }), true),
    ] {
        let request =
            json!({ "selector": selector, "reason": "x", "retire": true, "kill_only": kill_only });
        let answer = pair.one.admin("POST", "/revocations", Some(request)).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
    }
}
