//! A lease dies with its pipeline: signed webhooks of each kind, and what they cannot do.

mod asked;
mod asked_gitlab;
mod jobs;
mod outlives;
mod replays;
mod signed_by_gitlab;

use crate::support::broker::{Answer, Setup, TestBroker, with};
use serde_json::{Value, json};

const SOURCES: &str = r#"
[source.github]
kind = "github"
secret = "file:hook.secret"
issuer = "ci"
ends = ["1234"]

[source.gitlab]
kind = "gitlab"
secret = "file:hook.secret"
issuer = "ci"
ends = ["1234"]
"#;

async fn start() -> TestBroker {
    TestBroker::with(Setup {
        more: SOURCES.to_owned(),
        ..Setup::default()
    })
    .await
}

pub fn hmac(message: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hook-secret");
    let tag = ring::hmac::sign(&key, message);
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256={hex}")
}

pub async fn send(
    broker: &TestBroker,
    source: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = broker.http.post(format!("{}/hooks/{source}", broker.at));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.body(body.to_owned()).send().await.unwrap()).await
}

fn run(repository: u64, attempt: u64, action: &str) -> String {
    json!({
        "action": action,
        "workflow_run": { "id": 77, "run_attempt": attempt, "conclusion": "success" },
        "repository": { "id": repository, "full_name": "acme/checkout" },
    })
    .to_string()
}

async fn github(broker: &TestBroker, body: &str) -> Answer {
    let signature = hmac(body.as_bytes());
    let headers = [
        ("x-github-event", "workflow_run"),
        ("x-hub-signature-256", &*signature),
    ];
    send(broker, "github", &headers, body).await
}

async fn generic(broker: &TestBroker, sent: i64, body: &str) -> Answer {
    signed(broker, "ci", sent, body).await
}

/// A message of a generic source.
pub async fn signed(broker: &TestBroker, source: &str, sent: i64, body: &str) -> Answer {
    let sent = sent.to_string();
    let signature = hmac(format!("{sent}.{body}").as_bytes());
    let headers = [
        ("x-dayfly-timestamp", &*sent),
        ("x-dayfly-signature", &*signature),
    ];
    send(broker, source, &headers, body).await
}

/// A good form of this attempt of run 77, or without the attempt.
fn form_of(broker: &TestBroker, attempt: Option<&str>) -> Vec<(String, String)> {
    let mut claims = broker.platform_claims();
    claims["run_attempt"] = json!(attempt);
    if attempt.is_none() {
        claims.as_object_mut().unwrap().remove("run_attempt");
    }
    let token = broker.issuer.sign(&claims);
    let form = with(broker.good_form(), "subject_token", &token);
    let intent = broker.sign_intent(&broker.intent_claims(&token));
    with(form, "intent", &intent)
}

async fn issue(broker: &TestBroker, attempt: Option<&str>) -> String {
    let answer = broker.exchange(&form_of(broker, attempt)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["access_token"].as_str().unwrap().to_owned()
}

fn refused(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, answer.error()),
        (401, "invalid_client"),
        "{what}: {}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_github_run_that_completes_ends_its_leases_and_only_its_own() {
    let broker = start().await;
    let token = issue(&broker, Some("1")).await;
    for (what, body) in [
        ("still running", run(1234, 1, "in_progress")),
        ("another attempt", run(1234, 2, "completed")),
    ] {
        let answer = github(&broker, &body).await;
        assert_eq!(answer.status, 204, "{what}: {}", answer.body);
        assert!(broker.is_active(&token).await, "{what}");
    }
    let other = github(&broker, &run(4321, 1, "completed")).await;
    assert_eq!((other.status, other.error()), (403, "access_denied"));
    assert!(broker.is_active(&token).await, "another repository's run");
    for _ in 0..2 {
        let done = github(&broker, &run(1234, 1, "completed")).await;
        assert_eq!(done.status, 204, "{}", done.body);
        assert!(!broker.is_active(&token).await);
    }
    let late = broker.exchange(&form_of(&broker, Some("1"))).await;
    assert_eq!((late.status, late.reason()), (400, "held"));
    let audit = broker.admin("GET", "/audit", None).await.body;
    let entries = audit["items"].as_array().unwrap();
    let fences: Vec<_> = entries
        .iter()
        .filter(|entry| entry["event"] == "fence_raised")
        .collect();
    let by = |fence: &Value| {
        fence["detail"]["by"]
            .as_str()
            .unwrap()
            .starts_with("source ")
    };
    assert!(
        fences
            .iter()
            .all(|fence| by(fence) && fence["operator"].is_null()),
        "{fences:?}"
    );
    assert_eq!(
        fences.len(),
        2,
        "one for each attempt, however often it is said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_of_a_run_lives_and_the_end_of_the_run_ends_all() {
    let broker = start().await;
    let first = issue(&broker, Some("1")).await;
    assert_eq!(
        github(&broker, &run(1234, 1, "completed")).await.status,
        204
    );
    let third = issue(&broker, Some("3")).await;
    assert!(!broker.is_active(&first).await);
    assert!(broker.is_active(&third).await);
    let run = json!({ "issuer": "ci", "kind": "pipeline", "id": "1234:77" });
    let ended = broker.admin("POST", "/contexts/end", Some(run)).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert!(!broker.is_active(&third).await);
    let next = broker.exchange(&form_of(&broker, Some("4"))).await;
    assert_eq!((next.status, next.reason()), (400, "held"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_beats_the_exchange_refuses_it() {
    let broker = start().await;
    let form = form_of(&broker, Some("1"));
    assert_eq!(
        github(&broker, &run(1234, 1, "completed")).await.status,
        204
    );
    let answer = broker.exchange(&form).await;
    assert_eq!(
        (answer.status, answer.reason()),
        (400, "held"),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gitlab_pipeline_that_finishes_ends_its_leases() {
    let broker = start().await;
    let token = issue(&broker, None).await;
    let body = |project: u64, status: &str| {
        json!({
            "object_kind": "pipeline", "object_attributes": { "id": 77, "status": status },
            "project": { "id": project },
        })
        .to_string()
    };
    let good = [("x-gitlab-token", "hook-secret")];
    let running = send(&broker, "gitlab", &good, &body(1234, "running")).await;
    assert_eq!(running.status, 204, "{}", running.body);
    let other = send(&broker, "gitlab", &good, &body(4321, "failed")).await;
    assert_eq!((other.status, other.error()), (403, "access_denied"));
    let done = body(1234, "failed");
    refused(&send(&broker, "gitlab", &[], &done).await, "no token");
    let wrong = [("x-gitlab-token", "hook-secre")];
    refused(
        &send(&broker, "gitlab", &wrong, &done).await,
        "a wrong token",
    );
    assert!(broker.is_active(&token).await);
    assert_eq!(send(&broker, "gitlab", &good, &done).await.status, 204);
    assert!(!broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_source_signs_the_time_with_the_body() {
    let broker = start().await;
    let token = issue(&broker, Some("1")).await;
    let body = json!({ "kind": "pipeline", "id": "1234:77/1" }).to_string();
    let now = broker.now();
    for (what, sent) in [("stale", now - 301), ("of the future", now + 302)] {
        refused(&generic(&broker, sent, &body).await, what);
    }
    let kind = json!({ "kind": "vm", "id": "1" }).to_string();
    let other = generic(&broker, now, &kind).await;
    assert_eq!((other.status, other.error()), (403, "access_denied"));
    let empty = generic(&broker, now, "{}").await;
    assert_eq!((empty.status, empty.error()), (400, "invalid_request"));
    assert!(broker.is_active(&token).await);
    let done = generic(&broker, now, &body).await;
    assert_eq!(done.status, 204, "{}", done.body);
    assert!(!broker.is_active(&token).await);
}

/// A good signature in which one byte is `+a` where `0a` stood: `from_str_radix` reads both.
async fn plus_for_a_zero(broker: &TestBroker) -> Answer {
    let (body, signature) = (1..)
        .map(|attempt| run(1234, attempt, "completed"))
        .find_map(|body| {
            let good = hmac(body.as_bytes());
            let digits = "sha256=".len()..;
            let zero = digits
                .step_by(2)
                .take(32)
                .find(|at| good.as_bytes()[*at] == b'0')?;
            let (before, after) = (&good[..zero], &good[zero + 1..]);
            Some((body, format!("{before}+{after}")))
        })
        .unwrap();
    let headers = [
        ("x-github-event", "workflow_run"),
        ("x-hub-signature-256", &*signature),
    ];
    send(broker, "github", &headers, &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_its_signature_ends_nothing() {
    let broker = start().await;
    let token = issue(&broker, Some("1")).await;
    let body = run(1234, 1, "completed");
    let good = hmac(body.as_bytes());
    let event = ("x-github-event", "workflow_run");
    let upper = good.to_uppercase();
    let cut = &good[..good.len() - 2];
    let of_other = hmac(run(1234, 2, "completed").as_bytes());
    for (what, signature) in [
        ("another body's", &*of_other),
        ("cut", cut),
        ("of no kind", &good["sha256=".len()..]),
        ("in capitals", &upper),
        ("empty", "sha256="),
        ("no hex", "sha256=+1+1"),
    ] {
        let headers = [event, ("x-hub-signature-256", signature)];
        refused(&send(&broker, "github", &headers, &body).await, what);
    }
    refused(&send(&broker, "github", &[event], &body).await, "none");
    let signed = [event, ("x-hub-signature-256", &*good)];
    refused(
        &send(&broker, "nobody", &signed, &body).await,
        "an unknown source",
    );
    refused(
        &send(&broker, "ci", &signed, &body).await,
        "a source of another kind",
    );
    refused(&plus_for_a_zero(&broker).await, "a plus for a zero");
    let noise = "not json";
    let answer = github(&broker, noise).await;
    assert_eq!((answer.status, answer.error()), (400, "invalid_request"));
    assert!(broker.is_active(&token).await);
    let other: Value = json!({ "zen": "Keep it logically awesome." });
    let ping = other.to_string();
    let signature = hmac(ping.as_bytes());
    let headers = [
        ("x-github-event", "ping"),
        ("x-hub-signature-256", &*signature),
    ];
    assert_eq!(send(&broker, "github", &headers, &ping).await.status, 204);
    assert!(broker.is_active(&token).await);
}
