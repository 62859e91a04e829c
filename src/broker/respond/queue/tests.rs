use super::*;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

fn is_held(until: Duration) -> bool {
    let state = State {
        until: milliseconds(NOW + until),
        ..State::default()
    };
    state.is_held(NOW)
}

#[test]
fn a_claim_of_a_clock_that_was_ahead_keeps_nobody_from_answering() {
    assert!(is_held(Duration::milliseconds(1)));
    assert!(is_held(CLAIM + Duration::seconds(29)));
    assert!(!is_held(Duration::ZERO));
    assert!(!is_held(CLAIM + Duration::seconds(31)));
    assert!(!is_held(Duration::hours(8)));
}
