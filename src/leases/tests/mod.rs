//! The life of a lease, undisturbed and disturbed.

mod bench;
mod closing;
mod crash;
mod doubt;
mod faults;
mod forms;
mod front;
mod handing_on;
mod looking;
mod histories;
mod opening;
mod status;
mod sweeping;
mod watched;

use super::state::{Event, STATES, State, Why};

#[test]
fn the_table_of_states_is_this_one() {
    let events = [
        Event::Activate,
        Event::ActivateDead,
        Event::Refused,
        Event::LostNamed,
        Event::LostUnnamed,
        Event::End,
        Event::EndHere(Why::Released),
        Event::TimeUp,
        Event::Confirmed(Why::Revoked),
        Event::Outlived,
    ];
    let table: Vec<String> = STATES
        .iter()
        .map(|state| {
            let steps: Vec<&str> = events
                .iter()
                .map(|event| state.after(*event).map_or("-", State::as_str))
                .collect();
            format!("{}: {}", state.as_str(), steps.join(" "))
        })
        .collect();
    assert_eq!(
        table,
        [
            "reserved: active revoking never_minted revoking unclaimed revoking released - - -",
            "active: - - - - - revoking released expired - -",
            "revoking: revoking revoking - - unclaimed - - - revoked lapsed",
            "unclaimed: revoking revoking - - - - - - - lapsed",
            "expired: revoking revoking - - - - - - - -",
            "revoked: revoking revoking - - - - - - - -",
            "released: revoking revoking - - - - - - - -",
            "lapsed: revoking revoking - - - - - - - -",
            "never_minted: revoking revoking - - - - - - - -",
        ]
    );
}

#[test]
fn only_the_downstreams_word_or_its_age_closes_what_is_being_ended() {
    for why in [
        Why::Released,
        Why::Revoked,
        Why::Fenced,
        Why::DecisionLost,
        Why::Expired,
        Why::NeverHandedOut,
    ] {
        let closed = State::Revoking.after(Event::Confirmed(why)).unwrap();
        assert!(!closed.is_open());
        assert_eq!(closed == State::Released, why == Why::Released);
        assert_eq!(State::Revoking.after(Event::EndHere(why)), None);
    }
    assert_eq!(State::Revoking.after(Event::TimeUp), None);
}
