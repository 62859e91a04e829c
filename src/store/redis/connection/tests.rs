use super::*;
use crate::ids::tests::is_spread;
use std::sync::Arc;

fn nobody_there() -> Connector {
    let settings = RedisSettings::new(Secret::new("redis://127.0.0.1:1".to_owned()));
    let door = Door::new(&settings, false, Secret::new(String::new()), "0").unwrap();
    let place = Place {
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    Connector::new(Arc::new(door), Way::Fixed(place), Replicas::of(0, false))
}

/// How long it lets nobody through after this many failures.
async fn pause_after(failures: u32) -> Duration {
    let connector = nobody_there();
    connector.trouble.lock().unwrap().failures = failures;
    let before = SystemClock::new().since_boot();
    connector.connect().await.map(drop).unwrap_err();
    let after = SystemClock::new().since_boot();
    let trouble = connector.trouble.lock().unwrap();
    assert_eq!(trouble.failures, failures + 1);
    let pause = trouble.not_before - before;
    pause.saturating_sub(after - before)
}

#[test]
fn a_pause_is_spread_over_its_second_half() {
    for pause in [PAUSE, LONGEST_PAUSE] {
        is_spread(pause / 2, pause, || jitter(pause));
    }
}

#[tokio::test]
async fn those_who_lost_one_server_do_not_come_back_to_it_all_at_once() {
    for (failures, whole) in [
        (0, PAUSE),
        (3, PAUSE * 8),
        (6, PAUSE * 64),
        (40, LONGEST_PAUSE),
    ] {
        let mut pauses = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let pause = pause_after(failures).await;
            assert!(pause <= whole, "{pause:?} of {whole:?}");
            pauses.insert(pause);
        }
        let (first, last) = (pauses.first().unwrap(), pauses.last().unwrap());
        assert!(pauses.len() > 40, "{failures}: {pauses:?}");
        assert!(*last - *first > whole / 4, "{failures}: {pauses:?}");
    }
}

#[tokio::test]
async fn who_comes_back_too_soon_is_told_the_last_failure_and_no_server_is_asked() {
    let connector = nobody_there();
    connector.trouble.lock().unwrap().failures = 40;
    let first = connector.connect().await.map(drop).unwrap_err();
    let again = connector.connect().await.map(drop).unwrap_err();
    assert_eq!(first.to_string(), again.to_string());
    assert_eq!(connector.trouble.lock().unwrap().failures, 41);
}
