//! One run of work is one thing: listed, audited and ended by its task; one process by its instance.

use crate::support::broker::{TestBroker, with};
use crate::support::world::{World, assert_refused};
use dayfly::broker::Reason;
use serde_json::{Value, json};

/// A lease of the deployer for this task and instance: its id and its token.
async fn issue(broker: &TestBroker, task: &str, instance: &str) -> (Value, String) {
    let answer = broker.exchange(&form(broker, task, instance)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().unwrap().to_owned();
    (answer.body["lease_id"].clone(), token)
}

fn form(broker: &TestBroker, task: &str, instance: &str) -> Vec<(String, String)> {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["txn"] = json!(task);
    claims["instance"] = json!(instance);
    let form = with(broker.good_form(), "subject_token", &token);
    with(form, "intent", &broker.sign_intent(&claims))
}

async fn listed(broker: &TestBroker, query: &str) -> Vec<Value> {
    let page = broker.admin("GET", &format!("/leases?{query}"), None).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let items = page.body["items"].as_array().unwrap();
    items.iter().map(|lease| lease["id"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_one_task_is_found_and_ended_as_one() {
    let world = World::start().await;
    let broker = &world.broker;
    let (one, first) = issue(broker, "release-1", "a").await;
    let (two, second) = issue(broker, "release-1", "b").await;
    let (_, other) = issue(broker, "release-2", "a").await;
    // Another agent of the same run of work.
    let mut claims = world.robot_intent_claims();
    claims["txn"] = json!("release-1");
    let robot = with(
        world.robot_form(),
        "intent",
        &world.sign_robot_intent(&claims),
    );
    let robot = broker.exchange(&robot).await;
    assert_eq!(robot.status, 200, "{}", robot.body);
    let third = robot.body["access_token"].as_str().unwrap();

    let mut found = listed(broker, "task=release-1").await;
    let mut expected = vec![one.clone(), two, robot.body["lease_id"].clone()];
    for list in [&mut found, &mut expected] {
        list.sort_by_key(ToString::to_string);
    }
    assert_eq!(found, expected);
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let of_task =
        |entry: &&Value| entry["event"] == "issued" && entry["detail"]["task"] == "release-1";
    assert_eq!(
        audit["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(of_task)
            .count(),
        3
    );
    let path = format!("/leases/{}", one.as_str().unwrap());
    let shown = broker.admin("GET", &path, None).await.body;
    assert_eq!(
        (&shown["task"], &shown["instance"]),
        (&json!("release-1"), &json!("a"))
    );

    let receipt = broker.revoke(json!({ "task": "release-1" })).await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    assert_eq!(receipt.body["agents"], json!(["deployer", "robot"]));
    for token in [&first, &second, &third.to_owned()] {
        assert!(!broker.is_active(token).await);
    }
    assert!(broker.is_active(&other).await);
    let again = broker.exchange(&form(broker, "release-1", "c")).await;
    assert_refused(&again, Reason::Held, "a task that is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_of_an_agent_is_ended_and_its_siblings_go_on() {
    let broker = TestBroker::start().await;
    let (id, dead) = issue(&broker, "t", "runner-1").await;
    let (_, sibling) = issue(&broker, "t", "runner-2").await;
    assert_eq!(listed(&broker, "instance=runner-1").await, [id]);
    let selector = json!({ "instance": { "agent": "deployer", "instance": "runner-1" } });
    let receipt = broker.revoke(selector).await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    assert!(!broker.is_active(&dead).await);
    assert!(broker.is_active(&sibling).await);
    let again = broker.exchange(&form(&broker, "t", "runner-1")).await;
    assert_refused(&again, Reason::Held, "an instance that is held");
    // An instance of the same name is another agent's own.
    let selector = json!({ "instance": { "agent": "robot", "instance": "runner-2" } });
    assert_eq!(broker.revoke(selector).await.status, 200);
    assert!(broker.is_active(&sibling).await);
    let broken = json!({ "instance": { "agent": "deployer" } });
    assert_eq!(broker.revoke(broken).await.status, 400);
}
