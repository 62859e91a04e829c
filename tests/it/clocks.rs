//! A replica whose clock differs from the store's by more than 30 s mints nothing and governs nothing;
//! what must end is ended all the same.

use crate::support::broker::{Setup, TestBroker};
use crate::support::gate::Gate;
use crate::support::process::until;
use crate::support::time::{InItsTime, Manual, Wrong};
use dayfly::broker::Reason;
use dayfly::clock::Clock;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

async fn started(seconds: i64) -> (TestBroker, Arc<Wrong>) {
    let clock = Arc::new(Wrong::default());
    clock.by(seconds);
    let setup = Setup {
        clock: clock.clone(),
        own_time: true,
        ..Setup::default()
    };
    (TestBroker::with(setup).await, clock)
}

/// Set, and seen by the broker.
async fn set(broker: &TestBroker, clock: &Wrong, seconds: i64) {
    clock.by(seconds);
    let wrong = seconds.abs() > 30;
    for _ in 0..100 {
        if broker.composed.broker.ready().await.is_err() == wrong {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", broker.composed.broker.ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_half_a_minute_off_mints_nothing_governs_nothing_and_revokes() {
    for (seconds, which) in [(32, "ours is ahead"), (-32, "ours is behind")] {
        let (broker, clock) = started(0).await;
        let before = broker.issue().await;
        set(&broker, &clock, seconds).await;

        let why = broker.composed.broker.ready().await.unwrap_err();
        assert_eq!(why.len(), 1, "{why:?}");
        assert!(why[0].contains(which), "{why:?}");
        let answer = broker.exchange(&broker.good_form()).await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert_eq!(answer.error(), "temporarily_unavailable");
        assert!(answer.headers.contains_key("retry-after"));
        let governed = broker.composed.broker.govern().await.unwrap_err();
        assert_eq!(governed.reason, Reason::ClockSkewed);

        let asked = json!({
            "selector": { "lease": before["lease_id"] }, "reason": "the test ends it",
        });
        let ended = broker.admin("POST", "/revocations", Some(asked)).await;
        assert_eq!(ended.status, 200, "{}", ended.body);

        set(&broker, &clock, 0).await;
        broker.issue().await;
        let token = before["access_token"].as_str().unwrap();
        assert_eq!(broker.introspect(token).await.body["active"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_less_than_half_a_minute_off_works() {
    for seconds in [-25, 25] {
        let (broker, _clock) = started(seconds).await;
        broker.issue().await;
        broker.composed.broker.govern().await.unwrap();
        let asked = json!({ "selector": { "agent": "deployer" }, "reason": "the test ends it" });
        let ended = broker.admin("POST", "/revocations", Some(asked)).await;
        assert_eq!(ended.status, 200, "{seconds}: {}", ended.body);
    }
}

/// What is over by the store's clock is over, though this replica's would let it live for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_calls_nothing_alive_that_is_over() {
    let (ours, stores) = (Manual::start(), Manual::start());
    let store = Arc::new(Embedded::in_memory().unwrap());
    let broker = TestBroker::with(Setup {
        clock: ours.clone(),
        store: Some(Arc::new(InItsTime::of(store, stores.clone()))),
        own_time: true,
        ..Setup::default()
    })
    .await;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    let known = broker.introspect(token).await.body;
    let left = known["exp"].as_i64().unwrap() - ours.now().unix_timestamp();
    let left = Duration::from_secs(left.try_into().unwrap());
    // Ten seconds before its end, by a clock that is twenty behind the store's.
    stores.advance(left + Duration::from_secs(10));
    ours.advance(left - Duration::from_secs(10));
    until("it is over", || async {
        broker.introspect(token).await.body["active"] == false
    })
    .await;
}

/// Nothing is called over before the store's clock says so, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_years_ahead_ends_no_lease() {
    let (broker, clock) = started(0).await;
    let issued = broker.issue().await;
    let year = 365 * 24 * 3600;
    set(&broker, &clock, year).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    set(&broker, &clock, 0).await;
    let token = issued["access_token"].as_str().unwrap();
    assert_eq!(broker.introspect(token).await.body["active"], true);
    assert!(clock.now().year() < 2100);
}

/// How old a view is, no wall clock says: neither set back nor set forward does it change.
#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_set_makes_no_view_older_or_younger() {
    for seconds in [-25, 25] {
        let clock = Arc::new(Wrong::default());
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
        let gate = Gate::before(&store);
        let broker = TestBroker::with(Setup {
            clock: clock.clone(),
            store: Some(gate.clone()),
            own_time: true,
            ..Setup::default()
        })
        .await;
        let issued = broker.issue().await;
        let token = issued["access_token"].as_str().unwrap();
        // Nothing is read on from here; what was read is young enough for a moment.
        gate.hold_tails();
        clock.by(seconds);
        assert_eq!(broker.introspect(token).await.status, 200, "{seconds}");
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(broker.introspect(token).await.status, 503, "{seconds}");
        assert_eq!(broker.exchange(&broker.good_form()).await.status, 503);
        gate.let_tails();
        until("it is read on", || async {
            broker.introspect(token).await.status == 200
        })
        .await;
    }
}
