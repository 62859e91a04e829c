//! Once only: at every replica, after every restart, in every race; and a refusal burns nothing.

use crate::support::broker::Answer;
use crate::support::process::{Installation, Process};
use crate::support::redis::RedisServer;
use futures_util::future::join_all;
use serde_json::json;
use std::time::Duration;

type Form = Vec<(String, String)>;

/// A good form whose audience is another target: refused, with a good intent in it.
fn astray(form: &Form) -> Form {
    let mut form = form.clone();
    form.retain(|(name, _)| name != "audience");
    form.push(("audience".to_owned(), "no-such-target".to_owned()));
    form
}

/// What is answered once the broker can vouch for an answer: a slow machine says 503 first.
async fn ask(installation: &Installation, at: &Process, form: &Form) -> Answer {
    loop {
        let answer = installation.exchange(at, form).await.unwrap();
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn spent(installation: &Installation, at: &Process, form: &Form) {
    let answer = ask(installation, at, form).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.reason(), "intent_spent");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_store_a_restart_does_not_make_an_intent_new() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let form = installation.good_form();
    let refused = ask(&installation, &process, &astray(&form)).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    process.kill();
    // A refusal burnt nothing, and the grant is remembered through the next crash.
    let process = replica.serve().await;
    let granted = ask(&installation, &process, &form).await;
    assert_eq!(granted.status, 200, "{}", granted.body);
    process.kill();
    let process = replica.serve().await;
    spent(&installation, &process, &form).await;
    race(&installation, &[&process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_what_one_replica_granted_no_other_grants_again() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let one = installation.on_redis("one", &redis.url(), "");
    let other = installation.on_redis("other", &redis.url(), "");
    let (here, there) = tokio::join!(one.serve(), other.serve());
    let form = installation.good_form();
    let refused = ask(&installation, &here, &astray(&form)).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    let granted = ask(&installation, &there, &form).await;
    assert_eq!(granted.status, 200, "{}", granted.body);
    spent(&installation, &here, &form).await;
    spent(&installation, &there, &form).await;
    here.kill();
    let here = one.serve().await;
    spent(&installation, &here, &form).await;
    race(&installation, &[&here, &there]).await;
}

/// Many copies of one intent at once: one is granted, the others are told why not.
async fn race(installation: &Installation, replicas: &[&Process]) {
    for _ in 0..3 {
        let form = installation.good_form();
        let sent = replicas.iter().cycle().take(16);
        let answers = join_all(sent.map(|at| ask(installation, at, &form))).await;
        let granted = answers.iter().filter(|a| a.status == 200).count();
        assert_eq!(granted, 1);
        for answer in answers.iter().filter(|a| a.status != 200) {
            assert_eq!(answer.reason(), "intent_spent", "{}", answer.body);
        }
    }
    let leases = installation.open_leases(replicas[0], "deploy-api").await;
    assert_eq!(leases.len(), 4, "{}", json!(leases));
}
