//! Every preset, by a token of its platform's real shape.

use super::{JWT, agent, ask, changed};
use crate::agents::sighted;
use crate::cli::dayfly;
use crate::support::broker::{Answer, OPERATOR_TOKEN, Setup, TestBroker, configuration, unique};
use crate::support::issuer::Issuer;
use crate::support::process::until;
use crate::support::tokens::{self, GithubSubject};
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::jose::Algorithm;
use serde_json::{Value, json};
use std::path::Path;

/// One platform: what the configuration says, and what spoils its token.
struct Platform {
    name: &'static str,
    /// Beside the `url`.
    settings: &'static str,
    identity: &'static str,
    /// Facts that its tokens prove.
    require: &'static str,
    algorithm: Algorithm,
    token: fn(i64, &str, &str) -> Value,
    /// Claims that say who it is: another value is somebody else.
    identifying: &'static [(&'static str, &'static str)],
    /// A claim that the mission requires.
    required: (&'static str, &'static str),
}

const PLATFORMS: [Platform; 8] = [
    Platform {
        name: "github",
        settings: "tenant = { repository_owner_id = 4321 }",
        identity: r#"{ github = "acme/checkout", repository_id = 1234, workflow = "deploy.yml", ref = "refs/heads/main" }"#,
        require: r#"{ "pipeline.environment" = "production", "pipeline.job_id" = "55667788990", "pipeline.ref_protected" = "true" }"#,
        algorithm: Algorithm::Rs256,
        token: |now, issuer, audience| {
            tokens::github(now, issuer, audience, GithubSubject::Immutable)
        },
        identifying: &[
            ("/repository_id", "999"),
            ("/repository_owner_id", "1"),
            ("/repository", "acme/other"),
            ("/ref", "refs/heads/other"),
            (
                "/workflow_ref",
                "acme/checkout/.github/workflows/other.yml@refs/heads/main",
            ),
        ],
        required: ("/environment", "staging"),
    },
    Platform {
        name: "gitlab",
        settings: "tenant = { namespace_id = 72 }",
        identity: r#"{ gitlab = "acme/checkout", project_id = 20, ref = "main" }"#,
        require: r#"{ "pipeline.environment" = "production", "pipeline.run_id" = "574" }"#,
        algorithm: Algorithm::Rs256,
        token: tokens::gitlab,
        identifying: &[
            ("/project_id", "21"),
            ("/namespace_id", "1"),
            ("/ref", "other"),
        ],
        required: ("/environment", "staging"),
    },
    Platform {
        name: "kubernetes",
        settings: "",
        identity: r#"{ kubernetes = "shop/checkout" }"#,
        require: r#"{ "kubernetes.pod" = "checkout-7d9f" }"#,
        algorithm: Algorithm::Rs256,
        token: tokens::kubernetes,
        identifying: &[
            ("/kubernetes.io/namespace", "other"),
            ("/kubernetes.io/serviceaccount/name", "other"),
        ],
        required: ("/kubernetes.io/pod/name", "other"),
    },
    Platform {
        name: "gcp",
        settings: r#"tenant = { "google.compute_engine.project_number" = 271828182845 }"#,
        identity: r#"{ gcp = "checkout@acme-prod.iam.gserviceaccount.com", service_account_id = "104523456789012345678" }"#,
        require: r#"{ "gcp.zone" = "europe-west1-b", "gcp.project" = "acme-prod" }"#,
        algorithm: Algorithm::Rs256,
        token: tokens::gcp,
        identifying: &[
            ("/sub", "1"),
            ("/email", "other@acme-prod.iam.gserviceaccount.com"),
            ("/google/compute_engine/project_number", "1"),
        ],
        required: ("/google/compute_engine/zone", "us-east1-a"),
    },
    Platform {
        name: "buildkite",
        settings: r#"tenant = { organization_id = "0184990a-477b-4fa8-9968-496074483cee" }"#,
        identity: r#"{ buildkite = "acme-inc/checkout", pipeline_id = "0184990a-4782-42b5-afc1-16715b10b8ff", ref = "main" }"#,
        require: r#"{ "pipeline.step" = "deploy", "pipeline.event" = "webhook" }"#,
        algorithm: Algorithm::Rs256,
        token: tokens::buildkite,
        identifying: &[
            ("/pipeline_id", "x"),
            ("/organization_id", "x"),
            ("/organization_slug", "other"),
            ("/pipeline_slug", "other"),
            ("/build_branch", "other"),
        ],
        required: ("/build_source", "ui"),
    },
    Platform {
        name: "circleci",
        settings: "",
        identity: r#"{ circleci = "6f9e2c1d-55aa-4c77-9d3e-2b1a0f9e8d7c", ref = "refs/heads/main" }"#,
        require: r#"{ "pipeline.repository" = "github.com/acme/checkout" }"#,
        algorithm: Algorithm::Rs256,
        token: tokens::circleci,
        identifying: &[
            ("/oidc.circleci.com~1project-id", "x"),
            ("/oidc.circleci.com~1vcs-ref", "refs/heads/other"),
        ],
        required: ("/oidc.circleci.com~1vcs-origin", "github.com/acme/other"),
    },
    Platform {
        name: "aws",
        settings: "",
        identity: r#"{ aws = "arn:aws:iam::111122223333:role/ci/checkout-deploy", account = "111122223333" }"#,
        require: r#"{ "aws.region" = "eu-west-1", "aws.organization" = "o-abc1234567" }"#,
        algorithm: Algorithm::Es384,
        token: tokens::aws,
        identifying: &[
            ("/sub", "arn:aws:iam::111122223333:role/other"),
            ("/https:~1~1sts.amazonaws.com~1/aws_account", "999999999999"),
        ],
        required: ("/https:~1~1sts.amazonaws.com~1/source_region", "us-east-1"),
    },
    Platform {
        name: "generic",
        settings: r#"facts = { "job.team" = "https://sts.amazonaws.com/.principal_tags.team" }"#,
        identity: r#"{ issuer = "generic", subject = "arn:aws:iam::111122223333:role/ci/checkout-deploy" }"#,
        require: r#"{ "job.team" = "payments" }"#,
        algorithm: Algorithm::Ed25519,
        token: tokens::aws,
        identifying: &[("/sub", "somebody-else")],
        required: (
            "/https:~1~1sts.amazonaws.com~1/principal_tags/team",
            "other",
        ),
    },
];

struct World {
    broker: TestBroker,
    issuers: Vec<Issuer>,
    more: String,
}

impl World {
    async fn start() -> Self {
        let mut issuers = Vec::new();
        let mut more = String::new();
        for platform in &PLATFORMS {
            let issuer = Issuer::with(platform.algorithm).await;
            let Platform { name, settings, .. } = platform;
            more += &format!("\n[issuer.{name}]\nurl = \"{}\"\n{settings}\n", issuer.url);
            let require = format!("require = {}", platform.require);
            more += &agent(&format!("on-{name}"), platform.identity, &require);
            issuers.push(issuer);
        }
        more += &agent(
            "reviewing",
            r#"{ github = "acme/checkout", repository_id = 1234, event = "pull_request_target" }"#,
            "",
        );
        let setup = Setup {
            more: more.clone(),
            ..Setup::default()
        };
        Self {
            broker: TestBroker::with(setup).await,
            issuers,
            more,
        }
    }

    fn claims(&self, place: usize) -> Value {
        let (platform, issuer) = (&PLATFORMS[place], &self.issuers[place]);
        (platform.token)(self.broker.now(), &issuer.url, &self.broker.url)
    }

    async fn send(&self, place: usize, agent: &str, claims: &Value) -> Answer {
        let token = self.issuers[place].sign(claims);
        ask(&self.broker, agent, &token, JWT).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_each_platform_is_its_agent_with_its_facts_and_nobody_elses() {
    let world = World::start().await;
    for (place, platform) in PLATFORMS.iter().enumerate() {
        let agent = format!("on-{}", platform.name);
        let claims = world.claims(place);
        let answer = world.send(place, &agent, &claims).await;
        assert_eq!(answer.status, 200, "{agent}: {}", answer.body);
        for (pointer, value) in platform.identifying {
            let what = format!("{agent} {pointer}");
            let other = changed(&claims, pointer, &json!(value));
            let answer = world.send(place, &agent, &other).await;
            assert_eq!(answer.status, 400, "{what}: {}", answer.body);
            assert_eq!(answer.reason(), "", "{what}: nothing is told to a stranger");
            let without = changed(&claims, pointer, &Value::Null);
            let answer = world.send(place, &agent, &without).await;
            assert_eq!(answer.status, 400, "{what}: {}", answer.body);
        }
        let (pointer, value) = platform.required;
        for value in [json!(value), Value::Null] {
            let other = changed(&claims, pointer, &value);
            let answer = world.send(place, &agent, &other).await;
            assert_refused(
                &answer,
                Reason::RequirementUnmet,
                &format!("{agent} {pointer}"),
            );
        }
        for (pointer, value) in [
            ("/aud", json!("https://another.example")),
            ("/sub", json!(7)),
        ] {
            let answer = world
                .send(place, &agent, &changed(&claims, pointer, &value))
                .await;
            assert_refused(&answer, Reason::InvalidToken, &format!("{agent} {pointer}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_presets_lifetime_and_algorithms_bound_its_tokens() {
    let world = World::start().await;
    for (place, platform) in PLATFORMS.iter().enumerate() {
        let agent = format!("on-{}", platform.name);
        let mut claims = world.claims(place);
        let longest = dayfly::identity::presets::by_name(platform.name)
            .unwrap()
            .max_lifetime;
        claims["iat"] = json!(world.broker.now());
        claims["nbf"] = json!(world.broker.now());
        claims["exp"] = json!(world.broker.now() + i64::try_from(longest.as_secs()).unwrap() + 1);
        let answer = world.send(place, &agent, &claims).await;
        assert_refused(
            &answer,
            Reason::InvalidToken,
            &format!("{agent} lives too long"),
        );
    }
    // Another platform's key under this one's name.
    let forged = world.issuers[1].sign(&world.claims(0));
    let answer = ask(&world.broker, "on-github", &forged, JWT).await;
    assert_refused(&answer, Reason::InvalidToken, "GitLab's key");
}

#[tokio::test(flavor = "multi_thread")]
async fn githubs_two_subjects_are_one_agent_and_a_strangers_pull_request_is_none() {
    let world = World::start().await;
    let (now, issuer) = (world.broker.now(), &world.issuers[0].url);
    let claims = tokens::github(now, issuer, &world.broker.url, GithubSubject::Names);
    let answer = world.send(0, "on-github", &claims).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let pull = changed(&claims, "/event_name", &json!("pull_request_target"));
    let answer = world.send(0, "on-github", &pull).await;
    assert_refused(&answer, Reason::UnknownAgent, "pull_request_target");
    // Whoever names it means it.
    let answer = world.send(0, "reviewing", &pull).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circleci_job_that_somebody_has_a_shell_in_is_nobody() {
    let world = World::start().await;
    let shell = changed(
        &world.claims(5),
        "/oidc.circleci.com~1ssh-rerun",
        &json!(true),
    );
    let answer = world.send(5, "on-circleci", &shell).await;
    // Nobody's key signs for nobody: the same face as any other intent that is not the agent's.
    assert_refused(&answer, Reason::InvalidIntent, "an SSH rerun");
}

/// Each platform, and what makes somebody else of whoever is known there.
const STRANGERS: [(&str, &str, &str); 8] = [
    ("github", "/ref", "refs/heads/other"),
    ("gitlab", "/ref", "other"),
    ("kubernetes", "/kubernetes.io/serviceaccount/name", "other"),
    ("gcp", "/sub", "104523456789012345679"),
    ("buildkite", "/build_branch", "other"),
    (
        "circleci",
        "/oidc.circleci.com~1vcs-ref",
        "refs/heads/other",
    ),
    ("aws", "/sub", "arn:aws:iam::111122223333:role/ci/other"),
    ("generic", "/sub", "somebody-else"),
];

/// Whoever is of no agent yet.
struct Stranger<'a> {
    world: &'a World,
    place: usize,
    name: String,
    changed: (&'static str, &'static str),
}

impl<'a> Stranger<'a> {
    fn of(
        world: &'a World,
        (platform, pointer, value): (&str, &'static str, &'static str),
    ) -> Self {
        let place = PLATFORMS.iter().position(|one| one.name == platform);
        Self {
            world,
            place: place.unwrap(),
            name: format!("new-on-{platform}"),
            changed: (pointer, value),
        }
    }

    fn claims(&self) -> Value {
        let (pointer, value) = self.changed;
        changed(&self.world.claims(self.place), pointer, &json!(value))
    }

    async fn asks(&self) -> Answer {
        self.world
            .send(self.place, &self.name, &self.claims())
            .await
    }

    fn folder(&self) -> &Path {
        self.world.broker.folder.path()
    }

    /// The table that `agent adopt` writes, with the key of its intents.
    async fn adopted(&self) -> String {
        let broker = &self.world.broker;
        let answer = self.asks().await;
        assert_eq!(answer.status, 400, "{}: {}", self.name, answer.body);
        let operator = self.folder().join("operator.token");
        std::fs::write(&operator, OPERATOR_TOKEN).unwrap();
        let environment = [
            ("DAYFLY_URL", broker.url.as_str()),
            ("DAYFLY_OPERATOR_TOKEN_FILE", operator.to_str().unwrap()),
        ];
        let claims = self.claims();
        let seen = sighted(broker, claims["sub"].as_str().unwrap()).await;
        assert_eq!(seen["issuer"], PLATFORMS[self.place].name);
        let file = self.folder().join(format!("{}.toml", self.name));
        let adopt = [
            "agent",
            "adopt",
            seen["id"].as_str().unwrap(),
            "--name",
            &self.name,
            "--ends",
            "2099-01-01",
            "--out",
            file.to_str().unwrap(),
        ];
        dayfly(&adopt, &environment, "").await.is(0);
        let written = std::fs::read_to_string(&file).unwrap();
        format!("{written}intent_keys = \"file:deployer.jwks.json\"\n")
    }

    /// Merged, and in force, once `check` has nothing against it.
    async fn merged(&self, more: &str) {
        let broker = &self.world.broker;
        let base = configuration(&broker.url, &broker.issuer, "ES256") + &self.world.more;
        let text = format!("{base}\n{more}");
        let house = self.folder().join(format!("of-{}", unique()));
        std::fs::create_dir(&house).unwrap();
        let keys = "deployer.jwks.json";
        std::fs::copy(self.folder().join(keys), house.join(keys)).unwrap();
        std::fs::write(house.join("dayfly.toml"), &text).unwrap();
        let checked = dayfly(&["check", house.to_str().unwrap()], &[], "").await;
        assert_eq!(checked.code, 0, "{}: {more}\n{checked:?}", self.name);
        let files = vec![("test.toml".to_owned(), text)];
        let settings = dayfly::config::load_with(files, self.folder().to_owned())
            .and_then(|document| document.resolve())
            .unwrap_or_else(|problems| panic!("{}: {problems}", self.name));
        broker.composed.reload(&settings).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_of_a_platform_is_adopted_as_it_was_proved_and_then_let_in() {
    let world = World::start().await;
    for stranger in STRANGERS {
        let stranger = Stranger::of(&world, stranger);
        let written = stranger.adopted().await;
        // What a person adds: a mission.
        let more = agent(&stranger.name, "{}", "");
        let mission = &more[more.find("[mission.").unwrap()..];
        stranger.merged(&format!("{written}{mission}")).await;
        let answer = stranger.asks().await;
        let name = &stranger.name;
        assert_eq!(answer.status, 200, "{name}: {written}\n{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_adopted_asks_and_its_mission_is_written_from_what_it_was_refused() {
    let world = World::start().await;
    let stranger = Stranger::of(&world, STRANGERS[0]);
    let written = stranger.adopted().await;
    stranger.merged(&written).await;
    let answer = stranger.asks().await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    let audit = stranger.folder().join("audit");
    let suggest = [
        "mission",
        "suggest",
        "--audit",
        audit.to_str().unwrap(),
        "--agent",
        &stranger.name,
    ];
    until("it is exported", || async {
        dayfly(&suggest, &[], "").await.code == 0
    })
    .await;
    let mission = dayfly(&suggest, &[], "").await.out;
    assert!(mission.contains("deploy:write"), "{mission}");
    stranger.merged(&format!("{written}{mission}")).await;
    let answer = stranger.asks().await;
    assert_eq!(answer.status, 200, "{mission}\n{}", answer.body);
}
