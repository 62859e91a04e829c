//! Two replicas over a failover of a real Redis that loses what both have told.

use super::{Stream, Told, as_operator, servers};
use crate::failover::{Switch, redis_that_follows, until_followed};
use crate::support::broker::{Setup, TestBroker};
use crate::support::process::until;
use crate::support::redis::RedisServer;
use crate::support::world::key;
use dayfly::secret::Secret;
use dayfly::store::Store;
use dayfly::store::redis::{Redis, RedisSettings};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A listener that comes again where its stream ends, as clients do.
struct Listener<'a> {
    at: &'a TestBroker,
    stream: Stream,
    last: String,
}

impl<'a> Listener<'a> {
    async fn at(at: &'a TestBroker) -> Self {
        Self {
            at,
            stream: Stream::open(as_operator(at, "")).await,
            last: String::new(),
        }
    }

    async fn next(&mut self) -> Told {
        loop {
            match self.stream.event().await {
                Some(told) if told.name != "bye" => {
                    self.last.clone_from(&told.id);
                    return told;
                }
                _ => self.stream = after(self.at, &self.last).await,
            }
        }
    }

    async fn until(&mut self, lease: &Value) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.next().await;
            let done = told.is_about(lease);
            all.push(told);
            if done {
                return all;
            }
        }
    }
}

async fn after(at: &TestBroker, id: &str) -> Stream {
    let asked = || as_operator(at, "").header("last-event-id", id);
    until("it can be listened to", || async {
        asked().send().await.unwrap().status() == 200
    })
    .await;
    Stream::open(asked()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_lost_is_a_gap_for_each_who_was_told_of_it() {
    let arguments = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    let Some(mut primary) = RedisServer::start(&arguments).unwrap() else {
        return;
    };
    let heir = redis_that_follows(primary.port());
    until_followed(&primary, 1).await;
    let switch = Switch::to(primary.port()).await;
    let more = servers(&key());
    let setup = async || {
        let settings = RedisSettings::new(Secret::new(switch.url.clone()));
        let store: Arc<dyn Store> = Arc::new(Redis::connect(settings).await.unwrap());
        Setup {
            store: Some(store),
            more: more.clone(),
            ..Setup::default()
        }
    };
    let first = TestBroker::with(setup().await).await;
    let second = TestBroker::with(Setup {
        public_url: Some(first.url.clone()),
        issuer: Some(first.issuer.clone()),
        key: Some(first.key.clone()),
        ..setup().await
    })
    .await;
    let mut listeners = [Listener::at(&first).await, Listener::at(&second).await];
    let kept = first.issue().await;
    for listener in &mut listeners {
        listener.until(&kept["lease_id"]).await;
    }
    assert!(primary.command("WAIT 1 5000").unwrap().starts_with(":1"));
    // From here on nobody acknowledges anything, and nobody has to.
    assert!(heir.command("REPLICAOF NO ONE").unwrap().starts_with("+OK"));
    let ended = second.issue().await;
    let selector = json!({ "lease": ended["lease_id"] });
    assert_eq!(second.revoke(selector).await.status, 200);
    let lost = second.issue().await;
    for listener in &mut listeners {
        listener.until(&lost["lease_id"]).await;
    }
    let ids = [listeners[0].last.clone(), listeners[1].last.clone()];
    switch.port.store(heir.port(), Ordering::SeqCst);
    primary.kill();
    for broker in [&first, &second] {
        until("it goes on", || async {
            broker.composed.broker.ready().await.is_ok()
        })
        .await;
    }
    // Ready is who can follow the log: what a failover did to another shard may take one more question.
    until("it issues again", || async {
        first.exchange(&first.good_form()).await.status == 200
    })
    .await;
    let fresh = first.issue().await;
    for listener in &mut listeners {
        let told = listener.until(&fresh["lease_id"]).await;
        let names = super::names(&told);
        assert!(names.contains(&"gap"), "{told:?}");
    }
    // And for who comes with an id of before, to either of them.
    for broker in [&first, &second] {
        for id in &ids {
            let told = after(broker, id).await.next().await;
            assert_eq!(
                (told.name.as_str(), &told.data),
                ("gap", &json!({ "why": "lost" }))
            );
        }
    }
    // What was ended is dead, and the audit says so again.
    assert!(
        !first
            .is_active(ended["access_token"].as_str().unwrap())
            .await
    );
    let page = first.admin("GET", "/audit?limit=1000", None).await.body;
    let entries = page["items"].as_array().unwrap().iter();
    let again: Vec<_> = entries
        .filter(|entry| entry["detail"]["put_back"] == true)
        .filter(|entry| entry["detail"]["value"] == ended["lease_id"])
        .collect();
    assert_eq!(again.len(), 1, "{page}");
}
