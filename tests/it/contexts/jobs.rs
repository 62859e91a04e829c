//! A run and its jobs: what hangs on one job ends with it, what hangs on the run lives until the run ends. With
//! tokens and messages in the shapes that GitHub and GitLab send, so that what is proved is what is ended.

use super::{hmac, send};
use crate::support::broker::{Answer, Setup, TestBroker, b64, form, sha256, unique};
use crate::support::issuer::Issuer;
use crate::support::tokens::{self, GithubSubject};
use crate::support::world::{EXCHANGE, JWT, assert_refused};
use dayfly::broker::Reason;
use serde_json::{Value, json};

pub(super) struct World {
    pub(super) broker: TestBroker,
    github: Issuer,
    gitlab: Issuer,
}

/// Jobs of one run, told apart by the environment that they deploy to: each tethers its agent otherwise.
const JOBS: [(&str, &str); 3] = [
    ("run", r#"["pipeline"]"#),
    ("job", r#"["pipeline.job_id"]"#),
    ("both", r#"["pipeline", "pipeline.job_id"]"#),
];

fn agents(platform: &str, repository: &str) -> String {
    let one = |(name, tether): (&str, &str)| {
        format!(
            r#"
[agent.{platform}-{name}]
owner = "payments@acme.example"
purpose = "A job of a pipeline"
ends = 2099-01-01
identity = {{ issuer = "{platform}", {repository}, environment = "{name}" }}
intent_keys = "file:deployer.jwks.json"
limits = {{ active = 100, per_minute = 100000 }}

[mission.of-{platform}-{name}]
agents = ["{platform}-{name}"]
owner = "sre@acme.example"
purpose = "Deploy from a pipeline"
tether = {tether}
allow = [{{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }}]
"#
        )
    };
    JOBS.map(one).concat()
}

impl World {
    async fn start() -> Self {
        Self::with(
            "[source.github]\nkind = \"github\"\nsecret = \"file:hook.secret\"\nends = [\"1234\"]\n",
        )
        .await
    }

    /// With what may speak of GitHub's runs.
    pub(super) async fn with(source: &str) -> Self {
        let (github, gitlab) = (Issuer::start().await, Issuer::start().await);
        let more = format!(
            r#"
[issuer.github]
url    = "{}"
tenant = {{ repository_owner_id = 4321 }}

[issuer.gitlab]
url = "{}"

{source}
[source.gitlab]
kind   = "gitlab"
secret = "file:hook.secret"
ends   = ["20"]
"#,
            github.url, gitlab.url
        );
        let more =
            more + &agents("github", "repository_id = 1234") + &agents("gitlab", "project_id = 20");
        let broker = TestBroker::with(Setup {
            more,
            files: vec![
                ("github.token".to_owned(), "ghs_one\n".to_owned()),
                ("gitlab.token".to_owned(), "glpat-one\n".to_owned()),
            ],
            ..Setup::default()
        })
        .await;
        Self {
            broker,
            github,
            gitlab,
        }
    }

    pub(super) async fn ask(&self, agent: &str, job: u64) -> Answer {
        let (platform, environment) = agent.split_once('-').unwrap();
        let (now, audience) = (self.broker.now(), &self.broker.url);
        let (issuer, mut claims, name) = match platform {
            "github" => {
                let claims =
                    tokens::github(now, &self.github.url, audience, GithubSubject::Immutable);
                (&self.github, claims, "check_run_id")
            }
            _ => {
                let claims = tokens::gitlab(now, &self.gitlab.url, audience);
                (&self.gitlab, claims, "job_id")
            }
        };
        assert!(claims.get(name).is_some(), "{name} is in a real token");
        claims[name] = json!(job.to_string());
        claims["environment"] = json!(environment);
        let token = issuer.sign(&claims);
        let intent = json!({
            "iss": agent, "sub": agent, "client_id": agent, "aud": audience,
            "iat": now, "exp": now + 120, "jti": unique(),
            "mission": { "id": format!("of-{agent}") },
            "authorization_details": [{
                "type": "access_token", "identifier": "deploy-api",
                "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
            }],
            "intent": { "goal": "Deploy checkout 1.42" },
            "subject_token_hash": b64(&sha256(token.as_bytes())),
        });
        let form = form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", &token),
            ("subject_token_type", JWT),
            ("audience", "deploy-api"),
            ("intent", &self.broker.sign_intent(&intent)),
        ]);
        self.broker.exchange(&form).await
    }

    pub(super) async fn issue(&self, agent: &str, job: u64) -> String {
        let answer = self.ask(agent, job).await;
        assert_eq!(answer.status, 200, "{agent}: {}", answer.body);
        answer.body["access_token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn github(&self, event: &str, body: &Value) -> u16 {
        let body = body.to_string();
        let (signature, delivery) = (hmac(body.as_bytes()), unique());
        let headers = [
            ("x-github-event", event),
            ("x-github-delivery", &*delivery),
            ("x-hub-signature-256", &*signature),
        ];
        send(&self.broker, "github", &headers, &body).await.status
    }

    async fn gitlab(&self, event: &str, body: &Value) -> u16 {
        let headers = [("x-gitlab-event", event), ("x-gitlab-token", "hook-secret")];
        let body = body.to_string();
        send(&self.broker, "gitlab", &headers, &body).await.status
    }

    /// Which of these are alive.
    pub(super) async fn alive(&self, all: &[(&'static str, String)]) -> Vec<&'static str> {
        let mut alive = Vec::new();
        for (name, token) in all {
            if self.broker.is_active(token).await {
                alive.push(*name);
            }
        }
        alive
    }

    /// What hangs on the run, on two jobs of it, and on both.
    pub(super) async fn four(
        &self,
        platform: &str,
        (first, second): (u64, u64),
    ) -> [(&'static str, String); 4] {
        let issue = async |name: &str, job| self.issue(&format!("{platform}-{name}"), job).await;
        [
            ("run", issue("run", first).await),
            ("job", issue("job", first).await),
            ("other job", issue("job", second).await),
            ("both", issue("both", first).await),
        ]
    }
}

/// `workflow_job` as GitHub delivers it.
fn workflow_job(repository: u64, job: u64, action: &str) -> Value {
    let api = "https://api.github.com/repos/acme/checkout";
    json!({
        "action": action,
        "workflow_job": {
            "id": job,
            "run_id": 9876543210_u64,
            "workflow_name": "Deploy",
            "head_branch": "main",
            "run_url": format!("{api}/actions/runs/9876543210"),
            "run_attempt": 1,
            "node_id": "CR_kwDOabc",
            "head_sha": "2f9c1d1f0a4e4b1d8a5c3e7f6b9d0c2a1e8f7d6c",
            "url": format!("{api}/actions/jobs/{job}"),
            "html_url": format!("https://github.com/acme/checkout/actions/runs/9876543210/job/{job}"),
            "status": action,
            "conclusion": if action == "completed" { json!("success") } else { Value::Null },
            "started_at": "2026-11-22T03:00:00Z",
            "completed_at": "2026-11-22T03:04:00Z",
            "name": "deploy",
            "steps": [],
            "check_run_url": format!("{api}/check-runs/{job}"),
            "labels": ["ubuntu-latest"],
            "runner_id": 3,
        },
        "repository": { "id": repository, "name": "checkout", "full_name": "acme/checkout" },
        "sender": { "login": "octavia", "id": 555 },
    })
}

pub(super) fn workflow_run(action: &str) -> Value {
    json!({
        "action": action,
        "workflow_run": {
            "id": 9876543210_u64, "run_attempt": 1, "run_number": 42, "status": "completed",
            "conclusion": "success", "updated_at": "2026-11-22T03:05:00Z",
        },
        "repository": { "id": 1234, "name": "checkout", "full_name": "acme/checkout" },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_github_job_ends_with_it_and_what_hangs_on_the_run_lives_on() {
    let world = World::start().await;
    let (first, second) = (55667788990, 55667788991);
    let all = world.four("github", (first, second)).await;
    let everything = vec!["run", "job", "other job", "both"];
    for (what, status, body) in [
        ("queued", 204, workflow_job(1234, first, "queued")),
        ("running", 204, workflow_job(1234, first, "in_progress")),
        ("another job", 204, workflow_job(1234, 1, "completed")),
        (
            "another repository's",
            403,
            workflow_job(4321, first, "completed"),
        ),
    ] {
        assert_eq!(world.github("workflow_job", &body).await, status, "{what}");
        assert_eq!(world.alive(&all).await, everything, "{what}");
    }
    let done = workflow_job(1234, first, "completed");
    assert_eq!(world.github("check_run", &done).await, 204);
    assert_eq!(world.alive(&all).await, everything, "another event");
    assert_eq!(world.github("workflow_job", &done).await, 204);
    assert_eq!(world.alive(&all).await, ["run", "other job"]);
    for agent in ["github-job", "github-both"] {
        let late = world.ask(agent, first).await;
        assert_refused(&late, Reason::Held, agent);
    }
    // The next job of the run.
    let next = [("next", world.issue("github-both", second).await)];
    assert_eq!(
        world
            .github("workflow_run", &workflow_run("completed"))
            .await,
        204
    );
    assert_eq!(
        world.alive(&all).await,
        ["other job"],
        "it hangs on its job alone"
    );
    assert!(world.alive(&next).await.is_empty());
    // What was proved is the check run: should a job's id be another number, it is not that.
    let mut odd = workflow_job(1234, second, "completed");
    odd["workflow_job"]["id"] = json!(7);
    assert_eq!(world.github("workflow_job", &odd).await, 204);
    assert!(world.alive(&all).await.is_empty());
}

/// "Job events", as GitLab delivers them.
fn build(project: u64, job: u64, status: &str) -> Value {
    json!({
        "object_kind": "build",
        "ref": "main",
        "tag": false,
        "before_sha": "0000000000000000000000000000000000000000",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "retries_count": 0,
        "build_id": job,
        "build_name": "deploy",
        "build_stage": "deploy",
        "build_status": status,
        "build_finished_at": "2026-11-22 03:04:00 UTC",
        "build_duration": 17.2,
        "build_allow_failure": false,
        "build_failure_reason": "unknown_failure",
        "pipeline_id": 574,
        "project_id": project,
        "project_name": "acme / checkout",
        "commit": { "id": 574, "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "status": "running" },
        "project": { "id": project, "path_with_namespace": "acme/checkout" },
        "environment": { "name": "production", "action": "start", "deployment_tier": "production" },
    })
}

fn pipeline(status: &str) -> Value {
    json!({
        "object_kind": "pipeline",
        "object_attributes": {
            "id": 574, "iid": 3, "ref": "main", "status": status, "detailed_status": status,
            "finished_at": "2026-11-22 03:05:00 UTC",
        },
        "project": { "id": 20, "path_with_namespace": "acme/checkout" },
        "builds": [],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_gitlab_job_ends_with_it_and_what_hangs_on_the_pipeline_lives_on() {
    let world = World::start().await;
    let (first, second) = (302, 303);
    let all = world.four("gitlab", (first, second)).await;
    let everything = vec!["run", "job", "other job", "both"];
    for status in ["created", "pending", "running", "manual", "canceling"] {
        assert_eq!(
            world.gitlab("Job Hook", &build(20, first, status)).await,
            204
        );
        assert_eq!(world.alive(&all).await, everything, "{status}");
    }
    let foreign = build(21, first, "failed");
    assert_eq!(world.gitlab("Job Hook", &foreign).await, 403);
    assert_eq!(world.alive(&all).await, everything, "another project's");
    assert_eq!(
        world.gitlab("Job Hook", &build(20, first, "failed")).await,
        204
    );
    assert_eq!(world.alive(&all).await, ["run", "other job"]);
    let late = world.ask("gitlab-job", first).await;
    assert_refused(&late, Reason::Held, "its job is over");
    assert_eq!(
        world.gitlab("Pipeline Hook", &pipeline("running")).await,
        204
    );
    assert_eq!(world.alive(&all).await, ["run", "other job"]);
    assert_eq!(
        world.gitlab("Pipeline Hook", &pipeline("success")).await,
        204
    );
    assert_eq!(world.alive(&all).await, ["other job"]);
    let canceled = build(20, second, "canceled");
    assert_eq!(world.gitlab("Job Hook", &canceled).await, 204);
    assert!(world.alive(&all).await.is_empty());
}
