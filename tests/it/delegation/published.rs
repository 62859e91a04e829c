//! What is handed on while another configuration is published.

use super::{Cast, token};
use crate::support::broker::{Setup, TestBroker};
use crate::support::gate::Gate;
use crate::support::process::until;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const PUBLISHED: &str = "config = \"published\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_of_later_brings_the_configuration_of_later() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let setup = || Setup {
        broker: PUBLISHED.to_owned(),
        view_age: "20s",
        ..Setup::default()
    };
    let cast = Cast::with(Setup {
        store: Some(Arc::clone(&store)),
        ..setup()
    })
    .await;
    let one = &cast.broker;
    let gate = Gate::before(&store);
    let two = TestBroker::with(Setup {
        store: Some(Arc::clone(&gate) as Arc<dyn Store>),
        issuer: Some(one.issuer.clone()),
        key: Some(one.key.clone()),
        public_url: Some(one.url.clone()),
        more: cast.configuration(),
        ..setup()
    })
    .await;
    gate.hold_tails();
    let answer = one.publish(&format!("{}\n# a remark\n", one.common)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let parent = cast.root("fixer", "relay").await;
    let form = cast.form_for(&parent, "helper", "relay", |_| {});
    // It is read which configuration it is, before the configuration can be.
    gate.hold_reads("config/");
    let asked = two.exchange(&form);
    let let_in = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        gate.let_tails();
        until("the record is asked for", || async { gate.waiting() > 0 }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        gate.open();
    };
    let (child, ()) = tokio::join!(asked, let_in);
    assert_eq!(child.status, 200, "{}", child.body);
    assert!(!token(&child.body).is_empty());
    let lease = child.body["lease_id"].as_str().unwrap();
    let lease = two.admin("GET", &format!("/leases/{lease}"), None).await;
    assert_eq!(lease.body["config_hash"], answer.body["hash"]);
    assert_eq!(answer.body["revision"], json!(2));
}
