//! A cluster that is asked about its tokens: what is deleted there gets nothing here.

use super::{JWT, agent, ask};
use crate::support::broker::{Answer, Setup, TestBroker};
use crate::support::kube::Cluster;
use crate::support::process::secret_file;
use crate::support::time::Manual;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::clock::Clock as _;
use dayfly::http::TlsFiles;
use dayfly::identity::review::{ANSWER_KEPT, TOKEN_KEPT};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const POD: &str = "5e0bd49b-f040-43b0-99b7-22765a53f7f3";
const ACCOUNT: &str = "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798";

struct World {
    broker: TestBroker,
    cluster: Cluster,
    clock: Arc<Manual>,
}

impl World {
    async fn start() -> Self {
        Self::with(Cluster::start().await, "").await
    }

    /// `review`: what `token_review` has beside the URL and the token.
    async fn with(cluster: Cluster, review: &str) -> Self {
        let clock = Manual::start();
        let more = format!(
            r#"
[issuer.kubernetes]
url = "{}"
token_review = {{ url = "{}", token = "file:broker.token"{review} }}
"#,
            cluster.issuer.url, cluster.url
        ) + &agent("pod", r#"{ kubernetes = "shop/checkout" }"#, "");
        let setup = Setup {
            more,
            files: vec![("broker.token".to_owned(), "broker-token-1".to_owned())],
            clock: clock.clone(),
            ..Setup::default()
        };
        Self {
            broker: TestBroker::with(setup).await,
            cluster,
            clock,
        }
    }

    fn claims(&self) -> Value {
        self.cluster.claims(self.broker.now(), &self.broker.url)
    }

    fn token(&self) -> String {
        self.cluster.issue(&self.claims())
    }

    async fn ask(&self, token: &str) -> Answer {
        ask(&self.broker, "pod", token, JWT).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_credential_and_its_cluster_is_asked_every_five_seconds() {
    let world = World::start().await;
    let token = world.token();
    for _ in 0..3 {
        let answer = world.ask(&token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert_eq!(world.cluster.reviews(), 1);
    // The keys came from the API server, too, and from nobody else.
    assert_eq!(world.cluster.issuer.asked(), 0);
    world.clock.advance(ANSWER_KEPT);
    assert_eq!(world.ask(&token).await.status, 200);
    assert_eq!(world.cluster.reviews(), 2);
    // Another token of the same pod is another question.
    let mut claims = world.claims();
    claims["jti"] = json!("another");
    let other = world.cluster.issue(&claims);
    assert_eq!(world.ask(&other).await.status, 200);
    assert_eq!(world.cluster.reviews(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_or_account_gets_nothing_after_five_seconds() {
    for gone in [POD, ACCOUNT] {
        let world = World::start().await;
        let token = world.token();
        assert_eq!(world.ask(&token).await.status, 200);
        world.cluster.delete(gone);
        world.clock.advance(ANSWER_KEPT);
        for _ in 0..3 {
            let answer = world.ask(&token).await;
            assert_refused(&answer, Reason::InvalidToken, gone);
        }
        // The no is remembered for as long as a yes: a holder cannot make the broker ask and ask.
        assert_eq!(world.cluster.reviews(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_about_this_very_caller_is_a_no() {
    type Spoil = fn(&mut Value);
    let spoils: [(&str, Spoil); 11] = [
        ("not authenticated", |a| {
            a["status"]["authenticated"] = json!(false);
        }),
        ("a text", |a| a["status"]["authenticated"] = json!("true")),
        ("absent", |a| {
            a["status"].as_object_mut().unwrap().remove("authenticated");
        }),
        ("an error beside it", |a| {
            a["status"]["error"] = json!("cannot be checked");
        }),
        ("no audiences", |a| {
            a["status"].as_object_mut().unwrap().remove("audiences");
        }),
        ("others' audiences", |a| {
            a["status"]["audiences"] = json!(["https://kubernetes.default.svc"]);
        }),
        ("another user", |a| {
            a["status"]["user"]["username"] = json!("system:serviceaccount:shop:other");
        }),
        ("another account of this name", |a| {
            a["status"]["user"]["uid"] = json!("x");
        }),
        ("no uid", |a| {
            a["status"]["user"].as_object_mut().unwrap().remove("uid");
        }),
        ("another pod", |a| {
            a["status"]["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["x"]);
        }),
        ("no pod", |a| {
            a["status"]["user"].as_object_mut().unwrap().remove("extra");
        }),
    ];
    let world = World::start().await;
    for (place, (what, spoil)) in spoils.into_iter().enumerate() {
        world.cluster.spoils(spoil);
        let mut claims = world.claims();
        claims["jti"] = json!(format!("token-{place}"));
        let answer = world.ask(&world.cluster.issue(&claims)).await;
        assert_refused(&answer, Reason::InvalidToken, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_gives_no_answer_is_waited_for_and_nobody_gets_in() {
    let world = World::start().await;
    let token = world.token();
    for instead in [
        (500, "{}"),
        (401, "{}"),
        (403, "{}"),
        (302, ""),
        (201, "not JSON"),
        (201, r#"{"kind":"Status"}"#),
        (201, r#"{"kind":"TokenReview"}"#),
    ] {
        world.cluster.says_instead(Some(instead));
        let answer = world.ask(&token).await;
        assert_refused(&answer, Reason::IssuerUnavailable, &format!("{instead:?}"));
    }
    let long = format!("{{\"kind\":\"TokenReview\"}}{}", " ".repeat(300 * 1024));
    world.cluster.says_instead(Some((201, &long)));
    let answer = world.ask(&token).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "an answer without end");
    // None of these was remembered, and nothing is spent.
    world.cluster.says_instead(None);
    assert_eq!(world.ask(&token).await.status, 200);
    world.cluster.stop();
    world.clock.advance(ANSWER_KEPT);
    let answer = world.ask(&token).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "nobody there");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_may_come_from_the_clusters_public_issuer_instead() {
    let cluster = Cluster::start().await;
    let keys = format!("{}/jwks", cluster.issuer.url);
    let world = World::with(cluster, &format!(" }}\nkeys = \"{keys}\"\nfacts = {{")).await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    assert_eq!(world.cluster.issuer.asked(), 1);
    assert_eq!(world.cluster.reviews(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_make_the_broker_ask() {
    let world = World::start().await;
    let mut claims = world.claims();
    claims["aud"] = json!(["https://another.example"]);
    let foreign = world.cluster.issue(&claims);
    let forged = crate::support::forge::flipped(&world.token());
    for token in [foreign, forged] {
        let answer = world.ask(&token).await;
        assert_refused(&answer, Reason::InvalidToken, "a stranger");
    }
    assert_eq!(world.cluster.reviews(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_own_token_is_read_again_when_it_was_renewed() {
    let world = World::start().await;
    let token = world.token();
    assert_eq!(world.ask(&token).await.status, 200);
    world.cluster.renew_reviewer("broker-token-2");
    secret_file(
        &world.broker.folder.path().join("broker.token"),
        "broker-token-2",
    );
    world.clock.advance(ANSWER_KEPT);
    let answer = world.ask(&token).await;
    assert_refused(
        &answer,
        Reason::IssuerUnavailable,
        "the old one is still in use",
    );
    world.clock.advance(TOKEN_KEPT);
    assert_eq!(world.ask(&token).await.status, 200);
    // One that is not there any more is no token.
    std::fs::remove_file(world.broker.folder.path().join("broker.token")).unwrap();
    world.clock.advance(TOKEN_KEPT);
    let answer = world.ask(&token).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "no token");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_clusters_own_authority_vouches_for_its_api_server() {
    let folder = tempfile::tempdir().unwrap();
    let (own, ca) = certificate(folder.path(), "own");
    let (_, other) = certificate(folder.path(), "other");
    for (ca, is_trusted) in [(ca, true), (other, false)] {
        let cluster = Cluster::with(Some(own.clone())).await;
        let world = World::with(cluster, &format!(", ca = \"{ca}\"")).await;
        let answer = world.ask(&world.token()).await;
        if is_trusted {
            assert_eq!(answer.status, 200, "{}", answer.body);
        } else {
            assert_refused(&answer, Reason::IssuerUnavailable, "another authority");
            assert_eq!(world.cluster.reviews(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_real_time_a_deleted_pod_is_out_within_five_seconds() {
    let world = World::start().await;
    let token = world.token();
    assert_eq!(world.ask(&token).await.status, 200);
    world.cluster.delete(POD);
    let clock = dayfly::clock::SystemClock::new();
    let begun = clock.since_boot();
    // The broker's clock stands: even then nothing is remembered for longer.
    while world.ask(&token).await.status == 200 {
        assert!(
            (clock.since_boot() - begun) < Duration::from_secs(8),
            "still in"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A certificate for `localhost`, and the file of whoever vouches for it: itself.
fn certificate(folder: &Path, name: &str) -> (TlsFiles, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    secret_file(&key, &made.signing_key.serialize_pem());
    let path = certificate.display().to_string();
    (
        TlsFiles {
            certificate,
            key,
            ask_client: false,
        },
        path,
    )
}
