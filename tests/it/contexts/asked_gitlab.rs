//! GitLab is asked about its jobs by the very lines of the documentation, beside a strict copy of its one endpoint.

use super::jobs::World;
use crate::support::process::until;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The status of each job, and how often it was asked.
#[derive(Clone, Default)]
struct GitLab {
    statuses: Arc<Mutex<BTreeMap<u64, &'static str>>>,
    asked: Arc<Mutex<Vec<u64>>>,
}

impl GitLab {
    async fn start() -> (Self, String) {
        let gitlab = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .route(
                "/api/v4/projects/{project}/jobs/{job}",
                axum::routing::get(answer),
            )
            .with_state(gitlab.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (gitlab, url)
    }

    fn says(&self, job: u64, status: &'static str) {
        self.statuses.lock().unwrap().insert(job, status);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn until_asked(&self, more: usize) {
        let before = self.asked();
        until("it is asked", || async { self.asked() >= before + more }).await;
    }
}

async fn answer(
    State(gitlab): State<GitLab>,
    Path((project, job)): Path<(String, u64)>,
    headers: HeaderMap,
) -> (StatusCode, axum::Json<Value>) {
    let refused = |status: u16, message: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        (status, axum::Json(json!({ "message": message })))
    };
    let shown = headers.get("authorization").map(|value| value.as_bytes());
    if shown != Some(b"Bearer glpat-one") {
        return refused(401, "401 Unauthorized");
    }
    gitlab.asked.lock().unwrap().push(job);
    let statuses = gitlab.statuses.lock().unwrap();
    match statuses.get(&job) {
        Some(status) if project == "20" => (
            StatusCode::OK,
            axum::Json(json!({
                "id": job, "status": status, "stage": "deploy", "name": "deploy", "ref": "main",
                "tag": false, "coverage": null, "allow_failure": false,
                "pipeline": { "id": 574, "project_id": 20, "ref": "main", "status": "running" },
                "project": { "ci_job_token_scope_enabled": false },
            })),
        ),
        _ => refused(404, "404 Not Found"),
    }
}

/// The documentation's source, asked here and more often.
fn documented(url: &str) -> String {
    let page = include_str!("../../../docs/configuration.md");
    let poll = page
        .lines()
        .find(|line| line.starts_with("poll") && line.contains("gitlab.com/api"))
        .expect("a source of GitLab that is asked");
    let poll = poll.replace("https://gitlab.com", url);
    let poll = poll.replace(" }", ", every = \"1s\" }");
    format!(
        "[source.gitlab-jobs]\nkind = \"gitlab\"\nissuer = \"gitlab\"\nends = [\"20\"]\n{poll}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_gitlab_is_over_by_each_of_the_documented_words_and_by_no_other() {
    let (gitlab, url) = GitLab::start().await;
    let (first, second) = (302, 303);
    gitlab.says(first, "running");
    gitlab.says(second, "running");
    let world = World::with(&documented(&url)).await;
    let all = world.four("gitlab", (first, second)).await;
    let everything = vec!["run", "job", "other job", "both"];
    for status in [
        "created",
        "pending",
        "preparing",
        "running",
        "manual",
        "scheduled",
        "canceling",
        "waiting_for_resource",
    ] {
        gitlab.says(first, status);
        gitlab.until_asked(4).await;
        assert_eq!(world.alive(&all).await, everything, "{status}");
    }
    gitlab.says(first, "canceled");
    until("the job's are dead", || async {
        world.alive(&all).await == ["run", "other job"]
    })
    .await;
    for (job, word) in [(304, "success"), (305, "failed"), (306, "skipped")] {
        gitlab.says(job, "running");
        let one = [("job", world.issue("gitlab-job", job).await)];
        gitlab.until_asked(4).await;
        assert_eq!(world.alive(&one).await, ["job"]);
        gitlab.says(job, word);
        until(word, || async { world.alive(&one).await.is_empty() }).await;
    }
    assert_eq!(world.alive(&all).await, ["run", "other job"]);
}
