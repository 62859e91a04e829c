//! A signed GetCallerIdentity against a real moto that checks signatures, keys and session tokens.

use super::{agent, exchange_form, intent};
use crate::support::broker::{Answer, Setup, TestBroker, b64, unique, with};
use crate::support::moto::{AwsKeys, Moto, element};
use crate::support::time::Manual;
use crate::support::tools;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::identity::aws::{BODY, NONCE, SERVER_ID, TOKEN_TYPE};
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use time::OffsetDateTime;

const ACCOUNT: &str = "123456789012";

struct World {
    broker: TestBroker,
    moto: Moto,
    /// A session of the role `dayfly-deploy`.
    session: AwsKeys,
    clock: Arc<Manual>,
}

impl World {
    /// `None`: no moto on this machine, which was said.
    async fn start() -> Option<Self> {
        Self::of_account(ACCOUNT).await
    }

    async fn of_account(account: &str) -> Option<Self> {
        let moto = Moto::start(true).await?;
        let now = SystemClock::new().now();
        let session = assume(&moto, "i-0abc", now).await;
        let role_id = own_id(&moto, &session, now).await;
        let (role_id, _) = role_id.split_once(':').unwrap();
        let more = format!(
            r#"
[issuer.aws-sts]
preset = "aws_sts"
endpoints = ["{}"]
tenant = {{ account = "{account}" }}
"#,
            moto.url
        ) + &agent(
            "deploy-role",
            &format!(
                r#"{{ issuer = "aws-sts", aws_sts = "{ACCOUNT}/dayfly-deploy", role_id = "{role_id}" }}"#
            ),
            r#"require = { "aws.session" = "i-0abc" }"#,
        );
        let clock = Manual::start();
        let setup = Setup {
            more,
            clock: clock.clone(),
            ..Setup::default()
        };
        Some(Self {
            broker: TestBroker::with(setup).await,
            moto,
            session,
            clock,
        })
    }

    fn now(&self) -> OffsetDateTime {
        self.broker.composed.clock.now()
    }

    /// What an agent hands over, bound to `key`.
    fn request(&self, keys: &AwsKeys, key: &SigningKey) -> Value {
        let server = format!("{}#jkt={}", self.broker.url, key.thumbprint());
        self.request_for(keys, &server, self.now())
    }

    fn request_for(&self, keys: &AwsKeys, server: &str, now: OffsetDateTime) -> Value {
        let nonce = unique();
        let more = [(SERVER_ID, server), (NONCE, nonce.as_str())];
        let headers = self.moto.signed(keys, "sts", BODY, &more, now);
        let headers: serde_json::Map<String, Value> = headers
            .into_iter()
            .map(|(name, value)| (name, Value::from(value)))
            .collect();
        json!({ "method": "POST", "url": format!("{}/", self.moto.url), "headers": headers, "body": BODY })
    }

    /// With an intent of that key, which nobody registered.
    async fn send(&self, agent: &str, request: &Value, key: &SigningKey) -> Answer {
        self.broker.exchange(&self.form(agent, request, key)).await
    }

    fn form(&self, agent: &str, request: &Value, key: &SigningKey) -> Vec<(String, String)> {
        let token = b64(request.to_string().as_bytes());
        let claims = intent(&self.broker, agent, None);
        let intent = key.sign("intent+jwt", None, &claims, true).unwrap();
        exchange_form(&token, TOKEN_TYPE, &intent)
    }
}

async fn own_id(moto: &Moto, keys: &AwsKeys, now: OffsetDateTime) -> String {
    let (status, told) = moto.call(keys, "sts", BODY, now).await.unwrap();
    assert_eq!(status, 200, "{told}");
    element(&told, "UserId").unwrap()
}

/// A session of the role, as the user who may assume it.
async fn assume(moto: &Moto, session: &str, now: OffsetDateTime) -> AwsKeys {
    let role = &moto.role_arn;
    let form =
        format!("Action=AssumeRole&Version=2011-06-15&RoleArn={role}&RoleSessionName={session}");
    let (status, told) = moto.call(&moto.keys(), "sts", &form, now).await.unwrap();
    assert_eq!(status, 200, "{told}");
    let text = |name: &str| element(&told, name).unwrap();
    AwsKeys {
        access_key_id: text("AccessKeyId"),
        secret_access_key: text("SecretAccessKey"),
        session_token: Some(text("SessionToken")),
    }
}

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::Es256).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_aws_says_signed_it_gets_a_credential_with_a_key_of_the_moment() {
    let Some(world) = World::start().await else {
        return;
    };
    let key = key();
    let request = world.request(&world.session, &key);
    let answer = world.send("deploy-role", &request, &key).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // The same role in another session is another caller: the mission requires this one.
    let other = assume(&world.moto, "i-0def", world.now()).await;
    let request = world.request(&other, &key);
    let answer = world.send("deploy-role", &request, &key).await;
    assert_refused(&answer, Reason::RequirementUnmet, "another session");
    // The user who may assume the role is not the role. (moto's users have ids as no user of AWS has.)
    let request = world.request(&world.moto.keys(), &key);
    let answer = world.send("deploy-role", &request, &key).await;
    assert_refused(&answer, Reason::InvalidToken, "the user as the role");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_is_good_once_and_a_refusal_does_not_spend_it() {
    let Some(world) = World::start().await else {
        return;
    };
    let key = key();
    let request = world.request(&world.session, &key);
    let form = world.form("deploy-role", &request, &key);
    let wrong = with(form.clone(), "audience", "metrics-key");
    assert_eq!(world.broker.exchange(&wrong).await.status, 400);
    let form = world.form("deploy-role", &request, &key);
    assert_eq!(world.broker.exchange(&form).await.status, 200);
    // A new intent beside it, and another spelling of the same request.
    for again in [request.clone(), {
        let mut spelled = request.clone();
        let headers = spelled["headers"].as_object_mut().unwrap();
        let date = headers.remove("x-amz-date").unwrap();
        headers.insert("X-Amz-Date".to_owned(), date);
        spelled
    }] {
        let answer = world.send("deploy-role", &again, &key).await;
        assert_refused(&answer, Reason::TokenSpent, "again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_that_the_signature_names_and_no_other_signs_the_intent() {
    let Some(world) = World::start().await else {
        return;
    };
    let (bound, other) = (key(), key());
    let request = world.request(&world.session, &bound);
    let answer = world.send("deploy-role", &request, &other).await;
    assert_refused(&answer, Reason::InvalidIntent, "another key");
    // Not even the agent's registered one.
    let token = b64(request.to_string().as_bytes());
    let claims = intent(&world.broker, "deploy-role", Some(&token));
    let registered = world.broker.sign_intent(&claims);
    let form = exchange_form(&token, TOKEN_TYPE, &registered);
    let answer = world.broker.exchange(&form).await;
    assert_refused(&answer, Reason::InvalidIntent, "the registered key");
    // Where the request names no key, the registered one ties itself to it.
    let request = world.request_for(&world.session, &world.broker.url, world.now());
    let token = b64(request.to_string().as_bytes());
    for (tie, status) in [(None, 400), (Some(token.as_str()), 200)] {
        let intent = world
            .broker
            .sign_intent(&intent(&world.broker, "deploy-role", tie));
        let form = exchange_form(&token, TOKEN_TYPE, &intent);
        let answer = world.broker.exchange(&form).await;
        assert_eq!(answer.status, status, "{tie:?}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_does_not_stand_by_is_nobodys() {
    let Some(world) = World::start().await else {
        return;
    };
    let key = key();
    let refused = async |what: &str, request: &Value| {
        let answer = world.send("deploy-role", request, &key).await;
        assert_refused(&answer, Reason::InvalidToken, what);
    };
    let good = world.request(&world.session, &key);
    let mut flipped = good.clone();
    let text = good["headers"]["authorization"].as_str().unwrap();
    let (front, last) = text.split_at(text.len() - 1);
    let last = if last == "0" { "1" } else { "0" };
    flipped["headers"]["authorization"] = json!(format!("{front}{last}"));
    refused("another signature", &flipped).await;
    let mut moved = good.clone();
    moved["headers"][SERVER_ID] = json!(world.broker.url);
    refused("a server id that was not signed", &moved).await;
    let mut later = good.clone();
    later["headers"][NONCE] = json!("another");
    refused("another nonce", &later).await;
    let stranger = AwsKeys {
        access_key_id: "AKIAEXAMPLEEXAMPLE12".to_owned(),
        ..world.session.clone()
    };
    refused("an unknown key", &world.request(&stranger, &key)).await;
    let without = AwsKeys {
        session_token: Some("another".to_owned()),
        ..world.session.clone()
    };
    refused("another session token", &world.request(&without, &key)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_service_or_of_another_time_is_not_even_asked_about() {
    let Some(world) = World::start().await else {
        return;
    };
    let key = key();
    let now = world.now();
    let jkt = key.thumbprint();
    for (what, server, signed_at) in [
        (
            "another broker",
            format!("https://another.example#jkt={jkt}"),
            now,
        ),
        (
            "a prefix",
            format!("{}.evil.example#jkt={jkt}", world.broker.url),
            now,
        ),
        ("an unclear key", format!("{}#jkt=x", world.broker.url), now),
        (
            "too old",
            format!("{}#jkt={jkt}", world.broker.url),
            now - Duration::from_secs(361),
        ),
        (
            "not yet",
            format!("{}#jkt={jkt}", world.broker.url),
            now + Duration::from_secs(61),
        ),
    ] {
        let request = world.request_for(&world.session, &server, signed_at);
        let answer = world.send("deploy-role", &request, &key).await;
        assert_refused(&answer, Reason::InvalidToken, what);
    }
    let request = world.request(&world.session, &key);
    world.clock.advance(Duration::from_secs(300));
    let answer = world.send("deploy-role", &request, &key).await;
    assert_eq!(
        answer.status, 200,
        "within its time and leeway: {}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_never_leads_anywhere_but_to_a_configured_endpoint() {
    let Some(world) = World::start().await else {
        return;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = listener.local_addr().unwrap();
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let key = key();
    let authority = world.moto.url.trim_start_matches("http://").to_owned();
    for url in [
        format!("http://{elsewhere}/"),
        format!("http://{authority}@{elsewhere}/"),
        format!("http://{elsewhere}#{authority}/"),
        format!("http://{elsewhere}\\@{authority}/"),
        "http://169.254.169.254/".to_owned(),
        "https://sts.amazonaws.com/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let mut request = world.request(&world.session, &key);
        request["url"] = json!(url);
        let host = url.split("://").nth(1).unwrap_or_default();
        for host in [host.trim_end_matches('/'), authority.as_str()] {
            request["headers"]["host"] = json!(host);
            let answer = world.send("deploy-role", &request, &key).await;
            assert_refused(&answer, Reason::InvalidToken, &url);
        }
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_is_nobody_whatever_its_signature() {
    let Some(world) = World::of_account("999999999999").await else {
        return;
    };
    let key = key();
    let request = world.request(&world.session, &key);
    let answer = world.send("deploy-role", &request, &key).await;
    assert_refused(&answer, Reason::InvalidToken, "another tenant");
}

/// moto gives no error of STS's own kind for these, so this one is scripted.
#[tokio::test(flavor = "multi_thread")]
async fn while_sts_gives_no_answer_nobody_gets_in() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let error =
        |code: &str| format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>");
    let other = "<AssumeRoleWithWebIdentityResponse><Arn>arn:aws:sts::123456789012:assumed-role/dayfly-deploy/i-0abc</Arn></AssumeRoleWithWebIdentityResponse>";
    let says = [
        (500, String::new(), Reason::IssuerUnavailable),
        (503, error("ServiceUnavailable"), Reason::IssuerUnavailable),
        (400, error("Throttling"), Reason::IssuerUnavailable),
        (429, String::new(), Reason::IssuerUnavailable),
        (302, String::new(), Reason::IssuerUnavailable),
        (403, error("SignatureDoesNotMatch"), Reason::InvalidToken),
        (200, other.to_owned(), Reason::InvalidToken),
        (200, String::new(), Reason::InvalidToken),
    ];
    let answers: Vec<(u16, String)> = says.iter().map(|(s, b, _)| (*s, b.clone())).collect();
    tokio::spawn(async move {
        for (status, body) in answers {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = vec![0; 8192];
            let length = stream.read(&mut read).await.unwrap();
            let head = String::from_utf8_lossy(&read[..length]).into_owned();
            assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
            let answer = format!(
                "HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let more = format!(
        "\n[issuer.aws-sts]\npreset = \"aws_sts\"\nendpoints = [\"{url}\"]\ntenant = {{ account = \"{ACCOUNT}\" }}\n"
    ) + &agent(
        "deploy-role",
        r#"{ issuer = "aws-sts", role_id = "AROAEXAMPLE" }"#,
        "",
    );
    let broker = TestBroker::with(Setup {
        more,
        ..Setup::default()
    })
    .await;
    let moment = broker.composed.clock.now();
    let day = moment.date().to_string().replace('-', "");
    let stamp = format!(
        "{day}T{:02}{:02}{:02}Z",
        moment.hour(),
        moment.minute(),
        moment.second()
    );
    let ask = async |place: usize, server: &str| {
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLEEXAMPLE12/{day}/us-east-1/sts/aws4_request, SignedHeaders=host;x-amz-date;x-dayfly-server-id, Signature={place:064x}"
        );
        let request = json!({
            "method": "POST", "url": format!("{url}/"), "body": BODY,
            "headers": {
                "Host": url.trim_start_matches("http://"), "X-Amz-Date": stamp,
                "X-Dayfly-Server-Id": server, "Authorization": signed,
            },
        });
        let token = b64(request.to_string().as_bytes());
        super::ask(&broker, "deploy-role", &token, TOKEN_TYPE).await
    };
    // A request for another service is not asked about: it would use up the first answer.
    let answer = ask(100, "https://another.example").await;
    assert_refused(&answer, Reason::InvalidToken, "another broker");
    for (place, (status, _, reason)) in says.iter().enumerate() {
        let answer = ask(place, &broker.url).await;
        assert_refused(&answer, *reason, &format!("{status}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_signs_with_the_credentials_it_finds_and_with_a_key_of_the_moment() {
    let Some(world) = World::start().await else {
        return;
    };
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("AWS_ACCESS_KEY_ID", &world.session.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &world.session.secret_access_key)
        .env(
            "AWS_SESSION_TOKEN",
            world.session.session_token.as_ref().unwrap(),
        )
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL_STS", &world.moto.url)
        .args(["token", "--identity", "aws", "--url", &world.broker.url])
        .args(["--agent", "deploy-role", "--mission", "of-deploy-role"])
        .args(["--target", "deploy-api", "--goal", "Deploy", "-o", "json"]);
    let answer = tools::json_of(command).await;
    assert!(
        answer["lease_id"].as_str().unwrap().starts_with("dfl"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_python_signs_a_request_that_is_accepted() {
    let Some(world) = World::start().await else {
        return;
    };
    let Some(python) = tools::python() else {
        return;
    };
    let mut command = tokio::process::Command::new(python);
    command
        .arg(tools::script("aws_signed_request.py"))
        .args([&world.moto.url, "us-east-1", &world.broker.url])
        .env("AWS_ACCESS_KEY_ID", &world.session.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &world.session.secret_access_key)
        .env(
            "AWS_SESSION_TOKEN",
            world.session.session_token.as_ref().unwrap(),
        );
    let told = tools::json_of(command).await;
    let token = told["subject_token"].as_str().unwrap();
    assert_eq!(told["subject_token_type"], TOKEN_TYPE);
    let answer = super::ask(&world.broker, "deploy-role", token, TOKEN_TYPE).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}
