//! Agents that drift, owners who leave, strangers who knock, operators whom a policy stops; and the
//! commands that show and review them.

use crate::cli::{Done, dayfly};
use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker, with};
use crate::support::process::until;
use crate::support::time::Manual;
use dayfly::broker::{Operator, Reason, Refusal, Role};
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Store, Transaction, Write};
use dayfly::wire::{RevocationReceipt, Selector};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

async fn seen(broker: &TestBroker, event: &str) -> Vec<Value> {
    let page = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let all = page["items"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|one| one["event"] == event)
        .collect()
}

async fn state(broker: &TestBroker, agent: &str) -> Value {
    let path = format!("/agents/{agent}");
    broker.admin("GET", &path, None).await.body["state"].clone()
}

/// What the deployer's mission never allows.
async fn beyond(broker: &TestBroker) -> Answer {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"][0]["actions"] = json!(["deploy:delete"]);
    let form = with(broker.good_form(), "subject_token", &token);
    broker
        .exchange(&with(form, "intent", &broker.sign_intent(&claims)))
        .await
}

/// Waits for what is written beside the answer.
pub async fn sighted(broker: &TestBroker, subject: &str) -> Value {
    for _ in 0..300 {
        let page = broker.admin("GET", "/sightings", None).await.body;
        let items = page["items"].as_array().unwrap();
        if let Some(found) = items.iter().find(|one| one["subject"] == subject) {
            return found.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{subject} was never sighted");
}

async fn run(broker: &TestBroker, arguments: &[&str], stdin: &str) -> Done {
    let token = broker.folder.path().join("operator.token");
    std::fs::write(&token, OPERATOR_TOKEN).unwrap();
    let environment = [
        ("DAYFLY_URL", broker.url.as_str()),
        ("DAYFLY_OPERATOR_TOKEN_FILE", token.to_str().unwrap()),
    ];
    dayfly(arguments, &environment, stdin).await
}

async fn drifting(drift: &str) -> (TestBroker, Arc<Manual>) {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        mission: drift.to_owned(),
        ..Setup::default()
    })
    .await;
    (broker, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_beyond_its_mission_is_suspended_where_the_mission_says_so() {
    let (broker, clock) =
        drifting("drift = { count = 3, within = \"10m\", do = \"suspend\" }").await;
    for _ in 0..2 {
        assert_eq!(beyond(&broker).await.reason(), "exceeds_mission");
    }
    // The last but one is told, once in the time.
    let soon = seen(&broker, "drift_soon").await;
    assert_eq!((soon.len(), &soon[0]["agent"]), (1, &json!("deployer")));
    assert_eq!(soon[0]["mission"], "deploy-checkout");
    assert_eq!(soon[0]["detail"]["owner"], "payments@acme.example");
    // Those are forgotten by the time that the next ones come.
    clock.advance(Duration::from_secs(601));
    for _ in 0..2 {
        assert_eq!(beyond(&broker).await.reason(), "exceeds_mission");
    }
    assert_eq!(state(&broker, "deployer").await, "active");
    broker.issue().await;
    beyond(&broker).await;
    assert_eq!(state(&broker, "deployer").await, "suspended");
    let done = seen(&broker, "suspended").await;
    assert_eq!((done.len(), &done[0]["reason"]), (1, &json!("drift")));
    let refused = broker.exchange(&broker.good_form()).await;
    assert_eq!((refused.status, refused.reason()), (400, ""));
    // Resumed, it begins to count anew.
    let lift = json!({ "selector": { "agent": "deployer" }, "reason": "talked to its owner" });
    assert_eq!(broker.admin("POST", "/lifts", Some(lift)).await.status, 200);
    clock.advance(Duration::from_secs(1));
    for _ in 0..2 {
        beyond(&broker).await;
    }
    assert_eq!(state(&broker, "deployer").await, "active");
    // It is looked at in growing pauses until it has been swept.
    until("somebody is told", || async {
        clock.advance(Duration::from_secs(1));
        !seen(&broker, "revocation_confirmed").await.is_empty()
    })
    .await;
    broker.is_confirmed("agent", "deployer", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_an_alarm_once_in_its_time_where_nothing_is_said() {
    let (broker, clock) = drifting("drift = { count = 2, within = \"10m\" }").await;
    for _ in 0..5 {
        beyond(&broker).await;
    }
    let alarms = seen(&broker, "drift").await;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let of = (&alarms[0]["agent"], &alarms[0]["mission"]);
    assert_eq!(of, (&json!("deployer"), &json!("deploy-checkout")));
    clock.advance(Duration::from_secs(601));
    for _ in 0..2 {
        beyond(&broker).await;
    }
    assert_eq!(seen(&broker, "drift").await.len(), 2);
    broker.issue().await;
}

async fn scim(broker: &TestBroker, bearer: Option<&str>, body: &Value) -> u16 {
    let request = broker.http.post(format!("{}/hooks/people", broker.url));
    let request = match bearer {
        Some(bearer) => request.header("authorization", bearer),
        None => request,
    };
    let answer = request.body(body.to_string()).send().await.unwrap();
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leaver_owned_is_suspended_agents_and_missions() {
    let broker = TestBroker::with(Setup {
        more: "[source.people]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\nends = [\"acme.example\"]\n"
            .to_owned(),
        ..Setup::default()
    })
    .await;
    let token = broker.issue().await["access_token"].clone();
    let secret = Some("Bearer hook-secret");
    let user = |name: &str, active: Value| {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": name, "active": active,
        })
    };
    let left = |name: &str| user(name, json!(false));
    let mut foreign = left("sre@other.example");
    foreign["emails"] = json!([{ "value": "sre@home.example" }]);
    // Each is wrong in one thing, and ends nothing.
    for (bearer, body, status) in [
        (None, left("sre@acme.example"), 401),
        (Some("Bearer another"), left("sre@acme.example"), 401),
        (Some("Basic hook-secret"), left("sre@acme.example"), 401),
        (secret, left("sre@other.example"), 403),
        (secret, left("sre@notacme.example"), 403),
        (secret, foreign, 403),
        (secret, json!({ "active": false }), 400),
        (secret, json!({ "userName": "sre@acme.example" }), 400),
        (secret, user("sre@acme.example", json!(true)), 204),
        (secret, left("nobody-here@acme.example"), 204),
    ] {
        assert_eq!(scim(&broker, bearer, &body).await, status, "{body}");
    }
    assert!(seen(&broker, "owner_left").await.is_empty());
    assert!(broker.is_active(token.as_str().unwrap()).await);
    // The mission's owner: the lease dies with the mission, and there is no other.
    let body = user("SRE@acme.example", json!("False"));
    for _ in 0..2 {
        assert_eq!(scim(&broker, secret, &body).await, 204);
    }
    assert_eq!(seen(&broker, "owner_left").await.len(), 1);
    assert!(!broker.is_active(token.as_str().unwrap()).await);
    assert_eq!(broker.exchange(&broker.good_form()).await.reason(), "held");
    assert_eq!(state(&broker, "deployer").await, "active");
    // The agent's owner, by one of several addresses. A private one is not the source's to speak of.
    let mut body = left("p@acme.example");
    body["emails"] = json!([{ "value": "p@home.example" }, { "value": "payments@acme.example" }]);
    assert_eq!(scim(&broker, secret, &body).await, 204);
    assert_eq!(state(&broker, "deployer").await, "suspended");
    let refused = broker.exchange(&broker.good_form()).await;
    assert_eq!((refused.status, refused.reason()), (400, ""));
}

const PEOPLE: &str =
    "[source.people]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\nends = [\"acme.example\"]\n";

async fn told(broker: &TestBroker, name: &str, active: bool) {
    let body = json!({ "userName": name, "active": active });
    assert_eq!(scim(broker, Some("Bearer hook-secret"), &body).await, 204);
}

/// Not an admin.
async fn lift(broker: &TestBroker, owner: &str) -> Result<RevocationReceipt, Refusal> {
    let operator = Operator {
        subject: None,
        name: "olga@acme.example".to_owned(),
        role: Role::Operator,
        break_glass: false,
    };
    let selector = Selector::Owner(owner.to_owned());
    let why = "the incident is over".to_owned();
    broker.composed.broker.lift(&operator, selector, why).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_while_an_operator_held_stays_held_when_that_is_lifted() {
    let broker = TestBroker::with(Setup {
        more: PEOPLE.to_owned(),
        ..Setup::default()
    })
    .await;
    let owner = "payments@acme.example";
    broker.revoke(json!({ "owner": owner })).await;
    told(&broker, owner, false).await;
    assert!(
        lift(&broker, owner).await.unwrap().holds,
        "for their leaving"
    );
    let card = broker.admin("GET", "/agents/deployer", None).await.body;
    assert_eq!(card["state"], "suspended");
    assert_eq!(card["why"], "its owner has left");
    assert_eq!(card["rule"], "source/people");
    let refused = lift(&broker, owner).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotPermitted);
    assert!(
        refused.detail.contains("its owner has left"),
        "{}",
        refused.detail
    );
    told(&broker, owner, true).await;
    assert_eq!(state(&broker, "deployer").await, "active");
    broker.issue().await;
    assert_eq!(seen(&broker, "owner_back").await.len(), 1);
    // Their own hold: only an admin's word is as good as the provider's.
    told(&broker, owner, false).await;
    assert_eq!(
        lift(&broker, owner).await.unwrap_err().reason,
        Reason::NotPermitted
    );
    let body = json!({ "selector": { "owner": owner }, "reason": "it was somebody else" });
    let lifted = broker.admin("POST", "/lifts", Some(body)).await;
    assert_eq!(lifted.status, 200, "{}", lifted.body);
    broker.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_hold_stays_when_whoever_left_is_back() {
    let broker = TestBroker::with(Setup {
        more: PEOPLE.to_owned(),
        ..Setup::default()
    })
    .await;
    let owner = "payments@acme.example";
    told(&broker, owner, false).await;
    broker.revoke(json!({ "owner": owner })).await;
    told(&broker, owner, true).await;
    assert_eq!(state(&broker, "deployer").await, "suspended");
    lift(&broker, owner).await.unwrap();
    broker.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_before_the_files_named_them_is_held_from_the_start() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let with_more = |more: &str| Setup {
        store: Some(store.clone()),
        more: PEOPLE.to_owned() + more,
        ..Setup::default()
    };
    let broker = TestBroker::with(with_more("")).await;
    told(&broker, "nadia@acme.example", false).await;
    let theirs = "[agent.late]\nowner = \"Nadia@acme.example\"\npurpose = \"Comes late\"\nends = 2099-01-01\n\
                  identity = { issuer = \"ci\", subject = \"late\" }\n";
    let next = TestBroker::with(with_more(theirs)).await;
    assert_eq!(state(&next, "late").await, "suspended");
    assert_eq!(state(&next, "deployer").await, "active");
    told(&next, "nadia@acme.example", true).await;
    assert_eq!(state(&next, "late").await, "active");
}

/// Whoever can write to the store does not bring a leaver's agents back.
#[tokio::test(flavor = "multi_thread")]
async fn a_leavers_record_that_was_changed_in_the_store_holds() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let broker = TestBroker::with(Setup {
        store: Some(store.clone()),
        more: PEOPLE.to_owned(),
        ..Setup::default()
    })
    .await;
    let owner = "payments@acme.example";
    told(&broker, owner, false).await;
    let spoilt = Write::Put {
        key: Key {
            shard: ShardId::INSTALLATION,
            name: format!("leavers/{owner}").into_bytes(),
        },
        value: b"nobody has left".to_vec(),
        expires_at: None,
    };
    let until = broker.composed.clock.now() + Duration::from_secs(10);
    let written = Transaction::new(ShardId::INSTALLATION, until).write(spoilt);
    store.commit(written).await.unwrap();
    let refused = lift(&broker, owner).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotPermitted);
    assert_eq!(state(&broker, "deployer").await, "suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_remembered_and_learns_nothing_of_it() {
    let broker = TestBroker::start().await;
    let mut claims = broker.platform_claims();
    claims["sub"] = json!("stranger");
    let form = || {
        with(
            broker.good_form(),
            "subject_token",
            &broker.issuer.sign(&claims),
        )
    };
    let first = broker.exchange(&form()).await;
    let found = sighted(&broker, "stranger").await;
    let again = broker.exchange(&form()).await;
    let face = |answer: &Answer| {
        let mut body = answer.body.clone();
        body.as_object_mut().unwrap().remove("refusal_id");
        (answer.status, body)
    };
    assert_eq!(face(&first), face(&again));
    assert_eq!(first.status, 400, "{}", first.body);
    assert_eq!(found["issuer"], "ci");
    assert_eq!(found["claims"]["repository_id"], "1234");
    assert!(found["claims"].get("jti").is_none() && found["claims"].get("exp").is_none());
    let asked = &found["asked"][0];
    assert_eq!(asked["targets"], json!(["deploy-api"]));
    assert_eq!(asked["mission"], "deploy-checkout");
    assert_eq!(asked["actions"], json!(["deploy:write"]));
    // Once within its minute, however often it comes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sighted(&broker, "stranger").await["count"], 1);
    let sightings = seen(&broker, "sighted").await;
    assert_eq!(sightings.len(), 1);
    assert_eq!(sightings[0]["caller"]["subject"], "stranger");
    // Whom the broker knows, and whose proof is none, is no stranger.
    let forged = with(
        broker.good_form(),
        "subject_token",
        "eyJhbGciOiJSUzI1NiJ9.e30.AA",
    );
    assert_eq!(broker.exchange(&forged).await.status, 400);
    let page = broker.admin("GET", "/sightings", None).await.body;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        broker.admin("GET", "/sightings/none", None).await.status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_forgotten_a_month_after_it_came() {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    let knock = async |subject: &str| {
        let mut claims = broker.platform_claims();
        claims["sub"] = json!(subject);
        let token = broker.issuer.sign(&claims);
        broker
            .exchange(&with(broker.good_form(), "subject_token", &token))
            .await;
        sighted(&broker, subject).await
    };
    let old = knock("old").await;
    clock.advance(Duration::from_secs(20 * 24 * 3600));
    knock("young").await;
    clock.advance(Duration::from_secs(11 * 24 * 3600));
    let page = broker.admin("GET", "/sightings", None).await.body;
    let left: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["subject"])
        .collect();
    assert_eq!(left, ["young"]);
    let path = format!("/sightings/{}", old["id"].as_str().unwrap());
    assert_eq!(broker.admin("GET", &path, None).await.status, 404);
}

/// A subject that would be more than one in a careless file.
const EVIL: &str = "evil\" }\\ # [agent.root]";

#[tokio::test(flavor = "multi_thread")]
async fn adopt_writes_the_agent_that_the_stranger_would_be() {
    let broker = TestBroker::start().await;
    let mut claims = broker.platform_claims();
    claims["sub"] = json!(EVIL);
    let token = broker.issuer.sign(&claims);
    broker
        .exchange(&with(broker.good_form(), "subject_token", &token))
        .await;
    let found = sighted(&broker, EVIL).await;
    let id = found["id"].as_str().unwrap();
    let listed = run(&broker, &["agent", "sightings"], "").await;
    assert!(listed.is(0).out.contains(id), "{listed:?}");
    let adopted = [
        "agent",
        "adopt",
        id,
        "--name",
        "newcomer",
        "--owner",
        "x@acme.example",
        "--purpose",
        "Was a \"stranger\"",
        "--ends",
        "2099-01-01",
    ];
    let text = run(&broker, &adopted, "").await.is(0).out.clone();
    let table: toml::Table = text
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    let agent = &table["agent"]["newcomer"];
    assert_eq!(table["agent"].as_table().unwrap().len(), 1, "{text}");
    assert_eq!(agent["identity"]["issuer"].as_str(), Some("ci"));
    assert_eq!(agent["identity"]["subject"].as_str(), Some(EVIL));
    assert_eq!(agent["purpose"].as_str(), Some("Was a \"stranger\""));
    // To a file, and never over one.
    let path = broker.folder.path().join("newcomer.toml");
    let path = path.to_str().unwrap();
    let to_file: Vec<_> = adopted.iter().copied().chain(["--out", path]).collect();
    run(&broker, &to_file, "").await.is(0);
    assert_eq!(std::fs::read_to_string(path).unwrap().trim(), text.trim());
    run(&broker, &to_file, "").await.is(1);
    run(&broker, &["agent", "adopt", "../agents", "--name", "x"], "")
        .await
        .is(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_in_the_terminal_keeps_narrows_and_retires() {
    let clock = Manual::start();
    let more = "[mission.second]\nagents = [\"deployer\"]\nowner = \"sre@acme.example\"\npurpose = \"Reads\"\n\
                allow = [{ target = \"deploy-api\", actions = [\"deploy:read\"], locations = [\"https://deploy.example/checkout\"] }]\n\
                [agent.idle]\nowner = \"x@acme.example\"\npurpose = \"Waits\"\nends = 2099-01-01\n\
                identity = { issuer = \"ci\", subject = \"idle\" }\nlabels = { team = \"payments\" }\nreview_every = \"400d\"\n";
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        more: more.to_owned(),
        ..Setup::default()
    })
    .await;
    broker.composed.broker.govern().await.unwrap();
    clock.advance(Duration::from_secs(80 * 24 * 3600));
    broker.composed.broker.govern().await.unwrap();
    let listed = run(&broker, &["review", "--list"], "").await;
    assert!(listed.is(0).out.contains("3 to review"), "{listed:?}");
    assert!(listed.out.contains("never asked for"), "{listed:?}");
    // A word that is none is asked again; the end of the input leaves the rest as it is.
    let told = run(&broker, &["review", "--note", "Q4"], "maybe\nkeep\nn\n").await;
    assert!(told.is(0).out.contains("2 of 3 reviewed"), "{told:?}");
    let left = run(&broker, &["review", "-o", "json"], "").await.json();
    let left = left["items"].as_array().unwrap();
    // What was narrowed is due again within two weeks.
    assert_eq!(left.len(), 2, "{left:?}");
    let notes: Vec<_> = seen(&broker, "reviewed")
        .await
        .iter()
        .map(|one| (one["reason"].clone(), one["detail"]["why"].clone()))
        .collect();
    assert_eq!(
        notes,
        [(json!("keep"), json!("Q4")), (json!("narrow"), json!("Q4"))]
    );
    let decide = [
        "review",
        "--decide",
        "agent/idle=retire",
        "--decide",
        "mission/second=keep",
        "-o",
        "json",
    ];
    let done = run(&broker, &decide, "").await.json();
    assert_eq!(done["items"][0]["agent"]["state"], "retired", "{done}");
    assert_eq!(done["items"][0]["agent"]["labels"]["team"], "payments");
    assert_eq!(
        done["items"][1]["mission"]["last_review"]["decision"],
        "keep"
    );
    run(&broker, &["review", "--decide", "agent/idle=perhaps"], "")
        .await
        .is(2);
    let shown = run(&broker, &["agent", "show", "idle"], "").await;
    assert!(shown.is(0).out.contains("retired"), "{shown:?}");
    assert!(
        shown.out.contains("team=payments") && shown.out.contains("next review"),
        "{shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_missions_and_reviews_are_found_by_their_labels() {
    let broker = TestBroker::with(Setup {
        mission: "labels = { env = \"prod\" }".to_owned(),
        more: "[agent.deployer.labels]\nteam = \"payments\"\nenv = \"prod\"\n\
               [agent.idle]\nowner = \"x@acme.example\"\npurpose = \"Waits\"\nends = 2099-01-01\n\
               identity = { issuer = \"ci\", subject = \"idle\" }\nlabels = { team = \"payments\" }\n"
            .to_owned(),
        ..Setup::default()
    })
    .await;
    let names = async |arguments: &[&str]| {
        let all: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).collect();
        let found = run(&broker, &all, "").await.json();
        let items = found["items"].as_array().unwrap().iter();
        let name = |item: &Value| {
            let id = [&item["id"], &item["agent"]["id"], &item["mission"]["id"]];
            id.iter().find_map(|id| id.as_str()).unwrap().to_owned()
        };
        let mut names: Vec<_> = items.map(name).collect();
        names.sort();
        names
    };
    let agents = async |label: &[&str]| names(&[&["agent", "list"], label].concat()).await;
    assert_eq!(agents(&[]).await, ["deployer", "idle"]);
    assert_eq!(
        agents(&["--label", "team=payments"]).await,
        ["deployer", "idle"]
    );
    assert_eq!(
        agents(&["--label", "team=payments", "--label", "env=prod"]).await,
        ["deployer"]
    );
    assert!(agents(&["--label", "team=pay"]).await.is_empty());
    assert_eq!(names(&["mission", "list"]).await, ["deploy-checkout"]);
    assert_eq!(
        names(&["mission", "list", "--label", "env=prod"]).await,
        ["deploy-checkout"]
    );
    assert!(
        names(&["mission", "list", "--label", "env=test"])
            .await
            .is_empty()
    );
    let table = run(&broker, &["mission", "list"], "").await;
    assert!(
        table
            .is(0)
            .out
            .contains("deploy-checkout  active  sre@acme.example"),
        "{table:?}"
    );
    let reviews = async |label: &str| names(&["review", "--all", "--list", "--label", label]).await;
    assert_eq!(reviews("env=prod").await, ["deploy-checkout", "deployer"]);
    assert_eq!(reviews("team=payments").await, ["deployer", "idle"]);
    run(&broker, &["agent", "list", "--label", "team"], "")
        .await
        .is(2);
}

/// Each label ends what carries it, whether it is the agent's, the mission's or the target's.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_ends_what_carries_it_whichever_of_the_three_has_it() {
    let broker = TestBroker::with(Setup {
        mission: "labels = { tier = \"one\", shared = \"mission\" }".to_owned(),
        more: "[agent.deployer.labels]\nteam = \"payments\"\nshared = \"agent\"\n[target.deploy-api.labels]\ndata = \"none\"\nshared = \"target\"\n"
            .to_owned(),
        ..Setup::default()
    })
    .await;
    for label in [
        "team=payments",
        "tier=one",
        "data=none",
        // One name in all three: none of them hides another.
        "shared=agent",
        "shared=mission",
        "shared=target",
    ] {
        let token = broker.issue().await["access_token"].clone();
        let token = token.as_str().unwrap();
        let ended = ["revoke", "--label", label, "--kill-only", "--reason", "x"];
        run(
            &broker,
            &["revoke", "--label", "team=other", "--kill-only"],
            "",
        )
        .await
        .is(0);
        assert!(broker.is_active(token).await, "{label}");
        run(&broker, &ended, "").await.is(0);
        assert!(!broker.is_active(token).await, "{label}");
    }
}

/// An intent of one of the deployer's processes.
fn of_instance(broker: &TestBroker, instance: Option<&str>) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    if let Some(instance) = instance {
        claims["instance"] = json!(instance);
    }
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&claims))
}

async fn sharing(limits: &str) -> TestBroker {
    let broker = TestBroker::start().await;
    let text = crate::support::broker::configuration(&broker.url, &broker.issuer, "ES256");
    let text = text.replace("limits = { active = 100, per_minute = 100000 }", limits);
    let settings = dayfly::config::load_with(
        vec![("test.toml".to_owned(), text)],
        broker.folder.path().to_owned(),
    )
    .and_then(|document| document.resolve())
    .unwrap_or_else(|problems| panic!("{problems}"));
    broker.composed.reload(&settings).await.unwrap();
    broker
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_holds_its_share_leaves_the_others_theirs() {
    let broker = sharing("limits = { active = 5, instance = { active = 2 } }").await;
    let ask = async |instance: Option<&str>| broker.exchange(&of_instance(&broker, instance)).await;
    let first = ask(Some("a")).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(ask(Some("a")).await.status, 200);
    let third = ask(Some("a")).await;
    assert_eq!((third.status, third.reason()), (429, "too_many_leases"));
    // Others have theirs, those that name none as one.
    assert_eq!(ask(Some("b")).await.status, 200);
    assert_eq!(ask(None).await.status, 200);
    // What is given back is had again.
    let token = first.body["access_token"].as_str().unwrap();
    let form = crate::support::broker::form(&[("token", token)]);
    assert_eq!(broker.post("/revoke", &form).await.status, 200);
    assert_eq!(ask(Some("a")).await.status, 200);
    // The agent's own limit holds for all of them together.
    assert_eq!(ask(Some("b")).await.status, 200);
    let sixth = ask(Some("c")).await;
    assert_eq!((sixth.status, sixth.reason()), (429, "too_many_leases"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_asks_too_often_does_not_use_up_what_the_others_may_ask() {
    let broker = sharing("limits = { per_minute = 5, instance = { per_minute = 2 } }").await;
    let ask = async |instance: Option<&str>| broker.exchange(&of_instance(&broker, instance)).await;
    for _ in 0..2 {
        assert_eq!(ask(Some("a")).await.status, 200);
    }
    for _ in 0..5 {
        let refused = ask(Some("a")).await;
        assert_eq!(
            (refused.status, refused.reason()),
            (429, "too_many_requests")
        );
    }
    assert_eq!(ask(Some("b")).await.status, 200);
    assert_eq!(ask(None).await.status, 200);
}
