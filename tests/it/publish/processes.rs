//! Real replicas on one Redis, by the command line; and what a crash in the middle leaves.

use crate::cli::{Done, dayfly_in};
use crate::support::broker::without_broker;
use crate::support::process::{Installation, Process, Replica, secret_file, until};
use crate::support::redis::RedisServer;
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Two replicas whose folders hold `[broker]` and the first configuration, and the folder in git.
pub struct Fleet {
    installation: Arc<Installation>,
    pub replicas: [Replica; 2],
    pub folder: PathBuf,
    token: PathBuf,
    pub redis: RedisServer,
}

impl Fleet {
    pub async fn start() -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
        let installation = Installation::start().await;
        let replicas = ["one", "two"].map(|name| {
            let replica = installation.on_redis(name, &redis.url(), "");
            replica.edit("[broker]\n", "[broker]\nconfig = \"published\"\n");
            replica
        });
        let folder = installation.folder.path().join("git");
        std::fs::create_dir_all(&folder).unwrap();
        let text = std::fs::read_to_string(replicas[0].folder.join("dayfly.toml")).unwrap();
        let common = without_broker(&text);
        let (_, broker) = text.split_once("[broker]\n").unwrap();
        let (broker, _) = broker.split_once("\n[").unwrap();
        std::fs::write(folder.join("broker.toml"), format!("[broker]\n{broker}\n")).unwrap();
        std::fs::write(folder.join("common.toml"), common).unwrap();
        let keys = replicas[0].folder.join("deployer.jwks.json");
        std::fs::copy(keys, folder.join("deployer.jwks.json")).unwrap();
        let token = installation.folder.path().join("operator.token");
        secret_file(
            &token,
            &installation.operator_token(crate::support::process::now()),
        );
        Some(Self {
            installation,
            replicas,
            folder,
            token,
            redis,
        })
    }

    pub fn ttl(&self, ttl: &str) {
        let path = self.folder.join("common.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("ttl = \"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        std::fs::write(path, format!("{before}ttl = \"{ttl}\"{after}")).unwrap();
    }

    pub async fn publish(&self, at: &Process, more: &[&str]) -> Done {
        let mut arguments = vec!["config", "publish", ".", "--reason", "CHG-17", "-o", "json"];
        arguments.extend(more);
        let token = self.token.to_str().unwrap();
        let environment = [
            ("DAYFLY_URL", at.base.as_str()),
            ("DAYFLY_OPERATOR_TOKEN_FILE", token),
        ];
        dayfly_in(&self.folder, &arguments, &environment, "").await
    }

    pub async fn config(&self, at: &Process) -> Value {
        let answer = self
            .installation
            .admin(at, "GET", "/config", None)
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub async fn audit(&self, at: &Process) -> String {
        let page = self
            .installation
            .admin(at, "GET", "/audit?limit=1000", None);
        page.await.unwrap().body.to_string()
    }

    /// Hash and lifetime, in minutes, of a new lease.
    pub async fn decided(&self, at: &Process) -> (String, u64) {
        let issued = self.installation.issue(at).await;
        let lease = self
            .installation
            .lease(at, issued["lease_id"].as_str().unwrap())
            .await;
        let hash = lease["config_hash"].as_str().unwrap().to_owned();
        (hash, super::minutes(&issued))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_swap_whole_while_they_are_asked_and_never_back() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [one, two] = &fleet.replicas;
    let (one, two) = (one.serve().await, two.serve().await);
    fleet.ttl("4m");
    let first = fleet.publish(&one, &[]).await.json();
    let first_hash = first["hash"].as_str().unwrap().to_owned();
    until("both have it", || async {
        fleet.config(&two).await["hash"] == first["hash"]
    })
    .await;
    let asking = |at: &'static str| {
        let (fleet, process) = (&fleet, if at == "one" { &one } else { &two });
        async move {
            let mut seen = Vec::new();
            let until = tokio::time::Instant::now() + Duration::from_secs(60);
            // For a while behind the swap, too.
            let swapped = |seen: &[(String, u64)]| seen.iter().filter(|one| one.1 == 5).count();
            while swapped(&seen) < 20 && tokio::time::Instant::now() < until {
                seen.push(fleet.decided(process).await);
            }
            seen
        }
    };
    let publishing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fleet.ttl("5m");
        fleet.publish(&one, &[]).await.json()
    };
    let (at_one, at_two, second) = tokio::join!(asking("one"), asking("two"), publishing);
    let second_hash = second["hash"].as_str().unwrap().to_owned();
    let old = first["revision"].to_string();
    let late = fleet.publish(&one, &["--after", &old]).await;
    assert!(
        late.code != 0 && late.err.contains("published_meanwhile"),
        "{late:?}"
    );
    assert_eq!(second["before"], first["hash"]);
    let (old, new) = ((first_hash, 4), (second_hash, 5));
    for seen in [at_one, at_two] {
        let swapped = seen
            .iter()
            .position(|decided| *decided == new)
            .expect("it swapped");
        assert!(swapped > 0, "it was asked before");
        assert!(
            seen[..swapped].iter().all(|decided| *decided == old),
            "{seen:?}"
        );
        assert!(
            seen[swapped..].iter().all(|decided| *decided == new),
            "{seen:?}"
        );
    }
    // The third starts now, with a folder that is older than all of that.
    drop(two);
    let two = fleet.replicas[1].serve().await;
    assert_eq!(fleet.decided(&two).await, new);
    two.signal(Signal::HUP);
    two.until_log_says("the configuration was swapped").await;
    assert_eq!(
        fleet.decided(&two).await,
        new,
        "nor does a reload bring it back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_would_not_grant_any_more_ends_with_it_where_that_is_wanted() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let one = fleet.replicas[0].serve().await;
    let issued = fleet.installation.issue(&one).await;
    let token = issued["access_token"].as_str().unwrap();
    let path = fleet.folder.join("common.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let narrower = text.replace(
        "actions = [\"deploy:write\"]",
        "actions = [\"deploy:read\"]",
    );
    assert_ne!(text, narrower);
    std::fs::write(&path, narrower).unwrap();
    fleet.publish(&one, &[]).await.is(0);
    assert!(
        fleet.installation.is_active(&one, token).await,
        "publishing ends nothing"
    );
    let done = fleet.publish(&one, &["--revoke-narrowed"]).await.json();
    assert_eq!(
        done["narrowed"]["narrowed"][0]["lease"], issued["lease_id"],
        "{done}"
    );
    assert_eq!(done["narrowed"]["narrowed"][0]["revoked"], true);
    assert!(!fleet.installation.is_active(&one, token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_is_wrong_and_what_cannot_be_published() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let one = fleet.replicas[0].serve().await;
    let path = fleet.folder.join("common.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace("purpose", "porpoise")).unwrap();
    let done = fleet.publish(&one, &[]).await;
    assert!(done.is(1).err.contains("unknown_key"), "{done:?}");
    assert!(done.err.contains("nothing was published"), "{done:?}");
    // What only the broker knows: that this is none of its secrets to give.
    let server = "secret = \"file:server.secret\"";
    std::fs::write(&path, good.replace(server, "secret = \"file:sealing.key\"")).unwrap();
    let done = fleet.publish(&one, &[]).await;
    assert!(done.is(3).err.contains("[unpublishable]"), "{done:?}");
    std::fs::write(&path, &good).unwrap();
    let broker = fleet.folder.join("broker.toml");
    let own = std::fs::read_to_string(&broker).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&broker, own + &good).unwrap();
    let done = fleet.publish(&one, &[]).await;
    assert!(done.is(1).err.contains("a file of its own"), "{done:?}");
    assert_eq!(fleet.config(&one).await["revision"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_publishes_it_leaves_the_old_one_or_the_new_one_everywhere() {
    let Some(fleet) = Fleet::start().await else {
        return;
    };
    let [replica, other] = &fleet.replicas;
    let other = other.serve().await;
    let first = replica.serve().await;
    fleet.publish(&first, &[]).await.is(0);
    drop(first);
    let (mut old, mut new) = (0, 0);
    for round in 0_u64..14 {
        let one = replica.serve().await;
        let before = fleet.config(&other).await["hash"].clone();
        fleet.ttl(&format!("{}m", 2 + round % 8));
        let held = round < 2;
        if held {
            // The commit cannot be applied before the broker is dead.
            fleet.redis.command("CLIENT PAUSE 1500 WRITE").unwrap();
        }
        let killing = async {
            match round {
                0 | 1 => tokio::time::sleep(Duration::from_millis(900)).await,
                // As soon as anybody else has it.
                2 | 3 => {
                    until("the other has it", || async {
                        fleet.config(&other).await["hash"] != before
                    })
                    .await;
                }
                _ => tokio::time::sleep(Duration::from_millis(60 + 25 * round)).await,
            }
            one.signal(Signal::KILL);
        };
        let (done, ()) = tokio::join!(fleet.publish(&one, &[]), killing);
        drop(one);
        if held {
            tokio::time::sleep(Duration::from_millis(800)).await;
        }
        let one = replica.serve().await;
        let agreed = || async {
            let (a, b) = (fleet.config(&one).await, fleet.config(&other).await);
            let same = a["hash"] == b["hash"] && a["revision"] == b["revision"];
            same && a.get("behind").is_none() && one.is_ready().await && other.is_ready().await
        };
        until("they agree", agreed).await;
        let now = fleet.config(&one).await["hash"].clone();
        if done.code == 0 {
            assert_eq!(now, done.json()["hash"], "what was answered holds");
        }
        if now == before {
            old += 1;
        } else {
            new += 1;
        }
        let (a, b) = (fleet.decided(&one).await, fleet.decided(&other).await);
        assert_eq!(a, b);
    }
    assert!(old >= 2 && new >= 2, "{old} stayed, {new} came");
}
