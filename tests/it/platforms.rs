//! Tokens exactly as GitHub Actions, GitLab and Kubernetes shape them, from an issuer that serves
//! discovery and keys over HTTP, against a real Redis, minting from a real moto.

use crate::support::broker::{Answer, Setup, TestBroker, b64, form, sha256, unique};
use crate::support::issuer::Issuer;
use crate::support::moto::{AwsKeys, Moto};
use crate::support::process::secret_file;
use crate::support::redis::RedisServer;
use crate::support::tokens::{self, GithubSubject};
use dayfly::secret::Secret;
use dayfly::store::redis::{Redis, RedisSettings};
use serde_json::{Value, json};
use std::sync::Arc;

/// The role may list buckets and nothing else.
const ACTION: &str = "s3:ListAllMyBuckets";

fn configuration([github, gitlab, kubernetes]: [&str; 3], connection: &str) -> String {
    format!(
        r#"
[issuer.github]
url = "{github}"
tenant = {{ repository_owner_id = ["4321"] }}

[issuer.gitlab]
url = "{gitlab}"
tenant = {{ namespace_id = ["72"] }}

[issuer.kubernetes]
url = "{kubernetes}"

[agent.on-github]
owner = "payments@acme.example"
purpose = "A workflow"
ends = 2099-01-01
identity = {{ github = "acme/checkout", repository_id = 1234, workflow = "deploy.yml", ref = "refs/heads/main" }}
intent_keys = "file:deployer.jwks.json"

[agent.on-gitlab]
owner = "payments@acme.example"
purpose = "A pipeline"
ends = 2099-01-01
identity = {{ gitlab = "acme/checkout", project_id = 20, ref = "main" }}
intent_keys = "file:deployer.jwks.json"

[agent.on-kubernetes]
owner = "payments@acme.example"
purpose = "A pod"
ends = 2099-01-01
identity = {{ kubernetes = "shop/checkout" }}
intent_keys = "file:deployer.jwks.json"

[mission.look-around]
agents = ["on-github", "on-gitlab", "on-kubernetes"]
owner = "sre@acme.example"
purpose = "See which buckets there are"
ttl = "15m"
allow = [{{ target = "aws-prod", actions = ["{ACTION}"], locations = ["*"] }}]

[target.aws-prod]
kind = "aws"
{connection}
ceiling = {{ actions = ["s3:*"], locations = ["*"] }}
"#
    )
}

struct Platforms {
    broker: TestBroker,
    moto: Moto,
    github: Issuer,
    gitlab: Issuer,
    kubernetes: Issuer,
    _redis: RedisServer,
    _secrets: tempfile::TempDir,
}

impl Platforms {
    /// `None`: no redis-server or no moto on this machine, which was said.
    async fn start(method: &str) -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
        let moto = Moto::start(method == "assume_role").await?;
        let (github, gitlab, kubernetes) = (
            Issuer::start().await,
            Issuer::start().await,
            Issuer::start().await,
        );
        let secrets = tempfile::tempdir().unwrap();
        let secret = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            secret_file(&path, text);
            path.display().to_string()
        };
        let credentials = match method {
            "assume_role" => format!(
                "access_key_id = \"file:{}\"\nsecret_access_key = \"file:{}\"",
                secret("id", &moto.access_key_id),
                secret("key", &moto.secret_access_key)
            ),
            _ => String::new(),
        };
        let connection = format!(
            "role = \"{}\"\nmethod = \"{method}\"\nendpoint = \"{}\"\n{credentials}",
            moto.role_arn, moto.url
        );
        let more = configuration([&github.url, &gitlab.url, &kubernetes.url], &connection);
        let store = Redis::connect(RedisSettings::new(Secret::new(redis.url())))
            .await
            .unwrap();
        let setup = Setup {
            store: Some(Arc::new(store)),
            more,
            ..Setup::default()
        };
        let broker = TestBroker::with(setup).await;
        Some(Self {
            broker,
            moto,
            github,
            gitlab,
            kubernetes,
            _redis: redis,
            _secrets: secrets,
        })
    }

    fn github_claims(&self, subject: GithubSubject) -> Value {
        tokens::github(
            self.broker.now(),
            &self.github.url,
            &self.broker.url,
            subject,
        )
    }

    async fn ask(&self, agent: &str, token: &str) -> Answer {
        let now = self.broker.now();
        let claims = json!({
            "iss": agent, "sub": agent, "client_id": agent, "aud": self.broker.url,
            "iat": now, "exp": now + 120, "jti": unique(), "mission": { "id": "look-around" },
            "authorization_details": [{
                "type": "aws_session", "identifier": "aws-prod",
                "actions": [ACTION], "locations": ["*"],
            }],
            "intent": { "goal": "See which buckets there are" },
            "subject_token_hash": b64(&sha256(token.as_bytes())),
        });
        let fields = form(&[
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("subject_token", token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", "aws-prod"),
            ("intent", &self.broker.sign_intent(&claims)),
        ]);
        self.broker.exchange(&fields).await
    }

    /// The answer's `access_token` is a handle of the lease: it opens nothing and ends everything.
    async fn assert_ended_by_its_handle(&self, answer: &Answer) {
        let handle = answer.body["access_token"].as_str().unwrap();
        assert!(handle.starts_with("dayflyh_"), "{handle}");
        assert_eq!(answer.body["token_type"], "N_A");
        let path = format!("/leases/{}", answer.body["lease_id"].as_str().unwrap());
        let before = self.broker.admin("GET", &path, None).await;
        assert_eq!(before.body["alive"], true, "{}", before.body);
        let ended = self
            .broker
            .post("/revoke", &form(&[("token", handle)]))
            .await;
        assert_eq!(ended.status, 200);
        let after = self.broker.admin("GET", &path, None).await;
        assert_eq!(after.body["alive"], false, "{}", after.body);
        assert_ne!(
            after.body["state"], "revoked",
            "nobody downstream confirmed it"
        );
    }

    /// The minted keys, used for real: AWS knows them, as a session named after the lease, and they
    /// do what the role may and nothing else.
    async fn assert_usable(&self, answer: &Answer) {
        assert_eq!(answer.status, 200, "{}", answer.body);
        let credential = &answer.body["credential"];
        let text = |name: &str| credential[name].as_str().unwrap().to_owned();
        let keys = AwsKeys {
            access_key_id: text("access_key_id"),
            secret_access_key: text("secret_access_key"),
            session_token: Some(text("session_token")),
        };
        let now = self.broker.composed.clock.now();
        let who = "Action=GetCallerIdentity&Version=2011-06-15";
        let (status, told) = self.moto.call(&keys, "sts", who, now).await.unwrap();
        let lease = answer.body["lease_id"].as_str().unwrap();
        assert_eq!(status, 200, "{told}");
        assert!(
            told.contains(lease),
            "the session carries the lease's name: {told}"
        );
        let (status, told) = self.moto.call(&keys, "s3", "", now).await.unwrap();
        assert_eq!(status, 200, "{told}");
        let users = "Action=ListUsers&Version=2010-05-08";
        let (status, _) = self.moto.call(&keys, "iam", users, now).await.unwrap();
        assert_eq!(status, 403);
        assert_eq!(
            answer.body["revocation"]["class"], "expiry",
            "said, not hidden"
        );
        let found = self
            .broker
            .admin(
                "POST",
                "/find",
                Some(json!({ "query": keys.access_key_id })),
            )
            .await;
        assert_eq!(found.body["id"], lease, "{}", found.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_platform_s_tokens_get_aws_sessions_that_work() {
    let Some(world) = Platforms::start("assume_role").await else {
        return;
    };
    let now = world.broker.now();
    let audience = &world.broker.url;
    for subject in [GithubSubject::Immutable, GithubSubject::Names] {
        let token = world.github.sign(&world.github_claims(subject));
        world
            .assert_usable(&world.ask("on-github", &token).await)
            .await;
    }
    let token = world
        .gitlab
        .sign(&tokens::gitlab(now, &world.gitlab.url, audience));
    world
        .assert_usable(&world.ask("on-gitlab", &token).await)
        .await;
    // The same token serves for the whole job.
    world
        .assert_usable(&world.ask("on-gitlab", &token).await)
        .await;
    let claims = tokens::kubernetes(now, &world.kubernetes.url, audience);
    let token = world.kubernetes.sign(&claims);
    let answer = world.ask("on-kubernetes", &token).await;
    world.assert_usable(&answer).await;
    world.assert_ended_by_its_handle(&answer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_github_token_that_is_not_quite_the_agent_s_gets_nothing() {
    let Some(world) = Platforms::start("assume_role").await else {
        return;
    };
    for (claim, value) in [
        ("event_name", json!("pull_request_target")),
        ("repository_id", json!("9999")),
        ("repository_owner_id", json!("1")),
        ("repository", json!("acme/other")),
        (
            "workflow_ref",
            json!("acme/checkout/.github/workflows/other.yml@refs/heads/main"),
        ),
        ("aud", json!("https://another.example")),
        ("iss", json!("https://token.actions.githubusercontent.com")),
    ] {
        let mut claims = world.github_claims(GithubSubject::Immutable);
        claims[claim] = value.clone();
        let answer = world.ask("on-github", &world.github.sign(&claims)).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "invalid_request"),
            "{claim} = {value}"
        );
    }
    // Another platform's key under GitHub's name.
    let token = world
        .gitlab
        .sign(&world.github_claims(GithubSubject::Immutable));
    assert_eq!(world.ask("on-github", &token).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_s_own_token_is_what_aws_is_given_without_a_stored_key() {
    let Some(world) = Platforms::start("web_identity").await else {
        return;
    };
    let token = world
        .github
        .sign(&world.github_claims(GithubSubject::Immutable));
    let answer = world.ask("on-github", &token).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["credential"]["type"], "aws_session");
    // What AWS would fetch to verify that token.
    let issuer = format!("{}/federation/aws-prod", world.broker.url);
    let get = |path: &str| world.broker.http.get(format!("{issuer}{path}")).send();
    let metadata = Answer::of(get("/.well-known/openid-configuration").await.unwrap()).await;
    assert_eq!(metadata.body["issuer"], issuer);
    let keys = Answer::of(get("/jwks").await.unwrap()).await;
    assert_eq!(
        keys.body["keys"].as_array().map(Vec::len),
        Some(1),
        "{}",
        keys.body
    );
}
