//! No name is in the files and registered at once: a lease says whose it is by name alone.

use super::kept::{read, write};
use super::{
    MISSIONS, ask, beside, definition, memory, put, registered, remove, setup, start, token, with,
};
use crate::support::broker::{Setup, TestBroker, configuration};
use crate::support::gate::Gate;
use crate::support::world::{assert_refused, inline_keys, key};
use dayfly::broker::operators::StillOperator;
use dayfly::broker::{Operator, Reason, Role};
use dayfly::config::Settings;
use dayfly::ids::ShardId;
use dayfly::jose::SigningKey;
use dayfly::secret::Secret;
use dayfly::store::{Key, Store};
use dayfly::wire::PublishRequest;
use serde_json::json;
use std::sync::Arc;

/// The broker's own configuration with this behind it.
pub(super) fn settings(broker: &TestBroker, more: &str) -> Settings {
    let text = configuration(&broker.url, &broker.issuer, "ES256") + more;
    let folder = broker.folder.path().to_owned();
    dayfly::config::load_with(vec![("test.toml".to_owned(), text)], folder)
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The same files with an agent of that name.
fn with_namesake(text: &str, key: &SigningKey) -> String {
    let agent = format!(
        "\n[agent.night-worker]\nowner = \"sre@acme.example\"\npurpose = \"Has the name\"\n\
         ends = 2099-01-01\nidentity = {{ client = {{ keys = {} }} }}\n",
        inline_keys(key)
    );
    let named = text.replace("agents           = []", "agents = [\"night-worker\"]") + &agent;
    assert!(named.contains("agents = [\"night-worker\"]"));
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_the_name_of_somebody_who_is_registered_are_published_once_that_one_is_removed()
{
    let store = memory();
    let one = TestBroker::with(Setup {
        broker: "config = \"published\"".to_owned(),
        ..setup(&store)
    })
    .await;
    let (own, files) = (key(), key());
    registered(&one, "night-worker", &definition(&own)).await;
    let held = token(&one, "night-worker", &own).await;
    let named = with_namesake(&one.common, &files);
    let answer = one.publish(&named).await;
    assert_refused(&answer, Reason::ConfigurationRefused, "a registered name");
    let told = answer.body["problems"][0]["message"].as_str().unwrap();
    assert!(
        told.contains("`dayfly agent remove night-worker`"),
        "{told}"
    );
    assert!(one.is_active(&held).await);
    assert_eq!(remove(&one, "night-worker").await.status, 200);
    let answer = one.publish(&named).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!one.is_active(&held).await);
    token(&one, "night-worker", &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_the_name_of_somebody_who_is_registered_is_no_reload() {
    let (one, _) = start().await;
    let (own, files) = (key(), key());
    registered(&one, "night-worker", &definition(&own)).await;
    let named = settings(&one, &with_namesake(MISSIONS, &files));
    let refused = one.composed.reload(&named).await.unwrap_err().message;
    assert!(
        refused.contains("`dayfly agent remove night-worker`"),
        "{refused}"
    );
    token(&one, "night-worker", &own).await;
    assert_eq!(remove(&one, "night-worker").await.status, 200);
    one.composed.reload(&named).await.unwrap();
    token(&one, "night-worker", &files).await;
    let refused = ask(&one, "night-worker", &own).await;
    assert_refused(&refused, Reason::InvalidClient, "removed");
    let answer = put(&one, "night-worker", &definition(&own)).await;
    assert_refused(&answer, Reason::AgentRefused, "a name of the files");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_definition_is_told_to_whoever_sent_it_and_to_no_log() {
    let (one, _) = start().await;
    let by = Operator {
        subject: None,
        name: "octavia".to_owned(),
        role: Role::Admin,
        break_glass: false,
    };
    let agent = with(&definition(&key()), "missions", json!(["hunter2"]));
    let request = json!({ "agent": agent, "reason": "a test says so" });
    let request = serde_json::from_value(request).unwrap();
    let refused = one
        .composed
        .broker
        .register(&by, "other".parse().unwrap(), request);
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.reason, Reason::AgentRefused);
    assert!(!refused.detail.contains("hunter2"), "{}", refused.detail);
    let problems = format!("{:?}", refused.problems());
    assert!(problems.contains("hunter2"), "{problems}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_where_whoever_is_registered_cannot_be_read() {
    let store = memory();
    let publishing = |store| Setup {
        broker: "config = \"published\"".to_owned(),
        ..setup(store)
    };
    let one = TestBroker::with(publishing(&store)).await;
    let gate = Gate::before(&store);
    let gated: Arc<dyn Store> = gate.clone();
    let two = beside(&one, &gated, publishing(&gated)).await;
    gate.hold_reads("registered/agents");
    let key = key();
    registered(&one, "night-worker", &definition(&key)).await;
    let publication = serde_json::from_value::<PublishRequest>(one.publication()).unwrap();
    drop(one);
    let good = read(&store).await;
    write(&store, Some(vec![7; 40])).await;
    gate.open();
    let publication = PublishRequest {
        even_without_me: true,
        ..publication
    };
    let octavia = Operator {
        subject: None,
        name: "octavia".to_owned(),
        role: Role::Admin,
        break_glass: false,
    };
    let by = StillOperator::new(octavia, Secret::new(String::new()), None, "publish");
    let publish = || two.composed.broker.publish(&by, publication.clone());
    let is_there = async || {
        let key = Key {
            shard: ShardId::INSTALLATION,
            name: b"config/published".to_vec(),
        };
        store.get(&[key]).await.unwrap().pop().unwrap().is_some()
    };
    let refused = publish().await.unwrap_err();
    assert_eq!(refused.reason, Reason::StaleConfiguration, "{refused:?}");
    assert!(!is_there().await, "nor is anything written");
    write(&store, Some(good)).await;
    publish().await.unwrap();
    assert!(is_there().await);
    token(&two, "night-worker", &key).await;
}
