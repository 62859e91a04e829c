//! Somebody who is not asked says that something is over: a pipeline's platform, an identity provider, or a
//! rule that reads the audit. Whoever hears no answer says it again; a rule is asked by nobody.

use super::run::{Again, Kind, Promised, Run};
use super::scenes::SETTLED;
use crate::contexts::hmac;
use crate::support::broker::Answer;
use crate::support::process::Process;
use crate::support::world::{inline_keys, key};
use dayfly::jose::SigningKey;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// What `hmac` signs with.
const SECRET: &str = "hook-secret";
/// Only what comes after its first look is a rule's business.
const FIRST_LOOK: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teller {
    /// GitHub: an attempt of a run.
    Run,
    /// GitHub: one job of it.
    Job,
    /// SCIM: an owner, of missions and of agents.
    Leaver,
    /// A response, which nobody is told of before it acts.
    Rule,
}

impl Teller {
    fn source(self, mission: &str) -> String {
        match self {
            Self::Run | Self::Job => {
                "[source.github]\nkind = \"github\"\nsecret = \"file:hook.secret\"\n\
                                      issuer = \"ci\"\nends = [\"1234\"]\n"
                    .to_owned()
            }
            Self::Leaver => "[source.people]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\n\
                             ends = [\"leaver@acme.example\"]\n"
                .to_owned(),
            Self::Rule => format!(
                "[[response]]\nname = \"wanders\"\non = \"exceeds_mission\"\nmission = \"{mission}\"\n\
                 do = [\"hold_mission\"]\n"
            ),
        }
    }

    /// As the audit has it.
    fn name(self) -> &'static str {
        match self {
            Self::Run | Self::Job => "source github",
            Self::Leaver => "source people",
            Self::Rule => "response wanders",
        }
    }
}

pub async fn play(mut run: Run, teller: Teller) {
    let key = key();
    run.is_told_by(teller, &key);
    let mut process = run.serve(0).await;
    if teller == Teller::Rule {
        tokio::time::sleep(FIRST_LOOK).await;
    }
    let other = match &run.other {
        Some(other) => {
            let mut other = other.spawn_mortal(0);
            other.until_ready().await;
            Some(other)
        }
        None => None,
    };
    let mut promised = Promised {
        alive: vec![run.bystander(&process).await],
        dead: vec![run.issued(&process).await],
        again: None,
    };
    if teller == Teller::Leaver {
        promised
            .dead
            .push(run.of_the_leavers_agent(&process, &key).await);
    }
    // Paused: what is done until the first one dies, it does alone.
    if let Some(other) = &other {
        other.signal(Signal::STOP);
    }
    run.arm(run.step);
    let heard = run.tells(&process, teller).await;
    run.died(&mut process).await;
    promised.again = (!heard).then_some(Again::Over(teller));
    match other {
        Some(other) => {
            other.signal(Signal::CONT);
            run.holds_at(other, &promised).await;
        }
        None => run.holds(SETTLED, &promised).await,
    }
}

impl Run {
    fn is_told_by(&mut self, teller: Teller, key: &SigningKey) {
        self.teller = Some(teller);
        self.secret("hook.secret", SECRET);
        if matches!(teller, Teller::Run | Teller::Job) {
            self.tether();
            let attempt = "\"pipeline.run_attempt\" = \"run_attempt\"";
            let job = format!("{attempt}, \"pipeline.job_id\" = \"check_run_id\"");
            self.edit(attempt, &job);
        }
        let agent = format!(
            "[agent.relay]\nowner = \"leaver@acme.example\"\npurpose = \"Is left behind\"\nends = 2099-01-01\n\
             identity = {{ client = {{ keys = {} }} }}\n\
             [mission.relay]\nagents = [\"relay\"]\nowner = \"sre@acme.example\"\n\
             purpose = \"Work of whoever is left behind\"\nttl = \"15m\"\n\
             allow = [{{ target = \"deploy-api\", actions = [\"deploy:write\"], locations = [\"https://deploy.example/checkout\"] }}]\n",
            inline_keys(key)
        );
        self.configure(&format!("{}{agent}", teller.source(&self.mission)));
    }

    /// Its mission is somebody else's.
    async fn of_the_leavers_agent(&self, at: &Process, key: &SigningKey) -> Value {
        let detail = json!({
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
        });
        let installation = &self.site.installation;
        let form = installation.client_form(("relay", key), "relay", None, &detail);
        let answer = installation.exchange(at, &form).await.unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
        answer.body
    }

    /// Whether it was answered with success. A rule answers nobody.
    async fn tells(&self, at: &Process, teller: Teller) -> bool {
        let told = match teller {
            Teller::Run => self.github(at, "workflow_run", "workflow_run").await,
            Teller::Job => self.github(at, "workflow_job", "workflow_job").await,
            Teller::Leaver => self.leaves(at).await,
            Teller::Rule => {
                let mut beyond = self.detail();
                beyond["actions"] = match self.kind {
                    Kind::Postgres => json!(["update"]),
                    _ => json!(["deploy:destroy"]),
                };
                let form = self.form(at, &beyond);
                let refused = self.site.installation.exchange(at, &form).await.unwrap();
                assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
                return false;
            }
        };
        told.is_ok_and(|answer| (200..300).contains(&answer.status))
    }

    /// The very same message each time.
    async fn github(&self, at: &Process, event: &str, of: &str) -> reqwest::Result<Answer> {
        let body = json!({
            "action": "completed",
            of: {
                "id": if of == "workflow_run" { 77 } else { 9000 },
                "run_attempt": 1, "conclusion": "success",
                "check_run_url": "https://api.github.com/repos/acme/checkout/check-runs/555",
            },
            "repository": { "id": 1234, "full_name": "acme/checkout" },
        })
        .to_string();
        let http = &self.site.installation.http;
        let request = http
            .post(format!("{}/hooks/github", at.base))
            .header("x-github-event", event)
            .header("x-hub-signature-256", hmac(body.as_bytes()))
            .body(body);
        Answer::read(request.send().await?).await
    }

    async fn leaves(&self, at: &Process) -> reqwest::Result<Answer> {
        let body = json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
            "Operations": [{ "op": "replace", "path": "active", "value": false }],
        });
        let url = format!("{}/scim/v2/Users/leaver@acme.example", at.base);
        let http = &self.site.installation.http;
        let request = http.patch(url).bearer_auth(SECRET);
        let request = request
            .header("content-type", "application/scim+json")
            .body(body.to_string());
        Answer::read(request.send().await?).await
    }

    /// Whoever heard no success says it again, until it does. What a rule began, it goes on with.
    pub async fn is_told_again(&self, at: &Process, teller: Teller, promised: &Promised) {
        let id = promised.dead[0]["lease_id"].as_str().unwrap();
        self.until("what is over is over", || async {
            match teller {
                Teller::Rule => self.site.installation.lease(at, id).await["alive"] == false,
                _ => self.tells(at, teller).await,
            }
        })
        .await;
    }

    /// What came to its end gets nothing new.
    pub async fn stays_over(&self, at: &Process) {
        if self.teller.is_none() {
            return;
        }
        let refused = self.ask(at).await.unwrap();
        assert_eq!(refused.status, 400, "{}\n{}", refused.body, at.log());
    }

    /// However often it was said.
    pub fn is_ended_once(&self) {
        let Some(teller) = self.teller else {
            return;
        };
        let all = self.exported();
        let by = |event: &str| {
            let ours = all
                .iter()
                .filter(|entry| entry["event"] == event && entry["detail"]["by"] == teller.name());
            ours.count()
        };
        let told: Vec<_> = all
            .iter()
            .map(|entry| (&entry["event"], &entry["detail"]["by"]))
            .collect();
        assert_eq!(by("fence_raised"), 1, "{told:?}");
        let left = usize::from(teller == Teller::Leaver);
        assert_eq!(by("owner_left"), left, "{told:?}");
    }
}
