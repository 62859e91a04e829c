//! Against a real moto where it can know, against a scripted STS on loopback where moto does not
//! look: what is asked, and what is made of every kind of answer.

use super::super::ConnectorSettings;
use super::super::conformance::{Subject, built, context, draw, grant, holds, keyring};
use super::*;
use crate::authority::{Authority, Permission};
use crate::clock::{Clock, SystemClock};
use crate::jose::{Algorithm, Compact, Purpose, TypRule};
use moto::{AwsKeys, Moto};
use scripted::{Script, Sts as ScriptedSts};
use serde_json::{Value, json};
use std::sync::Mutex;

#[path = "../../../tests/it/support/moto.rs"]
mod moto;
mod scripted;

const TIMEOUT: Duration = Duration::from_secs(20);
const ROLE: &str = "arn:aws:iam::123456789012:role/ci/dayfly-deploy";

fn allow(actions: &[&str], locations: &[&str]) -> Authority {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Authority(vec![Permission {
        actions: owned(actions),
        locations: owned(locations),
    }])
}

fn listing() -> crate::policy::GrantBuilder {
    grant("aws-prod", "aws_session").authority(allow(&["s3:ListAllMyBuckets"], &["*"]))
}

fn assume_role(url: &str, keys: &AwsKeys) -> ConnectorSettings {
    ConnectorSettings::Aws(AwsSettings {
        role: ROLE.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(url.to_owned()),
        method: AwsMethod::AssumeRole,
        external_id: None,
        access_key_id: Some(format!("test:{}", keys.access_key_id)),
        secret_access_key: Some(format!("test:{}", keys.secret_access_key)),
    })
}

fn web_identity(url: &str) -> ConnectorSettings {
    ConnectorSettings::Aws(AwsSettings {
        role: ROLE.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(url.to_owned()),
        method: AwsMethod::WebIdentity,
        external_id: None,
        access_key_id: None,
        secret_access_key: None,
    })
}

fn keys_in(minted: &Minted) -> AwsKeys {
    let fields: Value = serde_json::from_str(minted.credential.as_ref().unwrap().expose()).unwrap();
    let field = |name: &str| fields[name].as_str().unwrap().to_owned();
    assert_eq!(fields["type"], "aws_session");
    let ends = OffsetDateTime::parse(
        &field("expiration"),
        &time::format_description::well_known::Rfc3339,
    );
    assert_eq!(ends.unwrap(), minted.expires_at);
    assert_eq!(minted.names[0], field("access_key_id"));
    assert_eq!(fields.as_object().unwrap().len(), 5);
    AwsKeys {
        access_key_id: field("access_key_id"),
        secret_access_key: field("secret_access_key"),
        session_token: Some(field("session_token")),
    }
}

const WHO_AM_I: &str = "Action=GetCallerIdentity&Version=2011-06-15";

#[tokio::test]
async fn an_assumed_role_keeps_what_connectors_promise_on_a_real_sts() {
    let Some(moto) = Moto::start(true).await else {
        return;
    };
    assert_eq!(moto.role_arn, ROLE);
    let connector = built(
        &keyring().await,
        "aws-prod",
        assume_role(&moto.url, &moto.keys()),
        TIMEOUT,
    )
    .await;
    let subject = Subject {
        connector: connector.as_ref(),
        grant: listing(),
        inexpressible: listing().authority(allow(&["s3:GetObject"], &["arn:aws:s3:::${bucket}"])),
    };
    holds(&subject, async |minted| {
        let keys = keys_in(minted);
        let now = SystemClock::new().now();
        let (status, who) = moto.call(&keys, "sts", WHO_AM_I, now).await.unwrap();
        assert!(
            who.contains(&format!("<Arn>{}</Arn>", minted.names[2])),
            "{who}"
        );
        let (listed, _) = moto.call(&keys, "s3", "", now).await.unwrap();
        let users = "Action=ListUsers&Version=2010-05-08";
        let (denied, _) = moto.call(&keys, "iam", users, now).await.unwrap();
        let spoiled = AwsKeys {
            session_token: Some("another".to_owned()),
            ..keys
        };
        let (refused, _) = moto.call(&spoiled, "s3", "", now).await.unwrap();
        (status, listed, denied, refused / 100) == (200, 200, 403, 4)
    })
    .await;
}

#[tokio::test]
async fn a_key_that_may_not_assume_the_role_is_refused_by_a_real_sts() {
    let Some(moto) = Moto::start(true).await else {
        return;
    };
    let wrong = AwsKeys {
        secret_access_key: "another".to_owned(),
        ..moto.keys()
    };
    let connector = built(
        &keyring().await,
        "aws-prod",
        assume_role(&moto.url, &wrong),
        TIMEOUT,
    )
    .await;
    let error = connector.check().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
    let lease = draw();
    let asked = context(&lease, Duration::from_secs(60));
    let error = connector.mint(&listing().build(), asked).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
    assert!(!error.to_string().contains("another"), "{error}");
}

#[tokio::test]
async fn a_web_identity_keeps_what_connectors_promise_on_a_real_sts() {
    let Some(moto) = Moto::start(false).await else {
        return;
    };
    let connector = built(
        &keyring().await,
        "aws-prod",
        web_identity(&moto.url),
        TIMEOUT,
    )
    .await;
    let subject = Subject {
        connector: connector.as_ref(),
        grant: listing(),
        inexpressible: listing().authority(allow(&["s3:Get?"], &["*"])),
    };
    holds(&subject, async |minted| {
        let now = SystemClock::new().now();
        let keys = keys_in(minted);
        let (status, who) = moto.call(&keys, "sts", WHO_AM_I, now).await.unwrap();
        assert!(who.contains(&minted.names[2]), "{who}");
        status == 200
    })
    .await;
}

async fn asked_of(script: Script, settings: impl Fn(&str) -> ConnectorSettings) -> Asked {
    let sts = ScriptedSts::start(script).await;
    let keyring = keyring().await;
    let connector = built(
        &keyring,
        "aws-prod",
        settings(&sts.url),
        Duration::from_millis(1500),
    )
    .await;
    let lease = draw();
    let asked = context(&lease, Duration::from_secs(90));
    let outcome = connector.mint(&listing().task("t").build(), asked).await;
    Asked {
        lease,
        ends: asked.expires_at,
        outcome,
        requests: sts.requests(),
        keyring,
    }
}

struct Asked {
    lease: LeaseId,
    ends: OffsetDateTime,
    outcome: Result<Minted, ConnectorError>,
    requests: Vec<Vec<(String, String)>>,
    keyring: Arc<Keyring>,
}

impl Asked {
    fn field(&self, name: &str) -> &str {
        let found = self.requests[0].iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }
}

fn some_keys() -> AwsKeys {
    AwsKeys {
        access_key_id: "AKIAEXAMPLE".to_owned(),
        secret_access_key: "example".to_owned(),
        session_token: None,
    }
}

#[tokio::test]
async fn an_assumed_role_is_asked_for_by_the_lease_and_in_the_agents_name() {
    let asked = asked_of(Script::good(), |url| assume_role(url, &some_keys())).await;
    let minted = asked.outcome.as_ref().unwrap();
    let lease = asked.lease.to_string();
    for (name, value) in [
        ("Action", "AssumeRole"),
        ("RoleArn", ROLE),
        ("RoleSessionName", lease.as_str()),
        ("SourceIdentity", "checkout-deployer"),
        ("DurationSeconds", "900"),
        ("Tags.member.1.Key", "agent"),
        ("Tags.member.1.Value", "checkout-deployer"),
        ("Tags.member.2.Key", "lease"),
        ("Tags.member.2.Value", lease.as_str()),
        ("Tags.member.3.Key", "mission"),
        ("Tags.member.3.Value", "deploy-checkout"),
        ("TransitiveTagKeys.member.3", "mission"),
    ] {
        assert_eq!(asked.field(name), value, "{name}");
    }
    assert!(minted.expires_at <= asked.ends);
    assert!(asked.ends - minted.expires_at < Duration::from_secs(1));
    assert_eq!(minted.issued_token_type, AWS_SESSION_TYPE);
    assert_eq!(
        minted.names,
        [
            "ASIAEXAMPLE".to_owned(),
            lease.clone(),
            format!("arn:aws:sts::123456789012:assumed-role/dayfly-deploy/{lease}")
        ]
    );
}

#[tokio::test]
async fn no_session_is_asked_for_without_its_policy() {
    for settings in [
        |url: &str| assume_role(url, &some_keys()),
        |url: &str| web_identity(url),
    ] {
        let asked = asked_of(Script::good(), settings).await;
        let policy: Value = serde_json::from_str(asked.field("Policy")).unwrap();
        let allowed = &policy["Statement"][0];
        assert_eq!(allowed["Effect"], "Allow");
        assert_eq!(allowed["Action"], "s3:ListAllMyBuckets");
        let ends = allowed["Condition"]["DateLessThan"]["aws:CurrentTime"].as_str();
        let ends = OffsetDateTime::parse(
            ends.unwrap(),
            &time::format_description::well_known::Rfc3339,
        )
        .unwrap();
        assert!(ends <= asked.ends && asked.ends - ends < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn the_federation_token_says_who_is_behind_the_session() {
    let asked = asked_of(Script::good(), web_identity).await;
    assert!(asked.outcome.is_ok());
    let lease = asked.lease.to_string();
    assert_eq!(asked.field("Action"), "AssumeRoleWithWebIdentity");
    assert_eq!(asked.field("RoleSessionName"), lease);
    let token = asked.field("WebIdentityToken");
    let verified = |purpose: Purpose| {
        let compact = Compact::parse(token, 8192, &TypRule::Exactly("JWT")).unwrap();
        let set = asked.keyring.verifying(purpose);
        let keys = set.candidates(compact.kid(), compact.alg());
        compact.verify(&keys, &[Algorithm::Rs256, Algorithm::Es256])
    };
    assert!(verified(Purpose::AccessToken).is_err(), "keys are shared");
    let federation = verified(Purpose::Federation("aws-prod".to_owned())).unwrap();
    let mut claims = Value::Object(federation.into_claims());
    let issued = claims["iat"].take().as_i64().unwrap();
    let life = claims["exp"].take().as_i64().unwrap() - issued;
    assert!((1..=60).contains(&life), "{life}");
    assert_eq!(
        claims,
        json!({
            "iss": "https://broker.example/federation/aws-prod",
            "sub": "agent:checkout-deployer:mission:deploy-checkout",
            "aud": "sts.amazonaws.com",
            "iat": null,
            "exp": null,
            "jti": lease,
            "https://aws.amazon.com/tags": {
                "principal_tags": {
                    "agent": ["checkout-deployer"],
                    "lease": [lease],
                    "mission": ["deploy-checkout"],
                },
                "transitive_tag_keys": ["agent", "lease", "mission"],
            },
            "https://aws.amazon.com/source_identity": "checkout-deployer",
        })
    );
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_a_session_nobody_holds() {
    let now = SystemClock::new().now();
    for (what, script) in [
        ("no credentials", Script::good().without("Credentials")),
        ("no key", Script::good().without("SecretAccessKey")),
        ("no token", Script::good().without("SessionToken")),
        ("no expiry", Script::good().without("Expiration")),
        ("no role", Script::good().without("AssumedRoleUser")),
        ("another role", Script::good().role("admin")),
        ("another account", Script::good().account("999999999999")),
        ("another session", Script::good().session("someone")),
        (
            "already over",
            Script::good().expires(now - Duration::from_secs(1)),
        ),
        (
            "too long",
            Script::good().expires(now + Duration::from_secs(3600)),
        ),
        ("no XML", Script::body(200, "{}")),
        ("an empty answer", Script::body(200, "")),
        ("a broken server", Script::error(500, "InternalFailure")),
        ("a gateway", Script::body(502, "bad gateway")),
        ("a dropped connection", Script::hang_up()),
        ("silence", Script::silence()),
    ] {
        let asked = asked_of(script, |url| assume_role(url, &some_keys())).await;
        let error = asked.outcome.unwrap_err();
        assert!(
            matches!(error, ConnectorError::Unknown(_)),
            "{what}: {error}"
        );
        assert_eq!(
            asked.requests.len(),
            1,
            "{what}: asked again, and minted twice"
        );
    }
}

#[tokio::test]
async fn a_plain_no_leaves_nothing_behind() {
    for settings in [
        |url: &str| assume_role(url, &some_keys()),
        |url: &str| web_identity(url),
    ] {
        for (script, expected) in [
            (Script::error(403, "AccessDenied"), "refused"),
            (Script::error(400, "InvalidIdentityToken"), "refused"),
            (Script::error(403, "ExpiredToken"), "refused"),
            (Script::error(400, "Throttling"), "unavailable"),
            (Script::error(400, "IDPCommunicationError"), "unavailable"),
            (Script::error(503, "ServiceUnavailable"), "unavailable"),
            (Script::error(400, "PackedPolicyTooLarge"), "inexpressible"),
            (
                Script::error(400, "MalformedPolicyDocument"),
                "inexpressible",
            ),
        ] {
            let asked = asked_of(script.clone(), settings).await;
            let error = asked.outcome.unwrap_err();
            let got = match error {
                ConnectorError::Refused(_) => "refused",
                ConnectorError::Unavailable(_) => "unavailable",
                ConnectorError::Unknown(_) => "unknown",
                ConnectorError::Inexpressible(_) => "inexpressible",
                ConnectorError::Replaced(_) => "replaced",
            };
            assert_eq!(got, expected, "{script:?}");
            assert_eq!(asked.requests.len(), 1);
        }
    }
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_made() {
    let url = {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", port.local_addr().unwrap())
    };
    let connector = built(
        &keyring().await,
        "aws-prod",
        assume_role(&url, &some_keys()),
        TIMEOUT,
    )
    .await;
    let lease = draw();
    let asked = context(&lease, Duration::from_secs(60));
    let error = connector.mint(&listing().build(), asked).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    let error = connector.check().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_grant_that_does_not_fit_is_refused_before_anything_is_sent() {
    let sts = ScriptedSts::start(Script::good()).await;
    let connector = built(
        &keyring().await,
        "aws-prod",
        web_identity(&sts.url),
        TIMEOUT,
    )
    .await;
    let locations: Vec<String> = (0..80)
        .map(|number| format!("arn:aws:s3:::a-bucket-with-a-long-name-{number}"))
        .collect();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    let lease = draw();
    let asked = context(&lease, Duration::from_secs(60));
    let grant = listing()
        .authority(allow(&["s3:ListBucket"], &locations))
        .build();
    let error = connector.mint(&grant, asked).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Inexpressible(_)), "{error}");
    assert_eq!(sts.requests().len(), 0);
}

#[tokio::test]
async fn a_check_of_a_web_identity_asks_for_no_session() {
    let sts = ScriptedSts::start(Script::error(403, "InvalidClientTokenId")).await;
    let connector = built(
        &keyring().await,
        "aws-prod",
        web_identity(&sts.url),
        TIMEOUT,
    )
    .await;
    connector.check().await.unwrap();
    let requests = sts.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].contains(&("Action".to_owned(), "GetCallerIdentity".to_owned())));
}

/// Everything that is logged on this thread, at the finest level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_finest_log_shows_nothing_that_opens_anything() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::trace!("the log is read");
    let keys = AwsKeys {
        secret_access_key: "the-users-own-secret".to_owned(),
        ..some_keys()
    };
    let assumed = asked_of(Script::good(), |url| assume_role(url, &keys)).await;
    let federated = asked_of(Script::good(), web_identity).await;
    assert!(assumed.outcome.is_ok() && federated.outcome.is_ok());
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("the log is read"));
    for secret in [
        "the-users-own-secret",
        "a/secret+key",
        "a//session+token==",
        federated.field("WebIdentityToken"),
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn a_session_is_as_long_as_its_lease_within_what_sts_issues() {
    let lease = draw();
    for (life, seconds) in [
        (Duration::from_secs(60), 900),
        (Duration::from_secs(900), 900),
        (Duration::from_millis(900_001), 901),
        (Duration::from_secs(3600), 3600),
    ] {
        assert_eq!(session_seconds(&context(&lease, life)), seconds);
    }
}

#[test]
fn an_agent_of_one_letter_has_a_source_identity_of_its_own() {
    let lease = draw();
    let one = grant("aws-prod", "aws_session").agent("a").build();
    assert_eq!(Names::of(&one, &lease).source_identity, "a@");
    let two = grant("aws-prod", "aws_session").agent("ab").build();
    assert_eq!(Names::of(&two, &lease).source_identity, "ab");
}
