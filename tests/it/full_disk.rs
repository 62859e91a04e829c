//! The disk under the embedded store takes nothing more, and later it does again: a real broker whose
//! files may not grow.

use crate::support::broker::Answer;
use crate::support::process::{Installation, Process, until};
use serde_json::{Value, json};
use std::sync::Arc;

fn token(issued: &Value) -> &str {
    issued["access_token"].as_str().unwrap()
}

/// What introspection says, once it says anything.
async fn says(installation: &Arc<Installation>, process: &Process, issued: &Value) -> bool {
    until("an answer about a credential", || async {
        installation.introspect(process, token(issued)).await.status == 200
    })
    .await;
    installation.is_active(process, token(issued)).await
}

/// Issues until that is refused, and says what it was refused with.
async fn until_refused(
    installation: &Arc<Installation>,
    process: &Process,
    issued: &mut Vec<Value>,
) -> Answer {
    for _ in 0..5000 {
        let form = installation.good_form();
        let answer = installation.exchange(process, &form).await.unwrap();
        if answer.status != 200 {
            return answer;
        }
        issued.push(answer.body);
    }
    panic!("it goes on and on:\n{}", process.log());
}

async fn until_issued(installation: &Arc<Installation>, process: &Process) -> Value {
    let found = std::sync::Mutex::new(Value::Null);
    until("a credential", || async {
        let form = installation.good_form();
        let answer = installation.exchange(process, &form).await.unwrap();
        *found.lock().unwrap() = answer.body;
        answer.status == 200
    })
    .await;
    found.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_full_needs_no_restart_and_nothing_acknowledged_is_lost() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let mut issued = vec![installation.issue(&process).await];
    let mut dead = vec![installation.issue(&process).await];
    let selector = json!({ "lease": dead[0]["lease_id"] });
    let answer = installation.revoke(&process, selector).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);

    let file = replica.folder.join("dayfly.redb");
    let length = std::fs::metadata(&file).unwrap().len();
    // Full; then so that nothing can be written at all, a line of the log neither.
    for limit in [length, 1] {
        process.limit_files(Some(limit));
        let refused = until_refused(&installation, &process, &mut issued).await;
        assert_eq!(refused.status, 503, "{}\n{}", refused.body, process.log());
        assert_eq!(refused.error(), "temporarily_unavailable");
        assert!(refused.headers.contains_key("retry-after"));
        if limit == length {
            // What is there is there, and revocation has what is left.
            assert!(says(&installation, &process, &issued[0]).await);
            assert!(!says(&installation, &process, &dead[0]).await);
            let last = issued.pop().unwrap();
            let selector = json!({ "lease": last["lease_id"] });
            until("a revocation on a full disk", || async {
                let answer = installation.revoke(&process, selector.clone()).await;
                answer.unwrap().status == 200
            })
            .await;
            assert!(!says(&installation, &process, &last).await);
            dead.push(last);
        }
        process.limit_files(None);
        issued.push(until_issued(&installation, &process).await);
    }

    // What is in the file is what was answered.
    process.kill();
    let process = replica.serve().await;
    for one in &issued {
        assert!(says(&installation, &process, one).await, "{one}");
    }
    for one in &dead {
        assert!(!says(&installation, &process, one).await, "{one}");
    }
}
