//! Two replicas with two configurations: the last one that was said is in force, and whoever has another mints
//! nothing after half a minute.

use crate::support::broker::{Setup, TestBroker, configuration, decides};
use crate::support::time::Manual;
use dayfly::broker::Word;
use dayfly::config;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const NARROWED: &str = "[agent.other]\nowner = \"x@acme.example\"\npurpose = \"Is new\"\nends = 2099-01-01\n\
    identity = { issuer = \"ci\", subject = \"other\" }\n";

/// What it was started with, read again.
pub fn own(broker: &TestBroker) -> config::Settings {
    let text = configuration(&broker.url, &broker.issuer, "ES256");
    let decides = decides(&text, &broker.url);
    let files = vec![("test.toml".to_owned(), text)];
    let settings = config::load_with(files, broker.folder.path().to_owned())
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"));
    config::Settings {
        decides,
        ..settings
    }
}

pub async fn is_behind(broker: &TestBroker) -> bool {
    for _ in 0..100 {
        let answer = broker.exchange(&broker.good_form()).await;
        if answer.status == 503 {
            assert_eq!(answer.error(), "temporarily_unavailable");
            let why = broker.composed.broker.ready().await.unwrap_err();
            return why
                .iter()
                .any(|one| one.contains("another configuration is in force"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_still_has_another_configuration_mints_nothing_after_half_a_minute() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let clock = Manual::start();
    let setup = |more: &str| Setup {
        store: Some(store.clone()),
        clock: clock.clone(),
        more: more.to_owned(),
        ..Setup::default()
    };
    let old = TestBroker::with(setup("")).await;
    let lease = old.issue().await;
    let new = TestBroker::with(setup(NARROWED)).await;
    new.issue().await;
    // They are given one after the other.
    clock.advance(Duration::from_secs(29));
    old.issue().await;
    clock.advance(Duration::from_secs(2));
    assert!(is_behind(&old).await);
    new.issue().await;
    let ended = old.revoke(json!({ "lease": lease["lease_id"] })).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    // A process that starts with it again, by itself, does not bring it back.
    let own = own(&old);
    let said = old.composed.broker.announce(&own.decides, Word::Start);
    said.await.unwrap();
    clock.advance(Duration::from_secs(31));
    new.issue().await;
    assert!(is_behind(&old).await);
    // Somebody who says so does.
    old.composed.reload(&own).await.unwrap();
    old.issue().await;
    clock.advance(Duration::from_secs(31));
    old.issue().await;
    assert!(is_behind(&new).await);
}
