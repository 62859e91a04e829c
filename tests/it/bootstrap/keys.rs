//! Key sets under attack, through a whole exchange: what a rotation, a theft and an outage at the
//! platform mean for whoever holds its tokens.

use crate::support::broker::{Answer, Setup, TestBroker, with};
use crate::support::issuer::Issuer;
use crate::support::time::Manual;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use dayfly::jose::RemoteKeysSettings;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

struct World {
    broker: TestBroker,
    clock: Arc<Manual>,
}

impl World {
    async fn start() -> Self {
        let clock = Manual::start();
        let setup = Setup {
            clock: clock.clone(),
            ..Setup::default()
        };
        Self {
            broker: TestBroker::with(setup).await,
            clock,
        }
    }

    fn issuer(&self) -> &Issuer {
        &self.broker.issuer
    }

    /// A platform token that outlives every cache.
    fn token(&self) -> String {
        let mut claims = self.broker.platform_claims();
        claims["exp"] = json!(self.broker.now() + 3600);
        self.issuer().sign(&claims)
    }

    async fn ask(&self, token: &str) -> Answer {
        let broker = &self.broker;
        let form = with(broker.good_form(), "subject_token", token);
        let intent = broker.sign_intent(&broker.intent_claims(token));
        broker.exchange(&with(form, "intent", &intent)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_rotates_between_two_jobs_is_followed_at_once() {
    let world = World::start().await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    world.clock.advance(Duration::from_secs(31));
    world.issuer().rotate();
    let fetched = world.issuer().asked();
    let answer = world.ask(&world.token()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(world.issuer().asked(), fetched + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_key_names_make_the_broker_fetch_once_in_thirty_seconds() {
    let world = World::start().await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    world.clock.advance(Duration::from_secs(31));
    let fetched = world.issuer().asked();
    let key = world.issuer().key();
    for place in 0..20 {
        let kid = format!("made-up-{place}");
        let token = key
            .sign("JWT", Some(&kid), &world.broker.platform_claims(), false)
            .unwrap();
        let answer = world.ask(&token).await;
        assert_refused(&answer, Reason::InvalidToken, &kid);
    }
    assert_eq!(world.issuer().asked(), fetched + 1);
    // Whoever has a good token is not kept out by it.
    assert_eq!(world.ask(&world.token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_withdrawn_key_is_out_though_it_was_verified_before() {
    let world = World::start().await;
    let token = world.token();
    assert_eq!(world.ask(&token).await.status, 200);
    // Stolen, noticed, withdrawn: the new set does not have it.
    world.issuer().rotate();
    world
        .clock
        .advance(RemoteKeysSettings::default().refresh_after);
    let answer = world.ask(&token).await;
    assert_refused(&answer, Reason::InvalidToken, "a withdrawn key");
    assert_eq!(world.ask(&world.token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_borne_for_an_hour_and_then_nobody_gets_in() {
    let world = World::start().await;
    assert_eq!(world.ask(&world.token()).await.status, 200);
    world.issuer().down(true);
    let settings = RemoteKeysSettings::default();
    world
        .clock
        .advance(settings.max_age - Duration::from_secs(1));
    let answer = world.ask(&world.token()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    world.clock.advance(Duration::from_secs(1));
    let token = world.token();
    let answer = world.ask(&token).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "keys of an hour ago");
    world.issuer().down(false);
    world.clock.advance(settings.retry_after);
    assert_eq!(world.ask(&token).await.status, 200, "nothing was spent");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stolen_platform_key_signed_is_ended_and_refused_by_its_thumbprint() {
    let world = World::start().await;
    let issued = world.ask(&world.token()).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    let bearer = issued.body["access_token"].as_str().unwrap();
    assert!(world.broker.is_active(bearer).await);
    let stolen = world.issuer().key().thumbprint().to_owned();
    let receipt = world.broker.revoke(json!({ "issuer_key": stolen })).await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    assert!(!world.broker.is_active(bearer).await);
    let answer = world.ask(&world.token()).await;
    assert_refused(&answer, Reason::Held, "the same key again");
    // The platform's next key is not concerned.
    world.issuer().rotate();
    world.clock.advance(Duration::from_secs(31));
    assert_eq!(world.ask(&world.token()).await.status, 200);
}
