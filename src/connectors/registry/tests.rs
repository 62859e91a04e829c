use super::super::AwsSettings;
use super::super::RevocationClass;
use super::super::conformance::{context, draw, grant, keyring};
use super::*;
use crate::clock::SystemClock;
use std::collections::VecDeque;
use std::sync::Mutex;
use time::OffsetDateTime;

/// A target that answers as it is told, standing behind the real guard.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Late,
    Unavailable,
    Unknown,
    Refused,
    Replaced,
    Good,
    OutlivesItsLease,
}

#[async_trait]
impl Connector for Arc<Scripted> {
    fn promises(&self) -> Promises {
        Promises {
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(3600),
            class: RevocationClass::Expiry,
            dead_within: None,
            local: false,
            named_by_lease: true,
            expires_by_itself: true,
            status_list: false,
            detail_type: "aws_session",
        }
    }

    /// `Good`: from memory.
    async fn beforehand(&self) -> Result<Option<Handle>, ConnectorError> {
        *self.asked.lock().unwrap() += 1;
        let answer = self.answers.lock().unwrap().pop_front().unwrap();
        match answer {
            Answer::Good => Ok(Some(Secret::new(vec![7]))),
            Answer::Late => std::future::pending().await,
            _ => Err(ConnectorError::Unavailable("as told".to_owned())),
        }
    }

    async fn mint(&self, _: &Grant, context: MintContext<'_>) -> Result<Minted, ConnectorError> {
        *self.asked.lock().unwrap() += 1;
        let answer = self.answers.lock().unwrap().pop_front().unwrap();
        let said = || "as told".to_owned();
        let expires_at = match answer {
            Answer::Late => std::future::pending().await,
            Answer::Unavailable => return Err(ConnectorError::Unavailable(said())),
            Answer::Unknown => return Err(ConnectorError::Unknown(said())),
            Answer::Refused => return Err(ConnectorError::Refused(said())),
            Answer::Replaced => return Err(ConnectorError::Replaced(said())),
            Answer::Good => context.expires_at,
            Answer::OutlivesItsLease => context.expires_at + Duration::from_micros(1),
        };
        Ok(Minted {
            token: None,
            credential: Some(Secret::new("{}".to_owned())),
            issued_token_type: "test",
            handle: None,
            names: Vec::new(),
            expires_at,
            token_sha256: None,
            signing_key: None,
        })
    }

    async fn end(&self, _: &LeaseId, _: Option<&Handle>) -> Result<Ended, ConnectorError> {
        std::future::pending().await
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        std::future::pending().await
    }
}

/// Time that moves when it is told to.
#[derive(Debug, Default)]
struct HandClock(Mutex<Duration>);

impl Clock for HandClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + self.since_boot()
    }
    fn since_boot(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

struct World {
    guarded: Guarded,
    script: Arc<Scripted>,
    clock: Arc<HandClock>,
}

fn world(answers: &[Answer]) -> World {
    let script = Arc::new(Scripted {
        answers: Mutex::new(answers.iter().copied().collect()),
        asked: Mutex::new(0),
    });
    let clock = Arc::new(HandClock::default());
    let guarded = Guarded {
        target: "aws-prod".parse().unwrap(),
        inner: Box::new(script.clone()),
        breaker: Breaker::default(),
        clock: clock.clone(),
        call_timeout: Duration::from_millis(50),
    };
    World {
        guarded,
        script,
        clock,
    }
}

impl World {
    async fn mint(&self) -> Result<Minted, ConnectorError> {
        let lease = draw();
        let grant = grant("aws-prod", "aws_session").build();
        let asked = context(&lease, Duration::from_secs(60));
        self.guarded.mint(&grant, asked).await
    }

    fn asked(&self) -> u32 {
        *self.script.asked.lock().unwrap()
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_an_unknown_outcome() {
    let error = world(&[Answer::Late]).mint().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unknown(_)), "{error}");
}

#[tokio::test]
async fn nothing_is_sent_after_the_lease_is_too_old_to_mint_for() {
    let world = world(&[Answer::Late]);
    let lease = draw();
    let grant = grant("aws-prod", "aws_session").build();
    let asked = context(&lease, Duration::from_secs(60));
    let late = MintContext {
        mint_by: asked.now,
        ..asked
    };
    let error = world.guarded.mint(&grant, late).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn a_credential_that_outlives_its_lease_is_not_handed_out() {
    let error = world(&[Answer::OutlivesItsLease]).mint().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unknown(_)), "{error}");
    assert!(world(&[Answer::Good]).mint().await.is_ok());
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_not_asked_for_a_while() {
    use Answer::{Good, Late, Unavailable, Unknown};
    let world = world(&[Unavailable, Unknown, Late, Unavailable, Unavailable, Good]);
    for _ in 0..5 {
        assert!(world.mint().await.is_err());
    }
    let error = world.mint().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    assert_eq!(world.asked(), 5, "asked although the breaker is open");
    *world.clock.0.lock().unwrap() += Duration::from_secs(10);
    assert!(world.mint().await.is_ok());
}

#[tokio::test]
async fn a_target_that_is_not_asked_shows_in_the_metrics_until_it_answers() {
    use Answer::{Good, Unavailable};
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let shows = |open: u8| {
        let line = format!("dayfly_breaker_open{{target=\"aws-prod\"}} {open}");
        handle.render().lines().any(|found| found == line)
    };
    let mut answers = vec![Unavailable; 5];
    answers.push(Good);
    let world = world(&answers);
    for _ in 0..4 {
        assert!(world.mint().await.is_err());
    }
    assert!(shows(0), "{}", handle.render());
    assert!(world.mint().await.is_err());
    assert!(shows(1), "{}", handle.render());
    *world.clock.0.lock().unwrap() += Duration::from_secs(10);
    assert!(world.mint().await.is_ok());
    assert!(shows(0), "{}", handle.render());
}

#[tokio::test]
async fn what_is_known_beforehand_is_not_asked_of_a_target_that_does_not_answer() {
    use Answer::{Good, Late, Unavailable};
    let world = world(&[
        Late,
        Unavailable,
        Unavailable,
        Unavailable,
        Unavailable,
        Good,
        Unavailable,
    ]);
    for _ in 0..5 {
        let error = world.guarded.beforehand().await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    }
    assert!(world.guarded.beforehand().await.is_err());
    assert_eq!(world.asked(), 5, "asked although the breaker is open");
    *world.clock.0.lock().unwrap() += Duration::from_secs(10);
    assert!(world.guarded.beforehand().await.unwrap().is_some());
    // What it remembers does not say that the target is back: the first one to ask it finds that out.
    assert!(world.mint().await.is_err());
    assert!(world.mint().await.is_err());
    assert_eq!(world.asked(), 7, "asked although the breaker is open");
}

#[tokio::test]
async fn a_target_that_refuses_is_there() {
    use Answer::{Good, Refused, Unavailable};
    let mut answers = vec![Unavailable; 4];
    answers.push(Refused);
    answers.extend([Unavailable; 4]);
    answers.push(Good);
    let world = world(&answers);
    for _ in 0..9 {
        assert!(world.mint().await.is_err());
    }
    assert!(world.mint().await.is_ok());
}

#[tokio::test]
async fn a_target_that_was_replaced_is_there() {
    use Answer::{Good, Replaced, Unavailable};
    let mut answers = vec![Unavailable; 4];
    answers.extend([Replaced; 6]);
    answers.extend([Unavailable; 4]);
    answers.push(Good);
    let world = world(&answers);
    for _ in 0..14 {
        assert!(world.mint().await.is_err());
    }
    assert!(world.mint().await.is_ok());
}

#[tokio::test]
async fn an_end_that_is_not_answered_is_for_the_sweeper_to_repeat() {
    let world = world(&[]);
    let error = world.guarded.end(&draw(), None).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    let error = world.guarded.check().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
}

fn setup(keyring: Arc<Keyring>) -> Setup<'static> {
    Setup {
        keyring,
        clock: Arc::new(HandClock::default()),
        broker_url: "https://broker.example",
        fence_view_max_age: Duration::from_secs(2),
        call_timeout: Duration::from_secs(5),
        resolve: &|reference| Err(format!("`{reference}` is not set")),
    }
}

fn parsed(text: &str) -> ConnectorSettings {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn every_target_has_its_own_connector_and_no_other_has_one() {
    let targets = [
        (
            "orders".parse().unwrap(),
            parsed(r#"{"kind":"access_token"}"#),
        ),
        ("reports".parse().unwrap(), parsed(r#"{"kind":"api_key"}"#)),
    ];
    let connectors = Connectors::build(&targets, &setup(keyring().await)).unwrap();
    for (target, settings) in &targets {
        let promises = connectors.get(target).unwrap().promises();
        assert_eq!(promises, settings.promises(Duration::from_secs(2)));
        assert!(
            settings
                .vocabulary()
                .detail_types()
                .contains(&promises.detail_type)
        );
        assert_eq!(promises.dead_within, Some(Duration::from_secs(2)));
    }
    assert!(connectors.get(&"other".parse().unwrap()).is_none());
    assert_eq!(connectors.iter().count(), 2);
    assert!(connectors.federated().is_empty());
}

#[tokio::test]
async fn every_problem_is_named_at_once() {
    let aws = parsed(
        r#"{"kind":"aws","role":"arn:aws:iam::111122223333:role/a","method":"assume_role",
            "access_key_id":"env:ID","secret_access_key":"env:KEY"}"#,
    );
    let ConnectorSettings::Aws(good) = &aws else {
        panic!("{aws:?}");
    };
    let bad = AwsSettings {
        role: "dayfly".to_owned(),
        region: String::new(),
        ..good.clone()
    };
    let targets = [
        ("orders".parse().unwrap(), parsed(r#"{"kind":"api_key"}"#)),
        ("orders".parse().unwrap(), parsed(r#"{"kind":"api_key"}"#)),
        ("keys".parse().unwrap(), aws.clone()),
        ("shape".parse().unwrap(), ConnectorSettings::Aws(bad)),
    ];
    let problems = Connectors::build(&targets, &setup(keyring().await)).unwrap_err();
    let names: Vec<_> = problems.iter().map(|p| p.target.as_str()).collect();
    assert_eq!(names, ["orders", "keys", "shape", "shape"], "{problems:?}");
    assert!(problems[1].problem.contains("env:ID"), "{problems:?}");
}

#[tokio::test]
async fn a_federated_target_has_keys_of_its_own_before_the_first_mint() {
    let keyring = keyring().await;
    let aws = r#"{"kind":"aws","role":"arn:aws:iam::111122223333:role/a"}"#;
    let targets = ["one", "two"].map(|name| (name.parse().unwrap(), parsed(aws)));
    let connectors = Connectors::build(&targets, &setup(keyring.clone())).unwrap();
    assert_eq!(connectors.federated().len(), 2);
    let keys = |target: &str| keyring.verifying(Purpose::Federation(target.to_owned()));
    assert!(keys("one").is_empty());
    let now = SystemClock::new().now();
    connectors.prepare(now).await.unwrap();
    let (one, two) = (keys("one"), keys("two"));
    let access = keyring.verifying(Purpose::AccessToken);
    let seen: std::collections::BTreeSet<_> = [&one, &two, &access]
        .iter()
        .flat_map(|set| set.keys())
        .map(|key| key.thumbprint().to_owned())
        .collect();
    assert_eq!(seen.len(), 3, "no key serves two purposes");
}

#[tokio::test]
async fn a_target_that_was_removed_still_ends_what_it_minted_and_mints_no_more() {
    let (target, other): (TargetId, TargetId) = ("gone".parse().unwrap(), "new".parse().unwrap());
    let keyring = keyring().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let setup = Setup {
        keyring,
        clock,
        broker_url: "https://broker.example",
        fence_view_max_age: Duration::from_secs(1),
        call_timeout: Duration::from_secs(1),
        resolve: &|text| Err(text.to_owned()),
    };
    let of = |target: &TargetId| {
        Connectors::build(&[(target.clone(), ConnectorSettings::ApiKey {})], &setup).unwrap()
    };
    let second = of(&other).after(&of(&target));
    assert!(second.get(&target).is_none());
    assert!(second.ender(&target).is_some());
    assert!(second.ender(&other).is_some());
    let third = of(&other).after(&second);
    assert!(third.ender(&target).is_some(), "after two reloads, too");
    let back = of(&target).after(&third);
    assert!(back.get(&target).is_some());
    assert!(back.ender(&other).is_some());
}
