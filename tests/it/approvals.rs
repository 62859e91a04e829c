//! People say yes before something is issued.

use crate::support::broker::{Answer, Setup, TestBroker, with};
use crate::support::process::until;
use crate::support::time::Manual;
use crate::support::world::assert_refused;
use dayfly::broker::{Operator, Reason, Role};
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Key, Store, Transaction, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// `approval` of the mission that every test broker has.
fn setup(approval: &str) -> Setup {
    Setup {
        mission: format!("approval = {approval}\n"),
        ..Setup::default()
    }
}

/// The same request again: a new token, a new intent.
fn again(broker: &TestBroker, change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    change(&mut claims);
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&claims))
}

async fn ask(broker: &TestBroker) -> Answer {
    broker.exchange(&again(broker, |_| {})).await
}

/// Its id.
fn waits(answer: &Answer) -> String {
    assert_refused(answer, Reason::ApprovalRequired, "it waits");
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.body["error"], "authorization_pending");
    assert_eq!(answer.body["retry"], "approve");
    assert_eq!(answer.body["interval"], 5);
    let left = answer.body["expires_in"].as_u64().unwrap();
    assert!((1..=3600).contains(&left), "{left}");
    answer.body["deferral_code"].as_str().unwrap().to_owned()
}

async fn say(broker: &TestBroker, id: &str, word: &str) -> Answer {
    let path = format!("/approvals/{id}/{word}");
    let reason = json!({ "reason": "CHG-17" });
    broker.admin("POST", &path, Some(reason)).await
}

fn operator(name: &str) -> Operator {
    Operator {
        name: name.to_owned(),
        subject: None,
        role: Role::Reviewer,
        break_glass: false,
    }
}

async fn says(broker: &TestBroker, by: &Operator, id: &str) -> Result<String, Reason> {
    let request = dayfly::wire::VoteRequest { reason: None };
    let what = (id, dayfly::wire::Verdict::Approve);
    let answer = broker.composed.broker.vote(by, what, request).await;
    let view = answer.map_err(|refusal| refusal.reason)?.0;
    Ok(json!(view.state).as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_issued_before_somebody_says_yes_and_then_it_is() {
    let broker = TestBroker::with(setup("{}")).await;
    let id = waits(&ask(&broker).await);
    assert_eq!(waits(&ask(&broker).await), id, "the same request is one");
    let shown = broker
        .admin("GET", &format!("/approvals/{id}"), None)
        .await
        .body;
    assert_eq!(shown["state"], "pending");
    assert_eq!(shown["agent"], "deployer");
    assert_eq!(
        shown["authorization_details"][0]["actions"],
        json!(["deploy:write"])
    );
    assert_eq!(shown["goal"], broker.intent_claims("")["intent"]["goal"]);
    let listed = broker.admin("GET", "/approvals", None).await.body;
    assert_eq!(listed["items"], json!([shown]));

    let said = say(&broker, &id, "approve").await;
    assert_eq!(
        (said.status, &said.body["state"]),
        (200, &json!("approved"))
    );
    let issued = ask(&broker).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    // It is good for more than one: a renewal asks nobody again.
    assert_eq!(ask(&broker).await.status, 200);
    let audit = broker.admin("GET", "/audit", None).await.body;
    let events: Vec<_> = audit["items"].as_array().unwrap().iter().collect();
    let of = |name: &str| -> Vec<&Value> {
        let all = events.iter().filter(|entry| entry["event"] == name);
        all.copied().collect()
    };
    assert_eq!(
        of("approval_asked").len(),
        1,
        "asked once, however often it is sent"
    );
    assert_eq!(of("refused").len(), 1);
    assert_eq!(of("approved")[0]["operator"], "development-operator");
    assert_eq!(of("approved")[0]["detail"]["why"], "CHG-17");
    let asked = id.split_once('-').unwrap().0;
    assert_eq!(of("issued")[0]["detail"]["approval"]["id"], asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_is_for_what_was_shown_and_for_nothing_else() {
    let broker = TestBroker::with(setup("{}")).await;
    let id = waits(&ask(&broker).await);
    assert_eq!(say(&broker, &id, "approve").await.status, 200);
    type Spoil = fn(&mut Value);
    let spoils: [(&str, Spoil); 4] = [
        ("another action", |c| {
            c["authorization_details"][0]["actions"] = json!(["deploy:read"]);
        }),
        ("more", |c| {
            c["authorization_details"][0]["actions"] = json!(["deploy:read", "deploy:write"]);
        }),
        ("another task", |c| c["txn"] = json!("another")),
        ("another goal", |c| {
            c["intent"]["goal"] = json!("Something else");
        }),
    ];
    for (what, spoil) in spoils {
        let other = broker.exchange(&again(&broker, spoil)).await;
        assert_ne!(waits(&other), id, "{what}");
    }
    assert_eq!(ask(&broker).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_denied_is_refused_until_its_time_is_over() {
    let broker = TestBroker::with(setup("{}")).await;
    let id = waits(&ask(&broker).await);
    let said = say(&broker, &id, "deny").await;
    assert_eq!((said.status, &said.body["state"]), (200, &json!("denied")));
    let refused = ask(&broker).await;
    assert_refused(&refused, Reason::ApprovalDenied, "denied");
    assert_eq!(refused.body["error"], "access_denied");
    assert_eq!(refused.body["retry"], "never");
    let late = say(&broker, &id, "approve").await;
    assert_eq!(late.status, 403, "a no stays");
    assert_refused(&ask(&broker).await, Reason::ApprovalDenied, "still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_that_is_taken_back_ends_what_was_issued_on_it_and_nothing_else() {
    let broker = TestBroker::with(setup("{}")).await;
    let id = waits(&ask(&broker).await);
    say(&broker, &id, "approve").await;
    let on_it = ask(&broker).await.body["access_token"].clone();
    let other = |claims: &mut Value| claims["txn"] = json!("another");
    let another = waits(&broker.exchange(&again(&broker, other)).await);
    say(&broker, &another, "approve").await;
    let beside = broker.exchange(&again(&broker, other)).await.body["access_token"].clone();
    assert!(broker.is_active(on_it.as_str().unwrap()).await);
    assert_eq!(say(&broker, &id, "deny").await.status, 200);
    assert!(!broker.is_active(on_it.as_str().unwrap()).await);
    assert!(broker.is_active(beside.as_str().unwrap()).await);
    assert_refused(&ask(&broker).await, Reason::ApprovalDenied, "taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_approves_what_is_their_own_and_so_many_say_yes_as_the_mission_says() {
    let terms =
        r#"{ count = 2, by = ["ann@acme.example", "bob@acme.example", "payments@acme.example"] }"#;
    let broker = TestBroker::with(setup(terms)).await;
    let id = waits(&ask(&broker).await);
    let shown = broker
        .admin("GET", &format!("/approvals/{id}"), None)
        .await
        .body;
    let no = Err(Reason::NotPermitted);
    let (ann, bob) = (operator("ann@acme.example"), operator("bob@acme.example"));
    let owner = shown["owner"].as_str().unwrap();
    assert_eq!(
        says(&broker, &operator(owner), &id).await,
        no,
        "the agent's owner"
    );
    let loud = operator(&owner.to_uppercase());
    assert_eq!(says(&broker, &loud, &id).await, no, "in whatever letters");
    let itself = shown["subject"].as_str().unwrap();
    assert_eq!(
        says(&broker, &operator(itself), &id).await,
        no,
        "whoever asks"
    );
    let by_subject = Operator {
        subject: Some(itself.to_owned()),
        ..ann.clone()
    };
    assert_eq!(says(&broker, &by_subject, &id).await, no, "by another name");
    let stranger = operator("cleo@acme.example");
    assert_eq!(says(&broker, &stranger, &id).await, no, "not named");
    let nameless = Operator {
        subject: Some("17".to_owned()),
        ..operator("17")
    };
    assert_eq!(says(&broker, &nameless, &id).await, no, "no address");
    let glass = Operator {
        break_glass: true,
        ..ann.clone()
    };
    assert_eq!(says(&broker, &glass, &id).await, no, "break-glass");
    assert_eq!(says(&broker, &ann, &id).await, Ok("pending".to_owned()));
    assert_eq!(says(&broker, &ann, &id).await, Ok("pending".to_owned()));
    waits(&ask(&broker).await);
    assert_eq!(says(&broker, &bob, &id).await, Ok("approved".to_owned()));
    assert_eq!(ask(&broker).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_stands_though_the_store_has_lost_what_was_said() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let broker = TestBroker::with(Setup {
        store: Some(store.clone()),
        ..setup("{}")
    })
    .await;
    let id = waits(&ask(&broker).await);
    assert_eq!(say(&broker, &id, "deny").await.status, 200);
    let asked = id.split_once('-').unwrap().0;
    let key = Key {
        shard: ShardId::INSTALLATION,
        name: format!("approval/{asked}").into_bytes(),
    };
    let now = broker.composed.clock.now();
    let gone = Transaction::new(ShardId::INSTALLATION, now + Duration::from_secs(10));
    store.commit(gone.write(Write::Delete(key))).await.unwrap();
    assert_refused(
        &ask(&broker).await,
        Reason::ApprovalDenied,
        "nobody is asked again",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_way_of_asking_shows_what_people_said_no_to() {
    let broker = TestBroker::with(setup("{}")).await;
    let id = waits(&ask(&broker).await);
    let blanks = |claims: &mut Value| claims["intent"]["goal"] = json!("Deploy  checkout 1.42 ");
    let same = broker.exchange(&again(&broker, blanks)).await;
    assert_eq!(waits(&same), id, "another blank is the same");
    say(&broker, &id, "deny").await;
    let insists = |claims: &mut Value| claims["intent"]["goal"] = json!("Deploy it, please");
    let other = waits(&broker.exchange(&again(&broker, insists)).await);
    let shown = broker
        .admin("GET", &format!("/approvals/{other}"), None)
        .await
        .body;
    assert_eq!(shown["denied_before"], json!([id]));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_people_that_a_mission_asks_for_are_asked_for_anew() {
    let broker = TestBroker::with(setup("{}")).await;
    let id = waits(&ask(&broker).await);
    say(&broker, &id, "approve").await;
    assert_eq!(ask(&broker).await.status, 200);
    let text = crate::support::broker::configuration(&broker.url, &broker.issuer, "ES256");
    let text = text.replacen(
        "ttl = \"10m\"",
        "ttl = \"10m\"\napproval = { count = 2 }",
        1,
    );
    let folder = broker.folder.path().to_owned();
    let settings = dayfly::config::load_with(vec![("test.toml".to_owned(), text)], folder)
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"));
    broker.composed.reload(&settings).await.unwrap();
    let anew = waits(&ask(&broker).await);
    assert_ne!(anew, id);
    let shown = broker.admin("GET", "/approvals", None).await.body;
    assert_eq!(
        shown["items"].as_array().unwrap().len(),
        1,
        "the one before is no more"
    );
    assert_eq!(shown["items"][0]["needed"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_no_longer_than_the_yes_and_is_asked_for_anew_after_it() {
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        clock: clock.clone(),
        ..setup(r#"{ within = "1m", for = "1m" }"#)
    })
    .await;
    let id = waits(&ask(&broker).await);
    say(&broker, &id, "approve").await;
    let issued = ask(&broker).await;
    assert!(
        issued.body["expires_in"].as_u64().unwrap() <= 60,
        "{}",
        issued.body
    );
    clock.advance(Duration::from_secs(61));
    let anew = waits(&ask(&broker).await);
    assert_ne!(
        anew, id,
        "whoever looked at the one before has not looked at this"
    );
    assert_eq!(say(&broker, &id, "approve").await.status, 404);
    let id = anew;
    let shown = broker
        .admin("GET", &format!("/approvals/{id}"), None)
        .await
        .body;
    assert_eq!(
        (&shown["state"], &shown["votes"]),
        (&json!("pending"), &json!([]))
    );
    // Nobody answers: it is forgotten, and may be asked again.
    clock.advance(Duration::from_secs(61));
    let gone = say(&broker, &id, "approve").await;
    assert_eq!(gone.status, 404);
    waits(&ask(&broker).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_make_people_tired() {
    let broker = TestBroker::with(setup("{}")).await;
    let task =
        |number: usize| move |claims: &mut Value| claims["txn"] = json!(format!("t{number}"));
    for number in 0..20 {
        waits(&broker.exchange(&again(&broker, task(number))).await);
    }
    let one_more = broker.exchange(&again(&broker, task(20))).await;
    assert_refused(&one_more, Reason::TooManyRequests, "twenty wait");
    let known = waits(&broker.exchange(&again(&broker, task(7))).await);
    say(&broker, &known, "deny").await;
    waits(&broker.exchange(&again(&broker, task(20))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_knows_what_was_asked_and_what_was_said() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let start = async || {
        TestBroker::with(Setup {
            store: Some(store.clone()),
            ..setup("{}")
        })
        .await
    };
    let one = start().await;
    let other = start().await;
    let id = waits(&one.exchange(&again(&one, |_| {})).await);
    assert_eq!(say(&other, &id, "approve").await.status, 200);
    assert_eq!(ask(&one).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_has_people_asked_about_one_agent() {
    let broker = TestBroker::with(Setup {
        more: "[[response]]\nname = \"wanders\"\non = \"exceeds_mission\"\ncount = 2\nwithin = \"10m\"\n\
               do = [\"require_approval\"]\nrequire_approval = { for = \"2h\" }\n"
            .to_owned(),
        ..Setup::default()
    })
    .await;
    assert_eq!(ask(&broker).await.status, 200);
    // Only what comes after its first look is answered.
    until("the response", async || {
        let too_much = |claims: &mut Value| {
            claims["authorization_details"][0]["actions"] = json!(["deploy:delete"]);
        };
        let refused = broker.exchange(&again(&broker, too_much)).await;
        assert_refused(&refused, Reason::ExceedsMission, "too much");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let listed = broker.admin("GET", "/restrictions", None).await.body;
        listed["items"][0]["approval"] == true
    })
    .await;
    let id = waits(&ask(&broker).await);
    let listed = broker.admin("GET", "/restrictions", None).await.body;
    assert_eq!(listed["items"][0]["agent"], "deployer");
    say(&broker, &id, "approve").await;
    assert_eq!(ask(&broker).await.status, 200);
    // An operator lifts it as any other.
    let restriction = listed["items"][0]["id"].as_str().unwrap();
    let lift = json!({ "reason": "looked at" });
    let path = format!("/restrictions/{restriction}/lift");
    assert_eq!(broker.admin("POST", &path, Some(lift)).await.status, 200);
    let other = |claims: &mut Value| claims["txn"] = json!("another");
    assert_eq!(broker.exchange(&again(&broker, other)).await.status, 200);
}

/// Says it as soon as something with this goal waits; its id.
async fn say_to(broker: &TestBroker, goal: &str, word: &str) -> String {
    loop {
        let listed = broker.admin("GET", "/approvals", None).await.body;
        let items = listed["items"].as_array().unwrap().iter();
        let id = items.clone().find(|item| item["goal"] == goal);
        if let Some(id) = id.and_then(|item| item["id"].as_str()) {
            assert_eq!(say(broker, id, word).await.status, 200);
            return id.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The command line waits for people, and goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_begins_once_people_have_said_yes() {
    let broker = TestBroker::with(setup("{}")).await;
    let key = broker.folder.path().join("agent.jwk.json");
    std::fs::write(&key, broker.key.to_private_jwk().expose()).unwrap();
    let token = broker.folder.path().join("platform.token");
    std::fs::write(&token, broker.platform_token()).unwrap();
    let exec = |goal: &str, wait: &[&str]| {
        let mut command = crate::exec::dayfly();
        command
            .args(["exec", "--url", &broker.url, "--agent", "deployer"])
            .args([
                "--mission",
                "deploy-checkout",
                "--target",
                "deploy-api",
                "--goal",
                goal,
            ])
            .arg("--key")
            .arg(&key)
            .arg("--subject-token-file")
            .arg(&token)
            .args(wait)
            .args(["--", "sh", "-c", "echo begun"]);
        crate::exec::run(command)
    };
    let (code, out, told) = exec("Nobody looks", &["--approval-wait", "0s"]).await;
    assert_eq!((code, out.as_str()), (121, ""), "{told}");
    assert!(told.contains("[approval_required]"), "{told}");

    let waiting = exec("Somebody looks", &[]);
    let people = say_to(&broker, "Somebody looks", "approve");
    let ((code, out, told), id) = tokio::join!(waiting, people);
    assert_eq!((code, out.as_str()), (0, "begun"), "{told}");
    assert!(told.contains(&id), "whom to ask for what: {told}");

    let denied = exec("Somebody says no", &[]);
    let people = say_to(&broker, "Somebody says no", "deny");
    let ((code, out, told), _) = tokio::join!(denied, people);
    assert_eq!((code, out.as_str()), (121, ""), "{told}");
    assert!(told.contains("[approval_denied]"), "{told}");
}
