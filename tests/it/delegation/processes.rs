//! Chains over real brokers: two processes, one Redis, and SIGKILL while a child is being made.

use crate::cli::dayfly;
use crate::crash::Session;
use crate::support::broker::Answer;
use crate::support::cloud;
use crate::support::moto::Moto;
use crate::support::process::{Installation, Process, Replica, until};
use crate::support::proxy::{Point, Proxy};
use crate::support::redis::RedisServer;
use crate::support::world::{inline_keys, key};
use dayfly::jose::SigningKey;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const CHECKOUT: &str = "https://deploy.example/checkout";

/// `parent`, `child` and `grandchild`, in a mission that hands on to any of them.
struct Family {
    installation: Arc<Installation>,
    keys: BTreeMap<&'static str, SigningKey>,
    one: Replica,
    other: Replica,
    _redis: RedisServer,
}

impl Family {
    /// `targets`: what the mission allows, and the tables of the targets themselves.
    async fn start((allow, targets): (&str, &str)) -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
        let installation = Installation::start().await;
        let keys: BTreeMap<_, _> = ["parent", "child", "grandchild"]
            .into_iter()
            .map(|name| (name, key()))
            .collect();
        let agents: String = keys
            .iter()
            .map(|(name, key)| {
                let keys = inline_keys(key);
                format!(
                    "[agent.{name}]\nowner = \"{name}@acme.example\"\npurpose = \"Hands on\"\n\
                     ends = 2099-01-01\nidentity = {{ client = {{ keys = {keys} }} }}\n"
                )
            })
            .collect();
        let more = format!(
            r#"{agents}
[mission.relay]
agents = ["parent", "child", "grandchild"]
delegates_to = ["parent", "child", "grandchild"]
owner = "sre@acme.example"
purpose = "Work that is handed on"
ttl = "15m"
allow = [{allow}]
{targets}"#
        );
        let one = installation.on_redis("one", &redis.url(), &more);
        let other = installation.on_redis("other", &redis.url(), &more);
        Some(Self {
            installation,
            keys,
            one,
            other,
            _redis: redis,
        })
    }

    /// `parent`: the credential that is handed on.
    fn form(&self, name: &str, parent: Option<&str>, detail: &Value) -> Vec<(String, String)> {
        let key = (name, &self.keys[name]);
        self.installation.client_form(key, "relay", parent, detail)
    }

    async fn granted(&self, at: &Process, form: &[(String, String)]) -> Value {
        let answer: Answer = self.installation.exchange(at, form).await.unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
        answer.body
    }

    /// Of the lease that `revoke --lease` would end, and what came of it.
    async fn would_end(&self, at: &Process, lease: &Value) -> Value {
        let wanted = json!({ "selector": { "lease": lease }, "reason": "a look" });
        let path = "/revocations?dry_run=true";
        let told = self
            .installation
            .admin(at, "POST", path, Some(wanted))
            .await;
        told.unwrap().body["leases"].clone()
    }
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_over_two_brokers_ends_with_its_parent_at_both() {
    let allow = format!(
        r#"{{ target = "deploy-api", actions = ["deploy:read"], locations = ["{CHECKOUT}"] }}"#
    );
    let Some(family) = Family::start((&allow, "")).await else {
        return;
    };
    let (one, other) = (family.one.serve().await, family.other.serve().await);
    let detail = json!({
        "type": "access_token", "identifier": "deploy-api",
        "actions": ["deploy:read"], "locations": [CHECKOUT],
    });
    let parent = family
        .granted(&one, &family.form("parent", None, &detail))
        .await;
    let from = Some(text(&parent, "access_token"));
    let child = family
        .granted(&other, &family.form("child", from, &detail))
        .await;
    let from = Some(text(&child, "access_token"));
    let grandchild = family
        .granted(&one, &family.form("grandchild", from, &detail))
        .await;
    let beside = family
        .granted(&other, &family.form("child", None, &detail))
        .await;

    // Operators see the chain, at whichever broker, and what would die.
    let shown = family
        .installation
        .lease(&other, text(&grandchild, "lease_id"))
        .await;
    assert_eq!(shown["parent"], child["lease_id"], "{shown}");
    let chain = [("parent", &parent), ("child", &child)]
        .map(|(name, lease)| (json!(name), lease["lease_id"].clone()));
    let told = shown["on_behalf_of"].as_array().unwrap().iter();
    let told: Vec<_> = told
        .map(|link| {
            (
                link["agent"]["agent"].clone(),
                link["agent"]["lease"].clone(),
            )
        })
        .collect();
    assert_eq!(told, chain, "{shown}");
    let would = family.would_end(&other, &parent["lease_id"]).await;
    assert_eq!(would, json!({ "broker": 3 }));

    let installation = &family.installation;
    let selector = json!({ "lease": parent["lease_id"] });
    let receipt = installation.revoke(&other, selector).await.unwrap();
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    for at in [&one, &other] {
        for issued in [&parent, &child, &grandchild] {
            let token = text(issued, "access_token");
            until("it is dead at both", || async {
                !installation.is_active(at, token).await
            })
            .await;
        }
        assert!(
            installation
                .is_active(at, text(&beside, "access_token"))
                .await
        );
    }
    // Nobody goes on from any of them.
    let from = Some(text(&grandchild, "access_token"));
    let late = family.form("child", from, &detail);
    let refused = installation.exchange(&one, &late).await.unwrap();
    assert_eq!(refused.reason(), "parent_not_alive", "{}", refused.body);
    // No record of a descendant stays open.
    until("every record is closed", || async {
        installation.open_leases(&one, "deploy-api").await.len() == 1
    })
    .await;
    decided_again(&family).await;
}

/// What the audit keeps of a chain is enough to decide it once more, as it was and under another
/// configuration.
async fn decided_again(family: &Family) {
    let exported = |replica: &Replica| {
        let text = std::fs::read_to_string(replica.folder.join("audit.jsonl")).unwrap_or_default();
        let refused = text.contains("parent_not_alive");
        refused.then(|| replica.folder.join("audit.jsonl"))
    };
    let found = || exported(&family.one).or_else(|| exported(&family.other));
    until("the last refusal is exported", || async {
        found().is_some()
    })
    .await;
    let audit = found().unwrap();
    let simulate = async || {
        let (audit, config) = (audit.to_str().unwrap(), family.one.folder.to_str().unwrap());
        let words = [
            "simulate", "--audit", audit, "--config", config, "-o", "json",
        ];
        dayfly(&words, &[], "").await.json()
    };
    let same = simulate().await;
    assert_eq!(
        (&same["replayed"], &same["skipped"]),
        (&json!(5), &json!(0)),
        "{same}"
    );
    assert_eq!(same["changes"], json!([]));
    let more = family.one.folder.join("more.toml");
    let text = std::fs::read_to_string(&more).unwrap();
    let hands_on = r#"delegates_to = ["parent", "child", "grandchild"]"#;
    std::fs::write(&more, text.replace(hands_on, r#"delegates_to = ["child"]"#)).unwrap();
    let report = simulate().await;
    let changes = report["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{report}");
    assert_eq!(changes[0]["agent"], "grandchild");
    assert_eq!(changes[0]["after"], "refused: actor_not_accepted");
}

const CLOUD: &str =
    r#"{ target = "aws-prod", actions = ["s3:ListAllMyBuckets"], locations = ["*"] }"#;

/// The child's session exists, or may exist; the broker that made it is gone, and the other one ends the
/// parent.
async fn killed_at(point: Point, sessions: usize) {
    let Some(moto) = Moto::start(true).await else {
        return;
    };
    let proxy = Proxy::before(&moto.url).await;
    let target = cloud::target(&moto, &proxy.url);
    let Some(family) = Family::start((CLOUD, &target)).await else {
        return;
    };
    for replica in [&family.one, &family.other] {
        cloud::secrets(&moto, &replica.folder);
    }
    let (one, other) = (family.one.serve().await, family.other.serve().await);
    let detail = json!({
        "type": "aws_session", "identifier": "aws-prod",
        "actions": ["s3:ListAllMyBuckets"], "locations": ["*"],
    });
    let parent = family
        .granted(&one, &family.form("parent", None, &detail))
        .await;
    let from = Some(text(&parent, "access_token"));

    proxy.stop_at(point);
    let form = family.form("child", from, &detail);
    let asking = family.installation.exchange(&one, &form);
    let killing = async {
        proxy.until_stopped(1).await;
        one.signal(Signal::KILL);
    };
    let (answer, ()) = tokio::join!(asking, killing);
    assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    drop(one);
    proxy.stop_at(Point::Nowhere);
    assert_eq!(proxy.passed().len(), sessions);

    // The other broker knows the child, from whom it came, and that it goes with the parent.
    let installation = &family.installation;
    let open = installation.open_leases(&other, "aws-prod").await;
    let child = open.iter().find(|lease| lease["agent"] == "child").unwrap();
    assert_eq!(child["state"], "reserved", "{child}");
    assert_eq!(child["parent"], parent["lease_id"]);
    if let Some(passed) = proxy.passed().get(1) {
        assert_eq!(child["id"], Session::of(passed).name.as_str());
    }
    let would = family.would_end(&other, &parent["lease_id"]).await;
    assert_eq!(would, json!({ "expiry": 2 }));

    let selector = json!({ "lease": parent["lease_id"] });
    installation.revoke(&other, selector).await.unwrap();
    until("both are marked", || async {
        let open = installation.open_leases(&other, "aws-prod").await;
        assert_eq!(
            open.len(),
            2,
            "AWS may know both until they expire: {open:?}"
        );
        open.iter()
            .all(|lease| lease["state"] == "revoking" && lease["alive"] == false)
    })
    .await;
    // Brought back, the one that was killed says the same.
    let again = family.one.serve().await;
    let found = installation.lease(&again, text(child, "id")).await;
    assert_eq!(
        (&found["state"], &found["alive"]),
        (&json!("revoking"), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_was_reserved_when_its_broker_was_killed_dies_with_its_parent() {
    killed_at(Point::BeforeTheServer, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_whose_session_was_made_when_its_broker_was_killed_dies_with_its_parent() {
    killed_at(Point::AfterTheServer, 2).await;
}
