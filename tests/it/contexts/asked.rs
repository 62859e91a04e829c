//! A source that can be asked: what a lost message would have ended is ended all the same. Beside a strict copy of
//! GitHub's two endpoints: who asks, with which token, for which path.

use super::jobs::World;
use crate::support::process::until;
use crate::support::world::assert_refused;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dayfly::broker::Reason;
use dayfly::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const RUN: &str = "/repos/acme/checkout/actions/runs/9876543210/attempts/1";

/// What it says of each path; how it was asked.
#[derive(Debug, Default)]
pub(super) struct Said {
    statuses: BTreeMap<String, Value>,
    token: String,
    /// It refuses everything: status and headers.
    refuses: Option<(u16, Vec<(&'static str, String)>)>,
    asked: Vec<String>,
    limited: usize,
}

#[derive(Clone)]
pub(super) struct GitHub(Arc<Mutex<Said>>);

impl GitHub {
    pub(super) async fn start() -> (Self, String) {
        let github = Self(Arc::new(Mutex::new(Said {
            token: "ghs_one".to_owned(),
            ..Said::default()
        })));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(github.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (github, url)
    }

    pub(super) fn says(&self, path: &str, status: &str) {
        let mut said = self.0.lock().unwrap();
        said.statuses.insert(path.to_owned(), json!(status));
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.0.lock().unwrap());
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    fn limited(&self) -> usize {
        self.0.lock().unwrap().limited
    }

    /// It was asked so much more often.
    pub(super) async fn until_asked(&self, more: usize) {
        let before = self.asked().len();
        until("it is asked", || async {
            self.asked().len() >= before + more
        })
        .await;
    }
}

fn refused(status: u16, message: &str) -> Response {
    let body = json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.to_string(),
    });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

async fn answer(State(github): State<GitHub>, request: Request) -> Response {
    let header = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (headers, path) = (request.headers(), request.uri().path().to_owned());
    let mut said = github.0.lock().unwrap();
    said.asked.push(path.clone());
    if request.method() != "GET" || request.uri().query().is_some() {
        return refused(405, "Method Not Allowed");
    }
    if header(headers, "user-agent").is_empty() {
        return refused(403, "Request forbidden by administrative rules.");
    }
    if header(headers, "authorization") != format!("Bearer {}", said.token) {
        return refused(401, "Bad credentials");
    }
    if let Some((status, more)) = said.refuses.clone() {
        said.limited += 1;
        let mut response = refused(status, "API rate limit exceeded for installation ID 7.");
        for (name, value) in more {
            let value = value.parse().unwrap();
            response.headers_mut().insert(name, value);
        }
        return response;
    }
    let Some(status) = said.statuses.get(&path) else {
        return refused(404, "Not Found");
    };
    let over = status == "completed";
    axum::Json(json!({
        "id": 9876543210_u64,
        "name": "Deploy",
        "node_id": "WFR_kwDOabc",
        "head_branch": "main",
        "head_sha": "2f9c1d1f0a4e4b1d8a5c3e7f6b9d0c2a1e8f7d6c",
        "path": ".github/workflows/deploy.yml",
        "run_number": 42,
        "event": "push",
        "status": status,
        "conclusion": if over { json!("success") } else { Value::Null },
        "workflow_id": 159038,
        "url": format!("https://api.github.com{path}"),
        "pull_requests": [],
        "created_at": "2026-11-22T03:00:00Z",
        "updated_at": "2026-11-22T03:05:00Z",
        "run_attempt": 1,
        "run_started_at": "2026-11-22T03:00:00Z",
        "actor": { "login": "octavia", "id": 555, "type": "User", "site_admin": false },
        "repository": { "id": 1234, "full_name": "acme/checkout", "private": true },
    }))
    .into_response()
}

/// With a source that is asked about runs, or, under the name of GitHub's, about jobs.
async fn start(url: &str, about: &str) -> World {
    let poll = match about {
        "run" => format!(
            "url = \"{url}/repos/{{+pipeline.repository}}/actions/runs/{{pipeline.run_id}}/attempts/{{pipeline.run_attempt}}\""
        ),
        _ => format!(
            "tether = \"pipeline.job_id\", url = \"{url}/repos/{{+pipeline.repository}}/actions/jobs/{{pipeline.job_id}}\""
        ),
    };
    World::with(&format!(
        "[source.github]\nkind = \"github\"\nends = [\"1234\"]\npoll = {{ {poll}, ended_when = \"completed\", \
         bearer = \"file:github.token\", every = \"1s\" }}\n"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_message_was_lost_is_over_once_it_is_asked_about() {
    let (github, url) = GitHub::start().await;
    github.says(RUN, "in_progress");
    let world = start(&url, "run").await;
    let all = [
        ("run", world.issue("github-run", 1).await),
        ("both", world.issue("github-both", 1).await),
        ("job", world.issue("github-job", 1).await),
        ("elsewhere", world.issue("gitlab-run", 1).await),
    ];
    github.until_asked(3).await;
    assert_eq!(world.alive(&all).await, ["run", "both", "job", "elsewhere"]);
    for status in ["queued", "waiting", "requested", "action_required"] {
        github.says(RUN, status);
        github.until_asked(2).await;
        assert_eq!(world.alive(&all).await.len(), 4, "{status}");
    }
    github.says(RUN, "completed");
    until("the run's are dead", || async {
        world.alive(&all).await == ["job", "elsewhere"]
    })
    .await;
    let late = world.ask("github-run", 1).await;
    assert_refused(&late, Reason::Held, "as by its message");
    assert!(github.asked().iter().all(|path| path == RUN));
    // It is known to be over.
    let asked = github.asked().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(github.asked().len(), asked);
    let audit = world
        .broker
        .admin("GET", "/audit?limit=1000", None)
        .await
        .body;
    let entries = audit["items"].as_array().unwrap().iter();
    let raised: Vec<_> = entries
        .filter(|entry| entry["event"] == "fence_raised")
        .collect();
    assert_eq!(raised.len(), 1, "once: {raised:?}");
    assert_eq!(raised[0]["detail"]["by"], "source github");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_no_end_and_who_is_refused_waits_as_long_as_it_is_told() {
    let (github, url) = GitHub::start().await;
    let world = start(&url, "run").await;
    let all = [("run", world.issue("github-run", 1).await)];
    let alive = async |what: &str| assert_eq!(world.alive(&all).await, ["run"], "{what}");
    github.until_asked(2).await;
    alive("404").await;
    let over = |said: Value| github.change(|it| drop(it.statuses.insert(RUN.to_owned(), said)));
    for odd in [
        Value::Null,
        json!({ "name": "completed" }),
        json!(["completed"]),
        json!("Completed"),
    ] {
        over(odd.clone());
        github.until_asked(2).await;
        alive(&odd.to_string()).await;
    }
    over(json!("completed"));
    github.change(|it| it.token = "ghs_two".to_owned());
    github.until_asked(1).await;
    alive("401").await;
    // The token is read anew for each question.
    let token = world.broker.folder.path().join("github.token");
    github.change(|it| it.refuses = Some((403, vec![("retry-after", "8".to_owned())])));
    std::fs::write(&token, "ghs_two\n").unwrap();
    until("it is over its limit", || async { github.limited() == 1 }).await;
    let clock = SystemClock::new();
    let refused = clock.since_boot();
    alive("403").await;
    github.change(|it| it.refuses = None);
    github.until_asked(1).await;
    // By itself it would have waited for five.
    let waited = clock.since_boot() - refused;
    assert!(waited >= Duration::from_secs(7), "{waited:?}");
    until("it is dead", || async {
        world.alive(&all).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_asked_about_by_itself_and_its_run_goes_on() {
    let (github, url) = GitHub::start().await;
    let job = |job: u64| format!("/repos/acme/checkout/actions/jobs/{job}");
    for one in [1, 2] {
        github.says(&job(one), "in_progress");
    }
    let world = start(&url, "job").await;
    let all = world.four("github", (1, 2)).await;
    github.until_asked(4).await;
    github.says(&job(1), "completed");
    until("the job's are dead", || async {
        world.alive(&all).await == ["run", "other job"]
    })
    .await;
    let mut asked = github.asked();
    asked.sort();
    asked.dedup();
    assert_eq!(asked, [job(1), job(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_only_asked_believes_no_message() {
    let (github, url) = GitHub::start().await;
    github.says(RUN, "in_progress");
    let world = start(&url, "run").await;
    let all = [("run", world.issue("github-run", 1).await)];
    let done = super::jobs::workflow_run("completed");
    assert_eq!(world.github("workflow_run", &done).await, 401);
    assert_eq!(world.alive(&all).await, ["run"]);
}
