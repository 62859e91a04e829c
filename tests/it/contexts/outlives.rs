//! What was issued before a broker died is asked about after it: by the same one once it runs again, and by
//! another replica. No message is ever delivered here.

use super::asked::GitHub;
use crate::support::process::{Installation, Process, Replica, until};
use crate::support::redis::RedisServer;
use std::time::Duration;
use tokio::time::Instant;

const RUN: &str = "/repositories/1234/actions/runs/77/attempts/1";
/// A claim that nobody renews any more is taken.
const CLAIM: Duration = Duration::from_secs(10);
/// For the rest, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

fn source(url: &str, every: Duration) -> String {
    let every = every.as_secs();
    format!(
        "[source.platform]\nkind = \"github\"\nissuer = \"ci\"\nends = [\"1234\"]\n\
         poll = {{ url = \"{url}/repositories/{{pipeline.repository_id}}/actions/runs/{{pipeline.run_id}}/attempts/{{pipeline.run_attempt}}\", \
         ended_when = \"completed\", bearer = \"file:github.token\", every = \"{every}s\" }}\n"
    )
}

fn asks(replica: &Replica) {
    replica.edit("ttl = \"10m\"", "ttl = \"10m\"\ntether = [\"pipeline\"]");
    crate::support::process::secret_file(&replica.folder.join("github.token"), "ghs_one");
}

async fn issued(installation: &Installation, at: &Process) -> String {
    let issued = installation.issue(at).await;
    issued["access_token"].as_str().unwrap().to_owned()
}

async fn dead_within(installation: &Installation, (at, token): (&Process, &str), most: Duration) {
    let since = Instant::now();
    until("the lease is dead", || async {
        !installation.is_active(at, token).await
    })
    .await;
    assert!(since.elapsed() <= most + SLACK, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_over_while_the_only_broker_was_down_is_asked_about_when_it_is_back() {
    let (github, url) = GitHub::start().await;
    github.says(RUN, "in_progress");
    let installation = Installation::start().await;
    let every = Duration::from_secs(5);
    let replica = installation.embedded(&source(&url, every));
    asks(&replica);
    let process = replica.serve().await;
    let token = issued(&installation, &process).await;
    github.until_asked(1).await;
    assert!(installation.is_active(&process, &token).await);
    process.kill();
    // It goes on, and the next broker finds it alive and asks again and again.
    let process = replica.serve().await;
    github.until_asked(2).await;
    assert!(installation.is_active(&process, &token).await);
    process.kill();
    github.says(RUN, "completed");
    let process = replica.serve().await;
    dead_within(&installation, (&process, &token), every).await;
    // It is known to be over, and after one more start still.
    process.kill();
    let asked = github.asked().len();
    let process = replica.serve().await;
    assert!(!installation.is_active(&process, &token).await);
    tokio::time::sleep(every + Duration::from_secs(2)).await;
    assert_eq!(github.asked().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_asks_and_when_it_dies_another_one_does() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let (github, url) = GitHub::start().await;
    github.says(RUN, "in_progress");
    let installation = Installation::start().await;
    let every = Duration::from_secs(1);
    let replica = |name| {
        let replica = installation.on_redis(name, &redis.url(), &source(&url, every));
        asks(&replica);
        replica
    };
    // The first one asks, whoever issues.
    let one = replica("one").serve().await;
    let tokens = vec![issued(&installation, &one).await];
    github.until_asked(1).await;
    let two = replica("two").serve().await;
    let tokens = [tokens, vec![issued(&installation, &two).await]].concat();
    let before = github.asked().len();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let asked = github.asked().len() - before;
    assert!((2..=10).contains(&asked), "{asked}: by one of them");
    one.kill();
    github.says(RUN, "completed");
    for token in &tokens {
        dead_within(&installation, (&two, token), CLAIM + every).await;
    }
}
